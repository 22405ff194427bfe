"""A mistake that a student may well make in each exercise, and that its self-check must catch."""

import numpy as np
import pandas as pd

OF_01 = {
    "crossing": lambda subject, train: int((train.groupby(subject).nunique() > 0).sum()),
    "split_subjects": lambda subject, share, seed: pd.Series(
        np.random.default_rng(seed).random(len(subject)) < share
    ),  # draws visits
    "smd_of_shares": lambda p, q: (p - q) / (p * (1 - p)) ** 0.5 if p * (1 - p) else 0.0,
}

OF_02 = {
    "to_mm": lambda affine, voxel: affine.diagonal()[:3] * voxel + affine[:3, 3],
    "robust_z": lambda v: (v - v.mean()) / v.std(),
    "volume_change": lambda u: 1 + sum(np.gradient(u[i], axis=i) for i in range(3)),
}

OF_03 = {
    "gate": lambda present, drop, draw: present & (draw >= drop),
}

OF_04 = {"loss_floor": lambda groups: float(np.log(len(groups) / len(set(groups))))}

OF_05 = {
    "balanced_accuracy": lambda m: np.trace(m) / np.sum(m),
}

OF_06 = {
    "mcnemar": lambda a, b: float(abs(a.mean() - b.mean())),
    "paired_interval": lambda a, b, draws: (a.mean() - b.mean(), a.mean() - b.mean()),
    "with_fallback": lambda truth, predicted, fallback: float(
        np.mean([(p or fallback) == t for p, t in zip(predicted, truth, strict=True)])
    ),
}

OF_07 = {
    "leaks": lambda write, record, changes: all(
        write(record | change) != write(record) for change in changes
    ),
}

OF_08 = {
    "nearest": lambda query, vectors, k: np.argsort(-(vectors @ query))[:k],
}

OF_09 = {
    "round_block": lambda w, levels: levels[np.abs(w[:, None] - levels).argmin(axis=1)],
}

OF_10 = {
    "z_of_difference": lambda p1, n1, p2, n2: (p1 - p2) / (p1 * (1 - p1) / n1) ** 0.5,
}

OF_11 = {
    "accuracy_after_selection": lambda x, y, in_train, seen, k: 0.5,
    "same_scans": lambda volumes: [
        (i, j)
        for i in range(len(volumes))
        for j in range(i + 1, len(volumes))
        if abs(np.mean(volumes[i]) - np.mean(volumes[j])) < 0.1
    ],
}

MISTAKES = OF_01 | OF_02 | OF_03 | OF_04 | OF_05 | OF_06 | OF_07 | OF_08 | OF_09 | OF_10 | OF_11
