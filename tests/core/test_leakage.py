"""The leakage experiments: each leak is found where it was put, and nowhere else."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ideas import idea
from sklearn import feature_selection, linear_model, model_selection
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_combat import combat
from threadpoolctl import threadpool_limits
from torch import nn

from memoir_core import data, inference, metrics
from memoir_core.config import DX, SCORES
from memoir_core.losses import multitask_loss
from memoir_core.model import DROP, Memoir, masking_gate

DRAWS = {"samples": 50, "seed": 0}


def written_out():
    """Rows, and the training on stored embeddings, as the chapter writes them out."""
    names = {"np": np, "pd": pd, "torch": torch, "nn": nn, "dataclass": dataclass}
    names |= {"metrics": metrics, "inference": inference, "multitask_loss": multitask_loss}
    names |= {"DROP": DROP, "Memoir": Memoir, "masking_gate": masking_gate}
    names |= {"threadpool_limits": threadpool_limits}
    for cell in ("paired", "compare", "on_frozen", "predict_part", "retrain_clinical"):
        names = idea("11", f"def {cell}(", **names)
    return SimpleNamespace(**names)


leakage = written_out()
ROWS = {"paired": leakage.paired, "experiment": leakage.experiment}


@pytest.fixture(scope="module")
def chapter():
    """The chapter's own regression, and what prepares its features."""
    steps = (PCA, make_pipeline, StandardScaler)
    names = {step.__name__: step for step in steps} | {"linear_model": linear_model, "np": np}
    return SimpleNamespace(**idea("11", "def regression_hits", **names))


@pytest.fixture(scope="module")
def regression_hits(chapter):
    return chapter.regression_hits


def predictions(right, truth=None):
    """A table of predictions of cases 0, 1, ..., of which some are right."""
    truth = list(truth or [DX[i % 3] for i in range(len(right))])
    said = [dx if ok else DX[DX.index(dx) - 1] for dx, ok in zip(truth, right, strict=True)]
    table = pd.DataFrame({f"p_{name}": [float(dx == name) for dx in said] for name in DX})
    table = table.assign(p2_Dementia=0.5, p_Male=0.5, PTGENDER="Male")
    return table.assign(case=range(len(truth)), DX=truth)


# --- rows -------------------------------------------------------------------------------


