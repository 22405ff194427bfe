"""The book as a user gets it: run through papermill, killed on the way, finished, built.

`make notebooks` runs before this or beside it and leaves an uninterrupted smoke run; the run here
is killed five times, so comparing the two proves resuming and determinism at once.
"""

import json
import os
import re
import time
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from bookrun import NAME, RUNS
from test_site import STATEMENTS

from memoir_book import run
from memoir_book.chapters import CHAPTERS, ROOT
from memoir_core.files import read_json

pytestmark = pytest.mark.endtoend

RESULTS = [name for chapter in CHAPTERS for name in chapter.writes]
TIMES = {"seconds", "load_seconds", "tokens_per_second", "made", "peak_memory_gib"}


def test_every_chapter_left_what_it_promises_with_figures_and_no_error(finished):
    for chapter in CHAPTERS:
        for name in chapter.writes:
            assert (finished / name).stat().st_size > 0, name
        cells = json.loads((finished / "notebooks" / f"{chapter.name}.ipynb").read_text())["cells"]
        outputs = [o for cell in cells for o in cell.get("outputs", ())]
        assert not [o for o in outputs if o["output_type"] == "error"], chapter.name
        warned = [o["text"] for o in outputs if "Warning: " in "".join(o.get("text", ""))]
        assert not warned, (chapter.name, warned)
        assert any("image/png" in o.get("data", {}) for o in outputs), chapter.name


def without_times(value):
    """JSON content without measured seconds, memory and dates."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def content(path):
    """What two equal runs have in common: bytes, of a folder those of all files."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return {str(p.relative_to(path)): content(p) for p in files}
    if path.name == "history.csv":
        return pd.read_csv(path).drop(columns="seconds").to_csv()
    if path.name == "settings.json":  # beside the settings: checksums, also of measured times
        return read_json(path)["settings"]
    if path.suffix == ".json":
        return without_times(read_json(path))
    if path.name == "report.html":
        return re.sub(r"<!-- provenance -->.*<!-- end of", "", path.read_text(), flags=re.DOTALL)
    return path.read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(finished):
    """The run of `make notebooks`; `make test` has it going beside this one."""
    folder, beside = RUNS / "nbval" / NAME, os.environ.get("MEMOIR_BESIDE")
    last = folder / "results" / f"{CHAPTERS[-1].name}.json"
    deadline = time.time() + 600
    while beside and not last.exists():
        assert time.time() < deadline, "the notebooks did not end: nothing to compare with"
        time.sleep(1)
    if not folder.exists():
        pytest.skip("no uninterrupted run to compare with: run `make notebooks` first")
    return folder


@pytest.mark.fault(
    "`kill -9` of a whole run, in each chapter that caches, trains or answers",
    "The same command goes on with the chapter in which it stopped, a training after its last "
    "whole epoch; every result is the same as that of a run left alone.",
)
@pytest.mark.parametrize("name", [*RESULTS, "results"])
def test_a_killed_run_gives_the_same_results_as_an_uninterrupted_one(finished, uninterrupted, name):
    assert content(finished / name) == content(uninterrupted / name)


def test_a_second_start_has_nothing_to_do(finished, monkeypatch):
    monkeypatch.setenv("MEMOIR_RUNS", str(finished.parent))
    common = {"profile": "smoke", "run": NAME, "data_dir": "", "seed": 0, "device": "auto"}
    for chapter in CHAPTERS:
        assert run.out_of_date(chapter, common | {"data": ""}, {}) == "", chapter.name


def test_results_say_where_they_come_from(finished):
    for path in sorted((finished / "results").glob("*.json")):
        source = read_json(path)["provenance"]
        assert source["cohort"] == "synthetic" and source["profile"] == "smoke", path.name
        assert source["seed"] == 0 and source["device"], path.name


# --- the published site -----------------------------------------------------------------


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.images = 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[name] for name in ("href", "src") if values.get(name)]
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        self.images += tag == "img"


@pytest.fixture(scope="module")
def parsed(site):
    """Links, anchors and number of images of every page."""
    found = {}
    for page in site.rglob("*.html"):
        found[page.resolve()] = links = Links()
        links.feed(page.read_text(encoding="utf-8"))
    return found


def test_every_chapter_is_published_with_its_figures(site, parsed):
    for chapter in CHAPTERS:
        page = (site / "book" / "chapters" / f"{chapter.name}.html").resolve()
        assert parsed[page].images >= 1, chapter.name
        assert "Traceback (most recent call last)" not in page.read_text(encoding="utf-8")


def test_no_internal_link_is_broken(site, parsed):
    broken = []
    for page, found in parsed.items():
        if "_static" in page.parts:
            continue
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith(("#", "data:")):
                target, fragment = page, parts.fragment if link.startswith("#") else ""
            else:
                target, fragment = (page.parent / unquote(parts.path)).resolve(), parts.fragment
            if not target.exists():
                broken.append(f"{page.relative_to(site.resolve())}: {link}")
            elif fragment and target in parsed and unquote(fragment) not in parsed[target].anchors:
                broken.append(f"{page.relative_to(site.resolve())}: {link} (no such anchor)")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("section", STATEMENTS["counts"])
def test_every_published_statement_leads_to_chapter_and_code(site, section):
    """The page has a row for each, whose links (see above) lead to an anchor."""
    page = (site / "book" / "how_to_read.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    for entry in (s for s in STATEMENTS["statements"] if s["section"] == section):
        chapter = entry["chapter"].split("#")[0]
        wanted = [f"chapters/{chapter}.html#"]
        wanted += [
            f"code/{code.split('.')[0]}.html#code-{re.sub(r'[^a-z0-9]+', '-', code.lower())}"
            for code in entry["code"]
        ]
        start = entry["says"].split("'")[0][:40]
        row = next(row for row in rows if start in row)
        assert all(link in row for link in wanted), (entry, row)


def test_no_path_of_the_building_machine_is_published(site):
    for page in (site / "book").rglob("*.html"):
        assert str(ROOT) not in page.read_text(encoding="utf-8"), page.name
