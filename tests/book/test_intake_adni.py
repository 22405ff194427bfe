"""`intake adni` makes of what is given out the cohort that the merged table would have given."""

import json
from pathlib import Path

import downloads
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from memoir_book.intake import __main__ as command
from memoir_book.intake import adni, images, tables
from memoir_core import cohort
from memoir_core.tables import CohortError
from synthetic_adni.write import write_tables

ANNA, BERT = "901_S_90011", "902_S_90022"


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Synthetic tables, and for each image a file of its own content."""
    folder = tmp_path_factory.mktemp("merged")
    write_tables(folder, 24, 0.5)
    listed = downloads.read(folder / "images.csv")
    for name in filter(None, [*listed["t1_path"], *listed["fa_path"]]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def convert(download, out, *more):
    return command.main(["adni", str(download), str(out), *more])


def build(folder):
    visits = cohort.read_adnimerge(folder / "ADNIMERGE.csv")
    return cohort.build_cohort(visits, images.list_images(folder), folder, seed=0)[0]


def test_seven_dated_tables_and_clinicas_tree_give_the_same_cohort(merged, tmp_path, capsys):
    download, out = downloads.loni(tmp_path / "download", merged), tmp_path / "out"
    out.mkdir(mode=0o755)
    assert convert(download, out) == 0, capsys.readouterr()
    assert out.stat().st_mode & 0o777 == 0o700 and len([*out.iterdir()]) == 3
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600}, "it names people"
    wanted, got = build(merged), build(out)
    paths = ["t1_path", "fa_path"]
    pd.testing.assert_frame_equal(
        got.drop(columns=paths), wanted.drop(columns=paths), atol=0.06, rtol=0
    )
    for row, other in zip(got.itertuples(), wanted.itertuples(), strict=True):
        assert Path(row.t1_path).read_text() == other.t1_path and "Crop" not in row.t1_path
        assert not row.has_fa or Path(row.fa_path).read_text() == other.fa_path
        assert not row.has_fa or "normalized_space" in row.fa_path
    said = capsys.readouterr().out
    report = json.loads((out / "intake.json").read_text())
    listed = downloads.read(merged / "images.csv")
    crops = next(step for step in report if "then desc-Crop" in step["what"])
    assert crops["count"] == len(crops["which"]) == (listed["t1_path"] != "").sum()
    assert all(step["what"] in said for step in report) and "memoir_book.check" in said
    # The folder may move: images.csv names the images where they are.
    out.rename(tmp_path / "moved")
    assert build(tmp_path / "moved")["t1_path"].equals(got["t1_path"])


# ---- tables


def visit(ptid=ANNA, code="bl", date="2012-03-05", **more):
    return {"RID": ptid[6:], "PTID": ptid, "VISCODE": code, "EXAMDATE": date} | more


SCORES = {"CDRSB": "0.5", "ADAS11": "9", "ADAS13": "14", "MMSE": "28", "MOCA": "25"}
WHO = {"AGE": "73.5", "PTGENDER": "Female", "PTEDUCAT": "16", "APOE4": "1"}
GOOD = {**SCORES, **WHO, "DX": "MCI"}
DEMOGRAPHICS = {"PTGENDER": "2", "PTDOB": "09/1938", "PTEDUCAT": "16"}


def read(folder, **named):
    """Write tables and read them: the visits by person and code, and the report."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in named.items():
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    said = {}
    found = tables.find_tables(images.walk(folder), said)
    visits, _ = tables.read_visits(found, said)
    return visits.set_index("visit"), said


