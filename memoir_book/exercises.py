"""Exercises: check a student's answer; `python -m memoir_book.exercises` lists them all.

`... copy` writes notebooks without solutions into student/ (`make student`), `... grade FILE`
grades the end of a part. How to add an exercise to a chapter: see CONTRIBUTING.md.
"""

import copy
import json
import re
import runpy
import textwrap
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from memoir_core.files import write_json

from . import published
from .chapters import CHAPTERS, ROOT, get_chapter, parser_of

TOLERANCE = 1e-3  # of a number, relative above 1 and absolute below
HIDDEN = ROOT / "tests" / "hidden"
PATIENCE = 60  # seconds for a cell of a wrap-up, and for a hidden test


def check(
    function: Callable[..., Any], cases: Mapping[str, tuple[tuple, Any]], *, strict: bool = False
) -> None:
    """Call a student's function on some cases, and print whether it is right.

    cases : name -> (arguments, expected). `expected` is a value, see `agrees`, or a function
        that says of the answer whether it is right.
    strict : raise AssertionError for anything but a right answer, as solutions do; else a
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
        raise AssertionError(text)
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
    if guess is None:
        print(f"{what}: no guess yet. Write one above, run both cells, and read on")
    elif guess == found:
        print(f"{what}: you said {guess}, right")
    elif isinstance(guess, int | float) and isinstance(found, int | float):
        off = f"{form.format(abs(guess - found))} too {'high' if guess > found else 'low'}"
        print(f"{what}: you said {form.format(guess)}, it is {form.format(found)} ({off})")
    else:
        print(f"{what}: you said {guess}, it is {found}")


def solution(number: str) -> None:
    """Print the solution of an exercise, such as '5.2', and what the book says of it."""
    path = get_chapter(number.partition(".")[0]).notebook
    texts = ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    at = (*texts, title := f"**Solution {number}**").index(title)
    print("\n\n".join(texts[at + 1 : at + 3]) or "The run solves it: a prediction (or no exercise)")


def marks(answers: Mapping[str, Any], tests: Path) -> None:
    """Put a student's answers to hidden tests, and print the points per task and in all.

    answers : name -> function or number.
    tests : a file that defines TASKS: name of an answer -> what is tested -> (points, a function
        that says of the answer whether it is right).
    """
    total = []
    for name, cases in runpy.run_path(str(tests))["TASKS"].items():
        got, problems = 0, []
        for case, (points, right) in cases.items():
            said = "" if answers.get(name) is not None else "not answered yet"
            try:
                said = said or ("" if right(copy.deepcopy(answers[name])) else "wrong")
            except NotImplementedError:
                said = "not answered yet"
            except KeyboardInterrupt:  # as `grade` stops what takes longer than PATIENCE
                said = "it took too long"
            except (Exception, SystemExit) as error:  # of the answer, or of what it is held against
                said = f"{type(error).__name__}: {error}"
            got += 0 if said else points
            problems += [f"   {points} lost, {case}: {said}"] if said else []
        total.append((got, sum(points for points, _ in cases.values())))
        print("\n".join([f"{name}: {got} of {total[-1][1]} points", *problems]))
    print("Total: {} of {} points".format(*map(sum, zip(*total, strict=True))))


def grade(notebook: Path, tests: Path | None = None) -> int:
    """Run a student's wrap-up and its hidden tests, and print the points; 1 if that cannot be."""
    import nbformat  # here: a chapter that checks an answer starts sooner without
    from nbclient import NotebookClient

    known = {path.stem: path for path in sorted(HIDDEN.glob("*.py"))}
    tests = tests or next((path for stem, path in known.items() if stem in notebook.name), None)
    try:
        if tests is None:
            raise ValueError(f"no wrap-up: keep one of {', '.join(known)} in its name")
        content = nbformat.read(notebook, as_version=4)
        told = f"exercises.marks(globals(), {str(tests.resolve())!r})"
        told = f"from memoir_book import exercises\n{told}"
        content.cells.append(last := nbformat.v4.new_code_cell(told))
        client = NotebookClient(content, kernel_name="python3", timeout=PATIENCE, allow_errors=True)
        client.interrupt_on_timeout, client.resources["metadata"] = True, {"path": notebook.parent}
        client.execute()
    except (OSError, ValueError, RuntimeError, nbformat.ValidationError) as error:
        print(f"error: {notebook} cannot be graded: {error}")
        return 1
    for number, cell in enumerate(content.cells, 1):
        for output in (o for o in cell.get("outputs", ()) if o.output_type == "error"):
            print(f"cell {number}: {output.ename}: {output.evalue}")
    print(said := "".join(output.get("text", "") for output in last.outputs).strip())
    return 0 if said else 1


def copy_of(path: Path) -> dict:
    """Make the copy of a notebook: no outputs, plain Markdown, and no solutions (student.json)."""
    found, cells, title = json.loads(path.read_text(encoding="utf-8")), [], ""
    for cell in found["cells"]:
        text = "".join(cell["source"])
        title = text.split("\n")[0] if text.startswith("## ") else title
        if title == "## Solutions" and not text.startswith(title):
            continue
        for myst, plain in published.load("student.json")["plain"]:
            text = re.sub(myst, plain, text) if cell["cell_type"] == "markdown" else text
        fresh: dict = {"source": text, "outputs": [], "execution_count": None, "attachments": {}}
        cells.append(cell | {key: fresh[key] for key in fresh if key in cell})
    kept = {k: v for k, v in found["metadata"].items() if k in ("kernelspec", "language_info")}
    return found | {"cells": cells, "metadata": kept}


def write_copies() -> None:
    """Write the copies to work in; one that is there is never written over."""
    for path in sorted(ROOT.glob("notebooks/[0-9]*.ipynb")) + sorted(ROOT.glob("wrapups/*.ipynb")):
        there = (target := ROOT / "student" / path.name).exists()
        if not there:
            write_json(target, copy_of(path))
        said = "kept as it is; move it away to get a new copy" if there else "written"
        print(f"student/{path.name}: {said}")


def main(argv: list[str] | None = None) -> int:
    args = parser_of("exercises", None).parse_args(argv)
    if args.command == "grade":
        return grade(args.notebook, args.tests)
    if args.command == "copy":
        write_copies()
    for chapter in CHAPTERS if args.command == "list" else ():
        for cell in json.loads(chapter.notebook.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            if text.startswith("**Exercise "):
                print(textwrap.shorten(text.replace("*", ""), 99, placeholder=" ..."))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
