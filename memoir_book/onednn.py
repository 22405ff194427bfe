"""Faster products on a CPU: oneDNN in place of MKL, which torch takes for fp32.

On some CPUs (AMD's) MKL is slower, above all for the few rows of a token that is written; what it
is on yours, `benchmarks/products.py` says. The products are the same but for rounding.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# What torch's own compiler calls: input, weight, bias, and no function after the product
MULTIPLY = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class _Product(torch.autograd.Function):
    """x (..., k) times a frozen weight (n, k); a gradient reaches x only."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        ctx.weight = weight
        return MULTIPLY(x, weight, bias, "none", [], "")  # type: ignore[misc]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, grad @ ctx.weight  # where oneDNN is no faster


def use(model: nn.Module) -> None:
    """Let every frozen fp32 linear layer of a model multiply by oneDNN, where torch has it."""
    for part in model.modules() if MULTIPLY else ():
        fp32 = type(part) is nn.Linear and part.weight.dtype == torch.float32
        if fp32 and not part.weight.requires_grad:
            part.forward = partial(_Product.apply, part.weight, part.bias)
