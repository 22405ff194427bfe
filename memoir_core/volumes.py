"""From NIfTI files to one float16 memory map per modality, made once and shared by all runs."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from filelock import FileLock
from monai import transforms
from torch import Generator, Tensor
from tqdm import tqdm

from . import files, images
from .images import GRID, GRID_MM, VolumeError, read_volume
from .tables import PATHS

# Boxes in MNI space, mm, for the two numbers that a caption says of the images.
VENTRICLE_BOX = ((-30, 30), (-50, 35), (-8, 35))
FORNIX_BOX = ((-8, 8), (-30, 10), (-10, 25))


@dataclass(frozen=True)
class Volumes:
    """Preprocessed volumes, row i of `t1` being case i.

    t1, fa : (n, X, Y, Z) and (m, X, Y, Z) float16; 0 outside the brain, standardised inside.
    fa_row : (n,) row of each case in `fa`, -1 where it has none.
    measures : (n rows) `ventricle_share` and `fornix_fa`, see `measure`; NaN without FA.
    digest : of all of these.
    """

    t1: np.ndarray
    fa: np.ndarray
    fa_row: np.ndarray
    measures: pd.DataFrame
    digest: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.t1.shape[1:]


def preprocessing(shape: tuple[int, int, int]) -> transforms.Compose:
    """Make the chain from a volume of `read_volume` to the (X, Y, Z) = `shape` of the network."""
    return transforms.Compose(
        [
            transforms.Spacing(pixdim=(GRID_MM,) * 3, mode="bilinear"),
            transforms.ResizeWithPadOrCrop(GRID),
            clip_brain,
            torch.nn.AdaptiveAvgPool3d(shape),  # means of blocks: no voxel skipped, no aliasing
            transforms.NormalizeIntensity(nonzero=True),  # mean 0, SD 1 inside the brain
        ]
    )


def clip_brain(volume: Tensor) -> Tensor:
    """Scale percentiles 1 to 99 of the brain (> 5 % of the maximum) to 0.001 to 1.001; else 0."""
    volume = torch.as_tensor(np.array(volume))
    inside = volume > 0.05 * volume.max()
    clip = transforms.ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True)
    volume[inside] = clip(volume[inside][None])[0] + 1e-3
    return volume * inside


def measure(volume: np.ndarray, affine: np.ndarray, kind: str) -> float:
    """Say one thing of an (X, Y, Z) volume, RAS on MNI space, in one number.

    't1': the share of a box around the lateral ventricles that is fluid, darker than 0.45 of
    white matter (the 95th percentile of the brain). 'fa': the mean FA above 0.2 in a box
    around the fornix, NaN without any; Alzheimer's disease thins this tract early (Oishi and
    Lyketsos 2014, doi:10.3389/fnagi.2014.00241).
    """
    box = VENTRICLE_BOX if kind == "t1" else FORNIX_BOX
    inside = []
    for axis, (low, high) in enumerate(box):
        mm = affine[axis, axis] * np.arange(volume.shape[axis]) + affine[axis, 3]
        inside.append((mm >= low) & (mm <= high))
    part = volume[np.ix_(*inside)]
    if kind == "t1":
        white = np.percentile(volume[volume > 0.05 * volume.max()], 95)
        return float((part < 0.45 * white).mean())
    return float(part[part > 0.2].mean()) if (part > 0.2).any() else float("nan")


def preprocess(path: Path, kind: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, float]:
    """Read and preprocess one file: (X, Y, Z) float32, and its `measure`."""
    chain = preprocessing(shape)
    fitted = chain(read_volume(path), end=2)  # on the 2 mm grid
    if fitted.max() <= 0:
        raise VolumeError(f"{path} has no voxel above 0 on the MNI grid; convert it again")
    number = measure(np.asarray(fitted)[0], np.asarray(fitted.affine, float), kind)
    return np.asarray(chain(fitted, start=2))[0], number


# --- the cache --------------------------------------------------------------------------


def build_volumes(
    cohort: pd.DataFrame, data_dir: Path, shape: tuple[int, int, int], cache_dir: Path
) -> dict:
    """Preprocess all volumes of a cohort into memory maps, or find those made before.

    The folder below `cache_dir` is named after the content of the files, the shape and the
    code. Processes that want the same one wait for each other; one that a killed process
    left, or that is damaged, is made anew. Returns what belongs into volumes.json. Raises
    VolumeError, which names the file that is missing or cannot be used.
    """
    has_fa = cohort["fa_path"].notna().to_numpy()
    fa_row = np.where(has_fa, np.cumsum(has_fa) - 1, -1)
    t1, fa = ([Path(data_dir) / name for name in cohort[column].dropna()] for column in PATHS)
    if absent := [path for path in (*t1, *fa) if not path.exists()]:
        raise VolumeError(f"{absent[0]} is missing; complete the download or empty its path")
    with ThreadPoolExecutor() as pool:
        content = list(pool.map(files.checksum, (*t1, *fa)))
    settings: dict = {"images": content, "fa_row": fa_row.tolist(), "shape": list(shape)}
    settings["code"] = files.code_digest(images, sys.modules[__name__])
    name = f"volumes/{'x'.join(map(str, shape))}-{files.digest(settings)[:16]}"
    folder = Path(cache_dir) / name
    if files.damage(folder):  # a whole one needs no lock: it may lie on a read-only disk
        with FileLock(f"{folder}.lock"):
            if not files.is_finished(folder, settings):
                share = _fill(folder / "t1.npy", t1, "t1", shape)
                fornix = [*_fill(folder / "fa.npy", fa, "fa", shape), float("nan")]
                measures = {"ventricle_share": share, "fornix_fa": [fornix[i] for i in fa_row]}
                files.write_json(folder / "cases.json", {"fa_row": fa_row, **measures})
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
    """Open the memory maps that volumes.json names, after comparing their checksums.

    Raises DamagedFileError, which names what is damaged or missing, and the mend.
    """
    index = files.read_json(path)
    folder = Path(cache_dir) / index["folder"]
    what = files.damage(folder)
    if not what and files.checksum(folder / files.SETTINGS) != index["digest"]:
        what = f"{path} and {folder} do not belong together"
    if what:
        mend = f"python -m memoir_book.run --run {Path(path).parent.name} --only 02 --force"
        raise files.DamagedFileError(f"{what}; make it again:\n  {mend}")
    t1, fa = (np.load(folder / name, mmap_mode="r") for name in ("t1.npy", "fa.npy"))
    measures = pd.DataFrame(files.read_json(folder / "cases.json"))
    return Volumes(t1, fa, measures.pop("fa_row").to_numpy(), measures, index["digest"])


def own_rows(n: int, width: int, generator: Generator) -> Tensor:
    """Draw (n, width) uniform numbers: this process's part of those of a whole training step."""
    many = torch.distributed.is_initialized()
    world = torch.distributed.get_world_size() if many else 1
    first = torch.distributed.get_rank() * n if many else 0
    return torch.rand(world * n, width, generator=generator)[first : first + n]


