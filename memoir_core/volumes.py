"""NIfTI files, checked, and one float16 memory map per modality of them, shared by all runs."""

from __future__ import annotations

import gzip
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from filelock import FileLock
from nilearn import datasets, image
from scipy import ndimage
from torch import Generator, Tensor
from tqdm import tqdm

from . import files
from .tables import PATHS

# For one network of its own, MONAI imports transformers if found: half of a kernel's start.
sys.modules.setdefault("transformers", None)  # type: ignore[arg-type]
from monai import transforms  # noqa: E402

_ = sys.modules["transformers"] or sys.modules.pop("transformers")

GRID, GRID_MM = (91, 109, 91), 2.0  # MNI, the published input
AFFINE = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])  # of it, RAS
DEEP = np.mgrid[-36:37:8, -70:37:8, -20:45:8, 1:2].reshape(4, -1)  # mm inside all brains, and 1
MEASURES = {  # what a caption says of an image, and where it is measured
    "t1": ("ventricle_share", np.s_[30:61, 38:81, 32:54]),  # mm: x -30..30, y -50..35, z -8..35
    "fa": ("fornix_fa", np.s_[41:50, 48:69, 31:49]),  # mm: x -8..8, y -30..10, z -10..25
}
TURN, ZOOM, SHIFT = 1.0, 0.01, 0.005  # what registration leaves: degrees, of the size, of the grid
MOST, SPARE = 2**29, 2**20  # bytes of a volume (512^3 floats), and after its last voxel


class VolumeError(ValueError):
    """An image file cannot be used; the message names the file and the mend."""


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one NIfTI file: float32 (X, Y, Z) in RAS, and its affine; NaN outside the brain is 0.

    Raises VolumeError if it is unreadable, too large, truncated or (where compressed) changed by
    a bit; not 3D; NaN in the brain; or if its header does not place it on MNI space.
    """
    if not Path(path).is_file():  # a device or a pipe may never end
        raise VolumeError(f"{path} is missing, or no regular file; complete the download")
    try:
        with open(path, "rb") as file:
            return _decode(file)
    except VolumeError as error:
        raise VolumeError(f"{path} {error}") from None
    except Exception as error:  # nibabel and gzip raise many kinds: all mean the file
        what = f"cannot be read as NIfTI ({type(error).__name__}: {error})"[:140]
        mend = "download it again, or save it as one .nii.gz"
        raise VolumeError(f"{path} {what}; {mend}") from error


def _decode(file: Any) -> tuple[np.ndarray, np.ndarray]:
    packed, size = file.peek(2)[:2] == b"\x1f\x8b", Path(file.name).stat().st_size
    stream: Any = gzip.GzipFile(fileobj=file) if packed else file
    loaded: Any = nibabel.Nifti1Image.from_stream(stream)  # the header
    shape, dtype = loaded.shape, loaded.get_data_dtype()
    if len(shape) < 3 or {*shape[3:]} - {1} or dtype.kind not in "iuf":
        raise VolumeError(f"has shape {shape} of {dtype}, not one 3D volume; keep one (fslroi)")
    promised = loaded.dataobj.offset + np.prod(shape, dtype=object) * dtype.itemsize
    most = MOST * min(4, dtype.itemsize) // 4  # bytes grow to floats
    if promised > min(most, size * (1032 if packed else 1)):  # gzip packs no denser
        what = f"promises {promised} bytes in its header, too many or more than it has"
        raise VolumeError(f"{what}; download it again, or save it as one .nii.gz")
    data = np.array(loaded.dataobj, np.float32).reshape(shape[:3])
    if len(stream.read(SPARE + 1)) > SPARE:  # compares gzip's checksum, which stands last
        raise VolumeError("goes on long after its last voxel; convert it again")
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(data, loaded.affine))
    data, at = np.ascontiguousarray(turned.dataobj), np.linalg.inv(turned.affine) @ DEEP
    seen = ndimage.map_coordinates(np.isfinite(data) * 1.0, at[:3], order=0).mean()
    if not seen > 0.95:
        what = f"holds no value (NaN, or nothing) in {1 - seen:.0%} of the middle of an MNI brain"
        raise VolumeError(f"{what}; register it to the 2 mm MNI grid, or fslmaths in -nan out")
    return np.nan_to_num(data, copy=False, nan=0, posinf=0, neginf=0), turned.affine


def on_grid(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Put an image where its header says: float32 `GRID`; as it is, if it lies there already."""
    if data.shape == GRID and np.allclose(affine, AFFINE, atol=1e-3):
        return data.astype(np.float32)
    # Finer voxels are smoothed, in mm: enough against aliasing, and hardly a blur.
    wide = np.sqrt(np.maximum(GRID_MM**2 - (affine[:3, :3] ** 2).sum(axis=0), 0)) / 2
    smooth: Any = image.smooth_img(nibabel.Nifti1Image(data, affine), wide)
    return image.resample_img(smooth, AFFINE, GRID, "linear").get_fdata(dtype=np.float32)


