"""Half precision is used only where its gradients agree."""

import pytest
import torch

from memoir_core import precision


class Broken(torch.autograd.Function):
    """Right forward, wrong gradient in bf16: what the check exists for."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wrong = 1e30 if torch.is_autocast_enabled("cpu") else 1.0
        return grad @ weight, grad.T @ x * wrong


class Layer(torch.nn.Module):
    def __init__(self, broken):
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(8, 16))
        self.broken = broken

    def forward(self, x):
        if self.broken:
            return Broken.apply(x, self.weight)
        return torch.nn.functional.linear(x, self.weight)


@pytest.fixture
def bf16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})


@pytest.mark.parametrize(("broken", "expected"), [(False, "bf16"), (True, "no")])
def test_wrong_gradients_are_found(bf16, capsys, broken, expected):
    layer, x = Layer(broken), torch.randn(4, 16, generator=torch.Generator().manual_seed(1))

    def loss():
        return layer(x).float().square().mean()

    assert precision.checked_half_type("cpu", layer, loss) == expected
    assert ("weight" in capsys.readouterr().out) == broken


def test_disagreement_names_the_parameter():
    a = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    assert precision.disagreement({"w": a}, {"w": a * 1.1}) == ""
    for wrong in (a * 3, -a, a * float("nan"), a * float("inf")):
        assert "w (" in precision.disagreement({"w": a}, {"w": wrong})
