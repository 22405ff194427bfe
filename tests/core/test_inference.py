"""Encoding once, fusing any subset, predictions in years and points."""

import numpy as np
import pandas as pd
import pytest
import torch
from small import same, weights

from memoir_core import inference
from memoir_core.config import DX, MODALITIES, SUBSETS
from memoir_core.data import MemoirDataset, Scaler
from memoir_core.files import MissingArtefactError, write_json
from memoir_core.model import Memoir

pytestmark = pytest.mark.usefixtures("tiny_net")


@pytest.fixture
def encoded(subjects):
    table, volumes = subjects
    scaler, model = Scaler.fit(table, volumes), Memoir()
    data = MemoirDataset(table, volumes, scaler)
    return model, table, scaler, data, *inference.encode(model, data, 7)


def test_everybody_is_encoded_once_in_order(encoded):
    model, table, _, data, z, present = encoded
    assert z.shape == (40, 3, 32) and not model.training
    assert torch.equal(present, torch.from_numpy(data.present))
    alone = torch.utils.data.default_collate([data[9]])
    with torch.no_grad():
        assert torch.allclose(model.encode(alone)[0], z[9], atol=1e-6)
    assert torch.equal(z.norm(dim=-1) > 0.5, present)
    assert (present[:, 1].numpy() == table["has_fa"]).all()


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_subset_is_what_the_network_says_without_the_others(encoded, subset):
    model, _, _, data, z, present = encoded
    found = inference.fuse(model, z, present, subset)
    batch = torch.utils.data.default_collate([data[i] for i in range(40)])
    keep = torch.tensor([[name in subset for name in MODALITIES]] * 40)
    some = (batch["present"] & keep).any(dim=1)
    part = {name: value[some] for name, value in batch.items()}
    with torch.no_grad():
        wanted = model(part, keep[some])
    for name in ("z_fused", "attention", "dx3", "dx2", "sex", "age", "cdrsb"):
        torch.testing.assert_close(found[name][some], wanted[name], atol=1e-5, rtol=1e-5)
        assert found[name][~some].isnan().all()
    absent = [k for k, name in enumerate(MODALITIES) if name not in subset]
    assert (found["attention"][some][:, absent] == 0).all()


def test_an_unknown_modality_is_named():
    present = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="pet"):
        inference.restrict(present, ("t1", "pet"))
    with pytest.raises(ValueError, match="one or more"):
        inference.restrict(present, ())
    assert inference.restrict(present, ("fa",)).tolist() == [[False, True, False]] * 2


def test_predictions_are_probabilities_years_and_points(encoded, monkeypatch):
    model, table, scaler, _, z, present = encoded
    out = {"dx3": torch.tensor([[0.0, 0.0, np.log(2.0)]]), "dx2": torch.tensor([[0.0, np.log(3)]])}
    out |= {"sex": torch.tensor([[np.log(4.0), 0.0]])}
    out |= {"age": torch.tensor([2.0]), "cdrsb": torch.tensor([-1.0])}
    monkeypatch.setattr(inference, "fuse", lambda *a: {k: v.float() for k, v in out.items()})
    found = inference.predict(model, z[3:4], present[3:4], table.iloc[[3]], scaler).iloc[0]
    assert found["case"] == 3 and found["DX"] == table.loc[3, "DX"]
    assert found[[f"p_{name}" for name in DX]].tolist() == pytest.approx([0.25, 0.25, 0.5])
    assert found["p2_Dementia"] == pytest.approx(0.75) and found["p_Male"] == pytest.approx(0.2)
    assert found["AGE_pred"] == pytest.approx(scaler.age_mean + 2 * scaler.age_std)
    assert found["CDRSB_pred"] == pytest.approx(scaler.cdrsb_mean - scaler.cdrsb_std)


def test_predictions_keep_who_is_who_and_leave_out_who_has_nothing(encoded):
    model, table, scaler, _, z, present = encoded
    test = (table["split"] == "test").to_numpy()
    tables = inference.predict_subsets(model, z[test], present[test], table[test], scaler)
    assert list(tables) == ["+".join(subset) for subset in SUBSETS]
    assert tables["t1"]["case"].tolist() == table.index[test].tolist()
    assert tables["fa"]["case"].tolist() == table.index[test & table["has_fa"]].tolist()
    one = inference.predict(model, z, present, table, scaler, ("fa",)).set_index("case")
    pd.testing.assert_frame_equal(one.loc[tables["fa"]["case"]], tables["fa"].set_index("case"))
    with pytest.raises(ValueError, match="39 subjects do not fit 40"):
        inference.predict(model, z, present, table.head(39), scaler)


def test_a_trained_model_comes_back_as_it_was(subjects, tmp_path):
    model, scaler = Memoir(), Scaler.fit(*subjects)
    inference.save_weights(model, tmp_path / "last.safetensors")
    write_json(tmp_path / "scaler.json", vars(scaler))
    again, stored = inference.load_trained(tmp_path, "last")
    assert same(weights(model), weights(again)) and not again.training
    assert vars(stored) == {k: list(v) if type(v) is tuple else v for k, v in vars(scaler).items()}
    with pytest.raises(MissingArtefactError, match=r"best\.safetensors is missing"):
        inference.load_trained(tmp_path)
    (tmp_path / "best.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"best\.safetensors is damaged or of another model"):
        inference.load_trained(tmp_path)
    inference.save_weights(torch.nn.Linear(2, 2), tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match="of another model"):
        inference.load_trained(tmp_path)
