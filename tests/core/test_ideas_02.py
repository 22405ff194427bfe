"""Chapter 2 writes out the preprocessing: it is that of the core."""

import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from ideas import idea
from nilearn.image import resample_img, smooth_img

from memoir_core import volumes
from memoir_core.data import Scaler
from memoir_core.volumes import GRID


def placed():
    """The cell that puts an image on the grid."""
    names = idea("02", "def on_mni", np=np, resample_img=resample_img, smooth_img=smooth_img)
    return {name: names[name] for name in ("np", "on_mni", "about_its_centre", "mni")}


@pytest.mark.parametrize("millimetres", [1.0, 1.5, 2.0, 3.0])
def test_an_image_is_put_where_the_core_puts_it(millimetres):
    shape = tuple(round(2.2 * n / millimetres) for n in GRID)
    affine = np.diag([millimetres] * 3 + [1])
    affine[:3, 3] = -95, -140, -85
    data = np.random.default_rng(0).random(shape).astype(np.float32)
    names = placed()
    found = names["on_mni"](nib.Nifti1Image(data, affine))
    assert np.allclose(found, volumes.on_grid(data, affine), atol=1e-4)
    assert np.array_equal(names["mni"], volumes.AFFINE)


def test_the_other_way_moves_a_brain_by_half_of_what_was_cropped():
    ball = np.zeros(GRID, np.float32)
    ball[40:50, 60:70, 40:50] = 1
    cropped = nib.Nifti1Image(ball, volumes.AFFINE).slicer[:, 6:, :-8]
    names = placed()
    assert np.allclose(names["on_mni"](cropped), ball, atol=1e-4)
    wrong = np.argwhere(names["about_its_centre"](cropped) > 0.5).mean(axis=0)
    assert np.allclose(wrong - np.argwhere(ball > 0.5).mean(axis=0), [0, -3, 4])


@pytest.mark.parametrize("millimetres", [2.0, 2.5])
def test_the_chain_written_out_is_that_of_the_core(tmp_path, capsys, millimetres):
    """On an asymmetric brain, stored front to back and in other voxels than the network's."""
    shape = tuple(round(2 * n / millimetres) for n in GRID)
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*[np.linspace(-1.15, 1.15, n) for n in shape], indexing="ij")
    data = np.where(x**2 + y**2 + z**2 < 1, rng.normal(500 + 200 * x + 90 * z, 60), 0).clip(0)
    affine = np.diag([-millimetres, millimetres, millimetres, 1])
    affine[:3, 3] = [0, -18, 18] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    sizes = (23, 28, 23)
    book = SimpleNamespace(profile=SimpleNamespace(volume_shape=sizes))
    names = {"nib": nib, "torch": torch, "first": path, "book": book}
    names = idea("02", "def clip_brain", **placed(), **names)
    wanted, _ = volumes.preprocess(path, "t1", sizes)
    assert np.allclose(names["by_hand"], wanted, atol=1e-3)
    assert "(23, 28, 23), mean 0.000, sd 1.000" in capsys.readouterr().out.replace(
        "-0.000", "0.000"
    )


def test_fa_is_scaled_by_constants_of_the_train_part(subjects, capsys):
    table, data = subjects
    data.fa = np.clip(0.05 * (data.fa + 4), 0.01, 1).astype(np.float16)
    idea("02", "def by_itself", np=np, Scaler=Scaler, cohort=table, data=data)
    said = capsys.readouterr().out
    assert "equal to the core's: True" in said
    itself, train = (float(x) for x in re.findall(r"moves a voxel by ([\d.]+)", said))
    assert itself == 0 and train > 0.1
    idea("02", "def by_itself", np=np, Scaler=Scaler, cohort=table.assign(split="test"), data=data)
    assert capsys.readouterr().out == ""  # a download without FA
