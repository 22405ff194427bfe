"""Captions: what they may show, what they must not, and the percentiles that they quote."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people import people

from memoir_core import captions
from memoir_core.captions import (
    BLIND,
    FIELDS,
    add_image_fields,
    band,
    caption,
    caption_rows,
)
from memoir_core.captions import records as of_cohort

NOTHING = (None, np.nan)
percent = st.one_of(st.sampled_from(NOTHING), st.integers(0, 100))
VALUES = {
    "AGE": st.one_of(st.sampled_from(NOTHING), st.floats(40, 99)),
    "PTGENDER": st.sampled_from(("Female", "Male", None, "")),
    "APOE4": st.sampled_from((0.0, 1, 2.0, None, np.nan)),
    "MMSE": st.one_of(st.sampled_from(NOTHING), st.integers(0, 30)),
    "MOCA": st.one_of(st.sampled_from(NOTHING), st.integers(0, 30)),
    "ADAS11": st.one_of(st.sampled_from(NOTHING), st.floats(0, 70)),
    "ADAS13": st.one_of(st.sampled_from(NOTHING), st.floats(0, 85)),
    "VENTRICLES": percent,
    "FORNIX_FA": percent,
    "CDRSB": st.one_of(st.sampled_from(NOTHING), st.integers(0, 36).map(lambda half: half / 2)),
    "DX": st.sampled_from(("CN", "MCI", "Dementia", None, "")),
}
records = st.fixed_dictionaries({"case": st.integers(0, 3000), **VALUES})


@settings(max_examples=300, deadline=None)
@given(records, VALUES["DX"], VALUES["CDRSB"])
def test_a_blind_caption_holds_no_trace_of_diagnosis_and_cdrsb(record, dx, cdrsb):
    blind = caption(record, withhold=BLIND)
    assert blind == caption(record | {"DX": dx, "CDRSB": cdrsb}, withhold=BLIND)
    for hint in ("cdr", "diagnos", "dementia", "mild cognitive", "normal", "impair", "(cn)"):
        assert hint not in blind.lower()


@settings(max_examples=100, deadline=None)
@given(records, st.sampled_from(FIELDS), st.data())
def test_any_field_can_be_withheld(record, field, data):
    other = record | {field: data.draw(VALUES[field])}
    assert caption(record, withhold={field}) == caption(other, withhold={field})


def test_a_whole_caption_tells_every_value():
    record = people().iloc[2].to_dict()
    for field, other in {
        **{"AGE": 55.0, "PTGENDER": None, "APOE4": np.nan, "MMSE": 3.0, "MOCA": np.nan},
        **{"ADAS11": 60.0, "ADAS13": np.nan, "VENTRICLES": np.nan, "FORNIX_FA": 7.0},
        **{"CDRSB": 17.0, "DX": None},
    }.items():
        assert caption(record) != caption(record | {field: other}), field


RECORD = {
    **{"case": 0, "AGE": 81.9, "PTGENDER": "Female", "APOE4": 1.0, "MMSE": 26.0, "MOCA": 9.0},
    **{"ADAS11": 7.67, "ADAS13": 23.0, "VENTRICLES": 90.0, "FORNIX_FA": 9.0, "CDRSB": 4.5},
    "DX": "MCI",
}


def test_a_caption_word_by_word():
    assert caption(RECORD) == (
        "An 81-year-old woman, carrying one APOE e4 allele. Testing gave MMSE 26 (slightly low), "
        "MoCA 9 (very low), ADAS-11 8 (few errors), ADAS-13 23 (many errors). Ventricles very "
        "large for the age (percentile 90), fornix FA very low for the age (percentile 9). CDR-SB "
        "4.5 (mild impairment). The clinical diagnosis is mild cognitive impairment (MCI)."
    )
    assert caption(pd.Series(RECORD)) == caption(RECORD)  # a row of a table is a record, too
    assert caption(RECORD, withhold=set(FIELDS)) == "A person."


def test_missing_is_said_and_never_invented():
    words = caption({"case": 0} | dict.fromkeys(FIELDS))
    assert words == (
        "A person of unrecorded sex and unrecorded age; the APOE genotype was not recorded. "
        "Testing gave MMSE not recorded, MoCA not recorded, ADAS-11 not recorded, ADAS-13 not "
        "recorded. Ventricles not available, fornix FA not available. CDR-SB not recorded "
        "(severity not known). The clinical diagnosis is not recorded."
    )


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        *(("MMSE", 17.9, "very low"), ("MMSE", 18, "low"), ("MMSE", 23.9, "low")),
        *(("MMSE", 24, "slightly low"), ("MMSE", 26.9, "slightly low"), ("MMSE", 27, "preserved")),
        *(("MOCA", 25.9, "slightly low"), ("MOCA", 26, "preserved"), ("ADAS11", 7, "few errors")),
        *(("ADAS11", 25, "very many errors"), ("ADAS13", 13, "some errors")),
        *(("CDRSB", 0, "no impairment"), ("CDRSB", 0.5, "questionable impairment")),
        *(("CDRSB", 9.5, "moderate impairment"), ("CDRSB", 16, "severe impairment")),
        *(("VENTRICLES", 24, "small"), ("VENTRICLES", 25, "of usual size")),
        *(("FORNIX_FA", 10, "low"), ("FORNIX_FA", 75, "high")),
    ],
)
def test_bands(field, value, word):
    assert band(field, value) == word


def test_each_field_is_known_from_its_own_modality():
    assert captions.FIELDS_OF["t1"] == {"VENTRICLES"} and captions.FIELDS_OF["fa"] == {"FORNIX_FA"}
    assert captions.FIELDS_OF["clinical"] >= {"APOE4", "MMSE", "MOCA", "ADAS11", "ADAS13"}


def test_a_value_outside_its_codes_is_named():
    with pytest.raises(ValueError, match="case 0: PTGENDER='x' is not one of Female, Male"):
        caption(RECORD | {"PTGENDER": "x"})
    with pytest.raises(ValueError, match="case 0: APOE4=3"):
        caption(RECORD | {"APOE4": 3})
    with pytest.raises(ValueError, match="HEIGHT"):
        caption(RECORD, withhold={"HEIGHT"})


def test_rows_of_captions():
    table = people()
    rows = caption_rows(table)
    assert rows == caption_rows(table)
    assert [(r["case"], r["split"]) for r in rows] == list(
        zip(table.case, table.split, strict=True)
    )
    assert rows[5]["caption"] == caption(table.iloc[5])
    assert rows[5]["caption_blind"] == caption(table.iloc[5], withhold=BLIND)
    openings = {row["caption"].split()[0] for row in rows}
    assert openings == {"A", "An", "The", "Record"}  # several wordings


def test_what_is_known_of_nobody_is_not_mentioned():
    table = people().assign(CDRSB=np.nan, MOCA=np.nan, FORNIX_FA=np.nan)
    table.loc[3, "MMSE"] = np.nan
    for row, record in zip(caption_rows(table), table.to_dict("records"), strict=True):
        assert not any(word in row["caption"] for word in ("CDR-SB", "MoCA", "fornix"))
        assert row["caption"] == caption(record, withhold={"CDRSB", "MOCA", "FORNIX_FA"})
    assert "MMSE not recorded" in caption_rows(table)[3]["caption"]  # of one person: said
    assert {*of_cohort(table)[5]} == {*table} - {"CDRSB", "MOCA", "FORNIX_FA"}


def test_a_class_may_have_another_name():
    table = people()
    named = caption_rows(table.assign(DX_NAME=table["DX"].replace({"MCI": "stage 0.5"})))
    for old, new, dx in zip(caption_rows(table), named, table["DX"], strict=True):
        words = {"MCI": "stage 0.5", "CN": "CN", "Dementia": "Dementia"}[dx]
        plain = {"MCI": "mild cognitive impairment (MCI)", "CN": "cognitively normal (CN)"}
        assert new["caption"] == old["caption"].replace(plain.get(dx, "dementia"), words)
        assert new["caption_blind"] == old["caption_blind"]


# --- percentiles for the age ------------------------------------------------------------


def test_percentiles_by_hand():
    # The line through the first four is 7.5 at 75 and rises by 0.08 a year: they lie -0.3, 0.9,
    # -0.9 and 0.3 off it. Two test subjects lie 0 and 0.5 above it, one far below.
    table = pd.DataFrame(
        {
            "AGE": [60.0, 70.0, 80.0, 90.0, 75.0, 75.0, 60.0, np.nan],
            "split": ["train", "val", "train", "train", "test", "test", "test", "test"],
        }
    )
    measures = pd.DataFrame({"ventricle_share": [6.0, 8.0, 7.0, 9.0, 7.5, 8.0, 1.0, 7.0]})
    measures["fornix_fa"] = np.where(np.arange(8) < 2, 0.5, np.nan)  # two draw no line
    made = add_image_fields(table, measures)
    assert made["VENTRICLES"].tolist()[:7] == [25, 75, 0, 50, 50, 75, 0]
    assert np.isnan(made["VENTRICLES"][7]) and made["FORNIX_FA"].isna().all()
    assert "VENTRICLES" not in table


def test_percentiles_know_nothing_of_diagnosis_and_test_subjects():
    table = people()
    rng = np.random.default_rng(0)
    test = table["split"] == "test"
    measures = pd.DataFrame(rng.random((40, 2)), columns=["ventricle_share", "fornix_fa"])
    made = add_image_fields(table, measures)
    assert made.equals(add_image_fields(table.assign(DX="CN"), measures).assign(DX=table["DX"]))
    other = add_image_fields(table, measures.where(~test, 9.0))
    assert other[~test].equals(made[~test]) and (other["VENTRICLES"][test] == 100).all()
    with pytest.raises(ValueError, match="3 measures for 40 cases"):
        add_image_fields(table, measures.head(3))
