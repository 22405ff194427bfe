"""ADNIMERGE and the list of images are read as they come, or what is wrong is named."""

import pandas as pd
import pytest

from memoir_core import tables
from memoir_core.tables import CohortError

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


def read_images(folder, text):
    path = folder / "images.csv"
    path.write_text(text)
    return tables.read_images(path)


def test_a_visit_is_read(tmp_path):
    (row,) = tables.read_adnimerge(write(tmp_path)).to_dict("records")
    assert pd.isna(row.pop("MOCA"))
    numbers = {"RID": 2, "AGE": 74.3, "APOE4": 0, "CDRSB": 0, "ADAS11": 10.67, "ADAS13": 18.67}
    day = pd.Timestamp("2005-09-08")
    words = {"PTID": "011_S_0002", "VISCODE": "bl", "PTGENDER": "Male", "DX": "CN"}
    more = {"MMSE": 28, "EXAMDATE": day, "EXAMDATE_bl": day, "row": 2}
    assert row == {**numbers, **words, **more}


def test_a_file_with_bom_quotes_blanks_and_further_columns_is_read(tmp_path):
    header = "\ufeff" + ", ".join(f'"{name} "' for name in GOOD) + ', "Ventricles"\n'
    row = ", ".join(f'"{value} "' for value in GOOD.values()) + ", 39605\n"
    table = tables.read_adnimerge(write(tmp_path, text=header + row))
    assert table.loc[0, ["PTID", "DX", "MMSE"]].tolist() == ["011_S_0002", "CN", 28]
    assert "Ventricles" not in table


@pytest.mark.parametrize(
    "missing", ["", "-4", "-4.0", "-4.00", "-1", "-1.0", "-1.", "NA", "NaN", "N/A", "NULL"]
)
def test_every_spelling_of_missing_is_missing(tmp_path, missing):
    names = ("APOE4", "CDRSB", "ADAS11", "ADAS13", "MOCA", "DX", "PTEDUCAT")
    changed = dict.fromkeys(names, missing)
    first = tables.read_adnimerge(write(tmp_path, changed)).iloc[0]
    assert first[list(changed)].isna().all() and first["MMSE"] == 28


@pytest.mark.parametrize(
    ("column", "written", "read"),
    [
        ("VISCODE", "M48", "m48"),
        ("VISCODE", "m048", "m48"),
        ("VISCODE", "m108", "m108"),
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
        ("DX", "DEM", "Dementia"),
        ("DX", "1", "CN"),
        ("DX", "2.0", "MCI"),
        ("PTGENDER", "female", "Female"),
        ("PTGENDER", "M", "Male"),
        ("PTGENDER", "2", "Female"),
        ("PTGENDER", "1.0", "Male"),
        ("EXAMDATE", "2005-09-08 00:00:00", pd.Timestamp("2005-09-08")),
        ("EXAMDATE", "2005-09-08T10:30:00Z", pd.Timestamp("2005-09-08")),
        ("EXAMDATE", "9/8/2005 0:00", pd.Timestamp("2005-09-08")),
        ("EXAMDATE", "9/8/2005 12:00:00 AM", pd.Timestamp("2005-09-08")),
        ("EXAMDATE", "8-Sep-05", pd.Timestamp("2005-09-08")),
        ("EXAMDATE", "08-SEP-2005", pd.Timestamp("2005-09-08")),
        ("EXAMDATE", "8.9.2005", pd.Timestamp("2005-09-08")),
        ("EXAMDATE", "2005/09/08", pd.Timestamp("2005-09-08")),
        ("PTID", "011_s_0002", "011_S_0002"),
        ("PTID", "sub-ADNI011S0002", "011_S_0002"),
        ("PTEDUCAT", "16", 16),
        ("IMAGEUID", "i12345.0", "12345"),
        ("SITE", "11.0", "11"),
        ("COLPROT", "ADNI1", "ADNI1"),
        ("ORIGPROT", " ADNIGO", "ADNIGO"),
    ],
)
def test_every_spelling_is_understood(tmp_path, column, written, read):
    assert tables.read_adnimerge(write(tmp_path, {column: written}))[column].item() == read


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"DX": "SMC"}, ("line 2", "DX", "SMC")),
        ({"MMSE": "31"}, ("line 2", "MMSE", "0 to 30")),
        ({"CDRSB": "18.5"}, ("line 2", "CDRSB", "0 to 18")),
        ({"ADAS11": "70.5"}, ("line 2", "ADAS11", "0 to 70")),
        ({"ADAS13": "x"}, ("line 2", "ADAS13", "'x' is not a number")),
        ({"ADAS13": "inf"}, ("line 2", "ADAS13")),
        ({"AGE": "12"}, ("line 2", "AGE", "40 to 110")),
        ({"EXAMDATE": "soon"}, ("line 2", "EXAMDATE", "a date (2012-05-31")),
        ({"EXAMDATE": "1900-01-01"}, ("line 2", "EXAMDATE", "1900")),
        ({"EXAMDATE": "3016-05-31"}, ("line 2", "EXAMDATE", "3016")),  # beyond nanoseconds
        ({"EXAMDATE": "0-05-31"}, ("line 2", "EXAMDATE", "0-05-31")),
        ({"VISCODE": "later"}, ("line 2", "VISCODE", "later")),
        ({"VISCODE": "v03"}, ("line 2", "VISCODE", "v03", "VISCODE2")),
        ({"DX": "4"}, ("line 2", "DX", "1, 2, 3")),
        ({"MMSE": "7" * 5000}, ("line 2", "MMSE", "'" + "7" * 80 + "'")),
        ({"PTGENDER": "x"}, ("line 2", "PTGENDER", "Male or Female")),
        ({"PTID": ""}, ("line 2", "PTID", "empty", "drop the row")),
        ({"RID": ""}, ("line 2", "RID", "empty")),
    ],
)
def test_a_bad_value_is_named_with_line_column_and_mend(tmp_path, change, words):
    path = write(tmp_path, change)
    with pytest.raises(CohortError) as error:
        tables.read_adnimerge(path)
    for word in (str(path), *words, "; "):
        assert word in str(error.value)
    assert len(error.value.problems) == 1 and len(str(error.value)) < 400


