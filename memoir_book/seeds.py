"""What other seeds gave: expected bands of each chapter's headlines, and runs side by side.

    python -m memoir_book.seeds bands smoke-seed0 smoke-seed1 smoke-seed2
    python -m memoir_book.seeds compare quick-base-seed0 quick-base-seed1 quick-half-seed0
    python -m memoir_book.seeds export quick-seed7 --out mine.json; ... compare mine.json

`bands` stores in book/reference/bands.json where further seeds may be expected; the last cell of
each chapter calls `check`. `compare` averages over runs whose names differ only in a last -seedN,
and tests the others' differences to the first; a file of `export` it holds against the bands.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import binom
from scipy.stats import t as student

from memoir_core.config import get_profile
from memoir_core.files import MissingArtefactError, atomic_path, read_json, write_json

from . import chapters, privacy, published
from .messages import say
from .store import Run

FILE = chapters.ROOT / "book" / "reference" / "bands.json"
WIDTH = 2.5  # of a band, in standard errors to either side
# Chapter -> headline -> kind (see `band`), path (`pick`), path of what is published, or ''
HEADLINES: dict[str, dict[str, list[str]]] = published.load("headlines.json")
COLUMNS = ["run", "seed", "place", "chapter", "headline", "kind", "n", "low", "high", "value"]
TEST_TO_TRAIN = 0.2 / (0.8 * 0.85)  # subjects of the test part for one that is trained on


def pick(results: Any, path: str) -> dict[str, Any]:
    """Follow a path such as 'scores/llm=a/value': value, and low, high, n if they stand beside it.

    'key=value' picks the records of a list that agree. {} where the path leads to no number.
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
    seeds, and at least the sampling error of n people, since few seeds may agree by luck (0.756
    is the variation coefficient of a half-normal error). A share nearer than half a person to 0
    or 1 counts as that half, and a band that comes as near ends there. A *count* is the same in
    every run. Of thirty headlines of a new seed, one may well be out.
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
    low, high = map(float, np.exp(ends) if kind == "error" else expit(ends))
    if kind == "error":
        return low, high
    return low if low > half else 0.0, high if high < 1 - half else 1.0


def check(book: Run) -> None:
    """Print whether each headline of the chapter that has just ended lies in its band.

    With MEMOIR_BANDS=strict, AssertionError if one lies outside or the chapter has no bands.
    """
    kind, number = book.device.split(":")[0], book.chapter[:2]
    stored = _bands().get(book.profile.name, {}).get(kind, {})
    known = stored.get("chapters", {}).get(number, {}) if book.synthetic else {}
    results = read_json(book.path("results", f"{book.chapter}.json"))["results"]
    out = [] if known or not book.synthetic else ["every headline"]
    what = f"profile {book.profile.name} on {kind}" if book.synthetic else "real data"
    print("Expected bands:", f"{what}, seeds {stored['seeds']}" if known else f"none for {what}")
    for name, expected in known.items():
        value = pick(results, HEADLINES[number][name][1]).get("value", np.nan)
        out += [name] * (held := hold(name, expected, value)).startswith("OUT")
        print(f"  {held}")
    if out and os.environ.get("MEMOIR_BANDS") == "strict":
        words = {"file": FILE.name, "label": book.label}
        raise AssertionError(say("no band", number=number, names=", ".join(out), **words))


def hold(name: str, expected: dict[str, Any], value: float) -> str:
    """Hold a headline against its band: 'in ' or 'OUT', and both in words."""
    low, high = expected["low"], expected["high"]
    word = "in " if low <= round(value, 6) <= high else "OUT"  # as the file is rounded
    shown = "{} (band {} to {})".format(*map(published.number, (value, low, high)))
    return f"{word}  {name}: {shown}"


def export(name: str, file: Path) -> None:
    """Write what a reader sends in: the headlines of a synthetic run (of others: ValueError)."""
    table, (source, *_) = read_runs([name])
    if source["cohort"] != "synthetic":
        raise ValueError(say("real headlines", name=name))
    told = {key: source[key] for key in ("profile", "seed", "device", "versions", "system")}
    groups = table.set_index("headline").groupby("chapter")["value"]
    write_json(file, told | {"headlines": {number: of.to_dict() for number, of in groups}})


