"""What the pages are made of: generated tables, citations, terms, launch links, licences."""

import ast
import importlib.util
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from memoir_book import pages, plots
from memoir_book import artefacts
from memoir_core import config

ROOT = config.ROOT
BOOK = ROOT / "book"


def load_extension():
    spec = importlib.util.spec_from_file_location("memoir_site", BOOK / "_ext" / "memoir_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = load_extension()


def prose():
    """Markdown of every page and chapter: name -> text."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in BOOK.glob("*.md")}
    for chapter in config.CHAPTERS:
        cells = nbformat.read(chapter.notebook, as_version=4).cells
        texts[chapter.name] = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    return texts


# --- tables from a run ------------------------------------------------------------------


def test_the_headline_is_the_runs_and_says_so(tmp_path):
    found = {"dx3": {"balanced_accuracy": {"value": 0.612, "low": 0.5, "high": 0.7}}}
    stored = {"provenance": {"label": "a label"}, "results": {"metrics": found}}
    artefacts.write_json(tmp_path / "results" / "05_stage2_multitask.json", stored)
    text = pages.headline(tmp_path)
    assert "0.612 (0.500 to 0.700)" in text and "0.707" in text and "a label" in text
    assert text.count("|\n") == 3, "what the run has not measured has no row"


def test_a_run_without_chapter_10_still_builds(tmp_path):
    written = pages.write_pages(tmp_path / "run", tmp_path / "pages")
    assert "has not reached chapter 10" in written[0].read_text()
    assert written[1].read_text().count("has not run") == len(config.CHAPTERS)


def test_times_are_those_of_the_result_files(tmp_path):
    result = {"provenance": {"label": "a label"}, "seconds": 75.2, "peak_memory_gib": 1.26}
    artefacts.write_json(tmp_path / "results" / "03_encoders.json", result)
    text = pages.times(tmp_path)
    line = next(row for row in text.splitlines() if "03_encoders" in row)
    assert "75 s" in line and "1.3 GiB" in line and re.search(r"\d+ min", line)


# --- citations and terms ----------------------------------------------------------------


def test_every_citation_has_an_entry_and_every_entry_is_cited():
    entries = re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.MULTILINE)
    cited = set()
    for text in prose().values():
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text):
            cited |= {key.strip() for key in keys.split(",")}
    assert len(entries) == len(set(entries)), "a key is given twice"
    assert cited == set(entries)


def test_every_entry_can_be_found():
    text = (BOOK / "references.bib").read_text()
    for entry in re.split(r"^@", text, flags=re.MULTILINE)[1:]:
        assert re.search(r"\b(doi|eprint|url)\s*=", entry), entry[:60]
        assert re.search(r"\bauthor\s*=", entry) and re.search(r"\byear\s*=", entry), entry[:60]


@pytest.mark.parametrize("chapter", config.CHAPTERS, ids=lambda c: c.name)
def test_further_reading_cites(chapter):
    text = prose()[chapter.name]
    reading = text.split("## Further reading")[1].split("## ")[0]
    assert "{cite}" in reading and "arxiv.org" not in reading and "doi.org" not in reading


def test_every_linked_term_is_in_the_glossary():
    texts = prose()
    glossary = re.findall(r"^(\S.*)$", texts["glossary.md"].split("{glossary}")[1], re.MULTILINE)
    terms = {term.lower() for term in glossary}
    for name, text in texts.items():
        for shown in re.findall(r"\{term\}`([^`]+)`", text):
            target = re.search(r"<([^>]+)>$", shown)
            assert (target[1] if target else shown).lower() in terms, f"{name}: {shown}"


# --- launch links -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://github.com/someone/memoir-book.git", "someone/memoir-book"),
        ("git@github.com:someone/memoir.book", "someone/memoir.book"),
        ("https://example.org/someone/memoir-book.git", None),
        ("/srv/git/memoir", None),
        ("", None),
    ],
)
def test_the_address_is_read_from_a_github_remote_only(monkeypatch, remote, expected):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.delenv("GITHUB_REF_NAME", raising=False)
    monkeypatch.setattr(site, "_git", lambda *a: remote if a[0] == "remote" else "main")
    found = site.find_repository()
    assert (found[0] if found else None) == expected


def test_actions_say_the_address(monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/book")
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    links = site.launch_links("04_stage1_contrastive", site.find_repository())
    assert links["Binder"].endswith(
        "/someone/book/main?urlpath=lab/tree/notebooks/04_stage1_contrastive.ipynb"
    )
    assert links["Colab"].endswith("/someone/book/blob/colab/notebooks/04_stage1_contrastive.ipynb")


def test_colab_copies_keep_the_parameters_cell_and_change_nothing_else(tmp_path):
    written = site.write_colab_copies(tmp_path, ("someone/book", "main"))
    assert [path.name for path in written] == [c.notebook.name for c in config.CHAPTERS]
    for path, chapter in zip(written, config.CHAPTERS, strict=True):
        copy = nbformat.read(path, as_version=4)
        nbformat.validate(copy)
        source = nbformat.read(chapter.notebook, as_version=4)
        assert copy.cells[2:] == source.cells
        setup = copy.cells[1].source
        assert "someone/book" in setup
        assert (f"--to {int(chapter.number) - 1}" in setup) == (chapter.number != "01")
        plain = re.sub(r"^(\s*)[!%].*$", r"\1pass", setup, flags=re.MULTILINE)
        ast.parse(plain)
        exec(plain, {})  # elsewhere than on Colab it does nothing


def test_colab_copies_can_be_made_from_the_command_line(tmp_path):
    command = [sys.executable, str(BOOK / "_ext" / "memoir_site.py"), str(tmp_path)]
    env = {"PATH": "", "GITHUB_REPOSITORY": "someone/book", "GITHUB_REF_NAME": "main"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(config.CHAPTERS)


def test_binder_installs_what_the_book_pins():
    assert "-r ../requirements.txt" in (ROOT / "binder" / "requirements.txt").read_text()
    assert (ROOT / "binder" / "runtime.txt").read_text().strip() == "python-3.11"


# --- figures and their words ------------------------------------------------------------


def test_alt_texts_are_found_by_the_hash_of_the_picture():
    import base64
    import hashlib

    png = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + (700).to_bytes(4, "big") + b"\0" * 20
    data = {"image/png": base64.b64encode(png).decode()}
    output = {"data": data, "metadata": {"image/png": {"alt": "what it shows"}}}
    found = site.read_figures({"cells": [{"outputs": [output]}]})
    assert found == {hashlib.sha256(png).hexdigest(): ("what it shows", 700)}


def test_a_figure_without_words_is_described_by_its_titles():
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    ax.set(title="T1 alone", xlabel="epoch", ylabel="loss")
    assert plots.words_of(figure) == "Figure: T1 alone; loss against epoch"
    plots.describe(figure, "A falling curve.")
    assert plots.words_of(figure) == "A falling curve."


def test_a_notebook_stores_the_words_beside_the_picture():
    from nbclient import NotebookClient

    code = "from memoir_book import plots\nplots.use_style()"
    draw = "import matplotlib.pyplot as plt\nplt.subplots()[1].set_title('a title')"
    cells = [nbformat.v4.new_code_cell(c) for c in (code, draw, 'plots.pipeline("04");')]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [o for c in notebook.cells for o in c.outputs if "image/png" in o.get("data", {})]
    alts = [output.metadata["image/png"]["alt"] for output in outputs]
    assert alts[0] == "Figure: a title" and "04 highlighted" in alts[1]


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
    assert "3.11" in text
