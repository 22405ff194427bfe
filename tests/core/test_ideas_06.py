"""Chapter 6 writes out the mask in front of the fusion, thresholds, probes, and a fair fight."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ideas import idea
from monai.visualize import OcclusionSensitivity
from nilearn import datasets
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from memoir_core import volumes
from memoir_core.config import DX, MODALITIES, SUBSETS
from memoir_core.data import MemoirDataset, Scaler
from memoir_core.inference import encode, predict_subsets
from memoir_core.metrics import ablate, bootstrap, heads, redraw
from memoir_core.model import Memoir, masking_gate


@pytest.mark.usefixtures("tiny_net")
def test_the_subsets_are_the_cores(subjects, tmp_path):
    table, volumes = subjects
    scaler, model = Scaler.fit(table, volumes), Memoir().eval()
    z, present = encode(model, MemoirDataset(table, volumes, scaler))
    np.savez(tmp_path / "embeddings.npz", z=z, present=present)
    found = idea(
        "06",
        "by_hand = {}",
        **{"np": np, "pd": pd, "torch": torch, "DX": DX, "MODALITIES": MODALITIES},
        **{"SUBSETS": SUBSETS, "cohort": table, "load_trained": lambda *a, **k: (model, scaler)},
        book=SimpleNamespace(label="test", device="cpu", path=lambda *parts: tmp_path / parts[-1]),
    )
    test = (table["split"] == "test").to_numpy()
    predictions = predict_subsets(model, z[test], present[test], table[test], scaler)
    known = ablate(predictions, {}, 10, 0).query("task == 'dx3'").set_index("subset")["value"]
    assert found["by_hand"] == pytest.approx(known.to_dict())
    assert len({round(v, 3) for v in found["by_hand"].values()}) > 1


def test_what_training_meets_is_what_the_gate_shows():
    rng = np.random.default_rng(0)
    there = np.c_[np.ones(40, bool), rng.random(40) < 0.4, rng.random(40) < 0.8]
    drop = {"t1": 0.5, "fa": 0.3, "clinical": 0.2}
    names = {"np": np, "pd": pd, "MODALITIES": MODALITIES, "SUBSETS": SUBSETS}
    met = idea("06", "def met_in_training", **names)["met_in_training"](there, drop)
    present, generator = (
        torch.from_numpy(np.tile(there, (5000, 1))),
        torch.Generator().manual_seed(0),
    )
    keep = masking_gate(present, generator, drop).numpy()
    for name, expected in met.items():
        wanted = [m in name.split("+") for m in MODALITIES]
        assert (keep == wanted).all(axis=1).sum() / 5000 == pytest.approx(expected, abs=0.15), name
    assert met.sum() == pytest.approx(40)


fit_thresholds = idea(
    "06", "def fit_thresholds", np=np, minimize=minimize, logsumexp=logsumexp
)["fit_thresholds"]  # fmt: skip
refit = idea(
    "06", "def refit", np=np, DX=DX, heads=heads, softmax=softmax, predictions={},
    fit_thresholds=fit_thresholds,
)["refit"]  # fmt: skip


def said(n, shift=(0.0, 0.0, 0.0), skill=2.0, seed=0):
    """A table of predictions whose three-class head is off its thresholds by `shift`."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=[0.3, 0.5, 0.2])
    male = rng.random(n) < 0.5
    p = softmax(rng.normal(size=(n, 3)) + skill * np.eye(3)[truth] + shift, axis=1)
    p2 = softmax(rng.normal(size=(n, 3)) + skill * np.eye(3)[truth], axis=1)[:, 2]
    table = pd.DataFrame(p, columns=[f"p_{name}" for name in DX])
    logit = skill * (2.0 * male - 1) + rng.normal(size=n) + 5  # nearly all "male"
    more = {"p2_Dementia": p2, "p_Male": 1 / (1 + np.exp(-logit)), "DX": np.array(DX)[truth]}
    more |= {"PTGENDER": np.where(male, "Male", "Female"), "AGE": 70.0, "CDRSB": 1.0}
    return table.assign(**more, case=range(n), AGE_pred=70.0, CDRSB_pred=1.0)


