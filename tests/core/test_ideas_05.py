"""Chapter 5 writes out two groups of parameters, the loss of five heads, one step; calibration
with its null, temperature, and rivals without a network."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import small
import torch
import torch.nn.functional as F
from ideas import idea
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader

from memoir_core import data, inference, losses, training
from memoir_core.config import DX, SCORES
from memoir_core.data import MemoirDataset, Scaler
from memoir_core.model import Memoir, masking_gate


@pytest.mark.usefixtures("tiny_net")
@pytest.mark.parametrize("pretrained", [False, True])
def test_the_step_is_that_of_the_training(subjects, tmp_path, monkeypatch, capsys, pretrained):
    monkeypatch.setattr(training, "update_bn", lambda *_: None)  # see test_training
    monkeypatch.setattr(training, "_seeds", lambda how, epoch: [5, 5, 5])
    table, volumes = subjects
    start = tmp_path / "stage1" / "model.safetensors"
    inference.save_weights(Memoir(), start)
    rates = {"lr_backbone": 1e-3, "lr_heads": 1e-2}
    training.train_stage2(
        table, volumes, tmp_path / "x", start=start if pretrained else None, epochs=1, **rates,
        batch_size=16, drop=small.DROP, seed=0, device="cpu",
    )  # fmt: skip
    told = {"pretrained": pretrained, "batch_size": 16}
    told |= {f"drop_{m}": p for m, p in small.DROP.items()}
    names = {
        "book": SimpleNamespace(
            seed=5,
            parameters=told,
            profile=SimpleNamespace(**rates),
            path=lambda *parts: tmp_path.joinpath(*parts),
        ),
        **{"torch": torch, "F": F, "DataLoader": DataLoader, "cohort": table, "volumes": volumes},
        **{"MemoirDataset": MemoirDataset, "Scaler": Scaler, "Memoir": Memoir},
        **{"data": data},
        **{"masking_gate": masking_gate, "load_weights": inference.load_weights},
        **{"focal_by_hand": losses.focal_loss, "multitask_loss": losses.multitask_loss},
        "LOSS_WEIGHTS": losses.LOSS_WEIGHTS,
    }
    groups = idea("05", "groups = [", **names)
    found = idea("05", "optimizer.step()", **groups)
    assert "equal to the core's: True" in capsys.readouterr().out
    weights = found["network"].state_dict()
    for name, value in load_file(tmp_path / "x" / "last.safetensors").items():
        torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=1e-4, msg=name)
    counts = [sum(p.numel() for p in group["params"]) for group in found["groups"]]
    assert sum(counts) == sum(p.numel() for p in found["network"].parameters())


calibration = idea("05", "def calibration_error", np=np)
fit_temperature = idea(
    "05", "def fit_temperature", np=np, minimize_scalar=minimize_scalar, logsumexp=logsumexp
)["fit_temperature"]


def ece_by_histogram(truth, p):
    """The same by sums over bins, as other libraries do."""
    edges = np.linspace(0, 1, 11)
    n, _ = np.histogram(p, edges)
    gaps = np.histogram(p, edges, weights=p)[0] - np.histogram(p, edges, weights=1.0 * truth)[0]
    return np.abs(gaps).sum() / n.sum()


def test_the_null_is_that_of_a_calibrated_model():
    """Another random stream and another formula: the same mean and the same 95th percentile."""
    rng = np.random.default_rng(7)
    p = rng.beta(0.3, 0.3, 68)  # as sure as the binary head is
    found = calibration["calibration_null"](p, 2000, 0)
    other = [ece_by_histogram(rng.binomial(1, p), p) for _ in range(2000)]
    assert found.mean() == pytest.approx(np.mean(other), rel=0.03)
    assert np.quantile(found, 0.95) == pytest.approx(np.quantile(other, 0.95), rel=0.06)
    assert found.mean() > 0.05  # not 0, though calibrated
    assert calibration["calibration_null"](np.repeat(p, 30), 200, 0).mean() < 0.3 * found.mean()


def test_a_calibrated_model_passes_in_95_of_100_and_an_overconfident_one_does_not():
    rng = np.random.default_rng(3)
    ece, null = calibration["calibration_error"], calibration["calibration_null"]
    passes, caught = 0, 0
    for seed in range(200):
        p = rng.uniform(0.4, 0.95, 70)
        limit = np.quantile(null(p, 200, seed), 0.95)
        passes += ece(rng.random(70) < p, p) <= limit
        caught += ece(rng.random(70) < p - 0.25, p) > limit
    assert 0.90 < passes / 200 < 0.99 and caught / 200 > 0.8


def test_the_temperature_is_the_one_that_was_put_in():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3))
    p = np.exp(log_softmax(logits, axis=1))
    truth = np.array([rng.choice(3, p=row) for row in p])
    for t in (0.5, 1.0, 3.0):
        said = log_softmax(logits / t, axis=1)  # at T = 1 / t they are calibrated again
        found = fit_temperature(said, truth)
        assert found == pytest.approx(1 / t, rel=0.1)
        losses = [log_loss(truth, np.exp(log_softmax(said / x, axis=1))) for x in (found, 1.0)]
        assert losses[0] <= losses[1] + 1e-9
    assert 0.04 < fit_temperature(np.log(np.eye(3) * 0.9 + 0.03), np.arange(3)) < 1  # no end


@pytest.mark.filterwarnings("error")
def test_rivals_see_what_they_are_named_after_and_are_asked_on_test_only():
    names = {
        **{"np": np, "pd": pd, "DX": DX, "SCORES": SCORES, "SimpleImputer": SimpleImputer},
        **{"LogisticRegression": LogisticRegression, "StandardScaler": StandardScaler},
        **{"HistGradientBoostingClassifier": HistGradientBoostingClassifier},
        "make_pipeline": make_pipeline,
    }
    rivals = idea("05", "def rivals", **names)["rivals"]
    rng, n = np.random.default_rng(0), 240
    dx = np.array(DX)[np.arange(n) % 3]
    code = np.arange(n) % 3
    cohort = pd.DataFrame(rng.normal(size=(n, 6)), columns=[*SCORES, "APOE4"])
    cohort["DX"], cohort["split"] = dx, np.where(np.arange(n) < 150, "train", "test")
    cohort["has_fa"] = code == 0
    cohort.loc[code == 1, "MOCA"] = np.nan  # presence gives all away, the values nothing
    noise = pd.DataFrame({"ventricle_share": rng.normal(size=n), "fornix_fa": np.nan})
    found = rivals(cohort, noise)
    assert [len(found[task]) for task in ("dx3", "dx2")] == [90, 60]
    hit = {name: (found["dx3"][name] == found["dx3"]["DX"]).mean() for name in found["dx3"]}
    assert hit["presence only, regression"] == 1
    assert hit["scores, regression"] < 0.6 and hit["ventricle and fornix, regression"] < 0.6
    assert set(found["dx2"]["scores, boosting"]) <= {"CN", "Dementia"}
    upside = cohort.assign(DX=np.where(cohort["split"] == "test", np.roll(dx, 1), dx))
    same = rivals(upside, noise)["dx3"]["presence only, regression"]
    assert same.tolist() == found["dx3"]["presence only, regression"].tolist()


def test_the_answer_of_the_least_focal_loss():
    """Gamma 0 says the truth; larger ones less, by the core's own loss."""
    names = {"np": np}
    best_answer = idea("05", "def best_answer", **names)["best_answer"]
    true = np.array([0.1, 0.5, 0.8, 0.95])
    assert best_answer(true, 0.0) == pytest.approx(true, abs=0.001)
    target = torch.tensor([0, 1])
    for gamma in (1.0, 2.0):
        said = best_answer(true, gamma)
        assert (abs(said - 0.5) <= abs(true - 0.5)).all() and said[2] > 0.5 > said[0]
        for t, p in zip(true, said, strict=True):

            def expected(q, t=t, gamma=gamma):
                logits = torch.tensor([[q, 1 - q], [q, 1 - q]]).log()
                each = [losses.focal_loss(logits[[i]], target[[i]], gamma) for i in (0, 1)]
                return t * float(each[0]) + (1 - t) * float(each[1])

            found = minimize_scalar(expected, bounds=(0.001, 0.999), method="bounded")
            assert p == pytest.approx(found.x, abs=0.003)
