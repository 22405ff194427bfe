"""`intake prepare`: whole heads, as a scanner leaves them, come back to the template's place."""

import concurrent.futures
import json
import re
from pathlib import Path

import heads
import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from memoir_book import privacy
from memoir_book.intake import prepare, register
from memoir_book.intake.__main__ import main
from memoir_core.tables import CohortError, read_images
from memoir_core.volumes import GRID, VolumeError, brain_mask, read_volume

AFFINE = register.AFFINE
FIRST, SECOND = "999_S_9001_bl", "999_S_9002_m12"
MADE = [(FIRST, "t1"), (FIRST, "fa"), (SECOND, "fa")]
MARK = np.array([-30.0, -20.0, 30.0])  # mm, in the left hemisphere
MOVED = heads.movement((12, -5, 7), (1.05, 0.95, 1.02), (14, -15, 14))  # 25 mm off
FA_OF = {n: f"sub-ADNI999S900{n}/ses-M012/dwi/sub-ADNI999S900{n}_FA.nii.gz" for n in (2, 5)}
FA_MOVED = heads.movement((-6, 4, 9), (0.96, 1.04, 1.0), (-8, 12, 5))


def ball(centre, radius):
    at = (
        np.einsum("ij,jxyz->ixyz", AFFINE[:3, :3], np.indices(GRID))
        + AFFINE[:3, 3, None, None, None]
    )
    return (((at - centre[:, None, None, None]) / radius) ** 2).sum(axis=0) < 1


def brain():
    """The template's T1 with a dark mark on the left: (91, 109, 91)."""
    return register.template("t1") * np.where(ball(MARK, 9), 0.4, 1)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def save_fa(path, volume, moved=FA_MOVED, background=np.nan):
    """An FA map in its own space, 2.4 mm, of a volume on the grid."""
    scan = nibabel.affines.from_matvec(np.diag([2.4] * 3), [-110, -140, -80])
    way = np.linalg.inv(AFFINE) @ np.linalg.inv(moved) @ scan
    made = ndimage.affine_transform(volume, way, output_shape=(92, 100, 80), order=1)
    made[made == 0] = background
    return save(nibabel.Nifti1Image(made.astype(np.float32), scan), path)


def fa_map():
    white = register.template("fa")
    return 0.1 * brain_mask(GRID) + 0.6 * white * np.where(ball(MARK, 9), 0.3, 1)


