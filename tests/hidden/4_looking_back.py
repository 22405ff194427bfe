"""Wrap-up 4, looking back: hidden tests with their points, solutions, and mistakes."""

import numpy as np
from scipy.stats import binom

from memoir_book.exercises import agrees

FLIPS = np.array([[1, 1, 1, 1], [1, -1, 1, 1], [-1, -1, -1, 1], [-1, 1, -1, -1]])
FIRST, SECOND = np.array([1, 1, 1, 0]), np.array([0, 0, 0, 0])  # differ in 1, 1, 1, 0
VALUES = np.array([1.0, 3.0, np.nan, 50.0, np.nan, 60.0])
TRAIN = np.array([True, True, True, False, False, False])
DX = np.array(["CN", "MCI", "CN", "CN", "MCI", "MCI"])


def best_of(tries, people=60):
    """Expected accuracy of the best of some models that toss a coin for each of 60 people."""
    right = np.arange(people + 1)
    below = binom.cdf(right - 1, people, 0.5) ** tries
    return float((1 - below[1:]).sum() / people)  # E[X] = sum of P(X >= k)


def whole(x):
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


TASKS = {
    "flip_test": {
        "two models that never differ": (
            1,
            lambda f: agrees(f(FIRST, FIRST, FLIPS), 1.0),
        ),
        "both sides count": (1, lambda f: agrees(f(FIRST, SECOND, FLIPS), 3 / 5)),
        "the order of the models does not matter": (
            1,
            lambda f: agrees(f(SECOND, FIRST, FLIPS), 3 / 5),
        ),
        "no draw is as extreme": (1, lambda f: agrees(f(FIRST, SECOND, FLIPS[1:3]), 2 / 3)),
    },
    "filled": {
        "the mean of train people": (
            1,
            lambda f: agrees(f(VALUES, DX, TRAIN), [1.0, 3.0, 2.0, 50.0, 2.0, 60.0]),
        ),
        "other test people change nothing in train": (
            1,
            lambda f: agrees(
                f(np.where(TRAIN, VALUES, -7.0), DX, TRAIN), [1.0, 3.0, 2.0, -7.0, -7.0, -7.0]
            ),
        ),
        "exchanged diagnoses change nothing": (
            1,
            lambda f: agrees(f(VALUES, DX, TRAIN), f(VALUES, DX[::-1], TRAIN)),
        ),
    },
    "tries": {
        "coins reach 0.62": (2, lambda n: whole(n) and best_of(n) >= 0.62),
        "with few more than it takes": (
            1,
            lambda n: whole(n) and 0.61 <= best_of(n) <= 0.64,
        ),
    },
}


def flip_test(first, second, flips):
    gaps = np.asarray(first) - np.asarray(second)
    as_far = np.abs(flips @ gaps) >= abs(gaps.sum())
    return (1 + as_far.sum()) / (1 + len(flips))


def filled(values, dx, in_train):
    return np.where(np.isnan(values), np.nanmean(values[in_train]), values)


SOLUTIONS = {"flip_test": flip_test, "filled": filled, "tries": 25}


def one_sided(first, second, flips):
    gaps = first - second
    return (1 + (flips @ gaps >= gaps.sum()).sum()) / (1 + len(flips))


def may_be_zero(first, second, flips):
    gaps = first - second
    return (np.abs(flips @ gaps) >= abs(gaps.sum())).mean()


def strictly_farther(first, second, flips):
    gaps = first - second
    return (1 + (np.abs(flips @ gaps) > abs(gaps.sum())).sum()) / (1 + len(flips))


def mean_of_all(values, dx, in_train):
    return np.where(np.isnan(values), np.nanmean(values), values)


def with_labels_of_train(values, dx, in_train):
    found = values.copy()
    for name in set(dx):
        known = values[(dx == name) & in_train & ~np.isnan(values)]
        found[(dx == name) & np.isnan(values)] = known.sum() / max(len(known), 1)
    return found


MISTAKES = {
    "flip_test": [(one_sided, 1), (may_be_zero, 1), (strictly_farther, 0)],
    "filled": [(mean_of_all, 1), (with_labels_of_train, 0)],
    "tries": [(1, 0), (100_000, 2), (20.5, 0)],
}
