"""What nobody in a cohort has, and who is few, is said once each; a whole cohort says nothing."""

import numpy as np
import pytest

from memoir_book.dataset import lacks


@pytest.fixture
def whole(records):
    return records[0].groupby("DX").head(15).reset_index(drop=True)


def test_a_whole_cohort_lacks_nothing(whole):
    assert whole["has_fa"].any() and lacks(whole) == []


@pytest.mark.parametrize(
    ("absent", "says"),
    [
        ({"has_fa": False}, "no FA volume: chapters show T1 and scores only"),
        ({"CDRSB": np.nan}, "no CDR-SB: no CDR-SB head"),
        ({"MOCA": np.nan, "APOE4": np.nan}, "no MoCA, no APOE4: captions and the clinical input"),
        ({"EXAMDATE": np.datetime64("NaT")}, "no exam date: one visit each"),
    ],
)
def test_what_nobody_has_is_one_sentence(whole, absent, says):
    (sentence,) = lacks(whole.assign(**absent))
    assert sentence.startswith(says)
    some = whole.assign(**absent)
    some.loc[3, [*absent]] = whole.loc[whole["has_fa"].idxmax(), [*absent]]
    assert lacks(some) == []  # one person has it


def test_without_any_score_there_is_no_clinical_modality(whole):
    scores = ("CDRSB", "ADAS11", "ADAS13", "MMSE", "MOCA", "APOE4")
    (sentence,) = lacks(whole.assign(**dict.fromkeys(scores, np.nan)))
    assert sentence.startswith("no score and no APOE4: no clinical modality")


def test_few_of_a_class_are_counted(whole):
    (sentence,) = lacks(whole.drop(whole.index[whole["DX"] == "MCI"][4:]))
    assert sentence.startswith("fewer than 15 subjects of class MCI (4): a figure of it rests")
    (sentence,) = lacks(whole[whole["DX"] != "CN"].drop(whole.index[whole["DX"] == "MCI"][4:]))
    assert sentence.startswith("fewer than 15 subjects of class CN (0), MCI (4): ")