@dataclass(frozen=True)
class Volumes:
    """Preprocessed volumes, float16, 0 outside the brain."""

    t1: np.ndarray  # (n, X, Y, Z): row i is case i; mean 0, SD 1 in its brain
    fa: np.ndarray  # (m, X, Y, Z): the quantity itself, 0 to 1
    inside: np.ndarray  # (X, Y, Z) bool: one mask for every FA, see `brain_mask`
    fa_row: np.ndarray  # (n,) row of each case in `fa`, -1 where it has none
    measures: pd.DataFrame  # n rows: see `measure`; `t1_share`, `fa_share` are not 0
    digest: str = ""  # of all of these


def lift(data: np.ndarray) -> np.ndarray:
    """Shift a T1: background to 0, all brain above it, also if it was standardised to mean 0."""
    outside, (low, high) = np.median(data[[0, -1]]), np.percentile(data, [0.5, 99.5])
    if outside - low < 0.1 * (high - outside):
        return data - outside
    inside = ndimage.binary_fill_holes(np.abs(data - outside) > 0.001 * (high - low))
    return np.where(inside, (data - low).clip(0) + 0.1 * (high - low), 0)


def brain(volume: np.ndarray) -> np.ndarray:
    """Where a volume is above 5 % of its brightest, outliers (Tukey's outer fence) left out."""
    rest = volume[volume > 0.05 * np.percentile(volume, 98)]
    low, high = np.percentile(rest, [25, 75])
    return volume > 0.05 * rest[rest <= high + 3 * (high - low)].max()


def clip_brain(volume: np.ndarray) -> np.ndarray:
    """Scale percentiles 1 to 99 of the `brain` to 0.001 to 1.001; outside, 0."""
    inside = brain(volume)
    low, high = torch.from_numpy(volume[inside]).quantile(torch.tensor([0.01, 0.99])).numpy()
    return np.where(inside, ((volume - low) / (high - low)).clip(0, 1) + np.float32(1e-3), 0)


def measure(volume: np.ndarray, kind: str) -> float:
    """Say one thing of a volume on `GRID`, in a box: 't1' around the ventricles, the share darker
    than 0.45 of white matter (95th percentile of the brain); 'fa' around the fornix, which
    Alzheimer's disease thins early (doi:10.3389/fnagi.2014.00241), the mean FA above 0.2, or NaN.
    """
    part = volume[MEASURES[kind][1]]
    if kind == "t1":
        return float((part < 0.45 * np.percentile(volume[brain(volume)], 95)).mean())
    return float(part[part > 0.2].mean()) if (part > 0.2).any() else float("nan")


@cache
def brain_mask(shape: tuple[int, int, int]) -> np.ndarray:
    """The MNI brain (nilearn's mask) on the 2 mm grid of `shape` blocks: (X, Y, Z) bool, RAS."""
    mask = datasets.load_mni152_brain_mask(resolution=2).get_fdata()[4:95, 4:113, :91]
    return torch.nn.AdaptiveAvgPool3d(shape)(torch.from_numpy(mask)[None])[0].numpy() > 0.5


def preprocess(path: Path, kind: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, float]:
    """Read and preprocess one file: (X, Y, Z) = `shape` float32, and its `measure`.

    A T1 has no unit: it is standardised by its own brain. FA is a quantity, and stays one.
    """
    data, affine = read_volume(path)
    volume = on_grid(data if kind == "fa" else lift(data), affine)
    if volume.max() <= max(0, volume.min()):
        raise VolumeError(f"{path} has no voxel above 0, or one value everywhere; convert it again")
    values = torch.from_numpy(volume if kind == "fa" else clip_brain(volume))[None]
    small = torch.nn.AdaptiveAvgPool3d(shape)(values)  # means of blocks: no aliasing
    if kind == "fa":
        return small[0].numpy() * brain_mask(shape), measure(volume, kind)
    standard: Any = transforms.NormalizeIntensity(nonzero=True)(small)  # mean 0, SD 1
    return standard[0].numpy(), measure(volume, kind)


