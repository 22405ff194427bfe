"""The filters by hand on ten visits, the split, and what must never cross it."""

import os

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from memoir_book.baselines import baselines
from memoir_core import cohort
from memoir_core.cohort import CohortError, DataLeakageError
from memoir_core.config import DX, SCORES


@pytest.fixture
def visits():
    """Ten visits of five people, not in order of RID or date."""
    rows = [
        # RID, visit, date, first exam, diagnosis
        (5, "bl", "2010-01-01", "2010-01-01", "CN"),
        (5, "m24", "2012-01-01", "2010-01-01", "MCI"),
        (5, "m12", "2011-01-01", "2010-01-01", "MCI"),
        (5, "m36", "2013-01-01", "2010-01-01", None),  # no diagnosis
        (2, "m12", "2010-06-01", "2009-06-01", "Dementia"),
        (2, "bl", "2009-06-01", "2009-06-01", "MCI"),
        (3, "bl", "2010-03-01", "2010-03-01", None),  # never a diagnosis
        (4, "bl", "2011-01-01", "2011-01-01", "Dementia"),  # never a T1
        (1, "bl", "2012-01-01", "2012-01-01", "CN"),
        (1, "m06", "2012-07-01", "2012-01-01", "CN"),  # no T1 at this visit
    ]
    table = pd.DataFrame(rows, columns=["RID", "VISCODE", "EXAMDATE", "EXAMDATE_bl", "DX"])
    for column in ("EXAMDATE", "EXAMDATE_bl"):
        table[column] = pd.to_datetime(table[column])
    table["PTID"] = [f"00{9 - rid}_S_000{rid}" for rid in table["RID"]]  # other order than RID
    known = {"AGE": 70.0, "PTGENDER": "Female", "APOE4": 1.0, **dict.fromkeys(SCORES, 1.0)}
    return table.assign(**known, PTEDUCAT=12.0)


@pytest.fixture
def images(visits):
    rows = [
        (5, "bl", "a.nii", "fa.nii"),
        (5, "m24", "b.nii", None),
        (5, "m36", "x.nii", "y.nii"),
        (2, "bl", "c.nii", None),
        (2, "m12", "d.nii", "fd.nii"),
        (4, "bl", None, "only-fa.nii"),
        (3, "bl", "z.nii", None),
        (1, "bl", "e.nii", None),
    ]
    table = pd.DataFrame(rows, columns=["RID", "VISCODE", "t1_path", "fa_path"])
    table["PTID"] = [f"00{9 - rid}_S_000{rid}" for rid in table["RID"]]
    return table.drop(columns="RID")


def test_age_is_that_at_the_visit(visits):
    ages = cohort.age_at_scan(visits).set_index(["RID", "VISCODE"])["AGE"]
    assert ages[5, "bl"] == 70
    assert ages[5, "m24"] == 70 + 730 / 365.25
    assert ages[1, "m06"] == 70 + 182 / 365.25
    assert (visits["AGE"] == 70).all()  # the table given stays as it was


def test_a_diagnosis_must_be_there(visits):
    left = cohort.valid_diagnosis(visits)
    assert len(left) == 8 and left["DX"].notna().all() and 3 not in set(left["RID"])


def test_images_are_those_of_the_same_person_and_visit(visits, images):
    found = cohort.attach_images(visits, images).set_index(["RID", "VISCODE"])
    assert len(found) == len(visits)  # nobody is lost here
    assert found.loc[(5, "m24"), "t1_path"] == "b.nii"
    assert found.loc[(2, "m12"), "fa_path"] == "fd.nii"
    assert found.loc[(5, "m12"), ["t1_path", "fa_path"]].isna().all()
    assert set(cohort.with_t1(found.reset_index())["t1_path"]) == set(images["t1_path"].dropna())


def test_images_may_be_named_by_image_id(visits, images):
    visits["IMAGEUID"] = [str(n) for n in range(10)]
    by_id = pd.DataFrame({"IMAGEUID": ["4", "8"], "t1_path": ["d", "e"], "fa_path": [None, "f"]})
    left = cohort.with_t1(cohort.attach_images(visits, by_id))
    assert left[["RID", "VISCODE"]].to_numpy().tolist() == [[2, "m12"], [1, "bl"]]
    with pytest.raises(CohortError, match="no IMAGEUID"):
        cohort.attach_images(visits.drop(columns="IMAGEUID"), by_id)


