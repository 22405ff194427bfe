"""Expected bands: does a chapter's headline lie where other seeds lie?

    python -m memoir_book.bands smoke-seed0 smoke-seed1 smoke-seed2

makes the bands of one profile and kind of device from finished runs and stores them in
book/reference/bands.json. At its end each chapter compares itself with them (see
`artefacts.end_chapter`) and says *in* or *out*.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from memoir_core import config
from memoir_core.config import get_chapter

from .artefacts import MissingArtefactError, Run, read_json, write_json
from .compare import read_run

FILE = config.ROOT / "book" / "reference" / "bands.json"
SPREAD, SHARE, STEPS = 1.0, 0.02, 2  # margin on either side; see `band`
STRICT = "MEMOIR_BANDS"  # set to 'strict', or CI set: a smoke headline out of its band fails

# Chapter -> headline -> where it stands in its results. 'key=value' picks, from a list of
# records, those in which they agree.
HEADLINES: dict[str, dict[str, str]] = {
    "01": {"subjects": "subjects", "subjects with FA": "fa_subjects"},
    "02": {"T1 volumes": "volumes/t1", "strongest effect, CN v dementia": "max_abs_cohens_d"},
    "03": {"parameters": "parameters"},
    "04": {"validation loss": "history_last/val_loss", "scale": "history_last/scale"},
    "05": {
        "dx3 balanced accuracy": "metrics/dx3/balanced_accuracy/value",
        "dx2 balanced accuracy": "metrics/dx2/balanced_accuracy/value",
        "dx2 AUC": "metrics/dx2/auc/value",
        "age MAE (years)": "metrics/age/mae/value",
        "CDR-SB MAE (points)": "metrics/cdrsb/mae/value",
    },
    "06": {
        "dx3, all modalities": "subsets/t1+fa+clinical/dx3",
        "dx3, clinical": "subsets/clinical/dx3",
        "dx3, T1": "subsets/t1/dx3",
        "dx2, T1": "subsets/t1/dx2",
    },
    "07": {
        "perplexity": "perplexity/after",
        "recall@10, own caption": "alignment/method=aligned, own caption/"
        "direction=text to subject/recall@10",
    },
    "08": {
        "precision@5, z_fused": "metrics/method=z_fused/precision@5",
        "precision@5, blind": "metrics/method=reranked, blind/precision@5",
        "precision@5, own caption": "metrics/method=reranked, own_caption/precision@5",
    },
    "09": {
        "majority of five, blind": "scores/llm=majority of five/protocol=blind/"
        "metric=diagnosis_accuracy/value",
        "majority of five, own caption": "scores/llm=majority of five/protocol=own_caption/"
        "metric=diagnosis_accuracy/value",
    },
    "10": {"Spearman of subsets, dx3": "order/dx3"},
    "11": {
        "gain of the diagnosis as input": "experiments/experiment=diagnosis as input, network/gain",
        "gain of CDR-SB, regression": "experiments/experiment=CDR-SB as input, regression/gain",
        "gain of visits on both sides": "experiments/experiment=visits of a subject on both sides/"
        "gain",
    },
}


class OutOfBandError(AssertionError):
    """A smoke run's headline lies outside its band where that must not happen (CI)."""


class BandsError(ValueError):
    """Bands cannot be made from these runs; the message says why."""


def pick(results: Any, path: str) -> float | None:
    """Follow a path of `HEADLINES` through a chapter's results; None where it leads nowhere."""
    value = results
    for part in path.split("/"):
        if isinstance(value, list):
            key, _, wanted = part.partition("=")
            if wanted:
                value = [row for row in value if row.get(key) == wanted]
                continue
            value = value[0] if value else None
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) and value == value else None


def band(values: list[float], subjects: int) -> tuple[float, float]:
    """Smallest and largest value, widened.

    Three seeds do not show the extremes: a fourth lies outside the first three half of the
    time. So on either side the band is wider by `SPREAD` times the distance of the two plus
    `SHARE` of the larger size, which covers rounding on another machine. A share or a
    difference of shares moves in steps of one test subject and gets `STEPS` of them, if that
    is more. A whole number that is the same in every run is a count, and gets no margin.

    Parameters
    ----------
    values : of several seeds.
    subjects : of the profile; a fifth of them are the test part.
    """
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    if low == high and low.is_integer() and size > 1:
        return low, high
    least = STEPS / (0.2 * subjects) if size <= 1 else 0.0
    margin = SPREAD * (high - low) + max(SHARE * size, least)
    return low - margin, high + margin


def device_kind(device: str) -> str:
    return device.split(":")[0]


def compare(run: Run) -> pd.DataFrame | None:
    """Set a chapter's headlines beside their bands.

    Returns
    -------
    One row per headline: value, low, high, inside. None where there is no band for this
    chapter, profile and kind of device, or the cohort is not the synthetic one.
    """
    stored = _stored().get(run.profile.name, {}).get(device_kind(run.device), {})
    bands = stored.get("chapters", {}).get(get_chapter(run.chapter).number)
    path = run.path("results", f"{run.chapter}.json")
    if not bands or not run.synthetic or not path.exists():
        return None
    results = read_json(path)["results"]
    found = {name: pick(results, HEADLINES[run.chapter[:2]].get(name, "")) for name in bands}
    table = pd.DataFrame(bands, index=["low", "high"]).T.rename_axis("headline")
    table.insert(0, "value", pd.Series(found, dtype=float))
    # Rounding of the file must not put a run outside a band that it made itself.
    slack = 1e-6 * table[["low", "high"]].abs().max(axis=1)
    table["inside"] = table["value"].between(table["low"] - slack, table["high"] + slack)
    return table


