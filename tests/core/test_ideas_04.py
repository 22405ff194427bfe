"""Chapter 4 writes out the loop over pairs and one training step: equal to the core's."""

from types import SimpleNamespace

import pytest
import small
import torch
import torch.nn.functional as F
from ideas import idea
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from memoir_core import training
from memoir_core.data import RETEST, FaTogether, MemoirDataset, Scaler
from memoir_core.losses import PairwiseInfoNCE
from memoir_core.model import Memoir, masking_gate
from memoir_core.volumes import augment


def test_the_pairs_are_the_cores(capsys):
    torch.manual_seed(0)
    found = idea("04", "in zip(scales", torch=torch, F=F, PairwiseInfoNCE=PairwiseInfoNCE)
    assert len(found["losses"]) == 3
    torch.testing.assert_close(found["by_hand"], PairwiseInfoNCE()(found["z"], found["present"]))
    assert "equal to the core's: True" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_net")
def test_the_step_is_that_of_the_training(subjects, tmp_path, monkeypatch):
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
