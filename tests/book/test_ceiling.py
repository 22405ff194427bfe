"""The ceiling against closed forms, and against models that learned from many more people."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import balanced_accuracy_score

from memoir_book import ceiling
from memoir_core.config import SUBSETS
from synthetic_adni import tables


@pytest.fixture(scope="module")
def found():
    return ceiling.ceilings(n=2400)


def test_every_subset_and_head_has_one(found):
    assert list(found) == ["+".join(subset) for subset in SUBSETS]
    for of in found.values():
        assert set(of) == {"dx3", "dx2", "sex", "age", "cdrsb"}


def test_more_inputs_never_hurt(found):
    for small in SUBSETS:
        for large in SUBSETS:
            if set(small) < set(large):
                low, high = found["+".join(small)], found["+".join(large)]
                assert high["dx3"]["auc"] > low["dx3"]["auc"] - 0.005
                assert high["dx2"]["auc"] > low["dx2"]["auc"] - 0.005
                assert high["age"]["mae"] < low["age"]["mae"] + 0.05
                assert high["sex"]["balanced_accuracy"] >= low["sex"]["balanced_accuracy"]


def test_one_number_of_an_image_has_a_closed_form(monkeypatch):
    """A T1 that shows the atrophy and its noise, nothing else: two Gaussians of known distance."""
    monkeypatch.setitem(ceiling.ROWS, "t1", {2})
    auc = ceiling.ceilings(n=2400)["t1"]["dx2"]["auc"]
    spread = np.sqrt(tables.CLASS_SPREAD**2 + tables.BRAIN_DRIFT**2 + ceiling.T1_NOISE**2)
    distance = tables.CLASS_SEVERITY["Dementia"] - tables.CLASS_SEVERITY["CN"]
    assert auc == pytest.approx(norm.cdf(distance / spread / np.sqrt(2)), abs=0.015)


def test_without_drift_the_scores_nearly_define_the_class(found):
    defined = ceiling.ceilings(drift=0.0, n=1200)["clinical"]
    assert defined["dx2"]["balanced_accuracy"] > 0.99
    assert defined["dx3"]["balanced_accuracy"] > found["clinical"]["dx3"]["balanced_accuracy"] + 0.1


def test_a_model_that_learned_from_many_comes_near_and_not_above(found):
    """The scores of people that the generator wrote: a check that the oracle knows its rules."""
    merged, _, latents = tables.make_tables(2500, 0.4)
    last = latents.drop_duplicates("PTID", keep="last")[["PTID", "VISCODE"]]
    people = merged.drop_duplicates(["PTID", "VISCODE"]).merge(last)
    people = people[people["DX"].isin(tables.DX)]
    x, y = people[[*tables.SCORES, "APOE4"]].astype(float), people["DX"]
    train = np.arange(len(people)) % 2 == 0
    trees = HistGradientBoostingClassifier(
        class_weight="balanced", max_iter=60, learning_rate=0.05, random_state=0
    ).fit(x[train], y[train])
    learned = balanced_accuracy_score(y[~train], trees.predict(x[~train]))
    error = 2.5 * np.sqrt(0.2 * (1 / 1250 + 1 / 2400))
    best = found["clinical"]["dx3"]["balanced_accuracy"]
    assert best - 0.05 < learned < best + error, (learned, best)


def test_sex_is_known_as_far_as_the_head_shape_tells_it(found):
    assert found["t1"]["sex"]["balanced_accuracy"] == pytest.approx(0.559, abs=0.001)
    assert found["clinical"]["sex"]["balanced_accuracy"] == 0.5


def test_without_images_age_is_the_constants_error(found):
    constant = np.mean([spread for _, spread in tables.AGE.values()]) * np.sqrt(2 / np.pi)
    assert found["clinical"]["age"]["mae"] == pytest.approx(constant, abs=0.25)
