"""Chapter 11's ComBat: as the reference implementation, and what it takes out and leaves in."""

import numpy as np
import pytest
from ideas import idea

combat = idea("11", "def combat", **idea("11", "def shrink", np=np))["combat"]


def test_numbers_of_the_reference_implementation():
    """Made once by neuroCombat (github.com/Jfortin1/neuroCombat), whose search ends at 1e-4."""
    t = np.arange(12.0)
    x = np.stack([np.sin(t), np.cos(2 * t) + t / 6, t % 5], axis=1)
    batch, covariates = np.array(list("aaaabbbbcccc")), t[:, None] % 3
    x[batch == "b"] = 2 * x[batch == "b"] + 3
    out = combat(x, batch, covariates, np.ones(12, bool))
    expected = [
        [0.29928, 2.85053, 1.28339],
        [0.50182, 3.47858, 5.50836],
        [0.92300, 3.90903, 2.37164],
        [1.27662, 2.60750, 5.88699],
    ]
    assert out[::3] == pytest.approx(np.array(expected), abs=2e-5)


@pytest.fixture
def scanned():
    """400 people, 60 features with an age effect; the scanner 'b' adds 2 and spreads by 1.8."""
    rng = np.random.default_rng(0)
    age, batch = rng.normal(size=(400, 1)), rng.choice(["a", "b"], 400, p=[0.6, 0.4])
    age[batch == "b"] += 1  # older people in b, whose age must not be taken for the scanner
    truth = rng.normal(size=(400, 60)) + 0.8 * age
    x = truth.copy()
    b = batch == "b"
    x[b] = 0.8 * age[b] + 1.8 * (truth[b] - 0.8 * age[b]) + 2
    return x, batch, age, truth


def test_a_planted_shift_and_scale_go_and_age_stays(scanned):
    x, batch, age, truth = scanned
    out = combat(x, batch, age, np.ones(400, bool))
    design = np.hstack([age, batch[:, None] == ["a", "b"]])
    rest = out - age @ np.linalg.lstsq(design, x, rcond=None)[0][:1]
    a, b = rest[batch == "a"], rest[batch == "b"]
    assert abs((x - 0.8 * age)[batch == "b"].mean() - x[batch == "a"].mean()) > 1.5
    gaps = a.mean(axis=0) - b.mean(axis=0)  # of a feature, luck stays: all share one shift
    assert abs(gaps.mean()) < 0.05 and np.abs(gaps).max() < 0.4
    assert a.std() == pytest.approx(b.std(), rel=0.05)
    assert a.std(axis=0) == pytest.approx(b.std(axis=0), rel=0.3)
    assert np.polyfit(age[:, 0], out, 1)[0].mean() == pytest.approx(0.8, abs=0.05)
    for feature in range(0, 60, 10):  # within a batch nobody changes place
        kept = np.corrcoef(out[batch == "b", feature], truth[batch == "b", feature])[0, 1]
        assert kept > 0.97


def test_what_was_fitted_on_train_corrects_others(scanned):
    x, batch, age, _ = scanned
    train = np.arange(400) < 250
    fitted = combat(x, batch, age, train)
    out = fitted[~train]
    rest = out - 0.8 * age[~train]
    b = batch[~train] == "b"
    assert abs(rest[b].mean() - rest[~b].mean()) < 0.15
    assert rest[b].std() == pytest.approx(rest[~b].std(), rel=0.1)
    other = x.copy()
    other[~train] += 100  # what it was not fitted on has no say
    assert np.array_equal(combat(other, batch, age, train)[train], fitted[train])


def test_few_rows_are_drawn_to_what_the_features_share():
    """One feature of a batch of three is off by luck; alone it would be moved by all of it."""
    rng = np.random.default_rng(1)
    x, batch = rng.normal(size=(103, 40)), np.array(["a"] * 100 + ["b"] * 3)
    x[100:, 0] += 3 - x[100:, 0].mean()
    out = combat(x, batch, np.empty((103, 0)), np.ones(103, bool))
    assert 0.3 < out[100:, 0].mean() < 2.8


def test_a_batch_that_was_not_met_stays_as_it_is(scanned):
    x, batch, age, _ = scanned
    train = np.arange(400) >= 5
    new = batch.astype(object)
    new[:5] = "never seen"
    new[7] = "c"  # one row alone has no spread: as if it had not been met
    out = combat(x, new, age, train)
    assert np.array_equal(out[:5], x[:5]) and np.array_equal(out[7], x[7])
    known = train & (np.arange(400) != 7)
    again = combat(x[known], batch[known], age[known], np.ones(394, bool))
    assert np.allclose(out[known], again) and not np.allclose(out[known], x[known])


def test_what_cannot_be_fitted_is_refused(scanned):
    x, batch, age, _ = scanned
    fit = np.arange(400) > 50
    for change, why in (
        ({"x": np.where((np.arange(60) == 9) & fit[:, None], 0.0, x)}, "1 features do not vary"),
        ({"x": np.where(np.arange(60) < 3, 0.0, x)}, "3 features do not vary"),
        ({"x": np.where(x == x[5, 5], np.nan, x)}, "no missing number"),
        ({"covariates": np.where(age == age[0], np.nan, age)}, "no missing number"),
        ({"batch": np.full(400, "a")}, "two batches"),
    ):
        with pytest.raises(ValueError, match=why):
            combat(**({"x": x, "batch": batch, "covariates": age, "fit": fit} | change))
