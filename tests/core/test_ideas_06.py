"""Chapter 6 writes out the mask in front of the fusion: equal to the core's ablation."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ideas import idea

from memoir_core.config import DX, MODALITIES, SUBSETS
from memoir_core.data import MemoirDataset, Scaler
from memoir_core.inference import encode, predict_subsets
from memoir_core.metrics import ablate
from memoir_core.model import Memoir


@pytest.mark.usefixtures("tiny_net")
def test_the_subsets_are_the_cores(subjects, tmp_path):
    table, volumes = subjects
    scaler, model = Scaler.fit(table, volumes), Memoir().eval()
    z, present = encode(model, MemoirDataset(table, volumes, scaler))
    np.savez(tmp_path / "embeddings.npz", z=z, present=present)
    found = idea(
        "06",
        "for subset in SUBSETS",
        **{"np": np, "pd": pd, "torch": torch, "DX": DX, "MODALITIES": MODALITIES},
        **{"SUBSETS": SUBSETS, "cohort": table, "load_trained": lambda *a, **k: (model, scaler)},
        book=SimpleNamespace(label="test", device="cpu", path=lambda *parts: tmp_path / parts[-1]),
    )
    test = (table["split"] == "test").to_numpy()
    predictions = predict_subsets(model, z[test], present[test], table[test], scaler)
    known = ablate(predictions, {}, 10, 0).query("task == 'dx3'").set_index("subset")["value"]
    assert found["by_hand"] == pytest.approx(known.to_dict())
    assert len({round(v, 3) for v in found["by_hand"].values()}) > 1
