"""Search what is to be published for identifiers of an ADNI download: `--help`.

What counts as a finding, taken from ADNIMERGE.csv and the image manifest of the download:

- **PTID**: 999_S_9999, with other or no separators, in any case; also any text of the form
  999_S_9999 that the download does not hold.
- **RID**: a short whole number, so only where something says that it is one: with any zeros
  in front after the word RID or PTID with only signs between, or after 'subject', 'subject
  id', 'participant' or 'patient'; in a table column or under a JSON key of these names; or
  behind 'S_' with at least four digits. 'n = 295' is none.
- **image ID**: IMAGEUID with a leading I (I45108), after 'image' or 'uid', or in such a column.
- **exam date**: 2012-05-31, 2012/05/31, 20120531, 31.05.2012, 5/31/2012, 31/05/2012, 5/31/12,
  31 May 2012, May 31, 2012 and 31-May-2012.
- **file**: an image's path, and its name if no other image has it; the data folder's path.

It reads text, HTML, JSON and notebooks with their metadata, scripts, the search index, text
and EXIF parts of pictures, zip and gzip members, embedded base64 data, and the names of files.
Files that the page builder ships unchanged are skipped. It cannot read letters drawn in a
picture, and knows no faces: whether pictures may be published is for a person to decide.
A finding names file, place and kind, never the identifier.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import gzip
import hashlib
import html
import io
import json
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd

from memoir_book.intake import find_images
from memoir_core import tables

from .artefacts import atomic_path

EXAMPLE = "999S9999"  # the PTID that the documentation uses; no ADNI site has this number
DEEPEST = 6  # levels of files in files
LARGEST = 200 * 2**20  # bytes that one packed member may unpack to
# Packages whose files a page holds unchanged.
BUILDERS = (
    *("sphinx", "pydata_sphinx_theme", "sphinx_book_theme", "sphinx_copybutton", "sphinx_design"),
    *("sphinx_thebe", "sphinx_togglebutton", "sphinx_comments", "myst_nb", "jupyter_book"),
    "sphinx_mathjax_offline",
)


@dataclass(frozen=True)
class Finding:
    """Where something stands that must not be published; `place` never holds it."""

    file: str
    place: str
    kind: str


@dataclass(frozen=True)
class Identifiers:
    """What a download holds that must not be published.

    ptids without separators (999S9999), rids and image IDs as digits, dates as YYYYMMDD;
    `names`: paths and names of images that consist of one word; `odd_names`: the others.
    """

    ptids: frozenset[str] = frozenset()
    rids: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()
    image_ids: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    odd_names: tuple[str, ...] = ()
    known: bool = field(default=True)  # False: no download was given


NOTHING = Identifiers(known=False)


# --- what to look for -------------------------------------------------------------------


def read_identifiers(data_dir: Path) -> Identifiers:
    """Collect the identifiers of a download's tables, whatever else is wrong with them.

    Every row counts, also of subjects and visits that the cohort leaves out.

    Raises
    ------
    CohortError
        A table that cannot be read at all, or neither images.csv nor an image tree.
    """
    data_dir = Path(data_dir).expanduser().resolve()

    raw = pd.read_csv(
        data_dir / "ADNIMERGE.csv", dtype=str, encoding="utf-8-sig", keep_default_na=False
    )
    raw.columns = raw.columns.str.strip()
    manifest = data_dir / "images.csv"
    images = (
        pd.read_csv(manifest, dtype=str, encoding="utf-8-sig", keep_default_na=False)
        if manifest.exists()
        else find_images(data_dir)
    )
    images.columns = images.columns.str.strip()

    def column(name: str) -> set[str]:
        found = [table[name].dropna() for table in (raw, images) if name in table]
        return {text for part in found for text in part.str.strip() if text}

    ptids = {_plain_ptid(text) for text in column("PTID")}
    rids = {text.removesuffix(".0").lstrip("0") for text in column("RID")}
    rids |= {ptid.rpartition("S")[2].lstrip("0") for ptid in ptids if "S" in ptid}
    dates = {date for text in column("EXAMDATE") if (date := _exam_date(text))}
    image_ids = {re.sub(r"^I|\.0$", "", text.upper()) for text in column("IMAGEUID")}
    paths = column("t1_path") | column("fa_path")
    base = [path.replace("\\", "/").rpartition("/")[2] for path in paths]
    times = Counter(base)
    own = {name for name in base if times[name] == 1}
    names = {text.lower() for text in {*paths, *own, str(data_dir)}}
    names |= {stem for name in own if len(stem := _stem(name.lower())) >= 8}
    single = {name for name in names if _WORDS.fullmatch(name)}
    return Identifiers(
        frozenset(ptids),
        frozenset(text for text in rids if text.isdigit()),
        frozenset(dates),
        frozenset(text for text in image_ids if text.isdigit() and len(text) >= 3),
        frozenset(single),
        tuple(sorted(names - single)),
    )


def _stem(name: str) -> str:
    return re.sub(r"\.(nii|mgz|img|hdr|dcm)(\.gz)?$", "", name)


def _plain_ptid(text: str) -> str:
    match = _PTID.search(text)
    return f"{match[1]}S{match[2]}" if match else re.sub(r"[\W_]", "", text).upper()


def _exam_date(text: str) -> str:
    parsed = tables.parse(pd.Series([text], name="EXAMDATE"))[0]
    return "" if pd.isna(parsed) else parsed.strftime("%Y%m%d")


# --- rules for text ---------------------------------------------------------------------

_PTID = re.compile(r"(?<![0-9])(\d{3})[_\-. ]?s[_\-. ]?(\d{4,5})(?![0-9])", re.IGNORECASE)
_STRICT_PTID = re.compile(r"\d{3}_[Ss]_\d{4,5}")
_GAP = r"(?:<[^>]{0,80}>|[\W_]){0,6}"  # signs, and tags of HTML
_RID = re.compile(
    rf"(?<![a-z])(?:(?:RID|PTID)s?{_GAP}|(?:subject|participant|patient)"
    r"(?:[ _-]?(?:id|no|number))?[\s_#:=\"'.-]{0,4})(\d{1,6})(?![\d,.]*\d|\w)",
    re.IGNORECASE,
)
_SITE_RID = re.compile(r"(?<!\d[_\-. ])(?<![A-Za-z0-9])S_(\d{4,5})(?!\d)", re.IGNORECASE)
_IMAGE_ID = re.compile(
    r"(?<![A-Za-z0-9])I(\d{3,8})(?![A-Za-z0-9])"
    r"|(?:image[ _]?(?:id|uid)|uid|image)s?[\W_]{1,6}I?(\d{3,8})(?!\w)",
    re.IGNORECASE,
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_NUMERIC_DATES = re.compile(
    r"(?<![\d.])(?:(?P<y>(?:19|20)\d\d)(?P<s>[-/._])(?P<m>\d\d)(?P=s)(?P<d>\d\d)"
    r"|(?P<a>\d{1,2})(?P<t>[-/.])(?P<b>\d{1,2})(?P=t)(?P<z>(?:19|20)\d\d|\d\d))(?![\d])"
)
_DIGIT_DATES = re.compile(r"(?<![A-Za-z0-9.])((?:19|20)\d{6})(?![A-SU-Za-z0-9])")
_WORD_DATES = re.compile(
    rf"(?<!\d)(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[ \-.]{{1,2}}(?P<m>{_MONTH})[ \-.,]{{1,2}}"
    rf"(?P<y>\d{{4}}|\d\d)(?!\d)"
    rf"|(?P<n>{_MONTH})[ \-.]{{1,2}}(?P<e>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<z>\d{{4}})(?!\d)",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[^\s\"'<>|,;:()\[\]{}=&?#\\`]+")
_ID_COLUMN = re.compile(r"(?:rid|subject(?:[ _]?id)?|participant(?:[ _]?id)?)", re.IGNORECASE)
_IMAGE_COLUMN = re.compile(r"(?:image[ _]?(?:data[ _]?)?u?id|loniuid)", re.IGNORECASE)
_DATA_URL = re.compile(r"data:([\w/+.-]*)((?:;[\w=.-]+)*),([^\"'\s)<>]*)")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{76}\n?){12,}[A-Za-z0-9+/\n]*={0,2}")
_PACKED = ("iVBORw0KGgo", "/9j/", "H4sI", "UEsDB", "R0lGOD", "JVBERi")  # base64 of file types

Hit = tuple[int, int, str]  # start, end, kind


def find_in_text(text: str, ids: Identifiers) -> Iterator[Hit]:
    """Find identifiers in plain text by the rules of this module."""
    for match in _PTID.finditer(text):
        plain = f"{match[1]}S{match[2]}"
        if plain in ids.ptids:
            yield *match.span(), "PTID"
        elif plain != EXAMPLE and _STRICT_PTID.fullmatch(match[0]):
            yield *match.span(), "text in the form of a PTID"
    if not ids.known:
        return
    for pattern in (_RID, _SITE_RID):
        for match in pattern.finditer(text):
            if match[1].lstrip("0") in ids.rids:
                yield *match.span(1), "RID"
    for match in _IMAGE_ID.finditer(text):
        if (match[1] or match[2]).lstrip("0") in ids.image_ids:
            yield *match.span(1 if match[1] else 2), "image ID"
    for match in _NUMERIC_DATES.finditer(text):
        if any(date in ids.dates for date in _readings(match)):
            yield *match.span(), "exam date"
    for match in _DIGIT_DATES.finditer(text):
        if match[1] in ids.dates:
            yield *match.span(), "exam date"
    for match in _WORD_DATES.finditer(text):
        day, month, year = (match[k] or match[o] for k, o in (("d", "e"), ("m", "n"), ("y", "z")))
        number = _MONTHS.index(month[:3].lower()) + 1
        if f"{_year(year)}{number:02d}{int(day):02d}" in ids.dates:
            yield *match.span(), "exam date"
    yield from _names(text, ids)


def _year(text: str) -> str:
    return text if len(text) == 4 else ("19" if int(text) > 68 else "20") + text


def _readings(match: re.Match) -> tuple[str, ...]:
    """A numeric date as YYYYMMDD: one reading, or two where day and month may be either."""
    if match["y"]:
        return (match["y"] + match["m"] + match["d"],)
    a, b, year = int(match["a"]), int(match["b"]), _year(match["z"])
    if match["t"] != "/" and len(match["z"]) == 2:
        return ()  # 1.2.10 and 3-4-12 are version numbers and ranges
    return f"{year}{a:02d}{b:02d}", f"{year}{b:02d}{a:02d}"


def _names(text: str, ids: Identifiers) -> Iterator[Hit]:
    for match in _WORDS.finditer(text):
        word = match[0].lower().rstrip(".")
        parts = {word, _stem(word)}
        if "/" in word:
            parts.update(*((part, _stem(part)) for part in word.split("/")), _tails(word))
        if not parts.isdisjoint(ids.names):
            yield *match.span(), "image file or data folder"
    low = text.lower() if ids.odd_names else ""
    for name in ids.odd_names:
        if (start := low.find(name)) >= 0:
            yield start, start + len(name), "image file or data folder"


def _tails(path: str) -> Iterator[str]:
    """Every part of a path that begins and ends at a slash."""
    parts = path.split("/")
    if len(parts) <= 20:
        for start in range(len(parts)):
            for end in range(start + 2, len(parts) + 1):
                yield "/".join(parts[start:end])


def find_in_columns(text: str, ids: Identifiers) -> Iterator[Hit]:
    """Find RIDs and image IDs in the columns of text tables whose header says so.

    Understood are separated values, and the printed tables of pandas, whose columns end
    under the end of their header.
    """
    if not ids.known or not re.search(r"rid|subject|participant|uid|image", text, re.IGNORECASE):
        return
    columns: list[tuple[int, str, str]] = []  # index or end, separator, kind
    offset = 0
    for line in text.splitlines(keepends=True):
        separator = next((s for s in ("\t", ",", ";", "|") if s in line), "")
        heads = _cells(line, separator)
        named = [
            (index if separator else end, separator, kind)
            for index, (word, _, end) in enumerate(heads)
            for rule, kind in ((_ID_COLUMN, "RID"), (_IMAGE_COLUMN, "image ID"))
            if rule.fullmatch(word)
        ]
        if named:
            columns = named
        elif not line.strip():
            columns = []
        for place, mark, kind in () if named else columns:
            for index, (word, start, end) in enumerate(_cells(line, mark)):
                known = ids.rids if kind == "RID" else ids.image_ids
                if (index if mark else end) == place and _digits(word) in known:
                    yield offset + start, offset + end, kind
        offset += len(line)


def _cells(line: str, separator: str) -> list[tuple[str, int, int]]:
    if not separator:
        return [(m[0], m.start(), m.end()) for m in re.finditer(r"\S+", line)]
    cells, start = [], 0
    for part in line.split(separator):
        cells.append((part.strip().strip("\"'"), start, start + len(part)))
        start += len(part) + 1
    return cells


def _digits(value: Any) -> str:
    text = str(value).strip().removesuffix(".0").upper().removeprefix("I")
    return text.lstrip("0") if text.isdigit() else ""


class _Tables(HTMLParser):
    """Collect the tables of a page: rows of (text, line) cells."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[tuple[str, int]]]] = []
        self.open: list[list[list[tuple[str, int]]]] = []
        self.in_cell = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
            self.open.append(self.tables[-1])
        elif tag == "tr" and self.open:
            self.open[-1].append([])
        elif tag in ("td", "th") and self.open and self.open[-1]:
            self.open[-1][-1].append(("", self.getpos()[0]))
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "table" and self.open:
            self.open.pop()
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        if self.in_cell and self.open and self.open[-1] and self.open[-1][-1]:
            text, line = self.open[-1][-1][-1]
            self.open[-1][-1][-1] = (text + data, line)


