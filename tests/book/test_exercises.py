"""The exercises: each can be solved, each can be failed, and each stub follows from its solution.

Self-checks use nothing but a chapter's imports and the functions that it defines, so that all of
this runs without the book having been run.
"""

import ast
import inspect
import json
import re
import symtable
from dataclasses import dataclass
from itertools import pairwise

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from mistakes import MISTAKES

from memoir_book import chapters, exercises
from memoir_core import losses, metrics

TAGS = ("exercise", "self-check", "solution")  # the cells of one exercise, in order
CHAPTERS = {chapter.number: chapter for chapter in chapters.CHAPTERS}


def source(cell):
    return "".join(cell["source"])


def functions(code):
    return [n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef)]


def namespace(chapter):
    """A chapter's imports and the functions that it teaches, without running it."""
    cells = json.loads(chapter.notebook.read_text(encoding="utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    found: dict = {}
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef
    for cell in code[1:]:
        if not set(cell["metadata"].get("tags", ())) & set(TAGS):
            nodes = [n for n in ast.parse(source(cell)).body if isinstance(n, kinds)]
            exec(compile(ast.Module(nodes, []), chapter.name, "exec"), found)
    return found


HEADER = re.compile(
    r"\*\*Exercise (\d+\.\d+)\*\* "
    r"\((Write|Predict|Repair|Explore), (\d+) min, (easy|medium|hard)\)\. "
)


@dataclass
class Exercise:
    """One exercise of a chapter: its task, what the reader edits, its check, and its solution."""

    chapter: chapters.Chapter
    number: str  # 5.3
    kind: str
    task: str
    stub: str
    check: str
    solution: str  # "" for a prediction: the run itself is the solution

    @property
    def checks(self):
        return f"checks_{self.number.replace('.', '_')}"

    @property
    def name(self):
        """Of the function that is asked for; "" where there is none."""
        return "".join(node.name for node in functions(self.stub)[:1])


def tagged(cell):
    return next((tag for tag in TAGS if tag in cell["metadata"].get("tags", ())), "")


def of_chapter(chapter):
    """A chapter's exercises, in the order of the page."""
    cells = json.loads(chapter.notebook.read_text(encoding="utf-8"))["cells"]
    begins = [i for i, c in enumerate(cells) if source(c).startswith("**Exercise ")]
    solutions = {}
    for before, cell in pairwise(cells):
        if tagged(cell) == "solution":
            assert source(before).startswith("**Solution "), source(before)
            solutions[source(before).split("**")[1].removeprefix("Solution ")] = source(cell)
    found = []
    for at in begins:
        told = HEADER.match(source(cells[at]))
        assert told, f"no kind, minutes or difficulty: {source(cells[at])[:60]!r}"
        stub, check = cells[at + 1 : at + 3]
        assert [tagged(stub), tagged(check)] == ["exercise", "self-check"], told[1]
        texts = source(cells[at]), source(stub), source(check), solutions.pop(told[1], "")
        found.append(Exercise(chapter, told[1], told[2], *texts))
    assert not solutions, "of no exercise"
    assert sum(map(bool, map(tagged, cells))) == sum(2 + bool(e.solution) for e in found)
    return found


@pytest.fixture(scope="module")
def solved():
    """Per chapter: its namespace with each solution and each self-check's cases."""

    class Solved(dict):
        def __missing__(self, number):  # so that a broken chapter fails alone
            return self.setdefault(number, solve(CHAPTERS[number]))

    return Solved()


def solve(chapter):
    found = namespace(chapter)
    for one in of_chapter(chapter):
        if one.name:
            (node,) = functions(one.solution)
            exec(compile(ast.Module([node], []), chapter.name, "exec"), found)
            found[one.name] = found[node.name]  # in place of the stub, which the check calls
            exec(one.check, found)
    return found


EXERCISES = [
    pytest.param(one, id=one.number)
    for chapter in CHAPTERS.values()
    for one in of_chapter(chapter)
    if one.name
]


@pytest.mark.parametrize("chapter", chapters.CHAPTERS, ids=lambda c: c.name)
def test_two_to_four_exercises_each_with_its_task(chapter):
    cells = json.loads(chapter.notebook.read_text(encoding="utf-8"))["cells"]
    found = of_chapter(chapter)
    assert 2 <= len(found) <= 5
    assert [e.number for e in found] == [
        f"{int(chapter.number)}.{k}" for k in range(1, len(found) + 1)
    ]
    for one in found:
        expected = re.search(r"Expected output:\n\n```text\n(.+?)\n```", one.task, re.DOTALL)
        assert expected, f"{one.number} does not show what a right answer prints"
        assert (one.kind == "Predict") == (not one.solution)
    (first,) = (i for i, c in enumerate(cells) if source(c).startswith("## Solutions"))
    (quiz,) = (i for i, c in enumerate(cells) if source(c).startswith("## Quiz"))
    places = [i for i, c in enumerate(cells) if tagged(c) == "solution"]
    assert all(first < i < quiz for i in places), "apart from where they are asked for"
    assert all("hide-cell" in cells[i]["metadata"]["tags"] for i in places)


def test_a_third_or_more_is_not_written_but_predicted_repaired_or_explored():
    kinds = [one.kind for chapter in CHAPTERS.values() for one in of_chapter(chapter)]
    assert sum(kind != "Write" for kind in kinds) >= len(kinds) / 3


@pytest.mark.parametrize("one", EXERCISES)
def test_the_stub_is_what_the_solution_asks_for(one):
    (node,) = functions(one.solution)
    assert ast.get_docstring(node) and node.name == f"{one.name}_solved", "it replaces no answer"
    assert f"exercises.check({one.name}, {one.checks})" in one.check
    assert f"exercises.check({node.name}, {one.checks}, strict=True)" in one.solution
    head = one.solution.splitlines()[node.lineno - 1 : node.body[0].end_lineno]
    asked = [line.replace(node.name, one.name) for line in head]
    (stub,) = functions(one.stub)
    assert one.stub.splitlines()[: len(asked)] == asked, "name, arguments and docstring"
    if one.kind != "Repair":
        assert one.stub.splitlines() == [*asked, "    raise NotImplementedError  # your code"]
        found: dict = {}
        exec(one.stub, found)
        with pytest.raises(NotImplementedError):
            found[stub.name](*[None] * len(inspect.signature(found[stub.name]).parameters))


@pytest.mark.parametrize("one", EXERCISES)
def test_the_solution_is_right_and_a_mistake_is_not(one, solved, capsys):
    found = solved[one.chapter.number]
    cases = found[one.checks]
    capsys.readouterr()
    exercises.check(found[f"{one.name}_solved"], cases, strict=True)
    said = f"{one.name}: right ({len(cases)} checks)"
    assert capsys.readouterr().out == said.replace(one.name, f"{one.name}_solved", 1) + "\n"
    assert f"```text\n{said}\n```" in one.task, "the output that is expected"
    for answer in (
        *([MISTAKES[one.name]] if one.kind == "Write" else []),
        lambda *a: None,
        lambda *a: 0.0,
        lambda *a: 1.0,
        lambda *a: a[0],
        lambda *a: True,
        lambda *a: "CN",
        lambda *a: [],
    ):
        exercises.check(answer, cases)
        said = capsys.readouterr().out
        assert "wrong for" in said, (answer, said)
        assert "error for" not in said


@pytest.mark.parametrize("one", EXERCISES)
def test_the_self_check_stands_alone_and_knows_the_stub(one, capsys):
    found = namespace(one.chapter)  # no other exercise has run
    exec(compile(one.stub, "cell", "exec"), found)
    exec(one.check, found)
    said = capsys.readouterr().out
    if one.kind == "Repair":  # runs, and is wrong: the fault is one that a check must find
        assert f"{one.name}: wrong for" in said and "error for" not in said
    else:
        assert said == f"{one.name}: not answered yet\n"


# --- copies for students ----------------------------------------------------------------

MASTERS = [*(c.notebook for c in CHAPTERS.values()), *sorted(chapters.ROOT.glob("wrapups/*.ipynb"))]


def bound(code):
    """Names to which a cell gives a value of the notebook's, also from within its functions."""
    tables, names = [symtable.symtable(code, "cell", "exec")], set()
    for table in tables:
        tables += table.get_children()
        top = table.get_type() == "module"
        for one in table.get_symbols():
            if (one.is_assigned() or one.is_imported()) and (top or one.is_declared_global()):
                names.add(one.get_name())
    return names | ({"*"} if re.search(r"import \*", code) else set())


BACK_DOORS = re.compile(  # globals()[name] may be read
    r"(?<![.\w])(?:exec|eval|setattr|get_ipython|__import__)\(|(?<![.\w])vars\(\)"
    r"|globals\(\)(?!\[\w+\](?!\s*=[^=]))"
)


def overwritten(cells):
    """Names of answers that running all cells would replace, and ways around this look."""
    code = [(tagged(c) == "exercise", source(c)) for c in cells if c["cell_type"] == "code"]
    answers = [name for mine, text in code if mine for name in bound(text)]
    others = {name for mine, text in code if not mine for name in bound(text)}
    doors = {door for _, text in code for door in BACK_DOORS.findall(text)}
    return {n for n in answers if answers.count(n) > 1 or n in others} | doors | ({"*"} & others)


@pytest.mark.parametrize("path", MASTERS, ids=lambda p: p.stem)
def test_run_all_of_a_copy_replaces_no_answer(path):
    cells = exercises.copy_of(path)["cells"]
    assert sum(tagged(cell) == "exercise" for cell in cells) >= 2
    assert not overwritten(cells)


def test_an_answer_that_would_be_replaced_is_found():
    def cell(text, *tags):
        return {"cell_type": "code", "source": text, "metadata": {"tags": list(tags)}}

    mine = cell("def f(x):\n    return x\n\n\nlimit = 3", "exercise")
    assert not overwritten([mine, cell("f(2) + limit", "self-check"), cell("f_solved = f")])
    assert not overwritten(
        [mine, cell("def g(f):\n    limit = 2\n    return [f for f in [limit]]")]
    )
    for other in (
        *("def f(x): ...", "limit = 4", "limit += 1", "for f in []: ...", "import a as f"),
        *(
            "from a import f",
            "with open('x') as limit: ...",
            "del f",
            "(limit := 4)",
            "f, g = 1, 2",
        ),
        *("class f: ...", "def g():\n    global limit\n    limit = 2", "exec('f = 1')"),
        *("globals()['f'] = 1", "from a import *", "vars()['f'] = 1", "[limit := 0 for _ in []]"),
    ):
        assert overwritten([mine, cell(other)]), other
    assert overwritten([mine, cell("limit = 5", "exercise")])


@pytest.mark.parametrize("path", MASTERS, ids=lambda p: p.stem)
def test_a_copy_holds_no_solution_and_everything_else(path):
    master, copy = json.loads(path.read_text(encoding="utf-8")), exercises.copy_of(path)
    nbformat.validate(nbformat.from_dict(copy))
    wanted = [c for c in master["cells"] if tagged(c) != "solution" and c["cell_type"] == "code"]
    code = [c for c in copy["cells"] if c["cell_type"] == "code"]
    assert [(c["id"], source(c)) for c in code] == [(c["id"], source(c)) for c in wanted]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    text = "\n".join(map(source, copy["cells"]))
    assert "_solved" not in text and "**Solution" not in text
    told = [
        re.sub(r"\$.*?\$", "", source(c), flags=re.DOTALL) for c in copy["cells"] if c not in code
    ]
    assert not re.search(r"\{\w+\}[`\n]|:class:|`{3}\{", "\n".join(told)), "left of MyST"
    titles = [re.findall("^## .*", source(c), re.MULTILINE) for c in master["cells"]]
    assert all(title in text for found in titles for title in found)
    assert (
        text.count("<details>")
        == text.count("</details>")
        == sum(source(c).count(":class: dropdown") for c in master["cells"])
    )


@pytest.mark.parametrize("chapter", CHAPTERS.values(), ids=lambda c: c.number)
def test_right_answers_in_a_copy_stay_and_are_right_after_run_all(chapter, solved, capsys):
    """The copy with each solution in its stub's place, run from top to bottom.

    Of other cells only imports and functions are run: the rest needs the book, and gives no
    answer's name a value, as is tested above.
    """
    found, answers = solved[chapter.number], {}
    names = {one.name: one for one in of_chapter(chapter) if one.name}
    kinds, space = ast.Import | ast.ImportFrom | ast.FunctionDef, {}
    for cell in [
        c for c in exercises.copy_of(chapter.notebook)["cells"] if c["cell_type"] == "code"
    ]:
        text, tag = source(cell), tagged(cell)
        (asked,) = [node.name for node in functions(text)][:1] or [""]
        if tag == "exercise" and asked in names:
            answers[asked] = space[asked] = found[f"{asked}_solved"]
        elif tag == "self-check" and any(one.check == text for one in names.values()):
            capsys.readouterr()
            exec(text, space)
            assert re.search(r"_solved: right \(\d+ checks\)", capsys.readouterr().out), text
        elif "parameters" not in cell["metadata"].get("tags", ()):
            nodes = [n for n in ast.parse(text).body if isinstance(n, kinds)]
            exec(compile(ast.Module(nodes, []), chapter.name, "exec"), space)
    assert answers.keys() == names.keys()
    assert all(space[name] is answer for name, answer in answers.items())


def test_copies_are_written_once_and_never_over_an_answer(tmp_path, monkeypatch, capsys):
    for folder in ("notebooks", "wrapups"):
        (tmp_path / folder).symlink_to(chapters.ROOT / folder)
    monkeypatch.setattr(exercises, "ROOT", tmp_path)
    assert exercises.main(["copy"]) == 0
    said = capsys.readouterr().out
    assert said.count("written") == len(MASTERS) == len([*(tmp_path / "student").iterdir()])
    mine = tmp_path / "student" / "05_stage2_multitask.ipynb"
    text = mine.read_text("utf-8").replace("raise NotImplementedError", "return 1")
    mine.write_text(text, "utf-8")
    mine.with_name("06_ablation.ipynb").write_text("{ half")
    mine.with_name("07_captions_text.ipynb").unlink()
    assert exercises.main(["copy"]) == 0
    assert capsys.readouterr().out.count("written") == 1
    assert mine.read_text("utf-8") == text
    assert mine.with_name("06_ablation.ipynb").read_text() == "{ half"


def test_a_solution_is_shown_to_who_asks(capsys):
    exercises.solution("5.2")
    said = capsys.readouterr().out
    assert "def balanced_accuracy_solved" in said and "The diagonal over the sum" in said
    assert "Solution 5.3" not in said
    exercises.solution("5.4")
    assert "a prediction" in capsys.readouterr().out
    with pytest.raises(ValueError, match="chapter '99' is unknown"):
        exercises.solution("99.1")


def test_a_guess_is_set_beside_what_was_found(capsys):
    exercises.predict(None, 0.71, "balanced accuracy")
    assert "no guess yet" in capsys.readouterr().out
    exercises.predict(0.9, 0.71, "balanced accuracy")
    assert (
        capsys.readouterr().out == "balanced accuracy: you said 0.90, it is 0.71 (0.19 too high)\n"
    )
    exercises.predict(0.5, 0.71, "balanced accuracy")
    assert "it is 0.71 (0.21 too low)" in capsys.readouterr().out
    exercises.predict("MCI", "CN", "the class")
    assert capsys.readouterr().out == "the class: you said MCI, it is CN\n"
    exercises.predict(2, 2, "how many")
    assert capsys.readouterr().out == "how many: you said 2, right\n"


# --- the helper -------------------------------------------------------------------------


def half(x):
    return x / 2


def says(capsys, answer, cases, **options):
    exercises.check(answer, cases, **options)
    return capsys.readouterr().out


def test_check_says_right_wrong_and_which(capsys):
    assert says(capsys, half, {"two": ((2,), 1.0)}) == "half: right (1 checks)\n"
    cases = {"two": ((2,), 1.0), "three": ((3,), 1.0), "large": ((8,), lambda x: x > 5)}
    assert says(capsys, half, cases) == (
        'half: wrong for "three": expected 1, got 1.5\nhalf: wrong for "large": got 4\n'
    )
    with pytest.raises(AssertionError, match="three"):
        exercises.check(half, cases, strict=True)


def test_check_shows_an_exception_and_its_line(capsys):
    def broken(x):
        y = x - x
        return 1 / y

    said = says(capsys, broken, {"one": ((1,), 1.0), "two": ((2,), 1.0)})
    assert said == (
        'broken: error for "one": ZeroDivisionError: division by zero '
        f"(line {broken.__code__.co_firstlineno + 2}: return 1 / y)\n"
    )
    assert "takes 1 positional argument" in says(capsys, half, {"two": ((1, 2), 1.0)})
    assert "not callable" in says(capsys, 3, {"a number": ((), 1.0)})
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        exercises.check(broken, {"one": ((1,), 1.0)}, strict=True)


def test_not_answered_is_not_an_error_of_a_library(capsys):
    def stub(x):
        raise NotImplementedError

    def calls_one(x):
        return stub(x)

    cases = {"one": ((1,), 1)}
    assert says(capsys, stub, cases) == "stub: not answered yet\n"
    assert "NotImplementedError" in says(capsys, calls_one, cases)
    with pytest.raises(AssertionError, match="not answered"):
        exercises.check(stub, cases, strict=True)


def test_check_survives_what_it_cannot_compare(capsys):
    cases = {
        "array": ((np.zeros(3),), lambda x: x.undefined > 0),
        "shape": ((0,), np.zeros((2, 2))),
    }
    assert says(capsys, lambda x: x, cases).count("wrong for") == 2
    assert "is a `return` missing?" in says(capsys, lambda x: None, {"none": ((1,), 1)})


def test_an_answer_that_changes_its_input_does_not_spoil_the_next_case(capsys):
    def spoil(x):
        x += 1
        return x.sum()

    shared = np.zeros(3)
    cases = {"first": ((shared,), 3.0), "second": ((shared,), 3.0)}
    assert "right (2 checks)" in says(capsys, spoil, cases)
    assert not shared.any()


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        (0.69315, 0.693, True),
        (0.68, 0.693, False),
        (65.43, 65.426, True),
        (3, 3.0, True),
        (True, 1.0, False),
        (3.0, 3, True),
        (1000.4, 1000, False),
        (1, True, False),
        (np.bool_(True), True, True),
        (torch.tensor(True), True, True),
        (torch.tensor(0.5), 0.5, True),
        (np.float32(0.5), 0.5, True),
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (float("inf"), 1.0, False),
        ("MCI", "MCI", True),
        ("mci", "MCI", False),
        (None, 0.0, False),
        ("0.5", 0.5, False),
        ([1, 2], (1, 2), True),
        (np.array([1.0, 2.0]), [1, 2], True),
        ([1, 2, 3], [1, 2], False),
        (0.5, [0.5], False),
        (torch.tensor([[0.5, 0.25]]), [[0.5, 0.25]], True),
        (torch.tensor([0.5, 0.25]), [[0.5, 0.25]], False),
        (np.ones((2, 3)), np.ones((3, 2)), False),
        (np.ones((2, 3)), np.ones((2, 3)) + 1e-5, True),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True),
        (torch.tensor([True, False]), [True, False], True),
        (torch.tensor([1, 0]), [True, False], False),
        (np.array([1.0, 0.0]), np.array([True, False]), False),
        (pd.Series([1, 2]), [1, 2], True),
        ([1, 2], pd.Series([1, 2]), True),
        ([1, 2], pd.DataFrame({"a": [1, 2]}), False),
        (pd.DataFrame({"a": [1.0]}), pd.DataFrame({"a": [1.0001]}), True),
        (pd.DataFrame({"a": [1.0]}), pd.DataFrame({"b": [1.0]}), False),
        (pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame({"a": [1.0]}), False),
        ({"a": 1.0}, {"a": 1.0001}, True),
        ({"a": 1.0}, {"a": 1.0, "b": 2}, False),
        ({1, 2}, {2, 1}, True),
        ([(0, 2)], [(0, 2)], True),
    ],
)
def test_answers_are_compared_as_a_teacher_would(got, expected, same):
    assert exercises.agrees(got, expected) is same


