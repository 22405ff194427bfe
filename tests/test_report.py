"""Published figures, the report, and the leakage experiments."""

import numpy as np
import pandas as pd
import pytest

from memoir_core import artefacts, leakage, published, report


def test_a_published_figure_is_found_or_named():
    assert published.figure("results_all_modalities/dx3/balanced_accuracy") == 0.707
    with pytest.raises(KeyError, match="dx9"):
        published.figure("results_all_modalities/dx9")


def test_published_totals_agree_with_each_other():
    cohort = published.load()["cohort"]
    for part in ("train", "test"):
        assert sum(c[part] for c in cohort["classes"].values()) == cohort[part]
    assert cohort["train"] + cohort["test"] == cohort["subjects"]
    matrix = np.array(published.figure("dx3_confusion_matrix/rows_true_columns_predicted"))
    assert matrix.sum(axis=1).tolist() == [c["test"] for c in cohort["classes"].values()]


def test_a_comparison_says_what_is_missing():
    rows = [
        {"figure": "a", "published": 0.7, "this run": 0.65, "low": 0.6, "high": 0.7},
        {"figure": "b", "published": None, "this run": None},
    ]
    table = published.compare(rows, "synthetic cohort")
    assert table.loc["a", "this run (95 % interval)"] == "0.650 (0.600 to 0.700)"
    assert table.loc["b"].tolist() == ["none", "not measured"]
    assert "synthetic cohort" in table.columns.name


def test_verdicts_and_pattern():
    table = pd.DataFrame(
        {
            "chapter": "06",
            "figure": ["dx3 a", "dx3 b", "dx3 c"],
            "published": [0.7, 0.6, 0.4],
            "value": [0.8, 0.6, 0.3],
            "low": [0.75, 0.5, 0.2],
            "high": [0.85, 0.7, 0.35],
            "n": 100,
        }
    )
    lies = report.verdicts(table).set_index("figure")["published value lies"]
    assert lies.to_dict() == {"dx3 a": "below", "dx3 b": "inside", "dx3 c": "above"}
    assert report.pattern(table, "dx3") == pytest.approx(1.0)


def test_a_report_without_results_says_what_to_run(runs):
    run = artefacts.start_chapter("01", profile="smoke", run="r", device="cpu")
    with pytest.raises(artefacts.MissingArtefactError, match="--only 01"):
        report.collect(run)


def test_a_target_among_the_inputs_is_seen(records):
    table, _ = records
    honest = leakage.score_regression(table, leakage.RECORD, 50, 0)
    leaky = leakage.score_regression(table, [*leakage.RECORD, "DX"], 50, 0)
    assert leaky["value"] == 1.0 and honest["value"] < 0.8
    row = leakage.experiment("x", honest, leaky, 10)
    assert row["honest_low"] <= row["honest"] <= row["honest_high"]


def test_splitting_visits_flatters():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(120), 4)
    visits = pd.DataFrame({"PTID": subjects, "DX": np.array(["CN", "MCI"])[subjects * 7 % 2]})
    for name in (*leakage.RECORD, "AGE", "PTEDUCAT"):  # a subject's own values, no signal
        visits[name] = rng.normal(size=120)[subjects]
    honest = leakage.visit_split(visits, by_subject=True, seed=0, repeats=2)
    leaky = leakage.visit_split(visits, by_subject=False, seed=0, repeats=2)
    assert leaky.mean() > 0.9 and abs(honest.mean() - 0.5) < 0.2


def test_the_checkpoint_that_the_test_part_chose_is_never_worse():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "composite": [0.3, 0.5, 0.4],
            "test_dx3_balanced_accuracy": [0.5, 0.6, 0.7],
        }
    )
    choice = leakage.checkpoint_choice(history)
    assert choice["epoch"].tolist() == [2, 3]
    assert choice["test_dx3_balanced_accuracy"].tolist() == [0.6, 0.7]
