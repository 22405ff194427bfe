"""Every published figure beside this run's, with a verdict by stated rules.

Built from result files and published.json only. `report.json` holds no times, so that a rerun
gives the same bytes; times, commit and data hash stand in `provenance.json` and, with all
figures, on the one page of `report.html`.
"""

from __future__ import annotations

import hashlib
import html
import inspect
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from memoir_core import config
from memoir_core.config import CHAPTERS, DX, get_chapter

from . import published
from .artefacts import (
    Run,
    atomic_path,
    load_results,
    provenance,
    read_json,
    read_jsonl,
    write_json,
)

COLUMNS = ["chapter", "group", "figure", "kind", "published", "value", "low", "high", "n"]
VERDICTS = ("reproduced", "pattern reproduced", "not reproduced", "not comparable")
MARGIN = 0.03  # published differences below it decide no order: about 1.5 SE at 474 subjects
RULES = {
    "size": "Counts and settings. Reproduced where this run's equals the published one (shares "
    "to 0.1 percentage point, the parameter count, published as 'about', to 5 %). Where it "
    "differs: not comparable in a profile that is smaller by design, else not reproduced.",
    "performance": "On ADNI at the paper profile: reproduced where the published value lies in "
    "this run's 95 % interval, else not reproduced. On the synthetic cohort or a smaller profile "
    "never 'reproduced'. There a figure is set against the others of its group that are published "
    f"at least {MARGIN} away: pattern reproduced where it stands on the same side of all of them, "
    "else not reproduced; not comparable where its group has no such other. The smoke profile is "
    "too small to judge: not comparable.",
    "language model": "As performance, for the published model itself. Where it was not run: not "
    "comparable. A stand-in is never set in its place.",
}


# --- the figures ------------------------------------------------------------------------


def collect(run: Run) -> pd.DataFrame:
    """List every figure that the publication reports, with this run's and a verdict.

    Returns
    -------
    Columns `COLUMNS` and 'verdict', one row per published figure; NaN where this run has no
    such figure.

    Raises
    ------
    MissingArtefactError
        A chapter has no results yet; the message gives the command.
    """
    rows = [*_cohort(run), *_network(run), *_heads(run), *_ablation(run), *_text(run), *_llms(run)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    numbers = ["published", "value", "low", "high", "n"]
    table[numbers] = table[numbers].astype(float)
    return judge(table, run.profile.name, run.synthetic)


def _row(chapter: str, group: str, figure: str, kind: str, known: Any, found: Any, n: Any = None):
    found = found if isinstance(found, dict) else {"value": found}
    cells = {k: found.get(k) for k in ("value", "low", "high")}
    row = {"chapter": chapter, "group": group, "figure": figure, "kind": kind, "published": known}
    return row | cells | {"n": n}


def _cohort(run: Run) -> Iterable[dict]:
    known, found = published.figure("cohort"), load_results(run, "01")
    for name in (*DX, "Total"):
        for part in ("train", "test", "total"):
            count = found["counts"][name][part]
            wanted = (
                known["classes"][name][part]
                if name != "Total"
                else known["subjects" if part == "total" else part]
            )
            label = f"{'all' if name == 'Total' else name}, {part}"
            yield _row("01", "subjects", label, "size", wanted, count)
    subjects, fa = found["subjects"], found["fa_subjects"]
    yield _row("01", "subjects", "with DTI-FA", "size", known["dti_fa_subjects"], fa)
    share = known["dti_fa_fraction"]
    yield _row("01", "subjects", "share with DTI-FA", "size", share, fa / subjects, subjects)


def _network(run: Run) -> Iterable[dict]:
    from memoir_core.losses import focal_loss
    from memoir_core.model import DROP, Fusion

    known, profile = published.figure("model"), run.profile

    def default(function: Any, name: str) -> Any:
        return inspect.signature(function).parameters[name].default

    def setting(figure: str, wanted: Any, value: Any, group: str = "model") -> dict:
        return _row("03" if group == "model" else "05", group, figure, "size", wanted, value)

    wanted, shape = int(np.prod(known["volume_shape"])), int(np.prod(profile.volume_shape))
    yield setting("voxels per volume", wanted, shape)
    yield setting("embedding width", known["embedding_dim"], config.EMBEDDING_DIM)
    yield setting("attention heads", known["attention_heads"], default(Fusion, "heads"))
    millions = load_results(run, "03")["parameters"] / 1e6
    yield setting("parameters (millions)", known["parameters_millions_approx"], millions)
    for name, ours in (("t1", "t1"), ("dti", "fa"), ("clinical", "clinical")):
        yield setting(f"drop rate, {name}", known["modality_drop"][name], DROP[ours])
    one, two = published.figure("training/stage1"), published.figure("training/stage2b")
    group = "training"
    yield setting("stage 1 epochs", one["epochs"], profile.stage1_epochs, group)
    yield setting("stage 1 rate", one["lr"], profile.lr_stage1, group)
    yield setting("stage 2 epochs", two["epochs"], profile.stage2_epochs, group)
    yield setting("stage 2 backbone rate", two["lr_backbone"], profile.lr_backbone, group)
    yield setting("stage 2 heads rate", two["lr_heads"], profile.lr_heads, group)
    yield setting("focal gamma", 2, default(focal_loss, "gamma"), group)
    best = load_results(run, "05")["best_epoch"]
    exact = {"value": best, "low": best, "high": best}
    yield _row("05", "best epoch", "best epoch", "performance", two["best_epoch"], exact)


def _heads(run: Run) -> Iterable[dict]:
    known, found = published.figure("results_all_modalities"), load_results(run, "05")
    metrics = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "auc": "AUC"}
    for key, name in metrics.items():
        for task in ("dx3", "dx2", "sex"):
            value = found["metrics"][task][key]
            group = f"heads, {name}"
            yield _row("05", group, task, "performance", known[task][key], value, found["n_test"])
    for task, key, name in (("age", "mae_years", "age, years"), ("cdrsb", "mae", "CDR-SB, points")):
        value, group = found["metrics"][task]["mae"], f"MAE, {name}"
        yield _row("05", group, group, "performance", known[task][key], value, found["n_test"])
    matrix = published.figure("dx3_confusion_matrix/rows_true_columns_predicted")
    for i, truth in enumerate(DX):
        ours, theirs = found["confusion"][i], matrix[i]
        for j, predicted in enumerate(DX):
            interval = binomtest(ours[j], sum(ours)).proportion_ci(method="wilson")
            value = {"value": ours[j] / sum(ours), "low": interval.low, "high": interval.high}
            # Recalls are one group; the two kinds of error of a class are compared in its row.
            group = "recall" if i == j else f"confusion, true {truth}"
            name = f"recall {truth}" if i == j else f"{truth} taken for {predicted}"
            share = theirs[j] / sum(theirs)
            yield _row("05", group, name, "performance", share, value, sum(ours))