def test_the_newest_edition_is_taken_and_the_others_are_said(tmp_path):
    old = [visit(**GOOD | {"DX": "CN"})]
    new = [visit(**GOOD)]
    named = {"ADNIMERGE_01Dec2024": old, "adnimerge_15Jan2025": new, "ADNIMERGE": old}
    visits, said = read(tmp_path, **named, **{"._ADNIMERGE_16Jan2026": old})
    assert visits.loc[f"{ANNA} bl", "DX"] == "MCI"
    (older,) = (which for what, which in said.items() if "older edition" in what)
    assert {Path(name).name for name in older} == {"ADNIMERGE_01Dec2024.csv", "ADNIMERGE.csv"}
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "ADNIMERGE_15Jan2025 (1).csv").write_text("RID,PTID\n1,2\n")
    with pytest.raises(CohortError, match="of one date and differ"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("All_Subjects_CDR_21Aug2025.csv", "CDR"),
        ("DXSUM_PDXCONV_ADNIALL.csv", "DXSUM"),
        ("ADAS_ADNIGO23_15Dec2025.csv", "ADAS"),
        ("ADASSCORES.csv", "ADAS"),
        ("mmse_2025-12-15.csv", "MMSE"),
        ("MMSE_DICT.csv", None),
        ("MOCA_notes.csv", None),
    ],
)
def test_names_of_tables(name, table):
    assert [*tables.find_tables([Path(name)], {})] == ([table] if table else [])


def test_old_tables_of_every_phase_are_understood(tmp_path):
    """RID alone, DXCURREN and DXCHANGE, boxes of CDR, ADNI1's ADAS, two alleles, parts of birth."""
    codes = [
        ("bl", "", "3"),
        ("m06", "4", ""),
        ("m12", "6", ""),
        ("m24", "7", ""),
        ("m36", "8", ""),
    ]
    days = dict(zip([c[0] for c in codes], ["2006-01-02", "2006-07-03", "2007-01-02", "2008-01-02",
                                            "2009-01-02"], strict=True))  # fmt: skip
    rid = {"RID": "90011"}
    boxes = dict.fromkeys(tables.NAMES["boxes of CDR"], "0.5")
    named = {
        "DXSUM_PDXCONV_ADNIALL": [
            {**rid, "VISCODE": code, "EXAMDATE": days[code], "DXCHANGE": change, "DXCURREN": now}
            for code, change, now in codes
        ],
        "CDR": [
            {**rid, "VISCODE": "bl", **boxes, "CDMEMORY": "2"},
            {**rid, "VISCODE": "m06", **boxes, "CDHOME": "-1"},
        ],
        "ADASSCORES": [{**rid, "VISCODE": "bl", "TOTAL11": "10.67", "TOTALMOD": "18.67"}],
        "ADAS_ADNIGO23": [{**rid, "VISCODE": "m12", "TOTSCORE": "12", "TOTAL13": "20"}],
        "APOERES": [{**rid, "APGEN1": "4.0", "APGEN2": "4.0"}],
        "PTDEMOG": [{**rid, "PTID": ANNA, "PTGENDER": "1.0", "PTDOBMM": "3", "PTDOBYY": "1936"}],
    }
    visits, _ = read(tmp_path, **named)
    assert visits.index.tolist() == [f"{ANNA} {code}" for code in days]
    assert visits["DX"].tolist() == ["Dementia", "MCI", "Dementia", "CN", "MCI"]
    first, second, third = (visits.iloc[n] for n in range(3))
    assert first["CDRSB"] == 4.5 and np.isnan(second["CDRSB"])
    assert first["ADAS11"] == 10.67 and first["ADAS13"] == 18.67 and third["ADAS13"] == 20
    assert set(visits["APOE4"]) == {2} and set(visits["PTGENDER"]) == {"Male"}
    age = (pd.Timestamp("2006-01-02") - pd.Timestamp("1936-03-15")).days / 365.25
    assert np.allclose(visits["AGE"], age, atol=0.01)


def test_viscode2_says_the_visit_also_for_tables_without_it(tmp_path):
    rows = [
        visit(code="v03", VISCODE2="bl", DIAGNOSIS="1"),
        visit(code="v11", VISCODE2="m12", date="2013-03-05", DIAGNOSIS="2"),
    ]
    mmse = [
        {"PTID": ANNA, "VISCODE": "v11", "VISDATE": "2013-03-05", "MMSCORE": "27"},
        {"PTID": ANNA, "VISCODE": "v41", "VISDATE": "2016-03-05", "MMSCORE": "20"},
    ]
    demographics = [{"PTID": ANNA, **DEMOGRAPHICS}]
    visits, said = read(tmp_path, DXSUM=rows, MMSE=mmse, PTDEMOG=demographics)
    assert visits["DX"].to_dict() == {f"{ANNA} bl": "CN", f"{ANNA} m12": "MCI"}
    assert visits.loc[f"{ANNA} m12", "MMSE"] == 27
    assert said["a row whose VISCODE no table explains is left out"] == ["MMSE.csv line 3"]


