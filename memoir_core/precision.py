"""Half precision only where its gradients have been compared with those of fp32.

With torch 2.13, bf16 autocast on some CPUs silently gives wrong weight gradients in some
convolutions, while forward pass and loss look right. So every training compares first.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

HALF = {"bf16": torch.bfloat16}  # of loops of our own; fp16 would need a gradient scaler as well
SCALE = 1024  # small gradients would vanish in fp16: scale up, as a GradScaler does


def is_worth_trying(device: str) -> bool:
    """Is a convolution in half precision faster? Timed on a CPU: some take twenty times as long."""
    if device.startswith("cuda") or torch.distributed.is_initialized():  # processes must agree
        return device.startswith("cuda")
    x, weight, seconds = torch.ones(1, 64, 8, 8, 8), torch.ones(64, 64, 3, 3, 3), [0.0, 0.0]
    for half in (False, True, False, True):  # the first of each warms up
        started = time.perf_counter()
        with torch.autocast("cpu", HALF["bf16"], enabled=half):
            F.conv3d(x, weight.requires_grad_(), padding=1).sum().backward()
        seconds[half] = time.perf_counter() - started
    return seconds[True] < 0.9 * seconds[False]


def checked_half_type(device: str, model: nn.Module, loss: Callable[[], Tensor]) -> str:
    """Return 'fp16' on CUDA, 'bf16' on CPUs where that is faster, or 'no': Accelerate's names.

    'no', with a message, also where the gradients of a model without dropout in half precision
    disagree with those in fp32. `loss` computes that of one fixed batch; it is called twice.
    """
    if not is_worth_trying(device):
        return "no"
    name, dtype = ("fp16", torch.half) if "cuda" in device else ("bf16", HALF["bf16"])
    found = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast(torch.device(device).type, dtype, enabled=enabled):
            (loss() * SCALE).backward()
        grads = {k: p.grad for k, p in model.named_parameters() if p.ndim > 1}
        found.append({k: grad.float() / SCALE for k, grad in grads.items() if grad is not None})
    model.zero_grad()
    # Rounding to bf16 costs a few hundredths of cosine, broken kernels cost all of it.
    for parameter, a in found[0].items():
        b = found[1][parameter]
        ratio = float(b.norm() / a.norm())
        cosine = float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        if a.norm() > 1e-8 and not (0.5 < ratio < 2 and cosine > 0.7):  # NaN, too
            where = f"{parameter} (norm ratio {ratio:.2g}, cosine {cosine:.2f})"
            print(f"{name} is not used: its gradients differ from those of fp32 in {where}")
            return "no"
    return name


def choose_precision(device: str, model: Any, criterion: Any, loss: Callable, data: Dataset) -> str:
    """Try `checked_half_type` on a copy of a model, with eight subjects and without dropout."""
    batch = default_collate([data[i] for i in range(min(8, len(data)))])  # type: ignore[arg-type]
    batch = {name: value.to(device) for name, value in batch.items()}
    trial = copy.deepcopy(model).to(device).train()
    criterion.to(device)
    for module in trial.modules():
        if isinstance(module, nn.Dropout | nn.MultiheadAttention):
            module.eval()
    return checked_half_type(device, trial, lambda: loss(trial(batch), batch))
