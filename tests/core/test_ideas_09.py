"""Chapter 9's prompt, NF4 and likelihood of an option, written out, are the core's."""

from types import SimpleNamespace

import pytest
import tinyllm
import torch
import transformers
from ideas import idea

from memoir_book.weights import Backbone
from memoir_core import llm, vqa
from memoir_core.captions import caption_rows


@pytest.fixture(scope="module")
def plan():
    cohort = tinyllm.cohort()
    return vqa.plan_questions(cohort, caption_rows(cohort), tinyllm.retrieval(cohort), 8, seed=0)


def test_the_prompt_is_the_core_s(plan):
    names = idea("09", "nearest last", plan=plan)
    row = names["row"]
    assert row["protocol"] == "blind" and len(row["context"]) == 5
    assert names["prompt"] == row["prompt"]
    assert names["prompt"] == vqa.build_prompt(
        *map(row.get, ("kind", "case", "caption", "context"))
    )


@pytest.fixture(scope="module", params=[("gemma", False), ("llama", True)])
def by_hand(request, tmp_path_factory):
    """The cell that loads a model in NF4, run on a tiny one; a chat model, too."""
    family, chat = request.param
    folder = tinyllm.save(tmp_path_factory.mktemp(family), family)
    tiny = Backbone("tiny", "tiny", "Tiny", chat=chat)
    names = {"backbones": {tiny: SimpleNamespace(path=folder)}, "llm": llm}
    book = SimpleNamespace(device="cpu")
    return idea("09", "BitsAndBytesConfig", book=book, transformers=transformers, **names)


def test_nf4_is_the_core_s(by_hand):
    core = llm.load_4bit(by_hand["found"].path)
    mine, theirs = by_hand["model"].state_dict(), core.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert len(by_hand["layers"]) == 14  # seven in each of two layers
    assert by_hand["model"].config.quantization_config == core.model.config.quantization_config


def test_the_likelihood_of_an_option_is_the_core_s(by_hand, plan):
    row = plan[0]
    names = idea("09", "log_softmax", torch=torch, prompt=row["prompt"], row=row, **held(by_hand))
    core = llm.load_4bit(by_hand["found"].path, chat=by_hand["first"].chat)
    (made,) = llm.answer_batch(core, [row["prompt"]], row["options"])
    assert names["likely"] == pytest.approx(made["log_likelihood"], abs=2e-3)
    assert list(names["likely"]) == ["CN", "MCI", "Dementia"]


def held(by_hand):
    return {name: by_hand[name] for name in ("first", "tokenizer", "model")}
