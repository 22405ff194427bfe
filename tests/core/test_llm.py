"""Loading, likelihood and generation, against plain forward passes of a tiny random model."""

import numpy as np
import pytest
import tinyllm
import torch
from bitsandbytes.functional import dequantize_4bit, get_4bit_type
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, AutoTokenizer

from memoir_core import llm

LONG = (
    "Case 1: A 71-year-old woman; MMSE 21, MoCA 16.\nAnswer: CN\n\nCase 2: A man; MMSE 30.\nAnswer:"
)
SHORT = "A woman. MoCA 27.\nAnswer:"
OPTIONS = ("CN", "MCI", "very mild impairment")


@pytest.fixture(scope="module", params=["llama", "gemma"])
def folder(tmp_path_factory, request):
    return tinyllm.save(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def loaded(folder):
    return llm.load(folder)


def plain(loaded, text, option):
    """Sum of the option's log-probabilities: one forward pass, token by token, no cache."""
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    extra = loaded.tokenizer(option, add_special_tokens=False).input_ids
    total = 0.0
    for token in extra:
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([ids])).logits[0, -1].double()
        total += float(logits[token] - torch.logsumexp(logits, 0))
        ids = [*ids, token]
    return total


def test_likelihood_of_an_option_equals_a_plain_forward_pass(loaded):
    """Padding, the shared cache and the batch change nothing."""
    made = llm.answer_batch(loaded, [LONG, SHORT], OPTIONS)
    for prompt, row in zip((LONG, SHORT), made, strict=True):
        assert list(row["log_likelihood"]) == list(OPTIONS)
        for option, value in row["log_likelihood"].items():
            assert value == pytest.approx(plain(loaded, prompt, f" {option}"), abs=2e-3)
    assert made[0]["log_likelihood"] != made[1]["log_likelihood"]


def test_an_answer_does_not_depend_on_the_batch(loaded):
    together = llm.answer_batch(loaded, [LONG, SHORT, LONG], OPTIONS)
    alone = [llm.answer_batch(loaded, [prompt], OPTIONS)[0] for prompt in (LONG, SHORT, LONG)]
    for one, other in zip(together, alone, strict=True):
        assert one["answer"] == other["answer"] and one["tokens"] == other["tokens"]
        assert one["prompt_tokens"] == other["prompt_tokens"]
        assert one["log_likelihood"] == pytest.approx(other["log_likelihood"], abs=2e-3)
    assert together[0]["answer"] != together[1]["answer"]
    assert together[0]["prompt_tokens"] == len(loaded.tokenizer(LONG).input_ids)


@pytest.mark.parametrize(("options", "most"), [(OPTIONS, 12), ((), 24)])
def test_the_free_answer_is_greedy(loaded, options, most):
    """One argmax after another, to the first line's end."""
    made = llm.answer_batch(loaded, [LONG, SHORT], options)
    stops = llm.stop_ids(loaded)
    for prompt, row in zip((LONG, SHORT), made, strict=True):
        ids, said = loaded.tokenizer(prompt).input_ids, []
        while len(said) < most:
            with torch.inference_mode():
                token = int(loaded.model(torch.tensor([ids + said])).logits[0, -1].argmax())
            if token in stops:
                break
            said.append(token)
        assert row["tokens"] == len(said) > 0
        text = loaded.tokenizer.decode(said, skip_special_tokens=True).strip()
        assert row["answer"] == (text.splitlines() or [""])[0].strip()


def test_what_follows_a_stop_is_no_answer(loaded, monkeypatch):
    words = loaded.tokenizer("\n MCI", add_special_tokens=False).input_ids[1:]
    end, pad = loaded.tokenizer.eos_token_id, loaded.tokenizer.pad_token_id

    def said(input_ids, **options):
        assert end in options["eos_token_id"] and options["do_sample"] is False
        return torch.cat([input_ids, torch.tensor([[*words, end, words[0], pad]])], 1)

    monkeypatch.setattr(loaded.model, "generate", said)
    row = llm.answer_batch(loaded, [SHORT], OPTIONS)[0]
    assert (row["answer"], row["tokens"]) == ("MCI", len(words))


