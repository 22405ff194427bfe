"""The graded notebooks at the end of each part: solutions get all points, empty stubs none."""

import ast
import inspect
import json
import re
import runpy
from contextlib import redirect_stdout
from io import StringIO

import nbformat
import pytest

from memoir_book import exercises
from memoir_book.chapters import ROOT

WRAPUPS = {path.stem: path for path in sorted((ROOT / "wrapups").glob("*.ipynb"))}
HEADER = re.compile(
    r"\*\*Task (\d\.\d)\*\* "
    r"\((Write|Repair|Explore), (\d+) min, (easy|medium|hard), (\d) points\)\. "
)
NAMES = list(WRAPUPS)


def hidden(name):
    return runpy.run_path(str(exercises.HIDDEN / f"{name}.py"))


def cells(name):
    return nbformat.read(WRAPUPS[name], as_version=4).cells


def tagged(name, tag):
    return [cell for cell in cells(name) if tag in cell.metadata.get("tags", ())]


def asked(stub):
    """Name of the function or number that a stub leaves open."""
    (node,) = ast.parse(stub).body
    return node.name if isinstance(node, ast.FunctionDef) else node.targets[0].id


def points(answers, name):
    """What the hidden tests give: task -> (points, of how many), and all that is printed."""
    with redirect_stdout(StringIO()) as printed:
        exercises.marks(answers, exercises.HIDDEN / f"{name}.py")
    text = printed.getvalue()
    rows = re.findall(r"^([a-z]\w*): (\d+) of (\d+)", text, re.MULTILINE)
    found = {task: (int(got), int(most)) for task, got, most in rows}
    total = tuple(map(sum, zip(*found.values(), strict=True)))
    assert text.endswith(f"Total: {total[0]} of {total[1]} points\n")
    return found, text


def left(name):
    """The student's namespace after the notebook as it is given; it must run."""
    found: dict = {}
    with redirect_stdout(StringIO()) as printed:
        for cell in cells(name):
            if cell.cell_type == "code":
                exec(compile(cell.source, cell.id, "exec"), found)
    return found, printed.getvalue()