def test_adni4_has_visits_of_its_own(tmp_path):
    new, old = "4_bl", [visit(BERT, "m144", "2023-06-01", **GOOD)]
    rows = [
        visit(code="4_bl", PHASE="ADNI4", DIAGNOSIS="1"),
        visit(BERT, new, "2024-01-05", PHASE="ADNI4", DIAGNOSIS="3"),
    ]
    both = [{"PTID": name, "PHASE": "ADNI4", **DEMOGRAPHICS} for name in (ANNA, BERT)]
    visits, said = read(tmp_path, ADNIMERGE=old, DXSUM=rows, PTDEMOG=both)
    assert set(visits.index) == {f"{ANNA} bl", f"{BERT} m144"}  # Bert's 4_bl is no baseline
    assert said["visits of ADNI4 that ADNIMERGE lacks, from the single tables"] == [f"{ANNA} bl"]


def test_screening_and_baseline_are_one_visit(tmp_path):
    rows = [
        visit(code="sc", date="2012-02-01", DIAGNOSIS="2"),
        visit(code="bl", date="2012-03-05", DIAGNOSIS=""),
    ]
    mmse = [visit(code="sc", date="2012-02-01", MMSCORE="26"), visit(code="bl", MMSCORE="28")]
    people = [visit(code="sc", date="2012-02-01", **DEMOGRAPHICS)]
    visits, said = read(tmp_path, DXSUM=rows, MMSE=mmse, PTDEMOG=people)
    (row,) = visits.to_dict("records")
    assert row["DX"] == "MCI" and row["MMSE"] == 28
    assert row["EXAMDATE"] == row["EXAMDATE_bl"] == pd.Timestamp("2012-03-05")
    assert any("are one visit" in what and which == [f"{ANNA} bl"] for what, which in said.items())


def test_equal_rows_are_one_and_contradicting_rows_are_named(tmp_path):
    rows = [visit(**GOOD), visit(**GOOD), visit(BERT, **GOOD), visit(BERT, **GOOD | {"DX": "CN"})]
    visits, said = read(tmp_path, ADNIMERGE=rows)
    assert visits.loc[f"{ANNA} bl", "DX"] == "MCI" and pd.isna(visits.loc[f"{BERT} bl", "DX"])
    assert visits.loc[f"{BERT} bl", "MMSE"] == 28
    (which,) = (which for what, which in said.items() if "contradict" in what)
    assert which == ["ADNIMERGE.csv line 4", "ADNIMERGE.csv line 5"]


def test_adnimerge_counts_before_the_single_tables(tmp_path):
    merged = [visit(**GOOD | {"MOCA": ""})]
    diagnosis = [visit(DIAGNOSIS="3"), visit(code="m12", date="2013-03-01", DIAGNOSIS="3")]
    visits, said = read(
        tmp_path, ADNIMERGE=merged, DXSUM=diagnosis, MOCA=[visit(MOCA="21", USERDATE="2020-01-01")]
    )
    assert visits["DX"].tolist() == ["MCI", "Dementia"] and visits["MOCA"].iloc[0] == 21
    assert said["DX of its own table differs; ADNIMERGE counts"] == [f"{ANNA} bl"]
    assert said["MOCA that ADNIMERGE lacks is of its own table"] == [f"{ANNA} bl"]
    assert set(visits["AGE"]) == {73.5}  # of the baseline, on every row


