"""From NIfTI files to one float16 memory map per modality, made once and shared by all runs.

The transforms are MONAI's. A memory map is opened in milliseconds, is read batch by
batch, and costs no memory for what is not read.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from memoir_book.artefacts import (
    MissingArtefactError,
    Run,
    atomic_path,
    checksum,
    compare,
    file_lock,
    read_json,
    write_json,
)
from memoir_book.privacy import CHECK, SMALLEST_GROUP, SmallGroupError, conceal

from . import config
from .cohort import load_cohort
from .config import DX, Profile

if TYPE_CHECKING:
    from torch import Generator, Tensor

VERSION = 2  # raise it when the transforms change, so that caches are made anew
GRID = (91, 109, 91)  # 2 mm MNI, the published input
GRID_MM = 2.0
MNI_CENTRE = np.array([0.0, -18.0, 18.0])  # mm, of that grid
# Boxes in MNI space, mm, for the two numbers that a caption says of the images.
VENTRICLE_BOX = ((-30, 30), (-50, 35), (-8, 35))
FORNIX_BOX = ((-8, 8), (-30, 10), (-10, 25))


class VolumeError(ValueError):
    """An image file cannot be used; the message names the file and the mend."""


@dataclass(frozen=True)
class Volumes:
    """Preprocessed volumes, row i of `t1` being case i.

    t1 : (n, X, Y, Z) float16; zero outside the brain, standardised inside.
    fa : (m, X, Y, Z) float16, only of the cases that have one.
    fa_row : (n,) row of each case in `fa`, -1 where it has none.
    measures : (n rows) `ventricle_share` and `fornix_fa`, see `measure`; NaN without FA.
    """

    t1: np.ndarray
    fa: np.ndarray
    fa_row: np.ndarray
    measures: pd.DataFrame

    @property
    def shape(self) -> tuple[int, ...]:
        return self.t1.shape[1:]


def read_volume(path: str) -> Any:
    """Read one NIfTI file, turn it to RAS, and check that it can be used.

    Returns
    -------
    (1, X, Y, Z) MONAI MetaTensor in the file's own voxel size.

    Raises
    ------
    VolumeError
        Unreadable, truncated, or (if compressed) changed by a single bit; not 3D; NaN or
        constant values; or a header that does not place the volume on MNI space.
    """
    import torch
    from monai.transforms import Orientation
    from nibabel.orientations import io_orientation

    try:
        volume = _decode(Path(path).read_bytes())
    except Exception as error:  # nibabel and gzip raise many kinds: all mean the file
        raise VolumeError(
            f"{path} cannot be read as NIfTI ({type(error).__name__}: {error}); "
            "download or convert it again"
        ) from error
    if volume.ndim != 4:
        raise VolumeError(f"{path} has shape {tuple(volume.shape[1:])}; one 3D volume expected")
    if not torch.isfinite(volume).all():
        raise VolumeError(f"{path} holds NaN or infinite values; convert it again")
    if volume.max() == volume.min():
        raise VolumeError(f"{path} has the same value in every voxel; convert it again")
    affine = np.asarray(volume.affine, float)
    if not np.isfinite(affine).all() or np.isnan(io_orientation(affine)).any():
        raise VolumeError(f"{path} has an affine that is no affine; convert it again from DICOM")
    oriented: Any = Orientation(axcodes="RAS", labels=None)(volume)
    _check_grid(path, np.asarray(oriented.affine, float), tuple(oriented.shape[1:]))
    return oriented


def _decode(raw: bytes) -> Any:
    """Turn the bytes of a NIfTI file into a (1, X, Y, Z) MetaTensor.

    The whole file is unpacked first, because gzip's checksum stands at its end: a reader
    that stops after the last voxel (nibabel's, say) never compares it.
    """
    import nibabel
    from monai.data import MetaTensor
    from monai.data.utils import correct_nifti_header_if_necessary

    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    kind = next((k for k in kinds if k.header_class.may_contain_header(raw)), None)
    if kind is None:
        raise ValueError("no NIfTI header")
    header = kind.header_class.from_fileobj(io.BytesIO(raw))
    needed = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    if needed > len(raw):  # before memory is claimed for what a wrong header promises
        raise ValueError(f"the header promises {needed} bytes, the file has {len(raw)}")
    image = correct_nifti_header_if_necessary(kind.from_bytes(raw))
    return MetaTensor(np.asarray(image.dataobj, np.float32)[None], affine=image.affine)


def _check_grid(path: str, affine: np.ndarray, shape: tuple[int, ...]) -> None:
    """Compare what an RAS header says with the MNI grid: size, direction and place."""
    mend = "register it to the 2 mm MNI grid (91x109x91), or convert it again from DICOM"
    columns = affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    extent = spacing * shape
    wanted = np.array(GRID) * GRID_MM
    if not (0.6 * wanted < extent).all() or not (extent < 1.7 * wanted).all():
        found = " x ".join(f"{mm:.0f}" for mm in extent)
        raise VolumeError(
            f"{path} covers {found} mm ({'x'.join(map(str, shape))} voxels), the MNI grid "
            f"{' x '.join(f'{mm:.0f}' for mm in wanted)} mm; {mend}"
        )
    if (np.diag(columns) / spacing < 0.95).any():
        raise VolumeError(f"{path} is rotated against the MNI axes; {mend}")
    centre = affine @ [*((np.array(shape) - 1) / 2), 1]
    off = np.abs(centre[:3] - MNI_CENTRE)
    if (off > 40).any():
        raise VolumeError(
            f"{path} has its centre at {np.round(centre[:3]).astype(int).tolist()} mm, the MNI "
            f"grid at {MNI_CENTRE.astype(int).tolist()}; {mend}"
        )


def measure(volume: np.ndarray, affine: np.ndarray, kind: str) -> float:
    """Say one thing of a whole volume in one number, before it is made coarser.

    Parameters
    ----------
    volume : (X, Y, Z) in RAS on MNI space, zero outside the brain.
    affine : (4, 4) voxel to mm.
    kind : 't1' gives the share of a box around the lateral ventricles that is darker than
        0.45 of white matter (the 95th percentile of the brain), fluid in a T1 image: 0 to 1.
        9DOF registration has taken out head size. 'fa' gives the mean FA above 0.2 in a box
        around the fornix, a tract that Alzheimer's disease thins early (Oishi and Lyketsos
        2014, doi:10.3389/fnagi.2014.00241); NaN where nothing is above 0.2.
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


