"""Metrics with 95 % stratified bootstrap intervals, and the seven-subset ablation.

The metrics are scikit-learn's, written for thousands of redraws; a test compares the two.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from .config import DX
from .data import Scaler

Metrics = dict[str, dict[str, float]]
Tables = dict[str, pd.DataFrame]  # of predictions, see `inference.predict_subsets`
_P3 = [f"p_{name}" for name in DX]
NUMBERS = {"age": "AGE", "cdrsb": "CDRSB"}  # what is regressed
COLLAPSED = 0.99  # a mean cosine above this is that of a constant
majority = statistics.mode  # the most frequent label; on a tie, the one that comes first


def task_metrics(table: pd.DataFrame) -> Metrics:
    """Compute the published metrics from a table of predictions, see `inference.predict`.

    dx3, dx2, sex: balanced_accuracy, macro_f1, auc (dx3: one against the rest, mean over classes;
    dx2: CN against Dementia); age, cdrsb: mae (years, points) and r2, unless known of nobody.
    """
    scored = {task: _classification(truth, p) for task, (truth, p, _) in heads(table).items()}
    found = {task: _regression(table, name) for task, name in NUMBERS.items()}
    return scored | {task: errors for task, errors in found.items() if errors}


def heads(table: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[str, ...]]]:
    """What each classifying head was asked and said, from a table of predictions.

    dx3, dx2 (MCI left out), sex -> true class (n,) of 0..C-1, probabilities (n, C), C names.
    """
    ends = table[table["DX"] != "MCI"]
    p3, p2, male = table[_P3].to_numpy(), ends["p2_Dementia"], table["p_Male"]
    men, demented = table["PTGENDER"] == "Male", ends["DX"] == "Dementia"
    return {
        "dx3": (table["DX"].map(DX.index).to_numpy(int), p3 / p3.sum(axis=1, keepdims=True), DX),
        "dx2": (demented.to_numpy(int), np.stack([1 - p2, p2], axis=1), ("CN", "Dementia")),
        "sex": (men.to_numpy(int), np.stack([1 - male, male], axis=1), ("Female", "Male")),
    }


def _classification(outcome: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Metrics of probabilities p (n, C) against true classes (n,) of 0..C-1."""
    one_hot = np.eye(p.shape[1], dtype=int)
    truth, predicted = one_hot[outcome], one_hot[p.argmax(axis=1)]  # both (n, C)
    return from_confusion(truth.T @ predicted) | {"auc": float(_auc(p, truth))}


