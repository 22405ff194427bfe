"""Exercises: check a student's answer, and make the stubs from the solutions.

How to add an exercise to a chapter:

1. Under `## Exercises` state the task in a markdown cell that begins `**Exercise 5.3.**`.
2. Below it add four code cells: an empty one tagged `exercise`; one tagged `self-check` with the
   cases and `exercises.check(function, checks_5_3)`; one tagged `solution` and `hide-cell` with the
   solved function, its docstring and `exercises.check(function, checks_5_3, strict=True)`.
3. `python -m memoir_book.exercises` writes the stub; `--check` only says whether stubs are current.
4. `pytest tests/test_exercises.py` wants a typical mistake that the checks catch: add one there.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import math
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memoir_core import config

from .artefacts import atomic_path

TAGS = ("exercise", "self-check", "solution")  # the cells of one exercise, in order
TOLERANCE = 1e-3  # of a number, relative above 1 and absolute below


class WrongAnswerError(AssertionError):
    """A solution of the book does not pass its own checks."""


# --- checking an answer -----------------------------------------------------------------


def check(
    function: Callable[..., Any],
    cases: Mapping[str, tuple[tuple, Any]],
    *,
    strict: bool = False,
    tolerance: float = TOLERANCE,
) -> None:
    """Call an answer on some cases, and print whether it is right.

    A wrong answer, an unfinished one and one that raises are reported, not raised.

    Parameters
    ----------
    function : the student's.
    cases : name -> (arguments, expected). `expected` is a value, see `agrees`, or a function
        that says of the answer whether it is right.
    strict : raise for anything but a right answer. Solutions use it, so that a run of the
        book proves them.
    tolerance : of a number, relative above 1 and absolute below.

    Raises
    ------
    WrongAnswerError
        With `strict` only.
    """
    name = getattr(function, "__name__", "your answer")
    problems: list[str] = []
    for case, (arguments, expected) in cases.items():
        try:  # copies, so that an answer that changes its input cannot spoil the next case
            got = function(*copy.deepcopy(arguments))
        except Exception as error:
            if _is_stub(error, function):
                problems.append("not answered yet")
            else:
                problems.append(f'error for "{case}": {_where(error, function)}')
            break  # it would mostly be the same for every case
        try:
            right = agrees(got, expected, tolerance)
        except Exception:  # an answer of another kind than the comparison can read
            right = False
        if not right:
            wanted = "" if callable(expected) else f"expected {_shown(expected)}, "
            problems.append(f'wrong for "{case}": {wanted}got {_shown(got)}')
    text = "\n".join(f"{name}: {problem}" for problem in problems)
    if text and strict:
        raise WrongAnswerError(text)
    print(text or f"{name}: right ({len(cases)} checks)")


def agrees(got: Any, expected: Any, tolerance: float = TOLERANCE) -> bool:
    """Compare an answer with what was expected, as a teacher would.

    A float may differ by the tolerance; counts, truth values and text may not. Lists, tuples,
    arrays and tensors are compared by their content; tables also by their labels.
    """
    if callable(expected):
        return bool(expected(got))
    got, expected = _plain(got), _plain(expected)
    if isinstance(expected, pd.DataFrame):
        return (
            isinstance(got, pd.DataFrame)
            and list(got.columns) == list(expected.columns)
            and all(agrees(got[name], expected[name], tolerance) for name in expected)
        )
    if isinstance(expected, pd.Series):
        return (
            isinstance(got, pd.Series)
            and list(got.index) == list(expected.index)
            and agrees(got.to_numpy(), expected.to_numpy(), tolerance)
        )
    if isinstance(expected, dict):
        return (
            isinstance(got, dict)
            and got.keys() == expected.keys()
            and all(agrees(got[key], value, tolerance) for key, value in expected.items())
        )
    if isinstance(expected, list | tuple | np.ndarray):
        return isinstance(got, list | tuple | np.ndarray | pd.Series) and _same_sequence(
            got, expected, tolerance
        )
    if isinstance(expected, float):
        if isinstance(got, bool) or not isinstance(got, int | float):
            return False
        if math.isnan(expected) or math.isinf(expected):
            return got == expected or (math.isnan(expected) and math.isnan(got))
        return abs(got - expected) <= tolerance * max(1.0, abs(expected))
    if isinstance(expected, int) and not isinstance(expected, bool):
        return isinstance(got, int | float) and not isinstance(got, bool) and got == expected
    return isinstance(got, type(expected)) and got == expected


def _same_sequence(got: Any, expected: Any, tolerance: float) -> bool:
    if len(got) != len(expected):
        return False
    kinds = [
        values.dtype.kind if isinstance(values, np.ndarray) else "" for values in (got, expected)
    ]
    if kinds[0] and kinds[1] in ("f", "i", "u", "b"):  # fast for volumes
        if got.shape != expected.shape or (kinds[0] == "b") != (kinds[1] == "b"):
            return False
        if kinds[1] != "f":
            return bool(np.array_equal(got, expected))
        slack = tolerance * np.maximum(1, np.abs(expected))
        return bool(
            np.all((np.abs(got - expected) <= slack) | (np.isnan(got) & np.isnan(expected)))
        )
    return all(agrees(a, b, tolerance) for a, b in zip(got, expected, strict=True))


def _plain(value: Any) -> Any:
    """Turn tensors into arrays, and scalars of NumPy and torch into Python's."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def _shown(value: Any) -> str:
    """Show a value on one short line."""
    value = _plain(value)
    if value is None:
        return "None (is a `return` missing?)"
    if isinstance(value, pd.DataFrame):
        return f"a table of {len(value)} rows with columns {', '.join(map(str, value.columns))}"
    shape = ""
    if isinstance(value, pd.Series | np.ndarray):
        array = value.to_numpy() if isinstance(value, pd.Series) else value
        shape = f" of shape {array.shape}" if array.ndim > 1 or array.size > 8 else ""
        text = np.array2string(array, precision=4, threshold=8, separator=", ")
    elif isinstance(value, float):
        text = f"{value:.4g}"
    else:
        text = repr(value)
    text = " ".join(text.split())
    return (text if len(text) <= 80 else text[:77] + "...") + shape


