"""The stand-in reranker: what it compares, and that it says what it is."""

from dataclasses import replace

import pytest
import torch
from ideas import idea
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.util import semantic_search
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from memoir_book import weights
from memoir_core import retrieval

CAPTIONS = [
    "A 74-year-old woman. MMSE 29 (preserved). Diagnosis: cognitively normal (CN).",
    "A 74-year-old woman. MMSE 29 (preserved). Diagnosis: dementia.",
    "A 62-year-old man. MMSE 14 (very low). Diagnosis: dementia.",
]


def get_reranker(*given):
    """As chapter 8 writes it out."""
    names = {"torch": torch, "semantic_search": semantic_search, "CrossEncoder": CrossEncoder}
    names |= {"SentenceTransformer": SentenceTransformer, "retrieval": retrieval}
    names |= {"find": weights.find, "quiet": weights.quiet}
    return idea("08", "def get_reranker", **names)["get_reranker"](*given)


@pytest.fixture
def without_hub(monkeypatch):
    """The published cross-encoder cannot be had."""
    real = weights.find

    def find(name, path="", **options):
        if name == "cross-encoder" and not path:
            return replace(real("minilm"), stand_in_for=name)
        return real(name, path, **options)

    monkeypatch.setattr(weights, "find", find)


def test_the_stand_in_ranks_by_the_cosine_of_two_texts_and_says_so(without_hub):
    model, base, what = get_reranker("cpu")
    assert base.name == "minilm" and "not the published model" in what and "separately" in what
    query = "A 61-year-old man. MMSE 15 (very low)."
    ranked = model.rank(query, CAPTIONS)
    encoder = SentenceTransformer(str(base.path), device="cpu")
    asked, *vectors = encoder.encode([query, *CAPTIONS], normalize_embeddings=True)
    cosines = {place: float(asked @ vector) for place, vector in enumerate(vectors)}
    assert ranked[0]["corpus_id"] == 2 and len(ranked) == 3
    assert [row["corpus_id"] for row in ranked] == sorted(cosines, key=cosines.get, reverse=True)
    assert [row["score"] for row in ranked] == pytest.approx(
        sorted(cosines.values())[::-1], abs=1e-5
    )


def test_a_word_of_the_query_changes_the_order(without_hub):
    """What the own caption leaks can be read: two captions differ in the diagnosis alone."""
    model, _, _ = get_reranker("cpu")
    for place, diagnosis in enumerate(("cognitively normal (CN)", "dementia")):
        query = f"An 80-year-old man. MMSE 25 (slightly low). Diagnosis: {diagnosis}."
        assert model.rank(query, CAPTIONS[:2], top_k=1)[0]["corpus_id"] == place


def test_each_caption_is_encoded_once(without_hub, monkeypatch):
    model, _, _ = get_reranker("cpu")
    met, real = [], model.encoder.encode
    monkeypatch.setattr(model.encoder, "encode", lambda x, **o: met.extend(x) or real(x, **o))
    first = model.rank("one", [*CAPTIONS, CAPTIONS[0]])
    again = model.rank("one", [*CAPTIONS, CAPTIONS[0]])
    assert first == again and met == [*CAPTIONS, "one", "one"]


def test_a_cross_encoder_of_the_published_class_is_used_as_one(tmp_path):
    base = str(weights.find("minilm").path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    made = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32, num_labels=1))
    made.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    model, found, what = get_reranker("cpu", str(tmp_path))
    assert isinstance(model, CrossEncoder) and "standing in" not in what
    assert not found.stand_in_for and model.max_length == retrieval.MAX_TOKENS
    ranked = model.rank("MMSE 15", CAPTIONS)
    scores = model.predict([("MMSE 15", text) for text in CAPTIONS])
    assert [row["score"] for row in ranked] == pytest.approx(sorted(scores)[::-1], abs=1e-5)


def test_a_folder_of_your_own_must_hold_a_model(tmp_path, without_hub):
    with pytest.raises(FileNotFoundError, match="holds no complete model"):
        get_reranker("cpu", str(tmp_path))