def test_there_is_one_for_each_part():
    assert [name[0] for name in NAMES] == list("1234")
    assert {path.stem for path in exercises.HIDDEN.glob("*.py")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_three_tasks_of_three_kinds_for_ten_points(name):
    told = [HEADER.match(cell.source) for cell in cells(name) if "**Task" in cell.source]
    assert [t[1] for t in told] == [f"{name[0]}.{k}" for k in (1, 2, 3)]
    assert {t[2] for t in told} == {"Write", "Repair", "Explore"}
    tasks = hidden(name)["TASKS"]
    worth = [sum(p for p, _ in cases.values()) for cases in tasks.values()]
    assert worth == [int(t[5]) for t in told] and sum(worth) == 10
    stubs = [cell.source for cell in tagged(name, "exercise")]
    assert [asked(stub) for stub in stubs] == list(tasks)
    assert len(tagged(name, "self-check")) == 3
    for stub, (_, kind) in zip(stubs, (t.group(0, 2) for t in told), strict=True):
        assert ("NotImplementedError" in stub) == (kind == "Write")
        assert ("= None" in stub) == (kind == "Explore")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_nothing_and_is_tidy(name):
    text = WRAPUPS[name].read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    ids = [cell.id for cell in cells(name)]
    assert len(ids) == len(set(ids))
    for cell in cells(name):
        assert not cell.get("outputs") and not cell.get("execution_count")
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            assert len(lines) <= 18 and max(map(len, lines)) <= 78, cell.id
    assert f"grade wrapups/{name}.ipynb" in text
    for answer in filter(callable, hidden(name)["SOLUTIONS"].values()):
        body = inspect.getsource(answer).split("\n", 1)[1].strip()
        assert body not in "\n".join(c.source for c in cells(name)), "the answer is given away"


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_as_it_is_given_and_gets_no_point(name):
    answers, printed = left(name)
    assert "not answered yet" in printed and "wrong for" in printed and "error for" not in printed
    found, said = points(answers, name)
    assert {got for got, _ in found.values()} == {0}
    assert "not answered yet" in said and "wrong" in said and "Error" not in said


@pytest.mark.parametrize("name", NAMES)
def test_solutions_get_all_points_and_pass_the_examples(name, capsys):
    solutions = hidden(name)["SOLUTIONS"]
    found, said = points(left(name)[0] | solutions, name)
    assert all(got == most for got, most in found.values()) and "lost" not in said
    answers: dict = {}
    for cell in cells(name):
        stub = "exercise" in cell.metadata.get("tags", ())
        if cell.cell_type == "code" and not stub:
            exec(compile(cell.source, cell.id, "exec"), answers)
        elif stub:
            answers |= {asked(cell.source): solutions[asked(cell.source)]}
    said = capsys.readouterr().out
    assert said.count("right (1 checks)") == 2 and "wrong" not in said


MISTAKES = [
    pytest.param(name, task, wrong, rest, id=f"{name}-{getattr(wrong, '__name__', wrong)}")
    for name in NAMES
    for task, mistakes in hidden(name)["MISTAKES"].items()
    for wrong, rest in mistakes
]


@pytest.mark.parametrize(("name", "task", "wrong", "rest"), MISTAKES)
def test_a_mistake_costs_its_points_and_no_others(name, task, wrong, rest):
    found, said = points(hidden(name)["SOLUTIONS"] | {task: wrong}, name)
    assert found[task][0] == rest < found[task][1], said
    assert all(got == most for other, (got, most) in found.items() if other != task)


def test_every_task_has_a_mistake():
    for name in NAMES:
        told = hidden(name)
        assert told["TASKS"].keys() == told["MISTAKES"].keys() == told["SOLUTIONS"].keys()


# --- the command ------------------------------------------------------------------------------


def answered(folder, name, **sources):
    """A student's copy, with the source of some stubs replaced: name of the answer -> source."""
    book = nbformat.read(WRAPUPS["1_data"], as_version=4)
    for cell in book.cells:
        if "exercise" in cell.metadata.get("tags", ()):
            cell.source = sources.get(asked(cell.source), cell.source)
    nbformat.write(book, folder / name)
    return folder / name


def test_a_notebook_is_run_and_graded(tmp_path, capsys):
    path = answered(
        tmp_path,
        "Anna 1_data.ipynb",
        latest_scan="def latest_scan(visits):\n    return 1 / 0",
        nearest_visit="def nearest_visit(days, scan, most):\n    raise KeyboardInterrupt",
        limit="limit = 3.5\noops",
    )
    tests = tmp_path / "mine.py"
    tests.write_text(
        "TASKS = {'latest_scan': {'a': (1, lambda f: f(1))},\n"
        "  'nearest_visit': {'b': (1, lambda f: f([1], 2, 3))},\n"
        "  'limit': {'c': (2, lambda x: x > 3)}}\n"
    )
    before = path.read_bytes()
    assert exercises.main(["grade", str(path), "--tests", str(tests)]) == 0
    said = capsys.readouterr().out
    assert path.read_bytes() == before, "the student's file stays as it is"
    assert "NameError: name 'oops' is not defined" in said and "Traceback" not in said
    assert "latest_scan: 0 of 1 points\n   1 lost, a: ZeroDivisionError: division by zero" in said
    assert "nearest_visit: 0 of 1 points\n   1 lost, b: it took too long" in said
    assert "limit: 2 of 2 points\nTotal: 2 of 4 points" in said


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("essay.ipynb", "{}", "no wrap-up: keep one of 1_data, 2_encoder"),
        ("1_data.ipynb", None, "No such file"),
        ("1_data.ipynb", "hello", "does not appear to be JSON"),
        ("1_data.ipynb", "{}", "missing a key: cells"),
    ],
)
def test_what_cannot_be_graded_is_named(tmp_path, capsys, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert exercises.main(["grade", str(tmp_path / name)]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"error: {tmp_path / name} cannot be graded: ") and message in said


def test_a_notebook_that_ends_its_kernel_is_named(tmp_path, capsys):
    path = answered(tmp_path, "1_data.ipynb", limit="import os\nos._exit(0)")
    assert exercises.main(["grade", str(path)]) == 1
    assert "cannot be graded: Kernel died" in capsys.readouterr().out
