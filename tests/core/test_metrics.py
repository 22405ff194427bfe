"""Metrics, intervals and baselines; also those that chapters 5 and 6 write out."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
import torch
from ideas import idea
from scipy.stats import binomtest

from memoir_book import published
from memoir_core import metrics
from memoir_core.config import DX, SUBSETS
from memoir_core.data import Scaler

NAMES = {"np": np, "pd": pd, "metrics": metrics}
bootstrap_metrics = idea("05", "def bootstrap_metrics", **NAMES)["bootstrap_metrics"]
calibration_error = idea("05", "def calibration_error", **NAMES)["calibration_error"]
subgroups = idea("05", "def subgroups", **NAMES)["subgroups"]
differing = idea(
    "06", "def subset_differences", np=np, pd=pd, binomtest=binomtest, hits=metrics.hits,
    bootstrap=metrics.bootstrap,
)  # fmt: skip
subset_differences = differing["subset_differences"]


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


def test_metrics_are_scikit_learns():
    """Unequal classes, ties among the scores, and a class that is never predicted."""
    table = predictions(80, skill=0.7).drop(index=range(0, 40, 3)).reset_index(drop=True)
    table["p2_Dementia"] = np.random.default_rng(1).random(len(table)).round(1)
    table["p_Male"] = np.random.default_rng(2).random(len(table)).round(1)
    found = metrics.task_metrics(table)
    truth, p = table["DX"].map(DX.index), table[[f"p_{name}" for name in DX]].to_numpy()
    ends = table[table["DX"] != "MCI"]
    two = ends["DX"] == "Dementia", ends["p2_Dementia"]
    men = table["PTGENDER"] == "Male", table["p_Male"]
    for task, y, guess, score in (
        ("dx3", truth, p.argmax(axis=1), p),
        ("dx2", two[0], two[1] > 0.5, two[1]),
        ("sex", men[0], men[1] > 0.5, men[1]),
    ):
        wanted = {
            "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
            "macro_f1": sk.f1_score(y, guess, average="macro"),
            "auc": sk.roc_auc_score(y, score, multi_class="ovr"),
        }
        assert found[task] == pytest.approx(wanted), task
        assert found[task]["balanced_accuracy"] != pytest.approx(sk.accuracy_score(y, guess))
    for task, name in (("age", "AGE"), ("cdrsb", "CDRSB")):
        known = table[table[name].notna()]
        pair = known[name], known[f"{name}_pred"]
        wanted = {"mae": sk.mean_absolute_error(*pair), "r2": sk.r2_score(*pair)}
        assert found[task] == pytest.approx(wanted)
    never = table.assign(p_CN=0.0)
    wanted = sk.f1_score(truth, never[[f"p_{n}" for n in DX]].to_numpy().argmax(1), average="macro")
    assert metrics.task_metrics(never)["dx3"]["macro_f1"] == pytest.approx(wanted)


def test_a_class_that_is_not_there_does_not_count():
    found = metrics.task_metrics(predictions(skill=50).query("DX != 'MCI'"))["dx3"]
    assert found["balanced_accuracy"] == found["macro_f1"] == 1 and np.isnan(found["auc"])


def test_the_composite_is_what_the_chapter_says():
    table = predictions(skill=1.0)
    found = metrics.task_metrics(table)
    scaler = Scaler(
        (0,) * 5,
        (1,) * 5,
        age_mean=70,
        age_std=8.0,
        cdrsb_mean=2,
        cdrsb_std=2.5,
        fa_mean=0,
        fa_std=1,
    )
    diagnosis = found["dx3"]["balanced_accuracy"] / 2 + found["dx2"]["balanced_accuracy"] / 2
    errors = found["age"]["mae"] / 8.0 / 2 + found["cdrsb"]["mae"] / 2.5 / 2
    assert metrics.composite(found, scaler) == pytest.approx(diagnosis - 0.1 * errors)
    age = found["age"]["mae"] / 8.0
    for unknown in ({"CDRSB": np.nan}, {"CDRSB_pred": np.nan}):  # of anybody; of train
        less = metrics.task_metrics(table.assign(**unknown))
        assert less == {task: value for task, value in found.items() if task != "cdrsb"}
        assert metrics.composite(less, scaler) == pytest.approx(diagnosis - 0.1 * age)
    neither = metrics.task_metrics(table.assign(CDRSB=np.nan, AGE=np.nan))
    assert metrics.composite(neither, scaler) == pytest.approx(diagnosis)


def test_redraws_stay_within_their_group_and_repeat():
    groups = np.array(["a", "b", "a", "c", "b", "a"])
    rows = metrics.redraw(groups, 500, 0)
    assert (groups[rows] == groups).all()
    assert {*rows[:, 0]} == {0, 2, 5} and {*rows[:, 3]} == {3}
    assert np.array_equal(rows, metrics.redraw(groups, 500, 0))
    assert not np.array_equal(rows, metrics.redraw(groups, 500, 1))
    repeats = [len(set(row)) for row in rows]
    assert min(repeats) < 6  # with replacement


def test_intervals_hold_the_value_and_shrink_with_n():
    widths = []
    for n in (60, 600):
        found = bootstrap_metrics(predictions(n, skill=1.0), samples=60, seed=0)
        value = found["dx3"]["balanced_accuracy"]
        assert value["low"] <= value["value"] <= value["high"]
        widths.append(value["high"] - value["low"])
    assert widths[1] < widths[0] / 2


def test_both_bootstraps_agree():
    table = predictions(300, skill=1.0)
    fast = metrics.bootstrap(metrics.hits(table), table["DX"].to_numpy(), 200, 0)
    slow = bootstrap_metrics(table, 200, 0)["dx3"]["balanced_accuracy"]
    assert fast == pytest.approx(slow, abs=1e-9)


def test_a_bootstrap_of_unequal_groups_is_a_mean_of_means_and_stratified():
    values = np.array([1.0] * 90 + [0.0] * 10)
    groups = np.array([0] * 90 + [1] * 10)
    found = metrics.bootstrap(values, groups, 100, 0)
    assert found == {"value": 0.5, "low": 0.5, "high": 0.5}  # no luck left within a group
    plain = metrics.bootstrap(values, None, 1000, 0)
    assert plain["value"] == pytest.approx(0.9)
    spread = 1.96 * np.sqrt(0.9 * 0.1 / 100)
    assert plain["low"] == pytest.approx(0.9 - spread, abs=0.015)
    assert plain["high"] == pytest.approx(0.9 + spread, abs=0.015)


def test_bootstrap_intervals_cover():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        found = metrics.bootstrap(rng.random(150) < 0.7, None, 200, seed)
        inside += found["low"] <= 0.7 <= found["high"]
    assert 0.88 < inside / 200 < 0.99


def test_recall_counts_the_k_nearest_of_each_row():
    a = torch.eye(4)
    b = torch.tensor([[9.0, 0, 0, 0], [8, 1, 0, 0], [7, 2, 1, 0], [6, 3, 2, 1]]) / 10
    # for row i of a, row j of b scores b[j, i]: the right one is 1st, 3rd, 2nd and 1st
    found = metrics.recall_at(a, b, (1, 2, 3))
    assert found == {"recall@1": 0.5, "recall@2": 0.75, "recall@3": 1.0}
    assert metrics.recall_at(a, a, (1,)) == {"recall@1": 1.0}
    assert np.isnan(metrics.recall_at(a[:0], b[:0], (1,))["recall@1"])


def test_recall_calls_a_tie_a_miss():
    """Embeddings that are all alike find nobody, and neither does a NaN."""
    same = torch.ones(8, 4) / 2
    assert metrics.recall_at(same, same, (1, 5)) == {"recall@1": 0, "recall@5": 0}
    turned = torch.nn.functional.normalize(same + 1e-8 * torch.randn(8, 4), dim=-1)
    assert metrics.recall_at(turned, turned, (1, 5)) == {"recall@1": 0, "recall@5": 0}
    nothing = torch.full((8, 4), float("nan"))
    assert metrics.recall_at(nothing, nothing, (5, 99)) == {"recall@5": 0, "recall@99": 0}
    two, k = torch.eye(4), 2
    two[1] = two[0]  # a pair of twins: each is the other's equal
    assert metrics.recall_hits(two, two, 1).tolist() == [False, False, True, True]
    assert metrics.recall_hits(two, two, k).all()
    one = torch.eye(4)
    one[2] = float("nan")
    assert metrics.recall_hits(one, torch.eye(4), k).tolist() == [True, True, False, True]
    assert metrics.recall_hits(torch.eye(4), one, k).tolist() == [True, True, False, True]


def test_recall_is_a_count_by_hand():
    a, b = torch.nn.functional.normalize(torch.randn(2, 30, 6, generator=seeded()), dim=-1)
    for k in (1, 5, 29, 30):
        wanted = [
            sum(float(a[i] @ b[j]) >= float(a[i] @ b[i]) for j in range(30) if j != i) < k
            for i in range(30)
        ]
        assert metrics.recall_hits(a, b, k).tolist() == wanted
        assert metrics.recall_at(a, b, (k,))[f"recall@{k}"] == pytest.approx(np.mean(wanted))


def seeded():
    return torch.Generator().manual_seed(3)


def test_the_spread_of_known_cases():
    unit = torch.nn.functional.normalize
    same = metrics.spread(torch.ones(9, 4) / 2)
    assert same["mean_cosine"] == pytest.approx(1) and same["uniformity"] == pytest.approx(0)
    assert np.isnan(same["effective_rank"])
    apart = metrics.spread(torch.eye(6, 8))
    assert apart["mean_cosine"] == pytest.approx(0)
    assert apart["effective_rank"] == pytest.approx(5)  # six corners of a simplex: five axes
    assert apart["uniformity"] == pytest.approx(-4)  # each d^2 is 2
    clusters = metrics.spread(torch.eye(2, 8).repeat(10, 1))
    assert clusters["effective_rank"] == pytest.approx(1)
    assert clusters["mean_cosine"] == pytest.approx(2 * 45 / 190)  # pairs within, of all pairs
    noise = metrics.spread(unit(torch.ones(40, 64) + 0.02 * torch.randn(40, 64), dim=-1))
    assert noise["mean_cosine"] > 0.99 and np.isnan(noise["effective_rank"])
    for few in (torch.zeros(0, 4), torch.eye(1, 4)):
        assert all(np.isnan(value) for value in metrics.spread(few).values())
    assert np.isnan(metrics.spread(torch.full((5, 4), float("nan")))["mean_cosine"])


def test_the_spread_is_that_of_the_covariance():
    """Against numpy's eigenvalues and a loop over pairs."""
    scale = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1])
    z = torch.nn.functional.normalize(torch.randn(25, 5, generator=seeded()) * scale + 1, dim=-1)
    x = z.double().numpy()
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    np.testing.assert_allclose(metrics.spectrum(z).numpy(), values, atol=1e-12)
    share = values / values.sum()
    cosines = [x[i] @ x[j] for i in range(25) for j in range(i)]
    squares = [((x[i] - x[j]) ** 2).sum() for i in range(25) for j in range(i)]
    found = metrics.spread(z)
    assert found["mean_cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert found["effective_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert found["uniformity"] == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(squares)))))
    # all that differs between people: 1 minus the length of their mean, squared
    assert values.sum() == pytest.approx(1 - (x.mean(axis=0) ** 2).sum(), abs=1e-6)