# --- definitions that teach, against the core's and a library's -------------------------


def unit(n, seed):
    return F.normalize(torch.randn(n, 12, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_info_nce_by_hand(solved):
    a, b, tau = unit(7, 1), unit(7, 2), 0.1
    by_hand = solved["04"]["info_nce_by_hand"](a, b, 1 / tau)
    logits, target = a @ b.T / tau, torch.arange(7)
    library = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert torch.allclose(by_hand, library, atol=1e-6)
    assert torch.allclose(by_hand, losses.info_nce(a, b, 1 / tau), atol=1e-6)


def test_focal_by_hand(solved):
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, losses.IGNORE, 0, 1, 2, losses.IGNORE, 0])
    focal = solved["05"]["focal_by_hand"]
    for gamma in (0.0, 1.0, 2.0):
        assert torch.allclose(
            focal(logits, target, gamma), losses.focal_loss(logits, target, gamma)
        )
    library = F.cross_entropy(logits, target, ignore_index=losses.IGNORE)
    assert torch.allclose(focal(logits, target, 0.0), library)


def test_cohens_d():
    d = namespace(CHAPTERS["02"])["cohens_d"]
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, (4000, 2)), rng.normal(0, 2, (4000, 2))
    assert d(a, b) == pytest.approx(0.5, abs=0.06)