def test_what_measured_a_visit_is_kept_and_may_be_unknown(visits, images):
    table, _ = cohort.build_cohort(visits, images, None, 0)
    assert table[["SITE", "COLPROT", "MANUFACTURER"]].isna().all(axis=None)
    phases = visits["EXAMDATE"].dt.year.map("phase {}".format)
    sites = visits["PTID"].str[:3]
    scanners = images.assign(MANUFACTURER=[*"ABCDEFGH"])
    table, _ = cohort.build_cohort(visits.assign(COLPROT=phases, SITE=sites), scanners, None, 0)
    assert table["RID"].tolist() == [1, 2, 5]
    assert table["COLPROT"].tolist() == ["phase 2012", "phase 2010", "phase 2012"]
    assert table["SITE"].tolist() == ["008", "007", "004"]
    assert table["MANUFACTURER"].tolist() == ["H", "E", "B"]  # of the scan that is kept


@pytest.mark.parametrize(
    ("visit", "kept"), [("latest", ["m06", "m12", "bl", "bl", "m36"]), ("earliest", ["bl"] * 5)]
)
def test_one_scan_per_subject(visits, visit, kept):
    left = cohort.one_scan_per_subject(visits, visit).sort_values("RID")
    assert left["RID"].tolist() == [1, 2, 3, 4, 5] and left["VISCODE"].tolist() == kept
    with pytest.raises(ValueError, match="use 'latest' or 'earliest'"):
        cohort.one_scan_per_subject(visits, "last")


@pytest.mark.parametrize(
    ("visit", "want", "has_fa"),
    [("latest", ["bl", "m12", "m24"], [0, 1, 0]), ("earliest", ["bl", "bl", "bl"], [0, 0, 1])],
)
def test_the_chain_by_hand(visits, images, visit, want, has_fa):
    table, flow = cohort.build_cohort(visits, images, None, 0, visit)
    assert list(table) == list(cohort.COLUMNS)
    assert table["RID"].tolist() == [1, 2, 5]  # ordered by RID, not by PTID
    assert table["case"].tolist() == [0, 1, 2]
    assert table["VISCODE"].tolist() == want
    assert table["has_fa"].tolist() == has_fa
    assert [step["rows"] for step in flow] == [10, 8, 5, 3]
    assert [step["subjects"] for step in flow] == [5, 4, 3, 3]
    last = {"latest": (1, 1, 1), "earliest": (2, 1, 0)}[visit]
    assert tuple(flow[-1][dx] for dx in DX) == last
    assert flow[1]["CN"] == 1 and flow[1]["Dementia"] == 2  # by the last diagnosis left
    for name in DX:  # a visit without a diagnosis takes none away: no class gains by that filter
        assert flow[0][name] == flow[1][name]


def test_who_filters_visits_changes_the_cohort(visits, images):
    younger = visits[visits["RID"] != 2]
    table, _ = cohort.build_cohort(younger, images, None, 0)
    assert table["RID"].tolist() == [1, 5]
    later, _ = cohort.build_cohort(visits[visits["VISCODE"] != "bl"], images, None, 0)
    assert later.set_index("RID")["AGE"][2] == 70 + 365 / 365.25  # still since the first exam


def test_nobody_left_is_named(visits, images):
    with pytest.raises(CohortError, match="no visit has both a diagnosis and a T1"):
        cohort.build_cohort(visits, images.assign(VISCODE="m99"), None, 0)


def test_listed_images_must_exist(visits, images, tmp_path):
    for name in [*images["t1_path"].dropna(), *images["fa_path"].dropna()]:
        (tmp_path / name).write_text(name)
    assert len(cohort.build_cohort(visits, images, tmp_path, 0)[0]) == 3
    (tmp_path / "b.nii").unlink()
    with pytest.raises(CohortError, match=r"b\.nii: is missing, or no regular file \(1 of the"):
        cohort.build_cohort(visits, images, tmp_path, 0)


