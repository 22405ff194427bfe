"""Experiments that put a leak in on purpose and measure what it does to the result.

Most need no network: a leak in the records shows in a logistic regression as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from . import synthetic
from .cohort import build_cohort
from .config import SCORES
from .evaluation import bootstrap_ci, encode_all, hits, predict_from
from .training import MemoirDataset

RECORD = [*SCORES, "APOE4"]


def experiment(name: str, honest: dict[str, float], leaky: dict[str, float], n: int) -> dict:
    """One row of leakage.csv from two intervals {'value', 'low', 'high'}."""
    row: dict[str, Any] = {"experiment": name, "metric": "balanced_accuracy"}
    for kind, found in (("honest", honest), ("leaky", leaky)):
        row[kind] = found["value"]
        row[f"{kind}_low"], row[f"{kind}_high"] = found["low"], found["high"]
    return row | {"n": n}


def score_regression(
    cohort: pd.DataFrame, features: Sequence[str], samples: int, seed: int
) -> dict[str, float]:
    """Three-class balanced accuracy of a logistic regression on record fields.

    Fitted on train and validation part, tested on test. 'DX' among the features is allowed:
    it shows what a target among the inputs looks like.

    Returns
    -------
    value, low, high : with a 95 % bootstrap interval within each class.
    """
    inputs = cohort[[name for name in features if name != "DX"]].astype(float)
    if "DX" in features:
        inputs = inputs.join(pd.get_dummies(cohort["DX"], dtype=float))
    train = (cohort["split"] != "test").to_numpy()
    model = make_pipeline(
        SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(max_iter=2000)
    )
    model.fit(inputs[train], cohort["DX"][train])
    truth = cohort["DX"][~train].to_numpy()
    return bootstrap_ci(model.predict(inputs[~train]) == truth, truth, samples, seed)


def visit_split(visits: pd.DataFrame, by_subject: bool, seed: int, repeats: int = 5) -> np.ndarray:
    """Balanced accuracies when visits are split at random, or subjects are.

    A forest on scores, age, education and APOE4 can recognise a subject it has met at
    another visit; a split of visits lets it.

    Parameters
    ----------
    visits : from `cohort.read_adnimerge`: several rows per PTID.

    Returns
    -------
    (repeats,) one balanced accuracy per random split.
    """
    table = visits[visits["DX"].notna()]
    features = [c for c in (*RECORD, "AGE", "PTEDUCAT") if c in table]
    splitter: Any = (GroupShuffleSplit if by_subject else ShuffleSplit)(
        repeats, test_size=0.2, random_state=seed
    )
    scores = []
    for fit, check in splitter.split(table, groups=table["PTID"] if by_subject else None):
        forest = make_pipeline(
            SimpleImputer(strategy="median"),
            RandomForestClassifier(200, min_samples_leaf=1, random_state=seed, n_jobs=2),
        )
        forest.fit(table.iloc[fit][features], table.iloc[fit]["DX"])
        predicted = forest.predict(table.iloc[check][features])
        scores.append(balanced_accuracy_score(table.iloc[check]["DX"], predicted))
    return np.array(scores)


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, smallest and largest of repeated splits, in the form of an interval."""
    return {"value": values.mean(), "low": values.min(), "high": values.max()}


def drift_curve(drifts: Sequence[float], subjects: int, samples: int, seed: int) -> pd.DataFrame:
    """How well the scores alone tell the classes apart, by the synthetic cohort's mechanism.

    Writes synthetic tables (no images) per drift, the standard deviation between the severity
    that was diagnosed and the one at which the scores were taken, and fits a logistic
    regression. At 0, scores and diagnosis are of the same moment.

    Returns
    -------
    Columns drift, value, low, high.
    """
    rows = []
    for drift in drifts:
        with tempfile.TemporaryDirectory() as folder:
            synthetic.write_tables(Path(folder), subjects, 0.4, drift)
            cohort, _ = build_cohort(Path(folder), seed, check_images=False)
        rows.append({"drift": drift, **score_regression(cohort, RECORD, samples, seed)})
    return pd.DataFrame(rows)


def network_without(
    model: Any,
    cohort: pd.DataFrame,
    volumes: Any,
    scaler: Any,
    hide: tuple[str, ...],
    samples: int,
    seed: int,
) -> dict[str, float]:
    """Three-class balanced accuracy of the trained network with some scores hidden in the test."""
    data = MemoirDataset(cohort, volumes, scaler, "test", hide)
    table = predict_from(model, *encode_all(model, data), cohort, data.rows, scaler)
    return bootstrap_ci(hits(table), table["DX"].to_numpy(), samples, seed)


def checkpoint_choice(history: pd.DataFrame, chosen_by: str = "composite") -> pd.DataFrame:
    """Test result of the epoch that validation chose, and of the epoch that the test chose.

    Returns
    -------
    Two rows: chosen on, epoch, dx3 balanced accuracy on test.
    """
    column = "test_dx3_balanced_accuracy"
    places = [int(history[by].to_numpy().argmax()) for by in (chosen_by, column)]
    chosen = history.iloc[places][["epoch", column]].reset_index(drop=True)
    chosen.insert(0, "chosen on", ["validation", "test"])
    return chosen
