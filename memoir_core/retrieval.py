"""Find similar train cases: exact FAISS search over z_fused, then a cross-encoder reads captions.

Published: project page, section 7. IndexFlatIP over the unit vectors of the train part, top 50,
reranked to 5. Only captions of train cases leave this module, never an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
import pandas as pd
from sentence_transformers import CrossEncoder
from tqdm import tqdm

from .captions import PROTOCOLS
from .cohort import check_training_cases
from .config import EMBEDDING_DIM

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
    if (most := min(k, index.ntotal)) < 1:
        raise ValueError(f"k={k} nearest of {index.ntotal} indexed cases: at least one is needed")
    scores, cases = index.search(_check_vectors(queries, "a query"), most)
    return cases, scores


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
    index: Any, reranker: CrossEncoder, z_queries: np.ndarray, cases: Sequence[int],
    captions: list[dict], top_k: int, rerank_k: int, queries: dict[str, list[str]] | None = None,
) -> list[dict]:  # fmt: skip
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
