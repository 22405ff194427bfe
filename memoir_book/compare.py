"""Put runs side by side: `python -m memoir_book.compare RUN RUN ...`.

Runs whose names differ only in a last `-seedN` are one group: their figures are averaged, with
a 95 % interval over the seeds. A run may be partial; what it has not made is left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memoir_core import config

from .artefacts import MissingArtefactError, atomic_path, read_json, write_json
from .pages import markdown

COLUMNS = ["run", "group", "seed", "chapter", "figure", "value", "low", "high"]


def read_run(name: str) -> dict[str, Any]:
    """Read a run's results files: provenance, and what each chapter took and found.

    Raises
    ------
    MissingArtefactError
        There is no such run, or no chapter of it has finished.
    """
    folder = config.runs_dir() / name
    stored = {path.stem: read_json(path) for path in sorted(folder.glob("results/*.json"))}
    known = [chapter for chapter in config.CHAPTERS if chapter.name in stored]
    if not known:
        there = sorted(path.parent.name for path in config.runs_dir().glob("*/results"))
        raise MissingArtefactError(
            f"{folder} has no results yet; runs with results: {', '.join(there) or 'none'}"
        )
    return {
        "run": name,
        "provenance": stored[known[-1].name]["provenance"],
        "seconds": {chapter.number: stored[chapter.name]["seconds"] for chapter in known},
        "results": {chapter.number: stored[chapter.name]["results"] for chapter in known},
    }


def figures(run: dict[str, Any]) -> pd.DataFrame:
    """List a run's headline figures, one per row, in the columns `COLUMNS`."""
    seed = run["provenance"]["seed"]
    place = {"run": run["run"], "group": group_of(run["run"]), "seed": seed}
    rows = [
        place | {"chapter": chapter, "figure": figure} | found
        for chapter, figure, found in _headlines(run)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _headlines(run: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, float]]]:
    results, folder = run["results"], config.runs_dir() / run["run"]
    for name in ("val_recall@1", "val_recall@5"):
        if name in results.get("04", {}).get("history_last", {}):
            yield "04", name, {"value": results["04"]["history_last"][name]}
    for task, metrics in results.get("05", {}).get("metrics", {}).items():
        for metric, found in metrics.items():
            yield "05", f"{task} {metric}", _only(found)
    if "06" in results:
        for row in pd.read_csv(folder / "ablation.csv").to_dict("records"):
            yield "06", f"{row['task']} {row['subset']}", _only(row)
        for subset, gain in results["06"].get("stage1_gain_dx3", {}).items():
            yield "06", f"stage 1 adds, dx3 {subset}", {"value": gain}
    for row in results.get("08", {}).get("metrics", ()):
        for metric in ("ndcg@5", "knn_accuracy"):
            yield "08", f"{metric}, {row['method']}", {"value": row[metric]}
    if "09" in results:
        for row in pd.read_csv(folder / "llm_scores.csv").to_dict("records"):
            yield "09", f"{row['llm']}, {row['protocol']}, {row['metric']}", _only(row)


def _only(found: dict) -> dict[str, float]:
    return {name: found[name] for name in ("value", "low", "high") if name in found}


