"""A project that one can reach: its address in one place, its version in one word, its forms."""

import ast
import importlib.util
import json
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from jupyter_book.config import get_final_config
from sphinx.errors import ExtensionError
from test_site import PAGES, extension

import memoir_core
from memoir_book.chapters import CHAPTERS, ROOT

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
ZENODO = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
GITHUB = "https://github.com/someone/book"
BINDER = "https://mybinder.org/v2/gh/someone/book/main?urlpath=lab/tree/"


# --- the address ------------------------------------------------------------------------


def configured(url, private=False):
    options = {"repository_url": url, "repository_branch": "main"}
    told = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    links = told["sphinx"]["config"]["memoir_links"]
    config = types.SimpleNamespace(html_theme_options=options, memoir_repository="")
    config.memoir_private, config.memoir_links = private, links
    extension.find_repository(None, config)
    return config


def test_links_follow_from_one_address(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    config = configured(GITHUB)
    assert config.memoir_repository == "someone/book"
    for what in ("repository", "issues", "edit_page"):
        assert config.html_theme_options[f"use_{what}_button"] is True
    assert {"binderhub_url", "colab_url"} < config.html_theme_options["launch_buttons"].keys()
    monkeypatch.setenv("GITHUB_REPOSITORY", "fork/book")  # of GitHub Actions
    assert configured("").html_theme_options["repository_url"] == "https://github.com/fork/book"
    assert configured(GITHUB).memoir_repository == "someone/book"


def test_without_an_address_or_on_private_pages_there_are_no_links(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    for config in (configured(""), configured(GITHUB, private=True)):
        assert config.memoir_repository == ""
        assert not [key for key in config.html_theme_options if key.startswith("use_")]


@pytest.mark.parametrize("url", ["someone/book", "https://gitlab.com/a/b", f"{GITHUB}/", "x"])
def test_another_address_is_refused(url):
    with pytest.raises(ExtensionError, match=r"is not https://github\.com/OWNER/NAME"):
        configured(url)


def test_the_address_in_the_settings_can_be_used(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    told, _ = get_final_config(
        user_yaml=ROOT / "_config.yml", cli_config={"latex_individualpages": None}
    )
    told = told["html_theme_options"]  # as Sphinx gets them
    configured(url := told["repository_url"])
    assert told["repository_branch"] == "main"
    assert CITATION.get("repository-code", url) == url


def measured(folder, gib="0.1"):
    """A source folder with the table of what chapters took; chapter 4 took `gib`."""
    row = "| [](chapters/{}.ipynb) | 12 min | 30 min | 9 min | {} GiB |\n"
    rows = [row.format(c.name, gib if c.number == "04" else "0.1") for c in CHAPTERS]
    (folder / "book" / "chapters").mkdir(parents=True)
    (folder / "book" / "chapters" / "times.md").write_text("".join(rows))
    return folder


def pressed(app, page, url):
    """What becomes of the address of one of the theme's buttons."""
    buttons = [{"label": "source-buttons", "buttons": [{"url": url, "text": "", "label": ""}]}]
    extension.add_buttons(app, page, "", {"header_buttons": buttons, "pathto": None}, None)
    return buttons[0]["buttons"][0]["url"]


@pytest.mark.parametrize("page", PAGES)
def test_an_edit_link_leads_to_where_a_page_is_written(page, tmp_path):
    app = types.SimpleNamespace(srcdir=measured(tmp_path))
    end = "ipynb" if page.startswith("book/chapters/") else "md"
    found = pressed(app, page, f"{GITHUB}/edit/main/{page}.{end}")
    assert (ROOT / found.removeprefix(f"{GITHUB}/edit/main/")).is_file()
    for other in (f"../../_sources/{page}.{end}", f"{GITHUB}/issues/new?title={page}.html"):
        assert pressed(app, page, other) == other


@pytest.mark.parametrize("name", ["someone/book", ""])
def test_lines_with_the_address_say_it_or_are_left_out(name):
    app = types.SimpleNamespace(config=types.SimpleNamespace(memoir_repository=name))
    for page in ("how_to_cite", "setup_and_hardware"):
        text = [before := (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")]
        extension.name_repository(app, f"book/{page}", text)
        assert "OWNER/NAME" in before and "OWNER/NAME" not in text[0]
        assert (GITHUB in text[0]) == bool(name)
        assert text[0].count("\n") == before.count("\n") - (not name)
    odd = ['{"a line": "\u2028"}']
    extension.name_repository(app, "a notebook", odd)
    assert odd == ['{"a line": "\u2028"}']


@pytest.mark.parametrize(("gib", "binder"), [("1.8", True), ("1.9", False)])
def test_binder_is_offered_where_its_memory_is_enough(tmp_path, gib, binder):
    app = types.SimpleNamespace(srcdir=measured(tmp_path, gib))
    at = f"{CHAPTERS[3].name}.ipynb"
    colab = "https://colab.research.google.com/github/someone/book/blob/main/"
    places = {"Binder": f"{BINDER}book/chapters/{at}", "Colab": f"{colab}book/chapters/{at}"}
    group = [{"url": url, "text": text, "type": "link"} for text, url in places.items()]
    buttons = [{"label": "launch-buttons", "buttons": group}]
    page = f"book/chapters/{CHAPTERS[3].name}"
    extension.add_buttons(app, page, "", {"header_buttons": buttons, "pathto": None}, None)
    found = {button["text"]: button["url"] for button in buttons[0]["buttons"]}
    wanted = {"Colab": f"{colab.replace('/main/', '/student/')}{at}"}
    assert found == wanted | ({"Binder": f"{BINDER}student/{at}"} if binder else {})


def test_students_copies_are_where_the_buttons_lead():
    """Binder's image makes them; for Colab, which opens files of GitHub, a branch holds them."""
    assert "-m memoir_book.exercises copy" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.search(r"git -C student push --force \S+ student$", guide, re.MULTILINE)


CONF = """
import sys
sys.path.insert(0, {ext!r})
extensions = ["myst_nb", "memoir_site"]
html_theme = "sphinx_book_theme"
html_theme_options = {options!r}
memoir_links = {links!r}
"""


def test_the_theme_draws_the_links(tmp_path):
    """A book of one page, built as the others are."""
    options = {"repository_url": GITHUB, "repository_branch": "main"}
    conf = CONF.format(
        ext=str(ROOT / "book" / "_ext"), options=options, links=configured("").memoir_links
    )
    (tmp_path / "conf.py").write_text(conf)
    (tmp_path / "index.md").write_text(
        "# Book\n\n```text\nurl https://github.com/OWNER/NAME\n```\n"
    )
    command = [sys.executable, "-m", "sphinx", "-q", str(tmp_path), str(tmp_path / "html")]
    subprocess.run(command, check=True)
    html = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(https://github\.com/someone/book[^"]*)"', html)
    assert {GITHUB, f"{GITHUB}/edit/main/index.md"} <= {*links} and f"url {GITHUB}" in html
    assert any(link.startswith(f"{GITHUB}/issues/new") for link in links)


# --- the version ------------------------------------------------------------------------


def test_all_files_name_one_version_and_day():
    version, day = CITATION["version"], CITATION["date-released"]
    assert memoir_core.__version__ == version == ZENODO["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (.*)$", changes, re.MULTILINE)[1] == f"{version}, {day}"
    page = (ROOT / "book" / "how_to_cite.md").read_text(encoding="utf-8")
    assert f"version = {{{version}}}" in page and f"version {version}." in page
    assert f"year    = {{{day[:4]}}}" in page and f"({day[:4]})" in page
    for said in (CITATION["title"], CITATION["authors"][0]["name"]):
        assert said in re.sub(r"\n> |[{}]", lambda m: " " if "\n" in m[0] else "", page)


def test_what_citation_tools_and_zenodo_ask_for_is_there():
    assert {"cff-version", "message", "title", "authors", "abstract", "license"} <= CITATION.keys()
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software"
    assert ZENODO["title"] == CITATION["title"] and ZENODO["keywords"] == CITATION["keywords"]
    assert ZENODO["creators"] == CITATION["authors"]


# --- forms and settings -----------------------------------------------------------------


def test_forms_of_issues_ask_for_nothing_about_people():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} == form.keys()
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(ids) == len({*ids}) and all(p["attributes"] for p in form["body"])
    assert "about a real person" in forms[0].read_text(encoding="utf-8")


def test_hooks_call_tools_of_the_lock():
    told = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in told["repos"] for hook in repo["hooks"]]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "nbstripout"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for hook in hooks:
        assert f"\n{Path(hook['entry'].split()[0]).name}==" in lock


def test_nbstripout_leaves_notebooks_as_they_are_and_takes_outputs_away(tmp_path):
    if importlib.util.find_spec("nbstripout") is None:
        pytest.skip("nbstripout is not installed: make setup")
    books = sorted(ROOT.glob("notebooks/*.ipynb"))
    for path in books:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    run = json.loads(books[-1].read_text(encoding="utf-8"))
    cell = next(cell for cell in run["cells"] if cell["cell_type"] == "code")
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["a person"]}]
    (tmp_path / books[-1].name).write_text(json.dumps(run), encoding="utf-8")
    copies = [str(tmp_path / path.name) for path in books]
    hook = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    options = re.search(r"bin/nbstripout (.*)", hook)[1].split()
    subprocess.run([sys.executable, "-m", "nbstripout", *options, *copies], check=True)
    for path in books:
        found = json.loads((tmp_path / path.name).read_text(encoding="utf-8"))
        assert found == json.loads(path.read_text(encoding="utf-8")), path.name


def test_docker_and_the_dev_container_install_by_make():
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "make setup" in docker and "pip install" not in docker
    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert told["postCreateCommand"] == "make setup"
    assert f" AS {told['build']['target']}\n" in docker
    assert (ROOT / ".devcontainer" / told["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    kept_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".venv", "runs", "cache"} <= {*kept_out}  # private runs enter no image


def test_an_older_python_is_told_in_one_sentence():
    guard = (ROOT / "memoir_book" / "__init__.py").read_text(encoding="utf-8")
    old = "import sys; sys.version_info, sys.version = (3, 9, 2), '3.9.2 (main)'\n"
    done = subprocess.run(
        [sys.executable, "-c", old + guard], capture_output=True, text=True, check=False
    )
    said = "The book needs Python 3.11, 3.12 or 3.13, not 3.9.2: make setup\n"
    assert done.returncode == 1 and done.stderr == said
    ast.parse(guard, feature_version=(3, 6))  # an old one can read it


@pytest.mark.parametrize(
    "command", ["run", "pages", "intake", "check", "doctor", "weights", "seeds", "exercises"]
)
def test_each_command_of_the_readme_says_more_with_help(command, monkeypatch, capsys):
    assert f"`{command}" in (ROOT / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"memoir_book.{command}", run_name="__main__", alter_sys=True)
    assert ended.value.code == 0 and "usage:" in capsys.readouterr().out
