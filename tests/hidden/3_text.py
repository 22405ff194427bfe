"""Wrap-up 3, text and retrieval: hidden tests with their points, solutions, and mistakes."""

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from memoir_book.exercises import agrees

COSINES = np.array([[0.9, 0.2, 0.5], [0.1, 0.3, 0.4], [0.6, 0.7, 0.8]])
RELEVANT = np.array([[False, True, True], [False, False, True], [True, False, False]])
WOMAN = {"age": 72, "sex": "woman", "mmse": 24}


def people(seed):
    """Embeddings (n, 2) of 240 people and their classes, 0 to 2."""
    draw = np.random.default_rng(seed)
    truth = draw.choice(3, 240, p=[0.4, 0.4, 0.2])
    return draw.normal(0, 1, (240, 2)) + 1.9 * np.stack([truth, np.zeros(240)], axis=1), truth


def accuracy(k):
    """Of k neighbours, in the mean of ten samples that the notebook does not show."""
    found = []
    for seed in range(100, 110):
        x, truth = people(seed)
        model = KNeighborsClassifier(k).fit(x[:120], truth[:120])
        found.append((model.predict(x[120:]) == truth[120:]).mean())
    return np.mean(found)


TASKS = {
    "mean_reciprocal_rank": {
        "three queries": (
            1,
            lambda f: agrees(f(COSINES, RELEVANT), np.mean([1 / 2, 1, 1 / 3])),
        ),
        "the first relevant one counts, not all": (
            1,
            lambda f: agrees(f(COSINES[:1], RELEVANT[:1]), 1 / 2),
        ),
        "nothing is relevant": (
            1,
            lambda f: agrees(f(COSINES[:2], RELEVANT[:2] & [[True], [False]]), 0.25),
        ),
        "a negative cosine has its rank, too": (
            1,
            lambda f: agrees(f(np.array([[-0.2, -0.9]]), np.array([[False, True]])), 0.5),
        ),
    },
    "caption": {
        "blind: MCI": (
            1,
            lambda f: f(WOMAN | {"dx": "MCI"}, blind=True) == "72-year-old woman, MMSE 24.",
        ),
        "blind: who differs in the diagnosis reads alike": (
            1,
            lambda f: (
                len({f(WOMAN | {"dx": dx}, blind=True) for dx in ("CN", "MCI", "Dementia")}) == 1
            ),
        ),
        "what is not blind names the diagnosis, and blind it does not": (
            1,
            lambda f: (
                f(WOMAN | {"dx": "MCI"}) == "72-year-old woman, with MCI, MMSE 24."
                and f(WOMAN | {"dx": "CN"}) == "72-year-old woman, MMSE 24."
                and "diagnosis" not in f(WOMAN | {"dx": "MCI"}, blind=True)
            ),
        ),
    },
    "neighbours": {
        "0.72 on ten other samples": (1, lambda k: accuracy(k) >= 0.72),
        "0.74 on them": (2, lambda k: accuracy(k) >= 0.74),
    },
}


def mean_reciprocal_rank(cosines, relevant):
    order = np.argsort(-cosines, axis=1)
    hits = np.take_along_axis(relevant, order, axis=1)
    return float(np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0).mean())


def caption(record, blind=False):
    parts = [f"{record['age']}-year-old {record['sex']}"]
    if record["dx"] != "CN" and not blind:
        parts.append(f"with {record['dx']}")
    parts.append(f"MMSE {record['mmse']}")
    return ", ".join(parts) + "."


SOLUTIONS = {
    "mean_reciprocal_rank": mean_reciprocal_rank,
    "caption": caption,
    "neighbours": 15,
}


def worst_first(cosines, relevant):
    return mean_reciprocal_rank(-cosines, relevant)


def counts_from_zero(cosines, relevant):
    hits = np.take_along_axis(relevant, np.argsort(-cosines, axis=1), axis=1)
    return float((1 / np.maximum(hits.argmax(axis=1), 1)).mean())


def nothing_is_first(cosines, relevant):
    hits = np.take_along_axis(relevant, np.argsort(-cosines, axis=1), axis=1)
    return float((1 / (hits.argmax(axis=1) + 1)).mean())


def never_says_it(record, blind=False):
    return caption(record, blind=True)


def says_withheld(record, blind=False):
    said = "MCI" if record["dx"] == "MCI" and not blind else "a diagnosis" if blind else ""
    parts = [f"{record['age']}-year-old {record['sex']}", f"with {said}" if said else ""]
    return ", ".join(filter(None, [*parts, f"MMSE {record['mmse']}"])) + "."


MISTAKES = {
    "mean_reciprocal_rank": [(worst_first, 0), (counts_from_zero, 0), (nothing_is_first, 3)],
    "caption": [(never_says_it, 2), (says_withheld, 1)],
    "neighbours": [(1, 0), (5, 1), (119, 0), (None, 0)],
}
