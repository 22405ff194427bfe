"""Draw T1 and FA volumes of synthetic subjects from the templates."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

from .anatomy import REGIONS, TRACTS, templates
from .tables import ANATOMY, FA_STREAM, SHAPE, T1_STREAM, generator

T1_NOISE = 0.55  # of the atrophy that the anatomy shows, in severity units
FA_NOISE = 0.8
FA_ATROPHY = 0.4  # how much of the atrophy FA maps show: their registration removes the rest
APOE_EFFECT = {"hippocampus": -0.05, "temporoparietal": -0.04}  # per copy, at equal severity
# What a scanner adds: log gain and log gamma of T1, relative offset of FA.
VENDOR = {"SIEMENS": (0.0, 0.0, 0.0), "GE": (0.06, 0.10, 0.03), "PHILIPS": (-0.05, -0.10, -0.03)}
SEX_EFFECT, SEX_NOISE = 0.02, 0.06  # head shape barely tells sex after 9DOF scaling
HEAD_SEX, HEAD_SPREAD = 0.1, 0.012  # of the length: what sex moves, and what all heads differ by


def _anatomy(latent: dict) -> dict[str, np.ndarray]:
    """Draw what makes one subject's anatomy: region amplitudes, smooth noise, head position."""
    rng = generator(latent["PTID"], ANATOMY)
    shown = latent["atrophy"] + T1_NOISE * rng.standard_normal()
    brain_age = latent["AGE"] + 5 * rng.standard_normal()
    amplitudes = [
        effect["age"] * (brain_age - 73) / 10
        + effect["severity"] * (shown - 0.7)
        + APOE_EFFECT.get(name, 0) * latent["apoe4"]
        + effect["noise"] * rng.standard_normal()
        for name, effect in REGIONS.items()
    ]
    drawn = {"amplitudes": np.array(amplitudes, np.float32)}
    drawn["coarse"] = rng.standard_normal((3, 12, 14, 12), dtype=np.float32)
    drawn["coarser"] = rng.standard_normal((3, 6, 7, 6), dtype=np.float32)
    angles = np.deg2rad(0.8) * rng.standard_normal(3)
    scales = 1 + HEAD_SPREAD * rng.standard_normal(3)
    sex = SEX_EFFECT * (-1 if latent["female"] else 1) + SEX_NOISE * rng.standard_normal()
    scales[1] *= 1 + HEAD_SEX * sex
    turn = Rotation.from_euler("XYZ", angles).as_matrix()
    return drawn | {"matrix": (turn * scales).astype(np.float32)}


