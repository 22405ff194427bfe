"""NIfTI files, checked, and one float16 memory map per modality of them, shared by all runs."""

from __future__ import annotations

import gzip
import io
import math
import sys
from collections.abc import Callable
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
from torch import Generator, Tensor
from tqdm import tqdm

from . import files
from .tables import PATHS

# For one network of its own, MONAI imports transformers if found: half of a kernel's start.
transformers = sys.modules.setdefault("transformers", None)  # type: ignore[arg-type]
from monai import transforms  # noqa: E402
from monai.data import MetaTensor  # noqa: E402
from monai.data.utils import correct_nifti_header_if_necessary  # noqa: E402

if transformers is None:
    del sys.modules["transformers"]

GRID = (91, 109, 91)  # 2 mm MNI, the published input
GRID_MM = 2.0
MNI_CENTRE = np.array([0.0, -18.0, 18.0])  # mm, of that grid
# Boxes in MNI space, mm, for the two numbers that a caption says of the images.
VENTRICLE_BOX = ((-30, 30), (-50, 35), (-8, 35))
FORNIX_BOX = ((-8, 8), (-30, 10), (-10, 25))
# About what registration leaves, at most: degrees, share of the size, share of the grid. Larger
# movements may hide what tells two registered brains apart (chapter 4 has a search).
TURN, ZOOM, SHIFT = 1.0, 0.01, 0.005


class VolumeError(ValueError):
    """An image file cannot be used; the message names the file and the mend."""


def read_volume(path: Path) -> Any:
    """Read one NIfTI file as a (1, X, Y, Z) MONAI MetaTensor in RAS, in its own voxel size.

    Raises VolumeError if it is unreadable, truncated or (where compressed) changed by a bit;
    not 3D; NaN or constant; or if its header does not place it on MNI space.
    """
    try:
        volume = _decode(path.read_bytes())
    except Exception as error:  # nibabel and gzip raise many kinds: all mean the file
        what = f"cannot be read as NIfTI ({type(error).__name__}: {error})"
        raise VolumeError(f"{path} {what}; download or convert it again") from error
    if fault := _fault(np.asarray(volume)[0], np.asarray(volume.affine, float)):
        raise VolumeError(f"{path} {fault}")
    return volume


def _decode(raw: bytes) -> Any:
    if raw[:2] == b"\x1f\x8b":  # nibabel never compares the checksum at the end of gzip
        raw = gzip.decompress(raw)
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(raw))
    shape = header.get_data_shape()
    if len(shape) != 3:
        raise ValueError(f"it has shape {shape}, one 3D volume is expected")
    needed = math.prod(shape) * header.get_data_dtype().itemsize
    if needed > len(raw):  # before memory is claimed for what a wrong header promises
        raise ValueError(f"the header promises {needed} bytes, the file has {len(raw)}")
    image = correct_nifti_header_if_necessary(nibabel.Nifti1Image.from_bytes(raw))
    plain = nibabel.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine)
    turned = nibabel.as_closest_canonical(plain)
    return MetaTensor(np.ascontiguousarray(turned.dataobj)[None], affine=turned.affine)


def _fault(data: np.ndarray, affine: np.ndarray) -> str:
    """Say why the model cannot use an RAS image, and the mend; '' if it can."""
    if not np.isfinite(data).all():
        return "holds NaN or infinite values; convert it again"
    if data.max() == data.min():
        return "has the same value in every voxel; convert it again"
    mend = "register it to the 2 mm MNI grid (91x109x91)"
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    extent, wanted = spacing * data.shape, np.array(GRID) * GRID_MM
    if not (0.6 * wanted < extent).all() or not (extent < 1.7 * wanted).all():
        return f"covers {extent.round()} mm, the MNI grid {wanted} mm; {mend}"
    if (np.diag(affine)[:3] / spacing < 0.95).any():
        return f"is rotated against the MNI axes; {mend}"
    centre = (affine @ [*(np.array(data.shape) - 1) / 2, 1])[:3]
    if not (np.abs(centre - MNI_CENTRE) <= 40).all():  # NaN, too
        return f"has its centre at {centre.round()} mm, the MNI grid at {MNI_CENTRE}; {mend}"
    return ""