def test_the_ends_of_a_range_are_in_it(tmp_path):
    ends = {"MMSE": "30", "CDRSB": "18", "AGE": "40", "APOE4": "2", "ADAS13": "0"}
    assert len(tables.read_adnimerge(write(tmp_path, ends))) == 1


def test_all_problems_of_a_table_are_held_and_the_first_are_shown(tmp_path):
    path = write(tmp_path, {"DX": "SMC", "MMSE": "44"}, *({"VISCODE": f"v{n}"} for n in range(4)))
    with pytest.raises(CohortError, match=r"(?s)line 3, VISCODE.*and 3 more problems") as error:
        tables.read_adnimerge(path)
    found = {(problem.line, problem.column) for problem in error.value.problems}
    assert found == {("2", "DX"), ("2", "MMSE"), *((str(n), "VISCODE") for n in (3, 4, 5, 6))}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("RID,PTID\n1,2\n", "lacks the column VISCODE, EXAMDATE"),
        ("", "cannot be read"),
        (",".join(GOOD) + "\n", "no rows"),
        (",".join(GOOD) + "\n" + ",".join(GOOD.values()) + ",1,2\n", "cannot be read"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, text, words):
    with pytest.raises(CohortError, match=words):
        tables.read_adnimerge(write(tmp_path, text=text))
    with pytest.raises(CohortError, match=r"nowhere\.csv: cannot be read .*No such file"):
        tables.read_adnimerge(tmp_path / "nowhere.csv")


def test_a_cell_can_neither_flood_nor_steer_a_terminal(tmp_path):
    for value in ("7" * 5_000_000, "\x1b[2J\x1b]0;owned\x07"):
        path = write(tmp_path, {"PTID": value}, {"PTID": value, "RID": "3", "VISCODE": "m12"})
        with pytest.raises(CohortError, match=r"line 3, PTID: one PTID .*; correct") as error:
            tables.read_adnimerge(path)
        assert len(str(error.value)) < 1000 and str(error.value).isprintable()


def test_a_table_of_too_many_rows_is_named_at_once(tmp_path):
    row = ",".join(GOOD.values()) + "\n"
    path = write(tmp_path, text=",".join(GOOD) + "\n" + row * (tables.MOST + 9))
    with pytest.raises(CohortError, match=r"has 100001 rows; .* up to 100,000 are read"):
        tables.read_adnimerge(path)


def test_equal_rows_are_one_and_different_ones_an_error(tmp_path):
    assert len(tables.read_adnimerge(write(tmp_path, {}, {}))) == 1
    with pytest.raises(CohortError, match=r"line 3, VISCODE: a second, different row.*011_S_0002"):
        tables.read_adnimerge(write(tmp_path, {}, {"MMSE": "20"}))


def test_the_first_exam_is_that_of_the_subject(tmp_path):
    later = {"VISCODE": "m12", "EXAMDATE": "2006-09-10"}
    other = {"RID": "3", "PTID": "011_S_0003", "EXAMDATE": "2001-01-01"}
    table = tables.read_adnimerge(write(tmp_path, later, {}, other))
    assert table["EXAMDATE_bl"].dt.year.tolist() == [2005, 2005, 2001]
    assert table["row"].tolist() == [2, 3, 4]


