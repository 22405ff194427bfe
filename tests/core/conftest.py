"""Fixtures of the core's unit tests."""

import pytest
import small
import torch

from memoir_core import model


@pytest.fixture
def tiny_net(monkeypatch):
    """The real network, 32 wide, its two image encoders replaced by linear maps."""
    monkeypatch.setattr(model, "EMBEDDING_DIM", 32)
    monkeypatch.setattr(model, "ImageEncoder", small.Encoder)
    torch.manual_seed(0)


@pytest.fixture
def subjects():
    table = small.cohort()
    return table, small.volumes(table)
