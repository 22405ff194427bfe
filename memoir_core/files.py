"""Files that are whole or absent, and folders that know what made them."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import psutil

SETTINGS = "settings.json"  # of a folder of work, written last: what made it, and checksums
STATE = ".state"  # in a folder of work that is not finished: what it goes on from


class DamagedFileError(ValueError):
    """A file is not what was written; the message names it and the mend."""


class MissingArtefactError(FileNotFoundError):
    """A file that an earlier chapter makes is not there."""


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there when the block ends without an error.

    A reader sees the old file or folder, or the whole new one. What a killed process left is
    deleted by the next. A full disk is an OSError that names the file. `durable=False` does not
    wait for the disk: enough where only a killed process, not a power cut, would interrupt.
    """
    path = Path(path)
    shelf = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        shutil.rmtree(shelf, ignore_errors=True)  # of a killed process with the same number
        shelf.mkdir()
        temporary = shelf / path.name  # the same name: libraries choose the format by it
        yield temporary
        if durable and temporary.is_file():
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        if path.is_dir():  # a folder cannot be replaced in one step
            path.replace(shelf / ".old")
        temporary.replace(path)
    except Exception as error:  # torch, safetensors, faiss and pyarrow each raise their own kind
        if _disk_is_full(error, path.parent):
            raise OSError(
                errno.ENOSPC,
                f"no space left on the disk ({type(error).__name__}); nothing was changed. "
                "Free some space and run the same again",
                str(path),
            ) from error
        raise
    finally:
        shutil.rmtree(shelf, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete what killed processes left in a folder."""
    for stale in folder.glob(".*.partial"):
        pid = stale.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(stale, ignore_errors=True)


def _disk_is_full(error: Exception, folder: Path) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    said = any(os.strerror(number) in str(error) for number in full)  # torch gives no number
    return said or (folder.exists() and shutil.disk_usage(folder).free < 4096)


def checksum(path: Path) -> str:
    """Hash the content of a file, or the names and contents of a folder's files."""
    path = Path(path)
    if path.is_dir():
        return digest({p.relative_to(path).as_posix(): checksum(p) for p in _inside(path)})
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _inside(folder: Path) -> list[Path]:
    """The files of a folder, without hidden ones, which are locks or half written."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return [p for p in found if not any(n[0] == "." for n in p.relative_to(folder).parts)]


def digest(value: Any) -> str:
    """Hash a value by its content: text, numbers, mappings, sequences, arrays, tables, paths."""
    state = hashlib.blake2b(digest_size=16)
    _feed(state, value)
    return state.hexdigest()


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, pd.DataFrame):
        _feed(state, [*value.columns])
        _feed(state, pd.util.hash_pandas_object(value).to_numpy())
    elif isinstance(value, np.ndarray):
        state.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        _feed(state, [(key, value[key]) for key in sorted(value, key=str)])
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        state.update(f"[{len(value)}".encode())
        for item in value:
            _feed(state, item)
    else:
        state.update(f"{type(value).__name__} {value!r};".encode())


def code_digest(*modules: ModuleType) -> str:
    """Hash the source of some modules: what they make is stale once they change."""
    return digest([Path(m.__file__).read_text(encoding="utf-8") for m in modules if m.__file__])


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_jsonl(path: Path, rows: Sequence[Mapping]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; DamagedFileError names one that is none."""
    return _parse(path, Path(path).read_bytes())


def read_jsonl(path: Path) -> list[dict]:
    """Read a file of one JSON object a line; see `read_json`."""
    lines = Path(path).read_bytes().splitlines()
    return [_parse(path, line, f", line {number}") for number, line in enumerate(lines, 1)]


def _parse(path: Path, text: bytes, where: str = "") -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # no JSON, or no UTF-8
        mend = "delete the file and run again"
        raise DamagedFileError(f"{path}{where} is damaged ({error}); {mend}") from error


def _plain(value: Any) -> Any:
    """Turn NumPy scalars, arrays and paths into what JSON knows."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


# --- what made a folder -----------------------------------------------------------------


def difference(old: Mapping, new: Mapping) -> str:
    """Say in words in what two settings differ; '' where they are equal."""
    old, new = (json.loads(json.dumps(value, default=_plain)) for value in (old, new))
    said = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            said.append(f"{key} ({difference(a, b)})")
        elif any(isinstance(v, str) and len(v) == 32 for v in (a, b)):
            said.append(f"{key} changed")  # a checksum means nothing to a reader
        else:
            said.append(f"{key} {a} -> {b}")
    return ", ".join(said)


def is_finished(folder: Path, settings: Mapping) -> bool:
    """Does a folder hold whole work that was made with just these settings?

    If not, its content is deleted, after saying what changed.
    """
    folder = Path(folder)
    if not folder.exists():
        return False
    why = damage(folder) or difference(read_json(folder / SETTINGS).get("settings", {}), settings)
    if why:
        print(f"{folder.name} is made anew: {why}")
        shutil.rmtree(folder)
    shutil.rmtree(folder / STATE, ignore_errors=True)
    _sweep(folder)
    return not why


def damage(folder: Path) -> str:
    """Say why a folder is not finished and whole; '' where it is."""
    _sweep(Path(folder))
    try:
        wanted = read_json(folder / SETTINGS)["files"]
        bad = [n for n in wanted if not (folder / n).exists() or checksum(folder / n) != wanted[n]]
    except FileNotFoundError:
        return f"{folder} is missing or was not finished"
    except (DamagedFileError, KeyError, TypeError):
        return f"{folder / SETTINGS} is damaged"
    return f"{folder / bad[0]} is damaged or missing" if bad else ""


def finish(folder: Path, settings: Mapping) -> None:
    """Note in a folder what made it and what it holds; see `is_finished`."""
    files = [p for p in _inside(Path(folder)) if p.name != SETTINGS]
    names = {p.relative_to(folder).as_posix(): checksum(p) for p in files}
    write_json(Path(folder) / SETTINGS, {"settings": settings, "files": names})
    shutil.rmtree(Path(folder) / STATE, ignore_errors=True)


# --- work that was interrupted ----------------------------------------------------------


def save_state(folder: Path, epoch: int, settings: Mapping, state: dict) -> None:
    """Store what a training goes on from, under a name that holds its checksum.

    One file, moved into place: an epoch is whole or absent. The one before is kept, too.
    """
    import torch

    new, memory = Path(folder) / STATE / "new", io.BytesIO()
    torch.save({"settings": settings, **state}, memory)  # its own writer would hide a full disk
    with atomic_path(new, durable=False) as temporary:
        temporary.write_bytes(memory.getbuffer())
    new.replace(new.with_name(f"epoch{epoch:03d}.{checksum(new)}"))
    for old in sorted(new.parent.glob("epoch*"))[:-2]:
        old.unlink()


def newest_state(folder: Path, settings: Mapping) -> dict | None:
    """Read the newest whole state made with just these settings, or empty the folder.

    It says what it does, and why.
    """
    import torch

    for path in sorted((Path(folder) / STATE).glob("epoch*"), reverse=True):
        if checksum(path) != path.suffix[1:]:
            print(f"{path} is damaged: the epoch before it is taken")
            continue
        state = torch.load(path, map_location="cpu", weights_only=True)
        if changed := difference(state.pop("settings"), settings):
            print(f"{folder.name} is made anew: {changed}")
            break
        print(f"{folder.name}: resumed after {path.stem}")
        return state
    shutil.rmtree(Path(folder) / STATE, ignore_errors=True)  # first: it belongs to the rest
    shutil.rmtree(folder, ignore_errors=True)
    return None
