"""Expected bands: made from several runs, compared at the end of each chapter."""

import json

import pytest

from memoir_book import bands
from memoir_book import artefacts
from memoir_core import config


def finish(seed, dx3, chapter="05", profile="smoke", name=""):
    """Leave the results of one chapter of a run."""
    run = artefacts.start_chapter(
        "01", profile=profile, run=name or f"{profile}{seed}", seed=seed, device="cpu"
    )
    found = {"metrics": {"dx3": {"balanced_accuracy": {"value": dx3}}}}
    path = run.path("results", f"{bands.get_chapter(chapter).name}.json")
    artefacts.write_json(
        path, {"provenance": artefacts.provenance(run), "results": found, "seconds": 1.0}
    )
    return run.name


@pytest.fixture
def file(tmp_path, monkeypatch, runs):
    monkeypatch.setattr(bands, "FILE", tmp_path / "bands.json")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv(bands.STRICT, raising=False)
    return tmp_path / "bands.json"


def opened(chapter="05_stage2_multitask", seed=9):
    """A run that stands at the end of a chapter, without the inputs of one."""
    run = artefacts.start_chapter("01", profile="smoke", run="new", seed=seed, device="cpu")
    return artefacts.Run(**{**run.__dict__, "chapter": chapter})


def test_a_path_picks_one_number():
    results = {"scores": [{"llm": "a", "p": "x", "value": 1}, {"llm": "a", "p": "y", "value": 2}]}
    assert bands.pick(results, "scores/llm=a/p=y/value") == 2.0
    assert bands.pick(results, "scores/llm=b/value") is None
    assert bands.pick(results, "nothing/there") is None


def test_a_band_is_wider_than_its_runs_but_a_count_is_exact():
    low, high = bands.band([4.0, 6.0, 5.0], 500)
    assert low == pytest.approx(4 - 2 - 0.12) and high == pytest.approx(6 + 2 + 0.12)
    assert bands.band([72.0, 72.0], 72) == (72.0, 72.0)
    low, high = bands.band([1 / 3, 1 / 3], 75)  # two of 15 test subjects either way
    assert low == pytest.approx(1 / 3 - 2 / 15) and high == pytest.approx(1 / 3 + 2 / 15)


def test_bands_are_made_from_runs_and_say_in_or_out(file, capsys):
    names = [finish(0, 0.5), finish(1, 0.6)]
    assert bands.main([*names, "--out", str(file)]) == 0
    stored = json.loads(file.read_text())["smoke"]["cpu"]
    assert stored["seeds"] == [0, 1] and stored["runs"][0]["versions"]["torch"]
    assert list(stored["chapters"]) == ["05"]  # partial runs will do
    run = opened()
    for value, word in ((0.55, "in "), (0.99, "OUT")):
        finish(9, value, name="new")
        artefacts.end_chapter(run)
        assert f"{word}  dx3 balanced accuracy" in capsys.readouterr().out


def test_a_smoke_run_out_of_its_band_fails_where_it_must(file, monkeypatch, capsys):
    bands.main([finish(0, 0.5), finish(1, 0.6), "--out", str(file)])
    finish(9, 0.99, name="new")
    bands.check(opened())  # a reader is only told
    monkeypatch.setenv(bands.STRICT, "strict")
    with pytest.raises(bands.OutOfBandError, match="dx3 balanced accuracy"):
        bands.check(opened())


def test_no_band_is_said_not_hidden(file, capsys):
    finish(9, 0.5, name="new")
    bands.check(opened())
    assert "none for profile smoke on cpu" in capsys.readouterr().out


def test_runs_that_do_not_belong_together_are_refused(file, capsys):
    for names, message in (
        ([finish(0, 0.5)], "at least two"),
        ([finish(0, 0.5), finish(0, 0.5, name="again")], "a seed comes twice"),
        ([finish(0, 0.5), finish(1, 0.5, profile="quick")], "several profiles"),
        ([finish(0, 0.5), "absent"], "has no results"),
    ):
        with pytest.raises(SystemExit):
            bands.main(names)
        assert message in capsys.readouterr().err


def test_every_headline_belongs_to_a_chapter():
    assert list(bands.HEADLINES) == [chapter.number for chapter in config.CHAPTERS]
