"""Write a synthetic download in the shape that ADNI gives a researcher.

`ADNIMERGE.csv`, `images.csv` and NIfTI volumes of people who do not exist. Only this
module knows how they are made; the loader (`cohort.py`) reads them as it reads ADNI.

The mechanism, in one paragraph. A subject of a diagnostic class has a severity at the
time of the diagnosis and, because scores and scan come from another day and another
rater, a shifted severity at the visit that the model sees (`SCORE_DRIFT`). Scores, T1 and
FA are three separate read-outs of that shifted severity, each with noise of its own.
Anatomy changes are smooth invertible deformations of population templates; no label is
painted anywhere. The cohort is for teaching: no clinical claim follows from it.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memoir_book.artefacts import SYNTHETIC_MARKER, atomic_path, file_lock, write_json
from memoir_core.config import DX, Profile

VERSION = 2  # raise it when the data change, so that stale downloads are written anew
SEED = 2026  # of the cohort; a run's own seed governs split and training
SHAPE = (91, 109, 91)
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])

# Published counts (project page, section 2): the classes of the 2,363 subjects.
CLASS_COUNTS = {"CN": 837, "MCI": 813, "Dementia": 713}

# Severity at the diagnosis: class means, spread within a class; then the shift to the
# day of scores and scan. With these, a perfect reader of the shifted severity reaches a
# DX3 balanced accuracy near 0.70, as clinical scores alone do in the published table.
CLASS_SEVERITY = {"CN": 0.0, "MCI": 1.45, "Dementia": 3.1}
CLASS_SPREAD = 0.5
SCORE_DRIFT = 0.87
T1_NOISE = 0.55  # of the severity that the anatomy shows, in severity units
FA_NOISE = 2.0

# Mean scores at five severities, so that the class means come near those of ADNI:
# CDR-SB, MMSE, ADAS and MoCA by group as in Petersen et al., Neurology 2010
# (doi:10.1212/WNL.0b013e3181cb3e25) and PMC8446666. `noise` is in score points.
SCORE_GRID = (-1.0, 0.0, 1.45, 3.1, 6.0)
SCORES: dict[str, dict[str, Any]] = {
    "CDRSB": {"at": (0.0, 0.0, 1.4, 4.8, 11.0), "noise": 0.4, "range": (0, 18), "step": 0.5},
    "ADAS11": {"at": (3.5, 5.8, 10.3, 19.5, 38.0), "noise": 2.4, "range": (0, 70), "step": 0.33},
    "ADAS13": {"at": (5.0, 9.0, 16.8, 30.0, 54.0), "noise": 3.2, "range": (0, 85), "step": 0.33},
    "MMSE": {"at": (29.8, 29.1, 27.4, 23.2, 13.0), "noise": 1.1, "range": (0, 30), "step": 1},
    "MOCA": {"at": (28.0, 26.0, 22.8, 17.3, 7.0), "noise": 1.9, "range": (0, 30), "step": 1},
}
SCORE_MISSING = {"CDRSB": 0.01, "ADAS11": 0.01, "ADAS13": 0.02, "MMSE": 0.01, "MOCA": 0.30}

# Age, sex and APOE by class: Petersen et al. 2010; Jack et al., Lancet Neurol 2013.
AGE = {"CN": (73.5, 6.3), "MCI": (73.2, 7.4), "Dementia": (75.0, 7.8)}
FEMALE = {"CN": 0.53, "MCI": 0.43, "Dementia": 0.45}
APOE4 = {"CN": (0.71, 0.27, 0.02), "MCI": (0.52, 0.37, 0.11), "Dementia": (0.34, 0.47, 0.19)}

COLUMNS = [
    *("RID", "PTID", "SITE", "VISCODE", "EXAMDATE", "DX_bl", "AGE", "PTGENDER", "PTEDUCAT"),
    *("APOE4", *SCORES, "DX", "IMAGEUID"),
]
RECORD, T1_STREAM, FA_STREAM, ANATOMY = range(4)


def generator(ptid: str, stream: int) -> np.random.Generator:
    """Random numbers that depend on the subject and the purpose, not on order or process."""
    return np.random.Generator(
        np.random.Philox(key=np.array([SEED, zlib.crc32(ptid.encode()) * 8 + stream], np.uint64))
    )


# --- tables -----------------------------------------------------------------------------


def class_counts(n: int) -> dict[str, int]:
    """Share n subjects over the classes in the published proportion (largest remainder)."""
    total = sum(CLASS_COUNTS.values())
    exact = {dx: n * count / total for dx, count in CLASS_COUNTS.items()}
    counts = {dx: int(value) for dx, value in exact.items()}
    by_remainder = sorted(exact, key=lambda dx: counts[dx] - exact[dx])
    for dx in by_remainder[: n - sum(counts.values())]:
        counts[dx] += 1
    return counts


def make_tables(
    subjects: int, fa_fraction: float, drift: float = SCORE_DRIFT
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Make ADNIMERGE, the image manifest, and the latent variables behind them.

    Parameters
    ----------
    subjects : how many shall remain after the published filters; about a quarter more
        are written that the filters remove.
    fa_fraction : share of the remaining subjects with an FA volume.
    drift : standard deviation between the severity that was diagnosed and the one that
        scores and images show; 0 makes the scores nearly define the diagnosis.

    Returns
    -------
    adnimerge, images, latents : one row per visit, per image, and per rendered subject.
    """
    counts = class_counts(subjects)
    shuffle = np.random.Generator(np.random.Philox(key=SEED))
    classes = shuffle.permutation([dx for dx in DX for _ in range(counts[dx])])
    has_fa = np.zeros(subjects, bool)
    has_fa[shuffle.permutation(subjects)[: round(fa_fraction * subjects)]] = True
    # Subjects that the filters remove: without a valid diagnosis, without a T1.
    removed = round(0.06 * subjects), round(0.18 * subjects)
    kinds = ["kept"] * subjects + ["no_dx"] * removed[0] + ["no_t1"] * removed[1]
    extra = shuffle.choice(list(DX), sum(removed))
    rows: list[dict] = []
    images: list[dict] = []
    latents: list[dict] = []
    order = shuffle.permutation(len(kinds))
    for place, index in enumerate(order):
        dx = str(classes[index] if index < subjects else extra[index - subjects])
        fa = bool(index < subjects and has_fa[index])
        _subject(90001 + place, dx, kinds[index], fa, drift, rows, images, latents)
    adnimerge = pd.DataFrame(rows, columns=COLUMNS)
    repeated = adnimerge.iloc[:: max(1, len(adnimerge) // 20)]  # some rows come twice
    adnimerge = pd.concat([adnimerge, repeated], ignore_index=True)
    return adnimerge, pd.DataFrame(images), pd.DataFrame(latents)


def _subject(
    rid: int,
    dx: str,
    kind: str,
    fa: bool,
    drift: float,
    rows: list[dict],
    images: list[dict],
    latents: list[dict],
) -> None:
    """Append one subject's visits, images and latent variables."""
    site = 901 + rid % 57  # no ADNI site has such a number
    ptid = f"{site}_S_{rid}"
    rng = generator(ptid, RECORD)
    diagnosed = CLASS_SEVERITY[dx] + CLASS_SPREAD * rng.standard_normal()
    severity = diagnosed + drift * rng.standard_normal()
    age_bl = float(np.clip(rng.normal(*AGE[dx]), 55, 91))
    female = rng.random() < FEMALE[dx]
    apoe4 = int(rng.choice(3, p=APOE4[dx]))
    education = int(np.clip(round(rng.normal(16, 2.7)), 6, 20))
    months = [0, 6, 12, 24, 36, 48][: int(rng.integers(2, 7))]
    start = pd.Timestamp("2006-01-01") + pd.Timedelta(days=int(rng.integers(0, 5000)))
    scanned = int(rng.integers(1, len(months)))  # the visit with the latest T1
    pace = abs(rng.normal(0.12, 0.10)) * (1 + CLASS_SEVERITY[dx] / 2)  # severity per year
    begin = len(rows)
    for number, month in enumerate(months):
        if kind == "kept" and number > scanned and rng.random() < 0.5:
            continue  # a visit that was missed
        years = (month - months[scanned]) / 12
        date = start + pd.Timedelta(days=round(month * 30.44 + (number > 0) * rng.normal(0, 10)))
        at_visit = severity + pace * years
        row = {
            "RID": rid,
            "PTID": ptid,
            "SITE": site,
            "VISCODE": "bl" if month == 0 else f"m{month:02d}",
            "EXAMDATE": date.strftime("%Y-%m-%d"),
            "AGE": round(age_bl, 1),
            "PTGENDER": "Female" if female else "Male",
            "PTEDUCAT": education,
            "APOE4": apoe4,
            "DX": ""
            if kind == "no_dx"
            else _diagnosis(dx, diagnosed + pace * years, number, scanned),
        }
        row |= {name: _score(name, at_visit, rng) for name in SCORES}
        earlier = kind == "kept" and number < scanned and rng.random() < 0.08
        if kind == "kept" and (number == scanned or earlier):
            row["IMAGEUID"] = 9_000_000 + rid * 10 + number
            stem = f"images/{ptid}/{ptid}_{row['VISCODE']}"
            image = {
                "PTID": ptid,
                "VISCODE": row["VISCODE"],
                "t1_path": f"{stem}_T1w_9DOF.nii.gz",
                "fa_path": f"{stem}_FA.nii.gz" if fa and not earlier else "",
            }
            images.append(image)
            age = age_bl + (date - start).days / 365.25
            latents.append({**image, "severity": at_visit, "AGE": age, "female": female})
        elif rng.random() < 0.1:  # listed in the manifest, but never downloaded
            images.append({"PTID": ptid, "VISCODE": row["VISCODE"], "t1_path": "", "fa_path": ""})
        rows.append(row)
    first = {"CN": "CN", "MCI": "LMCI", "Dementia": "AD", "": ""}
    for row in rows[begin:]:
        row["DX_bl"] = first[rows[begin]["DX"]]


def _diagnosis(dx: str, diagnosed: float, number: int, scanned: int) -> str:
    """The class at the scan; before it, milder where the severity was clearly lower."""
    if number > scanned:
        return ""  # later visits without a consensus diagnosis yet
    limits = {"CN": -np.inf, "MCI": 0.3, "Dementia": 1.9}
    reached = [name for name in DX[: DX.index(dx) + 1] if diagnosed >= limits[name]]
    return dx if number == scanned else reached[-1]


def _score(name: str, severity: float, rng: np.random.Generator) -> float:
    spec = SCORES[name]
    value = np.interp(severity, SCORE_GRID, spec["at"]) + spec["noise"] * rng.standard_normal()
    missing = rng.random() < SCORE_MISSING[name]
    low, high = spec["range"]
    value = float(np.clip(round(value / spec["step"]) * spec["step"], low, high))
    return np.nan if missing else round(value, 2)


# --- volumes ----------------------------------------------------------------------------

# Anatomy: effect per decade over 73 years, per unit of severity, and individual noise, as
# log-volume change. Directions and relative sizes after the atrophy tables of SynthSeg
# and simul-atrophy; sizes set so that a 3D ResNet learns them from a few hundred scans.
REGIONS = {
    "ventricles": {"age": 0.22, "severity": 0.30, "noise": 0.24},
    "hippocampus": {"age": -0.05, "severity": -0.17, "noise": 0.08},
    "temporoparietal": {"age": -0.03, "severity": -0.13, "noise": 0.06},
    "frontal": {"age": -0.07, "severity": -0.03, "noise": 0.05},
}
SEX_EFFECT, SEX_NOISE = 0.02, 0.06  # head shape barely tells sex after 9DOF scaling

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
def _templates() -> dict[str, Any]:
    """Load what all subjects share: templates, region modes and tract maps (about 5 s)."""
    import torch
    from nilearn import datasets, image
    from scipy import ndimage

    def grid(loaded: Any, affine: np.ndarray = AFFINE, shape: tuple = SHAPE) -> np.ndarray:
        data = image.resample_img(
            image.smooth_img(loaded, 1.4),  # mm: 0.6 voxel, against aliasing
            target_affine=affine,
            target_shape=shape,
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
    modes = {}
    for name, (target, yielding) in pairs.items():
        coarse = _coarse(ndimage.gaussian_filter(target.astype(np.float32), 0.8))
        give = _coarse(ndimage.gaussian_filter(yielding.astype(np.float32), 0.8))
        divergence = coarse / coarse.max() - give * (coarse.sum() / coarse.max() / give.sum())
        modes[name] = torch.from_numpy(_irrotational(divergence))
    tracts = {name: _tract(name) for name in TRACTS}
    core = np.clip(ndimage.distance_transform_edt(wm > 0.6) / 3, 0, 1)
    pial = gm * ndimage.gaussian_filter(csf * (depth <= 22), 1.2)
    near = np.exp(-ndimage.distance_transform_edt(ventricles < 0.4) / 2.5) * wm
    shared = {"t1": t1, "gm": gm, "wm": wm, "brain": brain.astype(np.float32), "pial": pial}
    shared |= {"hippocampus": hippocampus, "periventricular": near, "core": core}
    stacked = {name: torch.from_numpy(v.astype(np.float32)) for name, v in shared.items()}
    return {
        "t1_channels": torch.stack(
            [stacked[k] for k in ("t1", "brain", "pial", "hippocampus", "periventricular")]
        ),
        "fa_channels": torch.stack(
            [stacked["wm"] ** 1.3, stacked["core"] * stacked["wm"], stacked["brain"]]
            + [torch.from_numpy(tracts[name]) for name in TRACTS]
        ),
        "modes": modes,
    }


def _blob(x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: tuple, radius: float) -> np.ndarray:
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return np.exp(-squared / (2 * (radius / 2) ** 2))


def _coarse(volume: np.ndarray) -> np.ndarray:
    """Average 2 mm voxels to the 4 mm grid (46x55x46)."""
    padded = np.pad(volume, [(0, 1)] * 3, mode="edge").astype(np.float32)
    return padded.reshape(46, 2, 55, 2, 46, 2).mean((1, 3, 5))


def _irrotational(divergence: np.ndarray, pad: int = 8) -> np.ndarray:
    """Solve div v = divergence for the curl-free v, in voxels: v = grad of inverse Laplacian.

    Parameters
    ----------
    divergence : (X, Y, Z) wanted log-volume change; made zero-mean so that the head's
        size stays as it is.

    Returns
    -------
    v : (3, X, Y, Z) velocity field.
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
    from scipy import ndimage

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


def _anatomy(latent: dict) -> dict[str, np.ndarray]:
    """Draw what makes one subject's anatomy: region amplitudes, smooth noise, head position."""
    rng = generator(latent["PTID"], ANATOMY)
    shown = latent["severity"] + T1_NOISE * rng.standard_normal()
    brain_age = latent["AGE"] + 6 * rng.standard_normal()
    amplitudes = [
        effect["age"] * (brain_age - 73) / 10
        + effect["severity"] * (shown - 0.7)
        + effect["noise"] * rng.standard_normal()
        for effect in REGIONS.values()
    ]
    coarse = rng.standard_normal((3, 12, 14, 12), dtype=np.float32)
    coarser = rng.standard_normal((3, 6, 7, 6), dtype=np.float32)
    angles = np.deg2rad(0.8) * rng.standard_normal(3)
    scales = 1 + 0.012 * rng.standard_normal(3)
    sex = SEX_EFFECT * (-1 if latent["female"] else 1) + SEX_NOISE * rng.standard_normal()
    scales[1] *= 1 + 0.1 * sex
    return {
        "amplitudes": np.array(amplitudes, np.float32),
        "coarse": coarse,
        "coarser": coarser,
        "matrix": (_rotation(angles) * scales).astype(np.float32),
    }


def _warp(latents: Sequence[dict], kind: str, scale: float, device: str) -> Any:
    """Deform template channels with each subject's anatomy.

    Parameters
    ----------
    latents : n dicts with PTID, severity, AGE and female.
    kind : 't1' or 'fa', whose channels are deformed.
    scale : 1 for T1; less for FA, whose registration removes part of the deformation.

    Returns
    -------
    (C, n, 91, 109, 91) tensor on `device`.
    """
    import torch
    import torch.nn.functional as F

    shared = _templates_on(device)
    drawn = [_anatomy(latent) for latent in latents]
    subject = {name: _tensor([d[name] for d in drawn], device) for name in drawn[0]}
    velocity = torch.einsum("nr,rcxyz->ncxyz", subject["amplitudes"], shared["modes"])
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
    channels = shared[f"{kind}_channels"]
    warped = _sample(channels[None].expand(len(latents), *channels.shape), moved)
    return warped.transpose(0, 1)


@cache
def _templates_on(device: str) -> dict[str, Any]:
    """Put the templates on a device, the region modes as one (R, 3, 46, 55, 46) tensor."""
    import torch

    shared = _templates()
    modes = torch.stack([shared["modes"][name] for name in REGIONS])
    channels = {f"{kind}_channels": shared[f"{kind}_channels"] for kind in ("t1", "fa")}
    return {name: value.to(device) for name, value in {"modes": modes, **channels}.items()}


def _tensor(values: Sequence, device: str) -> Any:
    import torch

    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)


def _column(values: Sequence, device: str) -> Any:
    """One number per subject, (n, 1, 1, 1), to be multiplied with volumes."""
    return _tensor(values, device).reshape(-1, 1, 1, 1)


def _positions(shape: Sequence[int], device: str) -> Any:
    """Voxel positions of a grid: (3, x, y, z)."""
    import torch

    axes = (torch.arange(n, dtype=torch.float32, device=device) for n in shape)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _sample(volumes: Any, at: Any) -> Any:
    """Trilinear values of `volumes` (n, C, X, Y, Z) at voxel positions `at` (n, 3, x, y, z)."""
    import torch
    import torch.nn.functional as F

    size = torch.tensor(volumes.shape[2:], device=at.device).reshape(3, 1, 1, 1)
    unit = 2 * at / (size - 1) - 1
    grid = unit.flip(1).permute(0, 2, 3, 4, 1)  # grid_sample wants z, y, x last
    return F.grid_sample(volumes, grid, align_corners=True, padding_mode="border")


def _rotation(angles: np.ndarray) -> np.ndarray:
    a, b, c = angles
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rx @ ry @ rz


def render_t1(latents: Sequence[dict], device: str = "cpu") -> np.ndarray:
    """Render T1-weighted volumes of n subjects at once.

    Random numbers are drawn per subject on the CPU, so that a subject's volume does not
    depend on the batch it is in; between devices it differs by rounding only.

    Returns
    -------
    (n, 91, 109, 91) float32, white matter near 1000.
    """
    import torch.nn.functional as F

    t1, brain, pial, hippocampus, near = _warp(latents, "t1", 1.0, device)
    draws = []
    for latent in latents:
        rng = generator(latent["PTID"], T1_STREAM)
        dark, gamma = rng.standard_normal(2)
        field = rng.standard_normal((1, 5, 6, 5), dtype=np.float32)
        gain = rng.standard_normal()
        noise = rng.standard_normal((2, *SHAPE), dtype=np.float32)
        draws.append((dark, gamma, field, gain, noise))
    darks, gammas, fields, gains, noises = zip(*draws, strict=True)
    older = _column([(latent["AGE"] - 73) / 10 for latent in latents], device)
    severe = _column([latent["severity"] - 0.7 for latent in latents], device)
    t1 = t1 * (1 - pial * (0.25 + 0.08 * older + 0.06 * severe).clamp(0, 0.8))
    t1 = t1 - 0.05 * severe * 0.5 * hippocampus * t1
    t1 = t1 - near * (0.10 + 0.12 * older + 0.05 * _column(darks, device)).clamp(0, 0.5)
    t1 = t1.clamp(0, 1.6) ** (0.10 * _column(gammas, device)).exp()
    bias = F.interpolate(_tensor(fields, device), SHAPE, mode="trilinear", align_corners=True)
    t1 = t1 * (0.10 * bias[:, 0] + 0.08 * _column(gains, device)).exp()
    real, imaginary = 0.03 * _tensor(noises, device).transpose(0, 1)
    t1 = ((t1 + real) ** 2 + imaginary**2).sqrt()  # Rician, as in magnitude images
    return (1000 * t1 * (brain * 2 - 0.5).clamp(0, 1)).cpu().numpy()


def render_fa(latents: Sequence[dict], device: str = "cpu") -> np.ndarray:
    """Render fractional-anisotropy maps of n subjects at once; see `render_t1`.

    Returns
    -------
    (n, 91, 109, 91) float32 in 0..1.
    """
    import torch

    wm, core, brain, *tubes = _warp(latents, "fa", 0.5, device)
    draws = []
    for latent in latents:
        rng = generator(latent["PTID"], FA_STREAM)
        shown, ageing = rng.standard_normal(2)
        own = rng.standard_normal(len(TRACTS))
        noise = rng.standard_normal(SHAPE, dtype=np.float32)
        draws.append(
            (
                latent["severity"] + FA_NOISE * shown,
                (latent["AGE"] + 8 * ageing - 73) / 10,
                0.04 * own,
                noise,
            )
        )
    severities, ages, own_parts, noises = zip(*draws, strict=True)
    severe, older = _column(severities, device), _column(ages, device)
    fa = 0.07 * brain + (0.22 * wm + 0.12 * core) * (1 - 0.03 * older)
    for tract, tube in enumerate(tubes):
        name = list(TRACTS)[tract]
        _, _, height, loss = TRACTS[name]
        older_loss = (0.06 if name == "genu" else 0.01) * older
        individual = _column([values[tract] for values in own_parts], device)
        strength = 1 - loss * severe - older_loss + individual
        fa = torch.maximum(fa, (0.2 + height) * tube * strength * brain)
    fa = fa + 0.025 * _tensor(noises, device)
    return (fa.clamp(0, 1) * (brain > 0.5)).cpu().numpy()


# --- files ------------------------------------------------------------------------------


def ensure_download(
    directory: Path, profile: Profile, workers: int = 0, device: str = "cpu"
) -> Path:
    """Write the synthetic download of a profile once; later calls return at once.

    A call that was killed goes on with the files that are missing. The marker file is
    written last in its final form, which means that everything is there.

    Parameters
    ----------
    directory : folder to write.
    profile : gives the number of subjects and the share with FA.
    workers : processes that render; 0 takes one per core.
    device : 'cuda' renders in batches on the GPU, while threads compress and write.
    """
    directory = Path(directory)
    wanted: dict[str, Any] = {"synthetic": True, "version": VERSION}
    wanted |= {"subjects": profile.subjects}
    wanted |= {"fa_fraction": round(profile.fa_fraction, 4), "seed": SEED}
    if not _is_made(directory, wanted):
        # Two runs that begin together would delete each other's files.
        with file_lock(directory.with_name(f"{directory.name}.lock")):
            if not _is_made(directory, wanted):
                _make_download(directory, profile, wanted, workers, device)
    return directory


def _is_made(directory: Path, wanted: dict) -> bool:
    marker = directory / SYNTHETIC_MARKER
    return marker.exists() and json.loads(marker.read_text()) == wanted


def _make_download(
    directory: Path, profile: Profile, wanted: dict, workers: int, device: str
) -> None:
    from tqdm import tqdm

    marker = directory / SYNTHETIC_MARKER
    progress = directory / "begun.json"  # of which version the files are that lie here
    if not progress.exists() or json.loads(progress.read_text()) != wanted:
        for old in directory.rglob("*.nii.gz"):
            old.unlink()
        marker.unlink(missing_ok=True)
        write_json(progress, wanted)
    latents = write_tables(directory, profile.subjects, profile.fa_fraction)
    jobs = [
        (str(directory / latent[f"{kind}_path"]), kind, latent)
        for latent in latents.to_dict("records")
        for kind in ("t1", "fa")
        if latent[f"{kind}_path"] and not (directory / latent[f"{kind}_path"]).exists()
    ]
    workers = workers or os.cpu_count() or 1
    bar = tqdm(total=len(jobs), desc="rendering volumes", mininterval=5)
    if device.startswith("cuda"):
        for batch in _batches(jobs):
            volumes = _render(batch, device)
            with ThreadPoolExecutor(workers) as threads:
                list(threads.map(_write, batch, volumes))
            bar.update(len(batch))
    else:
        with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
            for _ in pool.map(_render_file, jobs, chunksize=4):
                bar.update()
    bar.close()
    write_json(marker, wanted)
    progress.unlink()


def write_tables(
    directory: Path, subjects: int, fa_fraction: float, drift: float = SCORE_DRIFT
) -> pd.DataFrame:
    """Write ADNIMERGE.csv and images.csv only (seconds at any size); see `make_tables`.

    Returns
    -------
    latents : what the volumes would be rendered from.
    """
    adnimerge, images, latents = make_tables(subjects, fa_fraction, drift)
    for name, table in (("ADNIMERGE.csv", adnimerge), ("images.csv", images)):
        with atomic_path(Path(directory) / name) as temporary:
            table.to_csv(temporary, index=False)
    write_json(Path(directory) / SYNTHETIC_MARKER, {"synthetic": True, "tables_only": True})
    return latents


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # the processes share the cores among themselves


Job = tuple[str, str, dict]  # path, kind, latent


def _batches(jobs: list[Job], size: int = 32) -> Iterator[list[Job]]:
    """Cut jobs into batches of one kind."""
    for kind in ("t1", "fa"):
        same = [job for job in jobs if job[1] == kind]
        yield from (same[i : i + size] for i in range(0, len(same), size))


def _render(batch: Sequence[Job], device: str) -> np.ndarray:
    render = render_t1 if batch[0][1] == "t1" else render_fa
    return render([latent for _, _, latent in batch], device)


def _render_file(job: Job) -> None:
    _write(job, _render([job], "cpu")[0])


def _write(job: Job, data: np.ndarray) -> None:
    import nibabel as nib

    path, kind, _ = job
    scale = 1.0 if kind == "t1" else 1e-4
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_xyzt_units("mm")
    volume = nib.Nifti1Image(np.round(data / scale).astype(np.int16), AFFINE, header)
    volume.header.set_slope_inter(scale, 0)
    raw = volume.to_bytes()
    with atomic_path(Path(path)) as temporary:
        # Level 1 and no time stamp: fast, and the same bytes every time.
        temporary.write_bytes(gzip.compress(raw, compresslevel=1, mtime=0))
