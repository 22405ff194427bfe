"""Grades, the measures of a ranking, and queries of fewer modalities."""

import numpy as np
import pandas as pd
import pytest
import torch
from ideas import idea
from sklearn.metrics import ndcg_score
from tinysearch import N, Words

from memoir_core import retrieval, text
from memoir_core.captions import BLIND, FIELDS_OF, PROTOCOLS, caption, caption_rows, records
from memoir_core.config import MODALITIES, SUBSETS
from memoir_core.inference import fuse
from memoir_core.metrics import majority
from memoir_core.model import HEADS

relevance = idea("08", "def relevance", np=np, pd=pd)["relevance"]
KNOWN = {"np": np, "pd": pd, "relevance": relevance, "majority": majority}
ranking_metrics = idea("08", "def ranking_metrics", ndcg_score=ndcg_score, **KNOWN)[
    "ranking_metrics"
]
CAPTIONS = {"caption": caption, "BLIND": BLIND, "FIELDS_OF": FIELDS_OF, "MODALITIES": MODALITIES}
subset_text = idea("08", "def subset_text", **CAPTIONS)["subset_text"]


# --- grades -----------------------------------------------------------------------------


def test_grades_by_hand():
    table = pd.DataFrame(
        {
            "case": [10, 11, 12, 13],
            "DX": ["MCI", "MCI", "CN", "MCI"],
            "CDRSB": [1.0, 3.0, 1.0, np.nan],
            "AGE": [70.0, 80.0, 75.0, np.nan],
        }
    )
    others = np.array([10, 11, 12, 13])
    e = np.exp(-1)
    wanted = [1.0, 0.6 + 0.2 * e + 0.2 * e, 0.2 + 0.2 * np.exp(-0.5), 0.6]
    assert relevance(table, np.array([10]), others) == pytest.approx(wanted)
    pairs = relevance(table, np.array([11, 12]), np.array([10, 11]))
    assert pairs == pytest.approx([0.6 + 0.4 * e, 0.2 * e + 0.2 * np.exp(-0.5)])


# --- measures of a ranking --------------------------------------------------------------


def dcg(grades):
    return sum(grade / np.log2(place + 1) for place, grade in enumerate(grades, 1))


def test_ndcg_by_hand_and_against_sklearn(table, train):
    lists = {0: [5, 2, 39, 7, 30], 4: [1, 13, 3, 31, 2]}
    found = ranking_metrics(lists, table)
    for k in (1, 5):
        by_hand, by_sklearn = [], []
        for case, others in lists.items():
            grade = {c: relevance(table, np.array([case]), np.array([c]))[0] for c in train}
            best = sorted(grade.values(), reverse=True)[:k]
            by_hand.append(dcg([grade[c] for c in others[:k]]) / dcg(best))
            order = [-others.index(c) if c in others[:k] else -99 - i for i, c in enumerate(train)]
            by_sklearn.append(ndcg_score([[grade[c] for c in train]], [order], k=k))
        assert found[f"ndcg@{k}"] == pytest.approx(np.mean(by_hand))
        assert found[f"ndcg@{k}"] == pytest.approx(np.mean(by_sklearn), abs=1e-6)


def test_precision_and_majority_by_hand(table):
    # Case 0 is CN as are 3, 6 and 9; case 4 is MCI as are 1 and 7; 2 and 5 have dementia.
    lists = {0: [3, 1, 6, 2, 5], 4: [2, 1, 5, 7, 3]}
    found = ranking_metrics(lists, table)
    assert found["precision@1"] == 0.5 and found["precision@5"] == pytest.approx(0.4)
    assert found["knn_accuracy"] == 0.5  # CN, two against two, nearer than dementia; dementia
    first_is_wrong = ranking_metrics({0: [1, 3, 6, 9, 2]}, table)
    assert first_is_wrong["knn_accuracy"] == 1 and first_is_wrong["precision@1"] == 0
    sixth_and_seventh = ranking_metrics({0: [3, 6, 1, 4, 2, 7, 10]}, table)
    assert sixth_and_seventh["knn_accuracy"] == 1  # they do not vote


