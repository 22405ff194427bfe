"""Every problem of a download is listed at once, and other folder layouts are understood."""

import os
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from memoir_book import check
from memoir_book.intake import content
from memoir_book.intake.images import list_images
from memoir_core import cohort
from memoir_core.cohort import CohortError, DataLeakageError
from memoir_core.volumes import GRID
from synthetic_adni.tables import SCORE_DRIFT
from synthetic_adni.write import write_tables


@pytest.fixture
def download(tmp_path):
    """Synthetic tables with the template (8 mm, and noise) in place of the images, to break."""
    folder = tmp_path / "adni data ä"
    write_tables(folder, 24, 0.5)
    affine = np.diag([*(np.array(GRID) * 2 / content.BLOCKS), 1])
    affine[:3, 3] = np.diag(affine)[:3] / 2 - [91, 127, 73]
    rng = np.random.default_rng(0)
    images = pd.read_csv(folder / "images.csv", dtype=str)
    for column in ("t1_path", "fa_path"):
        like = content.template(content.LIKE[column[:2]]) * content.template("brain_mask")
        like = like if column == "t1_path" else 0.6 * like**1.5 + 0.1 * (like > 0.01)
        for name in images[column].dropna():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            data = like * rng.uniform(0.95, 1.05, like.shape) * (1000 if column == "t1_path" else 1)
            nib.save(nib.Nifti1Image(data.astype(np.float32), affine), folder / name)
    return folder


def build(folder, images=True):
    visits = cohort.read_adnimerge(folder / "ADNIMERGE.csv")
    return cohort.build_cohort(visits, list_images(folder), folder if images else None, seed=0)


def edit(folder, row, **values):
    path = folder / "ADNIMERGE.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column, value in values.items():
        table.loc[row, column] = value
    table.to_csv(path, index=False)
    return table


def volume(path, change=None, affine=None):
    image = nib.load(path)
    data = np.asarray(image.dataobj, np.float32)
    nib.save(nib.Nifti1Image(data if change is None else change(data), affine), path)


def test_a_good_download_passes(download, tmp_path, capsys):
    assert check.main([str(download), "--csv", str(tmp_path / "p.csv")]) == 0
    assert "No problem found" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "p.csv")) == 0
    assert (tmp_path / "p.csv").stat().st_mode & 0o777 == 0o600, "it may name people"


def test_all_problems_are_listed_not_only_the_first(download, tmp_path, capsys):
    table = pd.read_csv(download / "ADNIMERGE.csv", dtype=str)
    first, second = table.index[~table.duplicated(keep=False)][:2]
    edit(download, first, DX="SMC", MMSE="44")
    edit(download, second, EXAMDATE="soon", ADAS13="x")
    images = pd.read_csv(download / "images.csv", dtype=str).dropna(subset=["t1_path"])
    files = [download / name for name in images["t1_path"][:6]]
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:600])
    good = nib.load(files[2]).affine
    volume(files[2], lambda v: v * np.nan, good)
    volume(files[3], affine=np.eye(4))
    shifted = good.copy()
    shifted[:3, 3] += 90
    volume(files[4], affine=shifted)
    volume(files[5], lambda v: v * 0 + 7, good)
    assert check.main([str(download), "--csv", str(tmp_path / "p.csv")]) == 1
    found = pd.read_csv(tmp_path / "p.csv", dtype=str).fillna("")
    assert list(found) == check.COLUMNS
    lines = found[found["line"] != ""]
    assert {*zip(lines["line"], lines["column"], strict=True)} == {
        (str(first + 2), "DX"),
        (str(first + 2), "MMSE"),
        (str(second + 2), "ADAS13"),
        (str(second + 2), "EXAMDATE"),
    }
    whats = dict(zip(found["file"], found["what"], strict=True))
    for file, word in zip(
        files,
        ("missing", "cannot be read", "NaN", "holds no value", "holds no value", "same value"),
        strict=True,
    ):
        assert word in whats[str(file)]
    assert (found["mend"] != "").all()
    assert f"{len(found)} problems" in capsys.readouterr().out


def test_the_machine_is_looked_at_with_the_data(download, tmp_path, capsys, monkeypatch):
    said = [("ok", "memory", "much"), ("fail", "disk", "full; free some")]
    monkeypatch.setattr(check.doctor, "machine", lambda profile, device: iter(said))
    assert check.main([str(download), "--csv", str(tmp_path / "p.csv"), "--profile", "paper"]) == 0
    out = capsys.readouterr().out
    assert "paper on this machine, fail: disk: full; free some" in out and "much" not in out


