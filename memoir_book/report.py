"""Every published figure beside this run's, with a verdict by stated rules.

`report.json` and `report.html` are what may leave a run on real data. By construction they hold
aggregates of at least ten people: `_row` makes every row, from a value and the number of people
that it rests on. No row holds an age of a person (so none over 89), a date, a name or free text;
words come from report_rows.json and published.json. `privacy.look` reads both files before they
are moved into place. Settings are those that the trainings noted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment
from scipy.stats import binomtest

from memoir_core.config import DX, SCORES
from memoir_core.files import atomic_path, digest, read_json, read_jsonl, write_json

from . import chapters, manifest, privacy, published
from .seeds import pick
from .store import Run, find_run, load_results

SMALLEST_GROUP = 10  # people; of fewer, nothing is said
COLUMNS = ["chapter", "group", "figure", "kind", "published", "value", "low", "high", "n"]
VERDICTS = ("reproduced", "pattern reproduced", "not reproduced", "not comparable")
MARGIN = 0.03  # published differences below it decide no order: about 1.5 SE at 474 subjects


def rules() -> dict[str, str]:
    """Say for each kind of figure how its verdict comes about."""
    return published.load("report_rows.json")["rules"]


def _row(place: dict, figure: str, kind: str, known: float, found: dict, n: Any) -> dict:
    """Make one row, the only way into the report: `known` is published, `found` this run's.

    n : people that it rests on (None: a setting or the like); of too few nothing is kept.
    """
    row = {"chapter": place["chapter"], "group": place["group"], "figure": figure}
    row |= {"kind": kind, "published": known}
    few = n is not None and n < SMALLEST_GROUP
    return row if few else row | found | {"n": None if kind == "size" else n}


def collect(book: Run) -> pd.DataFrame:
    """List every published figure with this run's: columns `COLUMNS` and 'verdict'.

    NaN where this run has no such figure, or has it of fewer than ten people.
    MissingArtefactError, which gives the command, where a chapter has no results yet.
    """
    theirs, ours = _sides(book)
    rows = []
    for place in published.load("report_rows.json")["figures"]:
        for figure, known, where, *sized in place["rows"]:
            kind, found = place["kind"], pick(ours, where)
            if sized and found["value"] == getattr(book.profile, sized[0]):
                kind = "size"
            n = found.get("n", pick(ours, place.get("n", "")).get("value"))
            known = pick(theirs, known)["value"] if isinstance(known, str) else known
            rows.append(_row(place, figure, kind, known, found, n))
    table = pd.DataFrame(rows, columns=COLUMNS)
    table[COLUMNS[4:]] = table[COLUMNS[4:]].astype(float)
    return judge(table, book.profile.name, book.synthetic)


def _sides(book: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the paths in report_rows.json lead into: the published figures, and this run's."""
    ours: dict = {number: load_results(book, number) for number in ("01", "03", "05", "07")}
    for stage in ("stage1", "stage2"):
        ours[stage] = read_json(book.path(stage, "settings.json"))["settings"]
    ours["ablation"] = pd.read_csv(book.path("ablation.csv")).to_dict("records")
    scores = pd.read_csv(book.path("llm_scores.csv"))
    own = scores["protocol"] == "own_caption"  # the nearest to what is described: chapter 9
    ours["llms"] = scores[own].to_dict("records")
    query = read_jsonl(book.path("retrieval.jsonl"))[0]
    first, _ = manifest.current(manifest.read_manifest(book.dir))["stage1/model.safetensors"]
    ours["made"] = {
        "voxels": int(np.prod(read_json(book.path("volumes.json"))["shape"])),
        "parameters (millions)": ours["03"]["parameters"] / 1e6,
        "clinical inputs": len(SCORES) + 1 - len(ours["stage2"]["hide"]),
        "begins with stage 1": int(ours["stage2"]["start"] == first),
        "best epoch": dict.fromkeys(("value", "low", "high"), ours["05"]["best_epoch"]),
        **{"candidates": len(query["retrieved"]), "reranked": len(query["reranked"])},
    }
    ours |= {"people": _people(ours["01"]), "confusion": _shares(ours["05"]["confusion"])}
    matrix = published.figure("dx3_confusion_matrix/rows_true_columns_predicted")
    return published.load() | {"confusion": _shares(matrix)}, ours


def _people(found: dict) -> dict:
    """Counts of chapter 1, each with the least number of people that it would tell."""
    people: dict = {}
    for part in ("train", "test", "total"):
        counts = {name: found["counts"][name][part] for name in (*DX, "Total")}
        few = min(counts.values())  # all or none: the difference from the sum would tell
        people[part] = {name: {"value": n, "n": few} for name, n in counts.items()}
        people[part]["Total"]["n"] = counts["Total"]
    n, fa = found["subjects"], found["fa_subjects"]
    few = min(fa, n - fa) if fa < n else fa
    people["fa"] = {"number": {"value": fa, "n": few}, "share": {"value": fa / n, "n": few}}
    return people


