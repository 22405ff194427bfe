"""From files to what the network reads: orientation, checks, the chain, the cache, augmentation."""

import errno
import gzip
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from memoir_core import files, volumes
from memoir_core.volumes import GRID, VolumeError, read_volume

RAS = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SMALL = (7, 8, 7)


def head(seed=0):
    """A brain-like ellipsoid of noise on the 2 mm grid, zero outside, darker on the left."""
    rng = np.random.default_rng(seed)
    x, y, z = ((np.arange(n) - (n - 1) / 2) / (0.42 * n) for n in GRID)
    inside = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2) < 1
    data = inside * rng.normal(600, 100, GRID).clip(200)
    data[: GRID[0] // 2] *= 0.7
    return data.astype(np.float32)


def save(path, data, affine=RAS):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return save(tmp_path_factory.mktemp("scan") / "scan.nii", head())


# --- one file ---------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [(0,), (0, 1), (1, 2), ()])
def test_any_storage_order_is_turned_to_ras(tmp_path, flip):
    data, affine = head(), RAS.copy()
    for axis in flip:
        data = np.flip(data, axis)
        affine[axis, 3] += 2 * (GRID[axis] - 1)
        affine[axis, axis] *= -1
    swap = [1, 0, 2, 3]  # rows come before columns, as scanners store them
    path = save(tmp_path / "a.nii.gz", data.transpose(1, 0, 2), affine[:, swap])
    found, affine = read_volume(path)
    assert np.array_equal(found, head()) and np.allclose(affine, RAS)


def other_grid(spacing, origin, shape):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine, shape


GRIDS = {
    "same size, other origin": other_grid((2, 2, 2), (-90, -136, -84), GRID),
    "FSL, 1 mm": other_grid((-1, 1, 1), (90, -126, -72), (182, 218, 182)),
    "MNI 2009c, 1 mm": other_grid((1, 1, 1), (-96, -132, -78), (193, 229, 193)),
    "cropped by Clinica, 1 mm": other_grid((1, 1, 1), (-84, -119, -78), (169, 208, 179)),
    "CAT12, 1.5 mm": other_grid((-1.5, 1.5, 1.5), (90, -126, -72), (121, 145, 121)),
    "3 mm": other_grid((3, 3, 3), (-99, -135, -78), (66, 79, 64)),
}


def drawn(affine, shape):
    """A brain drawn in millimetres, so that any grid shows the same one: brighter to the right."""
    x, y, z = (affine[i, i] * np.arange(n) + affine[i, 3] for i, n in enumerate(shape))
    x, y, z = np.meshgrid(x, y + 18, z - 8, indexing="ij")
    inside = (x / 66) ** 2 + (y / 84) ** 2 + (z / 62) ** 2 < 1
    dark = ((x - 12) / 9) ** 2 + ((y - 10) / 26) ** 2 + ((z - 10) / 11) ** 2 < 1
    return (inside * (600 + 2 * x + y - z) * np.where(dark, 0.3, 1)).astype(np.float32)


@pytest.mark.parametrize("name", GRIDS)
def test_images_are_put_where_their_header_says(tmp_path, name):
    affine, shape = GRIDS[name]
    wanted = volumes.on_grid(drawn(RAS, GRID), RAS)
    found = volumes.on_grid(*read_volume(save(tmp_path / "a.nii.gz", drawn(affine, shape), affine)))
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.985
    for moved in (np.roll(found, step, axis) for axis in range(3) for step in (-1, 1)):
        far, near = (np.abs(volume - wanted).mean() for volume in (moved, found))
        assert near < far, "a voxel to any side fits worse"


def test_what_lies_on_the_grid_is_not_interpolated():
    assert np.array_equal(volumes.on_grid(head(), RAS), head())


def test_a_header_that_does_not_hold_the_brain_is_named(tmp_path):
    for number, affine in enumerate((np.eye(4), RAS + [[0, 0, 0, 90]] + np.zeros((4, 1)) * 0)):
        path = save(tmp_path / f"{number}.nii", head(), affine)
        with pytest.raises(VolumeError, match=r"holds no value .* in \d+% .*; register it"):
            read_volume(path)


@pytest.mark.parametrize("tail", [(1,), (1, 1)])
def test_one_volume_may_have_more_axes(tmp_path, tail):
    path = save(tmp_path / "a.nii", head().reshape(*GRID, *tail))
    assert np.array_equal(read_volume(path)[0], head())


def test_no_value_outside_the_brain_is_zero(tmp_path):
    """FA is 0/0 where there is no tensor."""
    hollow = np.where(head() > 0, head(), np.nan)
    assert np.array_equal(read_volume(save(tmp_path / "a.nii", hollow))[0], head())


def test_the_scale_of_a_header_is_used(tmp_path):
    image = nib.Nifti1Image(np.round(head()).astype(np.int16), RAS)
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(tmp_path / "a.nii")
    assert np.allclose(read_volume(tmp_path / "a.nii")[0], 0.5 * np.round(head()) + 3)


def test_what_never_ends_or_is_too_large_is_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    for path in (tmp_path / "pipe.nii", tmp_path, tmp_path / "nowhere.nii"):
        with pytest.raises(VolumeError, match="is missing, or no regular file"):
            read_volume(path)
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), RAS).header
    header.set_data_shape((1600, 1600, 1600))  # 8 GB, which gzip packs into 8 MB
    bomb = gzip.compress(header.binaryblock + bytes(4) + bytes(50_000_000), 1)
    (tmp_path / "bomb.nii.gz").write_bytes(bomb)
    small = nib.Nifti1Image(head().astype(np.int16), RAS).to_bytes()
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(small + bytes(50_000_000), 1))
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), RAS).header
    header.set_data_shape((800, 800, 800))  # half a gigabyte in 2 MB, and 9 GB once it is floats
    bomb = gzip.compress(header.binaryblock + bytes(4), 1) + bytes(600_000)
    (tmp_path / "grows.nii.gz").write_bytes(bomb)
    said = {"bomb": r"promises 8192000\d+ bytes", "grows": r"promises 512000\d+ bytes"}
    for name, words in (said | {"long": "goes on"}).items():
        with pytest.raises(VolumeError, match=words):
            read_volume(tmp_path / f"{name}.nii.gz")


