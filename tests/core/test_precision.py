"""Half precision is used only where its gradients agree."""

import pytest
import torch

from memoir_core import precision


class Broken(torch.autograd.Function):
    """Right forward, wrong gradient in bf16: what the check exists for."""

    @staticmethod
    def forward(ctx, x, weight, factor):
        ctx.save_for_backward(x, weight)
        ctx.factor = factor
        return x @ weight.T

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wrong = ctx.factor if torch.is_autocast_enabled("cpu") else 1.0
        return grad @ weight, grad.T @ x * wrong, None


class Layer(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(8, 16))
        self.factor = factor

    def forward(self, x):
        if self.factor:
            return Broken.apply(x, self.weight, self.factor)
        return torch.nn.functional.linear(x, self.weight)


@pytest.fixture
def bf16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})


@pytest.mark.parametrize("factor", [None, 1.1, 3.0, 0.4, -1.0, 1e30, float("nan"), float("inf")])
def test_wrong_gradients_are_found(bf16, capsys, factor):
    layer, x = Layer(factor), torch.randn(4, 16, generator=torch.Generator().manual_seed(1))

    def loss():
        return layer(x).float().square().mean()

    expected = "bf16" if factor in (None, 1.1) else "no"
    assert precision.checked_half_type("cpu", layer, loss) == expected
    assert ("from those of fp32 in weight (" in capsys.readouterr().out) == (expected == "no")
