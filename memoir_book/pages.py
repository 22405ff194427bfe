"""Small tables for the pages around the chapters, written from the files of the last run.

`book/intro.md` and `book/how_to_read.md` include them, so that no number there is typed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from memoir_core import config

from . import artefacts, published

HEADLINES = {  # group and figure of report.json -> how the front page calls it
    ("heads, balanced accuracy", "dx3"): "Diagnosis, three classes (balanced accuracy)",
    ("heads, AUC", "dx3"): "Diagnosis, three classes (AUC)",
    ("heads, balanced accuracy", "dx2"): "CN against dementia (balanced accuracy)",
    ("heads, balanced accuracy", "sex"): "Sex (balanced accuracy)",
    ("MAE, age, years", "MAE, age, years"): "Age (mean absolute error, years)",
    ("MAE, CDR-SB, points", "MAE, CDR-SB, points"): "CDR-SB (mean absolute error, points)",
    ("ablation, dx3", "t1+dti"): "Diagnosis from images alone (balanced accuracy)",
    ("ablation, dx3", "clinical"): "Diagnosis from clinical scores alone (balanced accuracy)",
}
WORDS_PER_MINUTE = 200  # of an unhurried reader; a cell of code counts as 40 words
WORDS_PER_CELL = 40


def write_pages(run_dir: Path, folder: Path | None = None) -> list[Path]:
    """Write headline.md and times.md into book/chapters/ from a run's result files."""
    folder = folder or config.ROOT / "book" / "chapters"
    texts = {"headline.md": headline(run_dir), "times.md": times(run_dir)}
    for name, text in texts.items():
        with artefacts.atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def headline(run_dir: Path) -> str:
    """Set the main published figures beside the run's, as a Markdown table with its label."""
    path = run_dir / "report.json"
    if not path.exists():
        return (
            "The run that built these pages has not reached chapter 10, which makes this table.\n"
        )
    report = artefacts.read_json(path)
    found = {(row["group"], row["figure"]): row for row in report["figures"]}
    rows = [
        {"figure": title, "published": row["published"], "this run": row["value"]}
        | {"low": row["low"], "high": row["high"]}
        for name, title in HEADLINES.items()
        for row in [found[name]]
    ]
    table = published.compare(rows, report["provenance"]["label"]).reset_index(names="figure")
    return markdown(table) + f"\n*This run: {report['provenance']['label']}. Published: on ADNI.*\n"


def times(run_dir: Path) -> str:
    """List how long each chapter takes to read and took to run, as a Markdown table."""
    rows, label = [], ""
    for chapter in config.CHAPTERS:
        path = run_dir / "results" / f"{chapter.name}.json"
        found = artefacts.read_json(path) if path.exists() else {}
        label = found.get("provenance", {}).get("label", label)
        rows.append(
            {
                "chapter": f"[](chapters/{chapter.name}.ipynb)",
                "to read": f"{reading_minutes(chapter.notebook)} min",
                "this run took": _duration(found["seconds"]) if found else "has not run",
                "memory": f"{found['peak_memory_gib']:.1f} GiB" if found else "",
            }
        )
    return markdown(pd.DataFrame(rows)) + (f"\n*This run: {label}.*\n" if label else "")


def reading_minutes(notebook: Path) -> int:
    """Estimate how long a chapter takes to read, without its exercises, in whole minutes."""
    words = 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if re.search("^## Exercises$", text, re.MULTILINE):
            break
        words += WORDS_PER_CELL if cell["cell_type"] == "code" else len(re.findall(r"\w+", text))
    return max(1, round(words / WORDS_PER_MINUTE))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def markdown(table: pd.DataFrame) -> str:
    """Columns and rows of a table as Markdown."""
    lines: list[list] = [list(table), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