def preprocess(profile: Profile, kind: str) -> Callable[[str], tuple[np.ndarray, float]]:
    """Make the function that turns one file into one volume and one number.

    Load, orient to RAS, resample to the 2 mm grid where the spacing differs, crop or pad to
    91x109x91, average to the profile's coarser grid, then standardise inside the brain: clip
    to the 1st and 99th percentile, subtract the mean, divide by the standard deviation.

    Returns
    -------
    function : path -> (X, Y, Z) float32, and its `measure`.
    """
    from monai.transforms import (
        NormalizeIntensity,
        ResizeWithPadOrCrop,
        ScaleIntensityRangePercentiles,
        Spacing,
    )

    respace = Spacing(pixdim=(GRID_MM,) * 3, mode="bilinear")
    fit = ResizeWithPadOrCrop(GRID)
    clip = ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True)
    standardise = NormalizeIntensity(nonzero=True)

    def one(path: str) -> tuple[np.ndarray, float]:
        import torch

        volume = read_volume(path)
        spacing = torch.as_tensor(volume.affine)[:3, :3].norm(dim=0)
        if not torch.allclose(spacing, torch.full_like(spacing, GRID_MM), atol=1e-3):
            volume = respace(volume)
        fitted: Any = fit(volume)
        number = measure(np.asarray(fitted)[0], np.asarray(fitted.affine, float), kind)
        volume = torch.as_tensor(np.asarray(fitted))
        inside = volume[0] > 0.05 * volume.max()
        if not inside.any():
            raise VolumeError(f"{path} has no voxel above 5 % of its maximum; convert it again")
        volume[0][inside] = clip(volume[:, inside])[0] + 1e-3  # 0 stays what lies outside
        volume[0][~inside] = 0
        volume = _coarsen(volume, profile.volume_shape)
        return standardise(volume)[0].numpy(), number

    return one


