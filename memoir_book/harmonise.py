"""ComBat, which takes the effect of scanners out of features, fitted on some rows for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ComBat:
    """What the rows that it was fitted on say of k features; see `fit`."""

    level: np.ndarray  # (k,) mean over the batches, as large as they are
    slopes: np.ndarray  # (c, k) of the covariates
    spread: np.ndarray  # (k,) standard deviation within a batch, covariates taken out
    shift: dict[str, np.ndarray]  # of each batch, (k,), in units of `spread`
    scale: dict[str, np.ndarray]  # likewise, a factor

    @classmethod
    def fit(cls, x: np.ndarray, batch: np.ndarray, covariates: np.ndarray) -> ComBat:
        """Fit parametric empirical Bayes ComBat: Johnson et al. 2007, Fortin et al. 2018.

        x (n, k >= 2) features; batch (n,) names, of which those with one row are left out;
        covariates (n, c): what they explain is kept. ValueError for fewer than two batches, a
        missing number, or a feature that does not vary: 0 by 0 is NaN, and would be a constant.
        """
        names, where, sizes = np.unique(batch.astype(str), return_inverse=True, return_counts=True)
        known, kept = names[sizes >= 2], (sizes >= 2)[where]
        member = names[where[kept], None] == known  # (rows, batches)
        x, covariates = x[kept].astype(float), covariates[kept].astype(float)
        design = np.hstack([member, covariates])
        if len(known) < 2 or not np.isfinite(x.sum() + design.sum()):
            raise ValueError("ComBat needs two batches of two rows or more, and no missing number")
        if flat := int((np.ptp(x, axis=0) == 0).sum()):
            raise ValueError(f"{flat} features do not vary: leave them out before ComBat")
        weights = np.linalg.lstsq(design, x, rcond=None)[0]
        level = member.mean(axis=0) @ weights[: len(known)]
        spread = (x - design @ weights).std(axis=0)
        slopes = weights[len(known) :]
        z = (x - level - covariates @ slopes) / spread
        each = [_shrink(z[rows]) for rows in member.T]
        shift, scale = (dict(zip(known, part, strict=True)) for part in zip(*each, strict=True))
        return cls(level, slopes, spread, shift, scale)

    def apply(self, x: np.ndarray, batch: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        """Correct rows (n, k), the fitted or others; those of an unknown batch stay as they are."""
        expected = self.level + covariates.astype(float) @ self.slopes
        out = x.astype(float)
        for name, shift in self.shift.items():
            rows = batch.astype(str) == name
            z = (out[rows] - expected[rows]) / self.spread - shift
            out[rows] = z / self.scale[name] * self.spread + expected[rows]
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