def test_images_are_listed_by_visit_or_by_image(tmp_path):
    by_visit = read_images(
        tmp_path, "PTID,VISCODE,t1_path,fa_path,DX\nsub-ADNI011S0002,M12,a.nii,\n"
    )
    assert by_visit.iloc[0].tolist()[:3] == ["011_S_0002", "m12", "a.nii"]
    assert pd.isna(by_visit["fa_path"][0]) and len(by_visit.columns) == 4
    scanner = (
        "PTID,VISCODE,t1_path,fa_path,MANUFACTURER\n011_S_0002,m12,a.nii,,GE MEDICAL SYSTEMS\n"
    )
    found = read_images(
        tmp_path, scanner + "011_S_0002,m24,b.nii,,Siemens\n011_S_0002,bl,c.nii,,\n"
    )
    assert found["MANUFACTURER"].fillna("").tolist() == ["GE", "SIEMENS", ""]
    by_image = read_images(tmp_path, "IMAGEUID,t1_path,fa_path\nI123,a.nii,b.nii\n,c.nii,\n")
    assert by_image.to_numpy().tolist() == [["123", "a.nii", "b.nii"]]
    with pytest.raises(CohortError, match="lacks the column VISCODE"):
        read_images(tmp_path, "PTID,t1_path,fa_path\n1,a,b\n")
    with pytest.raises(CohortError, match="second, different row"):
        read_images(tmp_path, "IMAGEUID,t1_path,fa_path\nI1,a.nii,\n1,b.nii,\n")


def test_the_baseline_is_known_where_its_row_is_missing(tmp_path):
    """AGE is the age at baseline: from the first row that is there, someone would be ten years
    younger than he was."""
    late = {"VISCODE": "m120", "EXAMDATE": "2015-09-08"}
    table = tables.read_adnimerge(
        write(tmp_path, late, late | {"VISCODE": "m132", "EXAMDATE": "2016-09-08"})
    )
    assert (table["EXAMDATE_bl"] - pd.Timestamp("2005-09-08")).abs().max() < pd.Timedelta("3D")
    told = late | {"EXAMDATE_bl": "2005-10-01"}
    assert tables.read_adnimerge(write(tmp_path, told))["EXAMDATE_bl"][0].month == 10


def test_an_only_visit_needs_no_date(tmp_path):
    assert tables.read_adnimerge(write(tmp_path, {"EXAMDATE": ""}))["EXAMDATE"].isna().all()
    two = {"EXAMDATE": ""}, {"VISCODE": "m12", "EXAMDATE": "2006-09-10"}
    with pytest.raises(CohortError, match="line 2, EXAMDATE: the field is empty; fill it"):
        tables.read_adnimerge(write(tmp_path, *two))


def test_the_phases_own_visit_codes_give_way_to_the_common_ones(tmp_path):
    both = {"VISCODE": "v03", "VISCODE2": "bl"}, {"VISCODE": "m12", "VISCODE2": ""}
    later = [visit | {"EXAMDATE": f"200{n}-01-01"} for n, visit in enumerate(both)]
    assert tables.read_adnimerge(write(tmp_path, *later))["VISCODE"].tolist() == ["bl", "m12"]


def test_dxsums_own_column_is_a_diagnosis(tmp_path):
    path = write(tmp_path, {"DX": "3"})
    path.write_text(path.read_text().replace("DX", "DIAGNOSIS"))
    assert tables.read_adnimerge(path)["DX"].tolist() == ["Dementia"]


@pytest.mark.parametrize("sign", ["/", "-"])
def test_the_order_of_day_and_month_is_judged_by_the_whole_column(tmp_path, sign):
    def dates(*written):
        codes = ("bl", "m12")
        rows = [{"VISCODE": c, "EXAMDATE": d} for c, d in zip(codes, written, strict=True)]
        return tables.read_adnimerge(write(tmp_path, *rows))["EXAMDATE"].dt.strftime("%F").tolist()

    assert dates(f"3{sign}4{sign}2012", f"25{sign}4{sign}2013") == ["2012-04-03", "2013-04-25"]
    assert dates(f"3{sign}4{sign}2012", f"4{sign}25{sign}13") == ["2012-03-04", "2013-04-25"]
    with pytest.raises(CohortError, match="EXAMDATE: some dates begin with the day"):
        dates(f"25{sign}4{sign}2012", f"4{sign}25{sign}2013")


def test_a_person_has_one_number(tmp_path):
    other = {"PTID": "011_S_0003"}
    with pytest.raises(CohortError, match=r"line 3, RID: one RID \(2.0\) stands under two PTIDs"):
        tables.read_adnimerge(write(tmp_path, {}, other))
    with pytest.raises(CohortError, match=r"line 3, PTID: one PTID .* stands under two RIDs"):
        tables.read_adnimerge(write(tmp_path, {}, {"RID": "3", "VISCODE": "m12"}))


def test_names_of_columns_may_be_small(tmp_path):
    path = write(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].lower(), *lines[1:]]))
    assert tables.read_adnimerge(path)["MMSE"].tolist() == [28]


def test_paths_from_windows_are_understood(tmp_path):
    found = read_images(tmp_path, "PTID,VISCODE,t1_path,fa_path\n1,bl,img\\a b.nii,\n")
    assert found["t1_path"][0] == "img/a b.nii"
