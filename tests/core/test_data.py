"""What reaches the network of a subject: standardised inputs, masks and targets."""

import numpy as np
import pytest
import torch

from memoir_core.config import DX, SCORES
from memoir_core.data import APOE_MISSING, IGNORE, MemoirDataset, Scaler


@pytest.fixture
def whole(subjects):
    table, volumes = subjects
    return table, volumes, MemoirDataset(table, volumes, Scaler.fit(table))


def test_the_scaler_knows_the_train_part_only(subjects):
    table, _ = subjects
    train = table[table["split"] == "train"]
    found = Scaler.fit(table)
    assert found.score_mean == pytest.approx([train[name].mean() for name in SCORES])
    assert found.score_std == pytest.approx([train[name].std() for name in SCORES])
    assert found.age_mean == pytest.approx(train["AGE"].mean())
    assert found.age_std == pytest.approx(train["AGE"].std())
    assert (found.cdrsb_mean, found.cdrsb_std) == (found.score_mean[0], found.score_std[0])
    changed = table.copy()
    changed.loc[changed["split"] != "train", ["AGE", "MMSE", "CDRSB"]] = 5.0
    assert Scaler.fit(changed) == found
    train_only = table.copy()
    train_only["MOCA"] = np.nan  # nobody has it: as in ADNI-1
    assert Scaler.fit(train_only).score_mean[4] == 0 and Scaler.fit(train_only).score_std[4] == 1
    train_only["MMSE"] = 30.0  # of people who differ in nothing: no division by 0
    assert Scaler.fit(train_only).score_std[3] == 1


def test_parts_hold_their_own_subjects_in_the_order_of_the_cohort(subjects):
    table, volumes = subjects
    scaler = Scaler.fit(table)
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
    for i in (0, 3, 8, 39):
        item, has_fa = data[i], bool(table.loc[i, "has_fa"])
        assert torch.equal(item["t1"][0], torch.from_numpy(volumes.t1[i].astype(np.float32)))
        wanted = volumes.fa[volumes.fa_row[i]] if has_fa else np.zeros((4, 4, 4))
        assert np.array_equal(item["fa"][0].numpy(), wanted.astype(np.float32))
        assert item["present"].tolist() == [True, has_fa, True]
        assert item["t1"].shape == item["fa"].shape == (1, 4, 4, 4)


def test_hidden_scores_do_not_reach_the_network(subjects):
    table, volumes = subjects
    data = MemoirDataset(table, volumes, Scaler.fit(table), "all", ("CDRSB",))
    assert all(data[i]["scores"][0] == 0 and data[i]["known"][0] == 0 for i in range(len(data)))
    assert data.known[:, 1:].any(axis=0).all()
    assert np.isfinite(data.cdrsb).any()  # as a target it stays


def test_nobody_with_nothing_but_images_has_a_clinical_part(subjects):
    table, volumes = subjects
    table.loc[5, list(SCORES)] = np.nan  # its APOE4 is missing as well
    data = MemoirDataset(table, volumes, Scaler.fit(table))
    assert data.present[5, 2] == False and data.present[6, 2]  # noqa: E712
    table.loc[5, "APOE4"] = 1.0
    assert MemoirDataset(table, volumes, Scaler.fit(table)).present[5, 2]
    table.loc[5, ["APOE4", "MMSE"]] = np.nan, 28.0  # one score will do
    assert MemoirDataset(table, volumes, Scaler.fit(table)).present[5, 2]
