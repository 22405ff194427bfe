"""Exercises: check a student's answer; `python -m memoir_book.exercises` lists them all.

How to add one to a chapter: see CONTRIBUTING.md.
"""

from __future__ import annotations

import copy
import json
import textwrap
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from .chapters import CHAPTERS

TOLERANCE = 1e-3  # of a number, relative above 1 and absolute below


class WrongAnswerError(AssertionError):
    """A solution of the book does not pass its own checks."""


def check(
    function: Callable[..., Any], cases: Mapping[str, tuple[tuple, Any]], *, strict: bool = False
) -> None:
    """Call a student's function on some cases, and print whether it is right.

    cases : name -> (arguments, expected). `expected` is a value, see `agrees`, or a function
        that says of the answer whether it is right.
    strict : raise WrongAnswerError for anything but a right answer, as solutions do; else a
        wrong answer, an unfinished one and one that raises are only reported.
    """
    name = getattr(function, "__name__", "your answer")
    problems: list[str] = []
    for case, (arguments, expected) in cases.items():
        try:  # copies, so that an answer that changes its input cannot spoil the next case
            got = function(*copy.deepcopy(arguments))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [f for f in frames if f.name == name]  # of the student's code, not a library's
            if isinstance(error, NotImplementedError) and frames[-1].name == name:
                problems.append("not answered yet")
            else:
                where = f" (line {own[-1].lineno}: {own[-1].line})" if own else ""
                problems.append(f'error for "{case}": {type(error).__name__}: {error}{where}')
            break  # it would mostly be the same for every case
        try:
            right = bool(expected(got)) if callable(expected) else agrees(got, expected)
        except Exception:  # an answer of another kind than the comparison can read
            right = False
        if not right:
            wanted = "" if callable(expected) else f"expected {_shown(expected)}, "
            problems.append(f'wrong for "{case}": {wanted}got {_shown(got)}')
    text = "\n".join(f"{name}: {problem}" for problem in problems)
    if text and strict:
        raise WrongAnswerError(text)
    print(text or f"{name}: right ({len(cases)} checks)")


def agrees(got: Any, expected: Any) -> bool:
    """Compare as a teacher would: floats within the tolerance; counts, truth and text exactly.

    Lists, tuples, arrays, tensors and columns are compared by their content.
    """
    got, expected = _plain(got), _plain(expected)
    if isinstance(expected, dict) and isinstance(got, dict):
        return got.keys() == expected.keys() and all(agrees(got[k], expected[k]) for k in got)
    if isinstance(expected, list) and isinstance(got, list):
        return len(got) == len(expected) and all(map(agrees, got, expected))
    if isinstance(got, bool) != isinstance(expected, bool):
        return False  # 1 is not True
    if isinstance(expected, float):
        return got == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True)
    return got == expected


def _plain(value: Any) -> Any:
    if hasattr(value, "columns"):  # a table
        return {name: list(value[name]) for name in value.columns}
    return list(value) if isinstance(value, tuple) else getattr(value, "tolist", lambda: value)()


def _shown(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return "None (is a `return` missing?)"
    text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return textwrap.shorten(text, 80, placeholder=" ...")


def predict(guess: Any, found: Any, what: str, form: str = "{:.2f}") -> None:
    """Set a student's guess (None: none yet) beside what the run found: a number, or a word."""
    numbers = isinstance(guess, int | float) and isinstance(found, int | float)
    if guess is None:
        print(f"{what}: no guess yet. Write one above, run both cells, and read on")
    elif guess == found:
        print(f"{what}: you said {guess}, right")
    elif numbers:
        off = f"{form.format(abs(guess - found))} too {'high' if guess > found else 'low'}"
        print(f"{what}: you said {form.format(guess)}, it is {form.format(found)} ({off})")
    else:
        print(f"{what}: you said {guess}, it is {found}")


def main() -> None:
    for chapter in CHAPTERS:
        for cell in json.loads(chapter.notebook.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            if text.startswith("**Exercise "):
                print(textwrap.shorten(text.replace("*", ""), 99, placeholder=" ..."))


if __name__ == "__main__":
    main()