def check(run: Run) -> None:
    """Print whether each headline of the chapter lies in its band.

    Raises
    ------
    OutOfBandError
        Profile smoke, a headline outside, and CI or MEMOIR_BANDS=strict is set.
    """
    table = compare(run)
    kind = device_kind(run.device)
    if table is None:
        why = f"there are none for profile {run.profile.name} on {kind}"
        print(f"Expected bands: {why if run.synthetic else 'they are for the synthetic cohort'}.")
        return
    seeds = _stored()[run.profile.name][kind]["seeds"]
    width = max(len(str(name)) for name in table.index)
    made = ", ".join(map(str, seeds))
    print(f"Expected bands ({run.profile.name}, {kind}, made from seeds {made}):")
    for name, row in table.iterrows():
        place = "in " if row["inside"] else "OUT"
        limits = f"{_short(row['low'])} to {_short(row['high'])}"
        print(f"  {place}  {name!s:{width}}  {_short(row['value'])}  (band {limits})")
    outside = list(table.index[~table["inside"]])
    if not outside:
        return
    if run.profile.name == "smoke" and _is_strict():
        raise OutOfBandError(
            f"chapter {run.chapter}: {', '.join(outside)} outside the band of {FILE.name} "
            f"({run.label}). If the change is meant, make the bands anew from several seeds: "
            "python -m memoir_book.bands RUN RUN RUN"
        )
    print("  Out of the band is no error: ask whether code, data or settings differ.")


def _is_strict() -> bool:
    return os.environ.get(STRICT) == "strict" or bool(os.environ.get("CI"))


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _stored() -> dict[str, Any]:
    return read_json(FILE) if FILE.exists() else {}


# --- making bands -----------------------------------------------------------------------


def make(names: list[str]) -> tuple[str, str, dict[str, Any]]:
    """Make the bands of one profile and kind of device from several runs.

    A run may be partial: a chapter gets its bands from the runs that finished it, if they
    are at least two.

    Returns
    -------
    profile, device kind, bands: 'seeds', 'runs' (each with device and versions), 'margin',
    and 'chapters': number -> headline -> [low, high].

    Raises
    ------
    BandsError
        Fewer than two runs, a seed that comes twice, or runs of different profiles, kinds of
        device or cohorts.
    MissingArtefactError
        There is no such run, or it has no results.
    """
    if len(names) < 2:
        raise BandsError("give at least two runs, of different seeds")
    values: dict[str, dict[str, list[float]]] = {}
    sources = []
    for name in names:
        run = read_run(name)
        source = run["provenance"]
        for number, results in run["results"].items():
            found = values.setdefault(number, {})
            for headline, where in HEADLINES[number].items():
                value = pick(results, where)
                if value is not None:
                    found.setdefault(headline, []).append(value)
        if source["cohort"] != "synthetic":
            raise BandsError(f"run {name!r} is of an ADNI cohort; bands are for the synthetic one")
        sources.append({"run": name, **{k: source[k] for k in _KEPT}})
    for what, kinds in (
        ("profiles", {s["profile"] for s in sources}),
        ("kinds of device", {device_kind(s["device"]) for s in sources}),
    ):
        if len(kinds) > 1:
            raise BandsError(f"the runs have several {what}: {', '.join(sorted(kinds))}")
    seeds = [s["seed"] for s in sources]
    if len(set(seeds)) < len(seeds):
        raise BandsError(f"a seed comes twice: {', '.join(map(str, seeds))}")
    subjects = config.get_profile(sources[0]["profile"]).subjects
    bands = {
        number: {
            headline: [round(limit, 6) for limit in band(several, subjects)]
            for headline, several in found.items()
            if len(several) > 1
        }
        for number, found in values.items()
    }
    entry = {
        "seeds": sorted(seeds),
        "margin": f"on each side {SPREAD:g} x (largest - smallest) + {SHARE:.0%} of the larger "
        f"size; for shares at least {STEPS} test subjects",
        "runs": sources,
        "chapters": {number: found for number, found in bands.items() if found},
    }
    return sources[0]["profile"], device_kind(sources[0]["device"]), entry


_KEPT = ("profile", "seed", "device", "versions")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m memoir_book.bands",
        description="Make the expected bands of one profile and kind of device from finished runs "
        "of different seeds, and put them in place of the stored ones. Partial runs will do.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder under runs/")
    parser.add_argument("--out", type=Path, default=FILE, help=f"default: {_from_root(FILE)}")
    args = parser.parse_args(argv)
    try:
        profile, kind, entry = make(args.runs)
    except (BandsError, MissingArtefactError) as error:
        parser.error(str(error))
    stored = read_json(args.out) if args.out.exists() else {}
    stored.setdefault(profile, {})[kind] = entry
    write_json(args.out, stored)
    count = sum(len(found) for found in entry["chapters"].values())
    print(f"{profile}, {kind}: {count} bands of chapters {', '.join(entry['chapters'])}")
    return 0


def _from_root(path: Path) -> Path:
    return path.relative_to(config.ROOT) if path.is_relative_to(config.ROOT) else path


if __name__ == "__main__":
    sys.exit(main())
