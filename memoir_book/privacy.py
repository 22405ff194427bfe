"""A last look at what may leave a run on real data: does anything look like a person's identifier?

It is made of aggregates (see `report`); this catches what slipped through all the same.
"""

from __future__ import annotations

import html
import re
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


class PrivateDataError(ValueError):
    """Something that may identify a person stands in a file that was to leave the run."""


def kinds(text: str, known: Iterable[str] = ()) -> list[str]:
    """Name the kinds of identifier that a text seems to hold, never the identifiers.

    `known`: texts that must not stand in it: the data folder, PTIDs, image paths.
    """
    plain = unquote(html.unescape(text))
    found = [kind for kind, rules in PATTERNS.items() if any(r.search(plain) for r in rules)]
    low = plain.lower()
    told = any(word.lower() in low for word in known if len(word) > 3)
    return found + ["text of the download"] * told


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
