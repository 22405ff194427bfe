"""The synthetic download: tables, volumes, and the marker that says whose data they are."""

import hashlib
import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from damage import flip

from synthetic_adni import anatomy, render, tables, write

LATENT = {"PTID": "000_S_0001", "AGE": 73.0, "female": True, "apoe4": 0, "vendor": "SIEMENS"}
LATENT |= {"atrophy": 0.0, "tracts": 0.0}


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """Four subjects, two of them with FA."""
    return write.ensure_download(tmp_path_factory.mktemp("synthetic") / "four", 4, 0.5, workers=1)


@pytest.fixture
def copy(download, tmp_path):
    return shutil.copytree(download, tmp_path / "copy")


def images(directory):
    listed = pd.read_csv(directory / "images.csv")
    return [name for column in ("t1_path", "fa_path") for name in listed[column].dropna()]


# --- tables -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subjects", "sums"),
    [
        (72, ("fca3c1b39825", "44b3318c5a25")),
        (520, ("95504a4e09f9", "e42900223c45")),
    ],
)
def test_the_tables_stay_what_they_were(tmp_path, subjects, sums):
    write.write_tables(tmp_path, subjects, 0.394)
    for name, start in zip(write.TABLES, sums, strict=True):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest().startswith(start), name


def test_the_published_classes():
    assert tables.class_counts(2363) == tables.CLASS_COUNTS
    assert tables.class_counts(72) == {"CN": 25, "MCI": 25, "Dementia": 22}
    assert all(sum(tables.class_counts(n).values()) == n for n in range(3, 100))


def test_the_filters_leave_the_subjects_that_were_asked_for():
    adnimerge, listed, latents = tables.make_tables(200, 0.4)
    with_t1 = listed[listed["t1_path"] != ""]
    visits = adnimerge.drop_duplicates().merge(with_t1, on=["PTID", "VISCODE"])
    visits = visits[visits["DX"] != ""].sort_values("EXAMDATE").groupby("PTID").last()
    assert visits["DX"].value_counts().to_dict() == tables.class_counts(200)
    assert (visits["fa_path"] != "").sum() == 80
    assert adnimerge["PTID"].nunique() == 248  # 6 % without diagnosis, 18 % without T1
    assert adnimerge.duplicated().any() and len(latents) == len(with_t1)
    assert adnimerge["RID"].min() > 90000 and adnimerge["SITE"].between(901, 957).all()


def test_phase_follows_the_date_and_vendor_the_site():
    adnimerge, listed, latents = tables.make_tables(300, 0.394)
    days = pd.to_datetime(adnimerge["EXAMDATE"])
    starts = pd.to_datetime(["2005-01-01", "2009-09-01", "2011-04-01", "2016-08-01", "2100-01-01"])
    phases = ["ADNI1", "ADNIGO", "ADNI2", "ADNI3"]
    by_date = pd.cut(days, starts, right=False, labels=phases).astype(str)
    assert (by_date == adnimerge["COLPROT"]).all() and set(by_date) == {*phases}
    first = adnimerge[adnimerge["VISCODE"] == "bl"].drop_duplicates("PTID").set_index("PTID")
    assert (first["COLPROT"] == first["ORIGPROT"]).all()
    assert (adnimerge["PTID"].map(first["ORIGPROT"]) == adnimerge["ORIGPROT"]).all()
    assert (adnimerge["COLPROT"] != adnimerge["ORIGPROT"]).any()  # a follow-up in a later phase
    site = listed["PTID"].str[:3]
    assert listed["MANUFACTURER"].groupby(site).nunique().max() == 1
    share = listed["MANUFACTURER"].groupby(site).first().value_counts(normalize=True)
    assert share["SIEMENS"] > share["GE"] > share["PHILIPS"] > 0.15
    assert (
        latents["PTID"].str[:3].map(listed["MANUFACTURER"].groupby(site).first())
        == latents["vendor"]
    ).all()


@pytest.mark.parametrize(("subjects", "fraction"), [(72, 0.394), (520, 0.394), (24, 1.0)])
def test_dti_and_moca_are_measured_where_phase_and_vendor_allow(subjects, fraction):
    adnimerge, listed, _ = tables.make_tables(subjects, fraction)
    visits = adnimerge.drop_duplicates().merge(listed, on=["PTID", "VISCODE"])
    fa = visits[visits["fa_path"] != ""]
    assert len(fa) == round(fraction * subjects)
    assert set(fa["COLPROT"]) <= {"ADNIGO", "ADNI2", "ADNI3"}
    assert set(fa.loc[fa["COLPROT"] != "ADNI3", "MANUFACTURER"]) <= {"GE"}
    late = fa[fa["COLPROT"] == "ADNI3"]
    assert set(late["MANUFACTURER"]) == {"SIEMENS", "GE", "PHILIPS"}
    assert (late["SITE"] % tables.NO_DTI_SITES > 0).all()
    in_1 = adnimerge["COLPROT"] == "ADNI1"
    assert adnimerge.loc[in_1, "MOCA"].isna().all()
    assert adnimerge.loc[~in_1, "MOCA"].isna().mean() < 0.06
    assert adnimerge["MMSE"].notna().groupby(in_1).mean().min() > 0.95