def judge(file: Path) -> list[str]:
    """Print how many headlines of a file of `export` are in band; return and print the others.

    ValueError: it is no such file, or of a profile or device without bands.
    """
    told, said = read_json(file), list[str]()
    try:
        kept = _bands()[told["profile"]][told["device"].split(":")[0]]["chapters"]
        for number, bands in kept.items():
            given, at = told["headlines"].get(number, {}), f"chapter {number}, "
            said += [hold(at + k, band, float(given.get(k, "nan"))) for k, band in bands.items()]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(say("no rerun", file=file, why=repr(error))) from error
    out = [line[5:] for line in said if line.startswith("OUT")]
    luck = binom.sf(len(out) - 1, len(said), 1 / 30)  # of as many or more, see `band`
    word = "More than another seed explains" if luck < 0.01 else "As another seed may have it"
    listed = "".join(f"\n  {line}" for line in out)
    print(f"{len(said) - len(out)} of {len(said)} headlines in band{', out:' * bool(out)}{listed}")
    print(f"{word} (p = {luck:.2g})")
    return out


def _bands() -> dict[str, Any]:
    return read_json(FILE) if FILE.exists() else {}


def read_runs(names: list[str]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """List the headlines of runs (no results: MissingArtefactError), and each run's provenance."""
    rows, sources = [], {}
    for name in dict.fromkeys(names):
        for chapter in chapters.CHAPTERS:
            path = chapters.runs_dir() / name / "results" / f"{chapter.name}.json"
            if not path.exists():
                continue
            stored = read_json(path)
            sources[name], results = stored["provenance"], stored["results"]
            n = results.get("n_test") or 0.2 * get_profile(sources[name]["profile"]).subjects
            place = {"run": name, "seed": sources[name]["seed"], "chapter": chapter.number}
            place["place"] = " ".join(str(sources[name][key]) for key in ("cohort", "profile"))
            for headline, (kind, where, _) in HEADLINES[chapter.number].items():
                if found := pick(results, where):
                    rows.append(place | {"headline": headline, "kind": kind, "n": n} | found)
        if name not in sources:
            names = sorted(path.parent.name for path in chapters.runs_dir().glob("*/results"))
            there = ", ".join(names) or "none"
            raise MissingArtefactError(say("no results", name=name, there=there))
    return pd.DataFrame(rows, columns=COLUMNS), list(sources.values())


def make_bands(names: list[str]) -> None:
    """Store the bands of one profile and kind of device, from runs of different seeds, in FILE."""
    table, sources = read_runs(names)
    seeds = [s["seed"] for s in sources]
    places = {(s["profile"], s["device"].split(":")[0], s["cohort"]) for s in sources}
    if len(set(seeds)) < max(2, len(seeds)):
        raise ValueError(f"give at least two runs, of different seeds; found {seeds}")
    profile, device, cohort = places.pop()
    if places or cohort != "synthetic":
        raise ValueError("give runs of one profile, kind of device and synthetic data")
    found: dict[str, dict[str, Any]] = {}
    for key, part in table.groupby(["chapter", "headline", "kind"], sort=False):
        number, name, kind = map(str, key)
        if len(part) > 1:  # a chapter gets its bands from the runs that finished it
            n = float(part["n"].mean())
            low, high = (round(end, 6) for end in band(kind, part["value"].tolist(), n))
            each = dict(zip(part["seed"].astype(str), part["value"].round(6), strict=True))
            entry = {"kind": kind, "low": low, "high": high, "n": n, "values": each}
            found.setdefault(number, {})[name] = entry
    stored, kept = _bands(), ("run", "seed", "device", "versions")
    bands = {"seeds": sorted(seeds), "runs": [{key: s[key] for key in kept} for s in sources]}
    stored.setdefault(profile, {})[device] = bands | {"chapters": found}
    write_json(FILE, stored)
    print(f"{profile}, {device}: bands of chapters {', '.join(found)}")


def corrected_t(values: Any, ratio: float = TEST_TO_TRAIN) -> dict[str, float]:
    """Mean of the values of k seeds, its 95 % interval, and a two-sided p that it is 0.

    The corrected resampled t of Nadeau and Bengio 2003 (doi:10.1023/A:1024068626366): each seed
    draws its split from the same subjects, so that the mean varies by s^2 (1/k + n_test/n_train)
    and not by s^2 / k. ValueError says why not: fewer than three values, or all are alike.
    """
    x = np.asarray(values, float)
    if len(x) < 3 or np.ptp(x) < 1e-9:
        why = "all are alike" if len(x) > 2 else "three of one cohort and profile are needed"
        raise ValueError(f"no test of {len(x)} common seeds: {why}")
    error, mean = x.std(ddof=1) * np.sqrt(1 / len(x) + ratio), x.mean()
    half, p = student.ppf(0.975, len(x) - 1) * error, 2 * student.sf(abs(mean) / error, len(x) - 1)
    return {"value": mean, "low": mean - half, "high": mean + half, "p": p}


def _shown(found: dict[Any, Any], k: int) -> str:
    text, low, high = (published.number(found.get(end), "") for end in ("value", "low", "high"))
    text += f" ({low} to {high})" if low else ""
    text += f", p = {found['p']:.3f}" if found.get("p", np.nan) <= 1 else ""
    return f"{text}, {k} seeds" if k > 1 else text


def compare(names: list[str], out: str = "") -> Path:
    """Write figures.csv (runs) and table.md (means, and differences) in runs/compare/OUT.

    Intervals (95 %) and p of three seeds or more are those of `corrected_t`; the interval of a
    single run is the bootstrap's over its subjects: another question, not to be compared.
    Differences are to the runs named first, within the same seed and so the same test part.
    """
    table, sources = read_runs(names)
    table["group"] = table["run"].str.replace(r"-seed\d+$", "", regex=True)
    figure = table["chapter"] + " " + table["headline"]
    cells: dict[str, dict[str, str]] = {group: {} for group in table["group"].unique()}
    base = next(iter(cells))
    for key, part in table.groupby([figure, "group"], sort=False):
        name, group = map(str, key)
        found: dict = part.iloc[0].to_dict() if len(part) == 1 else {"value": part["value"].mean()}
        with contextlib.suppress(ValueError):  # then the mean stands alone
            found = corrected_t(part["value"]) | {"p": np.nan}
        cells[group][name] = _shown(found, len(part))
        first = table[(figure == name) & (table["group"] == base)]
        if group != base and len(first):
            try:
                both = part.merge(first, on=["seed", "place"])
                if both["seed"].duplicated().any():
                    raise ValueError("no test: a seed comes twice")
                said = _shown(corrected_t(both["value_x"] - both["value_y"]), len(both))
            except ValueError as reason:
                said = str(reason)
            cells.setdefault(f"{group} minus {base}", {})[name] = said
    side_by_side = pd.DataFrame(cells, index=figure.unique()).fillna("").reset_index(names="")
    labels = "; ".join(dict.fromkeys(source["label"] for source in sources))
    text = f"{labels}\n\n{published.markdown(side_by_side)}"
    folder = chapters.runs_dir() / "compare" / (out or "-".join(table["group"].unique())[:80])
    if any(source["cohort"] != "synthetic" for source in sources):
        privacy.keep_private(folder)
    with atomic_path(folder / "figures.csv") as csv, atomic_path(folder / "table.md") as page:
        table.to_csv(csv, index=False)
        page.write_text(text, encoding="utf-8")
    print(f"{text}\nWritten to {folder}")
    return folder


def main(argv: list[str] | None = None) -> int:
    args = (parser := chapters.parser_of("seeds", None)).parse_args(argv)
    try:
        if args.what == "export":
            export(args.runs[0], Path(args.out or "mine.json"))
        elif args.what == "compare" and args.runs[0].endswith(".json"):
            judge(Path(args.runs[0]))
        elif args.what == "compare":
            compare(args.runs, args.out)
        else:
            make_bands(args.runs)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
