"""Chapter 3 writes out the masking gate and the fusion: equal to the core's."""

from types import SimpleNamespace

import pytest
import torch
from ideas import idea

from memoir_core.config import MODALITIES
from memoir_core.model import DROP, Memoir, masking_gate

BOOK = SimpleNamespace(seed=5)


def test_the_gate_is_the_cores(capsys):
    found = idea(
        "03", "spare = ", torch=torch, book=BOOK, DROP=DROP, MODALITIES=MODALITIES,
        masking_gate=masking_gate,
    )  # fmt: skip
    keep = masking_gate(torch.ones(20_000, 3, dtype=bool), torch.Generator().manual_seed(5))
    assert torch.equal(found["by_hand"], keep) and found["nothing"].any()
    assert "True" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_net")
def test_the_fusion_is_the_cores(capsys):
    model = Memoir().eval()
    torch.manual_seed(1)
    z = torch.nn.functional.normalize(torch.randn(6, 3, 32), dim=-1)
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]) > 0
    with torch.no_grad():
        for parameter in model.fusion.parameters():  # biases are zero at first
            parameter.add_(0.1 * torch.randn_like(parameter))
        z_fused, attention = model.fusion(z, present)
    found = idea("03", "to_q", torch=torch, model=model, batch={"present": present}, z=z)
    torch.testing.assert_close(found["by_hand"], z_fused, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["weights"].mean(dim=1)[:, 0], attention)
    assert "z_fused equal: True" in capsys.readouterr().out
