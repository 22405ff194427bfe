"""Predictions, metrics with intervals, baselines, and the seven-subset ablation.

Metrics are scikit-learn's. Every headline comes with a 95 % stratified bootstrap interval.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    mean_absolute_error,
    r2_score,
    recall_score,
    roc_auc_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import DataLoader

from .config import DX, EMBEDDING_DIM, MODALITIES, SCORES, SUBSETS

if TYPE_CHECKING:
    from .model import Memoir
    from .training import MemoirDataset, Scaler

Metrics = dict[str, dict[str, float]]


# --- predictions ------------------------------------------------------------------------


@torch.no_grad()
def encode_all(model: Memoir, data: MemoirDataset, batch_size: int = 16) -> tuple[Tensor, Tensor]:
    """Encode every modality of every subject once.

    Returns
    -------
    embeddings (n, 3, 512) and present (n, 3), on the CPU.
    """
    device = next(model.parameters()).device
    model.eval()
    embeddings, present = [], []
    for batch in DataLoader(data, batch_size):
        batch = {name: value.to(device) for name, value in batch.items()}
        embeddings.append(model.encode(batch).float().cpu())
        present.append(batch["present"].cpu())
    return torch.cat(embeddings), torch.cat(present)


def restrict(present: Tensor, subset: Sequence[str]) -> Tensor:
    """Mask all modalities but `subset`: (n, 3) bool -> (n, 3) bool.

    Raises
    ------
    ValueError
        An empty subset, or a name that is no modality.
    """
    unknown = [name for name in subset if name not in MODALITIES]
    if unknown or not subset:
        raise ValueError(f"subset={tuple(subset)!r}: choose one or more of {', '.join(MODALITIES)}")
    return present & torch.tensor([name in subset for name in MODALITIES])


@torch.no_grad()
def fuse_all(
    model: Memoir, embeddings: Tensor, present: Tensor, subset: Sequence[str] = MODALITIES
) -> dict[str, Tensor]:
    """Fuse ready embeddings from a subset; outputs are NaN for rows that have nothing in it."""
    device = next(model.parameters()).device
    model.eval()
    present = restrict(present, subset)
    some = present.any(dim=1)
    out = model.fuse(embeddings[some].to(device), present[some].to(device))
    full = {}
    for name, value in out.items():
        if name in ("embeddings", "present"):
            continue
        rows = torch.full((len(present), *value.shape[1:]), float("nan"))
        rows[some] = value.float().cpu()
        full[name] = rows
    return full


def predict_from(
    model: Memoir,
    embeddings: Tensor,
    present: Tensor,
    cohort: pd.DataFrame,
    cases: np.ndarray,
    scaler: Scaler,
    subset: Sequence[str] = MODALITIES,
) -> pd.DataFrame:
    """Predict all five tasks from ready embeddings.

    Returns
    -------
    One row per case: truth (DX, PTGENDER, AGE, CDRSB) and prediction (p_CN, p_MCI,
    p_Dementia, p2_Dementia, p_Male, AGE_pred in years, CDRSB_pred in points). Cases without
    any modality of `subset` are left out.
    """
    out = fuse_all(model, embeddings, present, subset)
    table = cohort.loc[cases, ["case", "DX", "PTGENDER", "AGE", "CDRSB"]].reset_index(drop=True)
    table[[f"p_{name}" for name in DX]] = out["dx3"].softmax(dim=1).double().numpy()
    table["p2_Dementia"] = out["dx2"].softmax(dim=1)[:, 1].double().numpy()
    table["p_Male"] = out["sex"].softmax(dim=1)[:, 1].double().numpy()
    table["AGE_pred"] = out["age"].double().numpy() * scaler.age_std + scaler.age_mean
    table["CDRSB_pred"] = out["cdrsb"].double().numpy() * scaler.cdrsb_std + scaler.cdrsb_mean
    return table[table["p_CN"].notna()].reset_index(drop=True)


# --- metrics ----------------------------------------------------------------------------


def task_metrics(table: pd.DataFrame) -> Metrics:
    """Compute the published metrics from a table of predictions (see `predict_from`).

    Returns
    -------
    dx3, dx2, sex: balanced_accuracy, macro_f1, auc (dx3: one against the rest, mean over
    classes; dx2: CN against Dementia, MCI left out); age, cdrsb: mae (years, points) and r2.
    """
    classes = {name: i for i, name in enumerate(DX)}
    dx3 = table["DX"].map(classes).to_numpy()
    p3 = table[[f"p_{name}" for name in DX]].to_numpy()
    ends = (table["DX"] != "MCI").to_numpy()
    known, aged = table[table["CDRSB"].notna()], table[table["AGE"].notna()]
    return {
        "dx3": _classification(dx3, p3 / p3.sum(axis=1, keepdims=True)),
        "dx2": _classification(
            (dx3[ends] == 2).astype(int), _two(table["p2_Dementia"].to_numpy()[ends])
        ),
        "sex": _classification(
            (table["PTGENDER"] == "Male").to_numpy().astype(int), _two(table["p_Male"].to_numpy())
        ),
        "age": _regression(aged["AGE"].to_numpy(), aged["AGE_pred"].to_numpy()),
        "cdrsb": _regression(known["CDRSB"].to_numpy(), known["CDRSB_pred"].to_numpy()),
    }


def _two(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


def _classification(truth: np.ndarray, p: np.ndarray) -> dict[str, float]:
    predicted = p.argmax(axis=1)
    score = p[:, 1] if p.shape[1] == 2 else p
    whole = len(np.unique(truth)) == p.shape[1]  # an AUC needs every class
    return {
        # Balanced accuracy is the mean recall of the classes that are there (a bootstrap draw
        # of few subjects may lack one).
        "balanced_accuracy": float(
            recall_score(truth, predicted, labels=np.unique(truth), average="macro")
        ),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        "auc": float(roc_auc_score(truth, score, multi_class="ovr")) if whole else float("nan"),
    }


def _regression(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        "mae": float(mean_absolute_error(truth, predicted)),
        "r2": float(r2_score(truth, predicted)),
    }


def confusion(table: pd.DataFrame) -> np.ndarray:
    """Count true class (rows) against predicted class (columns), in the order of DX."""
    predicted = np.array(DX)[table[[f"p_{name}" for name in DX]].to_numpy().argmax(axis=1)]
    return confusion_matrix(table["DX"], predicted, labels=list(DX))


def from_confusion(counts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Recompute balanced accuracy and macro F1 from a confusion matrix alone."""
    cells = np.asarray(counts)
    truth = np.repeat(np.arange(len(cells)), cells.sum(axis=1))
    predicted = np.concatenate([np.repeat(np.arange(len(cells)), row) for row in cells])
    return {
        "balanced_accuracy": float(balanced_accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, average="macro")),
    }


