"""The leakage experiments."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from memoir_book import leakage
from memoir_core import data, text


def test_a_target_among_the_inputs_is_seen(records):
    table, _ = records
    honest = leakage.score_regression(table, leakage.RECORD, 50, 0)
    leaky = leakage.score_regression(table, [*leakage.RECORD, "DX"], 50, 0)
    assert leaky["value"] == 1.0 and honest["value"] < 0.8
    row = leakage.experiment("x", honest, leaky, 10)
    assert row["honest_low"] <= row["honest"] <= row["honest_high"]
    assert row["gain"] == leaky["value"] - honest["value"]


def test_a_paired_gain_is_of_the_same_subjects():
    rng = np.random.default_rng(1)
    honest = rng.random(200) < 0.5
    leaky = honest | (np.arange(200) < 10)
    row = leakage.paired("x", honest, leaky, None, 300, 0, "accuracy")
    assert row["gain"] == pytest.approx(leaky.mean() - honest.mean())
    assert 0 <= row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert row["gain_high"] - row["gain_low"] < row["leaky_high"] - row["leaky_low"]
    errors = leakage.paired("x", [2.0, 4.0, np.nan], [1.0, 3.0, 1.0], None, 50, 0, "mae, points")
    assert errors["n"] == 2 and errors["gain"] == 1.0  # an error that falls is a gain


def test_scores_come_from_the_visit_before_or_after():
    visits = pd.DataFrame(
        {
            "PTID": ["a", "a", "a", "b"],
            "VISCODE": ["m12", "bl", "m06", "bl"],
            "EXAMDATE": pd.to_datetime(["2001-01-01", "2000-01-01", "2000-07-01", "2000-01-01"]),
        }
    ).assign(**{name: [12.0, 0.0, 6.0, 1.0] for name in leakage.SCORES})
    cohort = visits.iloc[[2, 3]].assign(case=[0, 1])
    assert leakage.at_visit(cohort, visits, -1)["MMSE"].tolist() == [0.0]
    assert leakage.at_visit(cohort, visits, 1)["MMSE"].tolist() == [12.0]


def test_a_branch_that_is_told_the_diagnosis_gives_it_back(tiny):
    table, n = tiny.cohort, len(tiny.cohort)
    rng = np.random.default_rng(0)
    path = tiny.run.path("stage2", "embeddings.npz")
    path.parent.mkdir(exist_ok=True)
    present = np.stack([np.ones(n, bool), tiny.volumes.fa_row >= 0, np.ones(n, bool)], axis=1)
    np.savez(path, z=rng.normal(size=(n, 3, 512)) / 512**0.5, present=present)
    inputs = (tiny.run, table, tiny.volumes, data.Scaler.fit(table))
    told = leakage.retrain_clinical(*inputs, extra=leakage.one_hot(table["DX"]), epochs=25)
    blind = leakage.retrain_clinical(*inputs, hide=("CDRSB",), epochs=2)
    assert told.history["train_loss"].iloc[-1] < told.history["train_loss"].iloc[0] / 2
    best = told.chosen("test_dx3_balanced_accuracy")
    row = leakage.compare_diagnosis("x", blind.chosen(), best, 50, 0)
    assert row["n"] == (table["split"] == "test").sum() and row["leaky"] > 0.6
    again = leakage.retrain_clinical(*inputs, hide=("CDRSB",), epochs=2)
    pd.testing.assert_frame_equal(again.tests[-1], blind.tests[-1])


def test_a_caption_with_the_diagnosis_ranks_its_own_class_first():
    cohort = pd.DataFrame({"case": range(8), "DX": ["CN", "MCI"] * 4})
    rows = [
        {"case": case, "protocol": protocol, "reranked": [c % 2 + 2 * k for k in range(3)]}
        for case in range(4)
        for protocol, c in (("blind", 0), ("own_caption", case))
    ]
    scores = pd.DataFrame(
        [
            ("m", p, "diagnosis_accuracy", v, v, v, 4)
            for p, v in (("blind", 0.5), ("own_caption", 1))
        ],
        columns=["llm", "protocol", "metric", "value", "low", "high", "n"],
    )
    majority, model = leakage.caption_experiments(rows, cohort, scores, 50, 0)
    assert (majority["honest"], majority["leaky"], majority["n"]) == (0.5, 1.0, 4)
    assert model["gain"] == 0.5 and model["metric"] == "accuracy"


def test_an_alignment_that_saw_the_test_captions_finds_them(monkeypatch):
    rng = np.random.default_rng(0)
    hidden, z = rng.normal(size=(2, 60, 64))  # nothing to learn, only to remember
    captions = [{"caption": "", "split": "test" if i < 20 else "train"} for i in range(60)]
    body = SimpleNamespace(encode=lambda texts, show_progress_bar: hidden)
    monkeypatch.setattr(leakage, "SentenceTransformer", lambda modules: body)
    row = leakage.aligned_captions([None, None], captions, text.unit_rows(z), 50, 0)
    assert row["leaky"] == 1.0 and row["honest"] < 0.4 and row["gain_low"] > 0


def test_a_larger_head_tells_the_sex_until_it_is_scaled():
    sex = np.array(["Male", "Female"])[np.arange(40) % 2]
    cohort = pd.DataFrame({"PTGENDER": sex, "split": ["train"] * 30 + ["test"] * 10})
    volumes = np.zeros((40, 12, 12, 12), np.float16)
    for i, name in enumerate(sex):
        size = 10 if name == "Male" else 8
        volumes[i, :size, :size, :size] = 1
    shape = leakage.head_size_and_shape(volumes, 2.0)
    assert shape["litres"][0] == pytest.approx(1000 * 8 / 1e6)
    assert leakage.sex_from(shape.to_numpy(), cohort, 50, 0)["value"] == 1.0
    same = leakage.coarse_voxels(volumes[:1].repeat(40, axis=0), 4)
    assert same.shape == (40, 27) and leakage.sex_from(same, cohort, 50, 0)["value"] == 0.5
    assert 0.6 < leakage.best_synthetic_sex() < 0.7


def test_the_age_is_compared_with_a_constant():
    cohort = pd.DataFrame({"AGE": [70.0, 80.0, 70.0, 80.0], "split": ["train"] * 2 + ["test"] * 2})
    table = pd.DataFrame({"AGE": [70.0, 80.0], "AGE_pred": [71.0, 79.0]})
    row = leakage.age_against_constant(table, cohort, 50, 0)
    assert (row["honest"], row["leaky"], row["gain"]) == (5.0, 1.0, 4.0)


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
