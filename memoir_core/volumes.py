"""From NIfTI files to one float16 memory map per modality, made once and shared by all runs.

The transforms are MONAI's. A memory map is opened in milliseconds, is read batch by
batch, and costs no memory for what is not read.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock

from . import files, images
from .images import GRID, GRID_MM, MNI_CENTRE, VolumeError, read_volume

if TYPE_CHECKING:
    from monai.transforms import Compose
    from torch import Generator, Tensor

# Boxes in MNI space, mm, for the two numbers that a caption says of the images.
VENTRICLE_BOX = ((-30, 30), (-50, 35), (-8, 35))
FORNIX_BOX = ((-8, 8), (-30, 10), (-10, 25))


@dataclass(frozen=True)
class Volumes:
    """Preprocessed volumes, row i of `t1` being case i.

    t1 : (n, X, Y, Z) float16; zero outside the brain, standardised inside.
    fa : (m, X, Y, Z) float16, only of the cases that have one.
    fa_row : (n,) row of each case in `fa`, -1 where it has none.
    measures : (n rows) `ventricle_share` and `fornix_fa`, see `measure`; NaN without FA.
    digest : of all that stands above.
    """

    t1: np.ndarray
    fa: np.ndarray
    fa_row: np.ndarray
    measures: pd.DataFrame
    digest: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.t1.shape[1:]


def preprocessing(shape: tuple[int, int, int]) -> Compose:
    """Make the chain from a volume of `read_volume` to what the network reads.

    Resample to 2 mm, crop or pad to 91x109x91, clip inside the brain to the 1st and 99th
    percentile, average to a coarser grid of `shape` voxels (none is skipped: no aliasing),
    standardise inside the brain: subtract the mean, divide by the standard deviation.
    """
    from monai.transforms import Compose, NormalizeIntensity, ResizeWithPadOrCrop, Spacing
    from torch.nn import AdaptiveAvgPool3d

    return Compose(
        [
            Spacing(pixdim=(GRID_MM,) * 3, mode="bilinear"),  # where it is another
            ResizeWithPadOrCrop(GRID),
            clip_brain,
            AdaptiveAvgPool3d(shape),
            NormalizeIntensity(nonzero=True),
        ]
    )


def clip_brain(volume: Tensor) -> Tensor:
    """Scale the 1st to 99th percentile of the brain (> 5 % of the maximum) to 0.001 to 1.001.

    What lies outside the brain becomes 0, so that 0 stays a mark of it.
    """
    import torch
    from monai.transforms import ScaleIntensityRangePercentiles

    volume = torch.as_tensor(np.array(volume))
    inside = volume > 0.05 * volume.max()
    clip = ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True)
    volume[inside] = clip(volume[inside][None])[0] + 1e-3
    return volume * inside


def measure(volume: np.ndarray, affine: np.ndarray, kind: str) -> float:
    """Say one thing of an (X, Y, Z) volume, RAS on MNI space, in one number.

    't1' gives the share of a box around the lateral ventricles that is darker than 0.45 of
    white matter (the 95th percentile of the brain), fluid in a T1 image: 0 to 1. 9DOF
    registration has taken out head size. 'fa' gives the mean FA above 0.2 in a box around
    the fornix, a tract that Alzheimer's disease thins early (Oishi and Lyketsos 2014,
    doi:10.3389/fnagi.2014.00241); NaN where nothing is above 0.2.
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
    cohort: pd.DataFrame,
    data_dir: Path,
    shape: tuple[int, int, int],
    voxel_mm: float,
    cache_dir: Path,
) -> dict:
    """Preprocess all volumes of a cohort into memory maps, or find those made before.

    The folder below `cache_dir` is named after the content of the files, the shape and this
    module's code: whatever changes makes another. Processes that want the same one wait for
    each other; a folder that a killed one left, or that is damaged, is made anew.

    Returns what belongs into volumes.json. Raises VolumeError, which names the file that is
    missing or cannot be used.
    """
    has_fa = cohort["fa_path"].notna().to_numpy()
    names = {"t1": cohort["t1_path"], "fa": cohort.loc[has_fa, "fa_path"]}
    paths = {kind: [Path(data_dir) / name for name in names[kind]] for kind in names}
    if absent := [path for path in (*paths["t1"], *paths["fa"]) if not path.exists()]:
        raise VolumeError(f"{absent[0]} is missing; complete the download or empty its path")
    with ThreadPoolExecutor() as pool:
        content = {kind: list(pool.map(files.checksum, paths[kind])) for kind in paths}
    settings = {
        "images": content,
        "shape": list(shape),
        "code": files.code_digest(images, sys.modules[__name__]),
    }
    name = f"volumes/{'x'.join(map(str, shape))}-{files.digest(settings)[:16]}"
    folder = Path(cache_dir) / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    writable = os.access(folder.parent, os.W_OK)  # a complete cache may be read-only
    with FileLock(f"{folder}.lock") if writable else nullcontext():
        if not files.is_finished(folder, settings):
            made = {kind: _fill(folder / f"{kind}.npy", paths[kind], kind, shape) for kind in paths}
            files.write_json(folder / "measures.json", made)
            files.finish(folder, settings)
    made = files.read_json(folder / "measures.json")
    fa_row = np.where(has_fa, np.cumsum(has_fa) - 1, -1)
    fornix = np.append(made["fa"], np.nan)[fa_row]  # row -1 is the NaN
    index = {
        "files": files.read_json(folder / "settings.json")["files"],
        "shape": list(shape),
        "voxel_mm": voxel_mm,
        "fa_row": fa_row.tolist(),
        "measures": {"ventricle_share": made["t1"], "fornix_fa": fornix.tolist()},
    }
    return {"folder": name, **index, "digest": files.digest(index)}