def test_calibration_error():
    truth = np.array([0, 1, 0, 1])
    assert calibration_error(truth, np.array([0.5] * 4)) == pytest.approx(0.0)
    assert calibration_error(truth, np.array([0.9] * 4)) == pytest.approx(0.4)
    two_bins = calibration_error(np.array([0, 0, 0, 1]), np.array([0.1, 0.1, 0.1, 0.6]))
    assert two_bins == pytest.approx(0.75 * 0.1 + 0.25 * 0.4)
    assert calibration_error(np.array([1, 1]), np.array([1.0, 1.0])) == 0


def test_hits_and_majority():
    table = predictions(9, skill=50)
    table.loc[0, ["p_CN", "p_MCI"]] = [0.0, 1.0]
    table.loc[1, "p_Male"] = 1 - table.loc[1, "p_Male"]
    assert metrics.hits(table).tolist() == [False] + [True] * 8
    assert metrics.hits(table, "sex").tolist() == [True, False] + [True] * 7
    assert metrics.majority(["CN", "MCI", "MCI", "Dementia", "MCI"]) == "MCI"
    assert metrics.majority(["MCI", "CN", "CN", "MCI", "Dementia"]) == "MCI"  # a tie: the first
    assert metrics.majority(("CN", "MCI", "MCI", "CN")) == "CN"