def test_other_formats_are_named_with_a_mend(tmp_path):
    nib.Nifti1Pair(head(), RAS).to_filename(tmp_path / "pair.img")
    for name in ("pair.img", "pair.hdr"):
        with pytest.raises(VolumeError, match=r"save it as one \.nii\.gz"):
            read_volume(tmp_path / name)


def flipped(raw):
    return raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:]


@pytest.mark.fault(
    "a truncated or bit-flipped NIfTI file",
    "Named in chapter 2 and by `python -m memoir_book.check`: the whole file is unpacked "
    "first, because gzip's checksum stands at its end. An uncompressed .nii has no "
    "checksum: truncation is found, a flipped bit in a voxel is not.",
)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[:4000], "promises \\d+ bytes"),
        (lambda raw: b"", "cannot be read as NIfTI"),
        (lambda raw: b"hello" * 100, "cannot be read as NIfTI"),
        (lambda raw: gzip.compress(raw)[:-2000], "cannot be read as NIfTI"),
        (lambda raw: flipped(gzip.compress(raw)), "cannot be read as NIfTI"),
        (lambda raw: raw[:42] + b"\xff\x7f" + raw[44:], "promises \\d+ bytes"),
    ],
)
def test_a_damaged_file_is_named(scan, tmp_path, damage, words):
    path = tmp_path / "bad.nii"
    path.write_bytes(damage(scan.read_bytes()))
    with pytest.raises(VolumeError, match=rf"bad\.nii .*{words}"):
        read_volume(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v[0], "has shape"),
        (lambda v: v[..., None].repeat(2, axis=3), "has shape"),
        (lambda v: np.where(v > 650, np.nan, v), "NaN.*fslmaths in -nan out"),
        (lambda v: np.where(v > 650, np.inf, v), "NaN"),
        (lambda v: v * 0 + 3, "one value everywhere"),
    ],
)
def test_values_that_are_no_image_are_named(tmp_path, change, words):
    path = save(tmp_path / "bad.nii", change(head()))
    with pytest.raises(VolumeError, match=rf"bad\.nii .*{words}"):
        volumes.preprocess(path, "t1", SMALL)


