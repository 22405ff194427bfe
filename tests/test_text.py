"""Captions, the grammar, and the text encoder on a few sentences."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from memoir_core import captions, retrieval, text
from synthetic_adni import sentences


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    n = 24
    return pd.DataFrame(
        {
            "case": range(n),
            "DX": [("CN", "MCI", "Dementia")[i % 3] for i in range(n)],
            "AGE": 60.0 + rng.integers(0, 30, n),
            "PTGENDER": [("Female", "Male")[i % 2] for i in range(n)],
            "APOE4": [(0.0, 1.0, 2.0, np.nan)[i % 4] for i in range(n)],
            "CDRSB": [(0.0, 1.5, 6.0)[i % 3] for i in range(n)],
            "ADAS11": 5.0 + 7 * (np.arange(n) % 3),
            "ADAS13": 8.0 + 9 * (np.arange(n) % 3),
            "MMSE": 29.0 - 3 * (np.arange(n) % 3),
            "MOCA": [np.nan if i % 5 == 0 else 26.0 - 4 * (i % 3) for i in range(n)],
            "VENTRICLES": np.linspace(0, 100, n).round(),
            "FORNIX_FA": [np.nan if i % 2 else float(4 * i) for i in range(n)],
            "split": ["test" if i % 4 == 0 else "train" for i in range(n)],
        }
    )


def test_a_withheld_field_leaves_no_trace(table):
    record = table.iloc[1].to_dict()
    values = itertools.product(("CN", "MCI", "Dementia", None), (0.0, 0.5, 4.5, 18.0, np.nan))
    texts = {
        captions.caption(record | {"DX": dx, "CDRSB": cdr}, withhold=captions.BLIND)
        for dx, cdr in values
    }
    assert len(texts) == 1
    words = texts.pop().lower()
    for hint in ("cdr", "diagnos", "dementia", "mild cognitive", "normal", "impair", "(cn)"):
        assert hint not in words


VALUES = {
    "AGE": (55.0, 81.0, np.nan),
    "PTGENDER": ("Female", "Male", None),
    "APOE4": (0.0, 1.0, 2.0, np.nan),
    "MMSE": (30.0, 26.0, 22.0, 8.0, np.nan),
    "MOCA": (29.0, 20.0, 12.0, 5.0, np.nan),
    "ADAS11": (3.0, 12.0, 20.0, 40.0, np.nan),
    "ADAS13": (3.0, 15.0, 30.0, 60.0, np.nan),
    "VENTRICLES": (3.0, 50.0, 80.0, 99.0, np.nan),
    "FORNIX_FA": (3.0, 20.0, 50.0, 90.0, np.nan),
    "CDRSB": (0.0, 1.0, 5.0, 10.0, 18.0, np.nan),
    "DX": ("CN", "MCI", "Dementia", None),
}


@pytest.mark.parametrize("field", captions.FIELDS)
def test_any_field_can_be_withheld_from_every_wording(table, field):
    shown, hidden = set(), set()
    for case in range(40):  # a case number chooses the wording
        for value in VALUES[field]:
            record = table.iloc[1].to_dict() | {"case": case, field: value}
            shown.add((case, captions.caption(record)))
            hidden.add((case, captions.caption(record, withhold={field})))
    assert len(hidden) == 40  # one text per case: nothing of the value is left to find
    assert len(shown) == 40 * len(VALUES[field])  # and without withholding it can be told


def test_image_fields_know_age_and_train_subjects_only(table):
    rng = np.random.default_rng(0)
    age = table["AGE"].to_numpy()
    measures = pd.DataFrame(
        {
            "ventricle_share": 0.001 * age + rng.normal(0, 0.01, len(age)),
            "fornix_fa": np.where(np.arange(len(age)) % 2, np.nan, rng.random(len(age))),
        }
    )
    made = captions.add_image_fields(table, measures)
    train = made["split"] != "test"
    assert abs(np.corrcoef(made["VENTRICLES"][train], age[train])[0, 1]) < 0.3
    assert made["VENTRICLES"].between(0, 100).all()
    assert (made["FORNIX_FA"].isna() == measures["fornix_fa"].isna()).all()
    relabelled = captions.add_image_fields(table.assign(DX="CN"), measures)
    changed = measures.assign(ventricle_share=measures["ventricle_share"] + 9.0 * ~train)
    other = captions.add_image_fields(table, changed)
    assert relabelled["VENTRICLES"].equals(made["VENTRICLES"])
    assert other["VENTRICLES"][train].equals(made["VENTRICLES"][train])
    with pytest.raises(ValueError, match="3 measures for 24 cases"):
        captions.add_image_fields(table, measures.head(3))


def test_the_published_corpus_has_26889_sentences(records):
    rows = captions.caption_rows(records[0])
    corpus = text.build_corpus(rows, sentences.synthetic_sentences(25500, seed=0), 500)
    assert (corpus.synthetic, corpus.captions, len(corpus.train)) == (25000, 1889, 26889)
    assert len(set(corpus.train[:25000])) == 25000


def test_no_caption_is_cut(records):
    table = records[0].assign(VENTRICLES=100.0, FORNIX_FA=100.0)
    tokenizer = AutoTokenizer.from_pretrained(text.find_minilm().path)
    texts = [row["caption"] for row in captions.caption_rows(table)]
    longest = max(len(ids) for ids in tokenizer(texts).input_ids)
    assert longest <= text.MAX_LENGTH and 2 * longest <= retrieval.MAX_TOKENS


def test_missing_is_said_and_never_invented(table):
    record = table.iloc[0].to_dict() | {"MMSE": np.nan, "APOE4": np.nan, "CDRSB": np.nan}
    words = captions.caption(record)
    assert "MMSE not recorded" in words and "MoCA not recorded" in words
    assert "not recorded" in words.split("APOE", 1)[1] and "CDR-SB not recorded" in words


def test_captions_do_not_change(table):
    rows = captions.caption_rows(table)
    assert rows == captions.caption_rows(table)
    assert len({row["caption"] for row in rows}) > 20
    for row in rows:
        assert row["caption"].count(". ") <= 4 and row["caption"].endswith(".")


def test_a_value_outside_its_codes_is_named(table):
    with pytest.raises(ValueError, match="case 1: PTGENDER='x'"):
        captions.caption(table.iloc[1].to_dict() | {"PTGENDER": "x"})
    with pytest.raises(ValueError, match="HEIGHT"):
        captions.caption(table.iloc[1].to_dict(), withhold={"HEIGHT"})


def test_the_corpus_holds_no_test_caption(table):
    rows = captions.caption_rows(table)
    drawn = sentences.synthetic_sentences(264, seed=0)
    corpus = text.build_corpus(rows, drawn, 64)
    own = [row["caption"] for row in rows if row["split"] != "test"]
    assert corpus.train == [*drawn[:200], *own] and corpus.held_out == drawn[200:]
    assert (corpus.synthetic, corpus.captions) == (200, (table["split"] != "test").sum())
    with pytest.raises(ValueError, match="caption of a case"):
        text.build_corpus(rows, [*drawn, rows[0]["caption_blind"]], 64)


def test_training_lowers_perplexity_and_alignment_beats_chance(table):
    path = text.find_minilm().path
    mlm, new = text.load_mlm(path)
    assert any("predictions" in name for name in new)
    encoder = text.new_text_encoder(path, "cpu", seed=0)
    tokenizer = encoder.model.tokenizer
    drawn = sentences.synthetic_sentences(200, seed=0)
    batches = text.masked_batches(tokenizer, drawn[150:], seed=0)
    before = text.perplexity(mlm, batches)
    log = text.train_mlm(mlm, tokenizer, drawn[:96], epochs=1, seed=0, device="cpu")
    assert text.perplexity(mlm, batches) < before / 2
    assert np.isfinite(log["loss"]).all()

    torch.manual_seed(0)
    z = text.unit_rows(torch.randn(24, 512).numpy())
    words = [row["caption"] for row in captions.caption_rows(table)]
    history = text.align(encoder, [(w,) for w in words], z, epochs=12, seed=0, batch_size=12)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 2
    assert text.recall(encoder.encode(words), z)["recall@1"] > 10 / 24


def test_the_encoder_comes_back_from_disk_as_it_was(tmp_path, table):
    encoder = text.new_text_encoder(text.find_minilm().path, "cpu", seed=0)
    text.save_text_encoder(encoder, tmp_path / "text_encoder")
    again = text.load_text_encoder(tmp_path / "text_encoder")
    words = ["a 72-year-old woman"]
    assert np.allclose(encoder.encode(words), again.encode(words), atol=1e-6)
    (tmp_path / "text_encoder" / "projection.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="chapter 07"):
        text.load_text_encoder(tmp_path / "text_encoder")


def test_vectors_without_a_direction_are_refused():
    with pytest.raises(ValueError, match="row 1"):
        text.unit_rows(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="row 0"):
        text.unit_rows(np.array([[np.nan, 0.0]]))
