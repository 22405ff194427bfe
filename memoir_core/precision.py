"""Half precision only where its gradients have been compared with those of fp32.

With torch 2.13, bf16 autocast on some CPUs silently gives wrong weight gradients in some
convolutions, while forward pass and loss look right. So every training compares first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# What to autocast to after a check. fp16 would need a gradient scaler, which only Accelerate and
# the Trainer bring along: loops without one stay in fp32 on CUDA.
HALF = {"bf16": torch.bfloat16}
SCALE = 1024  # small gradients would vanish in fp16: scale up, as a GradScaler does


def half_type(device: str) -> torch.dtype | None:
    """The 16-bit type in which the hardware trains faster: fp16 on CUDA, bf16 on CPUs with AMX.

    CPUs that multiply bf16 without AMX (avx512_bf16 alone) take longer than in fp32:
    benchmarks/training.py measures both.
    """
    if device.startswith("cuda"):
        return torch.float16
    return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16") else None


def checked_half_type(device: str, model: nn.Module, loss: Callable[[], Tensor]) -> str:
    """Compare gradients in half precision with those in fp32 on one batch.

    Parameters
    ----------
    model : on `device`; its modes are kept as they are, so switch dropout off first.
    loss : computes the loss of one fixed batch; called twice.

    Returns
    -------
    'fp16', 'bf16', or 'no', as Accelerate calls them. 'no' where the hardware has no fast
    type, and, with a message, where the gradients disagree.
    """
    dtype = half_type(device)
    if dtype is None:
        return "no"
    name = {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    kind = torch.device(device).type
    with torch.autocast(kind, enabled=False):
        exact = _gradients(model, loss)
    with torch.autocast(kind, dtype):
        half = _gradients(model, loss)
    model.zero_grad()
    worst = disagreement(exact, half)
    if worst:
        print(f"{name} is not used: its gradients differ from those of fp32 in {worst}")
        return "no"
    return name


def checked_output_type(device: str, compute: Callable[[], Tensor]) -> torch.dtype | None:
    """Compare what a trained model computes in half precision with fp32, on one batch.

    Parameters
    ----------
    compute : gives the model's output for one fixed batch; called twice, without gradients.

    Returns
    -------
    the 16-bit type, or None where the hardware has no fast one, and, with a message, where the
    outputs differ by more than 5 % of their largest value.
    """
    dtype = half_type(device)
    if dtype is None:
        return None
    kind = torch.device(device).type
    with torch.no_grad():
        with torch.autocast(kind, enabled=False):
            exact = compute().float()
        with torch.autocast(kind, dtype):
            half = compute().float()
    off = float((half - exact).abs().max() / exact.abs().max().clamp(min=1e-12))
    if off <= 0.05:  # False for NaN as well
        return dtype
    print(f"{dtype} is not used: outputs differ from those of fp32 by {off:.0%}")
    return None


def _gradients(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    (loss() * SCALE).backward()
    return {
        name: p.grad.float() / SCALE
        for name, p in model.named_parameters()
        if p.grad is not None and p.ndim > 1
    }


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
