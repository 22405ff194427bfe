"""What of a real person's data may be shown, and under which name.

ADNI's data use agreement forbids passing data on. So a run on real data names people by
keyed pseudonyms, keeps what identifies them in `runs/<run>/private/`, and shows groups in
place of single subjects. `scan_site` checks what is published for what slipped through.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from memoir_core import config

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