def test_some_people_revert():
    """From MCI to CN at the next visit with a diagnosis, in 3 to 6 of 100 such visits."""
    visits = tables.make_tables(1200, 0.4)[0].query("DX != ''").drop_duplicates()
    visits = visits.sort_values(["PTID", "EXAMDATE"])
    later = visits.groupby("PTID")["DX"].shift(-1)
    followed = later[(visits["DX"] == "MCI") & later.notna()]
    assert len(followed) > 500 and 0.03 < (followed == "CN").mean() < 0.06
    assert not ((visits["DX"] == "Dementia") & (later == "CN")).any()


def test_atrophy_and_tract_damage_are_two_things():
    adnimerge, _, latents = tables.make_tables(1200, 0.4)
    known = latents.merge(adnimerge.drop_duplicates(), on=["PTID", "VISCODE"])
    own = known[["severity", "atrophy", "tracts"]]
    within = (own - own.groupby(known["DX"]).transform("mean")).corr()
    assert 0.5 < within.loc["atrophy", "tracts"] < 0.75
    assert 0.2 < within.loc["severity", "atrophy"] < 0.55 > within.loc["severity", "tracts"] > 0.2
    means = own.groupby(known["DX"]).mean().loc[["CN", "MCI", "Dementia"]]
    assert (means.diff().iloc[1:] > 1).all().all()


def test_scores_follow_severity_and_drift_blurs_the_classes():
    def spread(drift):
        table = tables.make_tables(300, 0.0, drift)[0].query("DX != ''")
        found = table.groupby("DX")["ADAS13"].agg(["mean", "std"])
        return (found["mean"]["Dementia"] - found["mean"]["CN"]) / found["std"].mean()

    assert spread(0.0) > 1.3 * spread(tables.SCORE_DRIFT) > 1
    for name, worse in (("MMSE", -1), ("MOCA", -1), ("ADAS11", 1), ("CDRSB", 1)):
        at = np.array(tables.SCORES[name]["at"])
        assert (worse * np.diff(at) >= 0).all()


# --- volumes ----------------------------------------------------------------------------


def test_what_is_not_drawn_is_not_brain(monkeypatch):
    """The same as where every voxel is drawn, and what is not brain then made dark."""
    drawn, warp, shares = (render.render_t1([LATENT]), render.render_fa([LATENT])), render._warp, []

    def everywhere(latents, kind, scale, least, device):
        ((inside, channels),) = warp(latents, kind, scale, -1.0, device)
        assert inside.all()
        shares.append(channels[0].reshape(tables.SHAPE).numpy())
        return [(inside, channels)]

    monkeypatch.setattr(render, "_warp", everywhere)
    t1, fa = render.render_t1([LATENT]), render.render_fa([LATENT])
    # T1: its last step scales by the share; a unit is a thousandth of white matter
    assert np.allclose(drawn[0], t1, rtol=0, atol=1e-3)
    assert np.array_equal(drawn[1], fa * (shares[1] > 0.5))
    assert [0.15 < (of > 0).mean() < 0.4 for of in drawn] == [True, True]


def test_a_volume_depends_on_the_subject_only(download):
    latents = tables.make_tables(4, 0.5)[2]
    rows = latents.to_dict("records")[:3]
    stored = nib.load(download / rows[0]["t1_path"])
    assert stored.shape == tables.SHAPE and np.array_equal(stored.affine, tables.AFFINE)
    for batch in (rows[:1], rows, rows[::-1]):  # alone, first of three, last of three
        fresh = render.render_t1(batch)[batch.index(rows[0])]
        assert np.abs(np.asarray(stored.dataobj) - fresh).max() <= 1.0  # one grey value


def test_the_t1_looks_like_one():
    volume = render.render_t1([LATENT])[0]
    white = anatomy.templates("cpu")["fa_channels"][0].numpy() > 0.95
    assert 800 < np.median(volume[white]) < 1200 and volume.min() >= 0
    assert volume[0].max() == 0  # no skull, no neck
    for mm, white in (((2, -38, 17), True), ((25, -20, 30), True), ((12, -25, 20), False)):
        at = np.linalg.solve(tables.AFFINE, (*mm, 1)).round().astype(int)[:3]
        assert (volume[tuple(at)] > 800) == white, mm  # splenium, corona radiata; a ventricle


