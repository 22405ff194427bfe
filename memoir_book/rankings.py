"""Rankings judged by graded relevance, and queries that have fewer modalities (chapter 8)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sentence_transformers import CrossEncoder
from sklearn.metrics import ndcg_score

from memoir_core.captions import BLIND, FIELDS_OF, PROTOCOLS, caption, records
from memoir_core.config import MODALITIES, SUBSETS
from memoir_core.inference import fuse
from memoir_core.metrics import majority
from memoir_core.model import Memoir
from memoir_core.retrieval import retrieve
from memoir_core.text import unit_rows


def relevance(cohort: pd.DataFrame, queries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Grade from 0 to 1 how useful another case is, (n,), from the records of pairs of cases.

    0.6 for the same diagnosis, up to 0.2 for a close CDR-SB (falling by 1/e per two points, 0 where
    unknown), up to 0.2 for a close age (by 1/e per ten years). The published work does not say how
    it graded pairs; the weights are ours. One query may stand for all n.
    """
    table = cohort.set_index("case")[["DX", "CDRSB", "AGE"]]
    pairs = np.broadcast_arrays(queries, others)
    a, b = (table.loc[cases].reset_index(drop=True) for cases in pairs)
    cdrsb = np.exp(-(a["CDRSB"] - b["CDRSB"]).abs() / 2).fillna(0)
    age = np.exp(-(a["AGE"] - b["AGE"]).abs() / 10).fillna(0)
    return (0.6 * (a["DX"] == b["DX"]) + 0.2 * cdrsb + 0.2 * age).to_numpy()


def subset_text(record: Mapping[Any, Any], subset: Sequence[str], protocol: str) -> str:
    """The query's caption, cut to what the chosen modalities show; age and sex stay."""
    absent = [FIELDS_OF[name] for name in MODALITIES if name not in subset]
    return caption(record, withhold=set().union(*absent, BLIND if protocol == "blind" else ()))


def retrieve_subsets(
    index: Any,
    reranker: CrossEncoder,
    model: Memoir,
    z: np.ndarray,
    present: np.ndarray,
    cohort: pd.DataFrame,
    cases: np.ndarray,
    captions: list[dict],
    top_k: int,
    rerank_k: int,
    limit: int = 0,
) -> list[dict]:
    """Retrieve and rerank with every subset of modalities, both protocols.

    z (n, 3, 512) and present (n, 3) are the frozen embeddings of all cases, `cohort` has the image
    fields of `captions.add_image_fields`. Asked are the first `limit` of `cases` per subset (0:
    all); with FA, of those that have FA, because for others it would repeat a smaller subset.

    Returns rows of retrieval_subsets.jsonl: those of `retrieve`, and subset, as in 't1+clinical'.
    """
    asked_about = {row["case"]: row for row in records(cohort)}
    made = []
    for subset in SUBSETS:
        asked = cases[present[cases, MODALITIES.index("fa")]] if "fa" in subset else cases
        asked = asked[: limit or None]
        fused = fuse(model, torch.from_numpy(z[asked]), torch.from_numpy(present[asked]), subset)
        vectors = fused["z_fused"].numpy()
        some = np.isfinite(vectors).all(axis=1)
        asked = asked[some]
        if len(asked):
            told = [asked_about[case] for case in asked]
            queries = {p: [subset_text(row, subset, p) for row in told] for p in PROTOCOLS}
            found = unit_rows(vectors[some]), asked, captions, top_k, rerank_k, queries
            made += [{"subset": "+".join(subset)} | r for r in retrieve(index, reranker, *found)]
    return made


def ranking_metrics(lists: dict[int, list[int]], cohort: pd.DataFrame) -> dict[str, float]:
    """Score ranked lists {query case: cases, best first}, for k of 1 and 5.

    precision@k is the share with the query's diagnosis, ndcg@k is against the ideal order of all
    train cases, graded by `relevance`, and knn_accuracy says how often the majority diagnosis of
    the first five (the nearer wins a tie) is right.
    """
    dx = cohort.set_index("case")["DX"]
    train = pd.Index(cohort.loc[cohort["split"] != "test", "case"])
    found = []
    for case, others in lists.items():
        row = {"knn_accuracy": majority([dx[other] for other in others[:5]]) == dx[case]}
        grades = relevance(cohort, np.array([case]), train.to_numpy())
        for k in (1, 5):
            row[f"precision@{k}"] = np.mean([dx[other] == dx[case] for other in others[:k]])
            place = np.zeros(len(train))  # what is not among the first k counts as unranked
            place[train.get_indexer(others[:k])] = np.arange(len(others[:k]), 0, -1)
            row[f"ndcg@{k}"] = ndcg_score(grades[None], place[None], k=k, ignore_ties=True)
        found.append(row)
    return {str(name): value for name, value in pd.DataFrame(found).astype(float).mean().items()}
