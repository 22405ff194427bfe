"""A few people with records, for tests that need no images."""

import numpy as np
import pandas as pd


def people(n=40, seed=0):
    """A cohort table of n cases, their class by turns, every fourth in the test part."""
    rng = np.random.default_rng(seed)
    code = np.arange(n) % 3
    return pd.DataFrame(
        {
            "case": range(n),
            "DX": np.array(["CN", "MCI", "Dementia"])[code],
            "AGE": 60.0 + rng.integers(0, 30, n),
            "PTGENDER": np.where(rng.random(n) < 0.5, "Female", "Male"),
            "APOE4": rng.integers(0, 3, n).astype(float),
            "CDRSB": np.array([0.0, 1.5, 6.0])[code],
            "ADAS11": np.array([5.0, 10.0, 20.0])[code] + rng.random(n),
            "ADAS13": np.array([8.0, 16.0, 30.0])[code] + rng.random(n),
            "MMSE": np.array([29.0, 27.0, 21.0])[code],
            "MOCA": np.array([27.0, 23.0, 16.0])[code],
            "VENTRICLES": rng.integers(0, 101, n).astype(float),
            "FORNIX_FA": np.where(np.arange(n) % 2, np.nan, rng.integers(0, 101, n)),
            "split": np.array(["test", "train", "val", "train"])[np.arange(n) % 4],
        }
    )