def test_fa_lies_between_0_and_1_and_falls_with_severity_in_limbic_tracts():
    mild, severe = render.render_fa([LATENT | {"tracts": s} for s in (0.0, 4.0)])
    assert mild.min() >= 0 and mild.max() <= 1
    x, y, z = ((24 - 90) // -2, (-30 + 126) // 2, (-4 + 72) // 2)
    fornix = np.s_[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]
    assert severe[fornix].mean() < mild[fornix].mean()


def test_atrophy_shows_in_the_anatomy_and_damage_of_tracts_does_not():
    changes = ({}, {"atrophy": 4.0}, {"tracts": 4.0}, {"severity": 4.0})
    mild, severe, *same = render.render_t1([LATENT | change for change in changes])
    centre = (slice(38, 53), slice(45, 70), slice(35, 50))  # the ventricles are dark in T1
    assert severe[centre].mean() < 0.97 * mild[centre].mean()
    assert all((mild == volume).all() for volume in same)


def test_apoe4_shrinks_the_hippocampus_at_equal_severity():
    none, two = (render._anatomy(LATENT | {"apoe4": n})["amplitudes"] for n in (0, 2))
    assert dict(zip(render.REGIONS, np.round(two - none, 5), strict=True)) == pytest.approx(
        dict.fromkeys(render.REGIONS, 0.0) | {"hippocampus": -0.10, "temporoparietal": -0.08}
    )


def test_a_vendor_shows_in_gain_contrast_and_fa():
    vendors = [LATENT | {"vendor": name} for name in ("SIEMENS", "GE", "PHILIPS")]
    siemens, ge, philips = render.render_t1(vendors)
    white = anatomy.templates("cpu")["fa_channels"][0].numpy() > 0.95
    bright = [np.median(volume[white]) for volume in (siemens, ge, philips)]
    assert 1.02 < bright[1] / bright[0] < 1.10 and 0.91 < bright[2] / bright[0] < 0.98
    assert np.corrcoef(siemens[white], ge[white])[0, 1] > 0.98  # the same person
    grey = (siemens > 300) & (siemens < 700)
    ratio = ge[grey].mean() / siemens[grey].mean(), bright[1] / bright[0]
    assert ratio[0] < ratio[1] - 0.01  # grey against white: the contrast, which scaling leaves
    low, high, lower = (volume[white].mean() for volume in render.render_fa(vendors))
    assert (high / low, lower / low) == pytest.approx((1.03, 0.97), abs=0.003)


def test_a_mode_spreads_where_it_is_asked_to_and_does_not_turn():
    away = np.linspace(-12, 12, 25) / 3
    bump = np.exp(-sum(axis**2 for axis in np.meshgrid(away, away, away)) / 2)
    v = anatomy._irrotational(bump).astype(float)
    gradient = [np.gradient(component) for component in v]
    divergence = sum(gradient[axis][axis] for axis in range(3))
    assert divergence[12, 12, 12] > 0.8 > 0.1 > abs(divergence[4, 4, 4])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(gradient[a][b] - gradient[b][a]).max() < 0.01


# --- files ------------------------------------------------------------------------------


def test_the_download_holds_what_its_list_names(download):
    assert len(list(download.rglob("*.nii.gz"))) == len(images(download)) >= 6
    assert all((download / name).exists() for name in images(download))
    assert {p.name for p in download.iterdir()} == {*write.TABLES, write.MARKER, "images"}
    fa = nib.load(next(download.rglob("*_FA.nii.gz")))
    assert 0.3 < np.asarray(fa.dataobj).max() <= 1


def test_the_number_of_workers_changes_no_byte_and_a_killed_call_goes_on(copy, download):
    (copy / write.MARKER).rename(copy / write.BEGUN)  # as after a kill
    few = images(copy)[::2]
    for name in few:
        (copy / name).unlink()
    (copy / ".images.csv.part").write_bytes(b"half")
    kept = images(copy)[1]
    before = (copy / kept).stat().st_mtime_ns
    write.ensure_download(copy, 4, 0.5, workers=2)
    for path in download.rglob("*.*"):
        assert (copy / path.relative_to(download)).read_bytes() == path.read_bytes(), path
    assert (copy / kept).stat().st_mtime_ns == before and not (copy / write.BEGUN).exists()


@pytest.mark.fault(
    "a volume of the synthetic download is lost, or a bit of it flipped",
    "The next start of chapter 1 draws just this one again, to the same bytes.",
)
@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_a_damaged_volume_is_drawn_again(copy, download, damage):
    name, other = images(copy)[:2]
    before = (copy / other).stat().st_mtime_ns
    (copy / name).unlink() if damage == "lost" else flip(copy / name)
    write.ensure_download(copy, 4, 0.5, workers=1)
    for path in (name, write.MARKER):
        assert (copy / path).read_bytes() == (download / path).read_bytes()
    assert (copy / other).stat().st_mtime_ns == before


def test_a_whole_download_asks_for_no_lock(copy, monkeypatch):
    monkeypatch.setattr(write, "FileLock", None)  # it may lie on a read-only disk
    write.ensure_download(copy, 4, 0.5)
    flip(copy / images(copy)[0])
    with pytest.raises(TypeError):
        write.ensure_download(copy, 4, 0.5)


def test_a_download_is_made_once_and_another_size_anew(copy, monkeypatch):
    monkeypatch.setattr(write, "_write_tables", None)
    write.ensure_download(copy, 4, 0.5)
    monkeypatch.undo()
    monkeypatch.setattr(write, "ProcessPoolExecutor", None)  # one worker opens none
    old = images(copy)
    write.ensure_download(copy, 3, 0.0, workers=1)
    left = {str(path.relative_to(copy)) for path in copy.rglob("*.nii.gz")}
    assert left == set(images(copy)) != set(old) and write.is_synthetic(copy)


def test_rendering_in_this_process_leaves_torch_its_threads(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(f"drawn by {torch.get_num_threads()} thread")

    monkeypatch.setattr(render, "render_t1", broken)
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(OSError, match="by 1 thread"):
            write._write_volumes(tmp_path, "cpu", ("t1", [{"path": "a/b.nii.gz"}]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(usual)


def test_a_volume_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left .* was not written.*a\.nii\.gz"):
        write._write_whole(tmp_path / "a.nii.gz", b"content")
    assert list(tmp_path.iterdir()) == []


# --- whose data -------------------------------------------------------------------------


def test_what_the_generator_wrote_is_synthetic(download, tmp_path):
    assert write.is_synthetic(download)
    write.write_tables(tmp_path, 24, 0.4)
    assert write.is_synthetic(tmp_path)
    write.write_tables(tmp_path, 30, 0.4, drift=0.0)  # synthetic tables may be replaced
    assert write.is_synthetic(tmp_path)
    assert not write.is_synthetic(tmp_path / "nothing")


@pytest.mark.parametrize("what", ["changed", "missing", "more", "marker", "no sums", "no marker"])
def test_real_tables_beside_a_copied_marker_are_not_synthetic(copy, what):
    table, marker = copy / "ADNIMERGE.csv", copy / write.MARKER
    if what == "changed":
        table.write_text(table.read_text().replace("90001", "4001"))
    elif what == "missing":
        table.unlink()
    elif what == "more":
        (copy / "DXSUM.csv").write_text("RID,DIAGNOSIS\n4001,3\n")
    elif what == "marker":
        marker.write_text("[1]")
    elif what == "no sums":
        marker.write_text(json.dumps({"synthetic": True, "tables": {}}))
    else:
        marker.unlink()
    assert not write.is_synthetic(copy)


@pytest.mark.parametrize("tables_alone", [False, True])
def test_real_images_under_synthetic_tables_are_not_synthetic(copy, tmp_path, tables_alone):
    if tables_alone:
        write.write_tables(tmp_path / "tables", 4, 0.5)
        copy = tmp_path / "tables"
    path = copy / images(copy)[-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    assert write.is_synthetic(copy), "no volume, and nothing real"
    path.write_bytes(b"a scan of somebody")
    assert not write.is_synthetic(copy)
    (copy / "scan.nii.gz").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(copy / "scan.nii.gz")
    assert not write.is_synthetic(copy)


def test_tables_of_others_are_never_replaced(copy, tmp_path):
    real = tmp_path / "real"
    (real / "images" / "137_S_4001").mkdir(parents=True)
    (real / "images" / "137_S_4001" / "t1.nii.gz").write_bytes(b"scan")
    (real / "ADNIMERGE.csv").write_text("RID,PTID\n4001,137_S_4001\n")
    shutil.copy(copy / write.MARKER, real)
    before = {p: p.read_bytes() for p in real.rglob("*") if p.is_file()}
    for call in (write.ensure_download, write.write_tables):
        with pytest.raises(FileExistsError, match="not the synthetic ones"):
            call(real, 5, 0.5)
    assert {p: p.read_bytes() for p in real.rglob("*") if p.is_file()} == before
