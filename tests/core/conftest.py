"""Fixtures of the core's unit tests."""

import pytest
import small
import torch
from people import people
from tinysearch import N, embeddings

from memoir_core import model, retrieval


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


@pytest.fixture(scope="module")
def table():
    """N people, for the search."""
    return people(N)


@pytest.fixture(scope="module")
def z():
    """Their embeddings (N, 512)."""
    return embeddings()


@pytest.fixture
def train(table):
    return table.loc[table["split"] != "test", "case"].to_numpy()


@pytest.fixture
def index(table, z, train):
    return retrieval.build_index(z[train], train, table)
