"""Adapt all-MiniLM-L6-v2 to clinical sentences, then align it with the fused embedding.

Two steps, as in the published work (project page, section 7): masked language modelling on
synthetic sentences and train captions, then contrastive alignment of the sentence embedding (384)
through a linear map (512) with the frozen z_fused of train subjects.
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
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from tqdm import tqdm
from transformers.modeling_outputs import MaskedLMOutput

from . import files
from .config import EMBEDDING_DIM
from .losses import info_nce
from .metrics import recall_at

TEXT_DIM = 384
MAX_LENGTH = 128  # tokens; a test holds that the longest caption has fewer
MASKED = 0.15
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
    """Read z_fused of every case from stage2/embeddings.npz: (n, 512) float32 of unit length.

    Raises ValueError where the file's cases are not the cohort's, or the vectors' width is wrong.
    """
    with np.load(path, allow_pickle=False) as stored:
        case, z_fused = stored["case"], stored["z_fused"]
    if not np.array_equal(case, cohort["case"]) or z_fused.shape != (len(case), EMBEDDING_DIM):
        raise ValueError(
            f"{path.name} holds {len(case)} cases, z_fused {z_fused.shape}: not the {len(cohort)} "
            f"cases of the cohort, or not of width {EMBEDDING_DIM}; run chapter 05 again"
        )
    return unit_rows(z_fused)


# --- masked language model ----------------------------------------------------------------


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
    options: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
    return MaskedBert.from_pretrained(minilm, **options, **FAST_ATTENTION)


def build_corpus(
    caption_rows: Sequence[dict], synthetic: Sequence[str], held_out: int
) -> tuple[list[str], list[str]]:
    """Join synthetic sentences with the captions of the published train part, split train or val.

    Returns the sentences to train on, 25,000 + 1,889 = 26,889 at paper size, and the last
    `held_out` of `synthetic`, which no step may see. Raises ValueError where a sentence comes
    twice, or equals the caption of a case: test text could slip in.
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


def masked_batches(tokenizer, sentences: Sequence[str], seed: int, size: int = 32) -> list[dict]:
    """Mask sentences once with a fixed seed, so that two models meet the same gaps."""
    collator = hf.DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED, seed=seed)
    rows = sorted(tokenise(tokenizer, sentences), key=lambda row: len(row["input_ids"]))
    return [collator(rows[i : i + size]) for i in range(0, len(rows), size)]


@torch.no_grad()
def perplexity(model: MaskedBert, batches: Sequence[dict]) -> float:
    """exp(mean cross-entropy) over all masked tokens of `batches`."""
    model.eval()
    counts = [int((batch["labels"] != -100).sum()) for batch in batches]
    means = [float(model(**batch_to_device(dict(b), model.device)).loss) for b in batches]
    return float(np.exp(np.average(means, weights=counts)))


class ProgressBar(hf.ProgressCallback):
    """A plain bar for a transformers Trainer, whose own becomes a table in a notebook."""

    def on_log(self, *_, **__):  # the losses are in the Trainer's history
        pass


def trainer_options(device: str, seed: int) -> dict[str, Any]:
    """Give what every transformers Trainer here shares: one seed, one device, nothing stored."""
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    cpu = device == "cpu"
    return {
        **quiet,
        "seed": seed,
        "data_seed": seed,
        "use_cpu": cpu,
        "dataloader_pin_memory": not cpu,
    }


