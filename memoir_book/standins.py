"""A tuned language model where none can be had: a small base model with low-rank adapters.

They (LoRA: Hu et al. 2021, arXiv:2106.09685) learn answers about train captions, so that it can be
asked on two cores whether tuning for the task beats size.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from memoir_core import files, llm
from memoir_core.precision import HALF, checked_half_type

from . import onednn


def train_lora(
    model_folder: Path, weights: str, steps: list[list[dict]], folder: Path, *,
    lr: float = 1e-3, seed: int = 0, device: str = "cpu",
) -> list[float]:  # fmt: skip
    """Adapt a base model to questions with LoRA; write the adapter into `folder`.

    The upper half of the layers learns the answers' tokens only; the lower half then needs no
    backward pass. A finished adapter is used again when all that made it is the same: the base
    model's `weights` (their checksum), the questions, `lr`, `seed`, device and code.

    Returns the loss per step; [] where the adapter was there. steps : batches of `vqa.question`.
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
    if device == "cpu":
        onednn.use(model)
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
