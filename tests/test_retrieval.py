"""The index and its checks, reranking, and ranking metrics."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from damage import flip

from memoir_book.artefacts import DamagedFileError
from memoir_core import retrieval, text
from memoir_core.captions import caption_rows
from memoir_core.cohort import DataLeakageError
from memoir_core.retrieval import IndexMismatchError

N = 40


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    code = np.arange(N) % 3
    return pd.DataFrame(
        {
            "case": range(N),
            "DX": np.array(["CN", "MCI", "Dementia"])[code],
            "AGE": 60.0 + rng.integers(0, 30, N),
            "PTGENDER": np.where(rng.random(N) < 0.5, "Female", "Male"),
            "APOE4": rng.integers(0, 3, N).astype(float),
            "CDRSB": np.array([0.0, 1.5, 6.0])[code],
            "ADAS11": np.array([5.0, 10.0, 20.0])[code],
            "ADAS13": np.array([8.0, 16.0, 30.0])[code],
            "MMSE": np.array([29.0, 27.0, 21.0])[code],
            "MOCA": np.array([27.0, 23.0, 16.0])[code],
            "split": np.where(np.arange(N) % 4 == 0, "test", "train"),
        }
    )


@pytest.fixture(scope="module")
def z(table):
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, 512))
    return text.unit_rows(centres[np.arange(N) % 3] + rng.normal(size=(N, 512)))


@pytest.fixture
def train(table):
    return table.loc[table["split"] == "train", "case"].to_numpy()


@pytest.fixture
def index(table, z, train):
    return retrieval.build_index(z[train], train, table)


def test_search_equals_sorting_all_cosines(index, z, train):
    cases, scores = index.search(z[:4], 7)
    cosine = z[:4] @ z[train].T
    assert np.array_equal(cases, train[np.argsort(-cosine, axis=1)[:, :7]])
    assert np.allclose(scores, -np.sort(-cosine, axis=1)[:, :7], atol=1e-5)


def test_more_neighbours_than_cases_gives_all_cases(index, z, train):
    cases, _ = index.search(z[:1], 500)
    assert sorted(cases[0]) == sorted(train)


def test_a_test_case_in_the_index_is_leakage(table, z):
    with pytest.raises(DataLeakageError, match="retrieval index"):
        retrieval.build_index(z, np.arange(N), table)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v[:, :100], "shape"),
        (lambda v: v * 2, "length 2.000"),
        (lambda v: np.where(np.arange(512) == 3, np.nan, v), "NaN"),
        (lambda v: v[:5], "5 vectors"),
    ],
)
def test_bad_vectors_are_named(table, z, train, change, words):
    with pytest.raises(IndexMismatchError, match=words):
        retrieval.build_index(change(z[train]), train, table)


def test_an_index_must_belong_to_its_embeddings_and_cohort(tmp_path, table, z, index):
    embeddings = tmp_path / "embeddings.npz"
    np.savez(embeddings, z_fused=z)
    path = tmp_path / "index.faiss"
    retrieval.save_index(index, path, embeddings)
    again = retrieval.load_index(path, embeddings, table)
    assert np.array_equal(again.search(z[:2], 3)[0], index.search(z[:2], 3)[0])

    with pytest.raises(DataLeakageError):
        retrieval.load_index(path, embeddings, table.assign(split="test"))
    with pytest.raises(IndexMismatchError, match="not in cohort"):
        retrieval.load_index(path, embeddings, table[table["case"] > 5])
    np.savez(embeddings, z_fused=z + 0.1)
    with pytest.raises(IndexMismatchError, match="other embeddings"):
        retrieval.load_index(path, embeddings, table)
    np.savez(embeddings, z_fused=z)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IndexMismatchError, match=r"index\.json"):
        retrieval.load_index(path, embeddings, table)
    meta = json.loads(path.with_suffix(".json").read_text())
    assert set(meta) == {"cases", "dimension", "checksum", "embeddings_checksum"}


def test_relevance_is_graded(table):
    same = retrieval.relevance(table, np.array([0]), np.array([0]))
    assert same == pytest.approx([1.0])
    near, far = retrieval.relevance(table, np.array([0]), np.array([3, 2]))
    assert 0 < far < near < 1
    unknown = table.assign(CDRSB=np.nan)
    assert retrieval.relevance(unknown, np.array([0]), np.array([0])) == pytest.approx([0.8])


def test_ranking_metrics_of_a_perfect_and_a_wrong_list(table, train):
    grades = retrieval.relevance(table, np.array([0]), train)
    best = train[np.argsort(-grades)][:5].tolist()
    found = retrieval.ranking_metrics({0: best}, table)
    assert found["precision@5"] == 1 and found["knn_accuracy"] == 1
    assert found["ndcg@5"] == pytest.approx(1.0)
    wrong = [int(c) for c in train if table["DX"][c] == "Dementia"][:5]
    found = retrieval.ranking_metrics({0: wrong}, table)
    assert found["precision@5"] == 0 and found["knn_accuracy"] == 0
    assert found["ndcg@5"] < 0.6


class Words:
    """Counts shared words: a scorer whose right answers can be worked out."""

    device = torch.device("cpu")

    def predict(self, pairs, **_):
        return np.array([len(set(a.split()) & set(b.split())) for a, b in pairs], float)


def test_retrieve_keeps_protocols_apart(table, z, index):
    rows = caption_rows(table)
    test = table.loc[table["split"] == "test", "case"].to_numpy()
    ranker = retrieval.Reranker(Words(), "shared words", published=False)
    found = retrieval.retrieve(index, ranker, z[test], test, rows, top_k=20, rerank_k=5)
    assert len(found) == 2 * len(test)
    for row in found:
        assert len(row["retrieved"]) == 20 and len(row["reranked"]) == 5
        assert set(row["reranked"]) <= set(row["retrieved"])
        assert not set(row["retrieved"]) & set(test)
        assert row["rerank_scores"] == sorted(row["rerank_scores"], reverse=True)
    precision = {}
    for protocol in retrieval.PROTOCOLS:
        lists = {r["case"]: r["reranked"] for r in found if r["protocol"] == protocol}
        precision[protocol] = retrieval.ranking_metrics(lists, table)["precision@1"]
    assert precision["own_caption"] >= precision["blind"]
    with pytest.raises(ValueError, match="protocol='own'"):
        retrieval.query_text(rows[0], "own")


def test_a_stand_in_is_trained_once_and_called_one(tmp_path, table, z, index, monkeypatch):
    def none(name, path=""):
        if name == "cross-encoder":
            raise FileNotFoundError(name)
        return found(name, path)

    found = retrieval.weights.find
    monkeypatch.setattr(retrieval.weights, "find", none)
    options = {"pairs": 32, "top_k": 10, "seed": 0, "device": "cpu"}
    arguments = tmp_path / "reranker", index, caption_rows(table), table, z
    ranker = retrieval.get_reranker(*arguments, **options)
    assert "stand-in" in ranker.description and not ranker.published
    first = ranker.score([("a man", "a woman"), ("MMSE 20", "MMSE 21")])
    stamp = (tmp_path / "reranker" / "made_from.txt").stat().st_mtime_ns
    again = retrieval.get_reranker(*arguments, **options)
    assert (tmp_path / "reranker" / "made_from.txt").stat().st_mtime_ns == stamp
    assert np.array_equal(again.score([("a man", "a woman"), ("MMSE 20", "MMSE 21")]), first)
    flip(tmp_path / "reranker" / "model.safetensors")
    with pytest.raises(DamagedFileError, match=r"model\.safetensors is damaged.* chapter 08"):
        retrieval.get_reranker(*arguments, **options)


def test_training_pairs_are_of_train_cases_only(table, z, index):
    rows = caption_rows(table)
    pairs = retrieval.training_pairs(index, rows, table, z, 60, 10, seed=0)
    test = {r[k] for r in rows if r["split"] == "test" for k in ("caption", "caption_blind")}
    assert not test & {*pairs["query"], *pairs["answer"]}
    assert pairs["label"].between(0, 1).all() and pairs["label"].nunique() > 5
