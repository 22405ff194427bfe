"""The steps that chapter 11 writes out: run on data where the answer is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from ideas import idea
from sklearn import ensemble, linear_model, model_selection

from memoir_core import text
from memoir_core.config import SCORES

RECORD = [*SCORES, "APOE4"]


def test_splitting_visits_flatters():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(120), 4)
    visits = pd.DataFrame({"PTID": subjects, "DX": np.array(["CN", "MCI"])[subjects * 7 % 2]})
    visits.loc[::10, "DX"] = None  # visits without a diagnosis do not count
    for name in (*RECORD, "AGE"):  # a subject's own values, no signal; PTEDUCAT is not given
        visits[name] = rng.normal(size=120)[subjects]
    visits["MOCA"] = np.nan  # nobody was asked
    found = idea(
        "11",
        "GroupShuffleSplit",
        visits=visits,
        RECORD=RECORD,
        ensemble=ensemble,
        model_selection=model_selection,
        book=SimpleNamespace(seed=0),
    )
    assert found["mixed"].mean() > 0.9 and abs(found["subjects"].mean() - 0.5) < 0.2
    assert len(found["mixed"]) == len(found["subjects"]) == 5


def test_an_alignment_that_saw_the_test_captions_finds_them():
    rng = np.random.default_rng(0)
    hidden, z = rng.normal(size=(2, 60, 64))  # nothing to learn, only to remember
    test = np.arange(60) < 20
    body = SimpleNamespace(encode=lambda texts, show_progress_bar: hidden)
    found = idea(
        "11",
        "Ridge(",
        text=SimpleNamespace(
            read_fused=lambda path, cohort: text.unit_rows(z), unit_rows=text.unit_rows
        ),
        book=SimpleNamespace(path=lambda *parts: None),
        SentenceTransformer=lambda modules: body,
        captions=[{"caption": ""}] * 60,
        linear_model=linear_model,
        cohort=None,
        encoder=[1, 2, 3],
        test=test,
        np=np,
    )
    honest, leaky = found["found_own"]
    assert leaky.all() and honest.mean() < 0.4 and len(honest) == 20
    assert len(found["with_test"]) == len(found["train"]) == 40


def test_a_result_beyond_what_its_inputs_allow_is_named_even_where_no_redraw_changes_it():
    says = idea("11", "def beyond_sentences")["beyond_sentences"]
    row = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 15, "ceiling": 0.72}
    below, unclear = row | {"low": 0.4, "high": 0.7}, row | {"low": 0.6, "high": 0.9}
    nothing = row | {"low": None, "high": None}
    said = says({"a": row, "b": below, "c": unclear, "d": nothing})
    assert said == [
        "Too good to be true, with a ceiling of 0.72: a (1.00; 1.00 to 1.00; n = 15).",
        "Below their ceiling, leak or not: b.",
        "Perhaps at their ceiling: c.",
    ]
