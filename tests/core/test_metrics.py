"""Metrics, intervals and baselines."""

import numpy as np
import pandas as pd
import pytest
import torch

from memoir_book import published
from memoir_core import inference, metrics
from memoir_core.config import DX


def predictions(n=90, skill=4.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 3
    logits = rng.normal(size=(n, 3)) + skill * np.eye(3)[truth]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = pd.DataFrame(p, columns=[f"p_{name}" for name in DX])
    table["case"] = np.arange(n)
    table["DX"] = np.array(DX)[truth]
    table["p2_Dementia"] = np.where(truth == 2, 0.9, 0.1)
    table["PTGENDER"] = np.where(rng.random(n) < 0.5, "Male", "Female")
    table["p_Male"] = np.where(table["PTGENDER"] == "Male", 0.6, 0.4)
    table["AGE"] = rng.normal(73, 7, n)
    table["AGE_pred"] = table["AGE"] + 2.0
    table["CDRSB"] = np.where(rng.random(n) < 0.1, np.nan, truth * 2.0)
    table["CDRSB_pred"] = truth * 2.0 - 0.5
    return table


def test_metrics_of_known_predictions():
    found = metrics.task_metrics(predictions(skill=50))
    assert found["dx3"] == {"balanced_accuracy": 1.0, "macro_f1": 1.0, "auc": 1.0}
    assert found["dx2"]["balanced_accuracy"] == 1.0  # MCI left out
    assert found["age"]["mae"] == pytest.approx(2.0)
    assert found["cdrsb"]["mae"] == pytest.approx(0.5)  # unknown CDR-SB left out


def test_the_published_confusion_matrix_gives_the_published_metrics():
    counts = published.figure("dx3_confusion_matrix/rows_true_columns_predicted")
    found = metrics.from_confusion(counts)
    known = published.figure("results_all_modalities/dx3")
    for name, value in found.items():
        assert round(value, 3) == known[name]


def test_confusion_counts_rows_as_truth():
    counts = metrics.confusion(predictions(skill=50))
    assert counts.tolist() == [[30, 0, 0], [0, 30, 0], [0, 0, 30]]


def test_intervals_hold_the_value_and_shrink_with_n():
    widths = []
    for n in (60, 600):
        found = metrics.bootstrap_metrics(predictions(n, skill=1.0), samples=100, seed=0)
        value = found["dx3"]["balanced_accuracy"]
        assert value["low"] <= value["value"] <= value["high"]
        widths.append(value["high"] - value["low"])
    assert widths[1] < widths[0] / 2


def test_both_bootstraps_agree():
    table = predictions(300, skill=1.0)
    predicted = np.array(DX)[table[[f"p_{name}" for name in DX]].to_numpy().argmax(axis=1)]
    dx = table["DX"].to_numpy()
    fast = metrics.bootstrap(predicted == dx, dx, 500, 0)
    slow = metrics.bootstrap_metrics(table, 200, 0)["dx3"]["balanced_accuracy"]
    assert fast["value"] == pytest.approx(slow["value"])
    assert fast["low"] == pytest.approx(slow["low"], abs=0.02)


def test_bootstrap_intervals_cover():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        found = metrics.bootstrap(rng.random(150) < 0.7, None, 200, seed)
        inside += found["low"] <= 0.7 <= found["high"]
    assert 0.88 < inside / 200 < 0.99


def test_recall_finds_the_right_row():
    z = torch.eye(5)
    assert metrics.recall_at(z, z, (1,)) == {"recall@1": 1.0}
    found = metrics.recall_at(z, z.roll(1, 0), (1, 5))
    assert found["recall@1"] < 1 and found["recall@5"] == 1.0


def test_calibration_error():
    truth = np.array([0, 1, 0, 1])
    assert metrics.calibration_error(truth, np.array([0.5] * 4)) == pytest.approx(0.0)
    assert metrics.calibration_error(truth, np.array([0.9] * 4)) == pytest.approx(0.4)


def test_an_unknown_modality_is_named():
    present = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="pet"):
        inference.restrict(present, ("t1", "pet"))
    with pytest.raises(ValueError, match="one or more"):
        inference.restrict(present, ())


def test_baselines_on_the_synthetic_cohort_show_the_published_pattern(records):
    table, _ = records
    found = metrics.baselines(table)
    assert found["dx3 constant"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["dx3 logistic"]["balanced_accuracy"] == pytest.approx(0.70, abs=0.04)
    assert found["dx2 logistic"]["balanced_accuracy"] == pytest.approx(0.94, abs=0.03)


def test_paired_differences_are_narrower_than_their_parts():
    whole, weak = predictions(300, skill=2.0), predictions(300, skill=2.0)
    swapped = weak.index[:20]  # a subset that errs on 20 more subjects
    weak.loc[swapped, [f"p_{name}" for name in DX]] = 0.0
    truth = weak.loc[swapped, "DX"]
    wrong = truth.map({"CN": "MCI", "MCI": "Dementia", "Dementia": "CN"})
    for row, name in wrong.items():
        weak.loc[row, f"p_{name}"] = 1.0
    found = metrics.subset_differences({"all": whole, "weak": weak}, 300, 0).iloc[0]
    both = (metrics.hits(weak).mean(), metrics.hits(whole).mean())
    assert found["difference"] == pytest.approx(both[0] - both[1], abs=0.01)
    assert found["low"] < found["difference"] < found["high"] < 0
    single = metrics.bootstrap(metrics.hits(whole), None, 300, 0)
    assert found["high"] - found["low"] < single["high"] - single["low"]
    assert found["p"] < 0.001
    same = metrics.subset_differences({"all": whole, "same": whole}, 50, 0).iloc[0]
    assert same["difference"] == 0 and same["p"] == 1.0


def test_subgroups_cover_everybody(records):
    cohort, _ = records
    table = predictions(300).assign(case=np.arange(300))
    table["DX"] = cohort["DX"].to_numpy()[:300]
    found = metrics.subgroups(table, cohort, 20, 0).set_index("group")
    assert found.loc[["women", "men"], "n"].sum() == 300
    assert found.loc[["under 70", "70 to 79", "80 or older"], "n"].sum() == 300
    assert found.loc[["with FA", "without FA"], "n"].sum() == 300
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
