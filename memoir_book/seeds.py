"""What other seeds gave: expected bands of each chapter's headlines, and runs side by side.

    python -m memoir_book.seeds bands smoke-seed0 smoke-seed1 smoke-seed2
    python -m memoir_book.seeds compare quick-base-seed0 quick-base-seed1 quick-half-seed0

`bands` stores in book/reference/bands.json, per profile and kind of device, where further seeds
may be expected; the last cell of each chapter calls `check`. `compare` averages over the seeds of
runs whose names differ only in a last -seedN. Runs may be partial.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import t as student

from memoir_core.config import get_profile
from memoir_core.files import MissingArtefactError, atomic_path, read_json, write_json

from . import chapters
from .chapters import CHAPTERS, get_chapter
from .store import Run

FILE = chapters.ROOT / "book" / "reference" / "bands.json"
WIDTH = 2.5  # of a band, in standard errors to either side
_HEADS, _DX3 = "results_all_modalities", "ablation_balanced_accuracy/dx3"
_MODEL = "scores/llm=majority of five/protocol={}/metric=diagnosis_accuracy/value"

# Chapter -> headline -> kind of number, path into the chapter's results ('key=value' picks the
# records of a list that agree) and, where there is one, the path of the published figure.
HEADLINES: dict[str, dict[str, tuple[str, ...]]] = {
    "01": {"subjects": ("count", "subjects"), "subjects with FA": ("count", "fa_subjects")},
    "02": {
        "T1 volumes": ("count", "volumes/t1"),
        "strongest effect, CN v dementia (d)": ("error", "max_abs_cohens_d"),
    },
    "03": {"parameters": ("count", "parameters")},
    "04": {
        "validation loss": ("error", "history_last/val_loss"),
        "validation recall@5": ("share", "history_last/val_recall@5"),
    },
    "05": {
        "Diagnosis, three classes (balanced accuracy)":
            ("share", "metrics/dx3/balanced_accuracy/value", f"{_HEADS}/dx3/balanced_accuracy"),
        "Diagnosis, three classes (AUC)":
            ("share", "metrics/dx3/auc/value", f"{_HEADS}/dx3/auc"),
        "CN against dementia (balanced accuracy)":
            ("share", "metrics/dx2/balanced_accuracy/value", f"{_HEADS}/dx2/balanced_accuracy"),
        "CN against dementia (AUC)": ("share", "metrics/dx2/auc/value"),
        "Sex (balanced accuracy)":
            ("share", "metrics/sex/balanced_accuracy/value", f"{_HEADS}/sex/balanced_accuracy"),
        "Age (mean absolute error, years)":
            ("error", "metrics/age/mae/value", f"{_HEADS}/age/mae_years"),
        "CDR-SB (mean absolute error, points)":
            ("error", "metrics/cdrsb/mae/value", f"{_HEADS}/cdrsb/mae"),
    },
    "06": {
        "Diagnosis from images alone (balanced accuracy)":
            ("share", "subsets/t1+fa/dx3", f"{_DX3}/t1+dti"),
        "Diagnosis from clinical scores alone (balanced accuracy)":
            ("share", "subsets/clinical/dx3", f"{_DX3}/clinical"),
        "T1 alone, CN against dementia (balanced accuracy)": ("share", "subsets/t1/dx2"),
    },
    "07": {
        "perplexity": ("error", "perplexity/after"),
        "recall@10, own caption": ("share", "alignment/method=aligned, own caption/"
                                   "direction=text to subject/recall@10"),
    },
    "08": {
        "precision@5, z_fused": ("share", "metrics/method=z_fused/precision@5"),
        "precision@5, blind": ("share", "metrics/method=reranked, blind/precision@5"),
    },
    "09": {
        "majority of five, blind": ("share", _MODEL.format("blind")),
        "majority of five, own caption": ("share", _MODEL.format("own_caption")),
    },
    "10": {"settings and sizes as published": ("count", "verdicts/reproduced")},
    "11": {
        "diagnosis as input, network: honest":
            ("share", "experiments/experiment=diagnosis as input, network/honest"),
        "diagnosis as input, network: with the leak":
            ("share", "experiments/experiment=diagnosis as input, network/leaky"),
    },
}  # fmt: skip


class OutOfBandError(AssertionError):
    """A headline lies outside its band, or has none, where that must not happen."""


class SeedsError(ValueError):
    """Bands cannot be made from these runs; the message says why."""


def pick(results: Any, path: str) -> tuple[float | None, dict]:
    """Follow a path of `HEADLINES`: the number, None where there is none, and what holds it."""
    value, record = results, results
    for part in path.split("/"):
        if isinstance(value, list):
            key, _, wanted = part.partition("=")
            value = [row for row in value if row.get(key) == wanted] if wanted else value[:1]
            if wanted:
                continue
            value = value[0] if value else None
        record = value if isinstance(value, dict) else {}
        value = record.get(part)
    return (float(value) if isinstance(value, int | float) and value == value else None), record


def band(kind: str, values: list[float], n: float) -> tuple[float, float]:
    """Where a further seed may be expected: mean -+ 2.5 s on a scale that fits the number.

    A *share* of n people is taken as its logit, an *error* (or loss) as its logarithm, so that a
    band cannot leave 0 to 1, or the positive numbers. s is the standard deviation over the
    seeds, and at least the sampling error of n people, since few seeds may agree by luck:
    1 / sqrt(n p (1 - p)) for the logit of a share p, 0.756 / sqrt(n) for the logarithm of a mean
    absolute error (0.756 is the variation coefficient of a half-normal error). A share nearer
    than half a person to 0 or 1 counts as that half, and a band that comes as near ends there.
    A *count* is the same in every run. With three seeds, 2.5 s hold about 97 of 100 further
    ones: of thirty headlines of a new seed, one may well be out.
    """
    if kind == "count":
        return min(values), max(values)
    x, half = np.array(values, float), 0.5 / n
    if kind == "error":
        scaled, floor = np.log(x), 0.756 / np.sqrt(n)
    else:
        x = x.clip(half, 1 - half)
        scaled, floor = logit(x), 1 / np.sqrt(n * x.mean() * (1 - x.mean()))
    s = max(scaled.std(ddof=1), floor)
    ends = scaled.mean() + WIDTH * s * np.array([-1, 1])
    if kind == "error":
        return float(np.exp(ends[0])), float(np.exp(ends[1]))
    low, high = expit(ends)
    return float(low if low > half else 0), float(high if high < 1 - half else 1)


# --- a chapter against its bands --------------------------------------------------------


def check(book: Run) -> None:
    """Print whether each headline of the chapter that has just ended lies in its band.

    Raises
    ------
    OutOfBandError
        With MEMOIR_BANDS=strict: one lies outside, or the chapter has no band to lie in.
    """
    strict = os.environ.get("MEMOIR_BANDS") == "strict"
    number, kind = get_chapter(book.chapter).number, book.device.split(":")[0]
    stored = (read_json(FILE) if FILE.exists() else {}).get(book.profile.name, {}).get(kind, {})
    known = stored.get("chapters", {}).get(number, {})
    if not book.synthetic or not known:
        print("Expected bands: none, " + ("for real data" if not book.synthetic else
              f"for profile {book.profile.name} on {kind}, chapter {number}"))  # fmt: skip
        if strict and book.synthetic:
            raise OutOfBandError(f"chapter {number} has no band in {FILE.name} ({book.label})")
        return
    results = read_json(book.path("results", f"{book.chapter}.json"))["results"]
    print(f"Expected bands ({book.profile.name}, {kind}, from seeds {_joined(stored['seeds'])}):")
    out = []
    for name, expected in known.items():
        value, _ = pick(results, HEADLINES[number].get(name, ("", ""))[1])
        low, high = expected["low"], expected["high"]
        slack = 1e-6 * max(abs(low), abs(high))  # the file is rounded
        inside = value is not None and low - slack <= value <= high + slack
        out += [] if inside else [name]
        shown = "missing" if value is None else _short(value)
        print(f"  {'in ' if inside else 'OUT'}  {name}: {shown} ({_short(low)} to {_short(high)})")
    if out and strict:
        raise OutOfBandError(
            f"chapter {number}: {', '.join(out)} outside the band of {FILE.name} ({book.label}). If "
            "the change is meant, make the bands anew: python -m memoir_book.seeds bands RUN RUN RUN"
        )
    if out:
        print("  Out of the band is no error: ask whether code, data or settings differ.")


# --- reading runs, making bands, comparing ----------------------------------------------


def read_run(name: str) -> pd.DataFrame:
    """List a run's headlines: run, seed, chapter, headline, kind, value, low, high, n.

    Its provenance is in `attrs`. Raises MissingArtefactError where no chapter has finished.
    """
    folder, rows, source = chapters.runs_dir() / name, [], {}
    for chapter in CHAPTERS:
        path = folder / "results" / f"{chapter.name}.json"
        if not path.exists():
            continue
        stored = read_json(path)
        source, results = stored["provenance"], stored["results"]
        test_part = 0.2 * get_profile(source["profile"]).subjects
        for headline, (kind, where, *_) in HEADLINES[chapter.number].items():
            value, record = pick(results, where)
            n = record.get("n") or results.get("n_test") or test_part
            row = {"run": name, "group": re.sub(r"-seed\d+$", "", name), "seed": source["seed"]}
            row |= {"chapter": chapter.number, "headline": headline, "kind": kind, "n": n}
            rows.append(row | {"value": value} | {e: record.get(e) for e in ("low", "high")})
    if not rows:
        there = sorted(path.parent.name for path in chapters.runs_dir().glob("*/results"))
        raise MissingArtefactError(
            f"{folder} has no results yet; runs with results: {', '.join(there) or 'none'}"
        )
    table = pd.DataFrame(rows)
    table.attrs = source
    return table[table["value"].notna()]


def make_bands(names: list[str]) -> tuple[str, str, dict[str, Any]]:
    """Make the bands of one profile and kind of device from runs of different seeds.

    Returns
    -------
    profile, kind of device, and what bands.json holds of them: seeds, runs (with device and
    versions), and chapter -> headline -> kind, low, high, n and the value of each seed.
    """
    tables = [read_run(name) for name in dict.fromkeys(names)]
    sources = [table.attrs for table in tables]
    seeds = [s["seed"] for s in sources]
    profiles = {s["profile"] for s in sources}
    kinds = {s["device"].split(":")[0] for s in sources}
    if len(tables) < 2 or len(set(seeds)) < len(seeds):
        raise SeedsError(f"give at least two runs, of different seeds (found {_joined(seeds)})")
    if len(profiles) > 1 or len(kinds) > 1 or {s["cohort"] for s in sources} != {"synthetic"}:
        raise SeedsError("give runs of one profile and kind of device, on the synthetic cohort")
    found: dict[str, dict[str, Any]] = {}
    for (number, name, kind), part in pd.concat(tables).groupby(
        ["chapter", "headline", "kind"], sort=False
    ):
        if len(part) > 1:
            low, high = band(kind, part["value"].tolist(), part["n"].mean())
            values = {str(seed): round(v, 6) for seed, v in zip(part["seed"], part["value"])}
            entry = {"kind": kind, "low": round(low, 6), "high": round(high, 6)}
            found.setdefault(number, {})[name] = entry | {"n": part["n"].mean(), "values": values}
    runs = [{key: s[key] for key in ("run", "seed", "device", "versions")} for s in sources]
    return profiles.pop(), kinds.pop(), {"seeds": sorted(seeds), "runs": runs, "chapters": found}


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Average rows of `read_run` over the seeds of a group.

    Returns
    -------
    One row per headline and group: mean, low, high, seeds, and `interval`: 'over seeds' is
    Student's t over at least two runs, 'of the run' the bootstrap interval over subjects of a
    single one. The two answer different questions and cannot be compared.
    """
    rows = []
    for key, part in table.groupby(["chapter", "headline", "group"], sort=False):
        k, mean = len(part), part["value"].mean()
        half = student.ppf(0.975, k - 1) * part["value"].sem() if k > 1 else 0.0
        low, high = (mean - half, mean + half) if k > 1 else part[["low", "high"]].iloc[0]
        row = dict(zip(("chapter", "headline", "group"), key, strict=True), mean=mean, low=low)
        rows.append(
            row | {"high": high, "seeds": k, "interval": "over seeds" if k > 1 else "of the run"}
        )
    return pd.DataFrame(rows)