def find_in_tables(text: str, ids: Identifiers) -> Iterator[tuple[int, str]]:
    """Find RIDs and image IDs in HTML tables whose header says so: (line, kind)."""
    if not ids.known or "<table" not in text:
        return
    parser = _Tables()
    parser.feed(text)
    for table in parser.tables:
        columns: dict[int, str] = {}
        for row in table:
            named = {
                i: kind
                for i, (cell, _) in enumerate(row)
                for rule, kind in ((_ID_COLUMN, "RID"), (_IMAGE_COLUMN, "image ID"))
                if rule.fullmatch(cell.strip())
            }
            columns |= named
            for i, (cell, line) in enumerate(row):
                known = ids.rids if columns.get(i) == "RID" else ids.image_ids
                if i in columns and i not in named and _digits(cell) in known:
                    yield line, columns[i]


# --- files of every kind ----------------------------------------------------------------


def scan(paths: list[Path], ids: Identifiers) -> list[Finding]:
    """Scan files and folders, the names of files included."""
    found: list[Finding] = []
    for root in paths:
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        for file in files:
            name = str(file.relative_to(root)) if root.is_dir() else file.name
            if not _is_shipped(file):
                found += scan_file(file, ids, name)
    return found


def scan_file(file: Path, ids: Identifiers, name: str = "") -> list[Finding]:
    """Scan one file and its name."""
    name = name or file.name
    shown = masked(name, ids)
    found = [Finding(shown, "its name", kind) for _, _, kind in find_in_text(name, ids)]
    found += scan_bytes(file.read_bytes(), ids, shown, "", name)
    return list(dict.fromkeys(found))