def _fill(target: Path, paths: list[Path], kind: str, shape: tuple[int, int, int]) -> list[float]:
    """Write one memory map; return the measure of each volume."""
    from tqdm import tqdm

    numbers = []
    pool = ThreadPoolExecutor()  # NumPy, gzip and torch release the interpreter
    with files.atomic_path(target) as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.float16, (len(paths), *shape))
        if hasattr(os, "posix_fallocate"):  # a full disk under a memory map kills the process
            with open(temporary, "r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, temporary.stat().st_size)
        try:
            done = pool.map(partial(preprocess, kind=kind, shape=shape), paths)
            bar = tqdm(done, total=len(paths), desc=f"preprocessing {kind}", mininterval=5)
            for row, (volume, number) in enumerate(bar):
                out[row] = volume
                numbers.append(number)
        finally:  # after an error or an interrupt, what has not begun never begins
            pool.shutdown(cancel_futures=True)
        out.flush()
        del out  # Windows renames no open file
    return numbers


def load_volumes(path: Path, cache_dir: Path) -> Volumes:
    """Open the memory maps that volumes.json names, after comparing their checksums.

    Raises MissingArtefactError or DamagedFileError, which name the file and the mend.
    """
    index = files.read_json(path)
    run = Path(path).parent.name
    mend = f"make it again:\n  python -m memoir_book.run --run {run} --only 02 --force"
    content = {key: index[key] for key in index if key not in ("folder", "digest")}
    if files.digest(content) != index.get("digest"):
        raise files.DamagedFileError(f"{path} is damaged; {mend}")
    folder = Path(cache_dir) / index["folder"]
    for name, wanted in index["files"].items():
        if not (folder / name).exists():
            raise files.MissingArtefactError(f"{folder / name} is missing; {mend}")
        if files.checksum(folder / name) != wanted:
            raise files.DamagedFileError(f"{folder / name} is damaged; {mend}")
    t1, fa = (np.load(folder / name, mmap_mode="r") for name in ("t1.npy", "fa.npy"))
    fa_row, measures = np.array(index["fa_row"], int), pd.DataFrame(index["measures"], dtype=float)
    return Volumes(t1, fa, fa_row, measures, index["digest"])


# --- for training and plots -------------------------------------------------------------


def own_rows(n: int, width: int, generator: Generator) -> Tensor:
    """Draw uniform numbers (n, width) for this process's part of a training step.

    All processes draw those of the whole step from the same state, and each keeps its own,
    so that what happens to a subject does not depend on the number of processes.
    """
    import torch

    many = torch.distributed.is_initialized()
    world = torch.distributed.get_world_size() if many else 1
    first = torch.distributed.get_rank() * n if many else 0
    return torch.rand(world * n, width, generator=generator)[first : first + n]


def augment(batch: Tensor, generator: Generator) -> Tensor:
    """Move and scale each volume of a (B, 1, X, Y, Z) batch a little; change its contrast.

    Rotations up to 4 degrees, scales up to 4 %, shifts up to 4 % of the grid (7 mm),
    intensity gain up to 10 %: more than 9DOF registration leaves, because a few hundred
    subjects are soon known by heart. No left-right flips: atrophy is often asymmetric, and
    volumes registered to a template do not come mirrored. Equal states of `generator`, on
    the CPU, give equal results.
    """
    import torch
    import torch.nn.functional as F

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


def template(shape: tuple[int, int, int]) -> np.ndarray:
    """The MNI template (ICBM 2009a, from nilearn) on a grid of `shape`: (X, Y, Z) float32."""
    import torch
    from nilearn import datasets, image
    from torch.nn import AdaptiveAvgPool3d

    affine = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    affine[:3, 3] = MNI_CENTRE - GRID_MM * (np.array(GRID) - 1) / 2  # RAS, as cached volumes
    loaded = datasets.load_mni152_template(resolution=int(GRID_MM))
    fitted: Any = image.resample_img(loaded, affine, GRID, copy_header=True, force_resample=True)
    return AdaptiveAvgPool3d(shape)(torch.from_numpy(fitted.get_fdata(dtype=np.float32))[None])[
        0
    ].numpy()