def test_thresholds_are_those_of_a_weighted_logistic_regression():
    rng = np.random.default_rng(0)
    truth = (rng.random(400) < 0.2).astype(int)
    logit = 1.5 * truth + rng.normal(size=400) + 3
    log_p = np.column_stack([-np.logaddexp(0, logit), -np.logaddexp(0, -logit)])
    slope, bias = fit_thresholds(log_p, truth)
    known = LogisticRegression(C=1e6, class_weight="balanced").fit(logit[:, None], truth)
    assert slope == pytest.approx(known.coef_[0, 0], abs=0.02)
    assert bias[1] - bias[0] == pytest.approx(known.intercept_[0], abs=0.05)


def test_a_shift_of_the_thresholds_is_found_and_taken_back():
    shift = np.array([-6.0, 0.0, 9.0])
    val, test = said(200, shift), said(400, shift, seed=1)
    raw, new = (ablate({"t1": t}, {}, 20, 0).set_index("task") for t in (test, refit(val, test)))
    assert raw.loc["dx3", "one_class"] == "Dementia" and new.loc["dx3", "one_class"] == ""
    assert raw.loc["dx3", "value"] == pytest.approx(1 / 3)
    unshifted = ablate({"t1": said(400, seed=1)}, {}, 20, 0).set_index("task")
    assert new.loc["dx3", "value"] > unshifted.loc["dx3", "value"] - 0.03 > 0.6
    assert raw.loc["sex", "value"] < 0.6 and new.loc["sex", "value"] > 0.9
    assert new.loc["sex", "auc"] == pytest.approx(raw.loc["sex", "auc"])  # order is kept
    assert new.loc["dx2", "auc"] == pytest.approx(raw.loc["dx2", "auc"])


@pytest.mark.filterwarnings("error")
def test_thresholds_of_too_few_stay_as_they_are():
    test = said(50, seed=1)
    columns = [c for c in test if c.startswith("p")]
    for val in (said(2), said(0), said(60).query("DX == 'MCI'")):
        new = refit(val.assign(PTGENDER="Male"), test)
        np.testing.assert_allclose(new[columns], test[columns], atol=1e-6)
    separable = log_softmax(np.array([[9.0, 0], [9, 0], [-9, 0], [-9, 0]]), axis=1)
    slope, bias = fit_thresholds(separable, np.array([0, 0, 1, 1]))
    assert 0 < slope < 100 and np.abs(bias).max() < 100
    slope, _ = fit_thresholds(separable, np.array([1, 1, 0, 0]))  # wrong on validation
    assert slope == pytest.approx(0.01)  # not turned around


def test_a_paired_gain_is_the_difference_of_the_values_and_narrower():
    found = idea("06", "def paired", np=np, heads=heads, bootstrap=bootstrap)
    one, other = said(300), said(300, (-3.0, 0.0, 0.0))
    gain = found["paired"](one, other, "dx3", 200, 0)
    a, b = (ablate({"x": t}, {}, 200, 0).set_index("task").loc["dx3"] for t in (one, other))
    assert gain["value"] == pytest.approx(b["value"] - a["value"])
    assert gain["high"] < 0 and found["side"](gain["low"], gain["high"]) == "worse"
    same = found["paired"](one, one, "sex", 50, 0)
    assert same == {"value": 0, "low": 0, "high": 0}
    assert found["side"](0, 0) == found["side"](-0.1, 0.2) == "not told apart"
    assert found["side"](-1 / 3, -1 / 3) == found["side"](0.2, 0.2) == "not told apart"
    assert found["side"](0.01, 0.2) == "better"
    assert found["side"](np.nan, np.nan) == "not told apart"


