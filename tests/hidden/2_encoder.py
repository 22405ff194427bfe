"""Wrap-up 2, the encoder: hidden tests with their points, solutions, and mistakes."""

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from memoir_book.exercises import agrees

APART = np.arange(3)  # three subjects, one visit each
LOGS = np.log([[4.0, 1, 3], [2, 5, 2], [1, 1, 6]])


def one(row, *columns):
    """- log of the softmax at the first of some columns of LOGS."""
    weights = np.exp(LOGS[row, list(columns)])
    return -np.log(weights[0] / weights.sum())


FIRST_TWO = np.mean([one(0, 0, 2), one(1, 1, 2), one(2, 2, 0, 1)])


def sample(seed):
    """What a model of T1 alone says of 90 CN and 60 people with dementia: P(dementia), truth."""
    draw, sick = np.random.default_rng(seed), np.arange(150) >= 90
    logit = np.where(sick, 2.9, 1.1) + draw.normal(0, 0.75, 150)
    return 1 / (1 + np.exp(-logit)), sick


def scores(threshold):
    found = [sample(seed) for seed in range(100, 110)]
    return [balanced_accuracy_score(sick, p > threshold) for p, sick in found]


TASKS = {
    "contrastive_loss": {
        "vectors that know nothing": (
            1,
            lambda f: agrees(f(np.zeros((5, 5)), np.arange(5), 0.1), np.log(5)),
        ),
        "three people": (
            1,
            lambda f: agrees(
                f(LOGS, APART, 1.0), np.mean([one(0, 0, 1, 2), one(1, 1, 0, 2), one(2, 2, 0, 1)])
            ),
        ),
        "two visits of one person": (
            1,
            lambda f: agrees(f(LOGS, np.array([0, 0, 1]), 1.0), FIRST_TWO),
        ),
        "a small temperature": (
            1,
            lambda f: agrees(f(np.eye(4) * 0.9, np.arange(4), 0.001), 0.0),
        ),
    },
    "masked_error": {
        "one of three is not known": (
            1,
            lambda f: agrees(f(np.array([1.0, 2, 3]), np.array([0.0, np.nan, 5])), 1.5),
        ),
        "nobody is known": (
            1,
            lambda f: agrees(f(np.array([1.0, 2]), np.array([np.nan, np.nan])), 0.0),
        ),
        "a true value of 0 counts": (
            1,
            lambda f: agrees(f(np.array([2.0, 9, 4]), np.array([0.0, np.nan, 0])), 3.0),
        ),
    },
    "threshold": {
        "0.85 in the mean of ten test parts": (2, lambda x: np.mean(scores(x)) >= 0.85),
        "0.80 in the worst of them": (1, lambda x: min(scores(x)) >= 0.8),
    },
}


def contrastive_loss(cosines, subjects, tau):
    own = np.eye(len(cosines), dtype=bool)
    other = subjects[:, None] != subjects[None, :]
    logits = np.where(own | other, cosines / tau, -np.inf)
    top = logits.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float((total - np.diag(logits)).mean())


def masked_error(predicted, truth):
    known = ~np.isnan(truth)
    return float(np.abs(predicted - truth)[known].mean()) if known.any() else 0.0


SOLUTIONS = {"contrastive_loss": contrastive_loss, "masked_error": masked_error, "threshold": 0.88}


def overflows(cosines, subjects, tau):
    with np.errstate(all="ignore"):
        weights = np.exp(cosines / tau)
        weights = weights * (np.eye(len(weights)) + (subjects[:, None] != subjects))
        return float(-np.log(np.diag(weights) / weights.sum(axis=1)).mean())


def pushes_the_same_person_away(cosines, subjects, tau):
    return contrastive_loss(cosines, np.arange(len(subjects)), tau)


def forgets_tau(cosines, subjects, tau):
    return contrastive_loss(cosines, subjects, 1.0)


def zero_is_unknown(predicted, truth):
    known = np.nan_to_num(truth) > 0
    return float(np.abs(predicted - truth)[known].mean()) if known.any() else 0.0


MISTAKES = {
    "contrastive_loss": [(overflows, 3), (pushes_the_same_person_away, 3), (forgets_tau, 3)],
    "masked_error": [(zero_is_unknown, 1)],
    "threshold": [(0.5, 0), (0.99, 0)],
}
