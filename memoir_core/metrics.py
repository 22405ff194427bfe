"""Metrics with 95 % stratified bootstrap intervals, baselines, and the seven-subset ablation.

The metrics are scikit-learn's, written for thousands of redraws; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, rankdata
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .config import DX, SCORES
from .data import Scaler

Metrics = dict[str, dict[str, float]]
_P3 = [f"p_{name}" for name in DX]


def task_metrics(table: pd.DataFrame) -> Metrics:
    """Compute the published metrics from a table of predictions (see `inference.predict`).

    Returns
    -------
    dx3, dx2, sex: balanced_accuracy, macro_f1, auc (dx3: one against the rest, mean over
    classes; dx2: CN against Dementia, MCI left out); age, cdrsb: mae (years, points) and r2.
    """
    p3 = table[_P3].to_numpy()
    ends = table[table["DX"] != "MCI"]
    return {
        "dx3": _classification(table["DX"].map(DX.index), p3 / p3.sum(axis=1, keepdims=True)),
        "dx2": _classification(ends["DX"] == "Dementia", _two(ends["p2_Dementia"])),
        "sex": _classification(table["PTGENDER"] == "Male", _two(table["p_Male"])),
        "age": _regression(table, "AGE"),
        "cdrsb": _regression(table, "CDRSB"),
    }


def _two(p: pd.Series) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


def _classification(outcome: pd.Series, p: np.ndarray) -> dict[str, float]:
    """Metrics of probabilities p (n, C) against true classes (n,) of 0..C-1."""
    truth, n = outcome.to_numpy().astype(int), p.shape[1]
    cells = np.bincount(truth * n + p.argmax(axis=1), minlength=n * n).reshape(n, n)
    auc = float("nan")
    if cells.sum(axis=1).all():  # a bootstrap draw of few subjects may lack a class
        ranks, is_class = rankdata(p, axis=0), truth[:, None] == np.arange(n)  # both (n, C)
        size = is_class.sum(axis=0)
        above = (ranks * is_class).sum(axis=0) - size * (size + 1) / 2
        auc = float((above / (size * (len(truth) - size))).mean())
    return from_confusion(cells) | {"auc": auc}


def _regression(table: pd.DataFrame, name: str) -> dict[str, float]:
    known = table[table[name].notna()]
    truth, error = known[name].to_numpy(), (known[f"{name}_pred"] - known[name]).to_numpy()
    spread = ((truth - truth.mean()) ** 2).sum()
    r2 = 1 - (error**2).sum() / spread if spread else float("nan")
    return {"mae": float(np.abs(error).mean()), "r2": float(r2)}


def composite(metrics: Metrics, scaler: Scaler) -> float:
    """The score that picks the checkpoint: diagnosis first, severity and age a little.

    Mean of the two diagnosis balanced accuracies, minus a tenth of the mean of the two
    errors in standard deviations.
    """
    diagnosis = (metrics["dx3"]["balanced_accuracy"] + metrics["dx2"]["balanced_accuracy"]) / 2
    age = metrics["age"]["mae"] / scaler.age_std
    cdrsb = metrics["cdrsb"]["mae"] / scaler.cdrsb_std
    return diagnosis - 0.1 * (age + cdrsb) / 2


def confusion(table: pd.DataFrame) -> np.ndarray:
    """Count true class (rows) against predicted class (columns), in the order of DX."""
    return confusion_matrix(table["DX"], _diagnosis(table), labels=list(DX))


def _diagnosis(table: pd.DataFrame) -> np.ndarray:
    return np.array(DX)[table[_P3].to_numpy().argmax(axis=1)]


def from_confusion(counts: Any) -> dict[str, float]:
    """Balanced accuracy and macro F1 of a confusion matrix (C, C): rows true, columns predicted.

    Balanced accuracy is the mean recall of the classes that are there; F1 counts those that are
    there or predicted.
    """
    cells = np.asarray(counts)
    true, predicted, right = cells.sum(axis=1), cells.sum(axis=0), cells.diagonal()
    recall = right[true > 0] / true[true > 0]
    f1 = 2 * right[true + predicted > 0] / (true + predicted)[true + predicted > 0]
    return {"balanced_accuracy": float(recall.mean()), "macro_f1": float(f1.mean())}


def calibration_error(truth: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of a probability (n,) against 0/1 outcomes (n,)."""
    which = np.clip((p * bins).astype(int), 0, bins - 1)
    rows = [which == b for b in np.unique(which)]
    return float(sum(abs(truth[r].mean() - p[r].mean()) * r.mean() for r in rows))