def build_volumes(
    cohort: pd.DataFrame, data_dir: Path, shape: tuple[int, int, int], cache_dir: Path
) -> dict:
    """Preprocess all volumes of a cohort into memory maps, or find those made before.

    Their folder is named after the content of the files, the shape and the code. Processes that
    want the same one wait. Returns what belongs into volumes.json. Raises VolumeError.
    """
    has_fa = cohort["fa_path"].notna().to_numpy()
    fa_row = np.where(has_fa, np.cumsum(has_fa) - 1, -1)
    t1, fa = ([Path(data_dir) / name for name in cohort[column].dropna()] for column in PATHS)
    if absent := [path for path in (*t1, *fa) if not path.is_file()]:
        raise VolumeError(f"{absent[0]} is missing, or no file; download it or empty its path")
    with ThreadPoolExecutor() as pool:
        content = list(pool.map(files.checksum, (*t1, *fa)))
    code = files.code_digest(sys.modules[__name__])
    settings = {"images": content, "fa_row": fa_row, "shape": shape, "code": code}
    name = f"volumes/{'x'.join(map(str, shape))}-{files.digest(settings)[:16]}"
    folder = Path(cache_dir) / name
    if files.damage(folder):  # a whole one needs no lock: it may lie on a read-only disk
        with FileLock(f"{folder}.lock"):
            if not files.is_finished(folder, settings):
                inside = brain_mask(shape)  # now, and not in every thread
                t1_made = _fill(folder / "t1.npy", t1, "t1", shape).to_dict("list")
                fa_made = _fill(folder / "fa.npy", fa, "fa", shape).reindex(fa_row).to_dict("list")
                files.write_json(folder / "cases.json", {"fa_row": fa_row, **t1_made, **fa_made})
                with files.atomic_path(folder / "inside.npy") as temporary:
                    np.save(temporary, inside)
                files.finish(folder, settings)
    return {"folder": name, "shape": list(shape), "digest": files.checksum(folder / files.SETTINGS)}


def _fill(target: Path, paths: list[Path], kind: str, shape: tuple[int, int, int]) -> pd.DataFrame:
    """Write one memory map; return the measure of each volume, and the share that is not 0."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (len(paths), *shape)}
    numbers = []
    with (
        files.atomic_path(target) as temporary,
        open(temporary, "wb") as out,  # under a memory map, a full disk kills the process
        ThreadPoolExecutor() as pool,  # NumPy, gzip and torch release the interpreter
    ):
        np.lib.format.write_array_header_1_0(out, header)
        done = pool.map(partial(preprocess, kind=kind, shape=shape), paths)
        for volume, number in tqdm(done, f"preprocessing {kind}", len(paths), mininterval=5):
            out.write(volume.astype("<f2").tobytes())
            numbers.append((number, (volume != 0).mean()))
    return pd.DataFrame(numbers, columns=[MEASURES[kind][0], f"{kind}_share"])


def load_volumes(path: Path, cache_dir: Path) -> Volumes:
    """Open the memory maps that volumes.json names, or raise DamagedFileError with the mend."""
    index = files.read_json(path)
    folder = Path(cache_dir) / index["folder"]
    what = files.damage(folder)
    if what or files.checksum(folder / files.SETTINGS) != index["digest"]:
        what = what or f"{path} and {folder} do not belong together"
        mend = f"python -m memoir_book.run --run {Path(path).parent.name} --only 02 --force"
        raise files.DamagedFileError(f"{what}; make it again:\n  {mend}")
    t1, fa, inside = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("t1", "fa", "inside"))
    measures = pd.DataFrame(files.read_json(folder / "cases.json"))
    fa_row = measures.pop("fa_row").to_numpy()
    return Volumes(t1, fa, inside, fa_row, measures, index["digest"])


def own_rows(n: int, width: int, generator: Generator, draw: Any = torch.rand) -> Tensor:
    """Draw (n, width) numbers: this process's part of those of a whole training step."""
    many = torch.distributed.is_initialized()
    world = torch.distributed.get_world_size() if many else 1
    first = torch.distributed.get_rank() * n if many else 0
    return draw(world * n, width, generator=generator)[first : first + n]


def augment(batch: Tensor, generator: Generator, brighten: float = 0.0) -> Tensor:
    """Turn, scale and shift each volume of (B, 1, X, Y, Z) by at most `TURN`, `ZOOM` and `SHIFT`.

    brighten : largest change of all values; 0 for FA. No flips: atrophy is often asymmetric.
    """
    uniform = own_rows(len(batch), 10, generator) * 2 - 1
    angles = uniform[:, :3] * (TURN * torch.pi / 180)
    small = torch.zeros(len(batch), 3, 3)  # for small angles, the rotation is 1 + this
    small[:, 0, 1], small[:, 0, 2], small[:, 1, 2] = -angles[:, 2], angles[:, 1], -angles[:, 0]
    matrix = torch.matrix_exp(small - small.transpose(1, 2)) * (1 + ZOOM * uniform[:, None, 3:6])
    theta = torch.cat([matrix, 2 * SHIFT * uniform[:, 6:9, None]], dim=2).to(batch)  # of -1 to 1
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = F.grid_sample(batch, grid, align_corners=False)
    return moved * (1 + brighten * uniform[:, 9].to(batch)).view(-1, 1, 1, 1, 1)