@pytest.mark.parametrize("more", [{}, {"EXAMDATE_bl": "2002-03-05"}])
def test_a_table_that_begins_with_a_later_visit_keeps_the_age(tmp_path, more):
    """AGE is that of the baseline on every row: at m120 this person is 83.5, not 73.5."""
    visits, said = read(tmp_path, ADNIMERGE=[visit(code="m120", **GOOD, **more)])
    visits = cohort.age_at_scan(visits)
    assert visits["AGE"].item() == pytest.approx(83.5, abs=0.05)
    assert any("reckoned back from the months" in what for what in said) == (not more)


def test_an_age_that_grows_is_the_age_at_the_visit(tmp_path):
    days = {"bl": "2012-03-05", "m12": "2013-03-05", "m36": "2015-03-05"}
    grown = dict(zip(days, ("70.1", "71.1", "73.1"), strict=True))
    rows = [visit(code=c, date=day, **GOOD | {"AGE": grown[c]}) for c, day in days.items()]
    wrong = [visit(BERT, code=c, date=day, **GOOD) for c, day in days.items()]
    wrong[1]["AGE"] = "93.5"
    visits, said = read(tmp_path, ADNIMERGE=[*rows, *wrong])
    assert visits.loc[[f"{ANNA} {c}" for c in days], "AGE"].to_numpy() == pytest.approx(
        70.1, abs=0.02
    )
    assert visits.loc[[f"{BERT} {c}" for c in days], "AGE"].isna().all()
    assert said["AGE contradicts itself and does not count"] == [BERT]


def test_a_visits_date_is_its_own_or_the_registrys_never_the_day_of_entry(tmp_path):
    rows = [
        visit(date="", DIAGNOSIS="1", USERDATE="2020-01-01"),
        visit(code="m12", date="", DIAGNOSIS="1", USERDATE="2020-01-01"),
    ]
    visits, said = read(tmp_path, DXSUM=rows, REGISTRY=[visit()], PTDEMOG=[visit(**DEMOGRAPHICS)])
    assert visits["EXAMDATE"].to_dict() == {f"{ANNA} bl": pd.Timestamp("2012-03-05")}
    (which,) = (which for what, which in said.items() if "USERDATE" in what)
    assert which == [f"{ANNA} m12"]


def test_dates_of_one_visit_that_lie_far_apart_are_said(tmp_path):
    rows = [visit(DIAGNOSIS="1")]
    cdr = [visit(date="2013-03-05", CDRSB="0")]
    visits, said = read(tmp_path, DXSUM=rows, CDR=cdr, PTDEMOG=[visit(**DEMOGRAPHICS)])
    assert visits["EXAMDATE"].item() == pd.Timestamp("2012-03-05")
    assert any("days apart" in what and which == [f"{ANNA} bl"] for what, which in said.items())


def test_a_person_is_not_two(tmp_path):
    with pytest.raises(CohortError, match=r"ADNIMERGE.csv: one RID .* stands under two PTIDs"):
        read(tmp_path, ADNIMERGE=[visit(**GOOD), visit(BERT, **GOOD) | {"RID": ANNA[6:]}])
    with pytest.raises(CohortError, match=rf"one PTID \({ANNA}\) stands under two RIDs"):
        read(tmp_path, ADNIMERGE=[visit(**GOOD), visit(**GOOD) | {"RID": "7", "VISCODE": "m12"}])


def test_values_that_cannot_be_are_named_where_they_stand(tmp_path):
    rows = [visit(MMSCORE="28"), visit(BERT, MMSCORE="31")]
    mixed = [visit(date="25/12/2012"), visit(BERT, date="12/25/2012")]
    with pytest.raises(CohortError) as error:
        read(tmp_path, DXSUM=mixed, MMSE=rows)
    one, two = error.value.problems
    assert "day" in one.what and one.column == "EXAMDATE"
    assert (two.line, two.column) == ("3", "MMSCORE") and "0 to 30" in two.what


@pytest.mark.parametrize(("separator", "encoding"), [("\t", "utf-16"), (";", "cp1252")])
def test_tables_from_a_spreadsheet(tmp_path, separator, encoding):
    merged = pd.DataFrame([visit(**GOOD | {"CDRSB": "0,5", "NAME": "é"})])
    merged.to_csv(tmp_path / "ADNIMERGE.csv", index=False, sep=separator, encoding=encoding)
    visits, _ = read(tmp_path)
    assert visits["CDRSB"].item() == 0.5


