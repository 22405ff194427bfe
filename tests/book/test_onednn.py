"""Products by oneDNN are those of torch, and only where nothing is learned."""

import pytest
import torch
from torch import nn

from memoir_book import onednn

pytestmark = pytest.mark.skipif(onednn.MULTIPLY is None, reason="torch has no oneDNN here")


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(24, 40, bias=False), nn.GELU(), nn.Linear(40, 8))
    made[0].requires_grad_(False)
    return made


def results(net):
    x = torch.linspace(-1, 1, 3 * 5 * 24).reshape(3, 5, 24).requires_grad_()
    y = net(x)
    net.zero_grad()
    y.square().sum().backward()
    return y.detach(), x.grad, net[2].weight.grad


def test_products_and_gradients_are_the_same(net):
    before = results(net)
    onednn.use(net)
    assert "forward" in vars(net[0])  # it is in use
    for one, other in zip(before, results(net), strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_learned_or_not_in_fp32_is_left_alone(net):
    net.append(nn.Linear(8, 2).double().requires_grad_(False))
    onednn.use(net)
    assert "forward" not in vars(net[2]) and "forward" not in vars(net[3])


def test_without_onednn_nothing_changes(net, monkeypatch):
    monkeypatch.setattr(onednn, "MULTIPLY", None)
    onednn.use(net)
    assert "forward" not in vars(net[0])
