"""Find similar train cases: exact FAISS search over z_fused, then a cross-encoder reads captions.

Published: project page, section 7. IndexFlatIP over the unit vectors of the train part, top
50, reranked to 5. Only captions of train cases leave this module, never an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pandas as pd
import torch
from sklearn.impute import SimpleImputer
from sklearn.metrics import ndcg_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from memoir_book import weights
from memoir_book.artefacts import (
    atomic_path,
    checksum,
    read_json,
    seal_weights,
    verify_weights,
    write_json,
)

from .captions import BLIND, FIELDS_OF, PROTOCOLS, caption
from .cohort import check_training_cases
from .config import DX, EMBEDDING_DIM, MODALITIES, SCORES, SUBSETS
from .inference import fuse
from .metrics import majority
from .precision import checked_half_type, checked_output_type
from .text import FAST_ATTENTION, ProgressBar, trainer_options, unit_rows

if TYPE_CHECKING:
    from .model import Memoir

MAX_TOKENS = 256  # a pair of captions; a test holds that the longest pair has fewer
# A stand-in is trained from the lower layers of MiniLM's six; the lowest stay as they are.
STAND_IN_LAYERS, FROZEN_LAYERS = 4, 2
PUBLISHED_RERANKER = "cross-encoder/ms-marco-MiniLM-L-6-v2"


class IndexMismatchError(ValueError):
    """An index does not belong to the cohort or the embeddings of this run."""


# --- the index --------------------------------------------------------------------------


@dataclass(frozen=True)
class Index:
    """An exact inner-product index; row i of `faiss` is the train case `cases[i]`."""

    faiss: Any
    cases: np.ndarray

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest train cases of unit vectors (n, 512).

        Returns
        -------
        cases (n, k) and cosine similarities (n, k), best first.

        Raises
        ------
        IndexMismatchError
            Vectors of another width, not of unit length, or not finite.
        """
        queries = _check_vectors(queries, "a query")
        scores, rows = self.faiss.search(queries, min(k, len(self.cases)))
        return self.cases[rows], scores


def _check_vectors(vectors: np.ndarray, what: str) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != EMBEDDING_DIM:
        raise IndexMismatchError(
            f"{what} has shape {vectors.shape}, expected (n, {EMBEDDING_DIM}); run chapter 07 again"
        )
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise IndexMismatchError(f"{what}, row {row} is NaN or infinite; run chapter 05 again")
    norms = np.linalg.norm(vectors, axis=1)
    if len(norms) and abs(norms - 1).max() > 1e-3:
        row = int(abs(norms - 1).argmax())
        raise IndexMismatchError(
            f"{what}, row {row} has length {norms[row]:.3f}, not 1: an inner product of it is no "
            "cosine. Divide each row by its norm (text.unit_rows)"
        )
    return vectors


def build_index(z_fused: np.ndarray, cases: np.ndarray, cohort: pd.DataFrame) -> Index:
    """Index unit vectors (n, 512) of train cases exactly (`faiss.IndexFlatIP`).

    Raises
    ------
    DataLeakageError
        A case of the test part is among them.
    IndexMismatchError
        Vectors that are not unit vectors of width 512, or not one per case.
    """
    check_training_cases(cohort, cases, "the retrieval index")
    vectors = _check_vectors(z_fused, "an embedding")
    if len(vectors) != len(cases):
        raise IndexMismatchError(f"{len(vectors)} vectors for {len(cases)} cases")
    index = faiss.IndexFlatIP(EMBEDDING_DIM)
    index.add(vectors)
    return Index(index, np.asarray(cases, dtype=np.int64))


def save_index(index: Index, path: Path, embeddings: Path) -> None:
    """Write index.faiss, and beside it index.json: case ids and checksums."""
    with atomic_path(path) as temporary:
        faiss.write_index(index.faiss, str(temporary))
    write_json(
        path.with_suffix(".json"),
        {
            "cases": index.cases,
            "dimension": EMBEDDING_DIM,
            "checksum": checksum(path),
            "embeddings_checksum": checksum(embeddings),
        },
    )


