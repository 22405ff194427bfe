"""What needs no network, scored on the same split."""

import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from memoir_core.config import DX, SCORES
from memoir_core.metrics import NUMBERS, Metrics


def baselines(cohort: pd.DataFrame) -> Metrics:
    """Score 'constant', which says the most frequent class or the train mean, and 'logistic'.

    That is a regression on the five scores and APOE4 (missing values: train medians).
    """
    train, test = cohort[cohort["split"] != "test"], cohort[cohort["split"] == "test"]
    found: Metrics = {}
    features = [*SCORES, "APOE4"]
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    logistic = make_pipeline(fill, StandardScaler(), LogisticRegression(max_iter=2000))
    for task, names in (("dx3", DX), ("dx2", ("CN", "Dementia"))):
        fit, check = (part[part["DX"].isin(names)] for part in (train, test))
        predicted = logistic.fit(fit[features], fit["DX"]).predict(check[features])
        value = float(balanced_accuracy_score(check["DX"], predicted))
        found[f"{task} constant"] = {"balanced_accuracy": 1 / len(names)}
        found[f"{task} logistic"] = {"balanced_accuracy": value}
    for task, column in NUMBERS.items():
        if len(error := (test[column] - train[column].mean()).abs().dropna()):
            found[f"{task} constant"] = {"mae": float(error.mean())}
    return found
