"""Where does exact search stop being cheap? `python benchmarks/retrieval.py`.

Exact FAISS search over 1,889 (the published index), 100,000 and 1,000,000 vectors of 512
dimensions, against an inverted file (IVF) and a graph (HNSW) with their recall@50 against
exact, and the cross-encoder's pairs per second at several batch sizes. Vectors are drawn
around directions that differ as subjects do: a few dozen strong components, then noise. With
`--run`, around that run's own embeddings.

Medians over alternating repeats. The million takes 2 GiB and some minutes (`--largest 100000`
leaves it out); HNSW is built for 100,000 only, because building is what it is slow at.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import torch

from memoir_book import chapters, weights
from memoir_core import config
from memoir_core.files import write_json
from memoir_core.retrieval import MAX_TOKENS
from memoir_core.text import unit_rows

SIZES = (1_889, 100_000, 1_000_000)
QUERIES = 256
TOP_K = 50


def draw(n: int, rng: np.random.Generator, around: np.ndarray | None) -> np.ndarray:
    """Unit vectors (n, 512): `around` plus noise, or of 32 strong components plus noise."""
    dim = config.EMBEDDING_DIM
    if around is None:
        basis = np.random.default_rng(1).normal(size=(32, dim)).astype(np.float32)
        strong = rng.standard_normal((n, 32), dtype=np.float32) @ basis
    else:
        strong = around[rng.integers(0, len(around), n)] * np.sqrt(dim)
    noise = rng.standard_normal((n, dim), dtype=np.float32)
    return unit_rows(strong + noise * (0.3 * strong.std()))


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare_indices(
    size: int, rng: np.random.Generator, repeats: int, around: np.ndarray | None
) -> list[dict]:
    """Build the indices over one set of vectors and time them in turn."""
    vectors, queries = draw(size, rng, around), draw(QUERIES, rng, around)
    dim = vectors.shape[1]
    indices: dict[str, Any] = {"exact": faiss.IndexFlatIP(dim)}
    if size > 10_000:
        lists = int(4 * np.sqrt(size))
        quantiser = faiss.IndexFlatIP(dim)
        inner = faiss.METRIC_INNER_PRODUCT
        indices[f"IVF {lists}, 16 probes"] = faiss.IndexIVFFlat(quantiser, dim, lists, inner)
    if 10_000 < size <= 200_000:
        indices["HNSW 32, ef 128"] = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
    build: dict[str, float] = {}
    for name, index in indices.items():
        begin = time.perf_counter()
        if name.startswith("IVF"):
            index.cp.niter = 10
            index.train(vectors[: 40 * index.nlist])
            index.nprobe = 16
        if name.startswith("HNSW"):
            index.hnsw.efSearch = 128
        index.add(vectors)
        build[name] = time.perf_counter() - begin
        print(f"  {name} over {size:,} built in {build[name]:.1f} s", flush=True)
    times: dict[str, list[float]] = {name: [] for name in indices}
    for _ in range(repeats):
        for name, index in indices.items():
            times[name].append(seconds(partial(index.search, queries, TOP_K)))
    _, exact = indices["exact"].search(queries, TOP_K)
    rows = []
    for name, index in indices.items():
        _, found = index.search(queries, TOP_K)
        hit = [len(set(a) & set(b)) / TOP_K for a, b in zip(exact, found, strict=True)]
        one = np.median([seconds(partial(index.search, queries[:1], TOP_K))
                         for _ in range(20)])  # fmt: skip
        rows.append(
            {
                "vectors": size,
                "index": name,
                "queries/s": QUERIES / float(np.median(times[name])),
                "one query, ms": 1000 * float(one),
                f"recall@{TOP_K}": float(np.mean(hit)),
                "build, s": build[name],
            }
        )
    return rows


def compare_batches(device: str, repeats: int) -> list[dict]:
    """Score caption pairs with MiniLM as a cross-encoder, by batch size."""
    from sentence_transformers import CrossEncoder

    query = "A 72-year-old woman with one APOE e4 allele. MMSE 25 (slightly low), MoCA 21 (low)."
    answer = (
        "A 78-year-old man with no APOE e4 allele. Cognitive tests: MMSE 22 (low), MoCA 17 (low),"
        " ADAS-11 18 (many errors), ADAS-13 29 (many errors). Imaging: ventricles large for the age"
        " (percentile 80), fornix FA low for the age (percentile 14). CDR-SB 4.5 (mild impairment)."
        " Diagnosis: dementia."
    )
    with weights.quiet():
        model = CrossEncoder(
            str(weights.find("minilm").path),
            num_labels=1,
            max_length=MAX_TOKENS,
            device=device,
            trust_remote_code=False,
        )
    documents = [answer] * 512
    model.rank(query, documents[:64])
    times: dict[int, list[float]] = {8: [], 32: [], 128: []}
    for _ in range(repeats):
        for size, taken in times.items():
            taken.append(seconds(partial(model.rank, query, documents, batch_size=size)))
    return [
        {"batch": size, "pairs/s": len(documents) / float(np.median(taken))}
        for size, taken in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="leave larger sets out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", default="", help="draw vectors around this run's embeddings")
    parser.add_argument("--device", default="cpu", help="of the cross-encoder: cpu or cuda")
    parser.add_argument("--json", type=Path, default=None, help="also store the results here")
    options = parser.parse_args()
    around = None
    if options.run:
        path = chapters.runs_dir() / options.run / "stage2" / "embeddings.npz"
        with np.load(path, allow_pickle=False) as stored:
            around = unit_rows(stored["z_fused"])
    rng = np.random.default_rng(0)
    searches = [
        row
        for size in SIZES
        if size <= options.largest
        for row in compare_indices(size, rng, options.repeats, around)
    ]
    print(pd.DataFrame(searches).round(3).to_string(index=False))
    batches = compare_batches(options.device, options.repeats)
    print(pd.DataFrame(batches).round(1).to_string(index=False))
    if options.json:
        write_json(
            options.json,
            {
                "vectors": f"around the embeddings of {options.run}" if options.run else "drawn",
                "search": searches,
                "rerank": batches,
                "device": options.device,
                "threads": torch.get_num_threads(),
                "versions": {"faiss": faiss.__version__, "torch": torch.__version__},
                "python": platform.python_version(),
            },
        )


if __name__ == "__main__":
    main()
