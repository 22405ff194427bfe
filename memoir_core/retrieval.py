"""Find similar train cases: exact FAISS search over z_fused, then a cross-encoder reads captions.

Published: project page, section 7. IndexFlatIP over the unit vectors of the train part, top 50,
reranked to 5. Only captions of train cases leave this module, never an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import faiss
import numpy as np
import pandas as pd
import torch
from sentence_transformers import CrossEncoder
from sklearn.metrics import ndcg_score
from tqdm import tqdm

from .captions import BLIND, FIELDS_OF, PROTOCOLS, caption
from .cohort import check_training_cases
from .config import EMBEDDING_DIM, MODALITIES, SUBSETS
from .inference import fuse
from .metrics import majority
from .model import Memoir
from .text import unit_rows

MAX_TOKENS = 256  # a pair of captions; a test holds that the longest pair has fewer


def build_index(z_fused: np.ndarray, cases: np.ndarray, cohort: pd.DataFrame) -> Any:
    """Index unit vectors (n, 512) of train cases exactly: IndexFlatIP, under their case numbers.

    Raises DataLeakageError where a test case is among them, ValueError for other vectors.
    """
    check_training_cases(cohort, cases, "the retrieval index")
    vectors = _check_vectors(z_fused, "an embedding")
    if len(vectors) != len(cases):
        raise ValueError(f"{len(vectors)} vectors for {len(cases)} cases: one each is needed")
    index = faiss.IndexIDMap(faiss.IndexFlatIP(EMBEDDING_DIM))
    index.add_with_ids(vectors, np.asarray(cases, dtype=np.int64))
    return index


def _check_vectors(vectors: np.ndarray, what: str) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != EMBEDDING_DIM:
        raise ValueError(f"{what} has shape {vectors.shape}, expected (n, {EMBEDDING_DIM})")
    off = ~(abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)  # True for NaN as well
    if off.any():
        row = off.argmax()
        what = f"{what}, row {row} has length {np.linalg.norm(vectors[row]):.3f}, not 1"
        raise ValueError(f"{what}: no cosines. Divide each row by its norm (text.unit_rows)")
    return vectors


def search(index: Any, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest train cases of unit vectors (n, 512): cases and cosines, (n, k) each."""
    scores, cases = index.search(_check_vectors(queries, "a query"), min(k, index.ntotal))
    return cases, scores


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


def query_text(row: dict, protocol: str) -> str:
    """The query's caption: without diagnosis and CDR-SB ('blind'), or whole ('own_caption')."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown; use {' or '.join(PROTOCOLS)}")
    return row["caption_blind" if protocol == "blind" else "caption"]


def rerank(
    reranker: CrossEncoder, query: str, cases: Sequence[int], captions: dict[int, str], k: int
) -> tuple[list[int], list[float]]:
    """Find the k cases whose captions the cross-encoder ranks highest, and their scores."""
    documents = [captions[int(case)] for case in cases]
    ranked = reranker.rank(query, documents, top_k=k, show_progress_bar=False)
    best = [int(cases[int(row["corpus_id"])]) for row in ranked]
    return best, [round(float(row["score"]), 5) for row in ranked]


def retrieve(
    index: Any,
    reranker: CrossEncoder,
    z_queries: np.ndarray,
    cases: Sequence[int],
    captions: list[dict],
    top_k: int,
    rerank_k: int,
    queries: dict[str, list[str]] | None = None,
) -> list[dict]:
    """Retrieve and rerank for each protocol and case, from their unit vectors (n, 512).

    `queries` has the n texts of each protocol for the cross-encoder; by default `query_text`.

    Returns rows of retrieval.jsonl: case, protocol, query; retrieved (top_k cases) with scores
    (cosines) and candidate_scores (of the cross-encoder); reranked (rerank_k) with rerank_scores.
    """
    rows = {row["case"]: row for row in captions}
    texts = {case: row["caption"] for case, row in rows.items()}
    queries = queries or {p: [query_text(rows[int(c)], p) for c in cases] for p in PROTOCOLS}
    found, cosines = search(index, z_queries, top_k)
    made = []
    for protocol, asked in queries.items():
        each = zip(cases, asked, found.tolist(), cosines, strict=True)
        for case, query, others, cosine in tqdm(each, protocol, len(cases), mininterval=5):
            best, scores = rerank(reranker, query, others, texts, len(others))
            of = dict(zip(best, scores, strict=True))
            row = {"case": int(case), "protocol": protocol, "query": query, "retrieved": others}
            row |= {"scores": [round(float(x), 5) for x in cosine]}
            row |= {"candidate_scores": [of[other] for other in others]}
            made.append(row | {"reranked": best[:rerank_k], "rerank_scores": scores[:rerank_k]})
    return made


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
    records = {row["case"]: row for row in cohort.to_dict("records")}
    made = []
    for subset in SUBSETS:
        asked = cases[present[cases, MODALITIES.index("fa")]] if "fa" in subset else cases
        asked = asked[: limit or None]
        fused = fuse(model, torch.from_numpy(z[asked]), torch.from_numpy(present[asked]), subset)
        vectors = fused["z_fused"].numpy()
        some = np.isfinite(vectors).all(axis=1)
        asked = asked[some]
        if len(asked):
            queries = {p: [subset_text(records[c], subset, p) for c in asked] for p in PROTOCOLS}
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
