"""What reaches the network of a subject: standardised inputs, masks and targets."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from memoir_core import data as core
from memoir_core.config import DX, SCORES
from memoir_core.data import APOE_MISSING, IGNORE, FaTogether, MemoirDataset, Scaler, vary


@pytest.fixture
def whole(subjects):
    table, volumes = subjects
    return table, volumes, MemoirDataset(table, volumes, Scaler.fit(table, volumes))


def test_the_scaler_knows_the_train_part_only(subjects):
    table, volumes = subjects
    train = table[table["split"] == "train"]
    found = Scaler.fit(table, volumes)
    assert found.score_mean == pytest.approx([train[name].mean() for name in SCORES])
    assert found.score_std == pytest.approx([train[name].std() for name in SCORES])
    assert found.age_mean == pytest.approx(train["AGE"].mean())
    assert found.age_std == pytest.approx(train["AGE"].std())
    assert (found.cdrsb_mean, found.cdrsb_std) == (found.score_mean[0], found.score_std[0])
    changed = table.copy()
    changed.loc[changed["split"] != "train", ["AGE", "MMSE", "CDRSB"]] = 5.0
    assert Scaler.fit(changed, volumes) == found
    train_only = table.copy()
    train_only["MOCA"] = np.nan  # nobody has it: as in ADNI-1
    assert (
        Scaler.fit(train_only, volumes).score_mean[4] == 0
        and Scaler.fit(train_only, volumes).score_std[4] == 1
    )
    train_only["MMSE"] = 30.0  # of people who differ in nothing: no division by 0
    assert Scaler.fit(train_only, volumes).score_std[3] == 1


def test_parts_hold_their_own_subjects_in_the_order_of_the_cohort(subjects):
    table, volumes = subjects
    scaler = Scaler.fit(table, volumes)
    for part in ("train", "val", "test"):
        data = MemoirDataset(table, volumes, scaler, part)
        assert data.rows.tolist() == table.index[table["split"] == part].tolist()
        assert data.subjects["case"].tolist() == [data[i]["case"] for i in range(len(data))]
    assert len(MemoirDataset(table, volumes, scaler)) == len(table)
    with pytest.raises(ValueError, match="split='all of it'"):
        MemoirDataset(table, volumes, scaler, "all of it")
    with pytest.raises(ValueError, match="40 T1 volumes do not fit 39 subjects"):
        MemoirDataset(table.head(39), volumes, scaler)


def test_inputs_are_standardised_and_what_is_missing_is_flagged(whole):
    table, _, data = whole
    train = table[table["split"] == "train"]
    for i in (0, 7, 31):
        item, row = data[i], table.loc[i]
        for k, name in enumerate(SCORES):
            if np.isnan(row[name]):
                assert item["scores"][k] == 0 and item["known"][k] == 0
            else:
                expected = (row[name] - train[name].mean()) / train[name].std()
                assert item["scores"][k] == pytest.approx(expected, abs=1e-5)
                assert item["known"][k] == 1
    assert data[5]["apoe"] == APOE_MISSING and data[6]["apoe"] == table.loc[6, "APOE4"]
    assert (table[list(SCORES)].isna().to_numpy() == (data.known == 0)).all()


def test_targets(whole):
    table, _, data = whole
    train = table[table["split"] == "train"]
    for i in range(len(data)):
        item, row = data[i], table.loc[i]
        assert DX[item["dx3"]] == row["DX"]
        assert item["dx2"] == {"CN": 0, "MCI": IGNORE, "Dementia": 1}[row["DX"]]
        assert item["sex"] == {"Female": 0, "Male": 1}[row["PTGENDER"]]
        age = (row["AGE"] - train["AGE"].mean()) / train["AGE"].std()
        cdrsb = (row["CDRSB"] - train["CDRSB"].mean()) / train["CDRSB"].std()
        assert item["age"] == pytest.approx(age, abs=1e-5)
        assert item["cdrsb"] == pytest.approx(cdrsb, abs=1e-5, nan_ok=True)


def test_volumes_belong_to_their_subject_and_absent_ones_are_zero(whole):
    table, volumes, data = whole
    train = volumes.fa_row[table.index[(table["split"] == "train") & table["has_fa"]]]
    values = np.array([volumes.fa[row][volumes.inside] for row in train], float)
    mean, std = values.mean(), values.std()
    for i in (0, 3, 8, 39):
        item, has_fa = data[i], bool(table.loc[i, "has_fa"])
        assert torch.equal(item["t1"][0], torch.from_numpy(volumes.t1[i].astype(np.float32)))
        wanted = np.zeros((4, 4, 4))
        if has_fa:
            wanted[volumes.inside] = (volumes.fa[volumes.fa_row[i]][volumes.inside] - mean) / std
        np.testing.assert_allclose(item["fa"][0].numpy(), wanted, atol=1e-5)
        assert item["present"].tolist() == [True, has_fa, True]
        assert item["t1"].shape == item["fa"].shape == (1, 4, 4, 4)


def test_hidden_scores_do_not_reach_the_network(subjects):
    table, volumes = subjects
    data = MemoirDataset(table, volumes, Scaler.fit(table, volumes), "all", ("CDRSB",))
    assert all(data[i]["scores"][0] == 0 and data[i]["known"][0] == 0 for i in range(len(data)))
    assert data.known[:, 1:].any(axis=0).all()
    assert np.isfinite(data.cdrsb).any()  # as a target it stays


def test_nobody_with_nothing_but_images_has_a_clinical_part(subjects):
    table, volumes = subjects
    table.loc[5, list(SCORES)] = np.nan  # its APOE4 is missing as well
    data = MemoirDataset(table, volumes, Scaler.fit(table, volumes))
    assert data.present[5, 2] == False and data.present[6, 2]  # noqa: E712
    table.loc[5, "APOE4"] = 1.0
    assert MemoirDataset(table, volumes, Scaler.fit(table, volumes)).present[5, 2]
    table.loc[5, ["APOE4", "MMSE"]] = np.nan, 28.0  # one score will do
    assert MemoirDataset(table, volumes, Scaler.fit(table, volumes)).present[5, 2]


def test_fa_keeps_its_unit_and_nothing_of_other_parts_enters_its_scale(subjects):
    table, volumes = subjects
    data = MemoirDataset(table, volumes, scaler := Scaler.fit(table, volumes))
    i = int(table.index[table["has_fa"]][0])
    before = data[i]["fa"]
    volumes.fa[volumes.fa_row[table.index[(table["split"] == "test") & table["has_fa"]]]] = 9
    assert Scaler.fit(table, volumes) == scaler
    volumes.fa[volumes.fa_row[i]] *= np.float16(0.5)
    assert not torch.allclose(data[i]["fa"], before, atol=0.05)
    assert (data[i]["fa"][0][~torch.from_numpy(volumes.inside)] == 0).all()
    none = table.assign(split="test")  # nobody in train has FA
    assert (Scaler.fit(none, volumes).fa_mean, Scaler.fit(none, volumes).fa_std) == (0, 1)


def test_steps_hold_fa_together_and_an_epoch_holds_everybody_once():
    has_fa = torch.arange(50) % 5 < 2  # 20 with, 30 without
    sampler = FaTogether(has_fa, 8, torch.Generator().manual_seed(0))
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(50)) and first != second
    shares = [has_fa[first[k : k + 8]].float().mean().item() for k in range(0, 48, 8)]
    assert sorted(shares[:5]) == [0, 0, 0, 1, 1] and 0 < shares[5] < 1
    again = FaTogether(has_fa, 8, torch.Generator().manual_seed(0))
    assert list(again) == first and len(again) == 50
    orders = {tuple(has_fa[order].tolist()) for order in map(list, [sampler] * 9)}
    assert len(orders) > 3  # steps with FA do not all come first


def test_processes_that_feed_a_gpu_make_the_same_batches(subjects):
    """And the CPU, which trains with the same cores, gets none."""
    table, volumes = subjects
    parts = MemoirDataset(table, volumes, Scaler.fit(table, volumes), "train")
    assert core.workers("cpu") == {} and core.workers("cuda:0")["num_workers"] > 0
    plain, fed = (
        list(DataLoader(parts, 5, sampler=range(len(parts) - 1, -1, -1), **how))
        for how in ({}, {"num_workers": 2})
    )
    assert len(plain) == len(fed) > 2
    for one, other in zip(plain, fed, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_training_varies_what_a_second_visit_would(monkeypatch):
    batch = {"scores": torch.zeros(4000, 5), "t1": torch.ones(4, 1, 9, 9, 9), "dx3": torch.ones(4)}
    batch["fa"] = batch["t1"].clone()
    told = []
    monkeypatch.setattr(core, "augment", lambda x, g, most: told.append(most) or 2 * x)
    found = vary(batch, torch.Generator().manual_seed(0))
    assert found["scores"].std().item() == pytest.approx(0.5, abs=0.01)
    assert found["scores"].mean().item() == pytest.approx(0, abs=0.01)
    assert told == [0.1, 0.0]  # a T1 may be brighter; an FA of 0.3 is one of 0.3
    assert (found["t1"] == 2).all() and (found["fa"] == 2).all() and (batch["fa"] == 1).all()
    assert found["dx3"] is batch["dx3"]
