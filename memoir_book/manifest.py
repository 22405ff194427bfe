"""The manifest of a run: the one judge of what was made from what.

`runs/<run>/manifest.json` holds for each chapter that has ended: all its parameters, the
checksums of what it read and of what it left, the code that it depends on, the weights that
it used, and the machine. Whoever reads an artefact asks it first.
"""

import ast
import json
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from memoir_core import files
from memoir_core.files import DamagedFileError, MissingArtefactError, checksum, digest
from memoir_core.tables import PATHS, CohortError

from . import chapters
from .chapters import CHAPTERS, Chapter, get_chapter
from .intake.images import list_images
from .messages import say

MANIFEST = "manifest.json"
PACKAGES = ("memoir_core", "memoir_book", "synthetic_adni")
_VERSIONS = ("torch", "monai", "transformers", "sentence-transformers", "faiss-cpu", "numpy")


class RunMismatchError(ValueError):
    """A run folder was begun with other settings, or from other data, than the ones now given."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a run's manifest; {} where there is none, DamagedFileError if it was changed."""
    if not (path := folder / MANIFEST).exists():
        return {}
    with suppress(DamagedFileError, KeyError, AttributeError, TypeError):
        found = files.read_json(path)
        if found.pop("checksum") == digest(json.dumps(found)):
            return found
    raise DamagedFileError(say("damaged manifest", path=path, run=folder.name))


def write_manifest(folder: Path, manifest: Mapping) -> None:
    plain = json.loads(json.dumps(manifest))
    files.write_json(path := folder / MANIFEST, plain | {"checksum": digest(json.dumps(plain))})
    others = {*folder.parent.glob(f"*/{MANIFEST}")} - {path}
    newest = max((other.stat().st_mtime_ns for other in others), default=0)
    if path.stat().st_mtime_ns <= newest:  # a clock went back or stands, yet this is the last
        os.utime(path, ns=(newest + 1, newest + 1))


def current(manifest: Mapping) -> dict[str, tuple[str, str]]:
    """Artefact -> its checksum and the chapter that left it."""
    return {
        path: (wanted, name)
        for name, record in manifest.get("chapters", {}).items()
        for path, wanted in record["artefacts"].items()
    }


def stale(manifest: Mapping, chapter: str, seen: tuple[str, ...] = ()) -> str:
    """Say why what a chapter left is not what it would leave now, by what it had read; ''."""
    known = current(manifest)
    for path, was in manifest["chapters"][chapter]["reads"].items():
        now, maker = known.get(path, ("", ""))
        if maker and was != now:
            return f"chapter {chapter[:2]} read another {path}"
        if maker and maker not in seen and (why := stale(manifest, maker, (*seen, chapter))):
            return why
    return ""


def add_artefact(folder: Path, chapter: str, name: str) -> None:
    """Note one more file that belongs to a chapter which has ended."""
    with FileLock(folder / ".manifest.lock"):
        manifest = read_manifest(folder)
        manifest["chapters"][chapter]["artefacts"][name] = checksum(folder / name)
        write_manifest(folder, manifest)


def reads_now(manifest: Mapping, chapter: Chapter, data: Path) -> dict[str, str]:
    """Checksums of what a chapter would read."""
    known = current(manifest)
    reads = {name: known.get(name, ("missing", ""))[0] for name in chapter.reads}
    return reads | read_download(data, chapter.download)


def checksum_now(path: Path) -> str:
    return checksum(path) if path.exists() else "missing"