def _ablation(run: Run) -> Iterable[dict]:
    table = pd.read_csv(run.path("ablation.csv"))
    known = published.figure("ablation_balanced_accuracy")
    for task in ("dx3", "dx2"):
        rows = table[table["task"] == task].set_index(table["subset"][table["task"] == task])
        for subset, wanted in known[task].items():
            found = rows.loc[subset.replace("dti", "fa")].to_dict()
            group = f"ablation, {task}"
            yield _row("06", group, subset, "performance", wanted, found, found["n"])


def _text(run: Run) -> Iterable[dict]:
    known, found = published.figure("text"), load_results(run, "07")["sentences"]
    names = {
        "synthetic sentences": "synthetic_sentences",
        "train captions": "real_captions",
        "MLM sentences": "mlm_sentences",
        "text dimension": "text_dim",
        "projected dimension": "projected_dim",
    }
    for name, key in names.items():
        yield _row("07", "text", name, "size", known[key], found[name])
    known = published.figure("retrieval")
    query = read_jsonl(run.path("retrieval.jsonl"))[0]
    vectors = len(read_json(run.path("index.json"))["cases"])
    yield _row("08", "retrieval", "indexed vectors", "size", known["vectors"], vectors)
    yield _row("08", "retrieval", "candidates", "size", known["top_k"], len(query["retrieved"]))
    yield _row("08", "retrieval", "reranked", "size", known["reranked_k"], len(query["reranked"]))


def _llms(run: Run) -> Iterable[dict]:
    metrics = {
        "vqa_diagnosis": ("diagnosis_accuracy", "diagnosis"),
        "bertscore": ("bertscore", "BERTScore"),
        "sbert_cosine": ("sbert_cosine", "SBERT cosine"),
    }
    scores = pd.read_csv(run.path("llm_scores.csv"))
    # The nearest to what is described; see chapter 9.
    own = scores[scores["protocol"] == "own_caption"]
    for key, (metric, name) in metrics.items():
        for model, figures in published.figure("llm_comparison/models").items():
            rows = own[(own["llm"] == model) & (own["metric"] == metric)].to_dict("records")
            found: dict = rows[0] if rows else {}
            group = f"language models, {name}"
            yield _row("09", group, model, "language model", figures[key], found, found.get("n"))


