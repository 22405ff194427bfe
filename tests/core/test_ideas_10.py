"""The rule on gaps that chapter 10 writes out is the report's."""

import numpy as np
import pandas as pd
import pytest
from ideas import idea

from memoir_book import report


@pytest.mark.parametrize("known", [0.2, 0.1, 0.04, 0.02, 0.0, -0.02, -0.05, -0.3])
def test_a_gap_is_judged_as_the_report_judges_it(known):
    pattern = idea("10", "def pattern", np=np)["pattern"]
    rng, said = np.random.default_rng(0), set()
    for _ in range(200):
        gap, half = rng.normal(known, 0.15), rng.uniform(0.01, 0.3)
        n, there = rng.integers(10, 500), 474
        found = {"kind": "gap", "n": n, "n_published": there, "gap_published": known}
        found |= {"gap": gap, "gap_low": gap - half, "gap_high": gap + half * 1.2}
        row = dict.fromkeys(report.COLUMNS, np.nan) | found
        verdict, _ = report._pattern(pd.Series(row).to_dict())
        assert pattern(known, gap, gap - half, gap + half * 1.2, n / there) == verdict
        said.add(verdict)
    assert said == {"pattern reproduced", "not reproduced", "not comparable"}
