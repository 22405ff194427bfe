"""Shapes, masking, and that what is absent has no influence."""

import itertools

import pytest
import torch
from ideas import idea

from memoir_core.model import (
    DROP,
    HEADS,
    Memoir,
    masking_gate,
)

SHAPE = (31, 37, 31)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Memoir().eval()


def batch(present, seed=0):
    generator = torch.Generator().manual_seed(seed)
    present = torch.tensor(present)
    n = len(present)
    return {
        "t1": torch.randn(n, 1, *SHAPE, generator=generator),
        "fa": torch.randn(n, 1, *SHAPE, generator=generator),
        "scores": torch.randn(n, 5, generator=generator),
        "known": torch.ones(n, 5),
        "apoe": torch.arange(n) % 4,
        "present": present,
    }


def test_outputs_have_the_published_shapes(model):
    out = model(batch([[True] * 3] * 2))
    assert out["z_fused"].shape == (2, 512)
    assert out["embeddings"].shape == (2, 3, 512)
    assert torch.allclose(out["embeddings"].norm(dim=-1), torch.ones(2, 3), atol=1e-5)
    for name, width in HEADS.items():
        assert out[name].shape == ((2,) if width == 1 else (2, width))


def test_there_are_about_seventy_million_parameters(model):
    sizes = idea("03", "named_children", model=model)["sizes"]
    assert 65e6 < sizes["total"] < 75e6
    assert sizes["total"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "present", [p for p in itertools.product([False, True], repeat=3) if any(p)]
)
def test_any_subset_works_and_the_absent_cannot_matter(model, present):
    first = batch([present, (True, True, True)])
    second = {k: v.clone() for k, v in first.items()}
    noise = batch([present, present], seed=1)
    for column, names in enumerate((("t1",), ("fa",), ("scores", "known"))):
        if not present[column]:
            for name in names:
                second[name][0] = noise[name][0] * 50
    with torch.no_grad():
        a, b = model(first), model(second)
    for name in ("z_fused", "attention", *HEADS):
        assert torch.equal(a[name], b[name]), name
    assert torch.equal(a["attention"][0] == 0, ~torch.tensor(present))


def test_even_nan_in_an_absent_modality_has_no_influence(model):
    data = batch([[True, False, True]] * 2)
    data["fa"][:] = torch.nan
    with torch.no_grad():
        assert torch.isfinite(model(data)["z_fused"]).all()


def test_nothing_present_is_an_error(model):
    with pytest.raises(ValueError, match="row 1"):
        model(batch([[True, True, True], [False, False, False]]))


def test_a_missing_score_is_not_the_same_as_an_average_one(model):
    data = batch([[False, False, True]] * 2)
    data["scores"][:] = 0
    data["apoe"][:] = 0
    data["known"][1, 0] = 0
    with torch.no_grad():
        z = model(data)["z_fused"]
    assert not torch.allclose(z[0], z[1])


def test_the_gate_drops_as_published_and_never_everything():
    generator = torch.Generator().manual_seed(0)
    present = torch.ones(20000, 3, dtype=torch.bool)
    present[::3, 1] = False
    keep = masking_gate(present, generator)
    assert not (keep & ~present).any() and keep.any(dim=1).all()
    shares = keep[present[:, 1]].float().mean(dim=0)
    for share, drop in zip(shares, DROP.values(), strict=True):
        assert float(share) == pytest.approx(1 - drop, abs=0.02)
    only = torch.tensor([[False, True, False]] * 50)
    assert torch.equal(masking_gate(only, generator), only)
