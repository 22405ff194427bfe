"""Published figures, the report, and the leakage experiments."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from memoir_book import artefacts, leakage, published, report
from memoir_core import config, data, text


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


def figures(published_values, values, kind="performance", group="ablation, dx3"):
    table = pd.DataFrame({"published": published_values, "value": values})
    names = [f"figure {i}" for i in range(len(table))]
    table = table.assign(chapter="06", group=group, kind=kind, figure=names, n=100.0)
    return table.assign(low=table["value"] - 0.05, high=table["value"] + 0.05)


def test_a_synthetic_run_reproduces_patterns_at_most():
    table = figures([0.7, 0.69, 0.6, 0.4], [0.8, 0.85, 0.3, 0.35])
    found = report.judge(table, "quick", True)["verdict"].tolist()
    # 0.70 and 0.69 are too close to have an order; the last two have changed places.
    assert found == ["pattern reproduced"] * 2 + ["not reproduced"] * 2
    equal = report.judge(figures([0.7, 0.6], [0.7, 0.6]), "paper", True)["verdict"]
    assert set(equal) == {"pattern reproduced"}
    assert report.pattern(table, "dx3") == pytest.approx(0.6)


def test_an_adni_run_of_the_published_size_is_judged_by_its_interval():
    found = report.judge(figures([0.7, 0.6], [0.74, 0.5]), "paper", False)["verdict"]
    assert found.tolist() == ["reproduced", "not reproduced"]
    smaller = report.judge(figures([0.7, 0.6], [0.74, 0.5]), "quick", False)["verdict"]
    assert set(smaller) == {"pattern reproduced"}


def test_what_cannot_be_compared_is_said():
    assert set(report.judge(figures([0.7, 0.6], [0.7, 0.6]), "smoke", True)["verdict"]) == {
        "not comparable"
    }
    missing = figures([0.9, 0.5], [np.nan, np.nan], kind="language model")
    assert set(report.judge(missing, "paper", False)["verdict"]) == {"not comparable"}
    alone = figures([6.31], [5.0])
    assert report.judge(alone, "quick", True)["verdict"].tolist() == ["not comparable"]


def test_sizes_are_equal_or_smaller_by_design():
    table = figures([2363, 512], [520, 512], kind="size")
    assert report.judge(table, "quick", True)["verdict"].tolist() == [
        "not comparable",
        "reproduced",
    ]
    assert report.judge(table, "paper", True)["verdict"][0] == "not reproduced"


def test_the_page_needs_nothing_from_elsewhere():
    table = report.judge(figures([0.7, 0.6], [0.8, np.nan]), "quick", True)
    table.loc[0, "figure"] = "<script>"
    source = {
        "label": "synthetic cohort",
        "git": {"commit": None, "dirty": None},
        "versions": {"python": "3.11"},
        "machine": "Linux",
        "data_hash": "0",
        "seconds_by_chapter": {"01": 1.0},
        "written": "now",
    }
    text = report.page(table, source)
    assert "<script>" not in text and "not a git checkout" in text and "not run" in text
    assert not [word for word in ("http", "src=", "href=", "@import") if word in text]


def test_a_pdf_needs_a_browser(tmp_path, monkeypatch):
    (tmp_path / "report.pdf").write_text("of an earlier run")
    monkeypatch.setattr(config.shutil, "which", lambda name: None)
    assert report.write_pdf(tmp_path / "report.html") is None
    assert not (tmp_path / "report.pdf").exists()


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
