"""The index, the grades, the order of cases and the measures of a ranking."""

import faiss
import numpy as np
import pytest
from ideas import idea
from sklearn.impute import SimpleImputer
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tinysearch import N, Words

from memoir_core import retrieval
from memoir_core.captions import PROTOCOLS, caption_rows
from memoir_core.cohort import DataLeakageError
from memoir_core.config import SCORES


@pytest.fixture
def opponents():
    """Chapter 8's methods without a network: random_neighbours, clinical_neighbours."""
    names = {"np": np, "SCORES": SCORES, "NearestNeighbors": NearestNeighbors}
    names |= {"SimpleImputer": SimpleImputer, "StandardScaler": StandardScaler}
    return idea("08", "def clinical_neighbours", make_pipeline=make_pipeline, **names)


# --- the index --------------------------------------------------------------------------


def test_an_exact_search_equals_a_product_of_matrices(index, z, train):
    cases, scores = retrieval.search(index, z[:4], 7)
    cosine = z[:4] @ z[train].T
    assert np.array_equal(cases, train[np.argsort(-cosine, axis=1)[:, :7]])
    assert np.allclose(scores, -np.sort(-cosine, axis=1)[:, :7], atol=1e-5)
    assert cases[1, 0] == 1 and scores[1, 0] == pytest.approx(1)  # a train case finds itself


def test_more_neighbours_than_cases_gives_all_cases(index, z, train):
    cases, _ = retrieval.search(index, z[:1], 500)
    assert sorted(cases[0]) == sorted(train)


def test_nothing_to_find_is_said_in_words(index, table, z, train):
    with pytest.raises(ValueError, match="k=0 nearest of"):
        retrieval.search(index, z[:1], 0)
    empty = retrieval.build_index(z[train][:0], train[:0], table)
    with pytest.raises(ValueError, match="k=5 nearest of 0 indexed cases"):
        retrieval.search(empty, z[:1], 5)


def test_a_test_case_in_the_index_is_leakage(table, z):
    with pytest.raises(DataLeakageError, match="retrieval index"):
        retrieval.build_index(z, np.arange(N), table)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v[:, :100], "shape"),
        (lambda v: v * 2, "row 0 has length 2.000"),
        (lambda v: np.where(np.arange(len(v))[:, None] == 3, np.nan, v), "row 3 has length nan"),
        (lambda v: v[:5], "5 vectors for 30 cases"),
    ],
)
def test_bad_vectors_are_named(table, z, train, change, words):
    with pytest.raises(ValueError, match=words):
        retrieval.build_index(change(z[train]), train, table)


def test_a_query_must_be_a_unit_vector(index, z):
    with pytest.raises(ValueError, match="a query, row 0 has length"):
        retrieval.search(index, z[:1] / 2, 3)


def test_an_index_keeps_its_cases_on_the_disk(tmp_path, index, z):
    faiss.write_index(index, str(tmp_path / "index.faiss"))  # as chapter 8 does
    again = faiss.read_index(str(tmp_path / "index.faiss"))
    assert [p.name for p in tmp_path.iterdir()] == ["index.faiss"]
    for a, b in zip(retrieval.search(again, z, 9), retrieval.search(index, z, 9), strict=True):
        assert np.array_equal(a, b)


def test_neighbours_in_the_scores(table, opponents):
    clinical_neighbours = opponents["clinical_neighbours"]
    twins = table.copy()
    twins.loc[8, list(SCORES)] = twins.loc[9, list(SCORES)].to_numpy()  # 8 is test, 9 train
    twins.loc[0, list(SCORES)] = np.nan
    found = clinical_neighbours(twins, 3)
    assert found[8][0] == 9 and set(found) == set(table.loc[table["split"] == "test", "case"])
    kept = set(table.loc[table["split"] != "test", "case"])
    assert all(set(others) <= kept and len(set(others)) == 3 for others in found.values())
    # In standard deviations: ADAS spans more points than CDR-SB and must not decide alone.
    wide = twins.assign(ADAS11=twins["ADAS11"] * 1000)
    assert clinical_neighbours(wide, 3) == found


def test_random_neighbours(table, opponents):
    random_neighbours = opponents["random_neighbours"]
    found = random_neighbours(table, 5, seed=0)
    assert found == random_neighbours(table, 5, seed=0)
    assert found != random_neighbours(table, 5, seed=1)
    kept = set(table.loc[table["split"] != "test", "case"])
    assert all(set(others) <= kept and len(set(others)) == 5 for others in found.values())


# --- queries ----------------------------------------------------------------------------


def test_reranking_by_hand():
    captions = {7: "a b", 3: "x y z", 9: "a b c"}
    assert retrieval.rerank(Words(), "a b c d", [3, 7, 9], captions, 2) == ([9, 7], [3.0, 2.0])


def test_retrieving_and_reranking(table, z, index, train):
    rows = caption_rows(table)
    test = table.loc[table["split"] == "test", "case"].to_numpy()
    found = retrieval.retrieve(index, Words(), z[test], test, rows, top_k=20, rerank_k=5)
    assert [(r["case"], r["protocol"]) for r in found] == [(c, p) for p in PROTOCOLS for c in test]
    for row in found:
        cosine = dict(zip(train, z[train] @ z[row["case"]], strict=True))
        assert row["retrieved"] == sorted(train, key=lambda case: -cosine[case])[:20]
        assert row["scores"] == pytest.approx([cosine[c] for c in row["retrieved"]], abs=1e-4)
        own = rows[row["case"]]["caption" if row["protocol"] == "own_caption" else "caption_blind"]
        assert row["query"] == own
        scores = [len({*own.split()} & {*rows[c]["caption"].split()}) for c in row["retrieved"]]
        assert row["candidate_scores"] == scores
        assert row["rerank_scores"] == sorted(scores, reverse=True)[:5]
        assert [scores[row["retrieved"].index(c)] for c in row["reranked"]] == row["rerank_scores"]
    with pytest.raises(ValueError, match="protocol='own'"):
        retrieval.query_text(rows[0], "own")
