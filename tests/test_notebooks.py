"""The shape every chapter keeps: parameters, anatomy, short cells, no stored results."""

import ast
import re
import tokenize
from io import StringIO
from itertools import pairwise

import nbformat
import pytest

from memoir_core import config

COMMON = {"profile": "smoke", "run": "", "data_dir": "", "seed": 0, "device": "auto"}
ANATOMY = [
    "What you will learn",
    "Prerequisites",
    "Time and hardware",
    "Where this sits",
    "Published against this run",
    "Exercises",
    "Quiz",
    "Take-aways",
    "Further reading",
    "Next experiments",
]
LOGIC_LINES = 15
EXERCISE_LINES = 20  # a self-check is a list of cases; a solution checks and shows itself, too
TAGS = {"parameters", "exercise", "self-check", "solution", "hide-cell"}

pytestmark = pytest.mark.parametrize("chapter", config.CHAPTERS, ids=lambda c: c.name)


def read(chapter):
    return nbformat.read(chapter.notebook, as_version=4)


def code_cells(chapter):
    return [cell for cell in read(chapter).cells if cell.cell_type == "code"]


def headings(chapter):
    """List (level, text) of the headings outside code fences."""
    text = "\n".join(c.source for c in read(chapter).cells if c.cell_type == "markdown")
    text = re.sub(r"^(`{3,}).*?^\1`*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#+) (.+)$", text, re.MULTILINE)]


def is_checked(cell):
    return "NBVAL_CHECK_OUTPUT" in cell.source


def test_it_is_a_valid_notebook(chapter):
    notebook = read(chapter)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_one_parameters_cell_of_commented_literals(chapter):
    tagged = [c for c in code_cells(chapter) if "parameters" in c.metadata.get("tags", ())]
    assert len(tagged) == 1
    assert tagged[0] is not None and tagged[0].source == code_cells(chapter)[0].source
    values = {}
    for statement in ast.parse(tagged[0].source).body:
        # The annotation is what `papermill --help-notebook` shows as the type.
        assert isinstance(statement, ast.AnnAssign) and statement.value is not None
        assert isinstance(statement.target, ast.Name) and isinstance(statement.annotation, ast.Name)
        value = ast.literal_eval(statement.value)
        assert type(value).__name__ == statement.annotation.id
        values[statement.target.id] = value
    assert {name: values.get(name) for name in COMMON} == COMMON
    for line in tagged[0].source.splitlines():
        if " = " in line:
            assert "#" in line, f"say what it is: {line}"


def test_imports_stand_in_the_second_cell(chapter):
    for number, cell in enumerate(code_cells(chapter)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert number == 1, f"import in code cell {number}: {cell.source[:60]!r}"


def test_it_starts_and_ends_the_chapter(chapter):
    cells = code_cells(chapter)
    assert f'start_chapter(\n    "{chapter.name}"' in cells[2].source or (
        f'start_chapter("{chapter.name}"' in cells[2].source.replace("\n    ", "")
    )
    assert "end_chapter(book)" in cells[-1].source


def test_it_has_the_anatomy_of_a_chapter(chapter):
    found = headings(chapter)
    assert [level for level, _ in found].count(1) == 1
    assert found[0][0] == 1
    second = [text for level, text in found if level == 2]
    assert [text for text in second if text in ANATOMY] == ANATOMY
    levels = [level for level, _ in found]
    assert all(b - a <= 1 for a, b in pairwise(levels)), "a level is skipped"


def test_cells_are_short(chapter):
    for cell in code_cells(chapter):
        tokens = tokenize.generate_tokens(StringIO(cell.source + "\n").readline)
        skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
        lines = {token.start[0] for token in tokens if token.type not in skipped}
        tags = set(cell.metadata.get("tags", ()))
        limit = EXERCISE_LINES if tags & {"self-check", "solution"} else LOGIC_LINES
        if "parameters" not in tags:
            assert len(lines) <= limit, f"{len(lines)} lines: {cell.source[:60]!r}"
        assert max(map(len, cell.source.splitlines()), default=0) <= 88, cell.source[:60]


def test_only_checked_cells_store_output(chapter):
    for cell in code_cells(chapter):
        if is_checked(cell):
            assert cell.outputs and cell.execution_count, "a checked cell needs what to check"
        else:
            assert not cell.outputs and cell.execution_count is None, cell.source[:60]


def test_metadata_is_clean(chapter):
    notebook = read(chapter)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        assert set(cell.metadata.get("tags", ())) <= TAGS