def test_listed_images_are_regular_files_which_a_link_or_a_whole_path_may_lead_to(
    visits, images, tmp_path
):
    """Images lie on another disk, as `intake adni` leaves them; no pipe is waited for."""
    disk, download = tmp_path / "disk", tmp_path / "download"
    disk.mkdir()
    download.mkdir()
    for name in [*images["t1_path"].dropna(), *images["fa_path"].dropna()]:
        (disk / name).write_text(name)
        (download / name).symlink_to(disk / name)
    whole = images.assign(t1_path=images["t1_path"].map(lambda n: str(disk / n), "ignore"))
    for listed in (images, whole):
        assert len(cohort.build_cohort(visits, listed, download, 0)[0]) == 3
    os.mkfifo(download / "pipe")
    (download / "turning").symlink_to("turning")
    (download / "endless").symlink_to("/dev/zero")
    wrong = ("pipe", "turning", "endless", "/dev/zero", "/dev/stdin", ".", "x" * 300, "a\0b")
    for bad in wrong:
        table = pd.DataFrame({"t1_path": [bad, bad], "fa_path": [None, bad]})
        with pytest.raises(CohortError, match="is missing, or no regular file") as error:
            cohort.check_copies(table, download)
        assert str(error.value).isprintable()


# --- the split --------------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "n", "train"), [("CN", 837, 669), ("MCI", 813, 650)])
def test_the_published_parts_come_out(dx, n, train):
    parts = cohort.split(pd.Series([dx] * n + ["Dementia"] * 713), seed=0)
    own, other = parts[:n], parts[n:]
    assert (own != "test").sum() == train and (own == "test").sum() == n - train
    assert (other != "test").sum() == 570 and (other == "test").sum() == 143


def test_validation_comes_out_of_train_only():
    dx = pd.Series(["CN"] * 100 + ["MCI"] * 50)
    parts = cohort.split(dx, 0, 0.15)
    without = cohort.split(dx, 0, 0.0)
    assert ((parts == "test") == (without == "test")).all()
    assert (parts[:100] == "val").sum() == 12 and (parts[100:] == "val").sum() == 6
    assert set(without) == {"train", "test"}


def test_the_split_is_drawn_by_the_seed_and_is_the_same_everywhere():
    dx = pd.Series(["CN", "MCI", "Dementia"] * 5)
    assert (cohort.split(dx, 7) == cohort.split(dx, 7)).all()
    assert (cohort.split(dx, 7) != cohort.split(dx, 8)).any()
    letters = "".join(part[1] for part in cohort.split(dx, 0, 0.25))  # t(r)ain, v(a)l, t(e)st
    assert letters == "reaaarerrrrerrr"


def table_of(parts, **columns):
    n = len(parts)
    table = pd.DataFrame({"case": range(n), "PTID": [f"p{i}" for i in range(n)], "split": parts})
    table["RID"] = range(100, 100 + n)
    table["t1_path"] = [f"{i}.nii" for i in range(n)]
    return table.assign(fa_path=None, **columns)


@pytest.mark.parametrize("column", ["PTID", "RID", "t1_path", "fa_path"])
def test_nothing_stands_on_both_sides(column):
    table = table_of(["train", "train", "val", "test"])
    table["fa_path"] = ["a", "b", None, "d"]
    cohort.check_split(table)
    table.loc[1, column] = table.loc[0, column]
    cohort.check_split(table)  # twice on one side is no leak
    table.loc[3, column] = table.loc[0, column]
    with pytest.raises(DataLeakageError, match=f"one {column} .*: cases 0, 1, 3"):
        cohort.check_split(table)


def test_equal_content_is_found_whatever_the_split(tmp_path):
    table = table_of(["train", "train", "test", "val"])
    table["fa_path"] = ["f0", None, "f2", None]
    names = ("0.nii", "1.nii", "2.nii", "3.nii", "f0", "f2")
    for name, text in zip(names, ("aa", "ba", "ab", "abc", "xx", "zz"), strict=True):
        (tmp_path / name).write_text(text)
    cohort.check_copies(table, tmp_path)
    (tmp_path / "1.nii").write_text("aa")  # both in train today; another seed splits them
    with pytest.raises(DataLeakageError, match=r"1\.nii: has the same content as .*0\.nii"):
        cohort.check_copies(table, tmp_path)
    (tmp_path / "1.nii").write_text("zz")  # one's T1 is another's FA
    with pytest.raises(DataLeakageError, match=r"f2: has the same content as .*1\.nii"):
        cohort.check_copies(table, tmp_path)


def test_training_on_a_test_subject_is_found():
    table = table_of(["train", "val", "test", "test"])
    cohort.check_training_cases(table, np.array([0, 1]), "the index")
    with pytest.raises(DataLeakageError, match=r"the index holds test case 2 \(2 in all\)"):
        cohort.check_training_cases(table, np.array([0, 3, 2]), "the index")