def test_a_list_that_cannot_be_written_is_no_crash(download, tmp_path, capsys):
    (download / "ADNIMERGE.csv").unlink()
    (tmp_path / "taken").write_text("a file, no folder")
    assert check.main([str(download), "--csv", str(tmp_path / "taken" / "p.csv")]) == 1
    out = capsys.readouterr().out
    assert "is missing" in out and "could not be written" in out


def test_dates_that_begin_with_the_day_are_told(download, tmp_path, capsys):
    path = download / "ADNIMERGE.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["EXAMDATE"] = pd.to_datetime(table["EXAMDATE"]).dt.strftime("%d/%m/%Y")
    plain, _ = build(download)
    table.to_csv(path, index=False)
    options = [str(download), "--csv", str(tmp_path / "p.csv"), "--skip-images"]
    assert check.main(options) == 0
    assert "EXAMDATE: read with the day first" in capsys.readouterr().out
    pd.testing.assert_frame_equal(build(download)[0], plain)


def test_a_table_that_cannot_be_read_does_not_hide_the_other(download):
    (download / "ADNIMERGE.csv").write_text("RID,PTID\n1,2\n")
    images = pd.read_csv(download / "images.csv", dtype=str)
    (download / images["t1_path"].dropna().iloc[0]).unlink()
    found = check.check_download(download, images=False)
    assert "lacks the column" in found[0].what and "missing" in found[1].what


def test_a_copied_image_on_both_sides_is_leakage(download):
    table, _ = build(download)
    train = table[table["split"] == "train"].iloc[0]
    test = table[table["split"] == "test"].iloc[0]
    shutil.copyfile(download / train["t1_path"], download / test["t1_path"])
    with pytest.raises(DataLeakageError, match="same content"):
        build(download)
    assert "same content" in check.check_download(download)[0].what


@pytest.mark.parametrize("layout", ["caps", "bids"])
def test_a_tree_without_a_manifest_is_read(download, layout):
    plain, _ = build(download)
    images = pd.read_csv(download / "images.csv", dtype=str)
    for row in images.itertuples():
        month = 0 if row.VISCODE == "bl" else int(row.VISCODE[1:])
        subject = "sub-ADNI" + row.PTID.replace("_", "")
        base = download / ("subjects" if layout == "caps" else "") / subject / f"ses-M{month:03d}"
        t1 = "t1_linear/{}_T1w" if layout == "caps" else "anat/{}_space-MNI152NLin6Asym_T1w"
        names = {
            "t1_path": f"{t1.format(subject)}.nii.gz",
            "fa_path": f"dwi/{subject}_space-MNI152NLin6Asym_FA.nii.gz",
        }
        for column, name in names.items():
            if isinstance(getattr(row, column), str):
                (base / name).parent.mkdir(parents=True, exist_ok=True)
                (download / getattr(row, column)).rename(base / name)
    (download / "images.csv").unlink()
    tree, _ = build(download)
    same = ["PTID", "VISCODE", "DX", "split"]
    pd.testing.assert_frame_equal(tree[same], plain[same])
    assert (tree["fa_path"].notna() == plain["fa_path"].notna()).all()


def test_a_folder_without_images_names_the_patterns(download, tmp_path):
    (download / "images.csv").rename(tmp_path / "images.csv")
    for path in [*download.rglob("*.nii.gz")]:
        path.unlink()
    with pytest.raises(CohortError, match="t1_linear"):
        build(download)


@pytest.mark.parametrize("write", ["{}", "I{}", "{}.0"])
def test_images_may_be_named_by_image_id(download, write):
    plain, _ = build(download)
    images = cohort.read_images(download / "images.csv")
    visits = cohort.read_adnimerge(download / "ADNIMERGE.csv")
    table = pd.read_csv(download / "ADNIMERGE.csv", dtype=str, keep_default_na=False)
    same = table.groupby(["PTID", "VISCODE"]).ngroup()  # duplicates are of one image
    table["IMAGEUID"] = [str(1000 + number) for number in same]
    table.to_csv(download / "ADNIMERGE.csv", index=False)
    visits["IMAGEUID"] = [write.format(1000 + same[row - 2]) for row in visits["row"]]
    keyed = images.merge(visits[["PTID", "VISCODE", "IMAGEUID"]], on=["PTID", "VISCODE"])
    keyed[["IMAGEUID", "t1_path", "fa_path"]].to_csv(download / "images.csv", index=False)
    again, _ = build(download)
    pd.testing.assert_series_equal(again["t1_path"], plain["t1_path"])


