"""Forty people with made-up embeddings and a reranker that counts words: for tests of retrieval."""

import numpy as np

from memoir_core import text

N = 40


def embeddings():
    """Unit vectors (N, 512) around three centres, the classes of `people` by turns."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, 512))
    return text.unit_rows(centres[np.arange(N) % 3] + rng.normal(size=(N, 512)))


class Words:
    """A cross-encoder whose score is the number of shared words."""

    def rank(self, query, documents, top_k=None, show_progress_bar=False):
        scores = [len(set(query.split()) & set(text.split())) for text in documents]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[:top_k]
        return [{"corpus_id": i, "score": np.float32(scores[i])} for i in order]