# ---- images


def put(folder, *names, content=None):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((content or name).encode())


def tree(subject="sub-ADNI901S90011", session="ses-M012"):
    return f"{subject}/{session}", f"{subject}_{session}"


@pytest.mark.parametrize("session", ["ses-M012", "ses-M12", "ses-m12"])
def test_clinicas_tree(tmp_path, session):
    """All that its pipelines leave of one visit, and what macOS adds."""
    base, stem = tree(session=session)
    dti, mni = f"subjects/{base}/dwi/dti_based_processing", "space-MNI152NLin2009cSym"
    put(
        tmp_path,
        f"subjects/{base}/t1_linear/{stem}_{mni}_desc-Crop_res-1x1x1_T1w.nii.gz",
        f"subjects/{base}/t1_linear/{stem}_{mni}_res-1x1x1_T1w.nii.gz",
        f"subjects/{base}/t1_linear/._{stem}_{mni}_res-1x1x1_T1w.nii.gz",
        f"subjects/{base}/t1/spm/segmentation/normalized_space/{stem}_space-Ixi549Space_T1w.nii.gz",
        f"{dti}/native_space/{stem}_dwi_space-b0_FA.nii.gz",
        f"{dti}/native_space/{stem}_dwi_space-b0_DECFA.nii.gz",
        f"{dti}/normalized_space/{stem}_dwi_space-MNI152Lin_res-1x1x1_FA.nii.gz",
        f"{dti}/normalized_space/{stem}_dwi_space-MNI152Lin_res-1x1x1_MD.nii.gz",
    )
    found = images.find_images(tmp_path)
    (row,) = found.to_dict("records")
    assert (row["PTID"], row["VISCODE"]) == (ANNA, "m12")
    assert row["t1_path"].endswith(f"{mni}_res-1x1x1_T1w.nii.gz")
    assert row["fa_path"].endswith("MNI152Lin_res-1x1x1_FA.nii.gz")
    assert len(found.attrs["notes"]) == 3 and all(": 1 files" in n for n in found.attrs["notes"])


def test_of_two_runs_the_later_and_of_two_files_that_no_rule_parts_none(tmp_path):
    base, stem = tree()
    name = f"{base}/anat/{stem}_{{}}space-MNI152NLin6Asym_T1w.nii.gz"
    put(tmp_path, *(name.format(run) for run in ("run-1_", "run-02_", "run-10_")))
    assert "run-10" in images.find_images(tmp_path)["t1_path"].item()
    put(tmp_path, f"derivatives/{name.format('run-10_')}")
    with pytest.raises(CohortError, match="second file for one visit"):
        images.find_images(tmp_path)


def test_native_space_is_refused_with_the_command_that_registers(tmp_path):
    base, stem = tree()
    put(tmp_path, f"{base}/anat/{stem}_run-01_T1w.nii.gz", f"{base}/anat/{stem}_run-02_T1w.nii.gz")
    with pytest.raises(
        CohortError, match=r"native space; run `python -m memoir_book\.intake prepare"
    ):
        images.find_images(tmp_path)
    put(tmp_path, f"derivatives/x/{base}/anat/{stem}_space-MNI152NLin6Asym_desc-preproc_T1w.nii.gz")
    assert "derivatives" in images.find_images(tmp_path)["t1_path"].item()


def test_a_folder_that_names_no_visit_is_named(tmp_path):
    put(tmp_path, "sub-ADNI901S90011/anat/sub-ADNI901S90011_space-MNI_T1w.nii.gz")
    with pytest.raises(CohortError, match="no PTID or visit"):
        images.find_images(tmp_path)