def _is_stub(error: Exception, function: Callable) -> bool:
    """Was it the stub's own NotImplementedError, and not one from a library below it?"""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, NotImplementedError) and last.name == getattr(
        function, "__name__", None
    )


def _where(error: Exception, function: Callable) -> str:
    """Name an exception, and the line of the student's code that led to it."""
    text = f"{type(error).__name__}: {error}"
    own = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == own]
    return f"{text} (line {lines[-1].lineno}: {lines[-1].line})" if lines else text


# --- stubs from solutions ---------------------------------------------------------------


def make_stub(solution: str) -> str:
    """Keep the signature and the docstring of a solution's function; leave the body to do.

    Raises
    ------
    ValueError
        The cell does not define exactly one function with a docstring.
    """
    functions = [n for n in ast.parse(solution).body if isinstance(n, ast.FunctionDef)]
    if len(functions) != 1 or ast.get_docstring(functions[0]) is None:
        raise ValueError("a solution must define exactly one function, with a docstring")
    end = functions[0].body[0].end_lineno
    head = solution.splitlines()[functions[0].lineno - 1 : end]
    return "\n".join([*head, "    raise NotImplementedError  # your code"])


def find_exercises(notebook: dict) -> list[tuple[dict, dict, dict]]:
    """List a notebook's exercises: their stub, self-check and solution cells.

    Parameters
    ----------
    notebook : content of an .ipynb file.

    Raises
    ------
    ValueError
        The tagged cells do not come in threes, in this order.
    """
    cells = [
        (tag, cell)
        for cell in notebook["cells"]
        for tag in TAGS
        if tag in cell["metadata"].get("tags", ())
    ]
    found = [tag for tag, _ in cells]
    if found != list(TAGS) * (len(found) // len(TAGS)):
        raise ValueError(f"cells must be tagged {', '.join(TAGS)}, in turn; found {found}")
    only = [cell for _, cell in cells]
    return list(zip(only[0::3], only[1::3], only[2::3], strict=True))


def update(path: Path, write: bool = True) -> int:
    """Rewrite the stubs of one notebook that differ from what their solutions ask for.

    Returns
    -------
    how many differed.

    Raises
    ------
    ValueError
        Names the notebook and the cell that cannot be read.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    changed = 0
    try:
        for stub, _, solution in find_exercises(notebook):
            wanted = make_stub("".join(solution["source"])).splitlines(keepends=True)
            changed += stub["source"] != wanted
            stub["source"] = wanted
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if changed and write:
        with atomic_path(path) as temporary:
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            temporary.write_text(text, encoding="utf-8")
    return changed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m memoir_book.exercises",
        description="Make each exercise's stub from its solution, in place, in the notebooks.",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if a stub is stale")
    parser.add_argument("--only", default="", metavar="CHAPTER", help="a name or number")
    args = parser.parse_args(argv)
    try:
        chosen = [config.get_chapter(args.only)] if args.only else config.CHAPTERS
        changed = {c.name: update(c.notebook, write=not args.check) for c in chosen}
    except ValueError as error:
        parser.error(str(error))
    for name, count in changed.items():
        if count:
            print(f"{name}: {count} stubs {'are stale' if args.check else 'rewritten'}")
    if not any(changed.values()):
        print("All stubs are what their solutions ask for.")
    return int(args.check and any(changed.values()))


if __name__ == "__main__":
    sys.exit(main())