def test_an_ideal_order_has_ndcg_1(table, train):
    grades = relevance(table, np.array([0]), train)
    best = train[np.argsort(-grades)][:5].tolist()
    assert ranking_metrics({0: best}, table)["ndcg@5"] == pytest.approx(1)
    assert ranking_metrics({0: best[::-1]}, table)["ndcg@5"] < 1


def test_a_subset_query_says_what_the_subset_shows(table):
    record = table.iloc[2].to_dict()
    whole = ("t1", "fa", "clinical")
    assert subset_text(record, whole, "own_caption") == caption(record)
    assert subset_text(record, whole, "blind") == caption(record, withhold=BLIND)
    alone = subset_text(record, ("t1",), "blind")
    assert "entricles" in alone and "year-old" in alone
    assert not any(word in alone for word in ("FA", "MMSE", "APOE", "ADAS", "CDR", "iagnos"))
    alone = subset_text(record, ("clinical",), "own_caption")
    assert "MMSE" in alone and "CDR-SB" in alone and "entricles" not in alone and "FA" not in alone


class Sum(torch.nn.Module):
    """Fuses by adding up what is present."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))

    def fuse(self, embeddings, present):
        fused = (embeddings * present[:, :, None]).sum(dim=1)
        return dict.fromkeys(("z_fused", "attention", *HEADS), fused)


def test_subset_queries_are_fused_from_the_frozen_embeddings(table, z, index):
    parts = np.stack([np.roll(z, 1, axis=1), np.roll(z, 2, axis=1), z], axis=1)  # (n, 3, 512)
    present = np.ones((N, 3), bool)
    present[::8, 1] = False  # half of the test part has no FA
    present[4, 2] = False
    test = table.loc[table["split"] == "test", "case"].to_numpy()
    chapter = idea(
        "08", "def retrieve_subsets", np=np, torch=torch, retrieval=retrieval, text=text,
        fuse=fuse, records=records, subset_text=subset_text, MODALITIES=MODALITIES,
        SUBSETS=SUBSETS, PROTOCOLS=PROTOCOLS, index=index, reranker=Words(), model=Sum(),
        z=parts, present=present, cohort=table, captions=caption_rows(table),
    )  # fmt: skip
    rows = chapter["retrieve_subsets"](test, top_k=6, rerank_k=3, limit=3)
    asked = {(r["subset"], r["protocol"]): [] for r in rows}
    for row in rows:
        asked[row["subset"], row["protocol"]].append(row["case"])
        subset = row["subset"].split("+")
        record = table.iloc[row["case"]]
        assert row["query"] == subset_text(record, subset, row["protocol"])
    assert len(asked) == 14 and asked["t1+clinical", "blind"] == [0, 4, 8]
    assert asked["fa", "own_caption"] == [4, 12, 20] and asked["clinical", "blind"] == [0, 8]
    for row in rows:
        if row["subset"] == "clinical":
            found, _ = retrieval.search(index, z[[row["case"]]], 6)
            assert row["retrieved"] == found[0].tolist() and len(row["reranked"]) == 3


def test_lists_and_table_by_method(table):
    chapter = idea("08", "def ranked_lists", pd=pd, ranking_metrics=ranking_metrics)
    row = {"case": 0, "retrieved": [1, 2, 3], "reranked": [3, 1]}
    rows = [row | {"protocol": "blind"}, row | {"protocol": "own_caption", "reranked": [2, 3]}]
    lists = chapter["ranked_lists"](rows)
    assert lists == {
        **{"z_fused": {0: [1, 2]}, "reranked, blind": {0: [3, 1]}},
        "reranked, own_caption": {0: [2, 3]},
    }
    made = chapter["ranking_table"](lists, table).set_index("method")
    assert made["precision@1"].to_dict() == dict(zip(lists, (0, 1, 0), strict=True))
    assert (made["n"] == 1).all()