def group_of(run: str) -> str:
    """Drop the last `-seedN` of a run's name."""
    return re.sub(r"-?seed\d+$", "", run) or run


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Average each figure over the seeds of a group.

    Returns
    -------
    One row per group and figure: mean, low, high, seeds, and `interval`: 'over seeds' is
    Student's t over at least two runs, 'of the run' the bootstrap interval over subjects of a
    single one. The two answer different questions and cannot be compared.
    """
    from scipy import stats

    rows = []
    for key, part in table.groupby(["chapter", "figure", "group"], sort=False):
        values = part["value"].dropna().to_numpy(float)
        row = dict(zip(("chapter", "figure", "group"), key, strict=True))
        row |= {"seeds": len(values), "mean": values.mean() if len(values) else np.nan}
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            row |= {"low": row["mean"] - half, "high": row["mean"] + half}
            row["interval"] = "over seeds"
        else:
            row |= {"low": part["low"].iloc[0], "high": part["high"].iloc[0]}
            row["interval"] = "of the run"
        rows.append(row)
    return pd.DataFrame(rows)


def side_by_side(summary: pd.DataFrame) -> pd.DataFrame:
    """Turn a summary into a table to read: a row per figure, a column per group."""
    cells = summary.assign(text=[_cell(row) for row in summary.to_dict("records")])
    order = cells[["chapter", "figure"]].drop_duplicates()
    wide = cells.set_index(["chapter", "figure", "group"])["text"].unstack()  # noqa: PD010
    wide = wide[list(dict.fromkeys(cells["group"]))]
    return wide.reindex(pd.MultiIndex.from_frame(order)).fillna("").rename_axis(columns=None)


def _cell(row: dict) -> str:
    text = f"{row['mean']:.3f}"
    if row["low"] == row["low"]:
        text += f" ({row['low']:.3f} to {row['high']:.3f})"
    return f"{text}, {row['seeds']} seeds" if row["seeds"] > 1 else text


def draw(summary: pd.DataFrame, title: str) -> Any:
    """Draw diagnosis, retrieval and answers: a point and an interval per group."""
    import matplotlib.pyplot as plt

    chosen = summary[
        summary["figure"].str.match(r"dx[23] (balanced|auc|t1|fa|clinical)")
        | summary["figure"].str.startswith(("knn_accuracy", "val_recall"))
        | summary["figure"].str.endswith("diagnosis_accuracy")
    ]
    if not len(chosen):
        return None
    names = list(dict.fromkeys(zip(chosen["chapter"], chosen["figure"], strict=True)))
    groups = list(dict.fromkeys(chosen["group"]))
    figure, ax = plt.subplots(figsize=(8, 1.2 + 0.3 * len(names)), layout="constrained")
    for place, group in enumerate(groups):
        part = chosen[chosen["group"] == group].set_index(["chapter", "figure"])
        rows = [(y, part.loc[name]) for y, name in enumerate(names) if name in part.index]
        y = [row - 0.6 * (place + 0.5) / len(groups) + 0.3 for row, _ in rows]
        mean = np.array([found["mean"] for _, found in rows])
        ends = np.array([[found["low"], found["high"]] for _, found in rows], float)
        ends = np.where(np.isnan(ends), mean[:, None], ends)
        reach = np.abs(ends - mean[:, None]).T
        ax.errorbar(mean, y, xerr=reach, fmt="o", ms=4, lw=1, label=group)
    ax.set_yticks(range(len(names)), [f"{chapter}  {name}" for chapter, name in names], size=7)
    ax.invert_yaxis()
    ax.set_title(title, size=8)
    ax.legend(fontsize=8)
    return figure


def label(runs: list[dict]) -> str:
    """Say where the numbers come from: cohorts, profiles, seeds, devices."""
    sources = [run["provenance"] for run in runs]
    parts = [
        ", ".join(dict.fromkeys(f"{s['cohort']} cohort, profile {s['profile']}" for s in sources)),
        "seeds " + ", ".join(str(s) for s in sorted({s["seed"] for s in sources})),
        ", ".join(dict.fromkeys(s["device"] for s in sources)),
    ]
    return "; ".join(parts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m memoir_book.compare",
        description="Put runs side by side: mean and 95 % interval over seeds of each figure. "
        "Writes figures.csv, table.md and figure.png under runs/compare/OUT.",
        epilog="Runs whose names differ only in a last -seedN are one group.",
    )
    parser.add_argument("runs", nargs="+", help="folders under runs/")
    parser.add_argument("--out", default="", help="folder under runs/compare/ (default: groups)")
    parser.add_argument("--json", type=Path, default=None, help="also write figures and versions")
    options = parser.parse_args(arguments)
    try:
        runs = [read_run(name) for name in dict.fromkeys(options.runs)]
    except (MissingArtefactError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = pd.concat([figures(run) for run in runs], ignore_index=True)
    if table.empty:
        print("error: none of these runs has reached chapter 4", file=sys.stderr)
        return 1
    summary = summarise(table)
    groups = list(dict.fromkeys(table["group"]))
    folder = config.runs_dir() / "compare" / (options.out or "-".join(groups)[:80])
    with atomic_path(folder / "figures.csv") as temporary:
        table.to_csv(temporary, index=False)
    title = label(runs)
    wide = side_by_side(summary)
    with atomic_path(folder / "table.md") as temporary:
        temporary.write_text(f"{title}\n\n{markdown(wide.reset_index())}", encoding="utf-8")
    figure = draw(summary, title)
    if figure is not None:
        with atomic_path(folder / "figure.png") as temporary:
            figure.savefig(temporary, dpi=150)
    if options.json:
        whole = [
            {name: run[name] for name in ("run", "provenance", "seconds")}
            | {"figures": part.drop(columns=["run", "group", "seed"]).to_dict("records")}
            for run in runs
            for part in [table[table["run"] == run["run"]].replace({np.nan: None})]
        ]
        write_json(options.json, whole)
    print(title)
    print(wide.to_string())
    print(f"Written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