def test_the_chain_checks_its_split(visits, tmp_path):
    """Ten people, one T1 among them: named alike, or copied."""
    first = visits.iloc[[8]]
    people = pd.concat([first.assign(RID=n, PTID=f"p{n}") for n in range(10)], ignore_index=True)
    shared = people[["PTID", "VISCODE"]].assign(t1_path="a.nii", fa_path=None)
    with pytest.raises(DataLeakageError, match="one t1_path"):
        cohort.build_cohort(people, shared, None, 0)
    own = shared.assign(t1_path=[f"{n}.nii" for n in range(10)])
    for name in own["t1_path"]:
        (tmp_path / name).write_text("the same")
    with pytest.raises(DataLeakageError, match="same content"):
        cohort.build_cohort(people, own, tmp_path, 0)


# --- storing and summarising ------------------------------------------------------------


def test_what_is_stored_is_read_and_checked(visits, images, tmp_path):
    table, _ = cohort.build_cohort(visits, images, None, 0)
    cohort.write_cohort(tmp_path / "cohort.parquet", table)
    pd.testing.assert_frame_equal(cohort.load_cohort(tmp_path / "cohort.parquet"), table)
    twice = table.assign(split=["train", "test", "test"], PTID="p")
    cohort.write_cohort(tmp_path / "cohort.parquet", twice)
    with pytest.raises(DataLeakageError):
        cohort.load_cohort(tmp_path / "cohort.parquet")


def test_counts_put_validation_into_train():
    parts = ["train", "val", "val", "test", "test", "test"]
    table = pd.DataFrame({"DX": ["CN"] * 4 + ["MCI"] * 2, "split": parts})
    counts = cohort.counts(table)
    assert counts.loc["CN"].tolist() == [3, 1, 4]
    assert counts.loc["MCI"].tolist() == [0, 2, 2]
    assert counts.loc["Dementia"].tolist() == [0, 0, 0]
    assert counts.loc["Total"].tolist() == [3, 3, 6]


def test_the_synthetic_cohort_has_the_published_counts(records):
    table, flow = records
    counts = cohort.counts(table)
    assert counts.loc["CN"].tolist() == [669, 168, 837]
    assert counts.loc["MCI"].tolist() == [650, 163, 813]
    assert counts.loc["Dementia"].tolist() == [570, 143, 713]
    assert table["fa_path"].notna().sum() == 930
    assert [step["rows"] for step in flow] == sorted((s["rows"] for s in flow), reverse=True)
    assert table["RID"].is_monotonic_increasing
    assert set(table["COLPROT"]) == {"ADNI1", "ADNIGO", "ADNI2", "ADNI3"}
    assert set(table["MANUFACTURER"]) == {"SIEMENS", "GE", "PHILIPS"}
    assert (table["SITE"] == table["PTID"].str[:3]).all()


def presence(table):
    """Balanced accuracy of each test subject's class, told only what was measured."""
    known = np.stack([table["has_fa"], table["MOCA"].notna()], axis=1).astype(float)
    test = (table["split"] == "test").to_numpy()
    model = LogisticRegression(class_weight="balanced").fit(known[~test], table["DX"][~test])
    return (model.predict(known[test]) == table["DX"][test]).groupby(table["DX"][test])


def test_what_was_measured_says_something_about_the_diagnosis(records):
    """DTI and MoCA are not missing at random, as in ADNI."""
    table, _ = records
    hits = presence(table)
    value, error = hits.mean().mean(), np.sqrt((hits.var() / hits.size()).sum()) / 3
    assert value - 1.96 * error > 1 / 3
    shuffled = table.assign(DX=table["DX"].sample(frac=1, random_state=0).to_numpy())
    hits = presence(shuffled)  # of nobody's own diagnosis: chance
    error = np.sqrt((hits.var() / hits.size()).sum()) / 3
    assert abs(hits.mean().mean() - 1 / 3) < 2.6 * error


def test_the_scores_reach_the_published_accuracy(records):
    table, _ = records
    found = baselines(table)
    assert 0.67 < found["dx3 logistic"]["balanced_accuracy"] < 0.73
    assert 0.90 < found["dx2 logistic"]["balanced_accuracy"] < 0.97
