"""A last look at what may leave a run on real data: does anything look like a person's identifier?

It is made of aggregates (see `report`); this catches what slipped through all the same.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from . import published

_TOLD = published.load("privacy.json")


def _pattern(rule: str) -> re.Pattern:
    for name, part in _TOLD["parts"].items():
        rule = rule.replace(f"{{{name}}}", part)
    return re.compile(rule, re.IGNORECASE)


# Kind of identifier -> how it may be written; privacy.json names each rule by an example.
PATTERNS = {k: [_pattern(rule) for rule in of.values()] for k, of in _TOLD["kinds"].items()}


_SAME = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # letters of no width
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")


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


def look(paths: Iterable[Path], known: Iterable[str] = ()) -> None:
    """Refuse files with what looks like an identifier: PrivateDataError names file and kind."""
    known = list(known)
    texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    found = [f"{name}: {kind}" for name, text in texts.items() for kind in kinds(text, known)]
    if found:
        raise PrivateDataError(
            f"not written, since it may identify somebody: {', '.join(found)}. Find out where it "
            "comes from: a report holds nothing but figures of groups"
        )