# --- verdicts ---------------------------------------------------------------------------


def judge(table: pd.DataFrame, profile: str, is_synthetic: bool) -> pd.DataFrame:
    """Add the column 'verdict' by `RULES`.

    Parameters
    ----------
    table : columns `COLUMNS`.
    profile : name of the run's profile.
    is_synthetic : whether the run's cohort is synthetic.
    """
    found = [
        _size_verdict(row, profile)
        if row["kind"] == "size"
        else _performance_verdict(row, table, profile, is_synthetic)
        for row in table.to_dict("records")
    ]
    return table.assign(verdict=pd.Series(found, index=table.index, dtype=object))


def _size_verdict(row: dict, profile: str) -> str:
    tolerance = {"parameters (millions)": 0.05 * row["published"], "share with DTI-FA": 0.001}
    difference = abs(row["value"] - row["published"])
    if difference <= tolerance.get(row["figure"], 1e-9):
        return "reproduced"
    return "not reproduced" if profile == "paper" else "not comparable"


def _performance_verdict(row: dict, table: pd.DataFrame, profile: str, is_synthetic: bool) -> str:
    if profile == "smoke" or pd.isna(row["value"]):
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
    return counts.rename(index=lambda number: f"{number} {get_chapter(number).title}")


def pattern(table: pd.DataFrame, task: str) -> float:
    """Spearman correlation over the seven subsets: is the published order reproduced?"""
    rows = table[table["group"] == f"ablation, {task}"]
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


# --- what is written --------------------------------------------------------------------


def git_state() -> dict[str, Any]:
    """Commit of the checkout, and whether files differ from it; None without git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=config.ROOT, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None  # no git, or not a checkout: the report says so
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def data_hash(run: Run) -> str:
    """Hash of the download's tables and of the volumes made from its images."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("ADNIMERGE.csv", "images.csv"):
        path = run.data_dir / name
        digest.update(path.read_bytes() if path.exists() else b"absent")
    digest.update(str(read_json(run.path("volumes.json")).get("checksums")).encode())
    return digest.hexdigest()


def full_provenance(run: Run) -> dict[str, Any]:
    """Where this report comes from: run, versions, commit, data, machine and time."""
    return provenance(run) | {
        "git": git_state(),
        "data_hash": data_hash(run),
        "machine": f"{platform.system()} {platform.machine()}",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds_by_chapter": costs(run)["seconds"].to_dict(),
    }