def test_the_mechanism_behind_the_scores_is_a_parameter(tmp_path):
    """Without drift between diagnosis and scores, the scores nearly define the diagnosis."""
    from memoir_book.baselines import baselines

    accuracy = {}
    for drift in (0.0, SCORE_DRIFT):
        write_tables(tmp_path, 600, 0.4, drift)
        table, _ = build(tmp_path, images=False)
        accuracy[drift] = baselines(table)["dx3 logistic"]["balanced_accuracy"]
    assert accuracy[0.0] > 0.85 > 0.78 > accuracy[SCORE_DRIFT]


SWAPPED = {"CN": "Dementia", "Dementia": "CN"}


@pytest.mark.parametrize(
    ("change", "column", "words"),
    [
        (lambda t: t.assign(AGE=t["AGE"] + (t["VISCODE"] != "bl")), "AGE", "between the rows"),
        (lambda t: t.assign(EXAMDATE=t["EXAMDATE"] + pd.Timedelta("9999D")), "EXAMDATE", "future"),
        (lambda t: t.assign(ADAS11=t["ADAS13"], ADAS13=t["ADAS11"]), "ADAS13", "exchanged"),
        (lambda t: t.assign(MMSE=t["ADAS13"], ADAS13=t["MMSE"]), "MMSE", "worse in CN"),
        (lambda t: t.assign(MOCA=30 - t["MOCA"]), "MOCA", "worse in CN"),
        (lambda t: t.assign(DX=t["DX"].replace(SWAPPED)), "CDRSB", "numbers of the classes"),
    ],
)
def test_what_is_well_formed_and_wrong_is_found_by_what_columns_say_together(
    tmp_path, change, column, words
):
    write_tables(tmp_path, 60, 0.5)
    visits = cohort.read_adnimerge(tmp_path / "ADNIMERGE.csv")
    assert check.doubts(visits, "a.csv") == []
    found = {problem.column: str(problem) for problem in check.doubts(change(visits), "a.csv")}
    assert words in found[column] and found[column].startswith(f"a.csv, {column}: ")


def test_what_a_download_lacks_is_said_before_the_training(download, tmp_path, capsys):
    table = pd.read_csv(download / "ADNIMERGE.csv", dtype=str, keep_default_na=False)
    table.assign(CDRSB="").to_csv(download / "ADNIMERGE.csv", index=False)
    images = pd.read_csv(download / "images.csv", dtype=str)
    images.assign(fa_path="").to_csv(download / "images.csv", index=False)
    assert check.main([str(download), "--csv", str(tmp_path / "p.csv"), "--skip-images"]) == 0
    out = capsys.readouterr().out
    for words in ("no FA volume", "no CDR-SB", "fewer than 15 subjects", "MCI (8)"):
        assert words in out
    one = table[table["DX"].isin(["CN", "Dementia"])]
    one.to_csv(download / "ADNIMERGE.csv", index=False)
    (problem,) = check.check_download(download, images=False)
    assert str(problem).startswith("class MCI has 0 subjects; training needs 5")


def test_a_download_as_it_is_given_out_is_recognised(download, tmp_path):
    (download / "ADNIMERGE.csv").rename(download / "ADNIMERGE_15Dec2025.csv")
    (problem,) = check.check_download(download, images=False)
    assert "holds ADNIMERGE_15Dec2025.csv; `python -m memoir_book.intake adni" in str(problem)


def test_a_pipe_a_device_and_a_link_to_nowhere_among_the_images_are_named(download):
    images = pd.read_csv(download / "images.csv", dtype=str)
    rows = images.index[images["t1_path"].notna()][:3]
    os.mkfifo(download / "pipe.nii")
    (download / "link.nii").symlink_to(download / "nowhere.nii")
    images.loc[rows, "t1_path"] = ["pipe.nii", "/dev/zero", "link.nii"]
    images.to_csv(download / "images.csv", index=False)
    found = check.check_download(download)
    assert [problem.what for problem in found] == ["is missing, or no regular file"] * 3


def test_a_path_that_climbs_out_of_the_folder_is_refused(download):
    images = pd.read_csv(download / "images.csv", dtype=str)
    images.loc[0, "t1_path"] = "../" + download.name + "/" + str(images["t1_path"].dropna().iloc[0])
    images.to_csv(download / "images.csv", index=False)
    with pytest.raises(CohortError, match=r"leads out of the folder; write the whole path"):
        list_images(download)