def masked(name: str, ids: Identifiers) -> str:
    """Blank out identifiers, so that naming a place does not repeat them."""
    letters = list(name)
    for start, end, _ in find_in_text(name, ids):
        letters[start:end] = "•" * (end - start)
    return "".join(letters)


def scan_bytes(
    data: bytes, ids: Identifiers, file: str, place: str, name: str = "", depth: int = 0
) -> list[Finding]:
    """Scan content by what it is, not by what it is called.

    Parameters
    ----------
    file, place : what a finding shall say; `place` is where `data` lay in the file.
    """
    if depth > DEEPEST:
        return [Finding(file, place, f"nested deeper than {DEEPEST} levels: not scanned")]

    def inside(part: bytes, where: str, called: str = "") -> list[Finding]:
        return scan_bytes(part, ids, file, f"{place} {where}".strip(), called, depth + 1)

    def words(text: str, where: str) -> list[Finding]:
        return _scan_text(text, ids, file, f"{place} {where}".strip(), depth)

    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return [f for what, text in _png_texts(data) for f in words(text, f"PNG {what}")]
        if data.startswith(b"\xff\xd8\xff"):
            return [f for what, text in _jpeg_texts(data) for f in words(text, f"JPEG {what}")]
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as handle:
                return inside(_limited(handle.read), "gzip member") + words(
                    data[:512].decode("latin-1"), "gzip header"
                )
        if data.startswith(b"PK\x03\x04"):
            return _scan_zip(data, ids, file, place, inside)
        if data.startswith(b"# Sphinx inventory") and (start := _after_lines(data, 4)):
            return words(data[:start].decode("latin-1"), "") + inside(
                _limited(zlib.decompressobj().decompress, data[start:]), "inventory"
            )
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, struct.error, ValueError) as error:
        return [Finding(file, place, f"cannot be unpacked ({type(error).__name__}): not scanned")]
    if _is_binary(data):
        return words(_strings(data), "binary content")
    for encoding in ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        text = data.decode(encoding, errors="replace")
    return words(text, "")


