"""The losses against independent formulations, and their behaviour where something is absent."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_core.losses import IGNORE, PairwiseInfoNCE, focal_loss, info_nce, multitask_loss


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


def test_the_temperature_is_learned_and_clipped():
    loss = PairwiseInfoNCE()
    assert loss.log_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-5)
    z = torch.stack([unit(4, seed=s) for s in range(3)], dim=1)
    present = torch.ones(4, 3, dtype=torch.bool)
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    at_limit = loss(z, present)
    with torch.no_grad():
        loss.log_scale.fill_(20.0)
    assert torch.equal(at_limit, loss(z, present))


def test_focal_loss_without_focus_is_cross_entropy():
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    target = torch.arange(9) % 3
    assert torch.allclose(focal_loss(logits, target, gamma=0.0), F.cross_entropy(logits, target))
    assert focal_loss(logits, target) < F.cross_entropy(logits, target)


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