@dataclass(frozen=True)
class Volumes:
    """Preprocessed volumes, float16, 0 outside the brain."""

    t1: np.ndarray  # (n, X, Y, Z): row i is case i; mean 0, SD 1 in its brain
    fa: np.ndarray  # (m, X, Y, Z): the quantity itself, 0 to 1
    inside: np.ndarray  # (X, Y, Z) bool: one mask for every FA, see `brain_mask`
    fa_row: np.ndarray  # (n,) row of each case in `fa`, -1 where it has none
    measures: pd.DataFrame  # n rows: `ventricle_share`, `fornix_fa`: see `measure`
    digest: str = ""  # of all of these


def clip_brain(volume: Tensor) -> Tensor:
    """Scale percentiles 1 to 99 of the brain (> 5 % of the maximum) to 0.001 to 1.001; else 0."""
    volume = torch.tensor(np.asarray(volume))  # a copy
    inside = volume > 0.05 * volume.max()
    clip = transforms.ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True)
    volume[inside] = clip(volume[inside][None])[0] + 1e-3
    return volume * inside


def measure(volume: np.ndarray, affine: np.ndarray, kind: str) -> float:
    """Say one thing of an (X, Y, Z) volume, RAS on MNI space, in one number.

    't1': the share of a box around the lateral ventricles that is darker than 0.45 of white
    matter (the 95th percentile of the brain). 'fa': the mean FA above 0.2 around the fornix, a
    tract that Alzheimer's disease thins early (doi:10.3389/fnagi.2014.00241); NaN without any.
    """
    inside = []
    for axis, (low, high) in enumerate(VENTRICLE_BOX if kind == "t1" else FORNIX_BOX):
        mm = affine[axis, axis] * np.arange(volume.shape[axis]) + affine[axis, 3]
        inside.append((mm >= low) & (mm <= high))
    part = volume[np.ix_(*inside)]
    if kind == "t1":
        white = np.percentile(volume[volume > 0.05 * volume.max()], 95)
        return float((part < 0.45 * white).mean())
    return float(part[part > 0.2].mean()) if (part > 0.2).any() else float("nan")


@cache
def brain_mask(shape: tuple[int, int, int]) -> np.ndarray:
    """The MNI brain (nilearn's mask) on the 2 mm grid of `shape` blocks: (X, Y, Z) bool, RAS."""
    affine = np.diag([GRID_MM] * 3 + [1.0])
    affine[:3, 3] = MNI_CENTRE - GRID_MM * (np.array(GRID) - 1) / 2
    template: Any = datasets.load_mni152_brain_mask(resolution=int(GRID_MM))
    how: dict = {"interpolation": "nearest", "copy_header": True, "force_resample": True}
    mask = image.resample_img(template, affine, GRID, **how).get_fdata(dtype=np.float32)
    return torch.nn.AdaptiveAvgPool3d(shape)(torch.from_numpy(mask)[None])[0].numpy() > 0.5


def preprocess(path: Path, kind: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, float]:
    """Read and preprocess one file: (X, Y, Z) = `shape` float32, and its `measure`.

    A T1 has no unit: it is standardised by its own brain. FA is a quantity, and stays one.
    """
    volume: Any = transforms.Spacing(pixdim=(GRID_MM,) * 3, mode="bilinear")(read_volume(path))
    volume = transforms.ResizeWithPadOrCrop(GRID)(volume)
    if volume.max() <= 0:
        raise VolumeError(f"{path} has no voxel above 0 on the MNI grid; convert it again")
    number = measure(np.asarray(volume)[0], np.asarray(volume.affine, float), kind)
    # Means of blocks: no voxel skipped, no aliasing. Then mean 0, SD 1 inside the brain.
    pool = torch.nn.AdaptiveAvgPool3d(shape)
    if kind == "fa":
        return np.asarray(pool(volume))[0] * brain_mask(shape), number
    small = pool(clip_brain(volume))
    return np.asarray(transforms.NormalizeIntensity(nonzero=True)(small))[0], number


