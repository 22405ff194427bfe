"""The exercises: each can be solved, each can be failed, and each stub follows from its solution.

Self-checks use nothing but a chapter's imports and the functions that it defines, so that all of
this runs without the book having been run.
"""

import ast
import inspect
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from memoir_book import chapters, exercises
from memoir_core import config, losses, metrics

TAGS = ("exercise", "self-check", "solution")  # the cells of one exercise, in order
CHAPTERS = {chapter.number: chapter for chapter in chapters.CHAPTERS}

# A mistake that a student may well make, and that the self-check must catch.
MISTAKES = {
    "crossing": lambda subject, train: int((train.groupby(subject).nunique() > 0).sum()),
    "split_subjects": lambda subject, share, seed: pd.Series(
        np.random.default_rng(seed).random(len(subject)) < share
    ),  # draws visits
    "smd_of_shares": lambda p, q: (p - q) / (p * (1 - p)) ** 0.5 if p * (1 - p) else 0.0,
    "to_mm": lambda affine, voxel: affine.diagonal()[:3] * voxel + affine[:3, 3],
    "robust_z": lambda v: (v - v.mean()) / v.std(),
    "volume_change": lambda u: 1 + sum(np.gradient(u[i], axis=i) for i in range(3)),
    "masked_weights": lambda scores, present: scores.softmax(dim=1) * present,
    "fuse_mean": lambda z, present: (z * present[:, :, None]).mean(dim=1),
    "gate": lambda present, drop, draw: present & (draw >= drop),
    "loss_floor": lambda groups: float(np.log(len(groups) / len(set(groups)))),
    "paired_loss": lambda a, b, has_a, has_b, tau: losses.info_nce(a, b, 1 / tau),
    "no_pair_chance": lambda n, p: (1 - p) ** n,
    "balanced_accuracy": lambda m: np.trace(m) / np.sum(m),
    "constant_mae": lambda train, test: abs((test - train.mean()).mean()),
    "cross_entropy": lambda logits, y: F.cross_entropy(logits, y, ignore_index=losses.IGNORE),
    "mcnemar": lambda a, b: float(abs(a.mean() - b.mean())),
    "paired_interval": lambda a, b, draws: (a.mean() - b.mean(), a.mean() - b.mean()),
    "with_fallback": lambda truth, predicted, fallback: float(
        np.mean([(p or fallback) == t for p, t in zip(predicted, truth, strict=True)])
    ),
    "leaks": lambda write, record, changes: all(
        write(record | change) != write(record) for change in changes
    ),
    "perplexity_of": lambda p: 1 / p.mean(),
    "percentile_for_age": lambda value, age, others, ages: 100 * (others < value).mean(),
    "nearest": lambda query, vectors, k: np.argsort(-(vectors @ query))[:k],
    "ndcg": lambda grades, everything, k: (
        (grades[:k] / np.log2(np.arange(2, len(grades[:k]) + 2))).sum()
        / max((np.sort(grades)[::-1][:k] / np.log2(np.arange(2, len(grades[:k]) + 2))).sum(), 1e-9)
    ),
    "majority_of": lambda labels: max(sorted(set(labels)), key=labels.count),
    "round_block": lambda w, levels: levels[np.abs(w[:, None] - levels).argmin(axis=1)],
    "parse": lambda answer: next(
        (dx for dx in config.DX if dx.lower() in answer.lower()), "unparsed"
    ),
    "z_of_difference": lambda p1, n1, p2, n2: (p1 - p2) / (p1 * (1 - p1) / n1) ** 0.5,
    "share_outside": lambda ratio: 0.05,
    "rank_correlation": lambda a, b: float(np.corrcoef(a, b)[0, 1]),
    "accuracy_after_selection": lambda x, y, in_train, seen, k: 0.5,
    "same_scans": lambda volumes: [
        (i, j)
        for i in range(len(volumes))
        for j in range(i + 1, len(volumes))
        if abs(np.mean(volumes[i]) - np.mean(volumes[j])) < 0.1
    ],
    "optimism": lambda validation, test: test.max() - validation.max(),
}


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


