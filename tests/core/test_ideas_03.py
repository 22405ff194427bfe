"""Chapter 3 writes out encoders, masking gate and fusion: equal to the core's."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from ideas import idea
from torch import nn

from memoir_core.config import MODALITIES
from memoir_core.model import DROP, ClinicalEncoder, ImageEncoder, Memoir, masking_gate

BOOK = SimpleNamespace(seed=5)


def moved(module):
    """Biases are zero at first, and would hide that one is left out."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def test_the_gate_is_the_cores(capsys):
    found = idea(
        "03", "spare = ", torch=torch, pd=pd, book=BOOK, DROP=DROP, MODALITIES=MODALITIES,
        masking_gate=masking_gate,
    )  # fmt: skip
    keep = masking_gate(torch.ones(20_000, 3, dtype=bool), torch.Generator().manual_seed(5))
    assert torch.equal(found["by_hand"], keep) and found["nothing"].any()
    assert not found["by_hand"][found["some"]].all(dim=1).any() and len(found["some"]) == 4
    assert "True" in capsys.readouterr().out


def test_the_encoders_are_the_cores():
    names = idea("03", "class Clinical", torch=torch, nn=nn, F=F)
    torch.manual_seed(1)
    core, scores, known = moved(ImageEncoder()), torch.randn(6, 5), torch.rand(6, 5).round()
    head = names["Head"]().eval()
    core.centre.running_mean += torch.randn(512)
    left = head.load_state_dict(core.state_dict(), strict=False)
    assert not left.missing_keys and all(k.startswith("backbone") for k in left.unexpected_keys)
    features = torch.randn(6, 512)
    core.backbone = nn.Identity()
    torch.testing.assert_close(head(features), core(features))
    core, clinical = moved(ClinicalEncoder()), names["Clinical"]().eval()
    core.mlp[5].running_mean += torch.randn(256)
    clinical.load_state_dict(core.state_dict())
    asked = scores, known, torch.arange(6) % 4
    torch.testing.assert_close(clinical(*asked), core(*asked))


def test_the_toys_print_what_the_text_says(capsys):
    before = idea("03", "cosines before", torch=torch, nn=nn, F=F)["same"]
    assert (before @ before.T).min() > 0.98  # "all close to 1"
    found = idea("03", "scaled_dot_product_attention", torch=torch, F=F)
    assert found["w"][0, 1] == 0 and found["w"].sum() == pytest.approx(1)
    assert "equal to torch's: True" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_net")
def test_the_fusion_is_the_cores():
    core = Memoir().fusion
    torch.manual_seed(1)
    z = F.normalize(torch.randn(6, 3, 32), dim=-1)
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]) > 0
    moved(core)
    fusion = idea("03", "class Fusion", torch=torch, nn=nn)["Fusion"](32).eval()
    fusion.load_state_dict(core.state_dict())
    by_hand, weights = fusion(z, present)
    z_fused, attention = core(z, present)
    torch.testing.assert_close(by_hand, z_fused)
    torch.testing.assert_close(weights.mean(dim=1), attention)
    assert weights.shape == (6, 8, 3)