def load_index(path: Path, embeddings: Path, cohort: pd.DataFrame) -> Index:
    """Read an index and check that it is whole and belongs to these embeddings and cases.

    Raises
    ------
    IndexMismatchError
        Damaged file, other embeddings, another width, or foreign case ids.
    DataLeakageError
        A test case is in the index.
    """
    stored = read_json(path.with_suffix(".json"))
    again = "run chapter 08 again"
    if stored["checksum"] != checksum(path):
        raise IndexMismatchError(f"{path.name} is not the file that index.json describes; {again}")
    if stored["embeddings_checksum"] != checksum(embeddings):
        raise IndexMismatchError(f"{path.name} was made from other embeddings; {again}")
    index = faiss.read_index(str(path))
    cases = np.array(stored["cases"], dtype=np.int64)
    if index.d != EMBEDDING_DIM or index.ntotal != len(cases):
        raise IndexMismatchError(
            f"{path.name} holds {index.ntotal} vectors of width {index.d} for {len(cases)} cases; "
            + again
        )
    foreign = sorted(set(cases.tolist()) - set(cohort["case"]))
    if foreign:
        raise IndexMismatchError(f"{path.name}: case {foreign[0]} is not in cohort.parquet")
    check_training_cases(cohort, cases, path.name)
    return Index(index, cases)


# --- relevance --------------------------------------------------------------------------


