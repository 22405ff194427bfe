"""The volume cache, and what may stand in git."""

import functools
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch

from memoir_book import artefacts
from memoir_core import config, volumes
from synthetic_adni import render


def test_the_cache_holds_normalised_volumes_in_the_order_of_the_cohort(tiny):
    assert tiny.volumes.t1.shape == (24, 31, 37, 31) and tiny.volumes.t1.dtype == np.float16
    has_fa = tiny.cohort["fa_path"].notna().to_numpy()
    assert ((tiny.volumes.fa_row >= 0) == has_fa).all()
    assert sorted(tiny.volumes.fa_row[has_fa]) == list(range(has_fa.sum()))
    volume = np.asarray(tiny.volumes.t1[0], np.float32)
    assert abs(volume[volume != 0].mean()) < 0.3 and 0.5 < volume[volume != 0].std() < 1.5
    one = volumes.preprocess(tiny.run.profile, "t1")
    direct, _ = one(str(tiny.run.data_dir / tiny.cohort["t1_path"][3]))
    assert np.allclose(direct, tiny.volumes.t1[3], atol=1e-2)


def test_the_number_of_workers_changes_no_byte(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(volumes, "ThreadPoolExecutor", functools.partial(ThreadPoolExecutor, 1))
    folder = volumes.build_volumes(tiny.cohort, tiny.run.data_dir, tiny.run.profile)
    assert np.array_equal(np.load(folder / "t1.npy"), tiny.volumes.t1)
    assert np.array_equal(np.load(folder / "fa.npy"), tiny.volumes.fa)


at = np.zeros((4, 4))
at[:3, 3] = (-90, -126, -72)  # the corner of the MNI grid, in RAS


def test_the_measures_of_an_image_follow_its_anatomy(tiny):
    assert tiny.volumes.measures["ventricle_share"].between(0.005, 0.4).all()
    has_fa = tiny.cohort["fa_path"].notna().to_numpy()
    assert (tiny.volumes.measures["fornix_fa"].notna() == has_fa).all()
    latent = {"PTID": "000_S_0001", "AGE": 73.0, "female": True}
    stages = [latent | {"severity": s} for s in (0.0, 4.0)]
    for draw, kind, sign in ((render.render_t1, "t1", 1), (render.render_fa, "fa", -1)):
        mild, severe = (
            volumes.measure(v[::-1], np.diag([2.0, 2, 2, 1]) + at, kind) for v in draw(stages)
        )
        assert sign * (severe - mild) > 0


def test_two_processes_may_build_the_same_cache(tiny):
    found = []
    jobs = [
        threading.Thread(
            target=lambda: found.append(
                volumes.build_volumes(tiny.cohort, tiny.run.data_dir, tiny.run.profile)
            )
        )
        for _ in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert found[0] == found[1]


def test_a_damaged_cache_is_named(tiny, tmp_path, monkeypatch):
    path = next((config.cache_dir() / "volumes").rglob("t1.npy"))
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1000])
        with pytest.raises(volumes.VolumeError, match=r"t1\.npy"):
            volumes.open_volumes(tiny.run)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(artefacts.DamagedFileError, match=r"t1\.npy is damaged"):
            volumes.open_volumes(tiny.run)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", ["truncated", "shape", "nan", "constant"])
def test_a_bad_image_is_named(tiny, tmp_path, damage):
    source = tiny.run.data_dir / tiny.cohort["t1_path"][0]
    image = nib.load(source)
    data = np.asarray(image.dataobj, dtype=np.float32)
    path = tmp_path / "bad.nii.gz"
    if damage == "truncated":
        path.write_bytes(source.read_bytes()[:2000])
    else:
        data = {"shape": data[0], "nan": data * np.nan, "constant": data * 0 + 3}[damage]
        nib.save(nib.Nifti1Image(data, image.affine), path)
    with pytest.raises(volumes.VolumeError, match=r"bad\.nii\.gz"):
        volumes.preprocess(tiny.run.profile, "t1")(str(path))


def test_augmentation_is_small_and_follows_its_generator(tiny):
    batch = torch.from_numpy(np.asarray(tiny.volumes.t1[:4], np.float32))[:, None]
    first = volumes.augment(batch, torch.Generator().manual_seed(1))
    again = volumes.augment(batch, torch.Generator().manual_seed(1))
    other = volumes.augment(batch, torch.Generator().manual_seed(2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    for a, b in zip(batch, first, strict=True):
        assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.4


def test_no_image_and_no_adni_table_is_tracked():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=config.ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"\.(nii|nii\.gz|dcm|mgz|img|hdr|parquet|npz|npy)$|ADNIMERGE|images\.csv")
    assert [name for name in listed.stdout.splitlines() if pattern.search(name)] == []
