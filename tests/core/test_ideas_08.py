"""Chapter 8's search and reranking, written out, are the core's."""

import faiss
import numpy as np
from ideas import idea
from people import people
from test_retrieval import Words

from memoir_core import retrieval, text
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
    names["reranker"] = Words()
    names = idea("08", "reranker.rank", **names)
    row = retrieval.retrieve(index, Words(), z_fused[test], test, captions, **sizes)[0]
    assert (row["case"], row["protocol"]) == (names["case"], "blind")
    assert row["reranked"] == names["five"] and row["query"] == names["asked"]
    assert row["rerank_scores"] == names["scores"]
    assert row["retrieved"] == names["candidates"].tolist()