def train_mlm(
    model: MaskedBert,
    tokenizer,
    sentences: Sequence[str],
    *,
    epochs: int,
    seed: int,
    rates: tuple[float, float] = (5e-5, 1e-3),  # of encoder and head
    batch_size: int = 16,
) -> pd.DataFrame:
    """Train in place with the transformers Trainer: 15 % masking, AdamW, linear decay.

    The head is new and learns fast; the encoder learns slowly, because what it already knows of
    sentences is what the alignment needs. Returns the columns step, loss (mean of a twentieth).
    """
    steps = max(1, epochs * -(-len(sentences) // batch_size))
    encoder = list(model.bert.parameters())
    known = {id(parameter) for parameter in encoder}
    head = [p for p in model.parameters() if id(p) not in known]  # tied weights are the encoder's
    groups = [{"params": p, "lr": lr} for p, lr in zip((encoder, head), rates, strict=True)]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    schedule = hf.get_linear_schedule_with_warmup(optimiser, max(1, steps // 10), steps)
    with tempfile.TemporaryDirectory() as scratch:  # Trainer wants a folder; nothing is kept
        arguments = hf.TrainingArguments(
            output_dir=scratch,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
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


# --- text encoder -------------------------------------------------------------------------


def bert_of(model: SentenceTransformer) -> Any:
    """The BERT inside: the first module of a sentence-transformers model wraps it."""
    return model[0].auto_model


def new_text_encoder(
    minilm: Path, device: str, seed: int, mlm: MaskedBert | None = None
) -> SentenceTransformer:
    """MiniLM, with the MLM's weights where given, and a new linear map to unit vectors of 512."""
    options: dict[str, Any] = {"trust_remote_code": False, "config_kwargs": FAST_ATTENTION}
    body = SentenceTransformer(str(minilm), device=device, **options)
    if mlm is not None:  # the pooling layer of BERT is in neither: sentences are averaged
        bert_of(body).load_state_dict(mlm.bert.state_dict(), strict=False)
    bert_of(body).config._name_or_path = ""  # a folder of this machine
    torch.manual_seed(seed)
    to_fused = Dense(TEXT_DIM, EMBEDDING_DIM, activation_function=nn.Identity())
    encoder = SentenceTransformer(modules=[*body, to_fused, Normalize()], device=device)
    encoder.max_seq_length = MAX_LENGTH
    return encoder


def alignment_loss(
    encoder: SentenceTransformer, texts: Sequence[str], z_fused: Tensor, log_scale: Tensor
) -> Tensor:
    """Symmetric InfoNCE between texts and the unit vectors (n, 512) of their subjects."""
    features = batch_to_device(encoder.preprocess(list(texts)), z_fused.device)
    z_text = encoder(features)["sentence_embedding"]  # (n, 512), unit length
    return info_nce(z_text, z_fused, log_scale.exp().clamp(max=100))


def align(
    encoder: SentenceTransformer,
    texts: Sequence[Sequence[str]],
    z_fused: np.ndarray,
    *,
    epochs: int,
    seed: int,
    validation: tuple[Sequence[str], np.ndarray] | None = None,
    rates: tuple[float, float] = (1e-4, 2e-3),  # of encoder and projection
    batch_size: int = 32,
    trained_layers: int = 2,
) -> pd.DataFrame:
    """Align the text encoder in place with frozen image embeddings.

    Parameters
    ----------
    texts : per subject its wordings, own and blind caption; each epoch draws one of them, so that
        a query without a diagnosis finds its place too.
    z_fused : (n, 512) unit vectors, the frozen targets.
    validation : texts and unit vectors of held-out subjects, for the curve only.
    trained_layers : how many of MiniLM's six layers learn, the top ones.

    Returns
    -------
    DataFrame with columns epoch, loss, and val_recall@10 (text to subject) if asked for.
    """
    if len(texts) != len(z_fused):
        raise ValueError(f"{len(texts)} texts for {len(z_fused)} embeddings: one each is needed")
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 0xA116])
    layers = bert_of(encoder).encoder.layer
    bert_of(encoder).requires_grad_(False)
    top = layers[len(layers) - trained_layers :].requires_grad_(True)
    targets = torch.from_numpy(z_fused).to(encoder.device)
    log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), device=encoder.device).float())
    learned = [*top.parameters()], [*encoder[-2].parameters(), log_scale]
    groups = [{"params": p, "lr": lr} for p, lr in zip(learned, rates, strict=True)]
    optimiser = torch.optim.AdamW(groups, fused=True)
    steps = max(2, epochs * -(-len(texts) // batch_size))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [*rates], steps, pct_start=0.1)
    history = []
    for epoch in tqdm(range(1, epochs + 1), desc="alignment", unit="epoch", mininterval=5):
        encoder.train()
        losses = []
        order = rng.permutation(len(texts)).tolist()
        for rows in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            chosen = [texts[i][int(rng.integers(len(texts[i])))] for i in rows]
            loss = alignment_loss(encoder, chosen, targets[rows], log_scale)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        history.append({"epoch": epoch, "loss": float(np.mean(losses))})
        if validation is not None and len(validation[0]):
            z_text = torch.from_numpy(encoder.encode(list(validation[0])))
            found = recall_at(z_text, torch.from_numpy(validation[1]), (10,))
            history[-1] |= {f"val_{name}": value for name, value in found.items()}
    encoder.requires_grad_(True).eval()
    return pd.DataFrame(history)


def save_text_encoder(encoder: SentenceTransformer, folder: Path, settings: dict) -> None:
    """Write the encoder as one sentence-transformers folder, whole or not at all."""
    with files.atomic_path(folder) as temporary:
        encoder.save(str(temporary), create_model_card=False)
    files.finish(folder, settings)


def class_agreement(queries: np.ndarray, targets: np.ndarray, dx: Sequence[str]) -> float:
    """Share of the five nearest other subjects, by cosine, that have the query's diagnosis."""
    cosine = queries @ targets.T
    np.fill_diagonal(cosine, -np.inf)  # its own subject would be a gift
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :5]
    labels = np.asarray(dx)
    return float((labels[nearest] == labels[:, None]).mean())
