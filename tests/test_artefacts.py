import json
from typing import Any

import numpy as np
import pytest

from memoir_book import artefacts
from memoir_core import config


def start(chapter="04_stage1_contrastive", **changes):
    settings: dict[str, Any] = {
        "profile": "smoke",
        "run": "r",
        "seed": 0,
        "device": "cpu",
    } | changes
    return artefacts.start_chapter(chapter, **settings)


def make_inputs(runs, chapter):
    for name in config.get_chapter(chapter).reads:
        (runs / "r" / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / "r" / name).write_text("x")


def test_a_chapter_without_its_inputs_names_the_chapter_and_the_command(runs):
    with pytest.raises(artefacts.MissingArtefactError) as caught:
        start()
    assert "chapter 01 (Cohort)" in str(caught.value)
    assert "python -m memoir_book.run --profile smoke --seed 0 --run r --to 01" in str(caught.value)


def test_a_chapter_with_its_inputs_opens(runs, capsys):
    make_inputs(runs, "04")
    run = start()
    assert run.dir == runs / "r"
    assert run.label == "synthetic cohort, profile smoke, seed 0, cpu"
    assert run.label in capsys.readouterr().out


def test_one_run_folder_keeps_one_profile_and_seed(runs):
    start("01_cohort")
    with pytest.raises(artefacts.RunMismatchError, match="begun with seed=0; now given seed=3"):
        start("01_cohort", seed=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": "tiny"}, "profile='tiny' is unknown; choose one of smoke, quick, paper"),
        ({"seed": -1}, "seed=-1 must be a whole number"),
        ({"seed": True}, "seed=True must be a whole number"),
        ({"run": "a/b"}, "run='a/b' must be a plain folder name"),
        ({"device": "tpu"}, "device='tpu' is unknown"),
    ],
)
def test_bad_parameters_are_named(runs, changes, message):
    with pytest.raises(ValueError, match=message):
        start("01_cohort", **changes)


def test_a_missing_data_folder_is_named(runs):
    with pytest.raises(FileNotFoundError, match="data_dir='nowhere' is not a folder"):
        start("01_cohort", data_dir="nowhere")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    artefacts.write_json(path, {"n": 1})
    with pytest.raises(RuntimeError), artefacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("power cut")
    assert json.loads(path.read_text()) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_jsonl_round_trip_with_numpy_values(tmp_path):
    rows = [{"case": np.int64(3), "score": np.float32(0.5), "ids": np.arange(2)}]
    artefacts.write_jsonl(tmp_path / "a.jsonl", rows)
    assert artefacts.read_jsonl(tmp_path / "a.jsonl") == [{"case": 3, "score": 0.5, "ids": [0, 1]}]


def test_a_broken_jsonl_line_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"case": 1}\n{"case": \n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 is not valid JSON"):
        artefacts.read_jsonl(path)


def test_results_carry_their_provenance(runs):
    run = start("01_cohort")
    artefacts.save_results(run, {"subjects": np.int64(72)})
    stored = artefacts.read_json(run.path("results", "01_cohort.json"))
    assert stored["results"] == {"subjects": 72}
    assert stored["provenance"]["label"] == run.label
    assert artefacts.load_results(run, "01") == {"subjects": 72}


def test_every_input_of_a_chapter_is_written_by_an_earlier_one():
    written: set[str] = set()
    for chapter in config.CHAPTERS:
        assert set(chapter.reads) <= written, chapter.name
        written |= set(chapter.writes)
