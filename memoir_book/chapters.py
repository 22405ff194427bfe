"""The chapters as data: what each reads and writes, its parameters, and where folders are.

It imports nothing but Python and `memoir_core.config`, so that Snakemake can read it too.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memoir_core.config import PROFILES

ROOT = Path(__file__).resolve().parent.parent  # the checkout: notebooks/, runs/, cache/


@dataclass(frozen=True)
class Chapter:
    """One notebook: what it needs from earlier chapters and what it leaves.

    `reads` and `writes` are files or folders below `runs/<run>/`. `download` says what it reads
    of the data folder: nothing, its 'tables', or its 'images' as well. `sizes` names the field
    of the profile that a parameter of 0 or '' stands for.
    """

    name: str
    title: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    download: str = ""
    sizes: dict[str, str] = field(default_factory=dict)

    @property
    def number(self) -> str:
        return self.name[:2]

    @property
    def notebook(self) -> Path:
        return ROOT / "notebooks" / f"{self.name}.ipynb"


def _chapter(
    name: str, title: str, reads: str, writes: str, download: str = "", **sizes: str
) -> Chapter:
    return Chapter(name, title, tuple(reads.split()), tuple(writes.split()), download, sizes)


_DATA = "cohort.parquet volumes.json "
_STAGE2 = "stage2/best.safetensors stage2/scaler.json stage2/embeddings.npz "
CHAPTERS = (
    _chapter("01_cohort", "Cohort", "", "cohort.parquet cohort_flow.json", "images"),
    _chapter("02_visualisation", "Visualisation", "cohort.parquet", "volumes.json", "images"),
    _chapter("03_encoders", "Encoders and fusion", _DATA, ""),
    _chapter(
        "04_stage1_contrastive",
        "Stage 1: contrastive",
        _DATA,
        "stage1/model.safetensors stage1/history.csv stage1/settings.json",
        **{"epochs": "stage1_epochs", "lr": "lr_stage1", "batch_size": "batch_size"},
    ),
    _chapter(
        "05_stage2_multitask",
        "Stage 2: five heads",
        _DATA + "stage1/model.safetensors",
        _STAGE2 + "stage2/history.csv stage2/settings.json stage2/test_predictions.parquet",
        **{"epochs": "stage2_epochs", "batch_size": "batch_size"},
    ),
    _chapter(
        "06_ablation",
        "Modality ablation",
        _DATA + _STAGE2 + "stage2/settings.json",
        "ablation.csv",
    ),
    _chapter(
        "07_captions_text",
        "Captions and text encoder",
        _DATA + "stage2/embeddings.npz",
        "captions.jsonl text_encoder text_embeddings.npz",
    ),
    _chapter(
        "08_retrieval",
        "Retrieval and reranking",
        _DATA + _STAGE2 + "text_embeddings.npz captions.jsonl text_encoder",
        "index.faiss retrieval.jsonl retrieval_subsets.jsonl",
    ),
    _chapter(
        "09_llm_comparison",
        "LLM comparison",
        "cohort.parquet retrieval.jsonl retrieval_subsets.jsonl captions.jsonl",
        "plan.jsonl llm_scores.csv",
        **{"questions": "questions", "llms": "llms"},
    ),
    _chapter(
        "10_reproduction_report",
        "Reproduction report",
        _DATA + "stage1/settings.json stage2/settings.json ablation.csv retrieval.jsonl "
        "llm_scores.csv",
        "report.json report.html",
    ),
    _chapter(
        "11_leakage_and_limits",
        "Leakage and limits",
        _DATA + _STAGE2 + "stage2/settings.json stage2/history.csv stage2/test_predictions.parquet "
        "captions.jsonl text_encoder retrieval.jsonl llm_scores.csv",
        "leakage.csv",
        "tables",
    ),
)

# What a parameter may be, beside having the type of its default in the notebook: a choice of
# values, or a range that includes its ends.
CHOICES = {"visit": ("latest", "earliest")}
RANGES: dict[str, tuple[float, float]] = {
    **{"seed": (0, 2**32 - 1), "epochs": (0, 10_000), "lr": (0, 1), "batch_size": (0, 4096)},
    **{"drop_t1": (0, 1), "drop_fa": (0, 1), "drop_clinical": (0, 1), "val_fraction": (0.01, 0.5)},
    **{"questions": (0, 100_000), "occluded": (1, 1000), "outlier_z": (0.1, 100)},
}


_RUN = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"  # it becomes a folder's name


def get_chapter(name: str) -> Chapter:
    """Find a chapter by its full name or its number: '04_stage1_contrastive', '04' or '4'."""
    for chapter in CHAPTERS:
        if name == chapter.name or name.zfill(2) == chapter.number:
            return chapter
    raise ValueError(
        f"chapter {name!r} is unknown; choose one of {', '.join(c.name for c in CHAPTERS)}"
    )


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

    Papermill and the shell turn words into what they take them for: `-p pretrained false` is a
    text, `-p run 20241125` a number.
    """
    wanted = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[kind]
    given = value
    if value is None and default is None:
        return None
    if kind is str and type(value) in (int, float):
        value = str(value)
    elif kind is bool and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower(), value)
    elif kind in (int, float) and isinstance(value, str):
        try:
            value = kind(value)
        except ValueError:
            value = given
    elif kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name}={given!r}: {wanted} is expected")
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name}={given!r}: choose one of {', '.join(CHOICES[name])}")
    text = str(value)
    if name == "run" and value and (not re.fullmatch(_RUN, text) or text == "compare"):
        what = "must be a plain folder name of letters, digits and . _ + -, not 'compare'"
        raise ValueError(f"run={text[:100]!r} {what}")
    low, high = RANGES.get(name, (float("-inf"), float("inf")))
    if isinstance(value, int | float) and not low <= value <= high:
        raise ValueError(f"{name}={given!r} must lie between {low} and {high}")
    return value


def resolved(spec: Chapter, values: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """Replace a 0 or '' that stands for the profile's value (see `Chapter`) by that value."""
    return {
        name: sizes[spec.sizes[name]] if name in spec.sizes and not value else value
        for name, value in values.items()
    }


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which run is meant; see `store.find_run`."""
    parser.add_argument("--profile", default="", choices=("", *PROFILES), metavar="PROFILE",
                        help="smoke, quick or paper (default: that of the run)")  # fmt: skip
    parser.add_argument("--run", default="", help="folder under runs/ (default: the run made last)")
    parser.add_argument("--data", default="", help="ADNI download (default: the run's, synthetic)")
    parser.add_argument("--seed", type=_seed, default=None, help="default: that of the run, or 0")


def _seed(text: str) -> int | None:
    return checked("seed", text, int, None) if text else None


# --- folders ----------------------------------------------------------------------------


def runs_dir() -> Path:
    """Where runs are: MEMOIR_RUNS, or runs/ in the checkout."""
    return _folder("MEMOIR_RUNS", "runs")


def cache_dir() -> Path:
    """Where lies what several runs share: synthetic downloads, volumes, converted models."""
    return _folder("MEMOIR_CACHE", "cache")


def _folder(variable: str, name: str) -> Path:
    if not (ROOT / "notebooks").is_dir():
        raise FileNotFoundError(
            f"the book's notebooks are not at {ROOT}: run from a checkout of the project, "
            "installed with `pip install --editable .`"
        )
    return ROOT / Path(os.environ.get(variable) or name).expanduser()  # relative: to the checkout
