"""The ceiling: how far an answer can get in the synthetic cohort, whose generator is known.

An oracle sees what the generator put into each modality, through the generator's own noise, and
answers by Bayes' rule. Of an image it sees no voxels but the few numbers that it was drawn from
(atrophy, tract damage, age): a bound that no network need reach. Left out is what tells a little
besides: site, vendor, who was asked or scanned at all, and the rim of a T1, darker with age.
"""

from typing import Any

import numpy as np
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from memoir_core.config import DX, SUBSETS
from synthetic_adni import tables
from synthetic_adni.render import FA_NOISE, HEAD_SEX, HEAD_SPREAD, SEX_EFFECT, SEX_NOISE, T1_NOISE

GRID = np.linspace(-5, 9, 201)  # severities, at the diagnosis and on the day of the scores
# What images show, in `render`, of (atrophy, tracts, age in decades), and its noise: the darkness
# of a T1's hippocampus and that round its ventricles; the deformation (of both kinds); the tracts,
# and their age. The rim of a T1, where age and atrophy mix, is left out.
SEEN = np.array([[1.0, 0, 0], [0, 0, 0.12], [1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]])
NOISE = np.array([0.01, 0.05, T1_NOISE, 0.5, FA_NOISE, 0.8])
ROWS = {"t1": {0, 1, 2, 3}, "fa": {2, 3, 4, 5}, "clinical": set()}
SEX = float(norm.cdf(HEAD_SEX * SEX_EFFECT / np.hypot(HEAD_SEX * SEX_NOISE, HEAD_SPREAD)))


def ceilings(drift: float = tables.SCORE_DRIFT, n: int = 3000, seed: int = 0) -> dict[str, dict]:
    """Score the oracle on n made-up people, as many of each class: subset -> task -> metric.

    Tasks are dx3 and dx2 ('balanced_accuracy', 'auc'), sex ('balanced_accuracy'), age ('mae',
    years) and cdrsb ('mae', points; 0 where it is among the inputs). drift : see `make_tables`.
    """
    people, found = _people(drift, n, np.random.default_rng([seed, 9])), {}
    by_scores, dx = _scores_given_severity(people, drift), people["dx"]
    ends, moved = dx != 1, _moved(drift)
    cdrsb = np.interp(GRID, tables.SCORE_GRID, tables.SCORES["CDRSB"]["at"]).clip(0) @ moved  # (G,)
    for subset in SUBSETS:
        rows = sorted(set().union(*(ROWS[part] for part in subset)))
        joint, years = _images_given_severity(people["shown"], rows)  # (n, 3, G) each
        if "clinical" in subset:
            joint = joint * by_scores[:, None] * people["apoe"][:, :, None]
        joint /= joint.sum(axis=(1, 2), keepdims=True)
        p = joint.sum(axis=2)  # (n, 3)
        p2 = p[ends, 2] / (p[ends, 0] + p[ends, 2])
        off = ("clinical" not in subset) * np.abs(joint.sum(axis=1) @ cdrsb - people["CDRSB"])
        right3 = balanced_accuracy_score(dx, p.argmax(axis=1))
        right2 = balanced_accuracy_score(dx[ends], 2 * (p2 > 0.5))
        auc3, auc2 = roc_auc_score(dx, p, multi_class="ovr"), roc_auc_score(dx[ends], p2)
        error = np.abs((years * joint).sum(axis=(1, 2)) - people["AGE"]).mean()
        found["+".join(subset)] = {
            "dx3": {"balanced_accuracy": float(right3), "auc": float(auc3)},
            "dx2": {"balanced_accuracy": float(right2), "auc": float(auc2)},
            "sex": {"balanced_accuracy": SEX if "t1" in subset else 0.5},
            **{"age": {"mae": float(error)}, "cdrsb": {"mae": float(np.nanmean(off))}},
        }
    return found


def _people(drift: float, n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Draw n people as `synthetic_adni` does: scores, what images show, and how likely APOE is."""
    dx = np.arange(n) % 3
    means = np.array([tables.CLASS_SEVERITY[name] for name in DX])
    d = means[dx] + tables.CLASS_SPREAD * rng.standard_normal(n)
    reserve, *own = rng.standard_normal((3, n))
    hurt = [d + tables.BRAIN_DRIFT * np.sqrt(0.5) * (reserve + z) for z in own]
    age = np.clip(rng.normal(*np.array([tables.AGE[DX[c]] for c in dx]).T), 55, 91)
    shown = np.stack([*hurt, (age - 73) / 10], axis=1) @ SEEN.T
    copies = np.array([rng.choice(3, p=tables.APOE4[DX[c]]) for c in dx])
    severity = d + drift * rng.standard_normal(n)
    people = {k: np.array([tables.score(k, s, rng) for s in severity]) for k in tables.SCORES}
    people["apoe"] = np.array([tables.APOE4[name] for name in DX])[:, copies].T
    shown = shown + NOISE * rng.standard_normal(shown.shape)
    return people | {"dx": dx, "AGE": age, "shown": shown}


def _moved(drift: float) -> np.ndarray:
    """Weights (severity of the scores, severity at the diagnosis), columns that sum to 1."""
    weights = norm.pdf(GRID[:, None], GRID, max(drift, 1e-3))
    return weights / weights.sum(axis=0)


def _scores_given_severity(people: dict[str, Any], drift: float) -> np.ndarray:
    """Likelihood (n, G) of everybody's scores at each severity of the diagnosis."""
    found = np.ones((len(people["dx"]), len(GRID)))
    for name, spec in tables.SCORES.items():
        value, half, (low, high) = people[name][:, None], spec["step"] / 2, spec["range"]
        mean = np.interp(GRID, tables.SCORE_GRID, spec["at"])
        top = np.where(value + half > high, np.inf, value + half)  # what is beyond is written so
        bottom = np.where(value - half < low, -np.inf, value - half)
        likely = norm.cdf(top, mean, spec["noise"]) - norm.cdf(bottom, mean, spec["noise"])
        found *= np.where(np.isnan(value), 1.0, likely)
    return found @ _moved(drift)


def _images_given_severity(shown: np.ndarray, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Density (n, 3, G) of class, severity and what images show; the age (years) expected then."""
    found, years, seen = [], [], SEEN[rows]
    for name in DX:
        mean, spread = tables.AGE[name]
        cov = tables.BRAIN_DRIFT**2 * np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]])
        cov[2, 2] = (spread / 10) ** 2
        flat = np.outer(GRID, [1.0, 1, 0]) + np.array([0, 0, (mean - 73) / 10])  # (G, 3)
        rest = shown[:, None, rows] - flat @ seen.T  # (n, G, k)
        density, age = np.ones(rest.shape[:2]), np.full(rest.shape[:2], mean)
        if rows:
            whole = seen @ cov @ seen.T + np.diag(NOISE[rows] ** 2)
            density = multivariate_normal(cov=whole).pdf(rest)
            age = mean + 10 * rest @ np.linalg.solve(whole, seen @ cov[2])
        found.append(density * norm.pdf(GRID, tables.CLASS_SEVERITY[name], tables.CLASS_SPREAD))
        years.append(age)
    return np.stack(found, axis=1), np.stack(years, axis=1)