def test_a_volume_without_a_bright_voxel_is_named(tmp_path):
    with pytest.raises(VolumeError, match="no voxel above 0"):
        volumes.preprocess(save(tmp_path / "dark.nii", -head()), "fa", SMALL)


# --- the chain --------------------------------------------------------------------------


def test_the_chain_by_hand(scan):
    """Clip to percentiles 1 and 99 inside the brain, average, standardise where not 0."""
    data = head().astype(float)
    inside = data > 0
    low, high = np.percentile(data[inside], [1, 99])
    data = np.where(inside, ((data - low) / (high - low)).clip(0, 1) + 1e-3, 0)
    data = data.reshape(7, 13, 1, 109, 7, 13).mean(axis=(1, 2, 5))  # whole blocks
    brain = data != 0
    wanted = np.where(brain, (data - data[brain].mean()) / data[brain].std(), 0)
    found, _ = volumes.preprocess(scan, "t1", (7, 109, 7))
    assert np.allclose(found, wanted, atol=2e-4)
    assert (found[0, 0, 0] == 0) and found[2].sum() < found[4].sum()  # left is darker


def test_outliers_are_clipped_and_outside_stays_zero(tmp_path):
    data = head()
    data[40, 50, 40] = 60_000  # one hot voxel; 5 % of it is brighter than any brain
    data[50, 50, 50] = 61
    volume, _ = volumes.preprocess(save(tmp_path / "a.nii", data), "t1", GRID)
    plain, _ = volumes.preprocess(save(tmp_path / "b.nii", head()), "t1", GRID)
    assert volume.max() == pytest.approx(plain.max(), rel=0.1)  # not stretched by it
    assert ((volume == 0) == (head() == 0)).mean() > 0.999
    inside = volume[volume != 0]
    assert abs(inside.mean()) < 1e-3 and inside.std() == pytest.approx(1, abs=1e-3)
    for end in (volume.max(), inside.min()):
        assert (volume == end).sum() == pytest.approx(0.01 * len(inside), rel=0.05)


def test_a_t1_that_was_standardised_keeps_its_brain(tmp_path):
    """Half of such a brain is below 0, and its background is 0 as well."""
    data = head()
    inside = data > 0
    standard = np.where(inside, (data - data[inside].mean()) / data[inside].std(), 0)
    volume, _ = volumes.preprocess(save(tmp_path / "a.nii", standard), "t1", GRID)
    plain, _ = volumes.preprocess(save(tmp_path / "b.nii", data), "t1", GRID)
    assert ((volume != 0) == inside).mean() > 0.998
    assert np.corrcoef(volume.ravel(), plain.ravel())[0, 1] > 0.999


def box(x, y, z):
    """Voxels of the grid whose centres lie in a box of millimetres."""
    ends = zip((x, y, z), RAS[:3, 3], strict=True)
    return tuple(slice(round((a - o) / 2), round((b - o) / 2) + 1) for (a, b), o in ends)


