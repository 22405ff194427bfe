"""The chapters (listed in chapters.json), their parameters, and where folders are.

It imports nothing but Python and `memoir_core.config`, so that Snakemake can read it too.
"""

import argparse
import ast
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent  # the checkout: notebooks/, runs/, cache/
VOLUMES = "application/vnd.memoir.volumes+json"  # of viewers: file -> gzipped NIfTI in base64


@dataclass(frozen=True)
class Chapter:
    """One notebook: what it needs from earlier chapters and what it leaves."""

    name: str
    title: str
    reads: Sequence[str] = ()  # files or folders below runs/<run>/
    writes: Sequence[str] = ()
    download: str = ""  # what it reads of the data folder: '', its 'tables', or 'images' as well
    sizes: dict[str, str] = field(default_factory=dict)  # field of the profile for a 0 or ''

    @property
    def number(self) -> str:
        return self.name[:2]

    @property
    def notebook(self) -> Path:
        return ROOT / "notebooks" / f"{self.name}.ipynb"


_TOLD = json.loads(Path(__file__).with_name("chapters.json").read_text(encoding="utf-8"))
CHAPTERS = tuple(Chapter(**row) for row in _TOLD["chapters"])
# What a parameter of the right type may be: a choice of values, or a range with its ends.
CHOICES, RANGES = _TOLD["choices"], _TOLD["ranges"]
# Type -> how it is called, and from which types of papermill and the shell it is understood.
_KINDS: dict[str, tuple[str, list[str]]] = _TOLD["kinds"]
# It becomes a folder's name; seeds.compare has one, and Windows some that no folder can have.
_RUN = r"(?i)(?!(?:compare|con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[a-z0-9][a-z0-9._+-]{0,99}"


def get_chapter(name: str) -> Chapter:
    """Find a chapter by its full name or its number: '04_stage1_contrastive', '04' or '4'."""
    for chapter in CHAPTERS:
        if name == chapter.name or name.zfill(2) == chapter.number:
            return chapter
    names = ", ".join(chapter.name for chapter in CHAPTERS)
    raise ValueError(f"chapter {name!r} is unknown; choose one of {names}")


def parameters_of(chapter: Chapter) -> dict[str, tuple[type, Any]]:
    """Read a notebook's parameters cell: name -> type and default; the common five come first."""
    cells = json.loads(chapter.notebook.read_text(encoding="utf-8"))["cells"]
    cell = next(c for c in cells if "parameters" in c["metadata"].get("tags", ()))
    found = {}
    for node in ast.parse("".join(cell["source"])).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            default = ast.literal_eval(node.value)
            kind = int if default is None else type(default)  # `seed: int = None`
            found[node.target.id] = (kind, default)
    return found


def checked(name: str, value: Any, kind: type, default: Any) -> Any:
    """Give a parameter's value its type, or refuse it with a ValueError that names it.

    Papermill and the shell read words as they may: `false` as a text, a run 20241125 as a number.
    """
    if value is None and default is None:
        return None
    given, (wanted, known) = value, _KINDS[kind.__name__]
    if type(value).__name__ in known:
        with suppress(KeyError, ValueError):
            words = {"true": True, "false": False}
            value = words[value.strip().lower()] if kind is bool else kind(value)
    if type(value) is not kind:
        raise ValueError(f"{name}={given!r}: {wanted} is expected")
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name}={given!r}: choose one of {', '.join(CHOICES[name])}")
    if name == "run" and value and not re.fullmatch(_RUN, text := str(value)):
        what = "must be a plain folder name of letters, digits and . _ + -, not 'compare' or 'con'"
        raise ValueError(f"run={text[:100]!r} {what}")
    low, high = RANGES.get(name, (float("-inf"), float("inf")))
    if isinstance(value, int | float) and not low <= value <= high:
        raise ValueError(f"{name}={given!r} must lie between {low} and {high}")
    return value


def resolved(spec: Chapter, values: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """Replace a 0 or '' that stands for the profile's value (see `Chapter`) by that value."""
    return {n: v or sizes[spec.sizes[n]] if n in spec.sizes else v for n, v in values.items()}


def parser_of(command: str, about: str | None, parser: Any = None) -> argparse.ArgumentParser:
    """Make the parser of `python -m memoir_book.<command>`; commands.json lists all options.

    A name in a list stands for another list: 'a run', say, for those that `store.find_run` takes.
    """
    parser = parser or argparse.ArgumentParser(f"python -m memoir_book.{command}", None, about)
    for row in _OPTIONS[command]:
        if isinstance(row, str):
            parser_of(row, about, parser)
        else:
            name, told = row
            types = {key: _TYPES[value] for key, value in told.items() if key == "type"}
            parser.add_argument(name, **told | types)
    return parser


_OPTIONS = json.loads(Path(__file__).with_name("commands.json").read_text(encoding="utf-8"))
_TYPES: dict[str, Any] = {"path": Path, "int": int}
_TYPES["seed"] = lambda text: checked("seed", text, int, None) if text else None


def runs_dir() -> Path:
    """Where runs are: MEMOIR_RUNS, or runs/ in the checkout."""
    return _folder("MEMOIR_RUNS", "runs")


def cache_dir() -> Path:
    """Where lies what several runs share: synthetic downloads, volumes, converted models."""
    return _folder("MEMOIR_CACHE", "cache")


def _folder(variable: str, name: str) -> Path:
    if not (ROOT / "notebooks").is_dir():
        how = "run from a checkout of the project, installed with `pip install --editable .`"
        raise FileNotFoundError(f"the book's notebooks are not at {ROOT}: {how}")
    return ROOT / Path(os.environ.get(variable) or name).expanduser()  # relative: to the checkout
