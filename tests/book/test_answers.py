"""Each model answers the plan once; other programs' answers are read by id."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import tinyllm
import torch

from memoir_book import answers, weights
from memoir_core import llm, vqa
from memoir_core.captions import caption_rows


@pytest.fixture(scope="module")
def plan():
    cohort = tinyllm.cohort()
    return vqa.plan_questions(cohort, caption_rows(cohort), tinyllm.retrieval(cohort), 8, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tinyllm.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def loaded(folder):
    return llm.load(folder)


@pytest.fixture(scope="module")
def model(folder):
    plain = weights.Backbone("tiny", "tiny", "Tiny", quantisation="none")
    return plain, weights.Weights("tiny", folder, "path")


def test_the_whole_plan_is_answered_in_its_order(loaded, model, plan, tmp_path):
    rows, speed = answers.answer_plan(plan, tmp_path / "tiny", *model)
    made = pd.DataFrame(rows)
    assert made["id"].tolist() == [row["id"] for row in plan]
    for place in (0, 3, len(plan) - 1):
        row = plan[place]
        alone = llm.answer_batch(loaded, [row["prompt"]], row["options"])[0]
        assert made["answer"][place] == alone["answer"]
        assert made["log_likelihood"][place] == pytest.approx(alone["log_likelihood"], abs=2e-3)
    assert speed["questions"] == len(plan) and speed["captions_cut"] == 0
    assert speed["memory_mib"] >= 0 and speed["tokens_per_second"] > 0
    assert speed["weights_held"] == "un-quantised" and speed["four_bit_share"] == 0
    assert speed["truncated"] == made["truncated"].sum() > 0


def test_four_bits_are_unpacked_once_and_say_the_same(folder, plan, tmp_path):
    backbone = weights.Backbone("tiny", "tiny", "Tiny")  # NF4
    found = weights.Weights("tiny", folder, "path")
    rows, speed = answers.answer_plan(plan[:6], tmp_path / "m", backbone, found)
    made, four = pd.DataFrame(rows), llm.load_4bit(folder)
    assert speed["weights_held"] == "NF4"
    assert speed["memory_mib"] == round(four.model.get_memory_footprint() / 2**20)  # packed
    for place, row in enumerate(plan[:6]):
        alone = llm.answer_batch(four, [row["prompt"]], row["options"])[0]
        assert made["answer"][place] == alone["answer"]
        assert made["log_likelihood"][place] == pytest.approx(alone["log_likelihood"], abs=2e-3)


def test_equal_prompts_are_put_once(model, plan, tmp_path, monkeypatch):
    again = [{**row, "id": f"again/{row['id']}"} for row in plan[:5]]
    real, asked = llm.answer_batch, []
    monkeypatch.setattr(llm, "answer_batch", lambda loaded, prompts, *rest, **most: (
        asked.extend(prompts) or real(loaded, prompts, *rest, **most)))  # fmt: skip
    rows, speed = answers.answer_plan(plan[:5] + again, tmp_path / "m", *model)
    made = pd.DataFrame(rows)
    assert speed["questions"] == 10 and made["id"].tolist()[5:] == [row["id"] for row in again]
    assert made["answer"].tolist()[:5] == made["answer"].tolist()[5:]
    assert sorted(p for p in asked if "N/A" not in p) == sorted({r["prompt"] for r in plan[:5]})


def test_finished_answers_are_read_and_no_model_is_loaded(model, plan, tmp_path, monkeypatch):
    first, speed = answers.answer_plan(plan[:4], tmp_path / "m", *model)
    monkeypatch.setattr(llm, "load", pytest.fail)
    second, same = answers.answer_plan(plan[:4], tmp_path / "m", *model)
    assert second == first and same == speed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("weights", "weights changed"),
        ("quantisation", "quantisation none -> nf4"),
        ("chat", "chat False -> True"),
        ("adapter", "adapter changed"),
        ("plan", "plan changed"),
        ("damage", "answers.jsonl is damaged"),
    ],
)
def test_other_identity_is_answered_anew(
    loaded, model, plan, tmp_path, monkeypatch, capsys, change, says
):
    folder, asked, adapter = tmp_path / "m", plan[:2], ""
    backbone, found = model
    answers.answer_plan(asked, folder, backbone, found)
    if change == "damage":
        text = (folder / "answers.jsonl").read_text()
        (folder / "answers.jsonl").write_text(text.replace("CN", "MCI"))
    elif change == "weights":
        found = replace(found, path=tinyllm.save(tmp_path / "other", seed=1))
    elif change == "plan":
        asked = [{**plan[0], "reference": "MCI"}, plan[1]]
    elif change == "adapter":
        adapter = tmp_path / "adapter"
        adapter.mkdir()
    else:
        backbone = backbone._replace(**{change: {"quantisation": "nf4", "chat": True}[change]})
    loads = []

    def load(path, device, **options):
        loads.append((path, options))
        return loaded

    monkeypatch.setattr(llm, "load", load)
    monkeypatch.setattr(llm, "load_4bit", load)
    answers.answer_plan(asked, folder, backbone, found, "cpu", adapter)
    assert loads == [(found.path, {"chat": backbone.chat, "adapter": adapter})]
    assert re.search(says, capsys.readouterr().out)


@pytest.mark.parametrize(("quantisation", "called"), [("nf4", "load_4bit"), ("none", "load")])
def test_the_quantisation_chooses_how_to_load(
    loaded, model, plan, tmp_path, monkeypatch, quantisation, called
):
    for name in ("load", "load_4bit"):
        monkeypatch.setattr(llm, name, pytest.fail)
    monkeypatch.setattr(llm, called, lambda *_, **__: loaded)
    answers.answer_plan(plan[:1], tmp_path, model[0]._replace(quantisation=quantisation), model[1])


def test_a_killed_model_leaves_nothing_that_is_read(model, plan, tmp_path, monkeypatch):
    real, calls = llm.answer_batch, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(llm, "answer_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        answers.answer_plan(plan, tmp_path / "m", *model)
    made, _ = answers.answer_plan(plan, tmp_path / "m", *model)
    whole, _ = answers.answer_plan(plan, tmp_path / "n", *model)
    assert made == whole and len(made) == len(plan)


def test_a_gpu_that_is_too_small_is_named(model, plan, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(llm, "answer_batch", full)
    with pytest.raises(MemoryError, match=rf"while m answered: choose a.*now {answers.BATCH}"):
        answers.answer_plan(plan[:1], tmp_path / "m", *model)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_a_model_that_cannot_be_loaded_is_named_and_may_be_skipped(
    model, plan, tmp_path, monkeypatch, error
):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(llm, "load", full)
    with pytest.raises(answers.NoRoom, match="Tiny does not fit into memory on cpu: skipped"):
        answers.answer_plan(plan[:1], tmp_path / "m", *model)
    assert not (tmp_path / "m" / "answers.jsonl").exists()


def test_a_model_is_called_nf4_only_where_it_is(model):
    nf4 = model[0]._replace(quantisation="nf4")
    assert answers.precision(nf4, 0.951) == "NF4"
    assert answers.precision(nf4, 0.34) == "34% of the weights in 4 bit"
    assert answers.precision(model[0], 0.0) == "un-quantised"


def test_a_chat_model_answers_with_room_and_its_thought_is_kept(
    loaded, model, plan, tmp_path, monkeypatch
):
    asked = []

    def said(loaded, prompts, options, most=0):
        asked.append((loaded.chat, most))
        row = {"answer": "<think>CN?</think>\nIt is MCI.", "tokens": 9, "prompt_tokens": 9}
        row |= {"truncated": False, "log_likelihood": dict.fromkeys(options, -1.0)}
        return [row] * len(prompts)

    monkeypatch.setattr(llm, "answer_batch", said)
    made, _ = answers.answer_plan(plan[:2], tmp_path, model[0]._replace(chat=True), model[1])
    assert set(asked) == {(True, 0), (True, 1)}  # the last reads what it prefers without a case
    assert [row["answer"][:7] for row in made] == ["<think>"] * 2  # kept whole in the file


def test_context_is_cut_by_whole_captions_the_farthest_first(loaded, plan):
    row = plan[0]
    room = len(loaded.tokenizer(row["prompt"]).input_ids) - 1
    short = answers.cut_context(loaded, row, reserve=loaded.window - room)
    assert short["context"] == row["context"][:-1]
    assert short["prompt"] == vqa.build_prompt(
        row["kind"], row["case"], row["caption"], row["context"][:-1]
    )
    bare = answers.cut_context(loaded, row, reserve=loaded.window)
    assert bare["context"] == [] and answers.cut_context(loaded, row) == row


# ---------------------------------------------------------------- other programs' answers
def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_answers_of_another_program_are_read_by_id(plan, tmp_path):
    rows = [{"id": row["id"], "answer": f"{row['reference']}\n"} for row in plan]
    made = answers.read_answers(write(tmp_path / "answers_mine.jsonl", rows[::-1]), plan)
    assert made == [{"answer": row["answer"]} for row in rows]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda rows: rows[:-2], "2 ids are missing, such as '"),
        (lambda rows: [*rows, {"id": "x/1", "answer": ""}], "1 ids are unknown or repeated.*'x/1'"),
        (lambda rows: [*rows, rows[0]], "1 ids are unknown or repeated"),
        (lambda rows: [rows[0], {"id": "x"}, *rows], 'line 2 is not {"id"'),
        (lambda rows: [rows[0], ["x"], *rows], 'line 2 is not {"id"'),
    ],
)
def test_what_does_not_fit_the_plan_is_named(plan, tmp_path, edit, says):
    rows = [{"id": row["id"], "answer": "CN"} for row in plan]
    path = write(tmp_path / "answers_mine.jsonl", edit(rows))
    with pytest.raises(ValueError, match=rf"answers_mine\.jsonl.*{says}"):
        answers.read_answers(path, plan)