def test_stops_are_the_end_and_for_a_plain_prompt_the_line(loaded):
    newline = loaded.tokenizer("\n", add_special_tokens=False).input_ids
    assert set(llm.stop_ids(loaded)) == {loaded.tokenizer.eos_token_id, *newline}
    chat = llm.Loaded(loaded.model, loaded.tokenizer, chat=True)
    assert llm.stop_ids(chat) == [loaded.tokenizer.eos_token_id]


def test_a_chat_model_reads_its_template(loaded, monkeypatch):
    chat = llm.Loaded(loaded.model, loaded.tokenizer, chat=True)
    text = f"<user>{SHORT}</user><model>"
    assert (llm.as_chat(chat, SHORT), llm.as_chat(loaded, SHORT)) == (text, SHORT)
    row = llm.answer_batch(chat, [SHORT], OPTIONS)[0]
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    assert row["prompt_tokens"] == len(ids) == llm.length(chat, SHORT)
    for option, value in row["log_likelihood"].items():  # no space: the template ends the turn
        assert value == pytest.approx(plain(loaded, text, option), abs=2e-3)


@pytest.mark.parametrize("is_chat", [True, False])
def test_only_a_plain_prompt_gets_the_tokenizers_own_beginning(loaded, monkeypatch, is_chat):
    asked = []

    class Spy:
        def __call__(self, texts, **options):
            asked.append(options.get("add_special_tokens"))
            return loaded.tokenizer(texts, **options)

        def __getattr__(self, name):
            return getattr(loaded.tokenizer, name)

    monkeypatch.setattr(llm, "as_chat", lambda loaded, prompt: prompt)
    llm.answer_batch(llm.Loaded(loaded.model, Spy(), chat=is_chat), [SHORT])
    assert asked[0] is not is_chat


def test_window_and_number_type(loaded):
    assert loaded.window == 2048 and loaded.device == "cpu"
    assert next(loaded.model.parameters()).dtype == torch.float32 == llm.compute_dtype("cpu")
    assert not loaded.model.training and loaded.tokenizer.padding_side == "left"
    assert llm.length(loaded, LONG) == len(loaded.tokenizer(LONG).input_ids)


def test_a_tokenizer_without_padding_gets_one(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    assert llm.load(tmp_path).tokenizer.pad_token == "<eos>"


def test_nf4_rounds_each_block_to_the_nearest_of_16_levels(folder, loaded):
    four = llm.load_4bit(folder)
    name = "model.layers.1.mlp.up_proj"
    layer, dense = four.model.get_submodule(name), loaded.model.get_submodule(name)
    assert isinstance(layer, Linear4bit) and not isinstance(dense, Linear4bit)
    state = layer.weight.quant_state
    assert state.quant_type == "nf4" and state.nested  # the scales are quantised too
    assert layer.compute_dtype == torch.float32
    levels = np.array(get_4bit_type("nf4", device="cpu"))
    blocks = dense.weight.detach().numpy().reshape(-1, 64)
    scales = np.abs(blocks).max(1, keepdims=True)
    nearest = levels[np.abs(blocks[..., None] / scales[..., None] - levels).argmin(-1)]
    stored = dequantize_4bit(layer.weight.data, state).numpy().reshape(-1, 64)
    np.testing.assert_allclose(stored, nearest * scales, atol=0.03 * scales.max())
    assert four.model.get_memory_footprint() < loaded.model.get_memory_footprint()
    row = llm.answer_batch(four, [SHORT], ("CN",))[0]
    assert row["log_likelihood"]["CN"] == pytest.approx(plain(four, SHORT, " CN"), abs=2e-3)
