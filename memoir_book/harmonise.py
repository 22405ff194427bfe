"""ComBat, which takes the effect of scanners out of features, fitted on some rows for all."""

from __future__ import annotations

import numpy as np


def combat(x: np.ndarray, batch: np.ndarray, covariates: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Correct features (n, k) by parametric empirical Bayes ComBat, fitted on the rows `fit`.

    Johnson et al. 2007, Fortin et al. 2018. k >= 2; batch (n,) names; covariates (n, c): what
    they explain is kept; fit (n,) bool. Rows of a batch that has fewer than two rows in `fit` stay
    as they are. ValueError for fewer than two batches, a missing number, or a feature that does
    not vary in `fit`: 0 by 0 is NaN, and would end as a constant.
    """
    x, covariates, batch = x.astype(float), covariates.astype(float), batch.astype(str)
    names, sizes = np.unique(batch[fit], return_counts=True)
    member = batch[:, None] == names[sizes >= 2]  # (n, batches)
    fit, design = fit & member.any(axis=1), np.hstack([member, covariates])
    if member.shape[1] < 2 or not np.isfinite(x.sum() + design.sum()):
        raise ValueError("ComBat needs two batches of two rows or more, and no missing number")
    if flat := int((np.ptp(x[fit], axis=0) == 0).sum()):
        raise ValueError(f"{flat} features do not vary: leave them out before ComBat")
    weights = np.linalg.lstsq(design[fit], x[fit], rcond=None)[0]
    spread = (x[fit] - design[fit] @ weights).std(axis=0)
    levels, slopes = np.split(weights, [member.shape[1]])
    expected = member[fit].mean(axis=0) @ levels + covariates @ slopes
    out = x.copy()
    for rows in member.T:
        z = (x - expected) / spread
        shift, scale = _shrink(z[rows & fit])
        out[rows] = (z[rows] - shift) / scale * spread + expected[rows]
    return out


def _shrink(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale (k,) of one batch (n, k), drawn to what its features have in common."""
    n, mean, variance = len(z), z.mean(axis=0), z.var(axis=0, ddof=1)
    prior, width = mean.mean(), mean.var(ddof=1)
    m, v = variance.mean(), variance.var(ddof=1)  # moments of an inverse gamma distribution
    shape, rate = 2 + m**2 / v, m + m**3 / v
    shift, square = mean, variance
    for _ in range(50):  # a handful would do
        shift = (n * width * mean + square * prior) / (n * width + square)
        square = (rate + ((z - shift) ** 2).sum(axis=0) / 2) / (n / 2 + shape - 1)
    return shift, np.sqrt(square)
