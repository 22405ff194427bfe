"""What is made of real data: its owner's only, and without identifiers where it is kept or leaves.

A report is made of aggregates (see `report`); a last look catches what slipped through all the
same. What a run keeps of messages and logs has identifiers masked.
"""

import html
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd

from memoir_core.files import digest, read_json

from . import published
from .messages import say

_TOLD = published.load("privacy.json")


def _pattern(rule: str) -> re.Pattern:
    for name, part in _TOLD["parts"].items():
        rule = rule.replace(f"{{{name}}}", part)
    return re.compile(rule, re.IGNORECASE)


# Kind of identifier -> how it may be written; privacy.json names each rule by an example.
PATTERNS = {k: [_pattern(rule) for rule in of.values()] for k, of in _TOLD["kinds"].items()}
BANNER = "Pages of real data: for you alone. Do not pass them on, do not publish them."
_SAME = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # letters of no width
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
SMALLEST_GROUP = 10  # people; of fewer a report says nothing, nor do two of them together
REPORTED = "reported.json"  # beside a report on real people, never in it: whom it was made of
LOOSE = ["case", "split", "t1_path", "fa_path"]  # of a cohort: what says nothing of a person


class PrivateDataError(ValueError):
    """Something that may identify a person stands in a file that was to leave the run."""


def kinds(text: str, known: Iterable[str] = ()) -> list[str]:
    """Name the kinds of identifier that a text seems to hold, never the identifiers.

    `known`: texts that must not stand in it: the data folder, PTIDs, image paths.
    """
    read = _readings(text)
    found = [k for k, rules in PATTERNS.items() if any(r.search(t) for r in rules for t in read)]
    told = any(word.lower() in t.lower() for word in known if len(word) > 3 for t in read)
    return found + ["text of the download"] * told


def _readings(text: str) -> list[str]:
    """The same text without escapes (URL, HTML, JSON, LaTeX), and with its tags taken out."""
    for _ in range(2):  # what was escaped twice
        text = html.unescape(unquote(text))
        text = re.sub(r"\\+u00([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), text, flags=re.I)
    text = _SAME.sub("", unicodedata.normalize("NFKC", text)).translate(_DASHES)
    plain = re.sub(r"\\+(?=[\W_])", "", text)
    return [text, plain, re.sub(r"<[^>]*>", "", plain), re.sub(r"<[^>]*>", " ", plain)]


def mask(text: str, which: Iterable[str] = PATTERNS) -> str:
    """Write [kind] in place of what looks like an identifier of some kinds, paths first."""
    for kind, rule in ((k, rule) for k in reversed(PATTERNS) if k in which for rule in PATTERNS[k]):
        text = rule.sub(f"[{kind}]", text)
    return text


def keep_private(folder: Path | None = None) -> None:
    """From here on, what this process writes is its owner's only (0600), and so is `folder`."""
    os.umask(0o077)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)


def look(paths: Iterable[Path], known: Iterable[str] = ()) -> None:
    """Refuse files with what looks like an identifier: PrivateDataError names file and kind."""
    known = list(known)
    texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    if found := [f"{name}: {kind}" for name, text in texts.items() for kind in kinds(text, known)]:
        raise PrivateDataError(say("identifier", found=", ".join(found)))


def coarse(found: dict, kind: str, n: int) -> dict:
    """Round a figure of n people, and its interval outwards, to a step of two people at least.

    One person moves a share by 1/n, an error by 10/n (years, points); steps are 1, 2, 5, 10, ...
    """
    least = 2 * (10 if kind == "error" else 1) / n
    power = 10.0 ** np.floor(np.log10(least))
    step = power * next(m for m in (1, 2, 5, 10) if m * power > least * (1 - 1e-9))
    ways: dict[str, Any] = dict.fromkeys(("value", "gap", "cosine", "rank"), np.round)
    ways |= {"low": np.floor, "high": np.ceil}
    for key in [*found]:
        turn = ways.get(key.rpartition("_")[2])
        if turn and found[key] is not None and found[key] == found[key]:
            found = found | {key: round(float(turn(round(found[key] / step, 6)) * step), 6)}
    return found


def apart(run_dir: Path) -> list[list[str]]:
    """Hash the record of each person whom this report and those before it in the run are made of.

    PrivateDataError where a report of any run is on all but a few of the same: the difference of
    the two would tell of these few, and no rounding hides that for sure.
    """
    cohort = pd.read_parquet(run_dir / "cohort.parquet").drop(columns=LOOSE, errors="ignore")
    now = [digest(row) for row in cohort.astype(str).to_numpy().tolist()]
    for path in run_dir.parent.glob(f"*/{REPORTED}"):
        for then in map(set, read_json(path)):
            few = max(len(then - {*now}), len({*now} - then))
            if 0 < few < SMALLEST_GROUP:
                raise PrivateDataError(say("apart", run=path.parent.name, few=few, path=path))
    before = read_json(run_dir / REPORTED) if (run_dir / REPORTED).exists() else []
    return before + [sorted(now)] * (sorted(now) not in before)