def test_the_ablation_scores_each_subset_by_itself():
    tables = {"+".join(subset): predictions(90, skill=50) for subset in SUBSETS}
    tables["fa"] = tables["fa"].head(30)
    tables["t1"] = tables["t1"].assign(p_CN=1.0, p_MCI=0.0, p_Dementia=0.0)
    found = metrics.ablate(tables, {"dx3": {"t1+dti": 0.6}}, 20, 0).set_index(["subset", "task"])
    assert len(found) == 7 * 5
    assert found.loc[("t1", "dx3"), "value"] == pytest.approx(1 / 3)
    assert found.loc[("t1+fa", "dx3"), "value"] == 1
    assert found.loc[("fa", "dx3"), "n"] == 30 and found.loc[("fa", "dx2"), "n"] == 20
    assert found.loc[("t1+fa", "dx3"), "published"] == 0.6
    assert found["published"].notna().sum() == 1
    whole = metrics.task_metrics(tables["clinical"])
    for task, metric in (("dx2", "balanced_accuracy"), ("age", "mae"), ("cdrsb", "mae")):
        row = found.loc[("clinical", task)]
        assert row["metric"] == metric and row["value"] == pytest.approx(whole[task][metric])
    assert found.loc[("t1", "dx3"), "one_class"] == "CN"
    assert (found.drop(index=("t1", "dx3"))["one_class"] == "").all()