def test_quality_measures(solved):
    volume = np.zeros((4, 4, 4), dtype=np.float16)
    volume[:2] = 1
    agreement, share, roughness = solved["02"]["measures"](volume, volume)
    assert agreement == pytest.approx(1) and share == 0.5
    assert roughness == pytest.approx(1 / 3)  # one of three steps along the first axis


# --- solutions, against a library -------------------------------------------------------


def test_the_loss_floor_is_reached_by_perfect_encoders(solved):
    groups = [0, 0, 1, 2, 2, 2]
    perfect = F.one_hot(torch.tensor(groups)).float()
    reached = losses.info_nce(perfect, perfect, 100.0)
    assert float(reached) == pytest.approx(solved["04"]["loss_floor"](groups), abs=1e-5)


def test_solutions_equal_a_library(solved):
    from nibabel.affines import apply_affine
    from scipy import stats
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(1)
    affine = np.vstack([rng.normal(size=(3, 4)), [0, 0, 0, 1]])
    voxel = rng.integers(0, 50, 3)
    assert np.allclose(solved["02"]["to_mm"](affine, voxel), apply_affine(affine, voxel))
    x = rng.normal(size=50)
    spread = stats.median_abs_deviation(x, scale="normal")
    assert np.allclose(solved["02"]["robust_z"](x), (x - np.median(x)) / spread, rtol=1e-3)

    counts = rng.integers(1, 9, (3, 3))
    value = metrics.from_confusion(counts)["balanced_accuracy"]
    assert solved["05"]["balanced_accuracy"](counts) == pytest.approx(value)

    a, b = rng.random(40) < 0.7, rng.random(40) < 0.5
    n, k = int((a ^ b).sum()), int((a & ~b).sum())
    assert solved["06"]["mcnemar"](a, b) == pytest.approx(stats.binomtest(k, n).pvalue)

    grades = rng.random(20)
    value = solved["08"]["ndcg"](grades, grades, 5)
    assert value == pytest.approx(ndcg_score(grades[None], -np.arange(20.0)[None], k=5))
    a, b = rng.integers(0, 5, 20).tolist(), rng.integers(0, 5, 20).tolist()
    value = solved["10"]["rank_correlation"](a, b)
    assert value == pytest.approx(stats.spearmanr(a, b).statistic)


def test_rounding_a_block_equals_bitsandbytes(solved):
    from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

    weights = torch.randn(64, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    theirs = dequantize_4bit(packed, state).numpy()
    mine = solved["09"]["round_block"](weights.numpy(), get_4bit_type("nf4", device="cpu").numpy())
    assert np.allclose(mine, theirs, atol=1e-5)


def test_the_command_lists_every_exercise(capsys):
    exercises.main([])
    listed = capsys.readouterr().out
    assert all(f"Exercise {n}.1 (" in listed for n in range(1, 12))
