"""The run folder: what a chapter reads, what it writes, and where its numbers come from."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import platform
import random
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from memoir_core import config
from memoir_core.config import Profile
from memoir_core.files import digest

SYNTHETIC_MARKER = "SYNTHETIC.json"  # written into every synthetic download
# Files that only programs write: each gets a checksum beside it, which a reader compares.
SEALED = (".jsonl", ".npz", ".parquet", ".pt", ".safetensors")
_VERSIONS = ("torch", "monai", "transformers", "sentence-transformers", "faiss-cpu", "numpy")


class MissingArtefactError(FileNotFoundError):
    """A chapter was started before the chapters that make its inputs."""


class RunMismatchError(ValueError):
    """A run folder was begun with other settings than the ones now given."""


class DamagedFileError(ValueError):
    """A file is not what was written: its checksum differs."""


@dataclass(frozen=True)
class Run:
    """One run of the book: settings, folder, and the label that its results carry."""

    name: str
    profile: Profile
    seed: int
    device: str
    data_dir: Path
    synthetic: bool
    chapter: str
    publish_individual: bool = False
    started: float = field(default_factory=time.time)

    @property
    def dir(self) -> Path:
        return config.runs_dir() / self.name

    @property
    def individual(self) -> bool:
        """May pages show single subjects? Synthetic ones always, real ones only if asked."""
        return self.synthetic or self.publish_individual

    @property
    def cohort_label(self) -> str:
        return "synthetic" if self.synthetic else "ADNI"

    @property
    def label(self) -> str:
        """Say where a number comes from, for figure captions and tables."""
        return (
            f"{self.cohort_label} cohort, profile {self.profile.name}, "
            f"seed {self.seed}, {self.device}"
        )

    def path(self, *parts: str) -> Path:
        return self.dir.joinpath(*parts)


def resolve_device(device: str) -> str:
    """Turn 'auto' into 'cuda' where there is a GPU, else 'cpu'."""
    if device not in ("auto", "cpu") and not device.startswith("cuda"):
        raise ValueError(f"device={device!r} is unknown; use 'auto', 'cpu', 'cuda' or 'cuda:0'")
    import torch  # here, so that the runner and --help start fast

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but torch sees no GPU; use 'cpu'")
    return device


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries still draw from the global generator
    torch.manual_seed(seed)


def default_run_name(profile: str, seed: int, data_dir: str = "") -> str:
    """Name a run; a data folder is named by a pseudonym, since its own name may tell too much."""
    return f"{profile}-seed{seed}" + (f"-data-{folder_name(data_dir)[:6]}" if data_dir else "")


def folder_name(data_dir: str | Path) -> str:
    return digest(str(Path(data_dir).expanduser().resolve()))


def is_synthetic(data_dir: str | Path) -> bool:
    """Say whether a data folder ('': the book's own) holds nobody's data."""
    return not data_dir or (Path(data_dir).expanduser() / SYNTHETIC_MARKER).exists()


def synthetic_dir(profile: Profile) -> Path:
    """Where the profile's synthetic download lives; made by chapter 01, shared by all runs."""
    return config.cache_dir() / "synthetic" / f"{profile.name}-{profile.subjects}"


def start_chapter(
    chapter: str,
    *,
    profile: str,
    run: str = "",
    data_dir: str = "",
    seed: int = 0,
    device: str = "auto",
    publish_individual: bool = False,
) -> Run:
    """Open a run folder for a chapter: check inputs, fix seeds, say what will run.

    Parameters
    ----------
    chapter : name of the chapter, such as '04_stage1_contrastive'.
    profile, run, data_dir, seed, device : the notebook's papermill parameters.
        `run=''` names the folder after profile and seed; `data_dir=''` means the
        synthetic download, which chapter 01 makes.
    publish_individual : show single subjects of real data; for pages that stay with you.

    Raises
    ------
    MissingArtefactError
        An input is not there; the message gives the command that makes it.
    RunMismatchError
        The run folder was begun with another profile, seed or data folder (which the message
        names by its pseudonym).
    """
    spec = config.get_chapter(chapter)
    sizes = config.get_profile(profile)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed={seed!r} must be a whole number of at least 0")
    data = Path(data_dir).expanduser().resolve() if data_dir else synthetic_dir(sizes)
    if data_dir and not data.is_dir():
        raise FileNotFoundError(f"data_dir={data_dir!r} is not a folder")
    name = run or default_run_name(profile, seed, data_dir)
    if Path(name).name != name:
        raise ValueError(f"run={name!r} must be a plain folder name, without '/'")
    opened = Run(
        name=name,
        profile=sizes,
        seed=seed,
        device=resolve_device(device),
        data_dir=data,
        synthetic=is_synthetic(data_dir),
        chapter=spec.name,
        publish_individual=publish_individual,
    )
    _check_settings(opened)
    _check_inputs(opened, spec)
    set_seed(seed)
    print(f"{spec.number} {spec.title}: {opened.label}; results in runs/{name}/")
    if publish_individual and not opened.synthetic:
        print("Single subjects of real data are shown: do not pass these pages on.")
    return opened


def _check_settings(run: Run) -> None:
    settings = {
        "profile": run.profile.name,
        "seed": run.seed,
        "data": "synthetic"
        if run.data_dir == synthetic_dir(run.profile)
        else f"folder {folder_name(run.data_dir)}",
    }
    path = run.path("run.json")
    if path.exists():
        found = read_json(path)
        changed = [k for k in settings if found.get(k) != settings[k]]
        if changed:
            raise RunMismatchError(
                f"run {run.name!r} was begun with "
                + ", ".join(f"{k}={found.get(k)!r}" for k in changed)
                + "; now given "
                + ", ".join(f"{k}={settings[k]!r}" for k in changed)
                + ". Choose another run name, or delete the folder runs/"
                + run.name
            )
    else:
        write_json(path, settings)


def _check_inputs(run: Run, spec: config.Chapter) -> None:
    for needed in spec.reads:
        maker = next(c for c in config.CHAPTERS if needed in c.writes)
        command = (
            f"python -m memoir_book.run --profile {run.profile.name} --seed {run.seed} "
            f"--run {run.name}"
        )
        if not run.path(needed).exists():
            raise MissingArtefactError(
                f"runs/{run.name}/{needed} is missing: chapter {spec.number} needs chapter "
                f"{maker.number} ({maker.title}) to run first:\n"
                f"  {command} --to {maker.number}"
            )
        verify(
            run.path(needed),
            f"make it again:\n  {command} --only {maker.number} --force",
        )


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it when the block ends without an error.

    A reader therefore sees the old file or the whole new one, never half a file. Files of
    the kinds in `SEALED` get a checksum, see `verify`. What killed processes of this machine
    left half written is deleted.

    Parameters
    ----------
    durable : False does not wait for the disk: enough for large files that only a killed
        process, not a power cut, is likely to interrupt.

    Raises
    ------
    OSError
        The disk is full; the message names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    # The suffix stays last, because numpy and pandas choose the format by it.
    temporary = path.with_name(f"{_temporary_stem(path)}{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        unseal(path)
        sealed = checksum(temporary) if path.suffix in SEALED else ""
        temporary.replace(path)
        if sealed:
            _seal_path(path).write_text(sealed, encoding="ascii")
    except Exception as error:  # torch, safetensors, faiss and pyarrow each raise their own kind
        if _disk_is_full(error, path.parent):
            raise OSError(
                errno.ENOSPC,
                f"no space left while writing ({type(error).__name__}); nothing was changed. "
                "Free some space and run the same again",
                str(path),
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_stem(path: Path) -> str:
    return f".{path.stem}.{platform.node()}."  # machines may share a folder


def _sweep(path: Path) -> None:
    """Delete what killed processes left of `path`."""
    stem = _temporary_stem(path)
    for stale in path.parent.glob(f"{glob.escape(stem)}*{glob.escape(path.suffix)}"):
        number = stale.name[len(stem) : len(stale.name) - len(path.suffix)]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            stale.unlink(missing_ok=True)


def _disk_is_full(error: Exception, folder: Path) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in full:
        return True
    said = any(os.strerror(number) in str(error) for number in full)
    return said or shutil.disk_usage(folder).free < 4096


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Let one process at a time in; the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- checksums --------------------------------------------------------------------------


def checksum(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _seal_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.blake2b")


def seal(path: Path) -> None:
    """Write a file's checksum beside it: `.NAME.blake2b`."""
    _seal_path(path).write_text(checksum(path), encoding="ascii")


def unseal(path: Path) -> None:
    """Delete the checksum of a file that is about to change.

    It goes before the file changes and comes back after: a run killed in between leaves a
    whole file without a checksum, never one with a wrong one.
    """
    _seal_path(path).unlink(missing_ok=True)


def verify(path: Path, mend: str = "delete it and run the chapter that makes it again") -> None:
    """Compare a file with the checksum that was written with it.

    A file without a checksum, which some other program put there, is taken as it is.

    Raises
    ------
    DamagedFileError
        The file is not what was written; the message names it and the mend.
    """
    stored = _seal_path(Path(path))
    wanted = stored.read_text(encoding="ascii") if stored.exists() else ""
    if wanted:  # empty: killed between opening and writing it
        compare(Path(path), wanted, mend)


def seal_weights(folder: Path) -> None:
    """Seal every .safetensors file of a model's folder."""
    for path in folder.rglob("*.safetensors"):
        seal(path)


def verify_weights(folder: Path, mend: str) -> None:
    """Verify every .safetensors file of a model's folder; see `verify`."""
    for path in folder.rglob("*.safetensors"):
        verify(path, mend)


_compared: set[tuple] = set()


def compare(path: Path, wanted: str, mend: str) -> None:
    """Compare a file with a checksum, once per process and date of the file; see `verify`."""
    stat = path.stat()
    key = (path, stat.st_size, stat.st_mtime_ns, wanted)
    if key in _compared:
        return
    if checksum(path) != wanted:
        raise DamagedFileError(f"{path} is damaged (its checksum differs); {mend}")
    _compared.add(key)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and rerun") from error


def write_jsonl(path: Path, rows: list[dict]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")


def read_jsonl(path: Path) -> list[dict]:
    verify(path)
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is not valid JSON ({error}); delete the file and rerun"
            ) from error
    return rows


def _plain(value: Any) -> Any:
    """Turn NumPy scalars, arrays and paths into what JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def provenance(run: Run) -> dict:
    """Say on what a result was computed: cohort, profile, seed, device, versions."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cohort": run.cohort_label,
        "profile": run.profile.name,
        "seed": run.seed,
        "device": run.device,
        "label": run.label,
        "versions": versions,
    }


def save_results(run: Run, results: dict) -> Path:
    """Write a chapter's headline figures with their provenance to `results/<chapter>.json`.

    Chapter 10 builds the report from these files only.
    """
    path = run.path("results", f"{run.chapter}.json")
    write_json(
        path,
        {
            "provenance": provenance(run),
            "seconds": round(time.time() - run.started, 1),
            "peak_memory_gib": round(peak_memory_gib(), 2),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "results": results,
        },
    )
    return path


def load_results(run: Run, chapter: str) -> dict:
    """Read the headline figures of an earlier chapter (name or number)."""
    spec = config.get_chapter(chapter)
    path = run.path("results", f"{spec.name}.json")
    if not path.exists():
        raise MissingArtefactError(
            f"{path} is missing: run chapter {spec.number} first:\n"
            f"  python -m memoir_book.run --profile {run.profile.name} --run {run.name} "
            f"--only {spec.number}"
        )
    return read_json(path)["results"]


def peak_memory_gib() -> float:
    """Peak resident memory of this process, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def end_chapter(run: Run) -> None:
    """Print what the chapter took.

    Times in the book are measured, not guessed.
    """
    print(
        f"Chapter took {time.time() - run.started:.0f} s and {peak_memory_gib():.1f} GiB "
        f"({run.label})."
    )
