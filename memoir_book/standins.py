"""Models that this book trains where the published ones cannot be had, and says so.

The stand-in for the published cross-encoder is MiniLM with a new head, trained on pairs of train
captions whose relevance follows from the two records.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, disable_progress_bars
from sentence_transformers import CrossEncoder
from sentence_transformers import cross_encoder as st
from transformers import PrinterCallback

from memoir_core import files, retrieval, text
from memoir_core.captions import PROTOCOLS
from memoir_core.cohort import check_training_cases

from . import weights

PUBLISHED_RERANKER = "cross-encoder/ms-marco-MiniLM-L-6-v2"
# A stand-in is trained from the lower layers of MiniLM's six; the lowest stay as they are.
LAYERS, FROZEN_LAYERS = 4, 2


def get_reranker(
    folder: Path, index: Any, captions: list[dict], cohort: pd.DataFrame, z_fused: np.ndarray, *,
    pairs: int, top_k: int, seed: int, device: str, path: str = "",
) -> tuple[CrossEncoder, weights.Weights, str]:  # fmt: skip
    """Take the published cross-encoder where it can be had, else train a stand-in once.

    folder : where a trained stand-in is kept; it serves again for equal arguments only.
    pairs, top_k, seed : see `training_pairs`.
    path : folder of a cross-encoder of your own.

    Returns it, the weights it comes or was trained from, and a sentence on what it is.
    """
    try:
        found = weights.find("cross-encoder", path)
    except FileNotFoundError:
        if path:
            raise
    else:
        return _load(found.path, device), found, found.describe()
    base = weights.find("minilm")
    table = training_pairs(index, captions, cohort, z_fused, pairs, top_k, seed)
    settings = {"pairs": pairs, "top_k": top_k, "seed": seed, "device": device}
    settings |= {"layers": LAYERS, "frozen": FROZEN_LAYERS, "base": files.checksum(base.path)}
    made_of = {"captions": captions, "cohort": cohort, "embeddings": z_fused, "drawn": table}
    settings |= {name: files.digest(value) for name, value in made_of.items()}
    settings["code"] = files.code_digest(sys.modules[__name__], retrieval)
    if not files.is_finished(folder, settings):
        model = train_reranker(base.path, table, seed, device)
        with files.atomic_path(folder) as temporary, weights.quiet():
            model.save_pretrained(str(temporary), create_model_card=False)
        files.finish(folder, settings)
    what = f"stand-in for {PUBLISHED_RERANKER} (not the published model): {LAYERS} layers of "
    what += f"all-MiniLM-L6-v2, trained here on {len(table):,} pairs of train captions"
    return _load(folder, device), base, what


def _load(folder: Path, device: str, **options: Any) -> CrossEncoder:
    options |= {"max_length": retrieval.MAX_TOKENS, "trust_remote_code": False}
    with weights.quiet():
        return CrossEncoder(str(folder), device=device, **options)


def training_pairs(
    index: Any, captions: list[dict], cohort: pd.DataFrame, z_fused: np.ndarray,
    pairs: int, top_k: int, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Draw `pairs` of captions: a train case's, and one of its `top_k` neighbours' in the index.

    Every second query text is blind, so that the model serves both protocols. Cases of the
    validation part are candidates, never queries; a test case in the index: DataLeakageError.

    Returns columns query, answer, label (0 to 1, the relevance of the two records).
    """
    rng = np.random.default_rng([seed, 0xCE])
    train = cohort.loc[cohort["split"] == "train", "case"].to_numpy()
    near, _ = retrieval.search(index, z_fused[train], top_k + 1)  # the nearest is the case itself
    chosen = rng.integers(0, len(train), pairs)
    other = near[chosen, rng.integers(1, near.shape[1], pairs)]
    keep = train[chosen] != other
    own, other = train[chosen][keep], other[keep]
    check_training_cases(cohort, np.concatenate([own, other]), "the reranker's training pairs")
    texts = {row["case"]: row for row in captions}
    queries = [retrieval.query_text(texts[c], PROTOCOLS[i % 2]) for i, c in enumerate(own)]
    answers = [texts[c]["caption"] for c in other]
    label = retrieval.relevance(cohort, own, other)
    return pd.DataFrame({"query": queries, "answer": answers, "label": label})


def train_reranker(base: Path, table: pd.DataFrame, seed: int, device: str) -> CrossEncoder:
    """Train the lower layers of MiniLM and a new head, one epoch of binary cross-entropy."""
    disable_progress_bars()
    torch.manual_seed(seed)  # the scoring head is new
    config = {"num_hidden_layers": LAYERS, **text.FAST_ATTENTION}
    model = _load(base, device, num_labels=1, config_kwargs=config)
    bert: Any = model[0]
    for part in (bert.model.bert.embeddings, *bert.model.bert.encoder.layer[:FROZEN_LAYERS]):
        part.requires_grad_(False)  # what MiniLM knows of words stays, and a step takes less time
    with tempfile.TemporaryDirectory() as scratch:
        args = st.CrossEncoderTrainingArguments(
            scratch, num_train_epochs=1, per_device_train_batch_size=16, learning_rate=1e-4,
            warmup_steps=0.1, logging_strategy="no", **text.trainer_options(device, seed),
        )  # fmt: skip
        trainer = st.CrossEncoderTrainer(
            model, args, Dataset.from_pandas(table, preserve_index=False),
            loss=st.losses.BinaryCrossEntropyLoss(model), callbacks=[text.ProgressBar()],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model