def augment(batch: Tensor, generator: Generator) -> Tensor:
    """Move and scale each volume of a (B, 1, X, Y, Z) batch a little; change its contrast.

    Rotations up to 4 degrees, scales up to 4 %, shifts up to 4 % of the grid (7 mm), gain up
    to 10 %: more than 9DOF registration leaves, because a few hundred subjects are soon known
    by heart. No left-right flips: atrophy is often asymmetric.
    """
    n = len(batch)
    uniform = own_rows(n, 10, generator) * 2 - 1
    angles = uniform[:, :3] * (4 * torch.pi / 180)
    small = torch.zeros(n, 3, 3)  # for small angles, the rotation is 1 + this
    small[:, 0, 1], small[:, 0, 2], small[:, 1, 2] = -angles[:, 2], angles[:, 1], -angles[:, 0]
    matrix = torch.matrix_exp(small - small.transpose(1, 2))
    matrix = matrix * (1 + 0.04 * uniform[:, None, 3:6])
    shift = 0.08 * uniform[:, 6:9]  # the grid runs from -1 to 1
    theta = torch.cat([matrix, shift[:, :, None]], dim=2).to(batch)
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = F.grid_sample(batch, grid, align_corners=False)
    return moved * (1 + 0.1 * uniform[:, 9].to(batch)).view(n, 1, 1, 1, 1)