def distance(matrix, truth):
    """Mean distance, mm, of where the template's brain is found to where it is."""
    at = AFFINE @ np.vstack([np.argwhere(brain_mask(GRID)).T, np.ones(brain_mask(GRID).sum())])
    return np.linalg.norm((np.linalg.inv(truth) @ matrix @ at - at)[:3], axis=0).mean()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A BIDS folder and what became of it.

    A whole head with an FA that shares its space; an FA of its own space; one times 1000; an
    empty file and a cut one.
    """
    for package in prepare.PACKAGES:
        pytest.importorskip(package, reason="needs the group intake")
    raw, out = (tmp_path_factory.mktemp(name) for name in ("raw", "out"))
    head = heads.make_head(brain(), AFFINE, MOVED, spacing=2.4, bias=0.6, axes="PIR")
    first = raw / "sub-ADNI999S9001/ses-M000"
    t1 = save(head.image, first / "anat/sub-ADNI999S9001_T1w.nii.gz")
    save_fa(first / "dwi/sub-ADNI999S9001_space-T1w_FA.nii.gz", fa_map(), MOVED)
    save_fa(raw / FA_OF[2], fa_map())
    save_fa(raw / FA_OF[5], 1000 * fa_map())
    for name, content in (("03", b""), ("04", t1.read_bytes()[:100_000])):
        bad = raw / f"sub-ADNI999S90{name}/ses-M000/anat/a_T1w.nii.gz"
        bad.parent.mkdir(parents=True)
        bad.write_bytes(content)
    (raw / "ADNIMERGE.csv").write_text("RID\n1\n")
    code = main(["prepare", str(raw), str(out), "--workers", "2"])
    return raw, out, code


def record(out, name=FIRST):
    return json.loads((out / name / "record.json").read_text())


def test_a_whole_head_comes_back(prepared):
    _, out, _ = prepared
    found = record(out)["t1"]
    assert distance(np.array(found["matrix"]), MOVED) < 1
    assert distance(np.eye(4), MOVED) > 20  # what was to be undone
    volume = nibabel.load(out / found["path"]).get_fdata()
    inside = brain_mask(GRID)
    assert np.corrcoef(volume[inside], brain()[inside])[0, 1] > 0.9
    assert (volume[~ndimage.binary_dilation(inside, iterations=4)] > 0).mean() < 0.005  # no scalp
    assert np.allclose(found["scales"], [1.05, 0.95, 1.02], atol=0.01)
    assert np.allclose(found["shift_mm"], [14, -15, 14], atol=1)


@pytest.mark.parametrize(("name", "moved"), [(FIRST, MOVED), (SECOND, FA_MOVED)])
def test_fa_comes_back_without_nan(prepared, name, moved):
    _, out, _ = prepared
    found = record(out, name)["fa"]
    assert distance(np.array(found["matrix"]), moved) < 1
    volume = nibabel.load(out / found["path"]).get_fdata()
    assert np.isfinite(volume).all() and volume.min() == 0 and 0.4 < volume.max() <= 1
    inside = brain_mask(GRID)
    assert np.corrcoef(volume[inside], fa_map()[inside])[0, 1] > 0.9


def test_an_fa_in_the_space_of_the_t1_takes_its_way(prepared):
    found = record(prepared[1])
    assert found["fa"]["matrix"] == found["t1"]["matrix"]


@pytest.mark.parametrize(("name", "kind"), MADE)
def test_left_stays_left(prepared, name, kind):
    _, out, _ = prepared
    volume = nibabel.load(out / record(out, name)[kind]["path"]).get_fdata()
    left, right = (volume[ball(MARK * [side, 1, 1], 6)].mean() for side in (1, -1))
    assert left < 0.75 * right


@pytest.mark.parametrize(("name", "kind"), MADE)
def test_exactly_nine_degrees_of_freedom(prepared, name, kind):
    matrix = np.array(record(prepared[1], name)[kind]["matrix"])
    product = matrix[:3, :3].T @ matrix[:3, :3]  # of turn x scales: the squared scales, else 0
    assert np.abs(product - np.diag(np.diag(product))).max() < 1e-9
    assert np.linalg.det(matrix) > 0


def test_more_than_nine_are_refused():
    parts = register.nine_dof(MOVED)
    assert np.allclose(parts["scales"], [1.05, 0.95, 1.02])
    sheared = MOVED.copy()
    sheared[:3, 1] += 0.002 * sheared[:3, 0]
    again = heads.movement(scales=(1.05, 0.95, 1)) @ heads.movement((0, 0, 12))  # turn, then scale
    for matrix in (sheared, again, MOVED @ np.diag([-1, 1, 1, 1])):
        with pytest.raises(VolumeError, match="more than 9 degrees"):
            register.nine_dof(matrix)
    with pytest.raises(VolumeError, match="cannot be registered"):
        register.nine_dof(heads.movement(scales=(0.5, 1, 1)))


def test_the_chapters_read_it(prepared):
    raw, out, _ = prepared
    table = read_images(out / "images.csv")
    assert (table["PTID"] + "_" + table["VISCODE"]).tolist() == [FIRST, SECOND]
    for path in [*table["t1_path"].dropna(), *table["fa_path"]]:
        assert read_volume(out / path)[0].shape == GRID
    assert (out / "ADNIMERGE.csv").read_bytes() == (raw / "ADNIMERGE.csv").read_bytes()
    page = (out / "index.html").read_text()
    for name, kind in MADE:
        assert (out / name / f"{kind}.png").stat().st_size > 5000
        assert f'<img src="{name}/{kind}.png"' in page
    said = [float(number) for number in re.findall(r"png: (0\.\d{3})<", page)]
    assert len(said) == 3 and said == sorted(said)
    assert "999_S_9003_bl" in page


def test_it_is_its_owners_and_says_so(prepared):
    _, out, _ = prepared
    paths = [out, *out.rglob("*")]
    wrong = [p for p in paths if p.stat().st_mode & 0o777 != (0o700 if p.is_dir() else 0o600)]
    assert len(paths) > 10 and not wrong
    assert privacy.BANNER in (out / "index.html").read_text()


def test_what_failed_is_named_and_the_rest_goes_on(prepared):
    raw, out, code = prepared
    failed = pd.read_csv(out / "failures.csv").set_index("name")
    assert code == 1 and len(failed) == 3
    assert "is no FA: its values reach" in failed["what"]["999_S_9005_m12"]
    for name in ("999_S_9003_bl", "999_S_9004_bl"):
        assert Path(failed["file"][name]).is_relative_to(raw)
        assert "cannot be used" in failed["what"][name] and "convert" in failed["mend"][name]


def test_only_what_changed_is_done_again(prepared):
    raw, out, _ = prepared
    done = [path for name in (FIRST, SECOND) for path in (out / name).iterdir()]
    before = {path: path.stat().st_mtime_ns for path in done}
    save_fa(raw / FA_OF[5], fa_map())
    half = out / "999_S_9003_bl"
    (half / "settings.json").unlink()  # as a kill leaves it
    (half / "t1.nii.gz").write_bytes(b"half")
    assert main(["prepare", str(raw), str(out), "--workers", "1"]) == 1
    assert before == {path: path.stat().st_mtime_ns for path in done}
    assert (half / "settings.json").exists() and not (half / "t1.nii.gz").exists()
    assert "path" in record(out, "999_S_9005_m12")["fa"]
    assert len(read_images(out / "images.csv")) == 3
    for bad in ("03", "04"):
        (raw / f"sub-ADNI999S90{bad}/ses-M000/anat/a_T1w.nii.gz").unlink()
    assert main(["prepare", str(raw), str(out)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in done}


def test_a_killed_process_is_said_and_the_lists_hold_what_was_done(tmp_path, monkeypatch, capsys):
    class Pool(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, workers, context):
            super().__init__(workers)

        def map(self, one, rows):
            yield rows[0]["name"], {"t1": {"path": "01_bl/t1.nii.gz", "likeness": 0.9}}
            raise prepare.BrokenProcessPool

    monkeypatch.setattr(prepare, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(prepare, "PACKAGES", ())
    for name in ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    raw, out = tmp_path / "raw", tmp_path / "out"
    touch(raw, "sub-01/ses-M00/anat/a_T1w.nii", "sub-02/ses-M00/anat/a_T1w.nii")
    assert main(["prepare", str(raw), str(out), "--workers", "2"]) == 1
    assert "02_bl, : was not reached, because a process was killed; run" in capsys.readouterr().err
    assert read_images(out / "images.csv")["PTID"].tolist() == ["01"]
    assert pd.read_csv(out / "failures.csv")["name"].tolist() == ["02_bl"]


@pytest.mark.parametrize("wrong", [["RAW", "RAW"], ["RAW", "OUT", "--workers", "0"]])
def test_wrong_arguments_are_named(tmp_path, monkeypatch, capsys, wrong):
    monkeypatch.setattr(prepare, "PACKAGES", ())
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *wrong]) == 1
    assert "OUT is RAW, or --workers is below 1; name" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_mend(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "PACKAGES", ("no_such_package",))
    assert main(["prepare", str(tmp_path), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "no_such_package" in said and "pip install --no-deps --group intake" in said
    assert not (tmp_path / "out").exists()


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_folder_that_loni_unpacks(tmp_path):
    t1 = "ADNI/137_S_4101/MPRAGE/2012-05-31_10_00_00.0/I61001/ADNI_137_S_4101_MR_MPRAGE_I61001.nii"
    fa = "ADNI/137_S_4101/MD_FA_FA/2012-05-31_10_30_00.0/I61002/a.nii"
    other = "ADNI/137_S_4101/Axial_PD_T2_FSE/2012-05-31_10_00_00.0/I61003/a.nii"
    touch(tmp_path, t1, fa, other, "ADNI/137_S_4101/MPRAGE/2013-05-31_10_00_00.0/I61004/a.dcm")
    table = prepare.list_raw(tmp_path)
    assert table.drop(columns="name").to_numpy().tolist() == [["61001", t1, fa]]


def test_bids_is_listed_or_refused(tmp_path):
    touch(tmp_path, "sub-01/ses-M06/anat/sub-01_ses-M06_T1w.nii.gz", "derivatives/a/x_T1w.nii.gz")
    touch(tmp_path, "sub-01/ses-M06/anat/sub-01_ses-M06_space-MNI152_T1w.nii.gz")
    touch(tmp_path, "derivatives/a/sub-01/ses-M06/anat/sub-01_ses-M06_desc-brain_T1w.nii.gz")
    assert prepare.list_raw(tmp_path)["name"].tolist() == ["01_m06"]
    touch(tmp_path, "sub-01/ses-M06/anat/sub-01_ses-M06_run-2_T1w.nii.gz")
    with pytest.raises(CohortError, match="a second T1 or FA of one visit, 01_m06"):
        prepare.list_raw(tmp_path)
    touch(tmp_path / "b", "sub-01/ses-first/anat/sub-01_T1w.nii.gz")
    with pytest.raises(CohortError, match="names no PTID or visit"):
        prepare.list_raw(tmp_path / "b")
    with pytest.raises(CohortError, match="holds no T1"):
        prepare.list_raw(tmp_path / "b/sub-01/ses-first/anat")


@pytest.mark.parametrize(
    ("forms", "said"),
    [((0, 0), "no form code"), ((1, 1), ""), ((0, 1), ""), ((1, -1), "contradict")],
)
def test_a_raw_image_must_say_where_left_is(tmp_path, forms, said):
    image = nibabel.Nifti1Image(np.arange(24.0).reshape(2, 3, 4, 1), np.eye(4))
    image.set_qform(np.eye(4), code=forms[0])
    image.set_sform(np.diag([forms[1] or 1, 1, 1, 1]), code=abs(forms[1]))
    path = save(image, tmp_path / "a.nii")
    if said:
        with pytest.raises(VolumeError, match=said):
            register.read_raw(path)
    else:
        assert register.read_raw(path).shape == (2, 3, 4)


def test_what_is_no_fa_is_refused(tmp_path):
    path = save_fa(tmp_path / "a.nii.gz", 1000 * fa_map())
    with pytest.raises(VolumeError, match="is no FA"):
        register.prepare_image(path, "fa")


@pytest.mark.parametrize(
    ("volume", "says"),
    [
        (np.random.default_rng(0).uniform(0, 1, GRID), "does not look like the template (correl"),
        (1.2 * fa_map(), ""),
        (2 * fa_map(), "after registration goes to 1.4 where the FA map goes to 1"),
    ],
)
def test_what_registration_makes_is_judged(tmp_path, monkeypatch, volume, says):
    monkeypatch.setattr(prepare, "PACKAGES", ())
    made = (volume * brain_mask(GRID)).astype(np.float32), MOVED
    monkeypatch.setattr(register, "prepare_image", lambda *_: made)
    touch(tmp_path, "a_FA.nii")
    row = {"name": "01_bl", "t1_path": "", "fa_path": "a_FA.nii"}
    found = prepare.prepare_visit(tmp_path, tmp_path / "out", row)["fa"]
    assert says in found.get("fault", "") and bool(says) != ("path" in found), found
    assert (tmp_path / "out/01_bl/fa.nii.gz").exists() != bool(says)
