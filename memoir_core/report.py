"""Collect every headline of a run, published beside measured, from the results/ files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from . import published
from .artefacts import Run, load_results, provenance, read_json, write_json
from .config import CHAPTERS

COLUMNS = ["chapter", "figure", "published", "value", "low", "high", "n"]


def collect(run: Run) -> pd.DataFrame:
    """List what the publication reports and what this run found, one figure per row.

    Returns
    -------
    Columns `COLUMNS`; NaN where this run has no such figure.

    Raises
    ------
    MissingArtefactError
        A chapter has no results yet; the message gives the command.
    """
    rows: list[dict[str, Any]] = []

    def add(chapter: str, figure: str, known: Any, found: Any, n: Any = None) -> None:
        found = found if isinstance(found, dict) else {"value": found}
        cells = {k: found.get(k, np.nan) for k in ("value", "low", "high")}
        rows.append({"chapter": chapter, "figure": figure, "published": known, **cells, "n": n})

    counts = load_results(run, "01")["counts"]
    for part in ("train", "test", "total"):
        add("01", f"subjects, {part}", None, counts["Total"][part])
    stage2 = load_results(run, "05")
    known = published.figure("results_all_modalities")
    for task, found in stage2["metrics"].items():
        for metric, value in found.items():
            key = "mae_years" if (task, metric) == ("age", "mae") else metric
            if key in known[task]:
                add("05", f"{task} {metric}", known[task][key], value, stage2["n_test"])
    ablation = pd.read_csv(run.path("ablation.csv"))
    for row in ablation[ablation["task"].isin(["dx3", "dx2"])].to_dict("records"):
        add("06", f"{row['task']} {row['subset']}", row["published"], row, row["n"])
    models = published.figure("llm_comparison/models")
    scores = pd.read_csv(run.path("llm_scores.csv"))
    own = scores[scores["protocol"] == "own_caption"].set_index(["llm", "metric"])
    for model, figures in models.items():
        for name, metric in (
            ("vqa_diagnosis", "diagnosis_accuracy"),
            ("bertscore", "bertscore"),
            ("sbert_cosine", "sbert_cosine"),
        ):
            there = (model, metric) in own.index
            found = own.loc[(model, metric)].to_dict() if there else {"value": np.nan}
            add("09", f"{model}, {name}", figures[name], found, found.get("n"))
    sizes = published.figure("cohort")
    table = pd.DataFrame(rows, columns=COLUMNS)
    for part, key in (("train", "train"), ("test", "test"), ("total", "subjects")):
        table.loc[table["figure"] == f"subjects, {part}", "published"] = sizes[key]
    return table.astype({"published": float, "value": float, "low": float, "high": float})


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Say for each figure with an interval whether the published value lies inside it."""
    known = table.dropna(subset=["published", "value", "low"]).copy()
    inside = (known["low"] <= known["published"]) & (known["published"] <= known["high"])
    above = known["value"] > known["published"]
    known["published value lies"] = np.select([inside, above], ["inside", "below"], "above")
    return known


def pattern(table: pd.DataFrame, task: str) -> float:
    """Spearman correlation over the seven subsets: is the published order reproduced?"""
    rows = table[(table["chapter"] == "06") & table["figure"].str.startswith(f"{task} ")]
    return float(rows["published"].corr(rows["value"], method="spearman"))


def costs(run: Run) -> pd.DataFrame:
    """Time and memory of every chapter, as each measured itself."""
    rows = []
    for chapter in CHAPTERS:
        path = run.path("results", f"{chapter.name}.json")
        if path.exists():
            found = read_json(path)
            rows.append(
                {
                    "chapter": f"{chapter.number} {chapter.title}",
                    "seconds": found["seconds"],
                    "peak memory (GiB)": found["peak_memory_gib"],
                    "device": found["provenance"]["device"],
                }
            )
    return pd.DataFrame(rows).set_index("chapter")


def write_report(run: Run, table: pd.DataFrame) -> None:
    """Write report.json: provenance and every figure; no times, so that reruns are equal."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    rows = [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    write_json(run.path("report.json"), {"provenance": provenance(run), "figures": rows})