def write_report(run: Run, table: pd.DataFrame) -> Path:
    """Write report.json, provenance.json and report.html, from a table of `collect`.

    Returns
    -------
    path of report.html.
    """
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    rows = [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    order = {task: round(pattern(table, task), 5) for task in ("dx3", "dx2")}
    write_json(
        run.path("report.json"),
        {
            "provenance": provenance(run),
            "rules": RULES,
            "verdicts": table["verdict"].value_counts().reindex(VERDICTS, fill_value=0).to_dict(),
            "spearman_of_subsets": order,
            "figures": rows,
        },
    )
    source = full_provenance(run)
    write_json(run.path("provenance.json"), source)
    path = run.path("report.html")
    with atomic_path(path) as temporary:
        temporary.write_text(page(table, source), encoding="utf-8")
    return path


MARKS = dict(zip(VERDICTS, ("R", "P", "N", "–"), strict=True))
COLOURS = dict(zip(VERDICTS, ("#00664d", "#004c80", "#a33d00", "#666666"), strict=True))
STYLE = """
@page { size: A4; margin: 9mm }
body { font: 6.6pt/1.22 "DejaVu Sans", Verdana, sans-serif; color: #111; background: #fff;
       max-width: 192mm; margin: 4mm auto }
h1 { font-size: 11pt; margin: 0 } p { margin: 1mm 0 }
.columns { columns: 2; column-gap: 5mm } section { break-inside: avoid }
h2 { font-size: 7pt; margin: 1.4mm 0 .2mm; border-bottom: .2mm solid #999 }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
th:nth-child(1) { width: 40% } th:nth-child(2) { width: 15% } th:nth-child(3) { width: 29% }
th:nth-child(4) { width: 9% } th:nth-child(5) { width: 7% }
td, th { padding: 0 .8mm; text-align: right; font-weight: normal; white-space: nowrap }
td:first-child, th:first-child { text-align: left; white-space: normal }
th { color: #555 } td:last-child { font-weight: bold; text-align: center }
footer { font-size: 5.6pt; color: #333; margin-top: 1.5mm; overflow-wrap: anywhere }
@media print { body { margin: 0 } }
"""


def page(table: pd.DataFrame, source: dict[str, Any]) -> str:
    """One printable page with every figure; nothing is loaded from elsewhere.

    Parameters
    ----------
    table : of `collect`.
    source : of `full_provenance`; it stands between two comments, because it holds the time.
    """
    counts = table["verdict"].value_counts()
    legend = ", ".join(
        f'<b style="color:{COLOURS[v]}">{MARKS[v]}</b> {v} ({counts.get(v, 0)})' for v in VERDICTS
    )
    rules = " ".join(
        f"<b>{html.escape(k.capitalize())}.</b> {html.escape(v)}" for k, v in RULES.items()
    )
    sections = "".join(
        _section(str(group), rows) for group, rows in table.groupby("group", sort=False)
    )
    git = source["git"]
    commit = git["commit"] or "not a git checkout"
    commit += " with local changes" if git["dirty"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in source["versions"].items())
    facts = (
        f"Commit {commit}; {versions}; {source['machine']}; data {source['data_hash']}; "
        f"{sum(source['seconds_by_chapter'].values()):.0f} s in all chapters; "
        f"written {source['written']}."
    )
    label = html.escape(source["label"])
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>MEMOIR-VLM, reproduction report, {label}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>MEMOIR-VLM: reproduction report</h1>\n<p><b>This run: {label}.</b> Published: "
        "ADNI, 2,363 subjects. In brackets: 95 % interval; n: what it rests on. Not for clinical "
        f"use.</p>\n<p>{legend}</p>\n"
        f'<div class="columns">{sections}</div>\n<footer><p>{rules}</p>\n'
        f"<!-- provenance -->\n<p>{html.escape(facts)}</p>\n<!-- end of provenance -->\n"
        "</footer></body></html>\n"
    )


def _section(group: str, rows: pd.DataFrame) -> str:
    lines = []
    for row in rows.to_dict("records"):
        value = _number(row["value"])
        if not pd.isna(row["low"]) and row["low"] != row["high"]:
            value += f" ({_number(row['low'])}–{_number(row['high'])})"
        cells = [row["figure"], _number(row["published"]), value]
        cells.append("" if pd.isna(row["n"]) else f"{row['n']:.0f}")
        line = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        verdict = row["verdict"]
        mark = f'<td style="color:{COLOURS[verdict]}" title="{verdict}">{MARKS[verdict]}</td>'
        lines.append(f"<tr>{line}{mark}</tr>\n")
    head = "<tr><th></th><th>published</th><th>this run</th><th>n</th><th></th></tr>"
    title = f"<h2>{html.escape(group[0].upper() + group[1:])}</h2>"
    return f"<section>{title}<table>{head}\n{''.join(lines)}</table></section>\n"


def _number(value: float) -> str:
    if pd.isna(value):
        return "not run"
    if abs(value) >= 2 and float(value).is_integer():
        return f"{value:,.0f}"
    if 0 < abs(value) < 0.002:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"


def write_pdf(path: Path) -> Path | None:
    """Print report.html to report.pdf with a headless Chromium, where one is installed.

    Returns
    -------
    path of the PDF; None where there is no Chromium, or it fails (its message is printed).
    """
    browser = config.find_browser()
    pdf = path.with_suffix(".pdf")
    pdf.unlink(missing_ok=True)  # one of an earlier run would show other figures
    if browser is None:
        return None
    temporary = pdf.with_name(".report.pdf")
    command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"]
    command += ["--no-sandbox"] if platform.system() == "Linux" else []  # CI runs as root
    command += [f"--print-to-pdf={temporary}", path.resolve().as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
        problem = done.stderr[-300:]
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if not temporary.exists():
        print(f"{Path(browser).name} did not print the report: {problem}")
        return None
    return temporary.replace(pdf)


def download_link(path: Path, kind: str) -> str:
    """An HTML link that carries the whole file, so that it works on any page it is put on."""
    import base64

    data = base64.b64encode(path.read_bytes()).decode()
    size = f"{path.stat().st_size / 1024:.0f} kB"
    name = html.escape(path.name)
    return f'<a download="{name}" href="data:{kind};base64,{data}">{name}</a> ({size})'
