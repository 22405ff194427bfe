"""Every published figure beside this run's, with a verdict by stated rules.

`report.json` and `report.html` are what may leave a run on real data. By construction they hold
aggregates of at least ten people: one function, `_row`, makes every row, from a value and the
number of people that it rests on. No row holds an age of a person (so none over 89), a date, a
name or free text; words come from this file and from published.json. `privacy.look` reads both
files before they are moved into place. Settings are those that the trainings noted, not those
that a profile or a constant would have them use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment
from scipy.stats import binomtest

from memoir_core.config import DX
from memoir_core.files import atomic_path, digest, read_json, read_jsonl, write_json

from . import chapters, manifest, privacy, published
from .store import Run, find_run, load_results

SMALLEST_GROUP = 10  # people; of fewer, nothing is said
COLUMNS = ["chapter", "group", "figure", "kind", "published", "value", "low", "high", "n"]
VERDICTS = ("reproduced", "pattern reproduced", "not reproduced", "not comparable")
MARGIN = 0.03  # published differences below it decide no order: about 1.5 SE at 474 subjects
RULES = {
    "setting": "What the trainings noted that they used: reproduced where it is the published "
    "value, else not reproduced.",
    "size": "Counts, and settings that a profile makes smaller by design. Reproduced where equal "
    "to the published one (shares to 0.1 percentage point, the parameter count, published as "
    "'about', to 5 %). Where it differs: not comparable in a smaller profile, else not reproduced.",
    "performance": "On ADNI at the paper profile: reproduced where the published value lies in "
    "this run's 95 % interval, else not reproduced. On the synthetic cohort or a smaller profile "
    "never 'reproduced'. There a figure is set against the others of its group that are published "
    f"at least {MARGIN} away: pattern reproduced where it stands on the same side of all of them, "
    "else not reproduced; not comparable where its group has no such other. The smoke profile is "
    "too small to judge: not comparable.",
    "language model": "As performance, for the published model itself. Where it was not run: not "
    "comparable. A stand-in is never set in its place.",
}
# Stage, figure, published path, path in the stage's settings.json, field of the profile.
SETTINGS = (
    ("stage1", "epochs", "training/stage1/epochs", "epochs", "stage1_epochs"),
    ("stage1", "rate", "training/stage1/lr", "lr_backbone", "lr_stage1"),
    ("stage2", "epochs", "training/stage2b/epochs", "epochs", "stage2_epochs"),
    ("stage2", "rate, backbone", "training/stage2b/lr_backbone", "lr_backbone", "lr_backbone"),
    ("stage2", "rate, heads", "training/stage2b/lr_heads", "lr_heads", "lr_heads"),
    *(
        (stage, f"drop rate, {name}", f"model/modality_drop/{theirs}", f"drop/{ours}", "")
        for stage in ("stage1", "stage2")
        for name, theirs, ours in (("T1", "t1", "t1"), ("FA", "dti", "fa"), ("clinical",) * 3)
    ),
)


def _row(place: tuple[str, str], figure: str, kind: str, known: Any, found: Any, n: Any = None):
    """Make one row; the only way into the report.

    Parameters
    ----------
    place : chapter and group of figures.
    known : the published value.
    found : this run's: a number, or a mapping with value, low and high.
    n : people that it rests on (None: it is no figure of people, as a setting). Of fewer than
        `SMALLEST_GROUP` nothing is kept, not even their number.
    """
    cells = found if isinstance(found, dict) else {"value": found}
    row = dict(zip(COLUMNS, (*place, figure, kind, known), strict=False))
    told = n is None or n >= SMALLEST_GROUP
    row |= {key: cells.get(key) if told else None for key in ("value", "low", "high")}
    return row | {"n": n if told else None}


def collect(book: Run) -> pd.DataFrame:
    """List every figure that the publication reports, with this run's and a verdict.

    Returns
    -------
    Columns `COLUMNS` and 'verdict', one row per published figure; NaN where this run has no
    such figure, or has it of fewer than ten people. Raises MissingArtefactError, which gives the
    command, where a chapter has no results yet.
    """
    parts = (_cohort, _settings, _heads, _ablation, _text, _llms)
    table = pd.DataFrame([row for part in parts for row in part(book)], columns=COLUMNS)
    numbers = ["published", "value", "low", "high", "n"]
    table[numbers] = table[numbers].astype(float)
    return judge(table, book.profile.name, book.synthetic)


def _cohort(book: Run) -> Iterator[dict]:
    known, found, place = published.figure("cohort"), load_results(book, "01"), ("01", "subjects")
    rows = []
    for part in ("train", "test", "total"):
        counts = {name: found["counts"][name][part] for name in DX}
        few = min(counts.values())  # all or none: the difference from the sum would tell
        rows += [(f"{dx}, {part}", known["classes"][dx][part], counts[dx], few) for dx in DX]
        every = known["subjects" if part == "total" else part], sum(counts.values())
        rows.append((f"all, {part}", *every, every[1]))
    n, fa = found["subjects"], found["fa_subjects"]
    few = min(fa, n - fa) if fa < n else fa
    rows.append(("with DTI-FA", known["dti_fa_subjects"], fa, few))
    rows.append(("share with DTI-FA", known["dti_fa_fraction"], fa / n, few))
    for name, wanted, value, people in rows:
        yield _row(place, name, "size", wanted, value, people) | {"n": None}


def _settings(book: Run) -> Iterator[dict]:
    known = published.figure("model")
    shapes = known["volume_shape"], read_json(book.path("volumes.json"))["shape"]
    yield _row(("03", "model"), "voxels per volume", "size", *(int(np.prod(s)) for s in shapes))
    wanted, millions = known["parameters_millions_approx"], load_results(book, "03")["parameters"]
    yield _row(("03", "model"), "parameters (millions)", "size", wanted, millions / 1e6)
    for stage, figure, where, path, sized in SETTINGS:
        value = read_json(book.path(stage, "settings.json"))["settings"]
        for key in path.split("/"):
            value = value[key]
        place = ("04" if stage == "stage1" else "05", f"{stage}, settings")
        kind = "size" if sized and value == getattr(book.profile, sized) else "setting"
        yield _row(place, figure, kind, published.figure(where), value)
    inputs = len(known["clinical_inputs"])  # the last settings are those of stage 2
    used = read_json(book.path("stage2", "settings.json"))["settings"]
    yield _row(place, "clinical inputs", "setting", inputs, inputs - len(used["hide"]))
    first, _ = manifest.current(manifest.read_manifest(book.dir))["stage1/model.safetensors"]
    yield _row(place, "begins with stage 1", "setting", 1, int(used["start"] == first))
    best = dict.fromkeys(("value", "low", "high"), load_results(book, "05")["best_epoch"])
    wanted = published.figure("training/stage2b/best_epoch")
    yield _row(("05", "best epoch"), "best epoch", "performance", wanted, best)


def _heads(book: Run) -> Iterator[dict]:
    known, found = published.figure("results_all_modalities"), load_results(book, "05")
    metrics, n = found["metrics"], found["n_test"]
    names = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "auc": "AUC"}
    for key, name in names.items():
        for task in ("dx3", "dx2", "sex"):
            place, wanted = ("05", f"heads, {name}"), known[task][key]
            yield _row(place, task, "performance", wanted, metrics[task][key], n)
    for task, key, name in (("age", "mae_years", "age, years"), ("cdrsb", "mae", "CDR-SB, points")):
        place, wanted = ("05", f"MAE, {name}"), known[task][key]
        yield _row(place, f"MAE, {name}", "performance", wanted, metrics[task]["mae"], n)
    matrix = published.figure("dx3_confusion_matrix/rows_true_columns_predicted")
    for truth, ours, theirs in zip(DX, found["confusion"], matrix, strict=True):
        for j, predicted in enumerate(DX):
            interval = binomtest(ours[j], sum(ours)).proportion_ci(method="wilson")
            value = {"value": ours[j] / sum(ours), "low": interval.low, "high": interval.high}
            # Recalls are one group; the two kinds of error of a class are compared in its row.
            hit = truth == predicted
            place = ("05", "recall" if hit else f"confusion, true {truth}")
            name = f"recall {truth}" if hit else f"{truth} taken for {predicted}"
            share = theirs[j] / sum(theirs)
            yield _row(place, name, "performance", share, value, sum(ours))


def _ablation(book: Run) -> Iterator[dict]:
    table = pd.read_csv(book.path("ablation.csv"))
    for task, subsets in published.figure("ablation_balanced_accuracy").items():
        rows = table[table["task"] == task].set_index("subset")
        for subset, wanted in subsets.items():
            found = rows.loc[subset.replace("dti", "fa")].to_dict()
            yield _row(
                ("06", f"ablation, {task}"), subset, "performance", wanted, found, found["n"]
            )


def _text(book: Run) -> Iterator[dict]:
    found = load_results(book, "07")["sentences"]
    for name, key in (
        ("synthetic sentences", "synthetic_sentences"),
        ("train captions", "real_captions"),
        ("MLM sentences", "mlm_sentences"),
        ("text dimension", "text_dim"),
        ("projected dimension", "projected_dim"),
    ):
        yield _row(("07", "text"), name, "size", published.figure(f"text/{key}"), found[name])
    known, query = published.figure("retrieval"), read_jsonl(book.path("retrieval.jsonl"))[0]
    vectors = load_results(book, "01")["counts"]["Total"]["train"]
    place, kind = ("08", "retrieval"), "size"
    yield _row(place, "indexed vectors", kind, known["vectors"], vectors, vectors) | {"n": None}
    yield _row(place, "candidates", kind, known["top_k"], len(query["retrieved"]))
    yield _row(place, "reranked", kind, known["reranked_k"], len(query["reranked"]))


def _llms(book: Run) -> Iterator[dict]:
    scores = pd.read_csv(book.path("llm_scores.csv"))
    own = scores[scores["protocol"] == "own_caption"]  # the nearest to what is described: chapter 9
    for key, metric, name in (
        ("vqa_diagnosis", "diagnosis_accuracy", "diagnosis"),
        ("bertscore", "bertscore", "BERTScore"),
        ("sbert_cosine", "sbert_cosine", "SBERT cosine"),
    ):
        for model, figures in published.figure("llm_comparison/models").items():
            rows = own[(own["llm"] == model) & (own["metric"] == metric)].to_dict("records")
            found: dict = rows[0] if rows else {}
            place = ("09", f"language models, {name}")
            yield _row(place, model, "language model", figures[key], found, found.get("n"))


# --- verdicts ---------------------------------------------------------------------------


def judge(table: pd.DataFrame, profile: str, is_synthetic: bool) -> pd.DataFrame:
    """Add the column 'verdict' by `RULES` to a table with columns `COLUMNS`."""
    found = [
        "not comparable"
        if pd.isna(row["value"])
        else _setting_verdict(row, profile)
        if row["kind"] in ("size", "setting")
        else _performance_verdict(row, table, profile, is_synthetic)
        for row in table.to_dict("records")
    ]
    return table.assign(verdict=pd.Series(found, index=table.index, dtype=object))


def _setting_verdict(row: dict, profile: str) -> str:
    tolerance = {"parameters (millions)": 0.05 * row["published"], "share with DTI-FA": 0.001}
    if abs(row["value"] - row["published"]) <= tolerance.get(row["figure"], 1e-9):
        return "reproduced"
    by_design = row["kind"] == "size" and profile != "paper"
    return "not comparable" if by_design else "not reproduced"


def _performance_verdict(row: dict, table: pd.DataFrame, profile: str, is_synthetic: bool) -> str:
    if profile == "smoke":
        return "not comparable"
    if profile == "paper" and not is_synthetic:
        inside = row["low"] <= row["published"] <= row["high"]
        return "reproduced" if inside else "not reproduced"
    group = table[(table["group"] == row["group"]) & table["value"].notna()]
    apart = row["published"] - group["published"]
    apart = apart[apart.abs() >= MARGIN]
    if not len(apart):
        return "not comparable"
    here = row["value"] - group.loc[apart.index, "value"]
    same = bool((np.sign(apart) == np.sign(here)).all())
    return "pattern reproduced" if same else "not reproduced"


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """Count verdicts per chapter: one row per chapter, one column per verdict."""
    counts = pd.crosstab(table["chapter"], table["verdict"])
    counts = counts.reindex(columns=list(VERDICTS), fill_value=0).rename_axis(columns=None)
    return counts.rename(index=lambda n: f"{n} {chapters.get_chapter(n).title}")


def pattern(table: pd.DataFrame, task: str) -> float:
    """Spearman correlation over the seven subsets: is the published order reproduced?"""
    rows = table[table["group"] == f"ablation, {task}"]
    return float(rows["published"].corr(rows["value"], method="spearman"))


def said(row: dict) -> str:
    """'drop rate, FA: published 0.30, used 0.50, not reproduced'."""
    used = f"published {_number(row['published'])}, used {_number(row['value'])}"
    return f"{row['figure']}: {used}, {row['verdict']}"


def source(book: Run) -> dict[str, Any]:
    """Where a report comes from: run, code, data, weights, versions; no name, path or time."""
    known = manifest.read_manifest(book.dir)["chapters"]
    data = {k: v for k, v in known["01_cohort"]["reads"].items() if k in ("tables", "images")}
    return {
        **{"label": book.label, "cohort": book.cohort_label, "profile": book.profile.name},
        **{"seed": book.seed, "device": book.device, "data": data},
        "code": digest({name: record["code"] for name, record in known.items()}),
        "weights": {k: w["sha256"] for r in known.values() for k, w in r["weights"].items()},
        "versions": manifest.machine()["versions"],
    }


def write_report(
    run_dir: Path, table: pd.DataFrame, where: dict[str, Any], known: Iterable[str] = ()
) -> Path:
    """Write report.json and report.html, from a table of `collect` and its `source`.

    `known` are texts that must not leave the run: data folder, PTIDs, image paths. Raises
    privacy.PrivateDataError, and writes neither, where something looks like an identifier.
    """
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    rows = [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    verdicts = table["verdict"].value_counts().reindex(VERDICTS, fill_value=0).to_dict()
    order = {task: round(pattern(table, task), 5) for task in ("dx3", "dx2")}
    with (
        atomic_path(run_dir / "report.json") as data,
        atomic_path(run_dir / "report.html") as page,
    ):
        stored = {"provenance": where, "rules": RULES, "verdicts": verdicts}
        write_json(data, stored | {"spearman_of_subsets": order, "figures": rows})
        page.write_text(render(table, where), encoding="utf-8")
        privacy.look([data, page], known)
    return run_dir / "report.html"


def render(table: pd.DataFrame, where: dict[str, Any]) -> str:
    """One printable page with every figure; nothing is loaded from elsewhere."""
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "interval": _interval, "said": said}
    groups = [
        (str(name), rows.to_dict("records")) for name, rows in table.groupby("group", sort=False)
    ]
    changed = table[(table["kind"] == "setting") & (table["verdict"] == "not reproduced")]
    return environment.from_string(template).render(
        groups=groups, changed=changed.to_dict("records"), where=where, rules=RULES,
        counts=table["verdict"].value_counts().reindex(VERDICTS, fill_value=0).to_dict(),
    )  # fmt: skip


def _interval(row: dict) -> str:
    text = _number(row["value"])
    if not pd.isna(row["low"]) and row["low"] != row["high"]:
        text += f" ({_number(row['low'])}–{_number(row['high'])})"
    return text


def _number(value: float) -> str:
    if pd.isna(value):
        return "not told"
    if float(value).is_integer():
        return f"{value:,.0f}"
    if 0 < abs(value) < 0.002:
        return f"{value:.0e}"
    digits = 2 if abs(value) >= 2 or abs(round(value, 2) - value) < 1e-9 else 3
    return f"{value:.{digits}f}"


def main(argv: list[str] | None = None) -> int:
    """Print every figure of a run's report; chapter 10 makes it."""
    parser = argparse.ArgumentParser(prog="python -m memoir_book.report", description=__doc__)
    chapters.add_run_options(parser)
    args = parser.parse_args(argv)
    try:
        name, _ = find_run(args.profile, args.run, args.data, args.seed)
        for row in read_json(chapters.runs_dir() / name / "report.json")["figures"]:
            print(f"{row['chapter']}  {row['group']}, {said(row)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}; run chapter 10 first", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