def _limited(read: Callable[..., bytes], *first: bytes) -> bytes:
    data = read(*first, LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"unpacks to more than {LARGEST} bytes")
    return data


def _after_lines(data: bytes, lines: int) -> int:
    start = 0
    for _ in range(lines):
        start = data.find(b"\n", start) + 1
        if not start:
            return 0
    return start


def _scan_zip(
    data: bytes, ids: Identifiers, file: str, place: str, inside: Callable[..., list[Finding]]
) -> list[Finding]:
    found: list[Finding] = []
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        for member in packed.infolist():
            where = f"zip member {masked(member.filename, ids)}"
            hits = find_in_text(member.filename, ids)
            found += [Finding(file, f"{place} {where}: its name".strip(), k) for *_, k in hits]
            with packed.open(member) as handle:
                found += inside(_limited(handle.read), where, member.filename)
    return found


def _is_binary(data: bytes) -> bool:
    head = data[:8192]
    return b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff"))


def _strings(data: bytes) -> str:
    """Printable runs of at least six bytes, as `strings` shows them; also of UTF-16."""
    runs = re.findall(rb"[\x20-\x7e\t]{6,}", data)
    runs += [r[::2] for r in re.findall(rb"(?:[\x20-\x7e]\0){6,}", data)]
    return "\n".join(run.decode("ascii") for run in runs)


