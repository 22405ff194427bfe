"""A last look at what may leave a run on real data: does anything look like a person's identifier?

Whatever is written for others is made of aggregates (see `report`); this catches what slipped
through all the same. Pages of real data stay in the run's own folder and are not looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from memoir_core import config

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

    Parameters
    ----------
    known : texts that must not stand in it: the data folder, PTIDs, image paths.
    """
    plain = unquote(html.unescape(text))
    found = [kind for kind, rule in PATTERNS.items() if re.search(rule, plain, re.IGNORECASE)]
    low = plain.lower()
    told = any(word.lower() in low for word in known if len(word) > 3)
    return found + ["text of the download"] * told


def look(paths: Iterable[Path], known: Iterable[str] = ()) -> None:
    """Refuse files in which something looks like an identifier.

    Raises
    ------
    PrivateDataError
        Names file and kind of each finding.
    """
    known = list(known)
    found = [
        f"{path.name}: {kind}"
        for path in map(Path, paths)
        for kind in kinds(path.read_text(encoding="utf-8"), known)
    ]
    if found:
        raise PrivateDataError(
            f"not written, since it may identify somebody: {', '.join(found)}. Find out where it "
            "comes from: a report holds nothing but figures of groups"
        )


# --- below: goes with its last callers ---

if TYPE_CHECKING:
    from .artefacts import Run

SMALLEST_GROUP = 10  # people; an average of fewer can show one of them
SYNTHETIC_KEY = b"the synthetic cohort has nobody to protect"  # the same on every machine
CHECK = "`python -m memoir_book.check DATA` names it"
Group = TypeVar("Group", bound=Sized)


class SmallGroupError(ValueError):
    """An average of so few people that it could show one of them."""


# --- pseudonyms -------------------------------------------------------------------------


def key_path() -> Path:
    return config.cache_dir() / "pseudonym.key"


def secret_key() -> bytes:
    """Read this installation's random key, or make it once; only its owner can read the file.

    The key lies in the cache, which is never published. Who has it can test guesses of a
    PTID against a pseudonym. Deleting it gives every subject a new pseudonym and case number.

    Raises
    ------
    ValueError
        The file does not hold a key.
    """
    path = key_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(secrets.token_hex(32) + "\n")
        try:
            os.link(temporary, path)  # unlike a rename, it never replaces another process' key
        except FileExistsError:
            pass  # that other key is read below
        finally:
            temporary.unlink()
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    text = path.read_text(encoding="ascii").strip()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(f"{path} does not hold a key of 64 hexadecimal digits; delete it")
    return bytes.fromhex(text)


def pseudonym(kind: str, value: str, key: bytes | None = None) -> str:
    """Name something by 12 hexadecimal digits: HMAC-SHA256 with this installation's key.

    Parameters
    ----------
    kind : what is named, such as 'subject'; keeps equal texts of two kinds apart.
    key : another key than this installation's.
    """
    key = secret_key() if key is None else key
    return hmac.new(key, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()[:12]


def conceal(text: str, data_dir: Path, names: Sequence[str]) -> str:
    """Take a download's folder and image names out of a message."""
    for name in names:
        for form in (str(Path(data_dir) / name), name, Path(name).name):
            text = text.replace(form, "a volume")
    return hide_folder(text, str(data_dir))


def hide_folder(text: str, folder: str, instead: str = "DATA") -> str:
    return re.sub(re.escape(folder) + r"(?![\w-])", instead, text) if folder else text


# --- groups in place of people ----------------------------------------------------------


def hidden(what: str) -> str:
    """Say on a page what is not shown, and why."""
    return (
        f"Not shown: {what}. This run is on real data, which may not be passed on.\n"
        "For pages that you keep to yourself: publish_individual=True."
    )


def large_enough(run: Run, groups: Mapping[str, Group]) -> dict[str, Group]:
    """Keep the groups of at least ten people; say which are left out.

    A synthetic run, or one with `publish_individual=True`, keeps all.
    """
    if run.individual:
        return dict(groups)
    few = [name for name, members in groups.items() if len(members) < SMALLEST_GROUP]
    if few:
        print(f"Fewer than {SMALLEST_GROUP} people, not shown: {', '.join(few)}.")
    return {name: members for name, members in groups.items() if name not in few}


def check_groups(run: Run, groups: Mapping[str, Any]) -> None:
    """Refuse averages of fewer than ten real people.

    Raises
    ------
    SmallGroupError
        Names the group.
    """
    for name, members in groups.items():
        if not run.individual and len(members) < SMALLEST_GROUP:
            raise SmallGroupError(
                f"{name} has {len(members)} people: an average of fewer than {SMALLEST_GROUP} "
                "could show one of them. Take more subjects, or set publish_individual=True "
                "for pages that you keep to yourself"
            )
