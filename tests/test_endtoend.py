"""The book as a user gets it: run through papermill, killed in every chapter, finished, built.

`make notebooks` runs before this and leaves an uninterrupted smoke run; the run here is
killed in each chapter, so comparing the two proves resuming and determinism at once.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from bookrun import NAME, RUNS

from memoir_book import run
from memoir_core import config

pytestmark = pytest.mark.endtoend

RESULTS = [name for chapter in config.CHAPTERS for name in chapter.writes]


def test_every_chapter_left_what_it_promises(finished):
    for chapter in config.CHAPTERS:
        assert (finished / "notebooks" / f"{chapter.name}.ipynb").exists()
        for name in chapter.writes:
            assert (finished / name).stat().st_size > 0, name


def content(path):
    """Bytes of a result file, without measured seconds and, in the report, its time."""
    if path.name == "history.csv":
        return pd.read_csv(path).drop(columns="seconds").to_csv()
    if path.name == "report.html":
        return re.sub(r"<!-- provenance -->.*<!-- end of", "", path.read_text(), flags=re.DOTALL)
    return path.read_bytes()


@pytest.mark.fault(
    "`kill -9` of a whole run, once in every chapter",
    "The same command goes on with the chapter in which it stopped, a training after its last "
    "whole epoch; every result is the same as that of a run left alone.",
)
@pytest.mark.parametrize("name", RESULTS)
def test_a_killed_run_gives_the_same_results_as_an_uninterrupted_one(finished, name):
    other = RUNS / "nbval" / NAME / name
    if not other.exists():
        pytest.skip("no uninterrupted run to compare with: run `make notebooks` first")
    assert content(finished / name) == content(other)


def test_a_second_start_has_nothing_to_do(finished):
    for chapter in config.CHAPTERS:
        parameters = {
            "profile": "smoke",
            "run": NAME,
            "data_dir": "",
            "seed": 0,
            "device": "auto",
        }
        assert run.is_current(chapter, parameters, finished), chapter.name


def test_results_say_where_they_come_from(finished):
    for path in sorted((finished / "results").glob("*.json")):
        source = json.loads(path.read_text())["provenance"]
        assert source["cohort"] == "synthetic" and source["profile"] == "smoke", path.name
        assert source["seed"] == 0 and source["device"], path.name


def test_executed_notebooks_have_figures_and_no_error(finished):
    for chapter in config.CHAPTERS:
        cells = json.loads((finished / "notebooks" / f"{chapter.name}.ipynb").read_text())["cells"]
        outputs = [o for cell in cells for o in cell.get("outputs", ())]
        assert not [o for o in outputs if o["output_type"] == "error"], chapter.name
        assert any("image/png" in o.get("data", {}) for o in outputs), chapter.name


def test_two_processes_train_one_model(finished):
    """`accelerate launch` with the script of the recipe, on the data of the finished run."""
    folder = finished.with_name("two-processes")
    folder.mkdir()
    for name in ("manifest.json", "cohort.parquet", "volumes.json"):
        shutil.copyfile(finished / name, folder / name)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    recipe = (config.ROOT / "book" / "recipes.md").read_text(encoding="utf-8")
    script = recipe.split("Save this as `train.py`:\n\n```python\n")[1].split("```")[0]
    (folder / "train.py").write_text(script.replace('told["epochs"]', "1"), encoding="utf-8")
    done = subprocess.run(
        [*launch, str(folder / "train.py"), folder.name],
        env=os.environ | {"MEMOIR_RUNS": str(folder.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    history = pd.read_csv(folder / "stage1" / "history.csv")
    assert len(history) == 1 and history["train_loss"].between(0.1, 10).all()
    assert (folder / "stage1" / "model.safetensors").exists()


# --- the published site -----------------------------------------------------------------


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.images = 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        for name in ("href", "src"):
            if values.get(name):
                self.links.append(values[name] or "")
        for name in ("id", "name"):
            if values.get(name):
                self.anchors.add(values[name] or "")
        self.images += tag == "img"


def parse(page):
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


def test_every_chapter_is_published_with_its_figures(site):
    for chapter in config.CHAPTERS:
        page = site / "book" / "chapters" / f"{chapter.name}.html"
        assert page.exists(), chapter.name
        assert parse(page).images >= 1, chapter.name
        assert "Traceback (most recent call last)" not in page.read_text(encoding="utf-8")


def test_no_internal_link_is_broken(site):
    pages = {page.resolve(): parse(page) for page in site.rglob("*.html")}
    broken = []
    for page, parsed in pages.items():
        if "_static" in page.parts:
            continue
        for link in parsed.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith(("#", "data:")):
                target, fragment = page, parts.fragment if link.startswith("#") else ""
            else:
                target, fragment = (page.parent / unquote(parts.path)).resolve(), parts.fragment
            if not target.exists():
                broken.append(f"{page.relative_to(site)}: {link}")
            elif fragment and target in pages and unquote(fragment) not in pages[target].anchors:
                broken.append(f"{page.relative_to(site)}: {link} (no such anchor)")
    assert not broken, "\n".join(broken)


def test_no_path_of_the_building_machine_is_published(site):
    pattern = re.compile(re.escape(str(config.ROOT)))
    for page in (site / "book").rglob("*.html"):
        assert not pattern.search(page.read_text(encoding="utf-8")), page.name
