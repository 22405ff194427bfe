"""Chapter 5 writes out two groups of parameters, the loss of five heads, and one step."""

from types import SimpleNamespace

import pytest
import small
import torch
import torch.nn.functional as F
from ideas import idea
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from memoir_core import data, inference, losses, training
from memoir_core.data import MemoirDataset, Scaler
from memoir_core.model import Memoir, masking_gate


@pytest.mark.usefixtures("tiny_net")
@pytest.mark.parametrize("pretrained", [False, True])
def test_the_step_is_that_of_the_training(subjects, tmp_path, monkeypatch, capsys, pretrained):
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