SKLEARN = {
    **{"np": np, "pd": pd, "DummyClassifier": DummyClassifier, "Ridge": Ridge},
    **{"LogisticRegression": LogisticRegression, "make_pipeline": make_pipeline},
    "StandardScaler": StandardScaler,
}


@pytest.mark.filterwarnings("error")
def test_a_probe_learns_from_train_chooses_on_validation_and_never_sees_test():
    linear_probe = idea("06", "def linear_probe", **SKLEARN)["linear_probe"]
    rng, n = np.random.default_rng(0), 300
    part = np.array(["train"] * 180 + ["val"] * 60 + ["test"] * 60)
    y = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 40)) + 2 * np.eye(40)[y]
    test = part == "test"
    model = linear_probe(x, y, part)
    assert balanced_accuracy_score(y[test], model.predict(x[test])) > 0.75
    x2, y2 = np.where(test[:, None], 9, x), np.where(test, 0, y)
    again = linear_probe(x2, y2, part)
    assert np.array_equal(again[-1].coef_, model[-1].coef_)
    noise = linear_probe(rng.normal(size=(n, 40)), y, part)
    assert noise[-1].C <= model[-1].C
    age = 70 + 5 * x[:, 7] + rng.normal(size=n)
    line = linear_probe(x, age, part)
    assert r2_score(age[test], line.predict(x[test])) > 0.85
    nobody = np.where(part == "val", "none", part)
    assert linear_probe(x, y, nobody)[-1].C == 1e-4  # the strictest
    one = linear_probe(x, y * 0, part)
    assert (one.predict(x[test]) == 0).all()


@pytest.mark.filterwarnings("error")
def test_probes_of_few_subjects_give_whole_tables():
    linear_probe = idea("06", "def linear_probe", **SKLEARN)["linear_probe"]
    rng, n = np.random.default_rng(0), 40
    cohort = pd.DataFrame({"case": range(n), "DX": np.array(DX)[np.arange(n) % 3]})
    cohort["PTGENDER"] = np.where(np.arange(n) % 2, "Male", "Female")
    cohort["AGE"], cohort["CDRSB"] = rng.normal(73, 5, n), 1.0
    cohort["split"] = ["train"] * 25 + ["val"] * 5 + ["test"] * 10
    names = {"cohort": cohort, "np": np, "DX": DX, "linear_probe": linear_probe}
    probed = idea("06", "def probed", **names)["probed"]
    there = (np.arange(n) % 3 == 0) | (np.arange(n) > 32)  # train and val: CN only
    table = probed(rng.normal(size=(n, 8)), there)
    assert len(table) == there[30:].sum() and (table["p_CN"] == 1).all()
    assert ablate({"fa": table}, {}, 10, 0)["one_class"].tolist()[:2] == ["CN", "CN"]


@pytest.mark.filterwarnings("error")
def test_r2_has_an_interval_that_holds_it():
    rng = np.random.default_rng(0)
    y = rng.normal(70, 5, 90)
    x = rng.normal(size=(90, 4))
    names = {"np": np, "pd": pd, "redraw": redraw, "MODALITIES": (), "cohort": y}
    kept = {"z": x[:, None], "z_fused": x, "present": np.ones((90, 1), bool)}
    r2 = idea("06", "def r2_interval", **names, kept=kept, probed=lambda x, there: x)["r2_interval"]
    answers = y + rng.normal(0, 3, 90)
    found = r2(y, answers, 300, 0)
    assert found["value"] == pytest.approx(r2_score(y, answers))
    assert found["low"] < found["value"] < found["high"]
    assert np.isnan(r2(y[:1], answers[:1], 20, 0)["value"])