def volume(path, extent=(180, 216, 180)):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = nib.Nifti1Header()
    header["descrip"] = path.name[-70:].encode()  # no two of equal content
    data = np.zeros([size // 20 for size in extent], np.uint8)
    nib.save(nib.Nifti1Image(data, np.diag([20.0, 20, 20, 1]), header), path)


@pytest.fixture
def unpacked(tmp_path):
    """What LONI gives out: a table, a collection's table, and a folder a series."""
    download = tmp_path / "download"
    rows = [visit(**GOOD), visit(code="m12", date="2013-03-05", **GOOD)]
    rows += [visit(BERT, date="2014-05-06", **GOOD), visit(BERT, "m12", "2015-05-06", **GOOD)]
    rows[3]["IMAGEUID"] = "777"
    download.mkdir()
    pd.DataFrame(rows).to_csv(download / "ADNIMERGE_15Dec2025.csv", index=False)

    def series(ptid, described, day, image, extent=(180, 216, 180)):
        folder = f"ADNI/{ptid}/{described}/{day}_09_00_00.0/I{image}"
        name = f"{folder}/ADNI_{ptid}_MR_{described}_Br_S1_I{image}.nii"
        volume(download / name, extent)
        return name

    return download, series


def listed(out):
    table = downloads.read(out / "images.csv").set_index(["PTID", "VISCODE"])
    return {key: Path(name).parent.name for key, name in table["t1_path"].items() if name}


def test_lonis_folder_by_image_id_label_and_date(unpacked, tmp_path, capsys):
    download, series = unpacked
    done = "MT1__GradWarp__N3m"
    series(ANNA, done, "2013-02-20", 101)  # by date, 13 days before m12
    series(ANNA, done, "2013-02-20", 99)  # an earlier image ID
    series(ANNA, "MPRAGE", "2013-02-20", 301)  # as the scanner left it
    series(ANNA, "Axial_T2_FLAIR", "2013-02-20", 302)
    series(ANNA, done, "2018-01-01", 303)  # no visit within 90 days
    series(BERT, done, "2014-05-06", 777)  # the date of bl, but IMAGEUID of m12
    series(BERT, done, "2015-05-06", 104)  # labelled as the screening
    series(BERT, done, "2015-05-06", 305, (208, 240, 256))  # the whole head
    downloads.collection(
        download / "T1_12_15_2025.csv",
        [("I104", BERT, "sc", "MT1; GradWarp; N3m", "Processed", "5/6/2015")],
    )
    assert convert(download, tmp_path / "out") == 0, capsys.readouterr()
    assert listed(tmp_path / "out") == {
        (ANNA, "m12"): "I101",
        (BERT, "m12"): "I777",
        (BERT, "bl"): "I104",
    }
    report = json.loads((tmp_path / "out" / "intake.json").read_text())
    left = {Path(name).parent.name: step["what"] for step in report for name in step["which"]}
    assert "native" in left["I301"] + left["I305"] and "nor an FA" in left["I302"]
    assert "within 90 days" in left["I303"] and "highest image ID" in left["I99"]


def test_what_the_scanner_left_is_refused(unpacked, tmp_path, capsys):
    download, series = unpacked
    series(ANNA, "Accelerated_Sagittal_MPRAGE", "2013-03-05", 101)
    put(download, f"ADNI/{BERT}/MPRAGE/2014-05-06_09_00_00.0/I102/slice_1.dcm")
    assert convert(download, tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert "all 2 files are in native space" in said and "memoir_book.intake prepare" in said
    assert not (tmp_path / "out").exists()


def test_registered_images_are_listed_by_their_id(unpacked, tmp_path):
    """`prepare` knows the ID of an image; the download's folders know whose it is and when."""
    download, series = unpacked
    for image in (101, 103):
        series(ANNA, "MPRAGE", "2013-03-05", image)
    downloads.collection(
        download / "T1.csv", [("I104", BERT, "bl", "MPRAGE", "Original", "5/6/2014")]
    )
    new, ids = tmp_path / "new", ("101", "103", "104", "777", "888")
    put(new, *(f"I{image}/T1.nii.gz" for image in ids))
    rows = [{"IMAGEUID": n, "t1_path": f"I{n}/T1.nii.gz", "fa_path": ""} for n in ids]
    pd.DataFrame(rows).to_csv(new / "images.csv", index=False)
    assert convert(download, tmp_path / "out", "--images", str(new)) == 0
    assert listed(tmp_path / "out") == {
        (ANNA, "m12"): "I103",  # of two on one day the later image
        (BERT, "bl"): "I104",
        (BERT, "m12"): "I777",
    }
    report = json.loads((tmp_path / "out" / "intake.json").read_text())
    left = {name: step["what"] for step in report for name in step["which"]}
    assert "without a visit" in left["888"] and "highest image ID" in left["101"]


def test_one_image_under_two_people_is_refused(merged, tmp_path, capsys):
    download = tmp_path / "download"
    table = downloads.read(merged / "images.csv")
    one, other = table[table["t1_path"] != ""].drop_duplicates("PTID").index[:2]
    for name in filter(None, [*table["t1_path"], *table["fa_path"]]):
        put(download, name)
    put(download, table["t1_path"][other], content=table["t1_path"][one])
    for name in ("ADNIMERGE.csv", "images.csv"):
        (download / name).write_bytes((merged / name).read_bytes())
    assert convert(download, tmp_path / "out") == 1
    assert "has the same content as" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


# ---- the command


def test_a_folder_of_images_may_lie_elsewhere_and_windows_may_have_written_the_list(
    merged, tmp_path
):
    put(tmp_path / "tables", "readme.txt")
    table = merged / "ADNIMERGE.csv"
    (tmp_path / "tables" / "ADNIMERGE_15Dec2025.csv").write_bytes(table.read_bytes())
    for name in filter(None, downloads.read(merged / "images.csv")["t1_path"]):
        put(tmp_path / "images", name)
    images_csv = downloads.read(merged / "images.csv").assign(fa_path="")
    images_csv["t1_path"] = images_csv["t1_path"].str.replace("/", "\\")
    images_csv.to_csv(tmp_path / "images" / "images.csv", index=False, encoding="utf-8-sig")
    more = ("--images", str(tmp_path / "images"))
    assert convert(tmp_path / "tables", tmp_path / "out", *more) == 0
    assert len(build(tmp_path / "out")) == len(build(merged))


def test_nothing_is_overwritten_that_the_command_did_not_write(merged, tmp_path, capsys):
    put(tmp_path, "out/ADNIMERGE.csv", content="mine")
    assert convert(merged, tmp_path / "out") == 1
    assert convert(merged, merged) == 1
    assert convert(tmp_path / "nowhere", tmp_path / "new") == 1
    assert "name a folder" in capsys.readouterr().out
    assert (tmp_path / "out" / "ADNIMERGE.csv").read_text() == "mine"
    put(tmp_path, "out/intake.json", content="[]")  # as an earlier call of the command leaves it
    assert convert(merged, tmp_path / "out") == 0


def test_a_folder_without_adnis_tables_is_said_to_be_one(tmp_path, capsys):
    put(tmp_path, "download/notes.csv")
    assert convert(tmp_path / "download", tmp_path / "out") == 1
    assert "no table called ADNIMERGE or DXSUM" in capsys.readouterr().out


def test_what_is_found_is_named_with_the_command(merged, tmp_path, unpacked):
    assert adni.found(merged) == ""
    download = downloads.loni(tmp_path / "seven", merged)
    said = adni.found(download)
    for table in ("DXSUM", "CDR", "MMSE", "MOCA", "ADAS", "APOERES", "PTDEMOG"):
        assert f"Study_Files/{table}_15Dec2025.csv" in said
    assert f"`python -m memoir_book.intake adni {download} OUT`" in said
    folder, series = unpacked
    series(ANNA, "MPRAGE", "2013-03-05", 101)
    downloads.collection(folder / "T1_12_15_2025.csv", [("I101", ANNA, "bl", "x", "y", "1/1/2013")])
    said = adni.found(folder)
    assert all(n in said for n in ("ADNIMERGE_15Dec2025", "T1_12_15_2025.csv", "ADNI/... as LONI"))
    (folder / "ADNIMERGE_15Dec2025.csv").rename(folder / "ADNIMERGE.csv")
    with pytest.raises(CohortError, match=r"memoir_book\.intake adni"):
        images.list_images(folder)