def _warp(
    latents: Sequence[dict], kind: str, scale: float, least: float, device: str
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Deform the template channels of 't1' or 'fa' with each subject's anatomy.

    latents : n dicts with PTID, atrophy, AGE, female and apoe4, as `tables.make_tables` gives.
    scale : 1 for T1; less for FA, whose registration removes part of the deformation.
    least : share of brain above which a voxel is shown. The others, three of four, are not drawn.

    Returns of each subject the voxels shown, a mask (91, 109, 91), and (C, m) channels there.
    """
    shared = templates(device)
    drawn = [_anatomy(latent) for latent in latents]
    subject = {name: _tensor([d[name] for d in drawn], device) for name in drawn[0]}
    shown = subject["amplitudes"] * (FA_ATROPHY if kind == "fa" else 1.0)
    velocity = torch.einsum("nr,rcxyz->ncxyz", shown, shared["modes"])
    for name, size in (("coarse", 0.3), ("coarser", 0.35)):
        up = F.interpolate(subject[name], (46, 55, 46), mode="trilinear", align_corners=True)
        velocity = velocity + 1.15 * size * up / 0.65  # interpolation shrinks the spread
    # Points of the subject take their value from the template at exp(-v)(point): where v
    # spreads out, a region is larger in the subject than in the template.
    u = -scale * velocity / 16
    identity = _positions(u.shape[2:], device)
    for _ in range(4):
        u = u + _sample(u, identity + u)
    fine = F.interpolate(u, SHAPE, mode="trilinear", align_corners=True) * 2
    middle = torch.tensor(SHAPE, device=device).reshape(3, 1, 1, 1) / 2 - 0.5
    at = _positions(SHAPE, device) + fine - middle
    moved = torch.einsum("nab,nbxyz->naxyz", subject["matrix"], at) + middle
    channels, found = shared[f"{kind}_channels"][None], []
    for one in moved[:, None]:  # (1, 3, 91, 109, 91)
        inside = _sample(channels[:, :1], one)[0, 0] > least
        found.append((inside, _sample(channels, one[..., inside][..., None, None])[0, ..., 0, 0]))
    return found


def _tensor(values: Sequence | np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)


def _positions(shape: Sequence[int], device: str) -> torch.Tensor:
    """Voxel positions of a grid: (3, x, y, z)."""
    axes = (torch.arange(n, dtype=torch.float32, device=device) for n in shape)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _sample(volumes: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Trilinear values of `volumes` (n, C, X, Y, Z) at voxel positions `at` (n, 3, x, y, z)."""
    size = torch.tensor(volumes.shape[2:], device=at.device).reshape(3, 1, 1, 1)
    unit = 2 * at / (size - 1) - 1
    grid = unit.flip(1).permute(0, 2, 3, 4, 1)  # grid_sample wants z, y, x last
    return F.grid_sample(volumes, grid, align_corners=True, padding_mode="border")


def render_t1(latents: Sequence[dict], device: str = "cpu") -> np.ndarray:
    """Render T1-weighted volumes of n subjects at once.

    Numbers are drawn per subject on the CPU: a volume does not depend on the batch that it
    is in; between devices it differs by rounding only.

    Returns (n, 91, 109, 91) float32, white matter near 1000.
    """
    found = np.zeros((len(latents), *SHAPE), np.float32)
    warped = _warp(latents, "t1", 1.0, 0.25, device)
    for volume, latent, drawn in zip(found, latents, warped, strict=True):
        inside, (brain, t1, pial, hippocampus, near) = drawn
        rng = generator(latent["PTID"], T1_STREAM)
        dark, gamma = rng.standard_normal(2)
        field = rng.standard_normal((1, 1, 5, 6, 5), dtype=np.float32)
        gain = rng.standard_normal()
        noise = rng.standard_normal((2, *SHAPE), dtype=np.float32)
        louder, flatter, _ = VENDOR[latent["vendor"]]
        told = (latent["AGE"] - 73) / 10, latent["atrophy"] - 0.7, 0.10 * gamma + flatter
        older, severe, gamma, gain, dark = _tensor([*told, 0.08 * gain + louder, dark], device)
        t1 = t1 * (1 - pial * (0.25 + 0.08 * older + 0.06 * severe).clamp(0, 0.8))
        t1 = t1 - 0.05 * severe * 0.5 * hippocampus * t1
        t1 = t1 - near * (0.10 + 0.12 * older + 0.05 * dark).clamp(0, 0.5)
        t1 = t1.clamp(0, 1.6) ** gamma.exp()
        bias = F.interpolate(_tensor(field, device), SHAPE, mode="trilinear", align_corners=True)
        t1 = t1 * (0.10 * bias[0, 0, inside] + gain).exp()
        real, imaginary = 0.03 * _tensor(noise, device)[:, inside]
        t1 = ((t1 + real) ** 2 + imaginary**2).sqrt()  # Rician, as in magnitude images
        volume[inside.cpu()] = (1000 * t1 * (brain * 2 - 0.5).clamp(0, 1)).cpu()
    return found


def render_fa(latents: Sequence[dict], device: str = "cpu") -> np.ndarray:
    """Render fractional-anisotropy maps of n subjects at once; see `render_t1`.

    Returns (n, 91, 109, 91) float32 in 0..1.
    """
    found = np.zeros((len(latents), *SHAPE), np.float32)
    warped = _warp(latents, "fa", 0.5, 0.5, device)
    for volume, latent, drawn in zip(found, latents, warped, strict=True):
        inside, (brain, wm, core, *tubes) = drawn
        rng = generator(latent["PTID"], FA_STREAM)
        shown, ageing = rng.standard_normal(2)
        parts = 0.04 * rng.standard_normal(len(TRACTS))
        noise = rng.standard_normal(SHAPE, dtype=np.float32)
        age = (latent["AGE"] + 8 * ageing - 73) / 10
        told = latent["tracts"] + FA_NOISE * shown, age, 1 + VENDOR[latent["vendor"]][2]
        severe, older, offset, *own = _tensor([*told, *parts], device)
        fa = 0.07 * brain + (0.22 * wm + 0.12 * core) * (1 - 0.03 * older)
        for tube, part, name in zip(tubes, own, TRACTS, strict=True):
            _, _, height, loss = TRACTS[name]
            older_loss = (0.06 if name == "genu" else 0.01) * older
            strength = 1 - loss * severe - older_loss + part
            fa = torch.maximum(fa, (0.2 + height) * tube * strength * brain)
        fa = fa * offset + 0.025 * _tensor(noise, device)[inside]
        volume[inside.cpu()] = fa.clamp(0, 1).cpu()
    return found
