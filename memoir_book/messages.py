"""What must be mended, and how: the sentences of messages.json, with words in their places."""

from pathlib import Path
from typing import Any

from memoir_core.files import read_json
from memoir_core.tables import CohortError, Problem

SAID = read_json(Path(__file__).with_name("messages.json"))  # key -> what, and the mend


def say(key: str, **words: Any) -> str:
    """One message: what is wrong; what mends it."""
    return "; ".join(part.format(**words) for part in SAID[key])


def problem(key: str, file: Any = "", line: Any = "", column: str = "", **words: Any) -> Problem:
    """One message as a thing to mend in a download, with its place."""
    what, mend = (part.format(**words) for part in SAID[key])
    return Problem(str(file), what, mend, str(line), column)


def refusal(key: str, file: Any = "", **words: Any) -> CohortError:
    """The error that says one message of a file or folder."""
    return CohortError(problem(key, file, **words))
