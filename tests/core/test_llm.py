"""Loading, likelihood and generation, against plain forward passes of a tiny random model."""

import copy

import numpy as np
import pytest
import tinyllm
import torch
from bitsandbytes.functional import dequantize_4bit, get_4bit_type
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, AutoTokenizer

from memoir_core import llm, vqa

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
    """Mean of the option's log-probabilities: one forward pass, token by token, no cache."""
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    extra = loaded.tokenizer(option, add_special_tokens=False).input_ids
    total = 0.0
    for token in extra:
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([ids])).logits[0, -1].double()
        total += float(logits[token] - torch.logsumexp(logits, 0))
        ids = [*ids, token]
    return total / len(extra)


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


@pytest.mark.parametrize(("options", "most"), [(OPTIONS, 8), ((), 24)])
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
        assert row["truncated"] == (len(said) == most)
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
    assert (row["answer"], row["tokens"], row["truncated"]) == ("MCI", len(words), False)


def test_stops_are_the_end_and_for_a_plain_prompt_the_line(loaded):
    newline = loaded.tokenizer("\n", add_special_tokens=False).input_ids
    assert set(llm.stop_ids(loaded)) == {loaded.tokenizer.eos_token_id, *newline}
    chat = llm.Loaded(loaded.model, loaded.tokenizer, chat=True)
    assert llm.stop_ids(chat) == [loaded.tokenizer.eos_token_id]


def test_a_chat_model_reads_its_template(loaded, monkeypatch):
    chat = llm.Loaded(loaded.model, loaded.tokenizer, chat=True)
    text = "<user>A woman. MoCA 27.</user><model>"
    assert (llm.as_chat(chat, SHORT), llm.as_chat(loaded, SHORT)) == (text, SHORT)
    row = llm.answer_batch(chat, [SHORT], OPTIONS)[0]
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    assert row["prompt_tokens"] == len(ids)
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

    monkeypatch.setattr(llm, "as_chat", lambda loaded, prompt, answer="": prompt + answer)
    llm.answer_batch(llm.Loaded(loaded.model, Spy(), chat=is_chat), [SHORT])
    assert asked[0] is not is_chat


def test_window_and_number_type(loaded):
    assert loaded.window == 2048 and loaded.device == "cpu"
    assert next(loaded.model.parameters()).dtype == torch.float32 == llm.compute_dtype("cpu")
    assert not loaded.model.training and loaded.tokenizer.padding_side == "left"


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


# ---------------------------------------------------------------- models tuned on instructions
MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] }}<bos>{% endif %}{% endfor %}"
)
GEMMA_4 = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<bos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>"
    "{% if not enable_thinking | default(true) %}<quiet>{% endif %}{% endif %}"
)


