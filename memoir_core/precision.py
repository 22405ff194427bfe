"""Half precision only where its gradients have been compared with those of fp32.

With torch 2.13, bf16 autocast on some CPUs silently gives wrong weight gradients in some
convolutions, while forward pass and loss look right. So every training compares first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

# What loops of our own autocast to after a check; fp16 would need a gradient scaler as well.
HALF = {"bf16": torch.bfloat16}
SCALE = 1024  # small gradients would vanish in fp16: scale up, as a GradScaler does


def half_type(device: str) -> str:
    """The type in which the hardware trains faster: 'fp16' on CUDA, 'bf16' with AMX, or 'no'.

    CPUs that multiply bf16 without AMX take longer than in fp32: benchmarks/training.py.
    """
    if device.startswith("cuda"):
        return "fp16"
    return "bf16" if torch.cpu.get_capabilities().get("amx_bf16") else "no"


def checked_half_type(device: str, model: nn.Module, loss: Callable[[], Tensor]) -> str:
    """Compare gradients in half precision with those in fp32 on one batch.

    model : on `device`; its modes are kept as they are, so switch dropout off first.
    loss : computes the loss of one fixed batch; called twice.

    Returns 'fp16', 'bf16' or 'no', as Accelerate calls them; 'no' also, with a message, where
    the gradients disagree.
    """
    name = half_type(device)
    if name == "no":
        return name
    found = []
    for enabled in (False, True):
        model.zero_grad()
        dtype = torch.float16 if name == "fp16" else torch.bfloat16
        with torch.autocast(torch.device(device).type, dtype, enabled=enabled):
            (loss() * SCALE).backward()
        grads = {k: p.grad for k, p in model.named_parameters() if p.ndim > 1}
        found.append({k: grad.float() / SCALE for k, grad in grads.items() if grad is not None})
    model.zero_grad()
    if worst := disagreement(*found):
        print(f"{name} is not used: its gradients differ from those of fp32 in {worst}")
        return "no"
    return name


def choose_precision(device: str, model: Any, criterion: Any, loss: Callable, data: Dataset) -> str:
    """Try `checked_half_type` on a copy of a model, with eight subjects and without dropout."""
    batch = default_collate([data[i] for i in range(min(8, len(data)))])  # type: ignore[arg-type]
    batch = {name: value.to(device) for name, value in batch.items()}
    trial = copy.deepcopy(model).to(device).arrange().train()
    criterion.to(device)
    for module in trial.modules():
        if isinstance(module, nn.Dropout | nn.MultiheadAttention):
            module.eval()
    return checked_half_type(device, trial, lambda: loss(trial(batch), batch))


def disagreement(exact: dict[str, Tensor], half: dict[str, Tensor]) -> str:
    """Name the parameter whose two gradients point or measure differently; '' where none does.

    They disagree when one is not finite, when its norm is less than half or more than twice
    the other's, or when their cosine is below 0.7. Rounding to the 8 bits of bf16 costs the
    first layers of a ResNet a few hundredths of cosine; broken kernels cost all of it.
    """
    for name, a in exact.items():
        b = half[name]
        ratio = float(b.norm() / a.norm().clamp(min=1e-12))
        cosine = float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        if a.norm() > 1e-8 and not (0.5 < ratio < 2 and cosine > 0.7):
            return f"{name} (norm ratio {ratio:.2g}, cosine {cosine:.2f})"
    return ""
