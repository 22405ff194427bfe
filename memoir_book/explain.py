"""Where does the T1 volume matter for the diagnosis? Occlusion maps, and what they lie on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from monai.visualize import OcclusionSensitivity
from torch import Tensor

from memoir_core.config import DX, EMBEDDING_DIM, MODALITIES
from memoir_core.images import GRID, GRID_MM, MNI_CENTRE
from memoir_core.model import Memoir


class T1Only(torch.nn.Module):
    """A trained model as a function of the T1 volume alone: (B, 1, X, Y, Z) -> (B, 3)."""

    def __init__(self, model: Memoir) -> None:
        super().__init__()
        self.model = model

    def forward(self, volume: Tensor) -> Tensor:
        n = len(volume)
        embeddings = torch.zeros(n, len(MODALITIES), EMBEDDING_DIM, device=volume.device)
        embeddings[:, 0] = self.model.t1(volume).float()
        present = torch.zeros(n, len(MODALITIES), dtype=torch.bool, device=volume.device)
        present[:, 0] = True
        return self.model.fuse(embeddings, present)["dx3"].softmax(dim=1)


def occlusion_maps(
    model: Memoir, volumes: dict[str, np.ndarray], mask_mm: float, voxel_mm: float
) -> dict[str, np.ndarray]:
    """How much the probability of each class's own diagnosis falls when a region is hidden.

    MONAI's OcclusionSensitivity, averaged over the subjects of a class.

    Parameters
    ----------
    volumes : class -> (n, X, Y, Z) T1 volumes of subjects of that class.
    mask_mm : size of the hidden cube.

    Returns
    -------
    class -> (X, Y, Z) fall of probability; positive where hiding hurts.
    """
    device = next(model.parameters()).device
    size = max(4, round(mask_mm / voxel_mm))
    network = T1Only(model).eval()
    sensitivity = OcclusionSensitivity(
        network,
        mask_size=size,
        n_batch=16,
        overlap=0.3,
        activate=False,  # MONAI's activation is a sigmoid; these are probabilities already
        verbose=False,
    )
    warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)  # MONAI's slices
    maps = {}
    for name, group in volumes.items():
        falls = []
        for volume in group:
            x = torch.from_numpy(np.asarray(volume, np.float32))[None, None].to(device)
            with torch.no_grad():
                whole = network(x)[0, DX.index(name)]
                occluded, _ = sensitivity(x)  # (1, 3, X, Y, Z) probabilities
            falls.append((whole - occluded[0, DX.index(name)]).cpu().numpy())
        maps[name] = np.mean(falls, axis=0)
    return maps


def template(shape: tuple[int, int, int]) -> np.ndarray:
    """The MNI template (ICBM 2009a, from nilearn) on a grid of `shape`: (X, Y, Z) float32."""
    from nilearn import datasets, image

    affine = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    affine[:3, 3] = MNI_CENTRE - GRID_MM * (np.array(GRID) - 1) / 2  # RAS, as cached volumes
    loaded = datasets.load_mni152_template(resolution=int(GRID_MM))
    fitted: Any = image.resample_img(loaded, affine, GRID, copy_header=True, force_resample=True)
    volume = torch.from_numpy(fitted.get_fdata(dtype=np.float32))
    return torch.nn.AdaptiveAvgPool3d(shape)(volume[None])[0].numpy()