def tuned(loaded, template):
    """The tiny model, with a template whose turns end with a token of their own."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = template
    return llm.Loaded(loaded.model, tokenizer, chat=True)


def test_a_turn_ends_where_the_template_ends_it(loaded):
    chat = tuned(loaded, MISTRAL)
    end = chat.tokenizer.convert_tokens_to_ids("<bos>")
    assert set(llm.stop_ids(chat)) == {chat.tokenizer.eos_token_id, end}


def test_solved_cases_become_turns_of_the_conversation(loaded):
    """Nothing of the prompt is lost but its marks, and a case without an answer joins the next."""
    context = [(1, "MMSE 29.", "CN"), (2, "MMSE 27.", ""), (3, "MMSE 20.", "Dementia")]
    prompt = vqa.build_prompt("diagnosis", 9, "MMSE 24.", context)
    head = prompt[: prompt.index("Case 3")]
    assert llm.as_chat(tuned(loaded, MISTRAL), prompt, "MCI") == (
        f"[INST] {head}Case 3: MMSE 20.[/INST] Dementia<bos>"
        "[INST] Case 2: MMSE 27.\n\nCase 1: MMSE 29.[/INST] CN<bos>"
        "[INST] Case 9: MMSE 24.[/INST] MCI<bos>"
    )


def test_thinking_is_off_where_the_template_has_a_switch(loaded, monkeypatch):
    assert llm.as_chat(tuned(loaded, GEMMA_4), "Q") == "<user>Q<bos><assistant><quiet>"
    chat, told = tuned(loaded, MISTRAL), []
    monkeypatch.setattr(chat.tokenizer, "apply_chat_template", lambda _, **t: told.append(t))
    llm.as_chat(chat, "Q")
    assert told == [{"tokenize": False, "add_generation_prompt": True}]


@pytest.mark.parametrize(("template", "space"), [(MISTRAL, " "), (GEMMA_4, "")])
def test_an_option_has_the_tokens_that_the_template_writes(loaded, template, space):
    chat = tuned(loaded, template)
    text = llm.as_chat(chat, SHORT)
    for option in OPTIONS:
        after = chat.tokenizer(text + space + option, add_special_tokens=False).input_ids
        before = chat.tokenizer(text, add_special_tokens=False).input_ids
        assert llm.option_ids(chat, SHORT, option).tolist() == after[len(before) :]
    row = llm.answer_batch(chat, [SHORT], OPTIONS, most=2)[0]
    assert row["log_likelihood"] == pytest.approx(
        {option: plain(chat, text, space + option) for option in OPTIONS}, abs=2e-3
    )


def test_the_first_letters_may_join_the_prompt_s_last_token(loaded):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    ids = llm.option_ids(tuned(loaded, template), "A wom", "an").tolist()
    assert ids == loaded.tokenizer("an", add_special_tokens=False).input_ids


def test_room_for_an_answer_and_its_end(loaded, monkeypatch):
    chat = tuned(loaded, MISTRAL)
    rooms = [llm.new_tokens(chat, OPTIONS), llm.new_tokens(chat), llm.new_tokens(loaded, OPTIONS)]
    assert rooms == [256, 256, 8] and llm.new_tokens(loaded) == 24
    words = chat.tokenizer("line\nline", add_special_tokens=False).input_ids
    end = chat.tokenizer.convert_tokens_to_ids("<bos>")
    asked = []

    def said(input_ids, **options):
        asked.append(options["max_new_tokens"])
        rows = [[*words, *words], [*words, end, *[0] * (len(words) - 1)]]
        return torch.cat([input_ids, torch.tensor(rows)], 1)

    monkeypatch.setattr(chat.model, "generate", said)
    long, short = llm.answer_batch(chat, [SHORT, SHORT], OPTIONS)
    assert (long["truncated"], short["truncated"], asked) == (True, False, [256])
    assert short["answer"] == "line\nline" and short["tokens"] == len(words)


def test_marks_of_a_thought_stay_in_a_tuned_model_s_answer(loaded, monkeypatch):
    chat = tuned(loaded, MISTRAL)
    ids = chat.tokenizer("<pad>thought<pad>MCI", add_special_tokens=False).input_ids
    monkeypatch.setattr(
        chat.model,
        "generate",
        lambda input_ids, **_: torch.cat([input_ids, torch.tensor([ids])], 1),
    )
    assert llm.answer_batch(chat, [SHORT])[0]["answer"] == "<pad>thought<pad>MCI"


# ---------------------------------------------------------------- likelihoods
def test_a_network_that_knows_nothing_prefers_no_option(loaded, monkeypatch):
    """Its logits are all the same: a sum would name the option of the fewest tokens."""
    blank = copy.deepcopy(loaded.model)
    torch.nn.init.zeros_(blank.get_output_embeddings().weight)
    row = llm.answer_batch(llm.Loaded(blank, loaded.tokenizer), [SHORT], OPTIONS)[0]
    found = row["log_likelihood"]
    tokens = {len(llm.option_ids(loaded, SHORT, option)) for option in OPTIONS}
    assert len(tokens) > 1 and len({*found.values()}) == 1
    assert found["CN"] == pytest.approx(-np.log(blank.config.vocab_size), abs=1e-3)


def test_a_likelihood_that_is_nan_is_refused(loaded):
    broken = copy.deepcopy(loaded.model)
    broken.get_output_embeddings().weight.data[5] = float("nan")
    with pytest.raises(ValueError, match=r"likelihood of 'CN' is NaN: .*float32"):
        llm.answer_batch(llm.Loaded(broken, loaded.tokenizer), [SHORT], OPTIONS)


def test_a_tokenizer_is_read_once_and_anew_where_its_folder_changed(tmp_path):
    one = llm.read_tokenizer(tinyllm.save(tmp_path / "m"))
    assert llm.read_tokenizer(str(tmp_path / "m")) is one and one.padding_side == "left"
    tinyllm.tokenizer(tinyllm.CHAT, "<new>").save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").replace(tmp_path / "m" / "tokenizer.json")
    assert "<new>" not in one.get_vocab()
    assert "<new>" in llm.read_tokenizer(tmp_path / "m").get_vocab()