def relevance(cohort: pd.DataFrame, queries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Grade from 0 to 1 how useful another case is, from the two records.

    0.6 for the same diagnosis, up to 0.2 for a close CDR-SB (falling by 1/e per two points,
    0 where unknown), up to 0.2 for a close age (by 1/e per ten years). The published work
    does not say how it graded pairs; the weights are ours.

    Parameters
    ----------
    queries, others : arrays of cases that broadcast against each other.
    """
    table = cohort.set_index("case")
    code = table["DX"].astype("category").cat.codes

    def pick(column: pd.Series, cases: np.ndarray) -> np.ndarray:
        return column.reindex(np.asarray(cases).ravel()).to_numpy().reshape(np.shape(cases))

    same = pick(code, queries) == pick(code, others)
    cdrsb = np.exp(-abs(pick(table["CDRSB"], queries) - pick(table["CDRSB"], others)) / 2)
    age = np.exp(-abs(pick(table["AGE"], queries) - pick(table["AGE"], others)) / 10)
    return 0.6 * same + 0.2 * np.nan_to_num(cdrsb) + 0.2 * np.nan_to_num(age)


# --- the cross-encoder ------------------------------------------------------------------


@dataclass(frozen=True)
class Reranker:
    """A cross-encoder, one sentence on what it is, and the 16-bit type it may use, if any."""

    model: Any
    description: str
    published: bool
    half: torch.dtype | None = None

    def score(self, pairs: Sequence[tuple[str, str]], batch_size: int = 32) -> np.ndarray:
        """Score pairs of texts: (n,) logits."""
        kind = self.model.device.type
        with torch.autocast(kind, self.half, enabled=self.half is not None):
            return self.model.predict(
                list(pairs), batch_size=batch_size, show_progress_bar=False
            ).astype(np.float32)


def query_text(row: dict, protocol: str) -> str:
    """The query's caption: without diagnosis and CDR-SB ('blind'), or whole ('own_caption')."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown; use {' or '.join(PROTOCOLS)}")
    return row["caption_blind" if protocol == "blind" else "caption"]


def get_reranker(
    folder: Path,
    index: Index,
    captions: list[dict],
    cohort: pd.DataFrame,
    z_fused: np.ndarray,
    *,
    pairs: int,
    top_k: int,
    seed: int,
    device: str,
    path: str = "",
) -> Reranker:
    """Take the published cross-encoder where it can be had, else train a stand-in once.

    Parameters
    ----------
    folder : where a trained stand-in is kept; it is used again for the same data.
    pairs : how many caption pairs of train cases the stand-in learns from.
    top_k : pairs are drawn from a case's `top_k` neighbours, the pairs it will meet.
    path : folder of a cross-encoder of your own.
    """
    table = training_pairs(index, captions, cohort, z_fused, pairs, top_k, seed)
    try:
        found = weights.find("cross-encoder", path)
    except FileNotFoundError:
        if path:
            raise
    else:
        return _load_reranker(found.path, found.describe(), not path, table, device)
    identity = hashlib.sha256((table.to_csv(index=False) + str(seed)).encode()).hexdigest()
    mark = folder / "made_from.txt"
    if not mark.exists() or mark.read_text(encoding="utf-8") != identity:
        mark.unlink(missing_ok=True)
        _train_reranker(folder, table, seed, device)
        with atomic_path(mark) as temporary:  # last: it says that the model is whole
            temporary.write_text(identity, encoding="utf-8")
    verify_weights(folder, f"delete {folder} and run chapter 08 again")
    description = (
        f"stand-in for {PUBLISHED_RERANKER} (not the published model): {STAND_IN_LAYERS} layers of "
        f"all-MiniLM-L6-v2, trained here on {len(table):,} pairs of train captions"
    )
    return _load_reranker(folder, description, False, table, device)


def _load_reranker(
    folder: Path, description: str, published: bool, pairs: pd.DataFrame, device: str
) -> Reranker:
    """Load a cross-encoder, and compare its half precision with fp32 on a few pairs."""
    from sentence_transformers import CrossEncoder

    with weights.quiet():
        model = CrossEncoder(
            str(folder), max_length=MAX_TOKENS, device=device, trust_remote_code=False
        )
    few = list(pairs[["query", "answer"]].head(16).itertuples(index=False, name=None))
    half = checked_output_type(
        device, lambda: model.predict(few, show_progress_bar=False, convert_to_tensor=True)
    )
    return Reranker(model, description, published, half)


def training_pairs(
    index: Index,
    captions: list[dict],
    cohort: pd.DataFrame,
    z_fused: np.ndarray,
    pairs: int,
    top_k: int,
    seed: int,
) -> pd.DataFrame:
    """Draw pairs of train captions with their graded relevance.

    Every second query text is blind, so that the model serves both protocols. Cases of the
    validation part are candidates, never queries.

    Returns
    -------
    DataFrame with columns query, answer, label (0 to 1).
    """
    rng = np.random.default_rng([seed, 0xCE])
    train = cohort.loc[cohort["split"] == "train", "case"].to_numpy()
    check_training_cases(cohort, train, "the reranker's training pairs")
    near, _ = index.search(z_fused[train], top_k + 1)  # the nearest is the case itself
    chosen = rng.integers(0, len(train), pairs)
    other = near[chosen, rng.integers(1, near.shape[1], pairs)]
    own = train[chosen]
    keep = own != other
    own, other = own[keep], other[keep]
    texts = {row["case"]: row for row in captions}
    return pd.DataFrame(
        {
            "query": [query_text(texts[c], PROTOCOLS[i % 2]) for i, c in enumerate(own)],
            "answer": [texts[c]["caption"] for c in other],
            "label": relevance(cohort, own, other),
        }
    )


def _train_reranker(folder: Path, table: pd.DataFrame, seed: int, device: str) -> None:
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import (
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from transformers.trainer_callback import PrinterCallback

    disable_progress_bar()
    torch.manual_seed(seed)  # the scoring head is new
    base = weights.find("minilm").path
    with weights.quiet():
        model = CrossEncoder(
            str(base),
            num_labels=1,
            max_length=MAX_TOKENS,
            device=device,
            trust_remote_code=False,
            config_kwargs={"num_hidden_layers": STAND_IN_LAYERS, **FAST_ATTENTION},
        )
    bert: Any = model[0]
    for part in (bert.model.bert.embeddings, *bert.model.bert.encoder.layer[:FROZEN_LAYERS]):
        part.requires_grad_(False)  # what MiniLM knows of words stays, and a step takes less time
    loss = BinaryCrossEntropyLoss(model)
    few = table.head(8)
    features = model.tokenizer(
        few["query"].tolist(), few["answer"].tolist(), padding=True, truncation=True,
        max_length=MAX_TOKENS, return_tensors="pt",
    ).to(device)  # fmt: skip
    wanted = torch.tensor(few["label"].to_numpy(), dtype=torch.float32, device=device)
    precision = checked_half_type(
        device,
        bert.model.eval(),
        lambda: torch.nn.functional.binary_cross_entropy_with_logits(
            bert.model(**features).logits[:, 0].float(), wanted
        ),
    )
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder / "scratch"),
        num_train_epochs=1,
        per_device_train_batch_size=16,
        learning_rate=1e-4,
        warmup_steps=0.1,
        logging_strategy="no",
        **trainer_options(device, precision, seed),
    )
    trainer = CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_pandas(table, preserve_index=False),
        loss=loss,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressBar("cross-encoder"))
    trainer.train()
    with weights.quiet():
        model.save_pretrained(str(folder), create_model_card=False)
    seal_weights(folder)