def _png_texts(data: bytes) -> Iterator[tuple[str, str]]:
    """Everything of a PNG but its pixels; compressed texts are unpacked."""
    at = 8
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind = data[at + 4 : at + 8].decode("latin-1")
        body = data[at + 8 : at + 8 + size]
        at += size + 12
        if kind == "zTXt":
            head, _, rest = body.partition(b"\0")
            packed = _limited(zlib.decompressobj().decompress, rest[1:])
            yield kind, f"{_text(head)} {_text(packed)}"
        elif kind == "iTXt":
            head, _, rest = body.partition(b"\0")
            flags, rest = rest[:2], rest[2:]
            language, _, rest = rest.partition(b"\0")
            title, _, rest = rest.partition(b"\0")
            if flags[:1] == b"\1":
                rest = _limited(zlib.decompressobj().decompress, rest)
            yield kind, " ".join(map(_text, (head, language, title, rest)))
        elif kind == "tEXt":
            yield kind, _text(body.replace(b"\0", b" "))
        elif kind not in ("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "pHYs", "sRGB", "cHRM"):
            yield kind, _strings(body)
        if kind == "IEND":
            break
    if data[at:]:
        yield "after the end", _strings(data[at:])


def _jpeg_texts(data: bytes) -> Iterator[tuple[str, str]]:
    """The segments before the pixels (EXIF, XMP, comments), and what follows the end."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        (size,) = struct.unpack(">H", data[at + 2 : at + 4])
        if marker == 0xDA:  # pixels follow
            break
        if marker == 0xFE or 0xE0 <= marker <= 0xEF:
            yield f"segment {marker:02X}", _strings(data[at + 4 : at + 2 + size])
        at += 2 + size
    end = data.rfind(b"\xff\xd9")
    if end >= 0 and data[end + 2 :]:
        yield "after the end", _strings(data[end + 2 :])


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _scan_text(text: str, ids: Identifiers, file: str, place: str, depth: int) -> list[Finding]:
    """Scan a text as it stands, unescaped, and what is embedded in it."""
    found: list[Finding] = []
    structured = _as_json(text)
    if structured is not None:
        found += _scan_json(structured, ids, file, place, depth)
    plain, embedded = _without_data(text)
    if plain.startswith("Search.setIndex("):  # numbers after its words are those of pages
        plain = re.sub(r"(?<=:)[\[\d,\]]+(?=[,}])", lambda m: " " * len(m[0]), plain)
    for start, packed in embedded:
        where = f"{place} {_line(text, start)}, embedded data".strip()
        found += scan_bytes(packed, ids, file, where, depth=depth + 1)
    seen: set[str] = set()
    for form in (plain, html.unescape(plain), unquote(plain)):
        if form in seen:
            continue
        seen.add(form)
        for hits in (find_in_text(form, ids), find_in_columns(form, ids)):
            found += [
                Finding(file, f"{place} {_line(form, start)}".strip(), kind)
                for start, _, kind in hits
            ]
    for line, kind in find_in_tables(plain, ids):
        found.append(Finding(file, f"{place} line {line}, a table".strip(), kind))
    return found


def _line(text: str, start: int) -> str:
    line = text.count("\n", 0, start) + 1
    return f"line {line}, character {start - text.rfind(chr(10), 0, start)}"


def _without_data(text: str) -> tuple[str, list[tuple[int, bytes]]]:
    """Cut embedded base64 out of a text; it is scanned as what it unpacks to."""
    embedded: list[tuple[int, bytes]] = []

    def url(match: re.Match) -> str:
        if ";base64" in match[2]:
            content = _unpack(unquote(match[3]))
        else:
            content = unquote(match[3]).encode()
        if content is None:
            return match[0]
        embedded.append((match.start(), content))
        return " " * len(match[0])  # later matches keep their places

    def block(match: re.Match) -> str:
        content = _unpack(match[0]) if match[0].startswith(_PACKED) else None
        if content is None:
            return match[0]
        embedded.append((match.start(), content))
        return re.sub(r"[^\n]", " ", match[0])

    text = _DATA_URL.sub(url, text) if "data:" in text else text
    return _BASE64.sub(block, text), embedded


def _unpack(text: str) -> bytes | None:
    text = re.sub(r"\\n|\s", "", text)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _as_json(text: str) -> Any:
    if text[:1] not in "{[":
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _scan_json(
    value: Any, ids: Identifiers, file: str, place: str, depth: int, path: str = "$", kind: str = ""
) -> list[Finding]:
    """Walk through JSON: texts with their escapes undone, and numbers under a key's name."""
    found: list[Finding] = []
    if isinstance(value, dict):
        for key, item in value.items():
            below = "RID" if _ID_COLUMN.fullmatch(key) else kind
            below = "image ID" if _IMAGE_COLUMN.fullmatch(key) else below
            where = f"{path}.{masked(key, ids)}" if len(key) < 60 else f"{path}.…"
            found += _scan_json(item, ids, file, place, depth, where, below)
    elif isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):  # lines of a notebook's text
            value = ["".join(value)] if any(item.endswith("\n") for item in value) else value
        for index, item in enumerate(value):
            found += _scan_json(item, ids, file, place, depth, f"{path}[{index}]", kind)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        known = ids.rids if kind == "RID" else ids.image_ids
        if kind and _digits(value) in known:
            found.append(Finding(file, f"{place} {path}".strip(), kind))
        if isinstance(value, str) and len(value) > 3 and depth <= DEEPEST:
            found += _scan_text(value, ids, file, f"{place} {path}".strip(), depth + 1)
    return found