def test_measures_of_a_made_up_volume():
    data = np.full(GRID, 100.0, np.float32)
    ventricles = data[box((-30, 30), (-50, 35), (-8, 35))]  # a view
    ventricles[: ventricles.shape[0] // 2] = 44
    share = (ventricles.shape[0] // 2) / ventricles.shape[0]
    assert volumes.measure(data, "t1") == pytest.approx(share)
    ventricles[:] = 46  # brighter than 0.45 of white matter
    assert volumes.measure(data, "t1") == 0
    fa = np.zeros(GRID, np.float32)
    assert math.isnan(volumes.measure(fa, "fa"))
    fa[:] = 0.9
    fa[box((-8, 8), (-30, 10), (-10, 25))] = 0.19
    fa[45, 58, 40] = 0.5
    fa[46, 58, 40] = 0.3
    assert volumes.measure(fa, "fa") == pytest.approx(0.4)


def test_percentile_of_white_matter_leaves_background_out():
    data = np.zeros(GRID, np.float32)
    data[20:70, 30:80, 30:60] = 100  # a small brain in much background
    share = volumes.measure(data, "t1")
    inside = np.zeros(GRID)
    inside[30:61, 38:81, 32:54] = 1  # the box, in voxels
    assert share == pytest.approx((inside.astype(bool) & (data < 45)).sum() / inside.sum())


# --- the cache --------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Preprocess at once: a file's first byte everywhere; counts the calls."""
    calls = []

    def fake(path, kind, shape):
        calls.append(path.name)
        return np.full(shape, path.read_bytes()[0], np.float32), float(len(path.read_bytes()))

    monkeypatch.setattr(volumes, "preprocess", fake)
    return calls


@pytest.fixture
def download(tmp_path):
    """Five subjects, FA of the second and fourth; each file begins with a byte of its own."""
    data = tmp_path / "adni"
    data.mkdir()
    names = ["a", "b", "c", "d", "e", "fb", "fd"]
    for number, name in enumerate(names):
        (data / name).write_bytes(bytes([number + 1]) * (number + 1))
    return pd.DataFrame({"t1_path": names[:5], "fa_path": [None, "fb", None, "fd", None]}), data


def build(download, cache, shape=SMALL):
    table, data = download
    index = volumes.build_volumes(table, data, shape, cache)
    (cache / "run").mkdir(exist_ok=True)
    files.write_json(cache / "run" / "volumes.json", index)
    return cache / "run" / "volumes.json", volumes.load_volumes(cache / "run/volumes.json", cache)


def test_rows_are_cases_and_fa_is_aligned(quick, download, tmp_path):
    _, found = build(download, tmp_path / "cache")
    assert found.t1.shape == (5, *SMALL)
    assert found.t1.dtype == found.fa.dtype == np.float16
    assert found.t1[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert found.fa_row.tolist() == [-1, 0, -1, 1, -1]
    assert found.fa[:, 0, 0, 0].tolist() == [6, 7]
    assert found.measures["ventricle_share"].tolist() == [1, 2, 3, 4, 5]
    assert found.measures["fornix_fa"].fillna(-1).tolist() == [-1, 6, -1, 7, -1]
    assert found.measures["t1_share"].tolist() == [1] * 5  # the made-up chain leaves no 0
    assert found.measures["fa_share"].isna().tolist() == [True, False, True, False, True]


def test_real_files_are_stored_as_the_chain_leaves_them(tmp_path):
    names = ["a.nii", "b.nii"]
    for number, name in enumerate(names):
        save(tmp_path / name, head(number))
    table = pd.DataFrame({"t1_path": names, "fa_path": [None, "a.nii"]})
    _, found = build((table, tmp_path), tmp_path / "cache")
    for row, name in enumerate(names):
        wanted, number = volumes.preprocess(tmp_path / name, "t1", SMALL)
        assert np.array_equal(found.t1[row], wanted.astype(np.float16))
        assert found.measures["ventricle_share"][row] == number
    wanted, number = volumes.preprocess(tmp_path / "a.nii", "fa", SMALL)
    assert np.array_equal(found.fa[0], wanted.astype(np.float16))


def test_fa_is_a_quantity_and_a_t1_is_not(tmp_path):
    """0.8 x FA is another FA, 0.8 x T1 the same T1; outside one mask there is no FA."""
    data = np.clip(head(0) / head(0).max(), 0, 1)
    for name, scale in (("a.nii", 1.0), ("b.nii", 0.8)):
        save(tmp_path / name, (scale * data).astype(np.float32))
    t1, t1_weaker = (volumes.preprocess(tmp_path / n, "t1", SMALL)[0] for n in ("a.nii", "b.nii"))
    fa, fa_weaker = (volumes.preprocess(tmp_path / n, "fa", SMALL)[0] for n in ("a.nii", "b.nii"))
    np.testing.assert_allclose(t1, t1_weaker, atol=1e-3)
    np.testing.assert_allclose(0.8 * fa, fa_weaker, atol=1e-4)
    mask = volumes.brain_mask(SMALL)
    assert fa.max() > 0.1 and (fa[~mask] == 0).all() and 0.15 < mask.mean() < 0.6


def test_the_mask_lies_on_the_brain_of_the_template():
    mask = volumes.brain_mask(GRID)
    at = {"thalamus": (10, -18, 8), "above the head": (0, -18, 95), "in front": (0, 88, 0)}
    voxels = {n: tuple(((np.array(mm) - [-90, -126, -72]) / 2).astype(int)) for n, mm in at.items()}
    assert mask[voxels["thalamus"]] and not mask[voxels["above the head"]]
    assert not mask[voxels["in front"]] and mask.sum() * 8e-6 == pytest.approx(1.85, abs=0.25)  # l


def test_a_second_run_finds_them_and_another_shape_does_not(quick, download, tmp_path):
    _, first = build(download, tmp_path / "cache")
    _, again = build(download, tmp_path / "cache")
    assert len(quick) == 7 and first.digest == again.digest
    _, other = build(download, tmp_path / "cache", (3, 3, 3))
    assert len(quick) == 14 and other.digest != first.digest


def test_a_second_download_with_equal_names_gets_its_own(quick, download, tmp_path):
    """Equal names, sizes and dates; other content."""
    _, data = download
    _, first = build(download, tmp_path / "cache")
    stat = (data / "a").stat()
    (data / "a").write_bytes(b"\x09")
    os.utime(data / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    _, second = build(download, tmp_path / "cache")
    assert second.t1[0].max() == 9 and second.digest != first.digest
    assert first.t1[0].max() == 1  # the other run's stay


def test_added_and_deleted_images_are_noticed(quick, download, tmp_path):
    table, data = download
    build(download, tmp_path / "cache")
    more = table.assign(fa_path=["fd", "fb", None, "fd", None])
    _, found = build((more, data), tmp_path / "cache")
    assert found.fa_row.tolist() == [0, 1, -1, 2, -1] and found.fa[0].max() == 7
    _, fewer = build((table.assign(fa_path=None), data), tmp_path / "cache")
    assert fewer.fa.shape == (0, *SMALL) and fewer.measures["fornix_fa"].isna().all()
    (data / "c").unlink()
    with pytest.raises(VolumeError, match=r"adni.c is missing"):
        build(download, tmp_path / "cache")


def test_other_code_makes_them_anew(quick, download, tmp_path, monkeypatch):
    build(download, tmp_path / "cache")
    monkeypatch.setattr(files, "code_digest", lambda *modules: "other")
    build(download, tmp_path / "cache")
    assert len(quick) == 14


def test_a_killed_call_is_repeated_to_the_same_end(quick, download, tmp_path, monkeypatch):
    real = volumes.preprocess

    def killed(path, kind, shape):
        if path.name == "fb":
            raise KeyboardInterrupt
        return real(path, kind, shape)

    monkeypatch.setattr(volumes, "preprocess", killed)
    with pytest.raises(KeyboardInterrupt):
        build(download, tmp_path / "cache")
    monkeypatch.setattr(volumes, "preprocess", real)
    path, found = build(download, tmp_path / "cache")
    _, clean = build(download, tmp_path / "clean")
    assert found.digest == clean.digest
    folder = tmp_path / "cache" / files.read_json(path)["folder"]
    assert {p.name for p in folder.iterdir()} == {
        "t1.npy",
        "fa.npy",
        "inside.npy",
        "cases.json",
        "settings.json",
    }


def test_two_calls_wait_for_each_other(quick, download, tmp_path, monkeypatch):
    real = volumes.preprocess

    def slow(path, kind, shape):
        time.sleep(0.05)
        return real(path, kind, shape)

    monkeypatch.setattr(volumes, "preprocess", slow)
    table, data = download
    (tmp_path / "cache").mkdir()
    both = threading.Barrier(2)

    def one(_):
        both.wait()
        return volumes.build_volumes(table, data, SMALL, tmp_path / "cache")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert first["digest"] == second["digest"] and len(quick) == 7


@pytest.mark.fault(
    "one flipped bit in the cache of volumes, or a file of it lost",
    "Named when the cache is opened, with the command that makes it again; that command works.",
)
@pytest.mark.parametrize("name", ["t1.npy", "fa.npy", "inside.npy", "cases.json", "settings.json"])
@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_a_damaged_cache_is_named_and_made_again(quick, download, tmp_path, name, damage):
    path, before = build(download, tmp_path / "cache")
    file = tmp_path / "cache" / files.read_json(path)["folder"] / name
    raw = bytearray(file.read_bytes())
    raw[-40] ^= 1
    file.unlink()
    if damage == "flipped":
        file.write_bytes(raw)
    named = "" if name == "settings.json" else f"{name} is damaged or missing"
    with pytest.raises(files.DamagedFileError, match=rf"(?s){named}.*--run run --only 02 --force"):
        volumes.load_volumes(path, tmp_path / "cache")
    _, after = build(download, tmp_path / "cache")
    assert after.digest == before.digest and after.t1[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_a_damaged_setting_of_a_cache_is_named_and_the_mend_works(quick, download, tmp_path):
    path, _ = build(download, tmp_path / "cache")
    file = tmp_path / "cache" / files.read_json(path)["folder"] / files.SETTINGS
    file.write_text(file.read_text().replace('"images": [\n      "', '"images": [\n      "f', 1))
    with pytest.raises(files.DamagedFileError, match=r"(?s)do not belong.*--only 02 --force"):
        volumes.load_volumes(path, tmp_path / "cache")
    build(download, tmp_path / "cache")
    volumes.load_volumes(path, tmp_path / "cache")


def test_a_damaged_volumes_json_is_named(quick, download, tmp_path):
    path, _ = build(download, tmp_path / "cache")
    files.write_json(path, files.read_json(path) | {"digest": "x"})
    with pytest.raises(files.DamagedFileError, match=r"volumes\.json and .* do not belong"):
        volumes.load_volumes(path, tmp_path / "cache")
    path.write_bytes(path.read_bytes().replace(b"shape", b"sh\xffpe"))
    with pytest.raises(files.DamagedFileError, match=r"volumes\.json"):
        volumes.load_volumes(path, tmp_path / "cache")


def test_a_complete_cache_on_a_read_only_disk_is_used(quick, download, tmp_path, monkeypatch):
    build(download, tmp_path / "cache")

    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr(volumes, "FileLock", refuse)
    build(download, tmp_path / "cache")
    assert len(quick) == 7


def test_a_full_disk_names_the_file(quick, download, tmp_path):
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, old[1]))  # four volumes would take more
    try:
        with pytest.raises(OSError, match=r"no space left.*t1\.npy"):
            build(download, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not [*(tmp_path / "cache").rglob("*.npy")]


# --- augmentation -----------------------------------------------------------------------


def ramp(axis, n=40):
    """A (1, 1, n, n, n) volume that holds its own coordinate, -1 to 1, along one axis."""
    line = (torch.arange(n) * 2 + 1) / n - 1
    shape = [1, 1, 1]
    shape[axis] = n
    return line.view(1, 1, *shape).expand(1, 1, n, n, n).clone()


def augmented(volume, monkeypatch, **draws):
    """Augment with chosen draws, all others in the middle."""
    uniform = torch.full((1, 10), 0.5)
    for name, value in draws.items():
        uniform[0, int(name[1:])] = value
    monkeypatch.setattr(volumes, "own_rows", lambda n, width, generator: uniform)
    return volumes.augment(volume, torch.Generator(), 0.1)


core = np.s_[0, 0, 8:-8, 8:-8, 8:-8]  # away from the border


def test_the_middle_of_every_draw_changes_nothing(monkeypatch):
    noise = torch.rand(1, 1, 20, 20, 20)
    assert torch.allclose(augmented(noise, monkeypatch), noise, atol=1e-4)


@pytest.mark.parametrize(("draw", "axis"), [("u3", 2), ("u4", 1), ("u5", 0)])
def test_scales_go_up_to_one_percent(monkeypatch, draw, axis):
    found = augmented(ramp(axis), monkeypatch, **{draw: 1.0})[core]
    assert torch.allclose(found, 1.01 * ramp(axis)[core], atol=1e-5)
    found = augmented(ramp(axis), monkeypatch, **{draw: 0.0})[core]
    assert torch.allclose(found, 0.99 * ramp(axis)[core], atol=1e-5)


@pytest.mark.parametrize(("draw", "axis"), [("u6", 2), ("u7", 1), ("u8", 0)])
def test_shifts_go_up_to_half_a_percent_of_the_grid(monkeypatch, draw, axis):
    found = augmented(ramp(axis), monkeypatch, **{draw: 1.0})[core]
    assert torch.allclose(found, ramp(axis)[core] + 0.01, atol=1e-5)  # the grid is 2 wide


@pytest.mark.parametrize(("draw", "axes"), [("u0", (0, 1)), ("u1", (0, 2)), ("u2", (1, 2))])
def test_rotations_go_up_to_one_degree(monkeypatch, draw, axes):
    one, other = axes
    found = augmented(ramp(one), monkeypatch, **{draw: 1.0})[core]
    turn = math.radians(1)
    wanted = [
        math.cos(turn) * ramp(one)[core] + sign * math.sin(turn) * ramp(other)[core]
        for sign in (-1, 1)
    ]
    assert any(torch.allclose(found, w, atol=1e-5) for w in wanted)
    (still,) = {0, 1, 2} - {*axes}
    assert torch.allclose(
        augmented(ramp(still), monkeypatch, **{draw: 1.0})[core], ramp(still)[core], atol=1e-4
    )


def test_contrast_changes_by_up_to_ten_percent(monkeypatch):
    noise = torch.rand(1, 1, 10, 10, 10)
    assert torch.allclose(augmented(noise, monkeypatch, u9=1.0), 1.1 * noise, atol=1e-4)
    assert torch.allclose(augmented(noise, monkeypatch, u9=0.0), 0.9 * noise, atol=1e-4)
    draw = torch.full((1, 10), 0.5)
    draw[0, 9] = 1
    monkeypatch.setattr(volumes, "own_rows", lambda n, width, generator: draw)
    assert torch.allclose(volumes.augment(noise, torch.Generator()), noise, atol=1e-4)  # as for FA


def test_augmentation_follows_its_generator():
    batch = ramp(0).repeat(3, 1, 1, 1, 1)
    first = volumes.augment(batch, torch.Generator().manual_seed(1))
    again = volumes.augment(batch, torch.Generator().manual_seed(1))
    other = volumes.augment(batch, torch.Generator().manual_seed(2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])  # each volume its own
    assert first.shape == batch.shape and (first - batch).abs()[:, :, 8:-8, 8:-8, 8:-8].max() < 0.4


def test_each_process_draws_its_own_part_of_the_whole_batch(monkeypatch):
    whole = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank, part in enumerate(whole.split(4)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        drawn = volumes.own_rows(4, 3, torch.Generator().manual_seed(0))
        assert torch.equal(drawn, part)


def test_draws_are_uniform():
    draws = volumes.own_rows(1000, 10, torch.Generator().manual_seed(0))
    assert draws.shape == (1000, 10) and draws.min() >= 0 and draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.02)


def test_a_kernel_does_not_load_transformers_for_monai():
    """And can load it afterwards, whole."""
    code = (
        "import sys, memoir_core.training; early = 'transformers' in sys.modules\n"
        "from transformers import BertConfig; print(early, BertConfig().model_type)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "bert"]