# --- queries ----------------------------------------------------------------------------


def rerank(
    reranker: Reranker, text: str, cases: Sequence[int], captions: dict[int, str], k: int
) -> tuple[list[int], list[float]]:
    """Order candidate cases by what the cross-encoder reads in query and caption.

    Returns
    -------
    the best k cases and their scores (logits), best first.
    """
    scores = reranker.score([(text, captions[int(case)]) for case in cases])
    order = np.argsort(-np.asarray(scores), kind="stable")[:k]
    return [int(cases[i]) for i in order], [float(scores[i]) for i in order]


def retrieve(
    index: Index,
    reranker: Reranker,
    z_queries: np.ndarray,
    cases: Sequence[int],
    captions: list[dict],
    *,
    top_k: int,
    rerank_k: int,
    protocols: Sequence[str] = PROTOCOLS,
) -> list[dict]:
    """Retrieve and rerank for each case and protocol.

    Returns
    -------
    Rows of retrieval.jsonl: case, protocol, retrieved (top_k cases), scores, reranked
    (rerank_k cases), rerank_scores. All rerank scores of a case are kept in
    `candidate_scores`, in the order of `retrieved`.
    """
    from tqdm import tqdm

    texts = {row["case"]: row for row in captions}
    found, cosines = index.search(z_queries, top_k)
    rows = []
    for protocol in protocols:
        pairs = [
            (query_text(texts[int(case)], protocol), texts[int(other)]["caption"])
            for case, others in zip(cases, found, strict=True)
            for other in others
        ]
        parts = []  # whole chunks: a bar that moves, and the same padding on every run
        for start in tqdm(range(0, len(pairs), 1000), desc=f"rerank {protocol}", mininterval=5):
            chunk = pairs[start : start + 1000]
            parts.append(reranker.score(chunk))
        scores = np.concatenate(parts).reshape(found.shape)
        for case, others, cosine, score in zip(cases, found, cosines, scores, strict=True):
            order = np.argsort(-score, kind="stable")[:rerank_k]
            rows.append(
                {
                    "case": int(case),
                    "protocol": protocol,
                    "retrieved": others.tolist(),
                    "scores": [round(float(x), 5) for x in cosine],
                    "reranked": others[order].tolist(),
                    "rerank_scores": [round(float(x), 5) for x in score[order]],
                    "candidate_scores": [round(float(x), 5) for x in score],
                }
            )
    return rows


