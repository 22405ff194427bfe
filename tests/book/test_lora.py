"""The LoRA stand-in learns, and an adapter serves only what made it."""

import numpy as np
import pytest
import tinyllm
import torch
from damage import flip
from ideas import idea
from safetensors.torch import load_file

from memoir_book import standins
from memoir_core import llm, vqa
from memoir_core.captions import caption_rows

PROMPT = "Case 1: MMSE 20\nAnswer:"


@pytest.fixture(scope="module")
def cohort():
    return tinyllm.cohort()


@pytest.fixture(scope="module")
def steps(cohort):
    draw = idea("09", "def train_questions", np=np, vqa=vqa)["train_questions"]
    return draw(cohort, caption_rows(cohort), 96, 8, seed=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tinyllm.save(tmp_path_factory.mktemp("base"))


def test_questions_are_about_train_cases_without_diagnosis(cohort, steps):
    train = set(cohort.loc[cohort["split"] == "train", "case"])
    answers = vqa.reference_answers(cohort)
    assert len(steps) == 12 and {len(part) for part in steps} == {8}
    kinds = [part[0]["kind"] for part in steps]
    assert kinds[::2] == ["diagnosis"] * 6 and set(kinds[1::2]) == set(vqa.QUESTIONS) - {
        "diagnosis"
    }
    for row in (row for part in steps for row in part):
        assert row["case"] in train and row["context"] == []
        assert row["reference"] == answers[row["kind"]][row["case"]]
        words = row["prompt"].split("\n\n")[1].lower()
        assert not any(hint in words for hint in ("dementia", "mci", "impairment", "cdr"))
    assert all(len({row["case"] for row in part}) == 8 for part in steps)


def test_the_loss_is_that_of_the_answers_tokens(base, steps):
    loaded = llm.load(base)
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        loaded.model, LoraConfig(target_modules=["q_proj"])
    )  # begins as the base
    rows = steps[1][:3]
    total, count = 0.0, 0
    for row in rows:
        ids = loaded.tokenizer(row["prompt"]).input_ids
        extra = loaded.tokenizer(f" {row['reference']}\n", add_special_tokens=False).input_ids
        with torch.inference_mode():
            logp = model(torch.tensor([ids + extra])).logits[0].log_softmax(-1)
        places = range(len(ids) - 1, len(ids) + len(extra) - 1)
        total -= float(logp[places, extra].sum())
        count += len(extra)
    with torch.inference_mode():
        assert float(standins.answer_loss(model, loaded, rows)) == pytest.approx(
            total / count, abs=1e-3
        )


def test_lora_learns_and_is_used_again(base, steps, tmp_path):
    losses = standins.train_lora(base, "w", steps, tmp_path / "lora", lr=0.02)
    assert len(losses) == len(steps) and np.mean(losses[-4:]) < np.mean(losses[:4])
    assert standins.train_lora(base, "w", steps, tmp_path / "lora", lr=0.02) == []
    before, after = (
        llm.answer_batch(llm.load(base, adapter=folder), [PROMPT], ("CN",))[0]["log_likelihood"]
        for folder in ("", tmp_path / "lora")
    )
    assert after["CN"] != before["CN"]  # the adapter is in the merged weights
    names = {name.split(".layers.")[1][0] for name in load_file(adapter(tmp_path))}
    assert names == {"1"}  # the upper half of two layers


def test_four_bits_do_not_round_an_adapter_away(base, steps, tmp_path):
    """Beside 4-bit weights, packed or not, it adds what its two small matrices say."""
    standins.train_lora(base, "w", steps[:3], tmp_path / "lora", lr=1e-3)  # learns very little
    small = load_file(adapter(tmp_path))
    plain, by_hand, packed, unpacked = (
        llm.load_4bit(base, adapter=folder) for folder in ("", "", *[tmp_path / "lora"] * 2)
    )
    for loaded in (plain, by_hand, unpacked):
        loaded.model.dequantize()
    for name in (name for name in small if "lora_A" in name):
        layer = by_hand.model.get_submodule(name.split("base_model.model.")[1].split(".lora_A")[0])
        b = small[name.replace("lora_A", "lora_B")]
        layer.weight.data += 16 / 8 * b @ small[name]  # alpha / rank
    told = plain.tokenizer(PROMPT, return_tensors="pt")
    with torch.inference_mode():
        before, wanted, *shown = (
            loaded.model(**told).logits for loaded in (plain, by_hand, packed, unpacked)
        )
    assert (wanted - before).abs().max() > 1e-3
    for logits in shown:
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)


def adapter(tmp_path):
    return tmp_path / "lora" / "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "seed 0 -> 1"),
        ({"lr": 0.01}, "lr 0.02 -> 0.01"),
        ({"weights": "v"}, "weights w -> v"),
        ({"steps": 1}, "questions changed"),
        ({}, "adapter_model.safetensors is damaged"),
    ],
)
def test_an_adapter_serves_only_what_made_it(base, steps, tmp_path, capsys, change, says):
    few = steps[:2]
    folder = tmp_path / "lora"
    standins.train_lora(base, "w", few, folder, lr=0.02)
    old = adapter(tmp_path).read_bytes()
    if not change:
        flip(adapter(tmp_path))
    given = {"weights": "w", "lr": 0.02, "seed": 0} | change
    few = steps[2:4] if given.pop("steps", 0) else few
    assert len(standins.train_lora(base, given.pop("weights"), few, folder, **given)) == 2
    assert says in capsys.readouterr().out
    assert (adapter(tmp_path).read_bytes() == old) is (not change or "weights" in change)
