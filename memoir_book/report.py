"""Every published figure beside this run's, with a verdict by stated rules.

`report.json` and `report.html` are what may leave a run on real data. By construction they hold
aggregates of at least ten people: `_row` makes every row, from a value and the number of people
that it rests on. No row holds an age of a person (so none over 89), a date, a name or free text;
words come from report_rows.json and published.json. Of real people figures are rounded before they
are judged (`privacy.coarse`), and a second report on all but a few of the same is refused
(`privacy.apart`), so that no difference tells of one. `privacy.look` reads both files before they
are moved into place. Settings are those that the trainings noted.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from memoir_core.config import DX, SCORES
from memoir_core.files import atomic_path, digest, read_json, read_jsonl, write_json

from . import manifest, privacy, published
from .seeds import pick
from .store import Run, load_results

RULES: dict[str, str] = published.load("report_rows.json")["rules"]  # kind of figure -> verdicts
COLUMNS: list[str] = published.load("report_rows.json")["columns"]
VERDICTS = ("reproduced", "pattern reproduced", "not reproduced", "not comparable")
REPRODUCED, PATTERN, NOT, UNTOLD = VERDICTS
COMPARABLE = ("ADNI", "synthetic")  # cohorts
MARGIN = 0.03  # a smaller published gap decides no order: about 1.5 SE at 474 subjects
GAPS = ("gap", "language model", "text similarity")  # kinds that are compared in their group
# How far off a level may be on another cohort, and an interval reach; of an error, as its part
LEVEL, ERROR_LEVEL = 0.1, 0.25
COLLAPSED = 0.99  # a higher mean cosine between different people: the encoder tells nobody apart


def _row(place: dict, figure: str, kind: str, known: dict, found: dict, n: Any) -> dict:
    """Make one row, the only way into the report: `known` is published, `found` this run's.

    n : people that it rests on (None: a setting or the like); of too few nothing is kept.
    """
    row = {"chapter": place["chapter"], "group": place["group"], "figure": figure}
    row |= {"kind": kind, "published": known["value"], "n_published": known.get("n")}
    few = n is not None and n < privacy.SMALLEST_GROUP
    return row if few else row | found | {"n": None if kind == "size" else n}


def collect(book: Run) -> pd.DataFrame:
    """List every published figure with this run's: columns `COLUMNS`, 'verdict' and 'why'.

    NaN where this run has no such figure, or has it of fewer than ten people.
    MissingArtefactError, which gives the command, where a chapter has no results yet.
    """
    (theirs, ours), rows = _sides(book), []
    for place in published.load("report_rows.json")["figures"]:
        for figure, known, where, *sized in place["rows"]:
            kind, found = place["kind"], pick(ours, where)
            if sized and found["value"] == getattr(book.profile, sized[0]):
                kind = "size"
            everybody = pick(ours, place.get("n", "")).get("value")
            n = found.get("n", everybody)
            pair = pick(ours, place.get("paired", "").format(figure.replace("dti", "fa")))
            if pair and pair.get("n") == n == everybody:  # else it would tell of the few between
                found |= {"gap": pair["value"], "gap_low": pair["low"], "gap_high": pair["high"]}
            known = pick(theirs, known) if isinstance(known, str) else {"value": known}
            if not book.synthetic and n and kind not in ("size", "setting"):
                found = privacy.coarse(found, kind, n)
            known.setdefault("n", place.get("n_of", {}).get(figure, place.get("n_published")))
            rows.append(_row(place, figure, kind, known, found, n))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return judge(table, book.profile.name, book.synthetic, book.cohort_label in COMPARABLE)


def _sides(book: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the paths in report_rows.json lead into: the published figures, and this run's."""
    ours: dict = {number: load_results(book, number) for number in ("01", "03", "05", "06", "07")}
    for stage in ("stage1", "stage2"):
        ours[stage] = read_json(book.path(stage, "settings.json"))["settings"]
    ours["ablation"] = pd.read_csv(book.path("ablation.csv")).to_dict("records")
    scores = pd.read_csv(book.path("llm_scores.csv"))
    own = scores["protocol"] == "own_caption"  # the nearest to what is described: chapter 9
    if not book.synthetic:  # each person is asked once for the diagnosis, and other questions
        asked = scores[own & (scores["metric"] == "diagnosis_accuracy")].set_index("llm")["n"]
        scores["n"] = np.fmin(scores["n"], scores["llm"].map(asked).fillna(0))
    ours["llms"] = scores[own].to_dict("records")
    query = read_jsonl(book.path("retrieval.jsonl"))[0]
    given = pd.read_parquet(book.path("cohort.parquet"))[[*SCORES, "APOE4"]]
    first, _ = manifest.current(manifest.read_manifest(book.dir))["stage1/model.safetensors"]
    ours["made"] = {
        "voxels": int(np.prod(read_json(book.path("volumes.json"))["shape"])),
        "parameters (millions)": ours["03"]["parameters"] / 1e6,
        "clinical inputs": len({*given.columns[given.notna().any()]} - {*ours["stage2"]["hide"]}),
        "begins with stage 1": int(ours["stage2"]["start"] == first),
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
    for truth, row in zip(DX, matrix, strict=True):
        for predicted, count in zip(DX, row, strict=True) if any(row) else ():
            low, high = binomtest(count, n := sum(row)).proportion_ci(method="wilson")
            shares[truth][predicted] = {"value": count / n, "low": low, "high": high, "n": n}
    return shares


def judge(
    table: pd.DataFrame, profile: str, is_synthetic: bool, comparable: bool = True
) -> pd.DataFrame:
    """Add gaps, 'verdict' and 'why' by `RULES`; of `COLUMNS`, those that lack are not known.

    comparable : False for a cohort that is another kind of cohort than the published one.
    """
    table = table.reindex(columns=[*dict.fromkeys([*table, *COLUMNS])])
    table[COLUMNS[4:]] = table[COLUMNS[4:]].astype(float)
    rows: list[dict] = [dict(row) for row in table.to_dict("records")]
    for row in rows:
        row |= _gap(row, [r for r in rows if r["group"] == row["group"] and pd.notna(r["value"])])
        row["verdict"], row["why"] = _verdict(row, profile, profile == "paper" and not is_synthetic)
        if not comparable:
            row["verdict"], row["why"] = UNTOLD, "another cohort than the published one"
    return pd.DataFrame(rows, index=table.index)


def _gap(row: dict, group: list[dict]) -> dict[str, float]:
    """Gap to the first of `group`, its own to the farthest; if not paired, of two samples."""
    far = max(group, key=lambda other: abs(other["published"] - row["published"]), default=row)
    other = far if row in group[:1] else group[0] if group else row
    spread = min(row["high"] - row["low"], other["high"] - other["low"])
    if row["kind"] not in GAPS or other is row or not spread > 1e-6:
        return dict.fromkeys(COLUMNS[-4:], np.nan)
    gap, known = row["value"] - other["value"], row["published"] - other["published"]
    low = gap - np.hypot(row["value"] - row["low"], other["high"] - other["value"])
    high = gap + np.hypot(row["high"] - row["value"], other["value"] - other["low"])
    found = {"gap_published": known, "gap": gap, "gap_low": low, "gap_high": high}
    return found | {key: row[key] for key in found if pd.notna(row[key])}


def _widen(row: dict, value: float, low: float, high: float) -> tuple[float, float]:
    """Where 95 of 100 perfect replications have the published value: its sample errs, too."""
    wider = np.sqrt(1 + np.nan_to_num(row["n"] / row["n_published"], nan=1))
    return value - wider * (value - low), value + wider * (high - value)


def _verdict(row: dict, profile: str, exact: bool) -> tuple[str, str]:
    """Verdict on one figure, and why: the first case that fits. exact: ADNI, published size."""
    value, known, kind = row["value"], row["published"], row["kind"]
    fixed, by_design = kind in ("size", "setting"), kind == "size" and profile != "paper"
    close = {"parameters (millions)": 0.05 * known, "share with DTI-FA": 0.001}
    low, high = _widen(row, value, row["low"], row["high"])
    room = ERROR_LEVEL * known if kind == "error" else LEVEL
    told = f"published {'in' if low <= known <= high else 'outside'} {low:.3f} to {high:.3f}"
    cases = (
        (pd.isna(value), UNTOLD, "not run, or of fewer than ten people"),
        (fixed and abs(value - known) <= close.get(row["figure"], 1e-9), REPRODUCED, "equal"),
        (fixed, UNTOLD if by_design else NOT, "another value"),
        (kind == "note", UNTOLD, "one draw"),
        (profile == "smoke" or pd.isna(row["low"]), UNTOLD, "too small to judge"),
        (row["high"] - row["low"] <= 1e-6, NOT, "no spread: one answer for everybody"),
        (kind == "text similarity", *_pattern(row)),
        (exact and not low <= known <= high, NOT, told),
        (exact and max(value - row["low"], row["high"] - value) > room, UNTOLD, "too few people"),
        (exact, REPRODUCED, told),
        (not low - room <= known <= high + room, NOT, f"{told}, by more than {room:.2g}"),
        (kind in GAPS, *_pattern(row)),
        (True, UNTOLD, "a level alone is no pattern"),
    )
    return next((verdict, why) for fits, verdict, why in cases if fits)


def _pattern(row: dict) -> tuple[str, str]:
    """Verdict on a gap, turned so that the published one is positive."""
    side = -1 if row["gap_published"] < 0 else 1
    known, gap, *ends = (side * row[key] for key in COLUMNS[-4:])
    (low, high), order_only = sorted(ends), row["kind"] == "text similarity"
    least, most = _widen(row, gap, low, high)
    other_size = most < min(known / 2, known - MARGIN) or least > max(2 * known, known + MARGIN)
    told = f"gap {side * gap:+.3f}, published {side * known:+.3f}"
    if (known >= MARGIN and high < 0) or (other_size and not order_only):
        return NOT, told
    alike = not order_only and known - LEVEL <= low and high <= known + LEVEL
    shown = low > 0 if known >= MARGIN else alike
    return (PATTERN, told) if shown else (UNTOLD, "no gap, or too few people to tell its side")


def collapse(book: Run) -> list[dict[str, Any]]:
    """How alike chapter 4 found the embeddings of different people; [] where it did not look."""
    rows, stored = [], load_results(book, "04")
    for embedding, found in stored.get("collapse", {}).items():
        row = {k: pick(found, k).get("value") for k in ("mean_cosine", "effective_rank")}
        cosine, n = row["mean_cosine"], found.get("n", stored.get("n_val", 0))  # None: no number
        if n < privacy.SMALLEST_GROUP and not book.synthetic:
            continue
        row = row if book.synthetic else privacy.coarse(row, "gap", n)
        collapsed = cosine is None or cosine > COLLAPSED
        rows.append({"embedding": embedding, **row, "collapsed": collapsed})
    return rows


def source(book: Run) -> dict[str, Any]:
    """Where a report comes from: run, code, data, weights, versions; no name, path or time."""
    known = manifest.read_manifest(book.dir)["chapters"]
    reads = known["01_cohort"]["reads"]
    return {
        **{"label": book.label, "notes": book.dataset.notes, "cohort": book.cohort_label},
        **{"profile": book.profile.name, "seed": book.seed, "device": book.device},
        "versions": manifest.machine()["versions"],
        "data": {key: reads[key] for key in ("tables", "images") if key in reads},
        "code": digest({name: record["code"] for name, record in known.items()}),
        "weights": {k: w["sha256"] for r in known.values() for k, w in r["weights"].items()},
    }


def write_report(
    run_dir: Path, table: pd.DataFrame, where: dict, known: Iterable = (), collapsed: Iterable = ()
) -> Path:
    """Write report.json and report.html, from a table of `collect`, its `source` and `collapse`.

    `known`: texts that must not leave the run. Where something looks like an identifier,
    privacy.PrivateDataError is raised and neither is written.
    """
    rows = table.round(5).astype(object).where(table.notna(), None).to_dict("records")
    stored = {"provenance": where, "rules": RULES, "verdicts": _in_all(table), "figures": rows}
    people = [] if where["cohort"] == "synthetic" else privacy.apart(run_dir)
    data, page = run_dir / "report.json", run_dir / "report.html"
    with atomic_path(data) as new_data, atomic_path(page) as new_page:
        write_json(new_data, stored | {"collapse": list(collapsed)})
        new_page.write_text(render(table, where, collapsed), encoding="utf-8")
        privacy.look([new_data, new_page], known)
        if people:
            write_json(run_dir / privacy.REPORTED, people)
    return page


def render(table: pd.DataFrame, where: dict[str, Any], collapsed: Iterable = ()) -> str:
    """One printable page with every figure; nothing is loaded from elsewhere."""
    groups = [(str(g), rows.to_dict("records")) for g, rows in table.groupby("group", sort=False)]
    changed = table[(table["kind"] == "setting") & (table["verdict"] == "not reproduced")]
    values = {"groups": groups, "changed": changed.to_dict("records"), "counts": _in_all(table)}
    values |= {"where": where, "rules": RULES, "collapse": collapsed}
    return published.template("report.html.j2").render(values)


def _in_all(table: pd.DataFrame) -> dict:
    return table["verdict"].value_counts().reindex(VERDICTS, fill_value=0).to_dict()
