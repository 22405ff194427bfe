"""Wrap-up 1, data: hidden tests with their points, solutions, and mistakes that cost points."""

import numpy as np
import pandas as pd

from memoir_book.exercises import agrees

DAYS = [("a", 0, True), ("a", 400, True), ("b", 0, True), ("b", 370, False), ("c", 0, False)]


def table(*rows):
    return pd.DataFrame(rows, columns=["subject", "day", "scan"])


def shares(seed):
    """Shares of brain in the head: 200 whole volumes, then ten broken ones."""
    draw = np.random.default_rng(seed)
    far = draw.choice([-1, 1], 10) * draw.uniform(0.1, 0.3, 10)
    return np.concatenate([draw.normal(0.7, 0.02, 200), 0.7 + far]), np.arange(210) >= 200


def caught(limit, seed):
    """Shares of broken and of whole volumes that a limit of robust z flags."""
    values, broken = shares(seed)
    centre = np.median(values)
    z = np.abs(values - centre) / (1.4826 * np.median(np.abs(values - centre)))
    return (z[broken] > limit).mean(), (z[~broken] > limit).mean()


def every(limit, test):
    return all(test(*caught(limit, seed)) for seed in range(100, 110))


def keeps_its_table(answer):
    visits = table(*DAYS)
    before = visits.copy()
    answer(visits)
    return visits.equals(before)


TASKS = {
    "latest_scan": {
        "the later of two scans": (1, lambda f: f(table(*DAYS[:2])) == {"a": 400}),
        "the last visit has no scan": (1, lambda f: f(table(*DAYS[2:4])) == {"b": 0}),
        "rows in any order, people without a scan": (
            1,
            lambda f: agrees(f(table(*DAYS[::-1])), {"a": 400, "b": 0}),
        ),
        "the table that was given stays as it was": (
            1,
            lambda f: keeps_its_table(f) and len(f(table(*DAYS))) == 2,
        ),
    },
    "nearest_visit": {
        "a visit before and a visit after": (1, lambda f: f([0, 200], 190, 90) == 200),
        "none is near enough": (1, lambda f: f([0, 400], 200, 90) is None),
        "the last day that counts": (1, lambda f: f([0, 310, 500], 400, 90) == 310),
    },
    "limit": {
        "all broken volumes of ten other samples": (2, lambda x: every(x, lambda b, w: b == 1)),
        "at most 2 % of whole ones": (
            1,
            lambda x: every(x, lambda b, w: w <= 0.02 and b > 0),
        ),
    },
}


def latest_scan(visits):
    return visits[visits["scan"]].groupby("subject")["day"].max().to_dict()


def nearest_visit(days, scan, most):
    day = min(days, key=lambda day: abs(day - scan))
    return day if abs(day - scan) <= most else None


SOLUTIONS = {"latest_scan": latest_scan, "nearest_visit": nearest_visit, "limit": 3.5}


def last_visits(visits):
    last = visits.sort_values("day").groupby("subject").tail(1)
    return last[last["scan"]].set_index("subject")["day"].to_dict()


def in_order_of_rows(visits):
    return visits[visits["scan"]].groupby("subject")["day"].last().to_dict()


def in_place(visits):
    visits.drop(visits.index[~visits["scan"]], inplace=True)  # noqa: PD002
    return latest_scan(visits)


def any_distance(days, scan, most):
    return min(days, key=lambda day: abs(day - scan))


def strictly(days, scan, most):
    day = any_distance(days, scan, most)
    return day if abs(day - scan) < most else None


MISTAKES = {  # what a student may well write -> the points that are left
    "latest_scan": [(last_visits, 1), (in_order_of_rows, 3), (in_place, 3)],
    "nearest_visit": [(any_distance, 2), (strictly, 2)],
    "limit": [(1.5, 2), (40.0, 0), ("5", 0)],
}