def test_the_rate_is_the_one_that_validation_likes_best_after_short_trials():
    fair_rate = idea("06", "def fair_rate", np=np)["fair_rate"]
    told = []

    def train(rate, epochs):
        told.append((rate, epochs))
        if rate == 1.0:
            raise RuntimeError("the loss is nan in x epoch 1/2: lower the learning rate")
        return rate

    scores = {1e-5: 0.5, 1e-4: 0.8, 1e-3: 0.7, 1.0: 0.9}
    best, found = fair_rate([1e-3, 1e-5, 1e-4, 1.0], 30, train, scores.get)
    assert best == 1e-4 and found == {**scores, 1.0: 0.0}
    assert told == [(rate, 10) for rate in (1e-5, 1e-4, 1e-3, 1.0)]
    assert fair_rate([1e-3, 1e-4], 2, train, lambda rate: np.nan)[0] == 1e-4
    assert told[-1][1] == 1

    def full(rate, epochs):
        raise RuntimeError("the GPU ran out of memory")

    with pytest.raises(RuntimeError, match="memory"):
        fair_rate([1e-3], 3, full, scores.get)


def test_occlusion_finds_the_only_region_that_counts():
    class Corner(torch.nn.Module):
        """Diagnoses Dementia from the mean of one corner, and nothing else."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def t1(self, volume):
            return volume[:, :, :6, :6, :6].mean(dim=(1, 2, 3, 4))[:, None].expand(-1, 512)

        def fuse(self, embeddings, present):
            assert present[:, 0].all() and not present[:, 1:].any()
            score = embeddings[:, 0, 0] * self.weight
            return {"dx3": torch.stack([score * 0, score * 0, 4 * score], dim=1)}

    ones = np.ones((2, 18, 18, 18), np.float16)
    written = idea(
        "06", "class T1Only", torch=torch, np=np, OcclusionSensitivity=OcclusionSensitivity
    )

    def mapped(*shift):
        network = written["T1Only"](Corner(), *shift).eval()
        return written["occlusion_map"](network, ones, 2, 6, "cpu")

    found = mapped()
    assert found.shape == (18, 18, 18)
    assert found[:6, :6, :6].mean() > 5 * abs(found[12:, 12:, 12:]).mean()
    # Where the head is off its threshold, a probability of nearly 0 cannot fall; a bias mends it.
    off, mended = mapped(1.0, (9, 0, -9)), mapped(2.0, (6, 0, 0))
    assert abs(off).max() < 1e-5 and mended.max() > 2 * found.max()


@pytest.fixture
def places():
    names = {name: getattr(volumes, name) for name in ("AFFINE", "GRID", "GRID_MM", "on_grid")}
    return idea("06", "def largest_fall", np=np, torch=torch, datasets=datasets, **names)


def test_the_largest_fall_is_placed_in_millimetres(places):
    values = np.zeros((91, 109, 91))
    values[45 + 11, 54, 40] = -0.4  # 2 mm voxels; the middle one lies at 0, -18, 18
    found = places["largest_fall"](values)
    assert [found[k] for k in ("fall", "x", "y", "z")] == pytest.approx([-0.4, 22, -18, 8])
    assert abs(found["mirror"]) < 0.01
    both = places["largest_fall"](values + values[::-1])
    assert both["mirror"] == pytest.approx(1)
    half = places["largest_fall"](np.pad([[[1.0]]], ((0, 1), (0, 0), (0, 0))))
    assert half["x"] == pytest.approx(-45.5)  # the middle of the left half
    assert np.isnan(places["largest_fall"](np.zeros((4, 4, 4)))["mirror"])


def test_the_template_lies_where_volumes_lie(places):
    found = places["template"]((91, 109, 91))
    assert found.shape == (91, 109, 91) and found.dtype == np.float32
    image = datasets.load_mni152_template(resolution=2)
    values = image.get_fdata()
    for mm in ((30, -40, 20), (-44, 10, 0), (0, 50, 10)):
        own = found[tuple(np.add(mm, (90, 126, 72)) // 2)]
        voxel = (np.linalg.inv(image.affine) @ [*mm, 1])[:3].round().astype(int)
        assert own == pytest.approx(values[tuple(voxel)], abs=1e-3)
    assert places["template"]((5, 6, 5)).shape == (5, 6, 5)
