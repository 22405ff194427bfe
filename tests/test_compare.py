"""Runs side by side: groups, means, intervals, partial runs, and the Snakefile."""

import json
import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from memoir_book import compare
from memoir_book.artefacts import write_json
from memoir_core import config


def make(runs, name, seed, value, chapters=("04", "05", "06")):
    """A run folder with the results files that a comparison reads."""
    source = {"cohort": "synthetic", "profile": "smoke", "seed": seed, "device": "cpu"}
    source["versions"] = {"torch": "2"}
    interval = {"value": value, "low": value - 0.1, "high": value + 0.1}
    results = {
        "04": {"history_last": {"val_recall@1": value / 10}},
        "05": {"metrics": {"dx3": {"balanced_accuracy": interval}}},
        "06": {"stage1_gain_dx3": {"t1": 0.01}},
    }
    for number in chapters:
        path = runs / name / "results" / f"{config.get_chapter(number).name}.json"
        write_json(path, {"provenance": source, "seconds": 3.0, "results": results[number]})
    row = {"subset": "t1", "task": "dx3", **interval, "n": 15}
    pd.DataFrame([row]).to_csv(runs / name / "ablation.csv", index=False)


def test_seeds_are_averaged_with_an_interval_over_runs(runs, capsys, tmp_path):
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        make(runs, f"base-seed{seed}", seed, value)
    make(runs, "other-seed0", 0, 0.4, chapters=("04", "05"))  # a partial run
    names = [f"base-seed{seed}" for seed in range(3)]
    target = tmp_path / "all.json"
    assert compare.main([*names, "other-seed0", "--out", "c", "--json", str(target)]) == 0
    table = pd.read_csv(runs / "compare" / "c" / "figures.csv")
    summary = compare.summarise(table).set_index(["figure", "group"])
    base = summary.loc[("dx3 balanced_accuracy", "base")]
    assert base["mean"] == pytest.approx(0.6) and base["seeds"] == 3
    half = 4.302652729911275 * 0.1 / np.sqrt(3)  # Student's t with two degrees of freedom
    assert (base["low"], base["high"]) == pytest.approx((0.6 - half, 0.6 + half))
    alone = summary.loc[("dx3 balanced_accuracy", "other")]
    assert (alone["low"], alone["interval"]) == (pytest.approx(0.3), "of the run")
    assert ("dx3 t1", "other") not in summary.index
    text = (runs / "compare" / "c" / "table.md").read_text()
    assert "profile smoke; seeds 0, 1, 2; cpu" in text and "3 seeds" in text
    assert (runs / "compare" / "c" / "figure.png").stat().st_size > 1000
    stored = json.loads(target.read_text())
    assert stored[0]["provenance"]["versions"] == {"torch": "2"} and len(stored) == 4
    assert "Written to" in capsys.readouterr().out


def test_a_run_that_is_not_there_is_named(runs, capsys):
    make(runs, "a-seed0", 0, 0.5)
    assert compare.main(["nothing"]) == 1
    assert "runs with results: a-seed0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "group"), [("q-seed12", "q"), ("quick", "quick"), ("a-b", "a-b"), ("seed3", "seed3")]
)
def test_the_seed_is_not_part_of_a_groups_name(name, group):
    assert compare.group_of(name) == group


def test_snakemake_plans_a_sweep(runs):
    """Every chapter of every run once, in order; needs requirements-sweep.txt."""
    program = shutil.which("snakemake", path=f"{config.ROOT}/.venv/sweep/bin:{os.environ['PATH']}")
    if program is None:
        pytest.skip("Snakemake is optional: see requirements-sweep.txt")
    command = [program, "-n", "--quiet", "rules", "--config", "seeds=[0,1]"]
    done = subprocess.run(
        [*command, 'sweep={"base":{},"half":{"drop_fa":0.5}}'],
        cwd=config.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for chapter in config.CHAPTERS:
        assert f"chapter_{chapter.number} " in done.stdout, done.stdout
    assert "compare" in done.stdout
