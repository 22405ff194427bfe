"""Half precision is used only where its gradients agree."""

import time

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
        if wrong == "turned":  # of the right length, in another direction
            return grad @ weight, (grad.T @ x).roll(1, dims=1), None
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
    monkeypatch.setattr(precision, "is_worth_trying", lambda device: True)


@pytest.mark.parametrize(
    "factor", [None, 1.1, 3.0, 0.4, -1.0, 1e30, float("nan"), float("inf"), "turned"]
)
def test_wrong_gradients_are_found(bf16, capsys, factor):
    layer, x = Layer(factor), torch.randn(4, 16, generator=torch.Generator().manual_seed(1))

    def loss():
        return layer(x).float().square().mean()

    expected = "bf16" if factor in (None, 1.1) else "no"
    assert precision.checked_half_type("cpu", layer, loss) == expected
    assert ("from those of fp32 in weight (" in capsys.readouterr().out) == (expected == "no")


def test_a_copy_is_tried_without_dropout(bf16, monkeypatch):
    class Model(torch.nn.Sequential):
        def forward(self, batch):
            return super().forward(batch["x"])

    model, seen = Model(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)), []

    def tried(device, trial, loss):
        seen.append(trial)
        assert loss().item() == loss().item()
        return "bf16"

    monkeypatch.setattr(precision, "checked_half_type", tried)
    data = [{"x": torch.ones(4)}] * 3
    told = model, torch.nn.Identity(), lambda out, batch: out.sum(), data
    assert precision.choose_precision("cpu", *told) == "bf16"
    assert seen[0] is not model and seen[0][0].training and not seen[0][1].training


@pytest.mark.parametrize(("slower", "expected"), [("fp32", True), ("bf16", False)])
def test_the_type_is_chosen_by_the_clock(monkeypatch, slower, expected):
    def conv3d(x, weight, padding):
        if torch.is_autocast_enabled("cpu") == (slower == "bf16"):
            time.sleep(0.2)
        return weight

    monkeypatch.setattr(precision.F, "conv3d", conv3d)
    before = torch.get_rng_state()
    assert precision.is_worth_trying("cpu") == expected
    assert torch.equal(before, torch.get_rng_state()), "a training would draw other numbers"
    assert precision.is_worth_trying("cuda:0")
