"""Chapter 8's search and reranking, written out, are the core's."""

from types import SimpleNamespace

import faiss
import numpy as np
import pandas as pd
import pytest
from ideas import idea
from people import people
from test_retrieval import Words

from memoir_core import metrics, retrieval, text
from memoir_core.captions import caption_rows


def test_search_and_reranking_are_the_core_s():
    table = people(40)
    captions = caption_rows(table)
    train = table.loc[table["split"] != "test", "case"].to_numpy()
    test = table.loc[table["split"] == "test", "case"].to_numpy()
    z_fused = text.unit_rows(np.random.default_rng(0).normal(size=(40, 512)))
    names = {"faiss": faiss, "train": train, "test": test, "z_fused": z_fused}
    names = idea("08", "IndexFlatIP", **names)
    index = retrieval.build_index(z_fused[train], train, table)
    found, cosines = retrieval.search(index, z_fused[test], 5)
    assert np.array_equal(names["nearest_five"], found)
    assert np.allclose(names["cosines"], cosines)

    sizes = {"top_k": 12, "rerank_k": 5}
    names |= {"captions": captions, "texts": {r["case"]: r["caption"] for r in captions}}
    names["book"] = type("Book", (), {"profile": type("Profile", (), sizes)})
    names["reranker"], names["ordinary"] = Words(), test[2:]
    names = idea("08", "reranker.rank", **names)
    row = retrieval.retrieve(index, Words(), z_fused[test], test, captions, **sizes)[2]
    assert (row["case"], row["protocol"]) == (names["case"], "blind")
    assert row["reranked"] == names["five"] and row["query"] == names["asked"]
    assert row["rerank_scores"] == pytest.approx(names["scores"], abs=1e-4)
    assert row["retrieved"] == names["candidates"].tolist()


@pytest.fixture
def severity():
    book = SimpleNamespace(profile=SimpleNamespace(bootstrap=300), seed=0)
    return idea("08", "def beyond", np=np, pd=pd, bootstrap=metrics.bootstrap, book=book)


def test_the_search_by_cdrsb_alone_knows_cdrsb_alone(severity):
    table = people(60).assign(CDRSB=np.repeat([0.0, 0.5, 6.0], 20))
    table.loc[table["split"] == "test", "CDRSB"] = 0.4
    table.loc[table["case"] == 4, "CDRSB"] = np.nan  # a query of whom it is unknown
    table.loc[table["case"] == 25, "CDRSB"] = np.nan
    search = severity["nearest_by_severity"]
    lists = search(table, 25, 0)
    train = table[(table["split"] != "test") & table["CDRSB"].notna()].set_index("case")
    half, none = (set(train.index[train["CDRSB"] == value]) for value in (0.5, 0.0))
    assert set(lists) == set(table.loc[table["split"] == "test", "case"]) - {4}
    for others in lists.values():  # all at a half point first, then those at 0
        assert set(others[: len(half)]) == half and set(others[len(half) :]) <= none
    first = {tuple(others[: len(half)]) for others in lists.values()}
    assert len(first) == len(lists), "ties must fall at random, not by the order of the table"
    assert search(table, 5, 0) == {case: others[:5] for case, others in lists.items()}
    assert search(table, 5, 1) != search(table, 5, 0)


def test_differences_by_hand_and_their_interval(severity):
    told = pd.DataFrame({"age": [70.0, 74.0, 60.0], "male": [1.0, 0.0, np.nan]})
    found = severity["differences"]({0: [1, 2]}, told)
    assert found.loc[0].to_dict() == {"age": 7.0, "male": 1.0}  # the unknown sex does not count
    rng = np.random.default_rng(0)
    ages = pd.DataFrame({"age": rng.uniform(60, 90, 120)})
    asked = range(40)
    away = np.abs(ages["age"].to_numpy()[:, None] - ages["age"].to_numpy()[40:])
    by_age = {case: (40 + np.argsort(away[case])[:5]).tolist() for case in asked}
    chance = [{case: rng.choice(80, 5, replace=False) + 40 for case in asked} for _ in range(2)]
    near, *others = (severity["differences"](lists, ages) for lists in (by_age, *chance))
    beyond = severity["beyond"]
    assert beyond(near, others[0], "age")["low"] > 0
    assert beyond(others[0], near, "age")["high"] < 0
    assert beyond(*others, "age")["low"] < 0 < beyond(*others, "age")["high"]
    # A query that one side cannot answer is left out of both.
    row = beyond(near, others[0].drop(index=[3, 7]), "age")
    assert row["n"] == 38
    kept = [case for case in asked if case not in (3, 7)]
    assert row["value"] == pytest.approx((others[0] - near).loc[kept, "age"].mean())
