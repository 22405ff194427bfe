"""The losses of both stages. Published: project page, section 4."""

from __future__ import annotations

import math
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import MODALITIES
from .data import IGNORE

# The published work names the losses but not their weights. These are ours: diagnosis is
# the primary task, sex and age are side tasks.
LOSS_WEIGHTS = {"dx3": 1.0, "dx2": 0.5, "sex": 0.2, "age": 0.2, "cdrsb": 0.5}


class PairwiseInfoNCE(nn.Module):
    """Symmetric InfoNCE over the three modality pairs, each with a learnable temperature.

    Scales start at 1/0.07 and are clipped at 100, as in CLIP (arXiv:2103.00020). One for each
    pair, in the order T1-FA, T1-clinical, FA-clinical: two scans of one head are far easier to
    match than a scan and its scores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((3,), math.log(1 / 0.07)))

    def forward(self, embeddings: Tensor, present: Tensor) -> Tensor:
        """Average the pairs' losses, each over the rows that have both modalities.

        embeddings (B, 3, D) unit vectors, present (B, 3) bool -> scalar; zero, with a gradient
        of zero, where no pair has two such rows.
        """
        scale = self.log_scale.exp().clamp(max=100)
        losses = []
        for pair, (a, b) in enumerate(combinations(range(len(MODALITIES)), 2)):
            both = present[:, a] & present[:, b]
            if both.sum() >= 2:  # one row alone has nothing to be told apart from
                losses.append(info_nce(embeddings[both, a], embeddings[both, b], scale[pair]))
        if not losses:
            return embeddings.sum() * 0 + scale.sum() * 0
        return torch.stack(losses).mean()


def gather(x: Tensor) -> Tensor:
    """Concatenate a tensor over all processes, with gradients; one process: the tensor itself."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    sent = x.to(torch.uint8) if x.dtype == torch.bool else x
    return torch.cat(all_gather(sent)).to(x.dtype)


def info_nce(z_a: Tensor, z_b: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE: row i of z_a (N, D) belongs to row i of z_b (N, D), unit vectors."""
    with torch.autocast(z_a.device.type, enabled=False):  # rounding would blur close cosines
        logits = scale * z_a.float() @ z_b.float().T  # (N, N) cosine similarities
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv:1708.02002): cross-entropy, damped where the model is already right.

    logits (B, C), target (B,) class indices, rows with IGNORE left out -> scalar; zero, with a
    gradient of zero, where every row is left out.
    """
    counted = target != IGNORE
    if not counted.any():
        return logits.sum() * 0
    cross_entropy = F.cross_entropy(logits[counted].float(), target[counted], reduction="none")
    p_true = torch.exp(-cross_entropy)
    # A p of exactly 1 would give an infinite slope for gamma below 1, and 0 times that is NaN.
    return ((1 - p_true).clamp(min=1e-8) ** gamma * cross_entropy).mean()


def multitask_loss(out: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weigh and add the five heads' losses.

    out from `Memoir.forward`, batch with targets (B,) dx3, dx2 (MCI is IGNORE), sex and, in
    standard deviations, age, cdrsb (NaN where unknown) -> each head's loss, and 'total'.
    """
    losses = {name: focal_loss(out[name], batch[name]) for name in ("dx3", "dx2", "sex")}
    for name in ("age", "cdrsb"):
        known = ~torch.isnan(batch[name])
        losses[name] = out[name].sum() * 0  # of a batch in which it is known of nobody
        if known.any():
            losses[name] = F.smooth_l1_loss(out[name][known].float(), batch[name][known])
    total = torch.stack([LOSS_WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
    return {**losses, "total": total}