def test_the_auc_of_the_ablation_is_scikit_learns_and_its_redraws_are_of_whole_subjects():
    table = predictions(60, skill=0.8)
    table["p2_Dementia"] = np.random.default_rng(1).random(60).round(1)
    found = metrics.ablate({"t1": table}, {}, 100, 3).set_index("task")
    p = table[[f"p_{name}" for name in DX]].to_numpy()
    truth = table["DX"].map(DX.index).to_numpy()
    rows = metrics.redraw(table["DX"].to_numpy(), 100, 3)
    draws = [sk.roc_auc_score(truth[r], p[r], multi_class="ovr") for r in rows]
    wanted = [sk.roc_auc_score(truth, p, multi_class="ovr"), *np.percentile(draws, [2.5, 97.5])]
    assert found.loc["dx3", ["auc", "auc_low", "auc_high"]].tolist() == pytest.approx(wanted)
    for task, value in metrics.task_metrics(table).items():
        assert found.loc[task, "auc"] == pytest.approx(value.get("auc", np.nan), nan_ok=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [[], [0], [0, 3], [0, 1], [1, 4]])
def test_the_ablation_survives_few_subjects_without_a_warning(rows):
    few = predictions(9, skill=50).assign(CDRSB=1.0).iloc[rows].reset_index(drop=True)
    found = metrics.ablate({"fa": few}, {}, 20, 0).set_index("task")
    assert found["n"].tolist() == [len(few), (few["DX"] != "MCI").sum(), *[len(few)] * 3]
    assert np.isnan(found["auc"]["dx3"])  # a class is missing
    empty = found["n"] == 0
    assert found.loc[empty, ["value", "low", "high"]].isna().all(axis=None)
    assert (found.loc[empty, "one_class"] == "").all()


def test_paired_differences_are_narrower_than_their_parts():
    whole, weak = predictions(300, skill=2.0), predictions(300, skill=2.0)
    swapped = weak.index[:20]  # a subset that errs on 20 more subjects
    weak.loc[swapped, [f"p_{name}" for name in DX]] = 0.0
    truth = weak.loc[swapped, "DX"]
    wrong = truth.map({"CN": "MCI", "MCI": "Dementia", "Dementia": "CN"})
    for row, name in wrong.items():
        weak.loc[row, f"p_{name}"] = 1.0
    found = subset_differences({"all": whole, "weak": weak}, 300, 0).iloc[0]
    both = (metrics.hits(weak).mean(), metrics.hits(whole).mean())
    assert found["difference"] == pytest.approx(both[0] - both[1], abs=0.01)
    assert found["low"] < found["difference"] < found["high"] < 0
    assert found["n"] == 300 and found["subset"] == "weak"
    single = metrics.bootstrap(metrics.hits(whole), None, 300, 0)
    assert found["high"] - found["low"] < single["high"] - single["low"]
    assert found["p"] < 0.001
    same = subset_differences({"all": whole, "same": whole}, 50, 0).iloc[0]
    assert same["difference"] == 0 and same["p"] == 1.0


def test_six_tests_are_corrected_by_holm():
    holm = differing["holm"]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust
    assert holm([0.5, 0.9]).tolist() == [1, 1] and holm([0.02]) == pytest.approx([0.02])
    rng = np.random.default_rng(0)
    wrong = sum(holm(rng.random(6)).min() < 0.05 for _ in range(2000)) / 2000
    assert wrong == pytest.approx(0.05, abs=0.015)  # and 0.26 without: 1 - 0.95 ** 6
    table = {"all": predictions(90, 1.0), **{str(k): predictions(90, 1.0, k) for k in range(1, 4)}}
    found = subset_differences(table, 20, 0)
    assert found["p_holm"].to_numpy() == pytest.approx(holm(found["p"]))


def test_subgroups_cover_everybody(records):
    cohort, _ = records
    table = predictions(300).assign(case=np.arange(300))
    table["DX"] = cohort["DX"].to_numpy()[:300]
    women, has_fa = cohort["PTGENDER"][:300] == "Female", cohort["has_fa"][:300]
    groups = {"women": women, "men": ~women, "with FA": has_fa, "without FA": ~has_fa}
    found = subgroups(table, groups | {"nobody": has_fa & ~has_fa}, 20, 0)
    found = found.set_index("group")
    own = table[women.to_numpy()]
    mean = pd.Series(metrics.hits(own)).groupby(own["DX"].to_numpy()).mean().mean()
    assert found.loc["women", "value"] == pytest.approx(mean)
    assert found.loc[["women", "men"], "n"].sum() == 300
    assert list(found.index) == list(groups)  # a group without subjects has no row
    assert found.loc[["with FA", "without FA"], "n"].sum() == 300
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
