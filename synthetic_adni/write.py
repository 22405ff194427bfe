"""Write a synthetic download in the shape that ADNI gives a researcher.

`ADNIMERGE.csv`, `images.csv` and NIfTI volumes of people who do not exist. `tables.py` says
how a person is made, `anatomy.py` and `render.py` how the volumes are.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm import tqdm

from . import tables

VERSION = 3  # raise it when the data change, so that stale downloads are written anew
MARKER = "SYNTHETIC.json"  # last file of a download: what was asked for, sums of the tables
BEGUN = "begun.json"  # while volumes are missing: for which download those are that lie here
TABLES = ("ADNIMERGE.csv", "images.csv")


def is_synthetic(directory: str | Path, tables_alone: bool = False) -> bool:
    """Say whether the tables of a folder, and the volumes they list, are those written there.

    A marker can be copied beside real tables, and real images be put under ours. So every table
    and volume must have the checksum that the marker gives it, and there is no other table.
    """
    made = _read((directory := Path(directory).expanduser()) / MARKER)
    if set(sums := made.get("tables") or {}) != set(TABLES) or _sums(directory) != sums:
        return False
    listed = {*pd.read_csv(directory / TABLES[1])[["t1_path", "fa_path"]].melt()["value"].dropna()}
    known = made.get("volumes", {})
    if tables_alone or any((directory / name).exists() for name in listed - known.keys()):
        return tables_alone  # else a volume lies there that was not written here
    found = _volumes(directory, listed & known.keys())
    return all(content in ("", known[name]) for name, content in found.items())


def ensure_download(
    directory: str | Path, subjects: int, fa_fraction: float, workers: int = 0, device: str = "cpu"
) -> Path:
    """Write a synthetic download once; later calls return at once.

    A call that was killed goes on with the files that are missing.

    subjects : how many remain after the published filters.
    fa_fraction : share of them with an FA volume.
    workers : processes that render; 0 takes one per core, 1 no other than this one.
    device : 'cuda' renders in batches on the GPU.

    Raises FileExistsError where the folder holds tables that this package did not write.
    """
    directory = Path(directory)
    wanted: dict[str, Any] = {"synthetic": True, "version": VERSION, "subjects": subjects}
    wanted |= {"fa_fraction": round(fa_fraction, 4), "seed": tables.SEED}
    if not _is_made(directory, wanted) or (directory / BEGUN).exists():
        # Two runs that begin together would delete each other's files.
        with FileLock(directory.with_name(f"{directory.name}.lock")):
            if not _is_made(directory, wanted):
                _make_download(directory, fa_fraction, wanted, workers, device)
            (directory / BEGUN).unlink(missing_ok=True)
    return directory


def write_tables(
    directory: str | Path, subjects: int, fa_fraction: float, drift: float = tables.SCORE_DRIFT
) -> pd.DataFrame:
    """Write ADNIMERGE.csv and images.csv only (seconds at any size); see `tables.make_tables`.

    Returns what the volumes would be rendered from. Raises FileExistsError where the folder
    holds tables that this package did not write.
    """
    content, latents = _make_tables(Path(directory), subjects, fa_fraction, drift)
    _write_tables(Path(directory), content)
    return latents


def _make_tables(
    directory: Path, subjects: int, fa_fraction: float, drift: float = tables.SCORE_DRIFT
) -> tuple[dict[str, bytes], pd.DataFrame]:
    """Make the content of both tables, and refuse a folder where it would replace others."""
    *made, latents = tables.make_tables(subjects, fa_fraction, drift)
    texts = [table.to_csv(index=False, lineterminator="\n").encode() for table in made]
    content = dict(zip(TABLES, texts, strict=True))
    same = _sums(directory).items() <= {name: _sum(text) for name, text in content.items()}.items()
    if not (same or is_synthetic(directory, True) or _read(directory / BEGUN)):
        raise FileExistsError(
            f"{directory} holds tables that are not the synthetic ones, so none are written there;"
            " give another folder, or delete this one if it is an old synthetic download"
        )
    return content, latents


def _write_tables(directory: Path, content: dict[str, bytes]) -> None:
    for name, text in content.items():
        _write_whole(directory / name, text)
    marker = {"synthetic": True, "tables_only": True, "tables": _sums(directory)}
    _write_json(directory / MARKER, marker)


def _make_download(
    directory: Path, fa_fraction: float, wanted: dict, workers: int, device: str
) -> None:
    marker, begun = directory / MARKER, directory / BEGUN
    content, latents = _make_tables(directory, wanted["subjects"], fa_fraction)
    mine = any(wanted.items() <= _read(path).items() for path in (begun, marker))  # else, another's
    for old in _changed(directory) if mine else directory.glob("images/9??_S_9*/*.nii.gz"):
        old.unlink(missing_ok=True)
    _write_json(begun, wanted)
    _write_tables(directory, content)
    size = 32 if device.startswith("cuda") else 1
    batches = []
    for kind in ("t1", "fa"):
        listed = latents.assign(path=latents[f"{kind}_path"]).query("path != ''").to_dict("records")
        rows = [row for row in listed if not (directory / row["path"]).exists()]
        batches += [(kind, rows[i : i + size]) for i in range(0, len(rows), size)]
    here = device.startswith("cuda") or workers == 1
    many = nullcontext() if here else ProcessPoolExecutor(workers or None, get_context("spawn"))
    with many as pool:
        run = pool.map if pool else map
        done = run(partial(_write_volumes, directory, device), batches)
        list(tqdm(done, "rendering volumes", len(batches), mininterval=5))
    volumes = _volumes(directory, [*latents["t1_path"], *filter(None, latents["fa_path"])])
    _write_json(marker, wanted | {"tables": _sums(directory), "volumes": volumes})


def _is_made(directory: Path, wanted: dict) -> bool:
    made = wanted.items() <= _read(directory / MARKER).items() and is_synthetic(directory, True)
    return made and not _changed(directory)


def _changed(directory: Path) -> list[Path]:
    """Volumes that are missing or not what the marker says that was written."""
    known = _read(directory / MARKER).get("volumes", {})
    return [directory / n for n, found in _volumes(directory, known).items() if found != known[n]]


def _volumes(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """Checksum of each volume; '' where it is missing."""
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        paths = pool.map(directory.joinpath, names)
        sums = pool.map(lambda p: _sum(p.read_bytes()) if p.exists() else "", paths)
        return dict(zip(names, sums, strict=True))


def _write_volumes(directory: Path, device: str, batch: tuple[str, list[dict]]) -> None:
    """Render volumes, and write them as int16 NIfTI: T1 in its own units, FA in 0.0001."""
    import nibabel as nib
    import torch

    from . import render  # here, so that `is_synthetic` needs no torch

    kind, latents = batch
    scale = 1.0 if kind == "t1" else 1e-4
    draw = render.render_t1 if kind == "t1" else render.render_fa

    def write(latent: dict, data: np.ndarray) -> None:
        header = nib.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_xyzt_units("mm")
        volume = nib.Nifti1Image(np.round(data / scale).astype(np.int16), tables.AFFINE, header)
        volume.header.set_slope_inter(scale, 0)
        # Level 1 and no time stamp: fast, and the same bytes every time.
        packed = gzip.compress(volume.to_bytes(), compresslevel=1, mtime=0)
        _write_whole(directory / latent["path"], packed)

    for latent in latents:  # before the threads, which would race for a common folder
        (directory / latent["path"]).parent.mkdir(parents=True, exist_ok=True)
    usual = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)  # the processes share the cores among themselves
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(write, latents, draw(latents, device)))
    finally:
        torch.set_num_threads(usual)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, f"{error.strerror}; it was not written", str(path)) from error


def _write_json(path: Path, content: dict) -> None:
    _write_whole(path, json.dumps(content, indent=1).encode())


def _read(path: Path) -> dict:
    """Read a JSON object; {} if there is none or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sums(directory: Path) -> dict[str, str]:
    """Checksum of every table that lies in a folder."""
    found = (p for p in directory.glob("*") if p.suffix.lower() in (".csv", ".tsv"))
    return {path.name: _sum(path.read_bytes()) for path in found}
