"""Baselines know the train part only, and reach what is published on the synthetic cohort."""

import numpy as np
import pandas as pd
import pytest

from memoir_book.baselines import baselines
from memoir_core.config import DX


def test_baselines_know_train_only_and_are_scored_on_test():
    n = 60
    table = pd.DataFrame({"DX": np.array(DX)[np.arange(n) % 3], "split": "train"})
    table.loc[n // 2 :, "split"] = "test"
    for name in ("CDRSB", "ADAS11", "ADAS13", "MMSE", "MOCA"):
        table[name] = (np.arange(n) % 3) * 1.0
    ages = 70.0 + 10 * (-1) ** np.arange(n)  # of train: 60 and 80, which swapped parts would show
    table["APOE4"], table["AGE"] = 0.0, np.where(table["split"] == "train", ages, 75.0)
    table.loc[n - 30 :, "CDRSB"] = 2 - table.loc[n - 30 :, "CDRSB"]  # upside down in test
    found = baselines(table)
    assert found["age constant"]["mae"] == 5.0
    assert found["dx3 constant"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["dx2 logistic"]["balanced_accuracy"] == 1.0  # four scores outvote the fifth
    assert found["cdrsb constant"]["mae"] == pytest.approx(2 / 3)


def test_baselines_on_the_synthetic_cohort_show_the_published_pattern(records):
    table, _ = records
    found = baselines(table)
    assert found["dx3 constant"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["dx3 logistic"]["balanced_accuracy"] == pytest.approx(0.70, abs=0.04)
    assert found["dx2 logistic"]["balanced_accuracy"] == pytest.approx(0.94, abs=0.03)
