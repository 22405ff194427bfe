"""A last look at what may leave a run on real data: does anything look like a person's identifier?

It is made of aggregates (see `report`); this catches what slipped through all the same.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DAY, _YEAR = r"\d{1,2}(?:st|nd|rd|th)?", r"(?:19|20)\d\d"
_GAP = r"(?:<[^>]{0,80}>|[\W_]){0,6}"  # signs, and tags of HTML
PATTERNS = {
    # 999_S_9999, with other separators or none, in any case
    "PTID": r"(?<!\d)\d{3}[_\-. ]?s[_\-. ]?\d{4,5}(?!\d)",
    # a short number, only where something says what it is: 'n = 295' is none
    "RID": r"(?<![a-z])(?:(?:RID|PTID|subject|participant|patient)(?:[ _-]?(?:id|no|number))?"
    rf"{_GAP}\d{{1,6}}(?![\d,.]*\d|\w)|(?<![a-z0-9])S_\d{{4,5}}(?!\d))",
    "image ID": r"(?<![a-z0-9])I\d{4,8}(?![a-z0-9])|image[ _]?u?id"
    rf"{_GAP}I?\d{{3,8}}(?!\w)",
    # 2012-05-31, 2012/05/31, 20120531, 31.05.2012, 5/31/2012, 5/31/12, 31 May 2012, May 31, 2012
    "date": rf"(?<![\d.]){_YEAR}([-/._])\d\d\1\d\d(?!\d)"
    rf"|(?<![\w.]){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?![\w.])"
    rf"|(?<![\d.])\d{{1,2}}([-/.])\d{{1,2}}\2{_YEAR}(?!\d)"
    r"|(?<![\d./])\d{1,2}/\d{1,2}/\d\d(?![\d/])"
    rf"|(?<!\d){_DAY}[ \-.]{{1,2}}{_MONTH}[ \-.,]{{1,2}}(?:{_YEAR}|\d\d)(?!\d)"
    rf"|(?<![a-z]){_MONTH}[ \-.]{{1,2}}{_DAY},? {_YEAR}(?!\d)",
    # images, and whole paths of Unix and Windows
    "path": r"[\w.-]+\.(?:nii|mgz|mgh|img|hdr|dcm|parquet)(?:\.gz)?(?!\w)"
    r"|(?<![\w<.:/])(?:/[\w.-]+){2,}|(?<!\w)[a-z]:[\\/][\w.-]+|\\\\[\w.-]+\\",
}


class PrivateDataError(ValueError):
    """Something that may identify a person stands in a file that was to leave the run."""


def kinds(text: str, known: Iterable[str] = ()) -> list[str]:
    """Name the kinds of identifier that a text seems to hold, never the identifiers.

    `known`: texts that must not stand in it: the data folder, PTIDs, image paths.
    """
    plain = unquote(html.unescape(text))
    found = [kind for kind, rule in PATTERNS.items() if re.search(rule, plain, re.IGNORECASE)]
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
