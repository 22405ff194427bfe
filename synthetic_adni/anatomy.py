"""What all synthetic subjects share: templates, region modes and tracts on the 2 mm MNI grid.

A region mode is a velocity field that makes one region larger and its surroundings smaller.
It is the gradient of a potential, so that it neither turns nor moves the brain as a whole.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from nilearn import datasets, image
from scipy import ndimage

from .tables import AFFINE, SHAPE

# Anatomy: effect per decade over 73 years, per unit of severity, and individual noise, as
# log-volume change. Directions and relative sizes after the atrophy tables of SynthSeg
# and simul-atrophy; sizes set so that a 3D ResNet learns them from a few hundred scans.
REGIONS = {
    "ventricles": {"age": 0.22, "severity": 0.30, "noise": 0.24},
    "hippocampus": {"age": -0.05, "severity": -0.17, "noise": 0.08},
    "temporoparietal": {"age": -0.03, "severity": -0.13, "noise": 0.06},
    "frontal": {"age": -0.11, "severity": -0.03, "noise": 0.05},
}

# Centre lines of large tracts in MNI mm (right side or midline; mirrored where lateral),
# radius in mm, height in FA, and relative loss per unit of severity.
TRACTS = {
    "genu": ([(-22, 46, 4), (-12, 34, 8), (0, 28, 10), (12, 34, 8), (22, 46, 4)], 4, 0.42, 0.0),
    "body": ([(0, 24, 14), (0, 8, 24), (0, -12, 27), (0, -28, 24)], 5, 0.40, 0.0),
    "splenium": (
        [(-26, -62, 12), (-14, -48, 16), (0, -38, 16), (14, -48, 16), (26, -62, 12)],
        5,
        0.45,
        0.0,
    ),
    "corticospinal": (
        [(10, -24, -36), (13, -20, -16), (20, -14, 4), (25, -20, 24), (26, -26, 46)],
        4,
        0.38,
        0.0,
    ),
    "anterior_capsule": ([(26, 26, 2), (20, 12, 6), (16, 2, 8)], 3.5, 0.28, 0.0),
    "fornix": ([(2, -2, 2), (2, -14, 14), (12, -32, 10), (24, -30, -4)], 3, 0.34, 0.05),
    "cingulum": (
        [(9, 32, 14), (9, 10, 32), (9, -16, 36), (10, -42, 24), (22, -38, -4)],
        3,
        0.3,
        0.03,
    ),
    "uncinate": ([(30, 6, -24), (30, 10, -12), (24, 28, -8)], 3, 0.28, 0.03),
    "ilf": ([(36, -74, 0), (38, -44, -4), (40, -14, -18)], 4, 0.26, 0.01),
    "slf": ([(36, -46, 30), (36, -20, 32), (36, 6, 28)], 4, 0.26, 0.0),
    "peduncle": ([(0, -32, -34), (14, -38, -34), (22, -52, -34)], 4, 0.36, 0.0),
}
MIDLINE = {"genu", "body", "splenium"}


@cache
def templates(device: str) -> dict[str, torch.Tensor]:
    """Load what all subjects share (about 5 s).

    modes : (R, 3, 46, 55, 46) velocities of the R `REGIONS`, in voxels of 4 mm.
    t1_channels, fa_channels : (C, 91, 109, 91) maps that are deformed and then mixed.
    """

    def grid(loaded: Any) -> np.ndarray:
        data = image.resample_img(
            image.smooth_img(loaded, 1.4),  # mm: 0.6 voxel, against aliasing
            target_affine=AFFINE,
            target_shape=SHAPE,
            interpolation="linear",
            copy_header=True,
            force_resample=True,
        ).get_fdata(dtype=np.float32)
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
    hippocampus = sum(
        _blob(lateral, y, z, centre, 8.0)
        for centre in [(23, -5, -19), (25, -13, -19), (28, -22, -15), (30, -31, -9)]
    )
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
        "t1_channels": stack(t1, brain, pial, hippocampus, near),
        "fa_channels": torch.stack([white**1.3, deep * white, inside, *tracts]),
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
