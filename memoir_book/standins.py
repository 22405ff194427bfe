"""Models that this book trains where the published ones cannot be had, and says so.

For the published cross-encoder stands MiniLM with a new head, trained on pairs of train captions
whose relevance follows from the two records; for a tuned language model a small base model with
low-rank adapters (LoRA: Hu et al. 2021, arXiv:2106.09685), which learn answers about train
captions, so that it can be asked on two cores whether tuning for the task beats size.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, disable_progress_bars
from sentence_transformers import CrossEncoder
from sentence_transformers import cross_encoder as st
from tqdm import tqdm
from transformers import PrinterCallback

from memoir_core import files, llm, retrieval, text, vqa
from memoir_core.captions import PROTOCOLS
from memoir_core.cohort import check_training_cases
from memoir_core.precision import HALF, checked_half_type

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
    base = weights.find("cross-encoder", path)
    if not base.stand_in_for:
        return _load(base.path, device), base, base.describe()
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


def train_questions(
    cohort: pd.DataFrame, captions: list[dict], examples: int, batch: int, seed: int
) -> list[list[dict]]:
    """Draw questions about train cases, half of them on the diagnosis, in batches of one kind.

    A prompt holds one blind caption. One kind per batch keeps the answers about equally long, so
    that the logits (262,144 columns in Gemma) are computed for few positions.
    """
    texts = {row["case"]: row["caption_blind"] for row in captions}
    answers, rng = vqa.reference_answers(cohort), np.random.default_rng(seed)
    train = {int(case) for case in cohort[cohort["split"] == "train"]["case"]}
    others = [kind for kind in vqa.QUESTIONS if kind != "diagnosis"]
    steps = []
    for number in range(max(1, examples // batch)):
        kind = "diagnosis" if number % 2 == 0 else others[number // 2 % len(others)]
        known = answers[kind]
        able = sorted(train & known.keys())
        picks = rng.choice(able, size=min(batch, len(able)), replace=False).tolist()
        steps.append([vqa.question(kind, c, "train", texts[c], (), known[c]) for c in picks])
    return steps


def train_lora(
    model_folder: Path, weights: str, steps: list[list[dict]], folder: Path, *,
    lr: float = 1e-3, seed: int = 0, device: str = "cpu",
) -> list[float]:  # fmt: skip
    """Adapt a base model to questions with LoRA; write the adapter into `folder`.

    The upper half of the layers learns the answers' tokens only; the lower half then needs no
    backward pass. A finished adapter is used again when all that made it is the same: the base
    model's `weights` (their checksum), the questions, `lr`, `seed`, device and code.

    Returns the loss per step of `train_questions`; [] where the adapter was there.
    """
    settings = {"weights": weights, "questions": files.digest(steps), "lr": lr, "seed": seed}
    settings |= {"device": device, "code": files.code_digest(llm, sys.modules[__name__])}
    if files.is_finished(folder, settings):
        return []
    from peft import LoraConfig, get_peft_model

    loaded = llm.load(model_folder, device, dtype=torch.float32)
    torch.manual_seed(seed)
    layers = loaded.model.config.num_hidden_layers
    names = rf".*layers\.({'|'.join(map(str, range(layers // 2, layers)))})\..*_proj"
    shape = LoraConfig(r=8, lora_alpha=16, target_modules=names, task_type="CAUSAL_LM")
    # peft asks for names that transformers 5 renames; nothing here depends on them.
    warnings.filterwarnings("ignore", message=".*is_(gradient|activation)_checkpointing")
    model: Any = get_peft_model(loaded.model, shape)
    trained = [p for p in model.parameters() if p.requires_grad]
    loss_of = lambda: answer_loss(model, loaded, steps[0])  # noqa: E731
    half = HALF.get(checked_half_type(device, model.eval(), loss_of))
    model.train()
    optimiser = torch.optim.AdamW(trained, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=len(steps) + 1)
    losses = []
    for part in tqdm(steps, desc="LoRA", unit="step", mininterval=5):
        with torch.autocast(torch.device(device).type, half, enabled=half is not None):
            loss = answer_loss(model, loaded, part)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    with files.atomic_path(folder) as temporary:
        model.save_pretrained(str(temporary))
    files.finish(folder, settings)
    return losses


def answer_loss(model: Any, loaded: llm.Loaded, questions: Sequence[dict]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens (the prompt is not learned)."""
    answers = [f" {row['reference']}\n" for row in questions]
    sizes = [len(ids) for ids in loaded.tokenizer(answers, add_special_tokens=False).input_ids]
    texts = [row["prompt"] + answer for row, answer in zip(questions, answers, strict=True)]
    batch = loaded.tokenizer(texts, return_tensors="pt", padding=True).to(loaded.device)
    ids = batch["input_ids"]  # (B, L), left-padded: all answers end together
    learned = torch.arange(ids.shape[1]) >= ids.shape[1] - torch.tensor(sizes)[:, None]
    learned = learned.to(ids.device)[:, 1:]
    whole = model.get_base_model()
    mask = batch["attention_mask"]
    hidden = whole.base_model(ids, mask, use_cache=False).last_hidden_state[:, :-1]
    # Logits for the answers' positions only: each row has one column per word of the vocabulary.
    logits = whole.get_output_embeddings()(hidden[learned])  # (answer tokens, V)
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][learned])
