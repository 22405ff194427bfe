"""The losses against independent formulations, and their behaviour where something is absent."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_core.losses import (
    IGNORE,
    LOSS_WEIGHTS,
    PairwiseInfoNCE,
    focal_loss,
    info_nce,
    multitask_loss,
)


def unit(n, d=16, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_info_nce_equals_open_clips_formulation():
    a, b, scale = unit(7, seed=1), unit(7, seed=2), torch.tensor(1 / 0.07)
    per_image = scale * a @ b.T  # open_clip: logits_per_image and its transpose, labels 0..N-1
    per_text = per_image.T
    labels = torch.arange(7)
    expected = (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2
    assert torch.allclose(info_nce(a, b, scale), expected, atol=1e-6)


def test_info_nce_equals_a_sum_written_out():
    a, b, scale = unit(3, seed=3), unit(3, seed=4), 5.0
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(3):
            weights = [torch.exp(scale * x[i] @ y[j]) for j in range(3)]
            total -= torch.log(weights[i] / sum(weights))
    assert float(info_nce(a, b, scale)) == pytest.approx(float(total) / 6, abs=1e-6)


def test_the_pairs_are_those_of_different_modalities():
    z = torch.stack([unit(6, seed=s) for s in range(3)], dim=1)
    present = torch.ones(6, 3, dtype=torch.bool)
    present[0, 0] = present[1:3, 1] = False
    loss, scale = PairwiseInfoNCE(), 1 / 0.07
    both = {(a, b): present[:, a] & present[:, b] for a, b in ((0, 1), (0, 2), (1, 2))}
    parts = [info_nce(z[rows, a], z[rows, b], scale) for (a, b), rows in both.items()]
    torch.testing.assert_close(loss(z, present), torch.stack(parts).mean())
    nearly = F.normalize(unit(6)[:, None] + 0.01 * z, dim=-1)  # alike in all modalities
    assert loss(nearly, present) < 0.5 < loss(z, present)


def test_only_rows_with_both_modalities_count():
    z = torch.stack([unit(6, seed=s) for s in range(3)], dim=1)
    present = torch.ones(6, 3, dtype=torch.bool)
    present[2:, 1] = False
    loss = PairwiseInfoNCE()
    noisy = z.clone()
    noisy[2:, 1] = 99.0
    assert loss(z, present) == loss(noisy, present)


def test_nothing_to_compare_gives_zero_with_a_gradient_and_no_nan():
    z = torch.stack([unit(2, seed=s) for s in range(3)], dim=1).requires_grad_()
    present = torch.tensor([[True, False, False], [False, True, True]])
    value = PairwiseInfoNCE()(z, present)
    value.backward()
    assert value == 0 and torch.equal(z.grad, torch.zeros_like(z))


def test_each_pair_has_a_temperature_that_is_learned_and_clipped():
    loss = PairwiseInfoNCE()
    assert loss.log_scale.exp().tolist() == pytest.approx([1 / 0.07] * 3, rel=1e-5)
    z = torch.stack([unit(4, seed=s) for s in range(3)], dim=1)
    present = torch.ones(4, 3, dtype=torch.bool)
    loss(z, present).backward()
    assert loss.log_scale.grad is not None and (loss.log_scale.grad != 0).all()
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    at_limit = loss(z, present)
    pairs = ((0, 1), (0, 2), (1, 2))
    scale = torch.tensor(100.0)
    by_hand = sum(info_nce(z[:, a], z[:, b], scale) for a, b in pairs) / 3
    assert at_limit.item() == pytest.approx(by_hand.item(), rel=1e-5)
    with torch.no_grad():
        loss.log_scale.copy_(torch.tensor([1.0, 2.0, 3.0]))
    apart = [info_nce(z[:, a], z[:, b], math.e**k) for k, (a, b) in enumerate(pairs, 1)]
    assert loss(z, present).item() == pytest.approx(sum(apart).item() / 3, rel=1e-5)


def test_focal_loss_without_focus_is_cross_entropy():
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    target = torch.arange(9) % 3
    assert torch.allclose(focal_loss(logits, target, gamma=0.0), F.cross_entropy(logits, target))
    assert focal_loss(logits, target) < F.cross_entropy(logits, target)


def test_focal_loss_of_a_known_probability():
    logits = torch.tensor([[2.0, 0.0]]).log_softmax(1)
    p = float(logits.exp()[0, 0])
    for gamma in (0.0, 0.5, 2.0):
        wanted = -((1 - p) ** gamma) * torch.log(torch.tensor(p))
        assert focal_loss(logits, torch.tensor([0]), gamma) == pytest.approx(float(wanted), 1e-5)


def test_the_multitask_loss_is_the_weighted_sum_of_five_heads():
    generator = torch.Generator().manual_seed(3)
    out = {name: torch.randn(6, k, generator=generator) for name, k in (("dx3", 3), ("dx2", 2))}
    out |= {"sex": torch.randn(6, 2, generator=generator)}
    out |= {"age": torch.arange(6.0), "cdrsb": torch.zeros(6)}
    batch = {
        "dx3": torch.tensor([0, 1, 2, 0, 1, 2]),
        "dx2": torch.tensor([0, IGNORE, 1, 0, IGNORE, 1]),
        "sex": torch.tensor([0, 1, 0, 1, 1, 0]),
        "age": torch.zeros(6),
        "cdrsb": torch.tensor([0.5, 3.0, torch.nan, 0, 0, 0]),
    }
    found = multitask_loss(out, batch)
    # smooth L1: half a square up to 1, then the distance less a half
    assert found["age"] == pytest.approx((0 + 0.5 + 1.5 + 2.5 + 3.5 + 4.5) / 6)
    assert found["cdrsb"] == pytest.approx((0.125 + 2.5) / 5)
    ends = torch.tensor([0, 2, 3, 5])
    torch.testing.assert_close(found["dx2"], focal_loss(out["dx2"][ends], batch["dx2"][ends]))
    for name in ("dx3", "sex"):
        torch.testing.assert_close(found[name], focal_loss(out[name], batch[name]))
    weights = {"dx3": 1.0, "dx2": 0.5, "sex": 0.2, "age": 0.2, "cdrsb": 0.5}
    assert weights == LOSS_WEIGHTS
    total = sum(weights[name] * float(found[name]) for name in weights)
    assert found["total"] == pytest.approx(total)


def test_ignored_rows_do_not_count():
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([0, 1, IGNORE, IGNORE])
    assert torch.equal(focal_loss(logits, target), focal_loss(logits[:2], target[:2]))
    empty = focal_loss(logits, torch.full((4,), IGNORE))
    empty.backward()
    assert empty == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_the_multitask_loss_is_finite_for_any_missing_targets(seed, n):
    generator = torch.Generator().manual_seed(seed)
    out = {
        name: torch.randn(n, width, generator=generator)
        for name, width in (("dx3", 3), ("dx2", 2), ("sex", 2))
    }
    out |= {name: torch.randn(n, generator=generator) for name in ("age", "cdrsb")}
    dx = torch.randint(0, 3, (n,), generator=generator)
    gaps = torch.rand(n, generator=generator) < 0.5
    batch = {
        "dx3": dx,
        "dx2": torch.where(dx == 1, IGNORE, dx // 2),
        "sex": torch.randint(0, 2, (n,), generator=generator),
        "age": torch.randn(n, generator=generator),
        "cdrsb": torch.where(gaps, torch.nan, torch.randn(n, generator=generator)),
    }
    assert all(torch.isfinite(value) for value in multitask_loss(out, batch).values())