def subset_vectors(
    model: Memoir, embeddings: Path, cases: np.ndarray, subset: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse the frozen embeddings of some modalities into query vectors.

    Parameters
    ----------
    embeddings : stage2/embeddings.npz of chapter 5.
    subset : one or more of 't1', 'fa', 'clinical'.

    Returns
    -------
    cases (m,) that have any of these modalities, and their unit vectors (m, 512).
    """
    with np.load(embeddings, allow_pickle=False) as stored:
        z, present = (torch.from_numpy(stored[k][cases]) for k in ("z", "present"))
    z_fused = fuse(model, z, present, subset)["z_fused"].numpy()
    some = np.isfinite(z_fused).all(axis=1)
    return cases[some], unit_rows(z_fused[some])


def subset_text(record: Mapping[Any, Any], subset: Sequence[str], protocol: str) -> str:
    """The query's caption, cut to what the chosen modalities show.

    Age and sex stay. 'own_caption' adds diagnosis and CDR-SB to it, 'blind' does not.
    """
    absent = [FIELDS_OF[name] for name in MODALITIES if name not in subset]
    hidden = set().union(*absent) | (BLIND if protocol == "blind" else frozenset())
    return caption(record, withhold=hidden)


def retrieve_subsets(
    index: Index,
    reranker: Reranker,
    model: Memoir,
    embeddings: Path,
    cohort: pd.DataFrame,
    cases: np.ndarray,
    captions: list[dict],
    *,
    top_k: int,
    rerank_k: int,
    limit: int = 0,
) -> list[dict]:
    """Retrieve and rerank with every subset of modalities, both protocols.

    Parameters
    ----------
    cohort : with the image fields of `captions.add_image_fields`.
    cases : queries; a subset with FA is asked of those that have FA (for others it would
        repeat a smaller subset).
    limit : ask the first `limit` of them per subset; 0 asks all.

    Returns
    -------
    Rows of retrieval_subsets.jsonl: case, subset, protocol, query (its text), retrieved
    (top_k cases), reranked (rerank_k cases).
    """
    from tqdm import tqdm

    texts = {row["case"]: row["caption"] for row in captions}
    records = {row["case"]: row for row in cohort.to_dict("records")}
    has_fa = cohort["has_fa"].to_numpy()
    rows = []
    for subset in tqdm(SUBSETS, desc="subsets", mininterval=5):
        asked = cases[has_fa[cases]] if "fa" in subset else cases
        asked = asked[: limit or None]
        asked, vectors = subset_vectors(model, embeddings, asked, subset)
        if not len(asked):
            continue
        found, _ = index.search(vectors, top_k)
        for protocol in PROTOCOLS:
            queries = [subset_text(records[case], subset, protocol) for case in asked.tolist()]
            pairs = [
                (query, texts[int(other)])
                for query, others in zip(queries, found, strict=True)
                for other in others
            ]
            order = np.argsort(-reranker.score(pairs).reshape(found.shape), kind="stable")
            best = np.take_along_axis(found, order, axis=1)[:, :rerank_k]
            rows += [
                {"case": case, "subset": "+".join(subset), "protocol": protocol, "query": query}
                | {"retrieved": others, "reranked": kept}
                for case, query, others, kept in zip(
                    asked.tolist(), queries, found.tolist(), best.tolist(), strict=True
                )
            ]
    return rows


def ask(
    index: Index,
    reranker: Reranker,
    encoder: Any,
    text: str,
    captions: list[dict],
    top_k: int = 50,
    rerank_k: int = 5,
) -> pd.DataFrame:
    """Search by free text: the text encoder's vector lies in the space of z_fused.

    Returns
    -------
    DataFrame with columns case, rerank_score, caption; best first.
    """
    texts = {row["case"]: row["caption"] for row in captions}
    near, _ = index.search(encoder.encode([text]), top_k)
    cases, scores = rerank(reranker, text, near[0], texts, rerank_k)
    return pd.DataFrame(
        {"case": cases, "rerank_score": scores, "caption": [texts[c] for c in cases]}
    )


def query_groups(rows: list[dict], cohort: pd.DataFrame) -> dict[str, list[int]]:
    """Each class's blind queries, and all cases that they found, for pictures of means."""
    groups: dict[str, list[int]] = {}
    dx = cohort.set_index("case")["DX"]
    for name in DX:
        own = [r for r in rows if r["protocol"] == "blind" and dx[r["case"]] == name]
        groups[f"{name}, queries"] = sorted({r["case"] for r in own})
        groups[f"{name}, found"] = sorted({case for r in own for case in r["reranked"]})
    return groups


# --- how good is it? --------------------------------------------------------------------


def clinical_neighbours(cohort: pd.DataFrame, k: int) -> dict[int, list[int]]:
    """Baseline: nearest train cases by the five standardised scores alone."""
    train, test = cohort[cohort["split"] != "test"], cohort[cohort["split"] == "test"]
    scale = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    features = list(SCORES)
    search = NearestNeighbors(n_neighbors=k).fit(scale.fit_transform(train[features]))
    rows = search.kneighbors(scale.transform(test[features]), return_distance=False)
    found = train["case"].to_numpy()[rows]
    return {int(case): others.tolist() for case, others in zip(test["case"], found, strict=True)}


def random_neighbours(cohort: pd.DataFrame, k: int, seed: int) -> dict[int, list[int]]:
    """Baseline: train cases drawn at random."""
    rng = np.random.default_rng([seed, 0xAB])
    train = cohort.loc[cohort["split"] != "test", "case"].to_numpy()
    test = cohort.loc[cohort["split"] == "test", "case"]
    return {int(case): rng.choice(train, k, replace=False).tolist() for case in test}


def ranking_metrics(
    lists: dict[int, list[int]], cohort: pd.DataFrame, ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Score ranked lists {query case: cases, best first}.

    Returns
    -------
    precision@k (share with the query's diagnosis), ndcg@k against the ideal order of all
    train cases, graded by `relevance`, and knn_accuracy: the majority diagnosis of the
    first five (the nearer wins a tie) is right.
    """
    dx = cohort.set_index("case")["DX"]
    train = cohort.loc[cohort["split"] != "test", "case"].to_numpy()
    row = {case: i for i, case in enumerate(train)}
    found: dict[str, list[float]] = {}
    for case, others in lists.items():
        same = [dx[other] == dx[case] for other in others]
        grades = relevance(cohort, np.array([case]), train)
        score = np.zeros(len(train))
        for place, other in enumerate(others):
            score[row[other]] = len(others) - place
        for k in ks:
            found.setdefault(f"precision@{k}", []).append(float(np.mean(same[:k])))
            # Only the first k are scored; the rest must not count by their order.
            ranked = np.where(score > len(others) - k, score, 0.0)
            gain = ndcg_score(grades[None], ranked[None], k=k, ignore_ties=True)
            found.setdefault(f"ndcg@{k}", []).append(float(gain))
        vote = majority([dx[other] for other in others[:5]])
        found.setdefault("knn_accuracy", []).append(float(vote == dx[case]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def retrieval_table(rows: list[dict], cohort: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Compare retrieval before and after reranking, both protocols, with two baselines.

    Returns
    -------
    One row per method: precision@1, precision@5, ndcg@1, ndcg@5, knn_accuracy, n.
    """
    first = rows[0]["protocol"]
    k = len(rows[0]["reranked"])
    methods = {
        "random": random_neighbours(cohort, k, seed),
        "clinical scores": clinical_neighbours(cohort, k),
        "z_fused": {r["case"]: r["retrieved"][:k] for r in rows if r["protocol"] == first},
    }
    for protocol in dict.fromkeys(r["protocol"] for r in rows):
        methods[f"reranked, {protocol}"] = {
            r["case"]: r["reranked"] for r in rows if r["protocol"] == protocol
        }
    return pd.DataFrame(
        [
            {"method": name, **ranking_metrics(lists, cohort), "n": len(lists)}
            for name, lists in methods.items()
        ]
    )


def subset_table(rows: list[dict], cohort: pd.DataFrame) -> pd.DataFrame:
    """Compare retrieval with every subset of modalities, before and after reranking.

    Parameters
    ----------
    rows : `retrieve_subsets`.

    Returns
    -------
    One row per subset and method ('z_fused', 'reranked, blind', 'reranked, own_caption'): the
    columns of `ranking_metrics`, and n.
    """
    lists: dict[tuple[str, str], dict[int, list[int]]] = {}
    for row in rows:
        before = lists.setdefault((row["subset"], "z_fused"), {})
        before[row["case"]] = row["retrieved"][: len(row["reranked"])]
        after = lists.setdefault((row["subset"], f"reranked, {row['protocol']}"), {})
        after[row["case"]] = row["reranked"]
    return pd.DataFrame(
        {"subset": subset, "method": method} | ranking_metrics(chosen, cohort) | {"n": len(chosen)}
        for (subset, method), chosen in lists.items()
    )
