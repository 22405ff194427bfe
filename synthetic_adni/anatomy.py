"""What all synthetic subjects share: templates, region modes and tracts on the 2 mm MNI grid.

A region mode is a velocity field that makes one region larger and its surroundings smaller.
It is the gradient of a potential, so that it neither turns nor moves the brain as a whole.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nilearn import datasets, image
from scipy import ndimage

from .tables import AFFINE, SHAPE

_KNOWN = json.loads(Path(__file__).with_name("brain.json").read_text(encoding="utf-8"))
REGIONS, TRACTS = _KNOWN["regions"], _KNOWN["tracts"]  # what their numbers are: "about" there
MIDLINE = {"genu", "body", "splenium"}


@cache
def templates(device: str) -> dict[str, torch.Tensor]:
    """Load what all subjects share (about 5 s).

    modes : (R, 3, 46, 55, 46) velocities of the R `REGIONS`, in voxels of 4 mm.
    t1_channels, fa_channels : (C, 91, 109, 91) maps that are deformed, then mixed; first the brain.
    """

    def grid(loaded: Any) -> np.ndarray:
        smooth = image.smooth_img(loaded, 1.4)  # mm: 0.6 voxel, against aliasing
        how: Any = {"interpolation": "linear", "copy_header": True, "force_resample": True}
        data = image.resample_img(smooth, AFFINE, SHAPE, **how).get_fdata(dtype=np.float32)
        return np.clip(data, 0, None)

    t1 = grid(datasets.load_mni152_template(resolution=1))
    gm = np.clip(grid(datasets.load_mni152_gm_template(resolution=1)), 0, 1)
    wm = np.clip(grid(datasets.load_mni152_wm_template(resolution=1)), 0, 1)
    t1 /= np.percentile(t1[wm > 0.9], 50)
    brain = ndimage.binary_fill_holes(t1 > 0.12)
    csf = np.clip(1 - gm - wm, 0, 1) * brain
    depth = ndimage.distance_transform_edt(brain) * 2  # mm below the brain's surface
    voxels = np.indices(SHAPE).reshape(3, -1)
    x, y, z = (AFFINE[:3, :3] @ voxels + AFFINE[:3, 3:]).reshape(3, *SHAPE)
    central = (np.abs(x) < 36) & (y > -62) & (y < 42) & (z > -22) & (z < 36)
    ventricles = csf * (depth > 22) * central
    lateral = np.abs(x)
    centres = [(23, -5, -19), (25, -13, -19), (28, -22, -15), (30, -31, -9)]
    hippocampus = sum(_blob(lateral, y, z, centre, 8.0) for centre in centres)
    hippocampus = np.clip(hippocampus, 0, 1) * np.clip(gm * 1.5, 0, 1)
    temporal = (lateral > 22) & (y > -65) & (y < 15) & (z < 8)
    parietal = (y < -35) & (z > 14)
    entorhinal = _blob(lateral, y, z, (24, -8, -32), 9.0)
    temporoparietal = gm * np.clip(temporal + parietal + entorhinal, 0, 1) * (1 - hippocampus)
    frontal = gm * np.where(y > 8, 1.0, 0.4) * (1 - hippocampus)
    # What gives way when a region shrinks, or is pressed when the ventricles grow.
    sulci = ndimage.gaussian_filter(csf * (depth <= 22), 1.0) + 0.02 * brain
    parenchyma = (gm + wm) * brain
    pairs = {
        "ventricles": (ventricles, parenchyma),
        "hippocampus": (hippocampus, sulci + 3 * ventricles),
        "temporoparietal": (temporoparietal, sulci),
        "frontal": (frontal, sulci),
    }
    modes = []
    for name in REGIONS:
        target, yielding = pairs[name]
        coarse = _coarse(ndimage.gaussian_filter(target.astype(np.float32), 0.8))
        give = _coarse(ndimage.gaussian_filter(yielding.astype(np.float32), 0.8))
        divergence = coarse / coarse.max() - give * (coarse.sum() / coarse.max() / give.sum())
        modes.append(_irrotational(divergence))
    core = np.clip(ndimage.distance_transform_edt(wm > 0.6) / 3, 0, 1)
    pial = gm * ndimage.gaussian_filter(csf * (depth <= 22), 1.2)
    near = np.exp(-ndimage.distance_transform_edt(ventricles < 0.4) / 2.5) * wm

    def stack(*maps: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([m.astype(np.float32) for m in maps]))

    white, deep, inside = stack(wm, core, brain)
    tracts = stack(*(_tract(name) for name in TRACTS))
    shared = {
        "modes": stack(*modes),
        "t1_channels": stack(brain, t1, pial, hippocampus, near),
        "fa_channels": torch.stack([inside, white**1.3, deep * white, *tracts]),
    }
    return {name: value.to(device) for name, value in shared.items()}


def _blob(x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: tuple, radius: float) -> np.ndarray:
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return np.exp(-squared / (2 * (radius / 2) ** 2))


def _coarse(volume: np.ndarray) -> np.ndarray:
    """Average 2 mm voxels to the 4 mm grid (46x55x46)."""
    padded = np.pad(volume, [(0, 1)] * 3, mode="edge").astype(np.float32)
    return padded.reshape(46, 2, 55, 2, 46, 2).mean((1, 3, 5))


def _irrotational(divergence: np.ndarray, pad: int = 8) -> np.ndarray:
    """Solve div v = divergence for the curl-free v, in voxels: v = grad of inverse Laplacian.

    divergence : (X, Y, Z) wanted log-volume change; made zero-mean so that the head's
        size stays as it is.

    Returns the velocity field (3, X, Y, Z).
    """
    padded = np.pad(divergence - divergence.mean(), pad)
    frequencies = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in padded.shape), indexing="ij")
    squared = sum(k**2 for k in frequencies)
    squared[0, 0, 0] = 1
    spectrum = np.fft.fftn(padded) / squared
    inside = (slice(pad, -pad),) * 3
    v = [np.real(np.fft.ifftn(-1j * k * spectrum))[inside] for k in frequencies]
    return np.stack(v).astype(np.float32)


def _tract(name: str) -> np.ndarray:
    """A soft tube along a tract's centre line, (91, 109, 91), 1 on the line."""
    points, radius, _, _ = TRACTS[name]
    line = np.ones(SHAPE, bool)
    sides = (1,) if name in MIDLINE else (1, -1)
    corners = np.array(points, float)
    steps = np.linspace(0, len(corners) - 1, 200)
    dense = np.stack([np.interp(steps, range(len(corners)), corners[:, a]) for a in range(3)], 1)
    for side in sides:
        mm = dense * (side, 1, 1)
        voxel = np.round((mm - AFFINE[:3, 3]) / np.diag(AFFINE)[:3]).astype(int)
        line[tuple(voxel.T)] = False
    distance = ndimage.distance_transform_edt(line) * 2
    return np.exp(-0.5 * (distance / (radius * 0.75)) ** 2).astype(np.float32)
