"""The experts of a mixture are held in 4 bit as its other matrices, and the share is counted."""

import pytest
import tinyllm
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from memoir_book import experts
from memoir_core import llm

LONG = "Case 1: A 71-year-old woman; MMSE 21.\nAnswer: CN\n\nCase 2: A man; MMSE 30.\nAnswer:"
SHORT = "A woman. MoCA 27.\nAnswer:"
OPTIONS = ("CN", "MCI", "very mild impairment")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A random Gemma 4 of the published class: eight experts, two of them used for a token."""
    return tinyllm.save_published(tmp_path_factory.mktemp("mixture"), "gemma-4-26b")


def test_the_share_in_four_bits_is_counted_by_hand(tmp_path):
    folder = tinyllm.save(tmp_path / "m")
    loaded, four = llm.load(folder), llm.load_4bit(folder)
    dense = {n: p.numel() for n, p in loaded.model.named_parameters() if ".layers." in n}
    matrices = sum(size for name, size in dense.items() if "proj" in name)
    assert experts.four_bit_share(four.model) == matrices / sum(dense.values()) > 0.95
    assert experts.four_bit_share(loaded.model) == 0


def test_experts_are_held_in_four_bits_too(mixture):
    """Their answers are those of a dense model whose every matrix was rounded by hand."""
    four, dense = llm.load_4bit(mixture), llm.load(mixture)
    full = llm.answer_batch(dense, [LONG, SHORT], OPTIONS)
    layers = dense.model.get_decoder().layers
    held = dict(four.model.get_decoder().layers.named_parameters())
    for name, weight in layers.named_parameters():
        if weight.ndim > 1:
            packed, state = quantize_4bit(weight.data, compress_statistics=True, quant_type="nf4")
            weight.data.copy_(dequantize_4bit(packed, state))
            assert name not in held or held[name].dtype == torch.uint8
    assert experts.four_bit_share(four.model) > 0.95
    for a, b, c in zip(
        llm.answer_batch(four, [LONG, SHORT], OPTIONS),
        llm.answer_batch(dense, [LONG, SHORT], OPTIONS),
        full,
        strict=True,
    ):
        assert a["answer"] == b["answer"]
        assert a["log_likelihood"] == pytest.approx(b["log_likelihood"], abs=2e-3)
        assert a["log_likelihood"] == pytest.approx(c["log_likelihood"], abs=0.3)  # rounded
        assert a["log_likelihood"] != c["log_likelihood"]
    assert four.model.get_memory_footprint() < 0.7 * dense.model.get_memory_footprint()


def test_experts_left_in_16_bits_would_be_told(mixture, monkeypatch):
    plain_quantiser = experts.Bnb4BitHfQuantizer
    monkeypatch.setitem(experts.AUTO_QUANTIZER_MAPPING, "bitsandbytes_4bit", plain_quantiser)
    assert 0.1 < experts.four_bit_share(llm.load_4bit(mixture).model) < 0.6