def check_inputs(folder: Path, manifest: Mapping, spec: Chapter, data: Path) -> dict[str, str]:
    """Verify all that a chapter reads; return its checksums."""
    command = f"python -m memoir_book.run --profile {manifest['profile']} --run {folder.name}"
    words: dict = {"chapter": spec.number, "folder": folder, "command": command}
    known = current(manifest)
    if absent := [n for n in spec.reads if n not in known or not (folder / n).exists()]:
        words["last"] = max(c.number for c in CHAPTERS if set(absent) & set(c.writes))
        raise MissingArtefactError(say("inputs absent", names=", ".join(absent), **words))
    for name in spec.reads:
        wanted, maker = known[name]
        words |= {"name": name, "maker": maker[:2]}
        verify(folder / name, wanted, again := say("run again", **words))
        if why := stale(manifest, maker):
            raise MissingArtefactError(say("stale", why=why, **words))
        old, now = manifest["chapters"][maker]["code"], code_of(get_chapter(maker))
        if other := [path for path in {**old, **now} if old.get(path) != now.get(path)]:
            print(say("other code", paths=", ".join(other[:3]), again=again, **words))
    reads = reads_now(manifest, spec if data.is_dir() else replace(spec, download=""), data)
    if "tables" in reads and spec.number != "01":
        before = manifest["chapters"].get(CHAPTERS[0].name, {}).get("reads", {})
        if before.get("tables", reads["tables"]) != reads["tables"]:
            raise RunMismatchError(say("other tables", **words))
    return reads


def verify(path: Path, wanted: str, mend: str) -> None:
    """Compare a file or folder with its checksum; DamagedFileError names it and the mend."""
    if checksum(path) != wanted:
        raise DamagedFileError(say("not as left", path=path, mend=mend))


def read_download(data: Path, what: str) -> dict[str, str]:
    """Hash a download: '' nothing, 'tables', or 'images' too, by their content."""
    found, paths = {}, {"tables": {*data.rglob("*.csv")}} if what else {}
    if what == "images":
        paths["images"] = {*data.rglob("*.nii*")}
        with suppress(CohortError):  # chapter 1 names it
            listed = list_images(data)[[*PATHS]].melt()["value"].dropna()
            paths["images"] |= {data / name for name in listed}  # behind a link, on another disk
    for kind, files_of in paths.items():
        there = sorted(str(path) for path in files_of if os.path.isfile(path))  # noqa: PTH113
        found[kind] = digest({p.removeprefix(f"{data}/"): checksum(Path(p)) for p in there})
    return found


def code_of(chapter: Chapter) -> dict[str, str]:
    """Hash a notebook and the files of ours that it imports, directly or through others."""
    cells = json.loads(chapter.notebook.read_text(encoding="utf-8"))["cells"]
    sources = [f"{cell['cell_type']}:{''.join(cell['source'])}" for cell in cells]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    paths = imported_files(code)
    for folder in {path.parent for path in paths}:  # data that modules read: JSON, templates
        paths |= {*folder.glob("*.json"), *folder.glob("*.j2")}
    found = {path.relative_to(chapters.ROOT).as_posix(): checksum(path) for path in sorted(paths)}
    return {f"notebooks/{chapter.notebook.name}": digest(sources), **found}


def imported_files(code: str) -> set[Path]:
    """Find the files of ours that some code imports, directly or through others."""
    code = "\n".join("" if line.lstrip()[:1] in "%!" else line for line in code.splitlines())
    found: set[Path] = set()
    new = _named(ast.parse(code), ())
    while new := new - found:
        found |= new
        new = {file for path in new for file in _imports(path, path.stat().st_mtime_ns)}
    return found


@cache
def _imports(path: Path, changed: int) -> set[Path]:
    package = path.relative_to(chapters.ROOT).parent.parts
    return _named(ast.parse(path.read_text(encoding="utf-8")), package)


def _named(tree: ast.Module, package: tuple[str, ...]) -> set[Path]:
    """Find the files of ours that a module of a package imports itself, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        base: list[str] = []
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = [*above, *filter(None, [node.module])]
        names = [".".join([*base, alias.name]) for alias in node.names]
        for parts in (name.split(".") for name in names):
            for n in range(1, len(parts) + 1) if parts[0] in PACKAGES else ():
                path = chapters.ROOT.joinpath(*parts[:n])
                found |= {path.with_suffix(".py"), path / "__init__.py"}
    return {path for path in found if path.is_file()}


def machine() -> dict[str, Any]:
    """Versions and threads of this process."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in _VERSIONS}
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 0
    return {"versions": versions, "threads": threads, "system": platform.platform()}
