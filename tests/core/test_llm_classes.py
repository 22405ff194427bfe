"""Models of the published classes, tiny and random: template, stops, 4 bit, plain generation."""

import pytest
import tinyllm
import torch

from memoir_book import experts
from memoir_core import llm, vqa

CONTEXT = [(7, "A man; MMSE 21.", "Dementia"), (5, "A woman; MMSE 30.", "CN")]
SHORT = vqa.build_prompt("diagnosis", 1, "A woman; MMSE 27.", CONTEXT)
LONG = vqa.build_prompt("diagnosis", 2, "A man; MMSE 24, MoCA 19, ADAS-11 12.", CONTEXT * 2)
OPTIONS = ("CN", "MCI", "Dementia")
BEGINNING = SHORT[: SHORT.index("\n\nCase 5")]
TEXTS = {  # what each reads, by what is known of its template
    "mistral-7b": "<bos>[INST] {0}\n\nCase 5: A woman; MMSE 30.[/INST] CN<eos>"
    "[INST] Case 7: A man; MMSE 21.[/INST] Dementia<eos>[INST] Case 1: A woman; MMSE 27.[/INST]",
    "gemma-4-26b": "<bos><|turn>user\n{0}\n\nCase 5: A woman; MMSE 30.<turn|>\n"
    "<|turn>model\nCN<turn|>\n<|turn>user\nCase 7: A man; MMSE 21.<turn|>\n"
    "<|turn>model\nDementia<turn|>\n<|turn>user\nCase 1: A woman; MMSE 27.<turn|>\n"
    "<|turn>model\n<|channel>thought\n<channel|>",
    "medgemma-1.5-4b": "<bos><start_of_turn>user\n{0}\n\nCase 5: A woman; MMSE 30.<end_of_turn>\n"
    "<start_of_turn>model\nCN<end_of_turn>\n"
    "<start_of_turn>user\nCase 7: A man; MMSE 21.<end_of_turn>\n"
    "<start_of_turn>model\nDementia<end_of_turn>\n"
    "<start_of_turn>user\nCase 1: A woman; MMSE 27.<end_of_turn>\n<start_of_turn>model\n",
}


@pytest.fixture(scope="module", params=tinyllm.PUBLISHED)
def key(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, key):
    return tinyllm.save_published(tmp_path_factory.mktemp(key), key)


@pytest.fixture(scope="module")
def dense(folder):
    return llm.load(folder, chat=True)


def test_the_template_is_written_as_its_makers_do(dense, key):
    assert llm.as_chat(dense, SHORT) == TEXTS[key].format(BEGINNING)


def test_an_answer_ends_with_its_turn(dense, key):
    end = tinyllm.PUBLISHED[key][2][-1]
    assert set(llm.stop_ids(dense)) == {1, dense.tokenizer.convert_tokens_to_ids(end)}


def test_nearly_all_of_the_decoder_is_held_in_4_bit(folder):
    four = llm.load_4bit(folder, chat=True)
    assert experts.four_bit_share(four.model) > 0.95
    assert all(torch.isfinite(p).all() for p in four.model.parameters() if p.is_floating_point())
    assert len(llm.answer_batch(four, [LONG, SHORT], OPTIONS, most=3)) == 2


def test_a_padded_batch_with_a_cache_gives_what_plain_passes_give(dense):
    made = llm.answer_batch(dense, [LONG, SHORT], OPTIONS, most=6)
    for prompt, row in zip((LONG, SHORT), made, strict=True):
        given = dense.tokenizer(llm.as_chat(dense, prompt), add_special_tokens=False).input_ids
        ids = list(given)
        while len(ids) - len(given) < 6:  # no cache, no padding: one whole pass for each token
            with torch.inference_mode():
                token = int(dense.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token in llm.stop_ids(dense):
                break
            ids.append(token)
        assert row["answer"] == dense.tokenizer.decode(ids[len(given) :]).strip()
        assert row["tokens"] == len(ids) - len(given)
        for option, found in row["log_likelihood"].items():
            extra = llm.option_ids(dense, prompt, option).tolist()
            with torch.inference_mode():
                logits = dense.model(input_ids=torch.tensor([given + extra])).logits[0]
            logp = logits[len(given) - 1 : -1].float().log_softmax(-1)
            plain = float(logp[range(len(extra)), extra].mean())
            assert found == pytest.approx(plain, abs=2e-3), option