def _shares(matrix: list[list[int]]) -> dict:
    """Shares of each true class, with Wilson's interval and the number of people."""
    shares: dict = {truth: {} for truth in DX}
    for (row, truth), (column, predicted) in product(enumerate(DX), repeat=2):
        count, n = matrix[row][column], sum(matrix[row])
        ends = binomtest(count, n).proportion_ci(method="wilson")
        shares[truth][predicted] = {"value": count / n, "low": ends.low, "high": ends.high, "n": n}
    return shares


def judge(table: pd.DataFrame, profile: str, is_synthetic: bool) -> pd.DataFrame:
    """Add the column 'verdict' by `rules` to a table with columns `COLUMNS`."""
    rows = table.to_dict("records")
    return table.assign(verdict=[_verdict(row, table, profile, is_synthetic) for row in rows])


def _verdict(row: dict, table: pd.DataFrame, profile: str, is_synthetic: bool) -> str:
    value, known = row["value"], row["published"]
    if pd.isna(value) or (profile == "smoke" and row["kind"] not in ("size", "setting")):
        return "not comparable"
    if row["kind"] in ("size", "setting"):
        tolerance = {"parameters (millions)": 0.05 * known, "share with DTI-FA": 0.001}
        if abs(value - known) <= tolerance.get(row["figure"], 1e-9):
            return "reproduced"
        by_design = row["kind"] == "size" and profile != "paper"
        return "not comparable" if by_design else "not reproduced"
    if profile == "paper" and not is_synthetic:
        return "reproduced" if row["low"] <= known <= row["high"] else "not reproduced"
    others = table[(table["group"] == row["group"]) & table["value"].notna()]
    others = others[(known - others["published"]).abs() >= MARGIN]
    if not len(others):
        return "not comparable"
    same = np.sign(known - others["published"]) == np.sign(value - others["value"])
    return "pattern reproduced" if same.all() else "not reproduced"


def pattern(table: pd.DataFrame, task: str) -> float:
    """Spearman correlation over the seven subsets: is the published order reproduced?"""
    rows = table[table["group"] == f"ablation, {task}"]
    return float(rows["published"].corr(rows["value"], method="spearman"))


def said(row: dict) -> str:
    """'drop rate, FA: published 0.30, used 0.50, not reproduced'."""
    known, used = (published.number(row[key], "not told") for key in ("published", "value"))
    return f"{row['figure']}: published {known}, used {used}, {row['verdict']}"


def source(book: Run) -> dict[str, Any]:
    """Where a report comes from: run, code, data, weights, versions; no name, path or time."""
    known = manifest.read_manifest(book.dir)["chapters"]
    reads = known["01_cohort"]["reads"]
    return {
        **{"label": book.label, "cohort": book.cohort_label, "profile": book.profile.name},
        **{"seed": book.seed, "device": book.device, "versions": manifest.machine()["versions"]},
        "data": {key: reads[key] for key in ("tables", "images") if key in reads},
        "code": digest({name: record["code"] for name, record in known.items()}),
        "weights": {k: w["sha256"] for r in known.values() for k, w in r["weights"].items()},
    }


def write_report(
    run_dir: Path, table: pd.DataFrame, where: dict[str, Any], known: Iterable[str] = ()
) -> Path:
    """Write report.json and report.html, from a table of `collect` and its `source`.

    `known`: texts that must not leave the run. Where something looks like an identifier,
    privacy.PrivateDataError is raised and neither is written.
    """
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    rows = [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    stored = {"provenance": where, "rules": rules(), "verdicts": _in_all(table), "figures": rows}
    stored["spearman_of_subsets"] = {t: round(pattern(table, t), 5) for t in ("dx3", "dx2")}
    data, page = run_dir / "report.json", run_dir / "report.html"
    with atomic_path(data) as new_data, atomic_path(page) as new_page:
        write_json(new_data, stored)
        new_page.write_text(render(table, where), encoding="utf-8")
        privacy.look([new_data, new_page], known)
    return page


def render(table: pd.DataFrame, where: dict[str, Any]) -> str:
    """One printable page with every figure; nothing is loaded from elsewhere."""
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": published.number, "said": said}
    groups = [(str(g), rows.to_dict("records")) for g, rows in table.groupby("group", sort=False)]
    changed = table[(table["kind"] == "setting") & (table["verdict"] == "not reproduced")]
    values = {"groups": groups, "changed": changed.to_dict("records"), "counts": _in_all(table)}
    return environment.from_string(template).render(values, where=where, rules=rules())


def _in_all(table: pd.DataFrame) -> dict:
    return table["verdict"].value_counts().reindex(VERDICTS, fill_value=0).to_dict()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m memoir_book.report", description=__doc__)
    chapters.add_run_options(parser)
    args = parser.parse_args(argv)
    try:
        name, _ = find_run(args.profile, args.run, args.data, args.seed)
        rows = read_json(chapters.runs_dir() / name / "report.json")["figures"]
    except (ValueError, OSError) as error:
        print(f"error: {error}; run chapter 10 first", file=sys.stderr)
        return 1
    print(*(f"{row['chapter']}  {row['group']}, {said(row)}" for row in rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
