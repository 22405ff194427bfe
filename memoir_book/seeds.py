"""What other seeds gave: expected bands of each chapter's headlines, and runs side by side.

    python -m memoir_book.seeds bands smoke-seed0 smoke-seed1 smoke-seed2
    python -m memoir_book.seeds compare quick-base-seed0 quick-base-seed1 quick-half-seed0

`bands` stores in book/reference/bands.json, per profile and kind of device, where further seeds
may be expected; the last cell of each chapter calls `check`. `compare` averages over the seeds of
runs whose names differ only in a last -seedN. Runs may be partial.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import t as student

from memoir_core.config import get_profile
from memoir_core.files import MissingArtefactError, atomic_path, read_json, write_json

from . import chapters
from .store import Run

FILE = chapters.ROOT / "book" / "reference" / "bands.json"
WIDTH = 2.5  # of a band, in standard errors to either side


@cache
def headlines() -> dict[str, dict[str, list[str]]]:
    """Read headlines.json, the one list: chapter -> headline -> kind, path, published path.

    The kind is share, error or count, see `band`. The path leads into the chapter's results;
    'key=value' picks the records of a list that agree. The last is '' where nothing is published.
    """
    file = Path(__file__).with_name("headlines.json")
    return json.loads(file.read_text(encoding="utf-8"))


class OutOfBandError(AssertionError):
    """A headline lies outside its band, or has none, where that must not happen."""


def pick(results: Any, path: str) -> dict[str, Any]:
    """Follow a path of `headlines`: value, and low, high, n where they stand beside it.

    {} where the path leads to no number.
    """
    value, record = results, {}
    for part in path.split("/"):
        key, _, wanted = part.partition("=")
        if isinstance(value, list) and wanted:
            value = [row for row in value if row.get(key) == wanted]
            continue
        record = value[0] if isinstance(value, list) and value else value
        value = record.get(part) if isinstance(record, dict) else None
    if isinstance(value, dict):  # a number with its interval
        record, value = value, value.get("value")
    if not isinstance(value, int | float) or value != value:
        return {}
    return {"value": float(value)} | {k: record[k] for k in ("low", "high", "n") if k in record}


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
        scaled, floor = np.log(x.clip(1e-9)), 0.756 / np.sqrt(n)
    else:
        x = x.clip(half, 1 - half)
        scaled, floor = logit(x), 1 / np.sqrt(n * x.mean() * (1 - x.mean()))
    reach = WIDTH * max(scaled.std(ddof=1), floor)
    ends = scaled.mean() - reach, scaled.mean() + reach
    if kind == "error":
        return float(np.exp(ends[0])), float(np.exp(ends[1]))
    low, high = expit(ends)
    return float(low if low > half else 0), float(high if high < 1 - half else 1)


def check(book: Run) -> None:
    """Print whether each headline of the chapter that has just ended lies in its band.

    Raises
    ------
    OutOfBandError
        With MEMOIR_BANDS=strict: one lies outside, or the chapter has no band to lie in.
    """
    kind, number = book.device.split(":")[0], book.chapter[:2]
    stored = (read_json(FILE) if FILE.exists() else {}).get(book.profile.name, {}).get(kind, {})
    known = stored.get("chapters", {}).get(number, {}) if book.synthetic else {}
    results = read_json(book.path("results", f"{book.chapter}.json"))["results"]
    out = [] if known or not book.synthetic else ["every headline"]
    if known:
        made = ", ".join(map(str, stored["seeds"]))
        print(f"Expected bands ({book.profile.name}, {kind}, from seeds {made}):")
    else:
        what = f"profile {book.profile.name} on {kind}" if book.synthetic else "real data"
        print(f"Expected bands: none for {what}.")
    for name, expected in known.items():
        value = pick(results, headlines()[number].get(name, ("", ""))[1]).get("value", np.nan)
        low, high = expected["low"], expected["high"]
        slack = 1e-6 * max(abs(low), abs(high))  # the file is rounded
        inside = low - slack <= value <= high + slack
        out += [] if inside else [name]
        print(f"  {'in ' if inside else 'OUT'}  {name}: {_short(value)} (band {_short(low)} to "
              f"{_short(high)})")  # fmt: skip
    if out and os.environ.get("MEMOIR_BANDS") == "strict":
        raise OutOfBandError(
            f"chapter {number}: {', '.join(out)} without, or out of, a band in {FILE.name} "
            f"({book.label}). If that is meant, make the bands anew from several seeds: "
            "python -m memoir_book.seeds bands RUN RUN RUN"
        )


def read_run(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """List a run's headlines: run, seed, chapter, headline, kind, n, low, high, value.

    The second value says where they come from; no results: MissingArtefactError.
    """
    folder, rows, source = chapters.runs_dir() / name, [], {}
    for chapter in chapters.CHAPTERS:
        path = folder / "results" / f"{chapter.name}.json"
        if not path.exists():
            continue
        stored = read_json(path)
        source, results = stored["provenance"], stored["results"]
        n = results.get("n_test") or 0.2 * get_profile(source["profile"]).subjects
        place = {"run": name, "seed": source["seed"], "chapter": chapter.number}
        for headline, (kind, where, _) in headlines()[chapter.number].items():
            if found := pick(results, where):
                empty = {"kind": kind, "n": n, "low": np.nan, "high": np.nan}
                rows.append(place | {"headline": headline} | empty | found)
    if not rows:
        there = sorted(path.parent.name for path in chapters.runs_dir().glob("*/results"))
        raise MissingArtefactError(
            f"{folder} has no results yet; runs with results: {', '.join(there) or 'none'}"
        )
    return pd.DataFrame(rows), source


def make_bands(names: list[str]) -> tuple[str, str, dict[str, Any]]:
    """Make the bands of one profile and kind of device from runs of different seeds.

    Returns
    -------
    profile, kind of device, and what bands.json holds of them: seeds, runs (with device and
    versions), and chapter -> headline -> kind, low, high, n and the value of each seed.
    """
    runs = [read_run(name) for name in dict.fromkeys(names)]
    sources = [source for _, source in runs]
    seeds = [s["seed"] for s in sources]
    places = {(s["profile"], s["device"].split(":")[0], s["cohort"]) for s in sources}
    if len(set(seeds)) < max(2, len(seeds)):
        raise ValueError(f"give at least two runs, of different seeds; found {seeds}")
    if len(places) > 1 or next(iter(places))[2] != "synthetic":
        raise ValueError(f"give runs of one profile, kind of device and synthetic data: {places}")
    found: dict[str, dict[str, Any]] = {}
    keys = ["chapter", "headline", "kind"]
    table = pd.concat([found for found, _ in runs])
    for key, part in table.groupby(keys, sort=False):
        number, name, kind = map(str, key)
        if len(part) > 1:  # a chapter gets its bands from the runs that finished it
            n, values = float(part["n"].mean()), part["value"].tolist()
            low, high = (round(end, 6) for end in band(kind, values, n))
            each = dict(zip(part["seed"].astype(str), part["value"].round(6), strict=True))
            entry = {"kind": kind, "low": low, "high": high, "n": n, "values": each}
            found.setdefault(number, {})[name] = entry
    made_from = [{key: s[key] for key in ("run", "seed", "device", "versions")} for s in sources]
    profile, device, _ = places.pop()
    return profile, device, {"seeds": sorted(seeds), "runs": made_from, "chapters": found}


def compare(names: list[str], out: str = "") -> Path:
    """Write figures.csv (runs) and table.md (means and 95 % intervals) in runs/compare/OUT.

    Of several seeds the interval is Student's t over them, of a single one the bootstrap
    interval over its subjects: the two answer different questions and cannot be compared.
    """
    runs = [read_run(name) for name in dict.fromkeys(names)]
    table = pd.concat([found for found, _ in runs], ignore_index=True)
    table["group"] = table["run"].str.replace(r"-seed\d+$", "", regex=True)
    cells: dict[str, dict[str, str]] = {}
    for key, part in table.groupby(["chapter", "headline", "group"], sort=False):
        number, name, group = map(str, key)
        mean, k = part["value"].mean(), len(part)
        half = student.ppf(0.975, k - 1) * part["value"].sem() if k > 1 else 0.0
        low, high = (mean - half, mean + half) if k > 1 else part[["low", "high"]].iloc[0]
        shown = _short(mean) + (f" ({_short(low)} to {_short(high)})" if low == low else "")
        cells.setdefault(group, {})[f"{number} {name}"] = f"{shown}, {k} seeds" if k > 1 else shown
    folder = chapters.runs_dir() / "compare" / (out or "-".join(cells)[:80])
    with atomic_path(folder / "figures.csv") as temporary:
        table.to_csv(temporary, index=False)
    lines = [["", *cells], ["---"] * (len(cells) + 1)]
    for name in dict.fromkeys(table["chapter"] + " " + table["headline"]):
        lines.append([name, *(column.get(name, "") for column in cells.values())])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    text = "; ".join(dict.fromkeys(s["label"] for _, s in runs)) + f"\n\n{text}\n"
    with atomic_path(folder / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{text}\nWritten to {folder}")
    return folder


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m memoir_book.seeds")
    parser.add_argument("what", choices=("bands", "compare"))
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder under runs/")
    parser.add_argument("--out", default="", help="bands: another file; compare: a folder's name")
    args = parser.parse_args(argv)
    try:
        if args.what == "compare":
            compare(args.runs, args.out)
            return 0
        profile, kind, entry = make_bands(args.runs)
    except (ValueError, MissingArtefactError) as error:
        parser.error(str(error))
    file = Path(args.out or FILE)
    stored = read_json(file) if file.exists() else {}
    stored.setdefault(profile, {})[kind] = entry
    write_json(file, stored)
    print(f"{profile}, {kind}: bands of chapters {', '.join(entry['chapters'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