def of_chapter(chapter):
    """A chapter's exercises: stub, self-check and solution of each."""
    cells = json.loads(chapter.notebook.read_text(encoding="utf-8"))["cells"]
    found = [(t, cell) for cell in cells for t in TAGS if t in cell["metadata"].get("tags", ())]
    assert [tag for tag, _ in found] == list(TAGS) * (len(found) // 3), chapter.name
    only = [cell for _, cell in found]
    return list(zip(only[0::3], only[1::3], only[2::3], strict=True))


@pytest.fixture(scope="module")
def solved():
    """Per chapter: its namespace with each solution and each self-check's cases."""

    class Solved(dict):
        def __missing__(self, number):  # so that a broken chapter fails alone
            return self.setdefault(number, solve(CHAPTERS[number]))

    return Solved()


def solve(chapter):
    found = namespace(chapter)
    for _, check, solution in of_chapter(chapter):
        (node,) = functions(source(solution))
        exec(compile(ast.Module([node], []), chapter.name, "exec"), found)
        exec(source(check), found)
    return found


EXERCISES = [
    pytest.param(c, f"{int(n)}_{k}", cells, id=f"{int(n)}.{k}")
    for n, c in CHAPTERS.items()
    for k, cells in enumerate(of_chapter(c), 1)
]


@pytest.mark.parametrize("chapter", chapters.CHAPTERS, ids=lambda c: c.name)
def test_two_or_three_exercises_each_with_its_task(chapter):
    notebook = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    found = of_chapter(chapter)
    assert 2 <= len(found) <= 3
    cells = notebook["cells"]
    for k, (stub, check, solution) in enumerate(found, 1):
        place = cells.index(stub)
        assert source(cells[place - 1]).startswith(f"**Exercise {int(chapter.number)}.{k}.** ")
        assert cells[place : place + 3] == [stub, check, solution], "nothing stands between them"
        assert "hide-cell" in solution["metadata"]["tags"]
    headings = [i for i, c in enumerate(cells) if re.match("## (Exercises|Quiz)", source(c))]
    places = [cells.index(cell) for three in found for cell in three]
    assert headings[0] < min(places) and max(places) < headings[1]


@pytest.mark.parametrize(("chapter", "number", "cells"), EXERCISES)
def test_the_stub_is_what_the_solution_asks_for(chapter, number, cells):
    stub, check, solution = map(source, cells)
    (node,) = functions(solution)
    assert ast.get_docstring(node)
    head = solution.splitlines()[node.lineno - 1 : node.body[0].end_lineno]
    assert stub.splitlines() == [*head, "    raise NotImplementedError  # your code"]
    assert f"exercises.check({node.name}, checks_{number})" in check
    assert f"exercises.check({node.name}, checks_{number}, strict=True)" in solution
    found: dict = {}
    exec(stub, found)
    with pytest.raises(NotImplementedError):
        found[node.name](*[None] * len(inspect.signature(found[node.name]).parameters))


@pytest.mark.parametrize(("chapter", "number", "cells"), EXERCISES)
def test_the_solution_is_right_and_a_mistake_is_not(chapter, number, cells, solved, capsys):
    (node,) = functions(source(cells[2]))
    found = solved[chapter.number]
    cases = found[f"checks_{number}"]
    capsys.readouterr()
    exercises.check(found[node.name], cases, strict=True)
    assert capsys.readouterr().out == f"{node.name}: right ({len(cases)} checks)\n"
    for answer in (
        MISTAKES[node.name],
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


@pytest.mark.parametrize(("chapter", "number", "cells"), EXERCISES)
def test_the_self_check_stands_alone_and_knows_an_unanswered_stub(chapter, number, cells, capsys):
    found = namespace(chapter)  # no other exercise has run
    exec(compile(source(cells[0]), "cell", "exec"), found)
    exec(source(cells[1]), found)
    (node,) = functions(source(cells[2]))
    assert capsys.readouterr().out == f"{node.name}: not answered yet\n"


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
    with pytest.raises(exercises.WrongAnswerError, match="three"):
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
    with pytest.raises(exercises.WrongAnswerError, match="ZeroDivisionError"):
        exercises.check(broken, {"one": ((1,), 1.0)}, strict=True)


def test_not_answered_is_not_an_error_of_a_library(capsys):
    def stub(x):
        raise NotImplementedError

    def calls_one(x):
        return stub(x)

    cases = {"one": ((1,), 1)}
    assert says(capsys, stub, cases) == "stub: not answered yet\n"
    assert "NotImplementedError" in says(capsys, calls_one, cases)
    with pytest.raises(exercises.WrongAnswerError, match="not answered"):
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
    by_hand = solved["04"]["info_nce_by_hand"](a, b, tau)
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
    from sklearn.metrics import balanced_accuracy_score, ndcg_score

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
    truth = rng.choice(config.DX, 30).tolist()
    said = [None if i % 3 == 0 else dx for i, dx in enumerate(rng.choice(config.DX, 30).tolist())]
    filled = [p or "MCI" for p in said]
    value = solved["06"]["with_fallback"](truth, said, "MCI")
    assert value == pytest.approx(balanced_accuracy_score(truth, filled))

    grades = rng.random(20)
    value = solved["08"]["ndcg"](grades, grades, 5)
    assert value == pytest.approx(ndcg_score(grades[None], -np.arange(20.0)[None], k=5))
    a, b = rng.integers(0, 5, 20).tolist(), rng.integers(0, 5, 20).tolist()
    value = solved["10"]["rank_correlation"](a, b)
    assert value == pytest.approx(stats.spearmanr(a, b).statistic)
    p = solved["04"]["no_pair_chance"](12, 0.3)
    assert p == pytest.approx(stats.binom.cdf(1, 12, 0.3))


def test_rounding_a_block_equals_bitsandbytes(solved):
    from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

    weights = torch.randn(64, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    theirs = dequantize_4bit(packed, state).numpy()
    mine = solved["09"]["round_block"](weights.numpy(), get_4bit_type("nf4", device="cpu").numpy())
    assert np.allclose(mine, theirs, atol=1e-5)


def test_the_command_lists_every_exercise(capsys):
    exercises.main()
    listed = capsys.readouterr().out
    assert all(f"Exercise {n}.1." in listed for n in range(1, 12))
