"""Files that are whole or absent, and folders that know what made them."""

from __future__ import annotations

import errno
import hashlib
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
FULL = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


class DamagedFileError(ValueError):
    """A file is not what was written; the message names it and the mend."""


class MissingArtefactError(FileNotFoundError):
    """A file that an earlier chapter makes is not there."""


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; what was written there, a file or folder, moves to `path` at the end.

    An error leaves the old one; a full disk is an OSError that names the file. `durable=False`
    does not wait for the disk: a power cut may lose the file.
    """
    shelf = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary = shelf / path.name  # the same name: libraries choose the format by it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        shutil.rmtree(shelf, ignore_errors=True)  # of a killed process with the same number
        shelf.mkdir()
        yield temporary
        if durable and temporary.is_file():
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        if path.is_dir():  # a folder cannot be replaced in one step
            path.replace(shelf / ".old")
        temporary.replace(path)
    except Exception as error:  # torch, safetensors, faiss and pyarrow each raise their own kind
        full = path.parent.exists() and shutil.disk_usage(path.parent).free < 4096
        if full or any(text in str(error) for text in FULL):
            what = f"no space left on the disk ({type(error).__name__}); this was not changed"
            raise OSError(errno.ENOSPC, f"{what}. Free some and run again", str(path)) from error
        raise
    finally:
        if not path.exists() and (shelf / ".old").exists():  # the second step failed
            (shelf / ".old").replace(path)
        shutil.rmtree(shelf, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what killed processes left of `atomic_path` in a folder."""
    for stale in folder.glob(".*.partial"):
        pid = stale.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(stale, ignore_errors=True)


def checksum(path: Path) -> str:
    """Hash the content of a file, or the names and contents of a folder's files."""
    if path.is_dir():
        return digest(_checksums(path))
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    """Hash the files of a folder, without hidden ones, which are locks or half written."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name: checksum(folder / name) for name in names if "/." not in f"/{name}"}


def digest(value: Any) -> str:
    """Hash a value by its content: what JSON knows, arrays, tables, paths; no order of keys."""
    text = json.dumps(value, sort_keys=True, default=_content)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return [*value.columns], pd.util.hash_pandas_object(value).tolist()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes().hex()
    return _plain(value)


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
    """Read a JSON file, or raise DamagedFileError, which names it."""
    return _parse(path, path.read_bytes())


def read_jsonl(path: Path) -> list[dict]:
    """Read a file of one JSON object a line, as `read_json`."""
    lines = path.read_bytes().splitlines()
    return [_parse(path, line, f", line {number}") for number, line in enumerate(lines, 1)]


def _parse(path: Path, text: bytes, where: str = "") -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # no JSON, or no UTF-8
        what = f"{path}{where} is damaged ({error}); delete the file and run again"
        raise DamagedFileError(what) from error


def _plain(value: Any) -> Any:
    """NumPy scalars, arrays and paths as JSON knows them; TypeError for other things."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else os.fspath(value)


def difference(old: Mapping, new: Mapping) -> str:
    """Say in words in what two settings differ; '' where they are equal."""
    old, new = (json.loads(json.dumps(value, default=_plain)) for value in (old, new))
    said = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            said.append(f"{key} ({difference(a, b)})")
        elif a != b:  # a checksum means nothing to a reader
            is_sum = any(isinstance(v, str) and len(v) == 64 for v in (a, b))
            said.append(f"{key} changed" if is_sum else f"{key} {a} -> {b}")
    return ", ".join(said)


def is_finished(folder: Path, settings: Mapping) -> bool:
    """Does a folder hold whole work of just these settings? If not, say why and delete it."""
    if not folder.exists():
        return False
    why = damage(folder) or difference(read_json(folder / SETTINGS).get("settings", {}), settings)
    if why:
        print(f"{folder.name} is made anew: {why}")
        shutil.rmtree(folder)
    return not why


def damage(folder: Path) -> str:
    """Say why a folder is not finished and whole; '' where it is."""
    sweep(folder)
    try:
        wanted, found = read_json(folder / SETTINGS)["files"], _checksums(folder)
        bad = [name for name in wanted if found.get(name) != wanted[name]]
    except FileNotFoundError:
        return f"{folder} is missing or was not finished"
    except (DamagedFileError, KeyError, TypeError):
        return f"{folder / SETTINGS} is damaged"
    return f"{folder / bad[0]} is damaged or missing" if bad else ""


def finish(folder: Path, settings: Mapping) -> None:
    """Note in a folder what made it and what it holds; see `is_finished`."""
    shutil.rmtree(folder / STATE, ignore_errors=True)
    found = {name: x for name, x in _checksums(folder).items() if name != SETTINGS}
    write_json(folder / SETTINGS, {"settings": settings, "files": found})


def save_state(folder: Path, epoch: int, settings: Mapping, state: dict) -> None:
    """Store what a training goes on from; keep the epoch before, too. The name has a checksum."""
    import torch

    new = folder / STATE / "new"
    with atomic_path(new, durable=False) as temporary, open(temporary, "wb") as handle:
        torch.save({"settings": settings, **state}, handle)  # to a path, it hides a full disk
    new.replace(new.with_name(f"epoch{epoch:03d}.{checksum(new)}"))
    for old in sorted(new.parent.glob("epoch*"))[:-2]:
        old.unlink()


def newest_state(folder: Path, settings: Mapping) -> dict | None:
    """Read the newest whole state of just these settings, or delete the folder; say which."""
    import torch

    for path in sorted((folder / STATE).glob("epoch*"), reverse=True):
        if checksum(path) != path.suffix[1:]:
            print(f"{path} is damaged: the epoch before it is taken")
            continue
        state = torch.load(path, map_location="cpu", weights_only=True)
        if changed := difference(state.pop("settings"), settings):
            print(f"{folder.name} is made anew: {changed}")
            break
        print(f"{folder.name}: resumed after {path.stem}")
        return state
    shutil.rmtree(folder / STATE, ignore_errors=True)  # first: it belongs to the rest
    shutil.rmtree(folder, ignore_errors=True)
    return None
