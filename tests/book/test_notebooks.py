"""The shape every chapter keeps: parameters, anatomy, ideas, short cells, no stored results."""

import ast
import re
import tokenize
from io import StringIO
from itertools import pairwise

import nbformat
import pytest

from memoir_book.chapters import CHAPTERS, RANGES, parameters_of
from memoir_core.files import read_json

COMMON = """\
profile: str = ""  # sizes: smoke, quick or paper; empty: those of the run
run: str = ""  # folder under runs/; empty: the run made last
data_dir: str = ""  # an ADNI download; empty: the run's own, or synthetic
seed: int = None  # split, weights, sampling; None: the run's own, or 0
device: str = "auto"  # auto, cpu or cuda
"""
ANATOMY = [
    "Where this sits",
    "Published against this run",
    "Solutions",
    "Quiz",
    "Take-aways",
    "Further reading",
    "Next experiments",
]
# Most lines of logic in a cell. An idea is written out in full; a self-check is a list of cases,
# and a solution checks and shows itself, too.
LINES = {"idea": 35, "self-check": 20, "solution": 20, "parameters": 20}
TAGS = {"parameters", "idea", "exercise", "self-check", "solution"}
FOLDS = {"hide-cell", "hide-input", "remove-cell", "remove-input"}  # on the page, not in JupyterLab
TAGS |= {"keep_output"} | FOLDS  # the first is told to nbstripout
SET_UP = re.compile(
    r"^(?:import|from) |^# Parameters$|^\w+ = (?:start_chapter|load_\w+)\(|plots\.pipeline\(", re.M
)

pytestmark = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)


def read(chapter):
    return nbformat.read(chapter.notebook, as_version=4)


def code_cells(chapter):
    return [cell for cell in read(chapter).cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", ()))


def start_of(cells):
    """Number of the cell that starts the chapter, after parameters and imports."""
    return next(
        n for n, cell in enumerate(cells) if cell.source.startswith("book = start_chapter(")
    )


def test_it_is_a_valid_notebook_with_clean_metadata(chapter):
    notebook = read(chapter)
    nbformat.validate(notebook)
    ids = [cell["id"] for cell in read_json(chapter.notebook)["cells"]]  # `read` would mend them
    assert len(set(ids)) == len(ids)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "caption", "mystnb"} and tags(cell) <= TAGS


def test_one_parameters_cell_of_commented_literals(chapter):
    cells = code_cells(chapter)
    assert [n for n, cell in enumerate(cells) if "parameters" in tags(cell)] == [0]
    assert (cells[0].source + "\n").startswith(COMMON)
    for line in cells[0].source.splitlines():
        assert re.match(r"\w+: .+ = .+  # \w", line), f"say what it is: {line}"
    for statement in ast.parse(cells[0].source).body:
        value = ast.literal_eval(statement.value)
        # The annotation is what `papermill --help-notebook` shows as the type
        kind = "int" if value is None else type(value).__name__
        assert ast.unparse(statement.annotation) == kind
    for name, (kind, _) in parameters_of(chapter).items():
        if kind in (int, float):
            assert name in RANGES, f"{name} has no range in memoir_book/chapters.py"


def test_it_starts_with_every_parameter_and_ends_the_chapter(chapter):
    cells = code_cells(chapter)
    start = ast.parse(cells[start_of(cells)].source).body[0].value
    assert ast.literal_eval(start.args[0]) == chapter.name
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in start.keywords}
    assert given == {name: name for name in parameters_of(chapter)}
    last = [ast.unparse(node) for node in ast.parse(cells[-1].source).body]
    assert last == ["end_chapter(book)", "seeds.check(book)"]


def test_parameters_are_read_from_the_book_where_they_are_resolved(chapter):
    """After `start_chapter`, the notebook's own variable may still be 0 or ''."""
    cells = code_cells(chapter)
    for cell in cells[start_of(cells) + 1 :]:
        names = {n.id for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Name)}
        loose = names & parameters_of(chapter).keys() - stored(cell.source)
        assert not loose, f'book.parameters["{min(loose, default="")}"]: {cell.source[:60]!r}'


