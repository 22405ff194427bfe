"""Where does the T1 volume matter for the diagnosis? Occlusion maps, and what they lie on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from monai.visualize import OcclusionSensitivity
from torch import Tensor

from memoir_core.config import DX, MODALITIES
from memoir_core.model import Memoir
from memoir_core.volumes import AFFINE, GRID, GRID_MM, on_grid


class T1Only(torch.nn.Module):
    """A trained model as a function of the T1 volume alone: (B, 1, X, Y, Z) -> (B, 3)."""

    def __init__(self, model: Memoir, slope: float = 1.0, bias: Any = (0.0, 0.0, 0.0)) -> None:
        super().__init__()
        self.model, self.slope, self.bias = model, slope, bias

    def forward(self, volume: Tensor) -> Tensor:
        t1 = self.model.t1(volume).float()
        embeddings = torch.stack([t1, *[torch.zeros_like(t1)] * (len(MODALITIES) - 1)], dim=1)
        present = torch.tensor([[name == "t1" for name in MODALITIES]], device=volume.device)
        out = self.model.fuse(embeddings, present.expand(len(volume), -1))
        bias = torch.as_tensor(self.bias, dtype=torch.float32, device=volume.device)
        return (self.slope * out["dx3"] + bias).softmax(dim=1)


@torch.no_grad()
def occlusion_maps(
    model: Memoir,
    volumes: dict[str, np.ndarray],
    mask_mm: float,
    voxel_mm: float,
    slope: float = 1.0,
    bias: Any = (0.0, 0.0, 0.0),
) -> dict[str, np.ndarray]:
    """How much a diagnosis loses in probability when a cube of `mask_mm` is hidden.

    `volumes`: class -> (n, X, Y, Z), T1 of its subjects. Returns class -> (X, Y, Z), the mean fall
    of the probability of that class by MONAI's OcclusionSensitivity; positive where hiding hurts.
    `slope` and `bias` (3,) move the logits: the head's own thresholds may not suit T1 alone, and a
    probability near 0 or 1 cannot fall.
    """
    device = next(model.parameters()).device
    network = T1Only(model, slope, bias).eval()
    # MONAI's activation is a sigmoid; these are probabilities already. Its own overlap, 0.6, takes
    # eight times as many passes.
    options: dict = {"n_batch": 16, "overlap": 0.2, "activate": False, "verbose": False}
    size = max(4, round(mask_mm / voxel_mm))
    sensitivity = OcclusionSensitivity(network, mask_size=size, **options)
    warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)  # MONAI's slices
    maps = {}
    for name, group in volumes.items():
        dx, falls = DX.index(name), []
        for volume in group:
            x = torch.from_numpy(np.asarray(volume, np.float32))[None, None].to(device)
            occluded, _ = sensitivity(x)  # (1, 3, X, Y, Z) probabilities
            falls.append((network(x)[0, dx] - occluded[0, dx]).cpu().numpy())
        maps[name] = np.mean(falls, axis=0)
    return maps


def largest_fall(values: np.ndarray) -> dict[str, float]:
    """Where a map (X, Y, Z) is largest in size: `fall`, and x, y, z in mm of MNI space.

    `mirror` is the map's correlation with itself, left and right swapped; NaN for a flat map.
    """
    at = np.unravel_index(np.abs(values).argmax(), values.shape)
    extent = GRID_MM * np.array(GRID)
    mm = AFFINE[:3, 3] - GRID_MM / 2 + extent * (np.array(at) + 0.5) / values.shape
    both = np.corrcoef(values.ravel(), values[::-1].ravel())[0, 1] if np.ptp(values) else np.nan
    found = {"fall": float(values[at]), "mirror": float(both)}
    return found | dict(zip("xyz", map(float, mm), strict=True))


def template(shape: tuple[int, int, int]) -> np.ndarray:
    """The MNI template (ICBM 2009a, from nilearn) on a grid of `shape`: (X, Y, Z) float32."""
    from nilearn import datasets

    loaded: Any = datasets.load_mni152_template(resolution=int(GRID_MM))
    volume = torch.from_numpy(on_grid(loaded.get_fdata(dtype=np.float32), loaded.affine))
    return torch.nn.AdaptiveAvgPool3d(shape)(volume[None])[0].numpy()
