"""What goes on from a whole run: that of `make notebooks`, which nothing interrupted."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import tinyllm
from bookrun import NAME, RUNS
from test_site import recipe

from memoir_book import weights
from memoir_book.chapters import ROOT
from memoir_core.config import PROFILES
from memoir_core.files import read_json, read_jsonl

pytestmark = pytest.mark.continues


@pytest.fixture
def whole():
    folder = RUNS / "nbval" / NAME
    assert (folder / "manifest.json").exists(), "no run to go on from: call `make notebooks`"
    return folder


def test_chapter_9_asks_models_of_the_published_classes(whole, tmp_path):
    """Tiny and random, but of the same classes, with the same templates, from a folder each."""
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs / NAME, copy_function=os.link)
    for key in tinyllm.PUBLISHED:
        tinyllm.save_published(tmp_path / "models" / key, key, soon=True)
    parameters = {"llms": ",".join(tinyllm.PUBLISHED), "questions": 6}
    parameters |= {"llm_folder": tmp_path / "models", "weights": "hub"}
    given = [f"--param={name}={value}" for name, value in parameters.items()]
    command = [sys.executable, "-m", "memoir_book.run", "--run", NAME, "--only", "9", *given]
    env = os.environ | {"MEMOIR_RUNS": str(runs), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = read_json(runs / NAME / "results" / "09_llm_comparison.json")
    assert list(stored["results"]["speed"]) == list(tinyllm.PUBLISHED)
    for key, spent in stored["results"]["speed"].items():
        assert spent["weights_held"] == "NF4" and spent["four_bit_share"] > 0.95, key
        assert stored["provenance"]["weights"][key]["origin"] == "path"
        assert len((runs / NAME / "answers" / key / "answers.jsonl").read_text().splitlines()) >= 12
    titles = {weights.BACKBONES[key].title for key in tinyllm.PUBLISHED}
    scores = pd.read_csv(runs / NAME / "llm_scores.csv")
    assert titles == set(scores["llm"]) - {"majority of cases"}
    assert scores.loc[scores["llm"].isin(titles), "published"].notna().any()


def test_a_prompt_shows_the_nearest_of_the_cases_that_were_kept(whole):
    shown, kept = PROFILES["smoke"].cases_shown, {}
    for row in read_jsonl(whole / "retrieval.jsonl"):
        kept[row["case"], row["protocol"]] = row["reranked"]
    plan = [row for row in read_jsonl(whole / "plan.jsonl") if row["kind"] == "diagnosis"]
    asked = [row for row in plan if (row["case"], row["protocol"]) in kept]
    assert {row["protocol"] for row in asked} == {"blind", "own_caption"}
    for row in asked:
        first = kept[row["case"], row["protocol"]][:shown]
        assert [case for case, _, _ in row["context"]] == first and len(first) == shown, row["id"]


def test_two_processes_train_one_model(whole, tmp_path):
    """The script of the recipes, by `accelerate launch`; chapter 4 then takes its training."""
    folder = tmp_path / "runs" / "two-processes"
    folder.mkdir(parents=True)
    for name in ("manifest.json", "cohort.parquet", "cohort_flow.json", "volumes.json"):
        shutil.copyfile(whole / name, folder / name)
    (tmp_path / "train.py").write_text(recipe("Several GPUs"))
    told = {"MEMOIR_RUNS": str(folder.parent), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "train.py"), folder.name],
        env=os.environ | told,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    history = pd.read_csv(folder / "stage1" / "history.csv")
    assert history["train_loss"].between(0.1, 10).all()
    # both went through the same steps, with gradients of the whole batch
    alone = read_json(whole / "stage1" / "settings.json")["settings"]
    assert read_json(folder / "stage1" / "settings.json")["settings"] == alone
    assert len(history) == alone["epochs"]