def build_volumes(
    cohort: pd.DataFrame, data_dir: Path, shape: tuple[int, int, int], cache_dir: Path
) -> dict:
    """Preprocess all volumes of a cohort into memory maps, or find those made before.

    The folder below `cache_dir` is named after the content of the files, the shape and the
    code. Processes that want the same one wait for each other. Returns what belongs into
    volumes.json. Raises VolumeError, which names the file that is missing or cannot be used.
    """
    has_fa = cohort["fa_path"].notna().to_numpy()
    fa_row = np.where(has_fa, np.cumsum(has_fa) - 1, -1)
    t1, fa = ([Path(data_dir) / name for name in cohort[column].dropna()] for column in PATHS)
    if absent := [path for path in (*t1, *fa) if not path.exists()]:
        raise VolumeError(f"{absent[0]} is missing; complete the download or empty its path")
    with ThreadPoolExecutor() as pool:
        content = list(pool.map(files.checksum, (*t1, *fa)))
    code = files.code_digest(sys.modules[__name__])
    settings = {"images": content, "fa_row": fa_row, "shape": shape, "code": code}
    name = f"volumes/{'x'.join(map(str, shape))}-{files.digest(settings)[:16]}"
    folder = Path(cache_dir) / name
    if files.damage(folder):  # a whole one needs no lock: it may lie on a read-only disk
        with FileLock(f"{folder}.lock"):
            if not files.is_finished(folder, settings):
                share = _fill(folder / "t1.npy", t1, "t1", shape)
                fornix = [*_fill(folder / "fa.npy", fa, "fa", shape), float("nan")]
                measures = {"ventricle_share": share, "fornix_fa": [fornix[i] for i in fa_row]}
                files.write_json(folder / "cases.json", {"fa_row": fa_row, **measures})
                with files.atomic_path(folder / "inside.npy") as temporary:
                    np.save(temporary, brain_mask(shape))
                files.finish(folder, settings)
    return {"folder": name, "shape": list(shape), "digest": files.checksum(folder / files.SETTINGS)}


def _fill(target: Path, paths: list[Path], kind: str, shape: tuple[int, int, int]) -> list[float]:
    """Write one memory map; return the measure of each volume."""
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
            numbers.append(number)
    return numbers


def load_volumes(path: Path, cache_dir: Path) -> Volumes:
    """Open the memory maps that volumes.json names, or raise DamagedFileError with the mend."""
    index = files.read_json(path)
    folder = Path(cache_dir) / index["folder"]
    what = files.damage(folder)
    if not what and files.checksum(folder / files.SETTINGS) != index["digest"]:
        what = f"{path} and {folder} do not belong together"
    if what:
        mend = f"python -m memoir_book.run --run {Path(path).parent.name} --only 02 --force"
        raise files.DamagedFileError(f"{what}; make it again:\n  {mend}")
    t1, fa, inside = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("t1", "fa", "inside"))
    measures = pd.DataFrame(files.read_json(folder / "cases.json"))
    fa_row = measures.pop("fa_row").to_numpy()
    return Volumes(t1, fa, inside, fa_row, measures, index["digest"])


def own_rows(n: int, width: int, generator: Generator, draw: Callable = torch.rand) -> Tensor:
    """Draw (n, width) numbers: this process's part of those of a whole training step."""
    many = torch.distributed.is_initialized()
    world = torch.distributed.get_world_size() if many else 1
    first = torch.distributed.get_rank() * n if many else 0
    return draw(world * n, width, generator=generator)[first : first + n]


def augment(batch: Tensor, generator: Generator, brighten: float = 0.0) -> Tensor:
    """Turn, scale and shift each volume of (B, 1, X, Y, Z) by at most `TURN`, `ZOOM` and `SHIFT`.

    brighten : largest relative change of all values; 0 for FA, whose values mean something.
    No left-right flips: atrophy is often asymmetric.
    """
    n = len(batch)
    uniform = own_rows(n, 10, generator) * 2 - 1
    angles = uniform[:, :3] * (TURN * torch.pi / 180)
    small = torch.zeros(n, 3, 3)  # for small angles, the rotation is 1 + this
    small[:, 0, 1], small[:, 0, 2], small[:, 1, 2] = -angles[:, 2], angles[:, 1], -angles[:, 0]
    matrix = torch.matrix_exp(small - small.transpose(1, 2))
    matrix = matrix * (1 + ZOOM * uniform[:, None, 3:6])
    shift = 2 * SHIFT * uniform[:, 6:9]  # the grid runs from -1 to 1
    theta = torch.cat([matrix, shift[:, :, None]], dim=2).to(batch)
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = F.grid_sample(batch, grid, align_corners=False)
    return moved * (1 + brighten * uniform[:, 9].to(batch)).view(n, 1, 1, 1, 1)