def stored(code):
    """Names that a cell gives a value."""
    nodes = list(ast.walk(ast.parse(code)))
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    return names | {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def test_imports_come_before_the_start_and_nothing_shadows_them(chapter):
    imported, cells = set(), code_cells(chapter)
    for number, cell in enumerate(cells):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert 0 < number < start_of(cells), f"import in {cell.source[:60]!r}"
                imported |= {(a.asname or a.name).split(".")[0] for a in node.names}
        shadowed = stored(cell.source) & imported
        assert not shadowed, f"{shadowed} is imported: {cell.source[:60]!r}"


def test_it_has_the_anatomy_of_a_chapter(chapter):
    text = "\n".join(c.source for c in read(chapter).cells if c.cell_type == "markdown")
    text = re.sub(r"^(`{3,}).*?^\1`*$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#+) (.+)$", text, re.MULTILINE)]
    levels = [level for level, _ in found]
    assert levels.count(1) == 1 and levels[0] == 1
    second = [title for level, title in found if level == 2]
    assert [title for title in second if title in ANATOMY] == ANATOMY
    assert all(b - a <= 1 for a, b in pairwise(levels)), "a level is skipped"


def test_it_opens_in_one_box(chapter):
    """Aims, what has to have run, and time: short, so that the first idea comes soon.

    Plain Markdown, which JupyterLab shows as it is meant. On the page the time is that of the run.
    """
    opening, box = (cell.source for cell in read(chapter).cells[:2])
    title, lead = opening.split("\n\n")
    assert title.startswith("# ") and len(lead.split()) < 70
    quoted = re.match(r"(?:>.*\n?)+", box)[0].rstrip("\n").removeprefix("> **You will learn**\n>\n")
    aims, others = quoted.split("\n>\n> **Before:** ")
    assert 3 <= len(aims.splitlines()) <= 4
    assert all(line.startswith("> - ") for line in aims.splitlines())
    assert others.endswith("\n> **Time:** printed by the last cell.")
    assert len(quoted.split()) < 90


def test_set_up_saving_and_bands_are_folded_on_the_page(chapter):
    cells = read(chapter).cells
    code = [n for n, cell in enumerate(cells) if cell.cell_type == "code"]
    start = code[start_of(code_cells(chapter))]
    folded = {n for n in code if "hide-cell" in tags(cells[n])}
    # The page shows the parameters once: papermill's own cell of them, which joins the fold
    assert tags(cells[2]) == {"parameters", "remove-cell"}
    set_up = [n for n in code if 2 < n <= start]
    assert set_up == [*range(3, start + 1)] and {*set_up} <= folded
    for n in code:
        here = tags(cells[n])
        if "plots.pipeline" in cells[n].source:
            assert here == {"remove-input"}
        if re.search(r"\b(?:save_results|end_chapter)\(", cells[n].source):
            assert here & {"hide-cell", "hide-input"}, cells[n].source[:60]
        if here & {"hide-cell", "hide-input"} and "solution" not in here and n + 1 not in folded:
            told = cells[n].metadata.mystnb  # one line says what is folded
            assert told.code_prompt_hide.startswith("Hide the ")
            assert "solution" not in told.code_prompt_show.lower()


def test_what_the_page_shows_first_is_its_subject(chapter):
    shown = [cell for cell in code_cells(chapter) if not tags(cell) & FOLDS]
    for wrong in ("# Parameters", "import math", "x = load_cohort(y)", "plots.pipeline('01')"):
        assert SET_UP.search(f"# first\n{wrong}\n")
    assert not SET_UP.search(shown[0].source), shown[0].source[:60]
    (figure,) = (cell for cell in shown if "caption" in cell.metadata)
    assert re.search(r"\bplots?\.|plt\.|_plot\(", figure.source), "it draws none"
    assert figure.metadata.caption.endswith(".") and len(figure.metadata.caption.split()) <= 25


def test_its_idea_is_written_out(chapter):
    ideas = [cell for cell in code_cells(chapter) if "idea" in tags(cell)]
    assert ideas or chapter.number > "09"


def test_cells_are_short(chapter):
    for cell in code_cells(chapter):
        tokens = tokenize.generate_tokens(StringIO(cell.source + "\n").readline)
        skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
        lines = {token.start[0] for token in tokens if token.type not in skipped}
        limit = max((LINES[tag] for tag in tags(cell) & LINES.keys()), default=15)
        assert len(lines) <= limit, f"{len(lines)} lines: {cell.source[:60]!r}"
        assert max(map(len, cell.source.splitlines()), default=0) <= 88, cell.source[:60]


def test_only_checked_cells_store_output(chapter):
    for cell in code_cells(chapter):
        if "NBVAL_CHECK_OUTPUT" in cell.source:
            assert cell.outputs, "a checked cell needs what to check"
            assert "keep_output" in tags(cell), "nbstripout would take its output away"
            assert cell.execution_count, "nbval refuses an output without a count"
        else:
            assert not cell.outputs and cell.execution_count is None, cell.source[:60]