def redraw(groups: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Redraw subjects with replacement within their group: (n,) groups -> (samples, n) rows."""
    rng = np.random.default_rng([seed, 2])
    rows = np.empty((samples, len(groups)), int)
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        rows[:, own] = rng.choice(own, (samples, len(own)))
    return rows


def bootstrap(
    values: np.ndarray, groups: np.ndarray | None, samples: int, seed: int
) -> dict[str, float]:
    """95 % interval of a mean of group means, subjects redrawn within their group.

    Of hits (0 or 1) by true class, this is balanced accuracy. A difference between two models
    is paired: give the differences per subject.

    values : (n,) per-subject values: hits, absolute errors, or differences of these.
    groups : (n,) true class of each subject, or None for a plain mean.
    """
    values = np.asarray(values, float)
    groups = np.zeros(len(values)) if groups is None else np.asarray(groups)
    _, where, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    share = values / (sizes[where] * len(sizes))  # what each subject adds to the mean of means
    return _interval(share.sum(), share[redraw(groups, samples, seed)].sum(axis=1))


def bootstrap_metrics(table: pd.DataFrame, samples: int, seed: int) -> dict[str, dict[str, dict]]:
    """Add a 95 % interval to every metric of `task_metrics`, subjects redrawn within classes.

    Returns task -> metric -> {'value', 'low', 'high'}.
    """
    drawn = redraw(table["DX"].to_numpy(), samples, seed)
    draws = [task_metrics(table.iloc[rows]) for rows in drawn]
    return {
        task: {
            name: _interval(v, [draw[task][name] for draw in draws]) for name, v in found.items()
        }
        for task, found in task_metrics(table).items()
    }


def _interval(value: float, draws: Sequence[float] | np.ndarray) -> dict[str, float]:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def recall_at(a: Tensor, b: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """How often row i of b is among the k nearest of row i of a; (N, D) unit vectors each."""
    if not len(a):
        return {f"recall@{k}": float("nan") for k in ks}
    similarity = a @ b.T
    better = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
    return {f"recall@{k}": float((better < k).float().mean()) for k in ks}


def baselines(cohort: pd.DataFrame) -> Metrics:
    """Score what needs no network on the same split.

    'constant' predicts the most frequent class, or the train mean. 'logistic' is a logistic
    regression on the five scores and APOE4 (missing values imputed with train medians).
    """
    train, test = cohort[cohort["split"] != "test"], cohort[cohort["split"] == "test"]
    found: Metrics = {}
    features = [*SCORES, "APOE4"]
    for task, names in (("dx3", list(DX)), ("dx2", ["CN", "Dementia"])):
        fit, check = train[train["DX"].isin(names)], test[test["DX"].isin(names)]
        logistic = make_pipeline(
            SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(max_iter=2000)
        )
        for name, model in (("constant", DummyClassifier()), ("logistic", logistic)):
            predicted = model.fit(fit[features], fit["DX"]).predict(check[features])
            value = balanced_accuracy_score(check["DX"], predicted)
            found[f"{task} {name}"] = {"balanced_accuracy": float(value)}
    for task, column in (("age", "AGE"), ("cdrsb", "CDRSB")):
        error = (test[column] - train[column].mean()).abs().mean()
        found[f"{task} constant"] = {"mae": float(error)}
    return found


def ablate(
    predictions: dict[str, pd.DataFrame], published: dict[str, Any], samples: int, seed: int
) -> pd.DataFrame:
    """Score one trained model on all seven modality subsets.

    predictions : from `inference.predict_subsets`: encoded once, fused seven times.
    published : task -> subset -> published value.

    Returns a long table: subset, task, metric, value, low, high, n, published. n is smaller for
    FA alone, because only some subjects have it.
    """
    rows = []
    for name, table in predictions.items():
        for task, (metric, values, groups) in _per_subject(table).items():
            known = published.get(task, {}).get(name.replace("fa", "dti"))
            rows.append(
                {"subset": name, "task": task, "metric": metric}
                | bootstrap(values, groups, samples, seed)
                | {"n": len(values), "published": known}
            )
    return pd.DataFrame(rows)


def _per_subject(table: pd.DataFrame) -> dict[str, tuple[str, np.ndarray, np.ndarray | None]]:
    """Per task: metric name, hit or absolute error of each subject, and its true class."""
    ends = table[table["DX"] != "MCI"]
    two = np.where(ends["p2_Dementia"] > 0.5, "Dementia", "CN") == ends["DX"]
    age, cdrsb = ((table[c] - table[f"{c}_pred"]).abs().dropna() for c in ("AGE", "CDRSB"))
    return {
        "dx3": ("balanced_accuracy", hits(table), table["DX"].to_numpy()),
        "dx2": ("balanced_accuracy", two.to_numpy(), ends["DX"].to_numpy()),
        "sex": ("balanced_accuracy", sex_hits(table), table["PTGENDER"].to_numpy()),
        "age": ("mae", age.to_numpy(), None),
        "cdrsb": ("mae", cdrsb.to_numpy(), None),
    }


def subset_differences(
    predictions: dict[str, pd.DataFrame], samples: int, seed: int
) -> pd.DataFrame:
    """Compare each subset with all modalities on the same subjects, three-class diagnosis.

    Returns a row per smaller subset: n, difference in balanced accuracy (subset minus all) with
    a 95 % interval from paired redraws of subjects within each class, and `p`, an exact McNemar
    test of whether the two err equally often.
    """
    (_, whole), *others = predictions.items()
    rows = []
    for name, table in others:
        both = whole[["case", "DX"]].assign(all=hits(whole))
        both = both.merge(table[["case"]].assign(subset=hits(table)), on="case")
        gain = both["subset"].to_numpy(float) - both["all"].to_numpy(float)  # 1, 0 or -1
        won, lost = int((gain > 0).sum()), int((gain < 0).sum())
        found = bootstrap(gain, both["DX"].to_numpy(), samples, seed)
        p = binomtest(lost, won + lost).pvalue if won + lost else 1.0
        rows.append({"subset": name, "n": len(both), **found, "p": p})
    return pd.DataFrame(rows).rename(columns={"value": "difference"})


def hits(table: pd.DataFrame) -> np.ndarray:
    """Which rows of a table of predictions have the right three-class diagnosis: (n,) bool."""
    return _diagnosis(table) == table["DX"].to_numpy()


def sex_hits(table: pd.DataFrame) -> np.ndarray:
    """Which rows of a table of predictions have the right sex: (n,) bool."""
    return np.where(table["p_Male"] > 0.5, "Male", "Female") == table["PTGENDER"].to_numpy()


def majority(labels: Sequence[str]) -> str:
    """The most frequent label; on a tie, the one that comes first."""
    ordered = list(labels)
    return max(ordered, key=lambda name: (ordered.count(name), -ordered.index(name)))


def subgroups(table: pd.DataFrame, cohort: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Three-class balanced accuracy by sex, age band, APOE4 and whether there is an FA volume.

    table : predictions of `inference.predict` for some cases of `cohort`.
    Returns a row per group: group, value, low, high, n. Classes that a group lacks do not count.
    """
    record = cohort.loc[table["case"]].reset_index(drop=True)
    groups = {
        "women": record["PTGENDER"] == "Female",
        "men": record["PTGENDER"] == "Male",
        "under 70": record["AGE"] < 70,
        "70 to 79": record["AGE"].between(70, 80, inclusive="left"),
        "80 or older": record["AGE"] >= 80,
        "no APOE e4": record["APOE4"] == 0,
        "APOE e4": record["APOE4"] > 0,
        "with FA": record["has_fa"],
        "without FA": ~record["has_fa"],
    }
    right, dx = hits(table), table["DX"].to_numpy()
    masks = {name: chosen.to_numpy() for name, chosen in groups.items() if chosen.any()}
    return pd.DataFrame(
        {"group": name, **bootstrap(right[m], dx[m], samples, seed), "n": int(m.sum())}
        for name, m in masks.items()
    )
