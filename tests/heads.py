"""Whole heads as a scanner leaves them, drawn round a brain whose place is known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from scipy import ndimage

CENTRE = np.array([0.0, -18.0, 18.0])  # mm: heads are turned and scaled about it


@dataclass(frozen=True)
class Head:
    """A head, the mask of its brain on the same grid, and the way from the brain to it."""

    image: Any  # nibabel image, white matter near 1000
    mask: Any  # nibabel image, uint8
    to_head: np.ndarray  # (4, 4): mm of the brain as it was given -> mm of `image`


def movement(turn=(0.0, 0.0, 0.0), scales=(1.0, 1.0, 1.0), shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    """9 DOF about `CENTRE`: scales along the template's axes, then turns (degrees), then a shift.

    Returns a (4, 4) matrix, in mm.
    """
    a, b, c = np.deg2rad(turn)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = rz @ ry @ rx @ np.diag(scales)
    matrix[:3, 3] = CENTRE + shift - matrix[:3, :3] @ CENTRE
    return matrix


def draw(brain: np.ndarray, affine: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw skull, scalp, face, eyes and neck round a brain (X, Y, Z), 0 outside, on MNI space.

    Returns the head on a larger grid, white matter near 1, and the grid's affine.
    """
    spacing = abs(affine[0, 0])
    before, after = np.array([40, 40, 90]), np.array([40, 50, 40])  # mm; the neck goes down
    pad = [(round(b / spacing), round(a / spacing)) for b, a in zip(before, after, strict=True)]
    grid = affine.copy()
    grid[:3, 3] -= affine[:3, :3] @ [p[0] for p in pad]
    inside = np.pad(brain / np.percentile(brain[brain > 0], 95), pad).astype(np.float32)
    mask = ndimage.binary_fill_holes(inside > 0.05)
    depth = ndimage.distance_transform_edt(~mask, sampling=spacing)  # mm outside the brain
    axes = (grid[i, i] * np.arange(n) + grid[i, 3] for i, n in enumerate(inside.shape))
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)

    def ball(cx, cy, cz, rx, ry, rz):
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2

    head = np.zeros_like(inside)
    neck = ((x / 58) ** 2 + ((y + 38) / 62) ** 2) * np.ones_like(head)
    neck = np.where(z < -35, neck, 9.0)
    head[neck < 1] = 0.9  # fat under the skin
    head[neck < 0.8] = 0.45  # muscle
    face = ball(0, 48, -55, 62, 52, 62)
    head[(face < 1) & (head == 0)] = 0.85
    head[face < 0.8] = 0.5
    head[depth < 15] = 0.95
    head[depth < 10] = 0.45
    for side in (-1, 1):
        head[ball(32 * side, 62, -40, 20, 22, 18) < 1] = 0.9  # fat of the orbit
        head[ball(32 * side, 66, -40, 12.5, 12.5, 12.5) < 1] = 0.2
        head[ball(26 * side, 46, -38, 4, 16, 4) < 1] = 0.6  # muscles and nerve of the eye
        head[ball(24 * side, 52, -72, 15, 18, 16) < 1] = 0.02  # air of a sinus
    head[ball(0, 40, -100, 30, 40, 9) < 1] = 0.02  # the mouth
    spine = (x**2 + (y + 30) ** 2) * np.ones_like(head)
    low = z < -60
    head[low & (spine < 24**2)] = 0.3  # vertebrae, then the canal and the cord in it
    head[low & (spine < 11**2)] = 0.12
    head[low & (spine < 6**2)] = 0.8
    head[depth < 8] = 0.06  # bone
    marrow = (depth > 4.5) & (depth < 6.5) & (z > 10)
    head[marrow] = 0.4
    head[depth < 3] = 0.14  # fluid
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.standard_normal(head.shape, np.float32), 3 / spacing)
    head *= np.exp(0.12 * texture / texture.std())
    head = ndimage.gaussian_filter(head, 0.7 / spacing)
    return np.where(mask, inside, head), grid


def make_head(
    brain, affine, to_head=None, spacing=1.0, bias=0.3, noise=0.03, seed=0, axes="RAS", drawn=None
) -> Head:
    """Scan a brain (X, Y, Z) as a whole head: moved, with a bias field and Rician noise.

    to_head : (4, 4), see `movement`. spacing : mm of the scan's voxels, one or three numbers.
    bias : largest change of the logarithm of the gain. noise : SD, of white matter. axes : order
    and direction of the stored axes, such as 'PIR'. drawn : what `draw` gave for this brain.
    """
    rng = np.random.default_rng([seed, 1])
    to_head = np.eye(4) if to_head is None else to_head
    head, grid = draw(brain, affine, seed) if drawn is None else drawn
    size = np.broadcast_to(np.asarray(spacing, float), 3)
    shape = np.ceil(np.array([230.0, 266.0, 266.0]) / size).astype(int)
    scan = np.diag([*size, 1.0])
    scan[:3, 3] = CENTRE - [0, 0, 15] - size * (shape - 1) / 2

    def sample(volume, volume_affine, order):
        way = np.linalg.inv(volume_affine) @ np.linalg.inv(to_head) @ scan
        moved = ndimage.affine_transform(volume, way[:3, :3], way[:3, 3], tuple(shape), order=order)
        return moved.astype(np.float32)

    image = sample(head, grid, 1)
    mask = sample(ndimage.binary_fill_holes(brain > 0).astype(np.float32), affine, 1) > 0.5
    unit = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    a = rng.standard_normal(6)
    field = a[0] * unit[0] + a[1] * unit[1] + a[2] * unit[2] + a[3] * unit[0] * unit[1]
    field = field + a[4] * unit[2] ** 2 + a[5] * unit[1] ** 2
    image *= np.exp(bias * field / np.abs(field).max())
    real, imaginary = noise * rng.standard_normal((2, *shape), np.float32)
    image = 1000 * np.sqrt((image + real) ** 2 + imaginary**2)
    turned = [
        nibabel.Nifti1Image(data, scan).as_reoriented(
            nibabel.orientations.ornt_transform(
                nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
            )
        )
        for data in (image.astype(np.float32), mask.astype(np.uint8))
    ]
    return Head(*turned, to_head)
