"""Chapter 4 writes out the loop over pairs, one step, recall and spread: equal to the core's."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import small
import torch
import torch.nn.functional as F
from ideas import idea
from safetensors.torch import load_file
from scipy.stats import binomtest
from torch.utils.data import DataLoader

from memoir_book import shows
from memoir_core import metrics, training
from memoir_core.data import RETEST, FaTogether, MemoirDataset, Scaler
from memoir_core.losses import PairwiseInfoNCE
from memoir_core.model import Memoir, masking_gate
from memoir_core.volumes import augment


def test_the_pairs_are_the_cores(capsys):
    torch.manual_seed(0)
    names = {"torch": torch, "F": F, "math": math, "PairwiseInfoNCE": PairwiseInfoNCE}
    found = idea("04", "in zip(scales", **names)
    assert len(found["losses"]) == 3
    torch.testing.assert_close(found["by_hand"], PairwiseInfoNCE()(found["z"], found["present"]))
    assert "equal to the core's: True" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_net")
def test_the_step_is_that_of_the_training(subjects, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "update_bn", lambda *_: None)  # see test_training
    monkeypatch.setattr(training, "_seeds", lambda how, epoch: [5, 5, 5])
    table, volumes = subjects
    told = {"lr": 1e-2, "batch_size": 16} | {f"drop_{m}": p for m, p in small.DROP.items()}
    training.train_stage1(
        table, volumes, tmp_path / "x", epochs=1, lr=1e-2, batch_size=16, drop=small.DROP, seed=0,
        device="cpu",
    )  # fmt: skip
    book = SimpleNamespace(seed=5, parameters=told)
    names = {"MemoirDataset": MemoirDataset, "Scaler": Scaler, "Memoir": Memoir, "augment": augment}
    names |= {"PairwiseInfoNCE": PairwiseInfoNCE, "masking_gate": masking_gate}
    names |= {"RETEST": RETEST, "FaTogether": FaTogether}
    names |= {"torch": torch, "DataLoader": DataLoader, "cohort": table, "volumes": volumes}
    found = idea("04", "optimizer.step()", book=book, **names)["network"].state_dict()
    for name, value in load_file(tmp_path / "x" / "model.safetensors").items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


# --- collapse, recall and the search, in words --------------------------------------------


def unit(*shape, around=0.0, noise=1.0):
    draw = torch.Generator().manual_seed(1)
    return F.normalize(around + noise * torch.randn(*shape, generator=draw), dim=-1)


def words():
    return idea("04", "def says(", math=math, metrics=metrics, shows=shows)


def test_the_chapter_says_that_an_encoder_has_collapsed():
    """The sentence changes with the embeddings: constant, nearly, and people told apart."""
    says = words()["says"]
    constant = says("fa", metrics.spread(unit(30, 64, around=1, noise=1e-3)) | {"n": 30})
    assert "encoder of FA has collapsed" in constant and "directions" not in constant
    nearly = metrics.spread(unit(30, 64, around=1, noise=0.2)) | {"n": 30}
    assert 0.9 < nearly["mean_cosine"] < 0.99
    assert "has nearly collapsed" in says("fa", nearly) and "directions" in says("fa", nearly)
    apart = says("fa", metrics.spread(torch.eye(6)) | {"n": 30})
    assert "apart in 5.0 directions" in apart and "collapsed" not in apart
    nobody = says("fa", metrics.spread(torch.zeros(1, 8)) | {"n": 30})
    assert "nothing to say" in nobody and "collapsed" not in nobody


def test_a_pair_of_five_people_says_nothing():
    finds = words()["finds"]
    row = {"value": 1.0, "low": 0.5, "high": 1.0, "n": 5, "chance": 1.0}
    assert "can say nothing" in finds("t1_fa", row)
    assert "more often" in finds("fa_clinical", row | {"n": 30, "chance": 0.2})


def test_recall_by_hand_is_the_cores_and_has_an_interval(capsys):
    names = {"math": math, "metrics": metrics, "torch": torch, "F": F, "binomtest": binomtest}
    found = idea("04", "def found_within(", **names)
    assert capsys.readouterr().out.count("core's: True") == 2
    a, b = unit(40, 16), F.normalize(unit(40, 16) + 0.2 * unit(40, 16).flip(0), dim=-1)
    for vectors in (b, a.flip(0), torch.ones(40, 16) / 4, torch.full((40, 16), torch.nan)):
        row = found["found_within"](a, vectors)
        assert row["value"] == metrics.recall_at(a, vectors, (5,))["recall@5"]
        assert row["low"] <= row["value"] <= row["high"] and row["low"] < row["high"]
        assert row["chance"] == 5 / 40 and row["n"] == 40
    interval = found["interval"](8, 10)  # Wilson 1927: 0.49 to 0.94
    assert (interval["low"], interval["high"]) == pytest.approx((0.490, 0.943), abs=1e-3)
    nobody = found["found_within"](a[:0], b[:0])
    assert nobody.pop("n") == 0 and all(math.isnan(value) for value in nobody.values())
    assert found["found_within"](a[:3], b[:3])["chance"] == 1


def test_the_spread_by_hand_is_the_cores_where_there_is_one(capsys):
    idea("04", "def spread_by_hand(", torch=torch, F=F, math=math, metrics=metrics)
    people, line, constant = capsys.readouterr().out.splitlines()
    assert "[True, True, True]" in people and "[True, True, True]" in line
    assert constant.endswith("[True, True, False]")  # no rank of a constant


def searched(**recalls):
    """A made table of the search: variant -> recall@5 of all three pairs, two seeds each."""
    rows = []
    for name, value in recalls.items():
        for seed in (0, 1):
            row = {"variant": name, "epochs": 8, "seed": seed}
            for pair in ("t1_fa", "t1_clinical", "fa_clinical"):
                row |= {f"recall_{pair}": value, f"chance_{pair}": 0.1, f"n_{pair}": 50}
            rows.append(row)
    return pd.DataFrame(rows)


def test_the_search_is_judged_by_its_intervals():
    names = {"math": math, "metrics": metrics, "torch": torch, "F": F, "binomtest": binomtest}
    interval = idea("04", "def found_within(", **names)["interval"]
    pairs = dict.fromkeys(("t1_fa", "t1_clinical", "fa_clinical"))
    found = idea("04", "def pooled(", pd=pd, pairs=pairs, interval=interval)
    pooled, chosen = found["pooled"], found["chosen"]
    table = pooled(searched(book=0.5, wide=0.1))
    assert len(table) == 2 * 3 and (table["n"] == 100).all()
    assert table.loc[("wide, 8 epochs", "t1_fa"), "value"] == pytest.approx(0.1)
    assert "None of them is better" in chosen(table)
    assert "beaten in t1_fa" in chosen(pooled(searched(wide=0.9, book=0.5)))
    assert "In every pair their intervals overlap" in chosen(pooled(searched(book=0.5, half=0.55)))
    assert "does not hold the book's recipe" in chosen(pooled(searched(half=0.5, wide=0.1)))
    assert "does not hold" in chosen(pooled(searched(book=0.5)))
    holes = searched(book=0.5, half=0.6)
    holes[["recall_t1_fa", "chance_t1_fa"]], holes["n_t1_fa"] = float("nan"), 0
    assert pooled(holes)["n"].xs("t1_fa", level="pair").tolist() == [0, 0]
    assert "In every pair" in chosen(pooled(holes))
    unreached = idea("04", "def unreached(")["unreached"]
    table = searched(book=0.5, half=0.12)
    table["recall_fa_clinical"] = 0.11  # of 100 people, chance 0.1
    told = unreached(pooled(table))
    assert "In t1_fa, 1 of 2 recipes beat" in told and "t1_clinical, none" not in told
    assert "In fa_clinical, none of 2 recipes" in told
    assert unreached(pooled(holes)).count("none of") == 1  # nobody has the pair
