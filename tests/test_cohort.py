"""The ADNIMERGE reader, the filters, the split, and the errors for bad input."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoir_core import cohort
from memoir_core.cohort import CohortError, DataLeakageError
from memoir_core.config import DX

GOOD = {
    "RID": "2",
    "PTID": "011_S_0002",
    "VISCODE": "bl",
    "EXAMDATE": "2005-09-08",
    "AGE": "74.3",
    "PTGENDER": "Male",
    "APOE4": "0",
    "DX": "CN",
    "CDRSB": "0",
    "ADAS11": "10.67",
    "ADAS13": "18.67",
    "MMSE": "28",
    "MOCA": "",
}


def write(folder, *changes, text=None):
    rows = [GOOD | change for change in (changes or ({},))]
    path = folder / "ADNIMERGE.csv"
    if text is None:
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_the_published_counts_come_out_exactly(records):
    table, flow = records
    counts = cohort.counts(table)
    assert counts.loc["CN"].tolist() == [669, 168, 837]
    assert counts.loc["MCI"].tolist() == [650, 163, 813]
    assert counts.loc["Dementia"].tolist() == [570, 143, 713]
    assert table["fa_path"].notna().sum() == 930
    assert flow[0]["rows"] > 2 * len(table)  # the filters had work
    assert [step["rows"] for step in flow] == sorted((s["rows"] for s in flow), reverse=True)


def test_validation_comes_out_of_train_only(records):
    table, _ = records
    again = cohort.split(table["DX"], seed=0, val_fraction=0.0)
    assert ((again == "test") == (table["split"] == "test")).all()
    assert 0.1 < (table["split"] == "val").sum() / (table["split"] != "test").sum() < 0.2


@given(counts=st.lists(st.integers(0, 60), min_size=3, max_size=3), seed=st.integers(0, 2**31))
def test_the_split_has_exact_sizes_for_any_counts(counts, seed):
    dx = pd.Series([name for name, n in zip(DX, counts, strict=True) for _ in range(n)], dtype=str)
    parts = cohort.split(dx, seed)
    for name, n in zip(DX, counts, strict=True):
        own = parts[(dx == name).to_numpy()]
        assert (own != "test").sum() == int(0.8 * n + 1e-9)
        assert (own == "test").sum() == n - int(0.8 * n + 1e-9)


def test_a_file_with_bom_quotes_blanks_and_further_columns_is_read(tmp_path):
    header = "\ufeff" + ", ".join(f'"{name} "' for name in GOOD) + ', "Ventricles"\n'
    row = ", ".join(f'"{value}"' for value in GOOD.values()) + ", 39605\n"
    table = cohort.read_adnimerge(write(tmp_path, text=header + row))
    assert table.loc[0, ["PTID", "DX", "MMSE"]].tolist() == ["011_S_0002", "CN", 28]
    assert "Ventricles" not in table


@pytest.mark.parametrize("missing", ["", "-4", "-1", "NA", "NaN", "N/A"])
def test_every_spelling_of_missing_is_missing(tmp_path, missing):
    changed = dict.fromkeys(("APOE4", "CDRSB", "ADAS11", "ADAS13", "MOCA", "DX"), missing)
    first = cohort.read_adnimerge(write(tmp_path, changed)).iloc[0]
    assert first[list(changed)].isna().all() and first["MMSE"] == 28


@pytest.mark.parametrize(
    ("column", "written", "read"),
    [
        ("VISCODE", "M48", "m48"),
        ("VISCODE", "m048", "m48"),
        ("VISCODE", "m06", "m06"),
        ("VISCODE", "m6", "m06"),
        ("VISCODE", "M00", "bl"),
        ("VISCODE", "sc", "bl"),
        ("EXAMDATE", "9/8/2005", pd.Timestamp("2005-09-08")),
        ("EXAMDATE", "09/08/05", pd.Timestamp("2005-09-08")),
        ("EXAMDATE", "2005-09-08", pd.Timestamp("2005-09-08")),
        ("DX", "NL", "CN"),
        ("DX", "AD", "Dementia"),
        ("DX", "MCI to Dementia", "Dementia"),
        ("DX", "NL to MCI", "MCI"),
        ("DX", "MCI to NL", "CN"),
        ("PTID", "sub-ADNI011S0002", "011_S_0002"),
    ],
)
def test_every_spelling_is_understood(tmp_path, column, written, read):
    assert cohort.read_adnimerge(write(tmp_path, {column: written}))[column].item() == read


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"DX": "SMC"}, ("line 2", "DX", "SMC")),
        ({"MMSE": "31"}, ("line 2", "MMSE", "0 to 30")),
        ({"CDRSB": "18.5"}, ("line 2", "CDRSB", "0 to 18")),
        ({"ADAS11": "71"}, ("line 2", "ADAS11")),
        ({"ADAS13": "x"}, ("line 2", "ADAS13", "no number")),
        ({"AGE": "12"}, ("line 2", "AGE", "40 to 110")),
        ({"EXAMDATE": "soon"}, ("line 2", "EXAMDATE", "no date")),
        ({"VISCODE": "later"}, ("line 2", "VISCODE", "later")),
        ({"PTGENDER": "x"}, ("line 2", "PTGENDER", "Male or Female")),
        ({"PTID": ""}, ("line 2", "PTID", "empty")),
    ],
)
def test_a_bad_value_is_named_with_line_column_and_mend(tmp_path, change, words):
    path = write(tmp_path, change)
    with pytest.raises(CohortError) as error:
        cohort.read_adnimerge(path)
    for word in (path.name, *words):
        assert word in str(error.value)


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "ADNIMERGE.csv"
    pd.DataFrame([GOOD]).drop(columns="APOE4").to_csv(path, index=False)
    with pytest.raises(CohortError, match="lacks the column APOE4"):
        cohort.read_adnimerge(path)


def test_equal_duplicates_go_and_different_ones_are_an_error(tmp_path):
    assert len(cohort.read_adnimerge(write(tmp_path, {}, {}))) == 1
    with pytest.raises(CohortError, match=r"line 3.*second, different row"):
        cohort.read_adnimerge(write(tmp_path, {}, {"MMSE": "20"}))


def test_age_at_scan_and_one_visit_per_subject(tmp_path):
    write(tmp_path, {}, {"VISCODE": "m24", "EXAMDATE": "2007-09-08"})
    images = pd.DataFrame(
        {"PTID": [GOOD["PTID"]] * 2, "VISCODE": ["bl", "M24"], "t1_path": ["a", "b"]}
    ).assign(fa_path="")
    images.to_csv(tmp_path / "images.csv", index=False)
    build = {"data_dir": tmp_path, "seed": 0, "check_images": False}
    latest, _ = cohort.build_cohort(**build)
    assert latest["VISCODE"].tolist() == ["m24"]
    assert latest["AGE"].iloc[0] == pytest.approx(76.3, abs=0.01)
    earliest, _ = cohort.build_cohort(**build, visit="earliest")
    assert earliest["AGE"].iloc[0] == pytest.approx(74.3)
    with pytest.raises(CohortError, match=r"is missing \(1 of the listed"):
        cohort.build_cohort(tmp_path, seed=0)


def test_leakage_is_found(records):
    table, _ = records
    test = table.index[table["split"] == "test"][0]
    train = table.index[table["split"] == "train"][0]
    for column in ("PTID", "t1_path"):
        broken = table.copy()
        broken.loc[test, column] = broken.loc[train, column]
        with pytest.raises(DataLeakageError, match=column):
            cohort.check_split(broken)
    with pytest.raises(DataLeakageError, match="the index holds test case"):
        cohort.check_training_cases(table, np.array([train, test]), "the index")


def test_table_one_has_small_differences_between_parts(records):
    table, _ = records
    summary = cohort.table_one(table)
    assert summary.loc["n", ["CN", "MCI", "Dementia"]].tolist() == ["837", "813", "713"]
    assert summary.drop("n")["SMD"].astype(float).abs().max() < 0.25