# --- files that the page builder ships --------------------------------------------------


@cache
def _shipped() -> dict[int, set[bytes]]:
    """Sizes and digests of the files that the page builder's packages hold."""
    found: dict[int, set[bytes]] = {}
    for package in BUILDERS:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for file in Path(folder).rglob("*"):
                if file.is_file() and file.suffix not in (".py", ".pyc"):
                    found.setdefault(file.stat().st_size, set()).add(_digest(file))
    return found


def _digest(file: Path) -> bytes:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def _is_shipped(file: Path) -> bool:
    if "_static" not in file.parts:
        return False
    same_size = _shipped().get(file.stat().st_size)
    return bool(same_size) and _digest(file) in (same_size or ())


# --- the command ------------------------------------------------------------------------


def made_from_real_data(paths: list[Path]) -> list[str]:
    """Name the notebooks among some pages whose metadata say that they show real data."""
    found = []
    for root in paths:
        for file in sorted(root.rglob("*.ipynb")) if root.is_dir() else [root]:
            if file.suffix == ".ipynb":
                content = json.loads(file.read_text(encoding="utf-8"))
                about = content.get("metadata", {}).get("memoir", {})
                if about.get("cohort", "synthetic") != "synthetic":
                    found.append(file.name)
    return found


def report(found: list[Finding]) -> str:
    lines = [f"{f.file}: {f.place}: {f.kind}" for f in found[:200]]
    if len(found) > 200:
        lines.append(f"... and {len(found) - 200} more")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Scan; exit code 0: nothing found, 1: something found, 2: it could not be looked for."""
    description, _, rules = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m memoir_book.scan_site",
        description=description.replace(": `--help`", ""),
        epilog=rules,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, help="files and folders to scan")
    parser.add_argument(
        "--data",
        default="",
        help="the download whose identifiers to look for; without it, only the form of a PTID "
        "is, and pages made from real data are refused",
    )
    parser.add_argument("--csv", type=Path, help="also write the findings as a table")
    options = parser.parse_args(arguments)
    for path in options.paths:
        if not path.exists():
            parser.error(f"{path} does not exist")
    if options.data and not (Path(options.data).expanduser() / "ADNIMERGE.csv").exists():
        parser.error("--data must be a folder with ADNIMERGE.csv")
    if not options.data and (real := made_from_real_data(options.paths)):
        print(
            f"These pages show real data ({', '.join(sorted(set(real)))}): scan them with --data, "
            "or make HTML DATA=folder.",
            file=sys.stderr,
        )
        return 2
    found = scan(options.paths, read_identifiers(Path(options.data)) if options.data else NOTHING)
    if options.csv:
        with atomic_path(options.csv) as temporary:
            table = pd.DataFrame(found, columns=["file", "place", "kind"])
            table.to_csv(temporary, index=False)
    if found:
        print(report(found), file=sys.stderr)
        print(f"{len(found)} findings: do not publish these pages.", file=sys.stderr)
        return 1
    print("No identifier found." if options.data else "No text in the form of a PTID found.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