def test_a_gain_is_a_rise_of_accuracy_or_a_fall_of_an_error():
    low, high = {"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 0.9, "low": 0.8, "high": 1.0}
    row = leakage.experiment("x", low, high, 10)
    assert row["gain"] == pytest.approx(0.4) and row["n"] == 10
    ends = row["gain_low"], row["gain_high"]
    assert ends == pytest.approx((0.4 - 0.02**0.5, 0.4 + 0.02**0.5))
    assert (row["honest_low"], row["leaky"], row["leaky_high"]) == (0.4, 0.9, 1.0)
    for metric in ("mae, years", "loss, hidden words"):
        assert leakage.experiment("x", low, high, 10, metric)["gain"] == pytest.approx(-0.4)


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
    with pytest.raises(ValueError, match="'x' has no subject"):
        leakage.paired("x", [np.nan], [1.0], None, 50, 0)


def test_a_balanced_gain_weighs_every_class_alike():
    groups = np.array(["CN"] * 9 + ["MCI"])
    row = leakage.paired("x", np.ones(10), groups == "CN", groups, 50, 0)
    assert (row["honest"], row["leaky"], row["gain"]) == pytest.approx((1.0, 0.5, -0.5))


def test_tables_of_predictions_are_compared_by_what_is_asked():
    honest, leaky = predictions([True, False, True, False, True, True]), predictions([True] * 6)
    row = leakage.compare("x", honest, leaky, 50, 0)  # CN 1/2, MCI 1/2, Dementia 2/2
    assert (row["honest"], row["leaky"]) == pytest.approx((2 / 3, 1.0))
    truth = {"PTGENDER": ["Male", "Female"] * 3, "AGE": 70.0, "CDRSB": [1.0] * 5 + [np.nan]}
    honest = honest.assign(**truth, p_Male=0.9, AGE_pred=65.0, CDRSB_pred=3.0)
    leaky = honest.assign(p_Male=[0.9, 0.1] * 3, AGE_pred=72.0, CDRSB_pred=1.5)
    sex, age, cdr = (
        leakage.compare("x", honest, leaky, 50, 0, by=name) for name in ("PTGENDER", "AGE", "CDRSB")
    )
    assert (sex["honest"], sex["leaky"]) == pytest.approx((0.5, 1.0))
    assert sex["metric"] == "balanced accuracy" and sex["n"] == 6
    assert (age["honest"], age["leaky"], age["gain"]) == pytest.approx((5.0, 2.0, 3.0))
    assert (cdr["honest"], cdr["leaky"], cdr["n"]) == pytest.approx((2.0, 0.5, 5))
    with pytest.raises(ValueError, match="same cases"):
        leakage.compare("x", honest, leaky.iloc[::-1], 50, 0)


# --- records ----------------------------------------------------------------------------


def test_a_target_among_the_inputs_is_seen(chapter, regression_hits):
    rng = np.random.default_rng(0)
    dx = pd.Series(rng.choice(DX, 300))
    noise = pd.DataFrame(rng.normal(size=(300, 5))).mask(rng.random((300, 5)) < 0.1)
    test = np.arange(300) % 5 == 0
    noise = chapter.usable(noise, ~test)
    told = noise.join(pd.get_dummies(dx))
    told.columns = told.columns.astype(str)
    assert regression_hits(noise, dx, test).mean() < 0.5
    assert regression_hits(told, dx, test).all()


def test_a_regression_learns_from_the_train_rows_only(regression_hits):
    x, y = np.arange(40.0), np.array(["a", "b"] * 20)
    test = np.arange(40) >= 30
    y[:30] = np.where(x[:30] < 15, "a", "b")
    y[test] = "a"  # all beyond what the train rows call b
    hits = regression_hits(pd.DataFrame({"x": x}), pd.Series(y), test)
    assert hits.shape == (10,) and not hits.any()


def test_columns_are_prepared_from_the_rows_to_be_learned_from(chapter):
    fit = np.array([True, True, True, False])
    table = pd.DataFrame(
        {
            "a": [1.0, np.nan, 3.0, np.nan],
            "same": [2.0, 2.0, np.nan, 9.0],  # varies in the test row alone
            "unknown": [np.nan] * 3 + [1.0],
            "flag": [True, False, True, True],
        }
    )
    found = chapter.usable(table, fit)
    assert list(found) == ["a", "flag"]
    assert found["a"].tolist() == [1.0, 2.0, 3.0, 2.0] and found["flag"].sum() == 3


def test_a_regression_on_nothing_is_refused(chapter, regression_hits):
    """Voxels that are 0 in everybody were 0/0 after a correction, and 0.333 without a width."""
    rng = np.random.default_rng(0)
    dx, test = pd.Series(rng.choice(DX, 60)), np.arange(60) % 5 == 0
    voxels = pd.DataFrame(rng.normal(size=(60, 30)))
    voxels[[3, 4]] = 0.0
    with pytest.raises(ValueError, match="2 features do not vary"):
        regression_hits(voxels, dx, test)
    with np.errstate(invalid="ignore"):
        standardised = (voxels - voxels.mean()) / voxels.std()
    for broken in (standardised, standardised[[3, 4]], voxels.replace(voxels.iloc[0, 0], np.inf)):
        with pytest.raises(ValueError, match="none missing"):
            regression_hits(broken, dx, test)
    with pytest.raises(ValueError, match="needs features"):
        regression_hits(chapter.usable(voxels[[3, 4]], ~test), dx, test)
    assert regression_hits(chapter.usable(voxels, ~test), dx, test).shape == (12,)


# --- sites and scanners -----------------------------------------------------------------


@pytest.fixture(scope="module")
def scanners(chapter):
    names = {"np": np, "pd": pd, "torch": torch, "nn": nn, "combat": combat}
    names |= {"model_selection": model_selection, "usable": chapter.usable}
    names |= {"regression_hits": chapter.regression_hits}
    names = idea("11", "def coarse_voxels", **names)
    names = idea("11", "def by_site", **names)
    return SimpleNamespace(**idea("11", "def four_ways", **names))


def test_a_site_that_tells_the_class_flatters_the_split_by_subject(scanners):
    rng = np.random.default_rng(0)
    site = pd.Series(np.repeat(np.arange(30), 10))
    dx = pd.Series(np.array(["CN", "MCI"])[rng.integers(0, 2, 30)][site])  # one class a site
    features = pd.DataFrame(rng.normal(size=(30, 40))[site] + 0.1 * rng.normal(size=(300, 40)))
    new, met = scanners.by_site(features, dx, site, 0)
    assert new.shape == met.shape == (300,)
    assert met.mean() > 0.8 and new.mean() < 0.65
    signal = pd.DataFrame({"x": (dx == "MCI") + 0.1 * rng.normal(size=300)})
    new, met = scanners.by_site(signal, dx, site, 0)  # of the class itself: nothing is lost
    assert new.all() and met.all()


@pytest.fixture
def scans():
    """300 people, 50 features: class in the first ten, maker in all, more MCI at GE."""
    rng = np.random.default_rng(0)
    n = 300
    maker = pd.Series(rng.choice(["GE", "PHILIPS", "SIEMENS"], n))
    dx = pd.Series(np.where(rng.random(n) < np.where(maker == "GE", 0.7, 0.4), "MCI", "CN"))
    x = pd.DataFrame(rng.normal(size=(n, 50)))
    x.iloc[:, :10] += 0.7 * (dx == "MCI").to_numpy()[:, None]
    x += maker.map({"GE": 1.5, "PHILIPS": 0.0, "SIEMENS": -1.5}).to_numpy()[:, None]
    covariates = pd.DataFrame({"age": rng.normal(73, 6, n)})
    return x, maker, covariates, dx, np.arange(n) % 3 == 0


def test_combat_hides_the_maker_and_leaves_the_class(scanners, scans):
    found = scanners.scanner_and_diagnosis(*scans)
    assert list(found) == ["no ComBat", "fitted on train", "on everybody", "told the diagnosis"]
    maker, dx = (dict(zip(found, part, strict=True)) for part in zip(*found.values(), strict=True))
    assert maker["no ComBat"].mean() > 0.9 and maker["fitted on train"].mean() < 0.5
    assert dx["fitted on train"].mean() > 0.65


def test_what_train_says_does_not_depend_on_the_test_rows(scanners, scans):
    x, maker, covariates, dx, test = scans
    one = scanners.four_ways(*scans)
    x = x.copy()
    x[test] += 5
    other = scanners.four_ways(x, maker, covariates, dx, test)
    way = "fitted on train"
    pd.testing.assert_frame_equal(one[way][~test], other[way][~test])
    assert not np.allclose(one["on everybody"][~test], other["on everybody"][~test])
    told = scanners.four_ways(x, maker, covariates, dx.sample(frac=1).set_axis(dx.index), test)
    pd.testing.assert_frame_equal(other[way], told[way])  # and not on any diagnosis
    assert not np.allclose(other["told the diagnosis"], told["told the diagnosis"])


def test_a_correction_that_is_told_the_answer_holds_it(scanners):
    """Pure noise, and makers that go with the class: only the leak finds something."""
    rng = np.random.default_rng(0)
    n = 240
    dx = pd.Series(rng.choice(["CN", "MCI"], n))
    maker = pd.Series(np.where((dx == "MCI") == (rng.random(n) < 0.9), "GE", "SIEMENS"))
    x = pd.DataFrame(rng.normal(size=(n, 600)))
    x += 2.0 * (maker == "GE").to_numpy()[:, None]
    test = np.arange(n) % 2 == 0
    covariates = pd.DataFrame({"age": rng.normal(73, 6, n)})
    found = scanners.scanner_and_diagnosis(x, maker, covariates, dx, test)
    honest, told = (found[way][1].mean() for way in ("fitted on train", "told the diagnosis"))
    assert honest < 0.6 and told > honest + 0.1


def test_a_maker_that_train_lacks_stays_and_is_not_asked_for(scanners, scans):
    x, maker, covariates, dx, test = scans
    maker = maker.where(~(test & (np.arange(300) < 30)), "HITACHI")
    ways = scanners.four_ways(x, maker, covariates, dx, test)
    new = (maker == "HITACHI").to_numpy()
    pd.testing.assert_frame_equal(ways["fitted on train"][new], x[new])
    found = scanners.scanner_and_diagnosis(x, maker, covariates, dx, test)
    asked, diagnosed = found["fitted on train"]
    assert len(asked) == (test & ~new).sum() and len(diagnosed) == test.sum()
    with pytest.raises(ValueError, match="two batches"):
        scanners.scanner_and_diagnosis(x, maker.where(maker == "GE", "GE"), covariates, dx, test)


# --- visits -----------------------------------------------------------------------------


def test_scores_come_from_the_visit_before_or_after():
    visits = pd.DataFrame(
        {
            "PTID": ["a", "a", "a", "b", "c", "c"],
            "VISCODE": ["m12", "bl", "m06", "bl", "bl", "m06"],
            "EXAMDATE": pd.to_datetime(
                ["2001-01-01", "2000-01-01", "2000-07-01", "2000-01-01", "2000-01-01", "2000-07-01"]
            ),
        }
    ).assign(**{name: [12.0, 0.0, 6.0, 1.0, np.nan, 5.0] for name in SCORES})
    cohort = visits.iloc[[5, 2, 3]].assign(case=[2, 0, 1])
    at_visit = idea("11", "def at_visit", SCORES=SCORES)["at_visit"]
    before, after = (at_visit(cohort, visits, step) for step in (-1, 1))
    assert before["MMSE"].tolist() == [0.0] and before["case"].tolist() == [0]
    assert after["MMSE"].tolist() == [12.0] and after["VISCODE"].tolist() == ["m06"]


# --- the network ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clinic():
    """Cohort, volumes, scaler and embeddings of 60 subjects; scores are noise, images alike."""
    rng = np.random.default_rng(0)
    n = 60
    cohort = pd.DataFrame(
        {
            "case": range(n),
            "DX": [DX[i % 3] for i in range(n)],
            "split": ["test" if i % 5 == 0 else "val" if i % 5 == 1 else "train" for i in range(n)],
            "PTGENDER": rng.choice(["Male", "Female"], n),
            "AGE": rng.normal(73, 6, n),
            "APOE4": rng.integers(0, 3, n).astype(float),
        }
    ).assign(**{name: rng.normal(10, 3, n) for name in SCORES})
    volumes = SimpleNamespace(
        t1=np.zeros((n, 2, 2, 2)),
        fa=np.zeros((1, 2, 2, 2)),
        inside=np.ones((2, 2, 2), bool),
        fa_row=np.arange(n) % 2 - 1,
        shape=(2, 2, 2),
    )
    z = torch.from_numpy(rng.normal(size=(1, 3, 512)) / 512**0.5).float().repeat(n, 1, 1)
    present = torch.ones(n, 3, dtype=torch.bool)
    present[:, 1] = torch.arange(n) % 2 == 1
    return cohort, volumes, data.Scaler.fit(cohort, volumes), z, present


def test_a_branch_that_is_told_the_diagnosis_gives_it_back(clinic):
    cohort, volumes, *frozen = clinic
    everyone = data.MemoirDataset(cohort, volumes, frozen[0])
    told = leakage.retrain_clinical(
        everyone, *frozen, seed=0, extra=pd.get_dummies(cohort["DX"]), epochs=20
    )
    plain = leakage.retrain_clinical(everyone, *frozen, seed=0, epochs=3)
    assert told.history["train_loss"].iloc[-1] < told.history["train_loss"].iloc[0] / 2
    test = cohort["split"] == "test"
    row = leakage.compare("x", plain.chosen(), told.tests[-1], 50, 0)
    assert row["n"] == test.sum() and row["leaky"] > 0.8 > 0.6 > row["honest"]
    assert plain.tests[0]["case"].tolist() == cohort["case"][test].tolist()
    assert plain.tests[0]["DX"].tolist() == cohort["DX"][test].tolist()
    again = leakage.retrain_clinical(everyone, *frozen, seed=0, epochs=3)
    pd.testing.assert_frame_equal(again.tests[-1], plain.tests[-1])


def test_no_column_of_the_history_is_of_the_test_part(clinic):
    cohort, volumes, *frozen = clinic
    other = cohort.assign(DX=np.where(cohort["split"] == "test", "CN", cohort["DX"]))
    one, two = (
        leakage.retrain_clinical(
            data.MemoirDataset(table, volumes, frozen[0]), *frozen, seed=0, epochs=3
        )
        for table in (cohort, other)
    )
    pd.testing.assert_frame_equal(one.history, two.history)
    assert one.chosen() is one.tests[int(one.history["composite"].to_numpy().argmax())]
    one.history["on test"] = [0.5, 0.7, 0.6]
    assert one.chosen("on test") is one.tests[1]


def test_a_last_batch_may_hold_one_case(clinic):
    cohort, volumes, *frozen = clinic
    train = cohort.index[cohort["split"] == "train"]
    few = cohort.assign(split=cohort["split"].mask(cohort.index.isin(train[17:]), "unused"))
    one = data.MemoirDataset(few, volumes, frozen[0])
    assert (few["split"] == "train").sum() == 17  # batches of 16
    history = leakage.retrain_clinical(one, *frozen, seed=0, epochs=2).history
    assert np.isfinite(history["train_loss"]).all()


def test_a_hidden_score_reaches_neither_branch(clinic):
    cohort, volumes, *frozen = clinic
    found = []
    for cdrsb in (cohort["CDRSB"], 18 - cohort["CDRSB"]):
        changed = cohort.assign(CDRSB=cdrsb)
        hidden = data.MemoirDataset(changed, volumes, frozen[0], hide=("CDRSB",))
        hidden.cdrsb = np.zeros(len(cohort), np.float32)  # as a target, it is learned from
        found.append(leakage.retrain_clinical(hidden, *frozen, seed=0, epochs=1).tests[0])
    pd.testing.assert_frame_equal(*(table.drop(columns="CDRSB") for table in found))


def test_a_score_is_hidden_from_the_trained_network(clinic):
    cohort, volumes, scaler, z, present = clinic
    torch.manual_seed(0)
    model = Memoir().eval()
    model.t1 = model.fa = None  # no image is encoded again
    whole = data.MemoirDataset(cohort, volumes, scaler)
    names = {"np": np, "torch": torch, "inference": inference}
    predict_hidden = idea("11", "def predict_hidden", **names)["predict_hidden"]
    seen = predict_hidden(model, whole, scaler, z, present)
    before = z.clone()
    hidden = data.MemoirDataset(cohort, volumes, scaler, hide=SCORES)
    blind = predict_hidden(model, hidden, scaler, z, present)
    assert torch.equal(z, before) and present[:, 2].all()  # the caller's are left alone
    assert seen["case"].tolist() == cohort["case"][cohort["split"] == "test"].tolist()
    assert not np.allclose(seen["p_CN"], blind["p_CN"])
    # By hand: the clinical vector in place of the stored one, all three modalities fused.
    inputs = (torch.from_numpy(a) for a in (whole.scores, whole.known, whole.apoe))
    with torch.no_grad():
        z[:, 2] = model.clinical(*inputs)
        p = model.fuse(z, present)["dx3"].softmax(dim=1)[(cohort["split"] == "test").to_numpy()]
    assert np.allclose(seen[[f"p_{name}" for name in DX]], p, atol=1e-6)
    z.copy_(before)


# --- text -------------------------------------------------------------------------------


def test_a_caption_with_the_diagnosis_ranks_its_own_class_first():
    cohort = pd.DataFrame({"case": range(8), "DX": ["CN", "MCI"] * 4})
    rows = [
        {"case": case, "protocol": protocol, "reranked": [c % 2 + 2 * k for k in range(3)]}
        for case in range(4)
        for protocol, c in (("blind", 0), ("own_caption", case))
    ]
    scores = pd.DataFrame(
        [
            (llm, p, "diagnosis_accuracy", v, v - 0.1, v + 0.1, 4)
            for llm in ("majority of cases", "Gemma (NF4, stand-in)", "MedGemma (4B)")
            for p, v in (("blind", 0.5), ("own_caption", 0.75))
        ][:-1],  # the last model answered one protocol only
        columns=["llm", "protocol", "metric", "value", "low", "high", "n"],
    )
    names = {"retrieved": rows, "cohort": cohort, "llm_scores": scores, "draws": DRAWS}
    found = idea("11", "own caption reranks", **names, pd=pd, metrics=metrics, **ROWS)
    majority, model = found["rows"]
    assert (majority["honest"], majority["leaky"], majority["n"]) == (0.5, 1.0, 4)
    assert model["experiment"] == "own caption reranks, Gemma (NF4, stand-in)"
    assert (model["honest"], model["leaky"], model["metric"]) == (0.5, 0.75, "accuracy")
    assert model["honest_low"] == 0.4 and model["leaky_high"] == 0.85


def test_a_head_remembers_the_captions_that_it_has_read():
    words, width, rng = 40, 48, np.random.default_rng(0)
    said = [rng.integers(5, words, 12).tolist() for _ in range(30)]
    numbers = {f"caption {i}": i for i in range(30)}
    vectors = torch.from_numpy(rng.normal(size=(30, 12, width))).float()

    def collator(tokenizer, mlm_probability, seed):
        def hide(rows):
            draw = np.random.default_rng(seed).random((len(rows), 12)) < 0.4
            owner = torch.tensor([row["number"] for row in rows])
            labels = torch.tensor([said[i] for i in owner])
            batch = {"labels": labels.where(torch.from_numpy(draw), torch.tensor(-100))}
            batch |= {"input_ids": owner, "attention_mask": owner}
            return SimpleNamespace(to=lambda device: batch)

        return hide

    def bert(owner, mask):
        return SimpleNamespace(last_hidden_state=vectors[owner])

    class Encoder(list):
        tokenizer = None

    bert.eval, bert.device = lambda: bert, "cpu"
    encoder = Encoder([SimpleNamespace(auto_model=bert)])
    text = SimpleNamespace(
        MASKED=0.4,
        tokenise=lambda tokenizer, texts: [{"number": numbers[t]} for t in texts],
    )
    captions = [
        {"caption": name, "split": "test" if i < 8 else "train"} for name, i in numbers.items()
    ]
    names = {"np": np, "pd": pd, "torch": torch, "nn": nn, **ROWS}
    names |= {"DataCollatorForLanguageModeling": collator, "text": text, "captions": captions}
    names |= {"encoder": encoder, "book": SimpleNamespace(seed=0)}
    names |= idea("11", "DataCollatorForLanguageModeling(", **names)
    (row,) = idea("11", "def losses", draws=DRAWS, **names)["rows"]
    assert row["metric"] == "loss, hidden words" and row["n"] == 8
    assert row["leaky"] < row["honest"] / 2 and row["gain_low"] > 0


# --- blocks, scans and noise --------------------------------------------------------------


def test_volumes_that_are_alike_give_no_feature(chapter, scanners):
    sex = pd.Series(["Male", "Female"] * 20)
    test = np.arange(40) >= 30
    volumes = np.zeros((40, 12, 12, 12), np.float16)
    volumes[:, :10, :10, :10] = 1
    same = scanners.coarse_voxels(volumes[:1].repeat(40, axis=0), 4)
    assert same.shape == (40, 27)
    with pytest.raises(ValueError, match="needs features"):  # nothing is left, and that is said
        chapter.regression_hits(chapter.usable(same, ~test), sex, test, 0.1)
    assert scanners.coarse_voxels(volumes[:1], 4).iloc[0, 0] == 1.0
    assert scanners.coarse_voxels(volumes[:1], 8).shape == (1, 1)


def test_a_coin_is_read_from_scans_of_the_same_person_only():
    scan_identity = idea("11", "def scan_identity", np=np)["scan_identity"]
    first = np.random.default_rng(0).normal(size=(40, 30))
    people, scans = scan_identity(first, first + 0.01, draws=60, seed=0)
    assert people.shape == scans.shape == (40,)
    assert scans.min() == 1.0 and abs(people.mean() - 0.5) < 0.05
    people, scans = scan_identity(first, first[::-1] * 9, draws=60, seed=0)  # of nobody
    assert abs(scans.mean() - 0.5) < 0.1


def test_features_chosen_on_everybody_are_right_on_noise():
    names = {"np": np, "feature_selection": feature_selection, "linear_model": linear_model}
    honest, leaky = idea("11", "def on_noise", **names)["on_noise"](20, seed=0)
    assert abs(honest.mean() - 0.5) < 0.1 and leaky.mean() > 0.8 and len(leaky) == 20
