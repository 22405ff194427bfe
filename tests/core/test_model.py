"""Shapes, masking, and that what is absent has no influence."""

import copy
import itertools

import pytest
import torch
from ideas import idea

from memoir_core.model import (
    DROP,
    HEADS,
    ClinicalEncoder,
    Fusion,
    ImageEncoder,
    MatrixConv,
    Memoir,
    masking_gate,
)

SHAPE = (23, 28, 23)


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


# --- the parts, each written out once more ----------------------------------------------


def test_published_drop_rates():
    assert DROP == {"t1": 0.10, "fa": 0.30, "clinical": 0.05}


def test_the_gate_keeps_one_at_random_where_all_would_go():
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, False]] * 500)
    everything = dict.fromkeys(DROP, 1.0)
    keep = masking_gate(present, torch.Generator().manual_seed(0), everything)
    assert keep.sum(dim=1).tolist() == [1, 1, 0] * 500  # of nothing, nothing can be kept
    assert not (keep & ~present).any()
    whole, pairs = keep[::3].float().mean(dim=0), keep[1::3].float().mean(dim=0)
    assert whole.tolist() == pytest.approx([1 / 3] * 3, abs=0.07)
    assert pairs.tolist() == pytest.approx([0.5, 0, 0.5], abs=0.07)


@torch.no_grad()
def test_the_fusion_by_hand():
    torch.manual_seed(0)
    fusion, d, heads = Fusion().eval(), 512, 8
    z = torch.nn.functional.normalize(torch.randn(2, 3, d), dim=-1)
    present = torch.tensor([[True, True, True], [True, False, True]])
    z[1, 1] = float("nan")
    got, weights = fusion(z, present)
    (wq, wk, wv), (bq, bk, bv) = (x.chunk(3) for x in (fusion.attention.in_proj_weight,
                                                       fusion.attention.in_proj_bias))  # fmt: skip
    for row in (0, 1):
        there = present[row]
        tokens = (z[row] * d**0.5 + fusion.modality[0])[there]  # (m, D)
        query = (fusion.query[0] @ wq.T + bq).view(1, heads, d // heads)
        keys, values = ((tokens @ w.T + b).view(-1, heads, d // heads)
                        for w, b in ((wk, bk), (wv, bv)))  # fmt: skip
        shares = torch.softmax((query * keys).sum(dim=2) / (d // heads) ** 0.5, dim=0)  # (m, 8)
        pooled = (shares[:, :, None] * values).sum(dim=0).flatten()
        pooled = fusion.norm(fusion.attention.out_proj(pooled))
        assert torch.allclose(got[row], fusion.out(pooled + fusion.mlp(pooled)), atol=1e-4)
        assert torch.allclose(weights[row][there], shares.mean(dim=1), atol=1e-5)
    assert weights[1, 1] == 0


@torch.no_grad()
def test_the_clinical_encoder_by_hand():
    torch.manual_seed(0)
    encoder = ClinicalEncoder().eval()
    scores, known = torch.randn(4, 5), torch.tensor([[1.0, 0, 1, 1, 0]] * 4)
    apoe = torch.arange(4)
    inputs = torch.cat([scores * known, known, encoder.apoe.weight], dim=1)
    z = encoder.mlp(inputs)
    assert torch.allclose(encoder(scores, known, apoe), z / z.norm(dim=1, keepdim=True), atol=1e-6)


def test_each_image_goes_through_its_own_encoder(model, monkeypatch):
    class Constant(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, volumes):
            return torch.full((len(volumes), 512), self.value)

    monkeypatch.setitem(model._modules, "t1", Constant(1.0))
    monkeypatch.setitem(model._modules, "fa", Constant(2.0))
    z = model.encode(batch([[True, True, True], [True, False, False]]))
    assert z[:, 0].eq(1).all() and z[0, 1].eq(2).all() and z[1, 1:].eq(0).all()


def test_what_the_gate_hides_is_as_if_it_were_not_there(model):
    data = batch([[True, True, True]] * 2)
    hidden = model(data, torch.tensor([[True, False, True]] * 2))
    absent = model({**data, "present": torch.tensor([[True, False, True]] * 2)})
    assert hidden["present"].tolist() == [[True, False, True]] * 2
    assert torch.equal(hidden["z_fused"], absent["z_fused"])
    assert not torch.allclose(hidden["z_fused"], model(data)["z_fused"])


def test_the_image_encoder_is_a_resnet18_of_single_channel_volumes():
    layers = [m for m in ImageEncoder().modules() if isinstance(m, torch.nn.Conv3d)]
    assert len(layers) == 20  # 17 and three of the short cuts
    first = layers[0]
    assert (first.in_channels, first.out_channels, first.stride) == (1, 64, (2, 2, 2))


@pytest.mark.parametrize("kind", ["image", "clinical"])
def test_features_are_centred_so_that_nearly_equal_people_begin_apart(kind):
    torch.manual_seed(0)
    encoder = ImageEncoder() if kind == "image" else ClinicalEncoder()
    if kind == "image":
        given = (torch.randn(1, 1, *SHAPE) + 0.05 * torch.randn(8, 1, *SHAPE),)
    else:
        scores = torch.randn(1, 5) + 0.05 * torch.randn(8, 5)
        given = (scores, torch.ones(8, 5), torch.zeros(8, dtype=torch.long))
    norm = encoder.centre if kind == "image" else encoder.mlp[-2]

    def mean_cosine():
        z = encoder(*given)
        return float(((z @ z.T).sum() - len(z)) / (len(z) * (len(z) - 1)))

    encoder.eval()  # before training, the running statistics change nothing
    without = mean_cosine()
    encoder.train()
    assert without > 0.9 and mean_cosine() < without - 0.5
    assert not list(norm.parameters())  # nothing is learned there


def test_one_subject_in_a_batch_is_seen_through_the_running_statistics():
    torch.manual_seed(0)
    model = Memoir().train()
    before = model.fa.centre.running_mean.clone()
    model(batch([[True, True, True], [True, False, True], [True, False, False]]))
    assert torch.equal(model.fa.centre.running_mean, before)  # one FA: no statistics of a batch
    assert not torch.equal(model.t1.centre.running_mean, before)
    assert model.t1.training and not model.fa.training


@pytest.mark.parametrize(("kernel", "stride", "width"), [(3, 1, 1), (3, 2, 3), (1, 2, 3)])
def test_one_matrix_product_is_the_convolution(kernel, stride, width):
    torch.manual_seed(0)
    usual = torch.nn.Conv3d(6, 4, kernel, stride, kernel // 2, bias=False)
    ours = copy.deepcopy(usual)
    ours.__class__ = MatrixConv
    grads = []
    for conv in (usual, ours):
        x = torch.randn(5, 6, width, width + 1, width, generator=torch.Generator().manual_seed(1))
        conv(x.requires_grad_()).sin().sum().backward()
        grads.append((conv(x), x.grad, conv.weight.grad))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_the_last_stage_survive_bf16():
    stage = ImageEncoder().backbone.layer4.eval()  # fixed norms
    torch.manual_seed(0)
    x, found = torch.rand(2, 256, 3, 4, 3), []
    for half in (False, True):
        stage.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = stage(x).float()
        out.sum().backward()
        found.append({k: p.grad.flatten() for k, p in stage.named_parameters() if p.ndim > 1})
    assert len(found[0]) == 5
    for name, a in found[0].items():
        assert torch.cosine_similarity(a, found[1][name], dim=0) > 0.99, name