def calibration_error(truth: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of a probability (n,) against 0/1 outcomes (n,)."""
    which = np.clip((p * bins).astype(int), 0, bins - 1)
    gaps = [
        abs(truth[which == b].mean() - p[which == b].mean()) * (which == b).mean()
        for b in np.unique(which)
    ]
    return float(sum(gaps))


def bootstrap(table: pd.DataFrame, samples: int, seed: int) -> dict[str, dict[str, dict]]:
    """Add a 95 % interval to every metric: subjects are redrawn within each diagnosis.

    Returns
    -------
    task -> metric -> {'value', 'low', 'high'}.
    """
    rng = np.random.default_rng([seed, 2])
    groups = [np.flatnonzero(table["DX"] == name) for name in DX]
    draws = []
    for _ in range(samples):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups if len(group)])
        draws.append(task_metrics(table.iloc[rows]))
    point = task_metrics(table)
    return {
        task: {
            name: _interval(value, [draw[task][name] for draw in draws])
            for name, value in found.items()
        }
        for task, found in point.items()
    }


def _interval(value: float, draws: Sequence[float] | np.ndarray) -> dict[str, float]:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def bootstrap_ci(
    values: np.ndarray, groups: np.ndarray | None, samples: int, seed: int
) -> dict[str, float]:
    """Interval of a mean, or of a mean of group means (balanced accuracy, given 0/1 hits).

    Parameters
    ----------
    values : (n,) per-subject values: 1 for a hit and 0 for a miss, or absolute errors.
    groups : (n,) true class of each subject, or None for a plain mean.
    """
    value, draws = redraw(values, groups, samples, seed)
    return _interval(float(value), draws)


def redraw(
    values: np.ndarray, groups: np.ndarray | None, samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap a mean of group means: subjects are redrawn within their group.

    Parameters
    ----------
    values : (n,) or (n, k) per-subject values; the k columns get the same redrawn subjects, so
        that differences between columns are paired.
    groups : (n,) group of each subject, or None for a plain mean.

    Returns
    -------
    value () or (k,), and draws (samples,) or (samples, k).
    """
    rng = np.random.default_rng([seed, 3])
    groups = np.zeros(len(values)) if groups is None else np.asarray(groups)
    parts = [values[groups == group].astype(float) for group in np.unique(groups)]
    draws = [part[rng.integers(0, len(part), (samples, len(part)))].mean(axis=1) for part in parts]
    return np.mean([part.mean(axis=0) for part in parts], axis=0), np.mean(draws, axis=0)


def recall_at(a: Tensor, b: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """How often row i of b is among the k nearest of row i of a; (N, D) unit vectors each."""
    if not len(a):
        return {f"recall@{k}": float("nan") for k in ks}
    similarity = a @ b.T
    better = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
    return {f"recall@{k}": float((better < k).float().mean()) for k in ks}


# --- baselines and ablation -------------------------------------------------------------


def baselines(cohort: pd.DataFrame) -> Metrics:
    """Score what needs no network on the same split.

    'constant' predicts the most frequent class, or the train mean. 'logistic' is a logistic
    regression on the five scores and APOE4 (missing values imputed with train medians).
    """
    train, test = cohort[cohort["split"] != "test"], cohort[cohort["split"] == "test"]
    found: Metrics = {}
    features = [*SCORES, "APOE4"]
    pick = {"dx3": list(DX), "dx2": ["CN", "Dementia"]}
    for task, names in pick.items():
        fit, check = train[train["DX"].isin(names)], test[test["DX"].isin(names)]
        logistic = make_pipeline(
            SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(max_iter=2000)
        )
        for name, model in (("constant", DummyClassifier()), ("logistic", logistic)):
            model.fit(fit[features], fit["DX"])
            found[f"{task} {name}"] = {
                "balanced_accuracy": float(
                    balanced_accuracy_score(check["DX"], model.predict(check[features]))
                )
            }
    for task, column in (("age", "AGE"), ("cdrsb", "CDRSB")):
        error = (test[column] - train[column].mean()).abs().mean()
        found[f"{task} constant"] = {"mae": float(error)}
    return found


def ablate(
    model: Memoir,
    data: MemoirDataset,
    cohort: pd.DataFrame,
    scaler: Scaler,
    published: dict[str, Any],
    samples: int,
    seed: int,
) -> pd.DataFrame:
    """Evaluate one trained model on all seven modality subsets.

    Each modality is encoded once; the rest is fused seven times with the others masked.

    Returns
    -------
    Long table: subset, task, metric, value, low, high, n, published. n is smaller for FA
    alone, because only some subjects have it.
    """
    embeddings, present = encode_all(model, data)
    rows = []
    for subset in SUBSETS:
        table = predict_from(model, embeddings, present, cohort, data.rows, scaler, subset)
        name = "+".join(subset)
        for task, (metric, values, groups) in _per_subject(table).items():
            interval = bootstrap_ci(values, groups, samples, seed)
            known = published.get(task, {}).get(name.replace("fa", "dti"))
            rows.append(
                {"subset": name, "task": task, "metric": metric}
                | interval
                | {"n": len(values), "published": known}
            )
    return pd.DataFrame(rows)


def _per_subject(table: pd.DataFrame) -> dict[str, tuple[str, np.ndarray, np.ndarray | None]]:
    """Per task: metric name, hit or absolute error of each subject, and its true class."""
    dx = table["DX"].to_numpy()
    ends = dx != "MCI"
    two = np.where(table["p2_Dementia"] > 0.5, "Dementia", "CN")
    cdrsb = (table["CDRSB"] - table["CDRSB_pred"]).abs().dropna().to_numpy()
    return {
        "dx3": ("balanced_accuracy", hits(table), dx),
        "dx2": ("balanced_accuracy", (two == dx)[ends], dx[ends]),
        "sex": ("balanced_accuracy", sex_hits(table), table["PTGENDER"].to_numpy()),
        "age": ("mae", (table["AGE"] - table["AGE_pred"]).abs().dropna().to_numpy(), None),
        "cdrsb": ("mae", cdrsb, None),
    }


def predict_subsets(
    model: Memoir,
    embeddings: Tensor,
    present: Tensor,
    cohort: pd.DataFrame,
    cases: np.ndarray,
    scaler: Scaler,
) -> dict[str, pd.DataFrame]:
    """Predict from each of the seven subsets: 't1+fa+clinical' -> table of `predict_from`."""
    return {
        "+".join(subset): predict_from(model, embeddings, present, cohort, cases, scaler, subset)
        for subset in SUBSETS
    }


def subset_differences(
    predictions: dict[str, pd.DataFrame], samples: int, seed: int
) -> pd.DataFrame:
    """Compare each subset with all modalities on the same subjects, three-class diagnosis.

    Returns
    -------
    One row per smaller subset: n, difference in balanced accuracy (subset minus all) with a
    95 % interval from paired redraws of subjects within each class, and `p`, an exact McNemar
    test of whether the two err equally often.
    """
    (_, whole), *others = predictions.items()
    rows = []
    for name, table in others:
        both = (
            whole[["case", "DX"]]
            .assign(all=hits(whole))
            .merge(table[["case"]].assign(subset=hits(table)), on="case")
        )
        right = both[["subset", "all"]].to_numpy(float)
        value, draws = redraw(right, both["DX"].to_numpy(), samples, seed)
        only_all = int((right[:, 1] > right[:, 0]).sum())
        only_subset = int((right[:, 0] > right[:, 1]).sum())
        unequal = only_all + only_subset
        rows.append(
            {
                "subset": name,
                "n": len(both),
                **_interval(float(value[0] - value[1]), draws[:, 0] - draws[:, 1]),
                "p": binomtest(only_all, unequal).pvalue if unequal else 1.0,
            }
        )
    return pd.DataFrame(rows).rename(columns={"value": "difference"})


def hits(table: pd.DataFrame) -> np.ndarray:
    """Which rows of a table of predictions have the right three-class diagnosis: (n,) bool."""
    predicted = np.array(DX)[table[[f"p_{name}" for name in DX]].to_numpy().argmax(axis=1)]
    return predicted == table["DX"].to_numpy()


def sex_hits(table: pd.DataFrame) -> np.ndarray:
    """Which rows of a table of predictions have the right sex: (n,) bool."""
    return np.where(table["p_Male"] > 0.5, "Male", "Female") == table["PTGENDER"].to_numpy()


def majority(labels: Sequence[str]) -> str:
    """The most frequent label; on a tie, the one that comes first."""
    ordered = list(labels)
    return max(ordered, key=lambda name: (ordered.count(name), -ordered.index(name)))


def subgroups(table: pd.DataFrame, cohort: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Three-class balanced accuracy by sex, age band, APOE4 and whether there is an FA volume.

    Parameters
    ----------
    table : predictions of `predict_from` for some cases of `cohort`.

    Returns
    -------
    One row per group: group, value, low, high, n. Classes that a group lacks do not count.
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
    rows = []
    for name, chosen in groups.items():
        mask = chosen.to_numpy()
        if mask.any():
            found = bootstrap_ci(right[mask], dx[mask], samples, seed)
            rows.append({"group": name, **found, "n": int(mask.sum())})
    return pd.DataFrame(rows)


# --- where does T1 matter? --------------------------------------------------------------


class T1Only(torch.nn.Module):
    """A trained model as a function of the T1 volume alone: (B, 1, X, Y, Z) -> (B, 3)."""

    def __init__(self, model: Memoir) -> None:
        super().__init__()
        self.model = model

    def forward(self, volume: Tensor) -> Tensor:
        n = len(volume)
        embeddings = torch.zeros(n, len(MODALITIES), EMBEDDING_DIM, device=volume.device)
        embeddings[:, 0] = self.model.t1(volume).float()
        present = torch.zeros(n, len(MODALITIES), dtype=torch.bool, device=volume.device)
        present[:, 0] = True
        return self.model.fuse(embeddings, present)["dx3"].softmax(dim=1)


def occlusion_maps(
    model: Memoir, volumes: dict[str, np.ndarray], mask_mm: float, voxel_mm: float
) -> dict[str, np.ndarray]:
    """How much the probability of each class's own diagnosis falls when a region is hidden.

    MONAI's OcclusionSensitivity, averaged over the subjects of a class.

    Parameters
    ----------
    volumes : class -> (n, X, Y, Z) T1 volumes of subjects of that class.
    mask_mm : size of the hidden cube.

    Returns
    -------
    class -> (X, Y, Z) fall of probability; positive where hiding hurts.
    """
    from monai.visualize import OcclusionSensitivity

    device = next(model.parameters()).device
    size = max(4, round(mask_mm / voxel_mm))
    sensitivity = OcclusionSensitivity(
        T1Only(model).eval(),
        mask_size=size,
        n_batch=16,
        overlap=0.3,
        activate=False,  # MONAI's activation is a sigmoid; these are probabilities already
        verbose=False,
    )
    warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)  # MONAI's slices
    maps = {}
    for name, group in volumes.items():
        falls = []
        for volume in group:
            x = torch.from_numpy(np.asarray(volume, np.float32))[None, None].to(device)
            with torch.no_grad():
                whole = T1Only(model)(x)[0, DX.index(name)]
                occluded, _ = sensitivity(x)  # (1, 3, X, Y, Z) probabilities
            falls.append((whole - occluded[0, DX.index(name)]).cpu().numpy())
        maps[name] = np.mean(falls, axis=0)
    return maps