def compare(names: list[str], out: str) -> Path:
    """Write figures.csv (every run) and table.md (groups side by side) in runs/compare/OUT."""
    tables = [read_run(name) for name in dict.fromkeys(names)]
    table = pd.concat(tables, ignore_index=True)
    summary = summarise(table)
    cells = (
        summary["mean"].map(_short)
        + [
            "" if row.low != row.low else f" ({_short(row.low)} to {_short(row.high)})"
            for row in summary.itertuples()
        ]
        + summary["seeds"].map(lambda k: f", {k} seeds" if k > 1 else "")
    )
    wide = summary.assign(text=cells).pivot_table(
        "text", ["chapter", "headline"], "group", aggfunc="first", sort=False
    )
    labels = dict.fromkeys(t.attrs["label"] for t in tables)
    folder = chapters.runs_dir() / "compare" / (out or "-".join(wide.columns)[:80])
    with atomic_path(folder / "figures.csv") as temporary:
        table.to_csv(temporary, index=False)
    with atomic_path(folder / "table.md") as temporary:
        text = "; ".join(labels) + "\n\n" + wide.fillna("").reset_index().to_markdown(index=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nWritten to {folder}")
    return folder


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _joined(values: Any) -> str:
    return ", ".join(map(str, values))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m memoir_book.seeds", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("what", choices=("bands", "compare"))
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder under runs/")
    parser.add_argument("--out", default="", help="bands: another file; compare: a folder's name")
    args = parser.parse_args(argv)
    try:
        if args.what == "compare":
            compare(args.runs, args.out)
            return 0
        profile, kind, entry = make_bands(args.runs)
    except (SeedsError, MissingArtefactError) as error:
        parser.error(str(error))
    file = Path(args.out or FILE)
    stored = read_json(file) if file.exists() else {}
    stored.setdefault(profile, {})[kind] = entry
    write_json(file, stored)
    print(f"{profile}, {kind}: bands of chapters {_joined(entry['chapters'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