def _auc(p: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """AUC of one class against the rest, mean over classes: p (..., n, C), truth (n, C) 0 or 1.

    NaN where a class is missing, as in a bootstrap draw of few subjects.
    """
    size = truth.sum(axis=0)
    if not size.all():
        return np.full(p.shape[:-2], np.nan)
    above = (rankdata(p, axis=-2) * truth).sum(axis=-2) - size * (size + 1) / 2
    return (above / (size * (len(truth) - size))).mean(axis=-1)


def _regression(table: pd.DataFrame, name: str) -> dict[str, float]:
    known = table.dropna(subset=[name, f"{name}_pred"])
    if known.empty:
        return {}
    truth, error = known[name].to_numpy(), (known[f"{name}_pred"] - known[name]).to_numpy()
    spread = ((truth - truth.mean()) ** 2).sum()
    r2 = 1 - (error**2).sum() / spread if spread else float("nan")
    return {"mae": float(np.abs(error).mean()), "r2": float(r2)}


def composite(metrics: Metrics, scaler: Scaler) -> float:
    """The score that picks the checkpoint: diagnosis first, severity and age a little.

    Mean balanced accuracy of both diagnoses, minus a tenth of the mean of the errors in SDs.
    """
    diagnosis = (metrics["dx3"]["balanced_accuracy"] + metrics["dx2"]["balanced_accuracy"]) / 2
    errors = [metrics[t]["mae"] / getattr(scaler, f"{t}_std") for t in NUMBERS if t in metrics]
    return diagnosis - 0.1 * sum(errors) / max(1, len(errors))


def from_confusion(counts: Any) -> dict[str, float]:
    """Balanced accuracy and macro F1 of a confusion matrix (C, C): rows true, columns predicted.

    The first is the mean recall of the classes that are there; F1 counts also those predicted.
    """
    cells = np.asarray(counts)
    true, predicted, right = cells.sum(axis=1), cells.sum(axis=0), cells.diagonal()
    recall = right[true > 0] / true[true > 0]
    f1 = 2 * right[true + predicted > 0] / (true + predicted)[true + predicted > 0]
    return {"balanced_accuracy": float(recall.mean()), "macro_f1": float(f1.mean())}


def redraw(groups: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Redraw subjects with replacement within their group: (n,) groups -> (samples, n) rows."""
    rng = np.random.default_rng([seed, 2])
    rows = np.empty((samples, len(groups)), int)
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        rows[:, own] = rng.choice(own, (samples, len(own)))
    return rows


def bootstrap(values: Any, groups: Any, samples: int, seed: int) -> dict[str, float]:
    """95 % interval of a mean of group means, subjects redrawn within their group.

    values (n,): of hits (0 or 1), with the true classes (n,) as `groups`, this is balanced
    accuracy; of absolute errors, with None, a plain mean; of differences, a paired comparison.
    """
    values = np.asarray(values, float)
    if not len(values):
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    groups = np.zeros(len(values)) if groups is None else np.asarray(groups)
    _, where, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    share = values / (sizes[where] * len(sizes))  # what each subject adds to the mean of means
    draws = share[redraw(groups, samples, seed)].sum(axis=1)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {"value": float(share.sum()), "low": float(low), "high": float(high)}


def recall_hits(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Which rows i of b are among the k nearest of row i of a: (n,) bool; (n, D) unit vectors each.

    A tie (to float32's rounding) or a NaN is a miss: embeddings that are all alike find nobody.
    """
    cosine = a @ b.T
    own = cosine.diagonal()
    better = (cosine >= own[:, None] - 1e-6).sum(dim=1) - 1  # its own is among these
    return (better < k) & own.isfinite()


def recall_at(a: Tensor, b: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Share of `recall_hits` for each k; NaN of no rows, as sentence-transformers' (0,)."""
    hits = {k: recall_hits(a, b, k).double() if len(a) else torch.zeros(0) for k in ks}
    return {f"recall@{k}": float(found.mean()) for k, found in hits.items()}


def spectrum(z: Tensor) -> Tensor:
    """Variances (min(n, D),) along the principal axes of embeddings (n, D), largest first."""
    return torch.linalg.svdvals(z.double() - z.double().mean(dim=0)) ** 2 / len(z)


def spread(z: Tensor) -> dict[str, float]:
    """How far apart unit vectors (n, D) of different people lie; NaN of fewer than two.

    mean_cosine of two people; effective_rank, exp of the entropy of the normalised spectrum: in
    how many directions they differ (NaN above COLLAPSED: of noise); uniformity (arXiv:2005.10242),
    log of the mean of exp(-2 d^2), falls from 0 as they spread.
    """
    squared = torch.pdist(z.double()) ** 2  # of two unit vectors: 2 - 2 cosine
    cosine, uniform = 1 - squared.mean() / 2, (-2 * squared).exp().mean().log()
    found, rank = {"mean_cosine": float(cosine), "uniformity": float(uniform)}, math.nan
    if cosine <= COLLAPSED:
        share = spectrum(z) / spectrum(z).sum()
        rank = float(torch.special.entr(share).sum().exp())
    return found | {"effective_rank": rank}


def ablate(predictions: Tables, published: dict, samples: int, seed: int) -> pd.DataFrame:
    """Score one trained model on all seven modality subsets.

    published : task -> subset -> published value. Returns a long table: subset, task, metric,
    value, low, high, n, published. n is smaller for FA alone, because only some subjects have it.
    For dx3, dx2 and sex also auc, auc_low, auc_high, and one_class: the class that everybody was
    given, or ''. There, no draw can change the value: an interval without width is no certainty.
    """
    rows = []
    for name, table in predictions.items():
        scored: dict[str, tuple] = {}
        for task, (truth, p, names) in heads(table).items():
            said, groups = p.argmax(axis=1), np.array(names)[truth]
            more = _auc_interval(p, truth, groups, samples, seed)
            more["one_class"] = names[said[0]] if len(np.unique(said)) == 1 else ""
            scored[task] = "balanced_accuracy", said == truth, groups, more
        for task, column in NUMBERS.items():
            error = (table[column] - table[f"{column}_pred"]).abs().dropna()
            scored[task] = "mae", error, None, {"one_class": ""}
        for task, (metric, values, groups, more) in scored.items():
            known = published.get(task, {}).get(name.replace("fa", "dti"))
            row: dict[str, Any] = {"subset": name, "task": task, "metric": metric}
            row |= bootstrap(values, groups, samples, seed)
            rows.append(row | {"n": len(values), "published": known} | more)
    return pd.DataFrame(rows)


def _auc_interval(
    p: np.ndarray, outcome: np.ndarray, groups: np.ndarray, samples: int, seed: int
) -> dict[str, Any]:
    """95 % interval of an AUC; a redraw within classes leaves everybody's class as it is."""
    truth = np.eye(p.shape[1], dtype=int)[outcome]
    draws = _auc(p[redraw(groups, samples, seed)], truth)
    low, high = np.percentile(draws, (2.5, 97.5))
    return {"auc": float(_auc(p, truth)), "auc_low": float(low), "auc_high": float(high)}


def hits(table: pd.DataFrame, task: str = "dx3") -> np.ndarray:
    """Which rows of a table of predictions have the right diagnosis, or 'sex': (n,) bool."""
    if task == "sex":
        return ((table["p_Male"] > 0.5) == (table["PTGENDER"] == "Male")).to_numpy()
    return np.array(DX)[table[_P3].to_numpy().argmax(axis=1)] == table["DX"].to_numpy()