def _coarsen(volume: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Average a (1, 91, 109, 91) tensor to a coarser grid; no voxel is skipped (no aliasing)."""
    from torch.nn.functional import adaptive_avg_pool3d

    return volume if tuple(volume.shape[1:]) == shape else adaptive_avg_pool3d(volume, shape)


def build_volumes(cohort: pd.DataFrame, data_dir: Path, profile: Profile) -> Path:
    """Preprocess all volumes of a cohort into memory maps, once.

    The folder in the cache is named after the files' names, sizes and dates and the
    transforms, so that changed data are read again and other runs share it. Two processes
    that need the same folder wait for each other.

    Returns
    -------
    folder with t1.npy, fa.npy and index.json.

    Raises
    ------
    VolumeError
        Names the file that cannot be used.
    """
    data_dir = Path(data_dir)
    listed = (
        cohort[["t1_path", "fa_path"]]
        .astype(object)
        .where(cohort[["t1_path", "fa_path"]].notna(), None)
    )
    key = _key(listed, data_dir, profile)
    folder = config.cache_dir() / "volumes" / f"{profile.name}-{key}"
    with file_lock(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "index.json").exists():
            checksums: dict[str, str] = {}
            rows: dict[str, int] = {}
            measures: dict[str, list[float]] = {}
            for kind in ("t1", "fa"):
                paths = [path for path in listed[f"{kind}_path"] if path is not None]
                measures[kind] = _fill(
                    folder / f"{kind}.npy", [str(data_dir / p) for p in paths], profile, kind
                )
                checksums[kind] = checksum(folder / f"{kind}.npy")
                rows[kind] = len(paths)
            has = listed["fa_path"].notna().to_numpy()
            fa_row = np.where(has, np.cumsum(has) - 1, -1)
            write_json(
                folder / "index.json",
                {
                    "rows": rows,
                    "shape": profile.volume_shape,
                    "voxel_mm": profile.voxel_mm,
                    "fa_row": fa_row,
                    "checksums": checksums,
                    "measures": measures,
                },
            )
    return folder


def _key(listed: pd.DataFrame, data_dir: Path, profile: Profile) -> str:
    parts = [str(VERSION), str(profile.volume_shape)]
    for path in listed.to_numpy().ravel():
        if path is None:
            parts.append("none")
            continue
        file = data_dir / path
        if not file.exists():
            raise VolumeError(f"{file} is missing; complete the download or empty its path")
        stat = file.stat()
        parts.append(f"{path}:{stat.st_size}:{stat.st_mtime_ns}")
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def _fill(target: Path, paths: list[str], profile: Profile, kind: str) -> list[float]:
    from tqdm import tqdm

    one = preprocess(profile, kind)
    measures = []
    with atomic_path(target) as temporary:
        shape = (len(paths), *profile.volume_shape)
        out = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
        _reserve(temporary)
        pool = ThreadPoolExecutor()  # NumPy, gzip and torch release the interpreter
        try:
            done = pool.map(one, paths)
            bar = tqdm(done, total=len(paths), desc=f"preprocessing {kind}", mininterval=5)
            for row, (volume, number) in enumerate(bar):
                out[row] = volume
                measures.append(number)
        finally:  # after an error or an interrupt, what has not begun never begins
            pool.shutdown(cancel_futures=True)
        out.flush()
    return measures


def _reserve(path: Path) -> None:
    """Claim a file's disk space now: a full disk under a memory map kills the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)


def write_volumes(run: Run, cohort: pd.DataFrame) -> Volumes:
    """Build (or find) the run's volumes and note in volumes.json where they are.

    Raises
    ------
    VolumeError
        Names the file that cannot be used; of real data, only how to find its name.
    """
    if "t1_path" not in cohort:
        cohort = load_cohort(run, private=True)
    try:
        folder = build_volumes(cohort, run.data_dir, run.profile)
    except (VolumeError, OSError) as error:
        if run.synthetic:
            raise
        names = [name for c in ("t1_path", "fa_path") for name in cohort[c].dropna()]
        text = conceal(str(error), run.data_dir, names)
        # 'from None': the first error's text names the file
        raise VolumeError(f"{text} ({CHECK})") from None
    write_json(
        run.path("volumes.json"),
        {"folder": str(folder.relative_to(config.cache_dir())), **read_json(folder / "index.json")},
    )
    return open_volumes(run)


def open_volumes(run: Run) -> Volumes:
    """Open the memory maps that chapter 2 made, and compare their checksums once.

    Raises
    ------
    MissingArtefactError
        Chapter 2 has not run, or the cache was deleted since.
    VolumeError, DamagedFileError
        A memory map does not fit the index, or is damaged.
    """
    index = read_json(run.path("volumes.json"))
    folder = config.cache_dir() / index["folder"]
    mend = (
        f"python -m memoir_book.run --profile {run.profile.name} --run {run.name} --only 02 --force"
    )
    arrays = {}
    for kind in ("t1", "fa"):
        path = folder / f"{kind}.npy"
        if not path.exists():
            raise MissingArtefactError(f"{path} is missing; make it again:\n  {mend}")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise VolumeError(
                f"{path} is damaged ({error}); delete {folder}, then\n  {mend}"
            ) from error
        wanted = (index["rows"][kind], *index["shape"])
        if array.shape != wanted or array.dtype != np.float16:
            raise VolumeError(
                f"{path} holds {array.dtype} {array.shape}, not float16 {wanted}; "
                f"delete {folder}, then\n  {mend}"
            )
        compare(path, index["checksums"][kind], f"delete {folder}, then\n  {mend}")
        arrays[kind] = array
    fa_row = np.array(index["fa_row"], int)
    fornix = np.append(np.array(index["measures"]["fa"], float), np.nan)[fa_row]  # -1: the NaN
    measures = pd.DataFrame({"ventricle_share": index["measures"]["t1"], "fornix_fa": fornix})
    return Volumes(arrays["t1"], arrays["fa"], fa_row, measures)


def examples(run: Run, cohort: pd.DataFrame, kind: str) -> dict[str, np.ndarray]:
    """One picture per class, of subjects near the median age, so that age is not what differs.

    It shows one subject, or, where single subjects may not be shown, the mean of ten. A
    class with fewer has no picture; if none has ten, all are averaged.

    Parameters
    ----------
    kind : 't1' or 'fa'.

    Returns
    -------
    name -> (X, Y, Z) volume as it lies in the file.

    Raises
    ------
    SmallGroupError
        Fewer than ten subjects have such a volume.
    """
    import nibabel as nib

    middle = cohort["AGE"].median()

    def nearest(rows: pd.DataFrame, n: int) -> pd.DataFrame:
        return rows.loc[(rows["AGE"] - middle).abs().sort_values(kind="stable").index[:n]]

    def mean(rows: pd.DataFrame) -> np.ndarray:
        files: list[Any] = [nib.load(run.data_dir / path) for path in rows[f"{kind}_path"]]
        return np.mean([file.get_fdata(dtype=np.float32) for file in files], axis=0)

    table = load_cohort(run, private=True)
    table = table[table["has_fa"]] if kind == "fa" else table
    n = 1 if run.individual else SMALLEST_GROUP
    classes = {dx: nearest(table[table["DX"] == dx], n) for dx in DX}
    classes = {dx: rows for dx, rows in classes.items() if len(rows) == n}
    if run.individual:
        return {f"{dx}, case {rows['case'].item()}": mean(rows) for dx, rows in classes.items()}
    if classes:
        return {f"{dx}, mean of {n}": mean(rows) for dx, rows in classes.items()}
    if len(table) < n:
        raise SmallGroupError(
            f"{len(table)} subjects have an {kind.upper()} volume; a mean of fewer than {n} could "
            "show one of them"
        )
    return {f"all classes, mean of {len(table)}": mean(table)}


def template(profile: Profile) -> np.ndarray:
    """The MNI template (ICBM 2009a, from nilearn) on the profile's grid: (X, Y, Z) float32."""
    import torch
    from nilearn import datasets, image

    affine = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    affine[:3, 3] = MNI_CENTRE - GRID_MM * (np.array(GRID) - 1) / 2  # RAS, as cached volumes
    loaded = datasets.load_mni152_template(resolution=int(GRID_MM))
    fitted = image.resample_img(
        loaded, affine, GRID, copy_header=True, force_resample=True
    ).get_fdata(dtype=np.float32)
    return _coarsen(torch.from_numpy(fitted)[None], profile.volume_shape)[0].numpy()


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
    """Move and scale each volume of a batch a little; change its contrast a little.

    Rotations up to 4 degrees, scales up to 4 %, shifts up to 4 % of the grid (7 mm),
    intensity gain up to 10 %: more than 9DOF registration leaves, because a few hundred
    subjects are soon known by heart. No left-right flips: atrophy is often asymmetric, and
    volumes registered to a template do not come mirrored.

    Parameters
    ----------
    batch : (B, 1, X, Y, Z) tensor, zero outside the brain.
    generator : torch.Generator on the CPU; the same state gives the same result.

    Returns
    -------
    (B, 1, X, Y, Z) tensor.
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


__all__ = [
    *("VolumeError", "Volumes", "augment", "build_volumes", "examples", "open_volumes", "template"),
    "write_volumes",
]
