"""Adapt all-MiniLM-L6-v2 to clinical sentences, then align it with the fused embedding.

Published: project page, section 7. Masked language modelling on synthetic sentences and train
captions, then contrastive alignment with the frozen z_fused of train subjects.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import transformers as hf
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from tqdm import tqdm
from transformers.modeling_outputs import MaskedLMOutput

from .config import EMBEDDING_DIM
from .losses import info_nce
from .metrics import recall_at

TEXT_DIM = 384
MAX_LENGTH = 128  # tokens; a test holds that the longest caption has fewer
MASKED = 0.15
MLM_BATCH, MLM_RATES = 16, (5e-5, 1e-3)  # rates of encoder and head
ALIGN_BATCH, ALIGN_RATES = 32, (1e-4, 2e-3)  # rates of encoder and projection
Pairs = tuple[Sequence, np.ndarray]  # texts and unit vectors (n, 512) of the same n subjects
# Dropout inside attention keeps torch from its fused kernel: without it, a training step on
# captions takes two thirds of the time. Dropout elsewhere stays.
FAST_ATTENTION: dict[str, Any] = {"attention_probs_dropout_prob": 0.0}


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Scale rows to unit length, (n, d) float32, so that an inner product is a cosine."""
    values = np.asarray(values, dtype=np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    bad = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
    if bad.any():
        raise ValueError(f"row {bad.argmax()} of the embeddings is zero, NaN or infinite")
    return values / norms


def read_fused(path: Path, cohort: pd.DataFrame) -> np.ndarray:
    """Read stage2/embeddings.npz: (n, 512) float32 of unit length, one row per case.

    Raises ValueError where its cases are not the cohort's, or the vectors' width is wrong.
    """
    with np.load(path, allow_pickle=False) as stored:
        case, z_fused = stored["case"], stored["z_fused"]
    if not np.array_equal(case, cohort["case"]) or z_fused.shape != (len(case), EMBEDDING_DIM):
        what = f"{path.name} holds z_fused {z_fused.shape}: not of the cohort's {len(cohort)} cases"
        raise ValueError(f"{what}, or not of width {EMBEDDING_DIM}; run chapter 05 again")
    return unit_rows(z_fused)


class MaskedBert(hf.BertForMaskedLM):
    """BERT whose vocabulary layer runs at masked places only: the same loss in half the time."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, **_):
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        chosen = labels != -100  # (batch, tokens); the collator marks what is not masked
        logits = self.cls(hidden[chosen])  # (masked, vocabulary)
        return MaskedLMOutput(loss=F.cross_entropy(logits, labels[chosen]))


def load_mlm(minilm: Path, seed: int) -> MaskedBert:
    """Load MiniLM with a masked-language head, which was not published: `seed` draws a new one."""
    torch.manual_seed(seed)
    return MaskedBert.from_pretrained(
        minilm, trust_remote_code=False, use_safetensors=True, **FAST_ATTENTION
    )


def build_corpus(
    caption_rows: Sequence[dict], synthetic: Sequence[str], held_out: int
) -> tuple[list[str], list[str]]:
    """Join synthetic sentences with the captions of train and val, 26,889 at paper size.

    Returns them and the last `held_out` of `synthetic`, which no step may see. A ValueError names
    a sentence that comes twice, or is the caption of a case: test text could slip in.
    """
    seen = {row[key] for row in caption_rows for key in ("caption", "caption_blind")}
    for sentence in synthetic:
        if sentence in seen:
            raise ValueError(f"a synthetic sentence comes twice or is a caption: {sentence!r}")
        seen.add(sentence)
    own = [row["caption"] for row in caption_rows if row["split"] != "test"]
    n = len(synthetic) - held_out
    return [*synthetic[:n], *own], list(synthetic[n:])


def tokenise(tokenizer, sentences: Sequence[str]) -> list[dict]:
    """Turn sentences into what a collator takes: a dict of input_ids each, cut at MAX_LENGTH."""
    encoded = tokenizer(list(sentences), truncation=True, max_length=MAX_LENGTH)
    return [{"input_ids": ids} for ids in encoded["input_ids"]]


class ProgressBar(hf.ProgressCallback):
    """A plain bar for a transformers Trainer, whose own becomes a table in a notebook."""

    def on_log(self, *_, **__):  # the losses are in the Trainer's history
        pass


def trainer_options(device: str, seed: int) -> dict[str, Any]:
    """Give what every transformers Trainer here shares: one seed, one device, nothing stored."""
    options = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    options |= {"use_cpu": device == "cpu", "dataloader_pin_memory": device != "cpu"}
    return options | {"seed": seed, "data_seed": seed}


def train_mlm(
    model: MaskedBert, tokenizer, sentences: Sequence[str], epochs: int, seed: int
) -> pd.DataFrame:
    """Train in place with the transformers Trainer: 15 % masking, AdamW, linear decay.

    The head is new and learns fast; the encoder learns slowly, because what it already knows of
    sentences is what the alignment needs. Returns the columns step, loss (mean of a twentieth).
    """
    steps = max(1, epochs * -(-len(sentences) // MLM_BATCH))
    encoder = list(model.bert.parameters())  # and what the head shares with it
    head = [p for name, p in model.named_parameters() if not name.startswith("bert.")]
    groups = [{"params": p, "lr": lr} for p, lr in zip((encoder, head), MLM_RATES, strict=True)]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    schedule = hf.get_linear_schedule_with_warmup(optimiser, max(1, steps // 10), steps)
    with tempfile.TemporaryDirectory() as scratch:  # Trainer wants a folder; nothing is kept
        arguments = hf.TrainingArguments(
            output_dir=scratch,
            num_train_epochs=epochs,
            per_device_train_batch_size=MLM_BATCH,
            train_sampling_strategy="group_by_length",  # captions are long, sentences short
            logging_steps=max(1, steps // 20),
            **trainer_options(model.device.type, seed),
        )
        trainer = hf.Trainer(
            model,
            arguments,
            hf.DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED, seed=seed),
            train_dataset=tokenise(tokenizer, sentences),
            optimizers=(optimiser, schedule),
            callbacks=[ProgressBar()],
        )
        trainer.remove_callback(hf.PrinterCallback)
        trainer.train()
    log = [row for row in trainer.state.log_history if "loss" in row]
    return pd.DataFrame(log)[["step", "loss"]]


def alignment_loss(
    encoder: SentenceTransformer, texts: Sequence[str], z_fused: Tensor, log_scale: Tensor
) -> Tensor:
    """Symmetric InfoNCE between texts and the unit vectors (n, 512) of their subjects."""
    features = batch_to_device(encoder.preprocess(list(texts)), z_fused.device)
    z_text = encoder(features)["sentence_embedding"]  # (n, 512), unit length
    return info_nce(z_text, z_fused, log_scale.exp().clamp(max=100))


def align(
    encoder: SentenceTransformer, train: Pairs, validation: Pairs, epochs: int, seed: int
) -> pd.DataFrame:
    """Align the top two layers and the projection, in place, with frozen image embeddings.

    `train` has per subject several wordings, own and blind caption: each epoch draws one, so that
    a query without a diagnosis finds its place too. `validation`, one text each, is for the curve.
    Returns the columns epoch, loss, val_recall@10 (text to subject).
    """
    texts, z_fused = train
    if len(texts) != len(z_fused):
        raise ValueError(f"{len(texts)} texts for {len(z_fused)} embeddings: one each is needed")
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 0xA116])
    bert: Any = encoder[0].auto_model
    bert.requires_grad_(False)
    top = bert.encoder.layer[-2:].requires_grad_(True)
    targets = torch.from_numpy(z_fused).to(encoder.device)
    log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), device=encoder.device).float())
    learned = [*top.parameters()], [*encoder[-2].parameters(), log_scale]
    optimiser = torch.optim.AdamW([{"params": p} for p in learned], fused=True)
    steps = max(2, epochs * -(-len(texts) // ALIGN_BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [*ALIGN_RATES], steps, pct_start=0.1)
    history = []
    for epoch in tqdm(range(1, epochs + 1), desc="alignment", unit="epoch", mininterval=5):
        encoder.train()
        losses = []
        order = rng.permutation(len(texts)).tolist()
        for rows in (order[i : i + ALIGN_BATCH] for i in range(0, len(order), ALIGN_BATCH)):
            chosen = [texts[i][int(rng.integers(len(texts[i])))] for i in rows]
            loss = alignment_loss(encoder, chosen, targets[rows], log_scale)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        z_text = torch.from_numpy(encoder.encode(list(validation[0])))
        found = recall_at(z_text, torch.from_numpy(validation[1]), (10,))["recall@10"]
        history.append({"epoch": epoch, "loss": float(np.mean(losses)), "val_recall@10": found})
    encoder.requires_grad_(True).eval()
    return pd.DataFrame(history)
