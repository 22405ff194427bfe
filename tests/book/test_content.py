"""What an image shows: real brains (the MNI templates), warped and damaged, and synthetic ones."""

import re
from functools import cache

import nibabel as nib
import numpy as np
import pytest
import torch
from nilearn import datasets
from scipy import ndimage
from scipy.spatial.transform import Rotation

from memoir_book.intake import content
from memoir_core import volumes
from memoir_core.volumes import AFFINE, GRID
from synthetic_adni import render, tables


@cache
def brain(name, resolution=2):
    """A map that nilearn ships, on the grid."""
    loaded = getattr(datasets, f"load_mni152_{name}")(resolution=resolution)
    found = volumes.on_grid(loaded.get_fdata(dtype=np.float32), loaded.affine)
    return found * (volumes.brain_mask(GRID) if name == "template" else 1)


def t1():
    return 1000 * brain("template")


def fa():
    """FA as the maps of white and grey matter suggest it."""
    return (0.6 * brain("wm_template") ** 1.5 + 0.12 * brain("gm_template") + 0.04) * inside()


def gm():
    return brain("gm_template")


def inside():
    return volumes.brain_mask(GRID)


def fluid():
    return np.clip(1 - brain("gm_template") - brain("wm_template"), 0, 1) * inside()


def moved(volume, turn=(0, 0, 0), scale=(1, 1, 1), shift=(0, 0, 0)):
    """Turn (degrees), scale and shift (mm) a volume about the middle of the brain."""
    back = np.linalg.inv(
        Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ np.diag(scale)
    )
    middle = np.array([45, 54, 40])
    first = middle - back @ (middle + np.array(shift) / 2)
    return ndimage.affine_transform(volume, back, first, order=1)


def bias(volume, strength, seed=0):
    """A smooth field, as a coil leaves it, and noise in the brain."""
    rng = np.random.default_rng(seed)
    field = ndimage.zoom(rng.normal(size=(4, 4, 4)), np.array(GRID) / 4, order=3)
    noise = rng.normal(1, 0.05, GRID)
    return volume * np.exp(strength * field / np.abs(field).max()) * noise


def registered(volume, seed):
    """What a registration leaves: a few degrees, percent and millimetres."""
    rng = np.random.default_rng(seed)
    draws = rng.uniform(-3.5, 3.5, 3), rng.uniform(0.93, 1.07, 3), rng.uniform(-4, 4, 3)
    return moved(volume, *draws)


def standardised(volume):
    brain_of = volume > 0
    return np.where(brain_of, (volume - volume[brain_of].mean()) / volume[brain_of].std(), 0)


def head():
    """The brain with fluid, a skull and a scalp drawn round it."""
    away = ndimage.distance_transform_edt(~inside()) * 2
    return t1() + 100 * ((away > 2) & (away < 8)) + 800 * ((away >= 8) & (away < 15))


def judged(volume, kind):
    """As `fault` judges a file."""
    volume = np.asarray(volume, np.float32)
    volume = volumes.lift(volume) if kind == "t1" else volume
    return content.judge(content.numbers(volume, kind), kind)


# --- what must pass ---------------------------------------------------------------------

GOOD = {
    "template": (t1, "t1"),
    "from 0 to 1": (lambda: t1() / 1000, "t1"),
    "registered": (lambda: bias(registered(t1(), 0), 0.3), "t1"),
    "registered, another": (lambda: bias(registered(t1(), 1), 0.3, 1), "t1"),
    "a strong coil": (lambda: bias(t1(), 0.5, 3), "t1"),
    "standardised in the brain": (lambda: standardised(t1()), "t1"),
    "standardised": (lambda: (t1() - t1().mean()) / t1().std(), "t1"),
    "another background": (lambda: np.where(inside(), t1(), -1024), "t1"),
    "one hot voxel": (lambda: t1() + 60_000 * (np.arange(t1().size).reshape(GRID) == 40_000), "t1"),
    "wide ventricles": (lambda: t1() * (1 - 0.6 * ndimage.grey_dilation(fluid(), 3)), "t1"),
    "mirrored": (lambda: t1()[::-1], "t1"),  # nothing can be said of it
    "fa": (fa, "fa"),
    "fa, registered": (lambda: bias(registered(fa(), 0), 0.1), "fa"),
    "fa, eroded": (lambda: fa() * ndimage.binary_erosion(inside(), iterations=3), "fa"),
    "fa, without a cerebellum": (lambda: fa() * (np.arange(91) > 20), "fa"),
    "gm": (gm, "gm"),
    "gm, modulated": (lambda: bias(registered(gm(), 2), 0.3), "gm"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_images_pass(name):
    make, kind = GOOD[name]
    assert judged(make(), kind) == ""


@pytest.mark.parametrize("kind", ["t1", "fa"])
@pytest.mark.parametrize("shape", [(23, 28, 23), (46, 55, 46)])
def test_what_chapter_2_stores_is_judged_alike(tmp_path, kind, shape):
    for number, volume in enumerate((t1() if kind == "t1" else fa(), head())):
        path = save(tmp_path / f"{number}.nii.gz", volume)
        stored = volumes.preprocess(path, kind, shape)[0].astype(np.float16)
        said = content.judge(content.numbers(stored, kind), kind)
        assert (said == "") == (number == 0)


def test_the_synthetic_cohort_passes():
    """The mildest and the most severe of its brains."""
    latents = tables.make_tables(60, 0.5)[2].sort_values("atrophy", ignore_index=True)
    ends = latents.iloc[[0, -1]].to_dict("records")
    for kind, draw in (("t1", render.render_t1), ("fa", render.render_fa)):
        for volume in draw(ends):
            assert judged(volume[::-1], kind) == ""  # stored from right to left


# --- what must be named -----------------------------------------------------------------

WRONG = {
    "a whole head": (head, "t1", "is not skull-stripped"),
    "a head of 25 % more": (lambda: moved(t1(), scale=(1.3, 1.3, 1.3)), "t1", "skull-stripped, or"),
    "noise all over": (lambda: fa() + 0.4 * ~inside(), "fa", "is not skull-stripped"),
    "almost empty": (lambda: t1() * (np.arange(91) < 20), "t1", "is almost empty"),
    "half a brain": (
        lambda: t1() * (np.arange(91) < 43)[:, None, None],
        "t1",
        "almost empty|centre",
    ),
    "20 mm off": (lambda: moved(t1(), shift=(0, 20, 0)), "t1", "has its centre 20 mm"),
    "fa, 18 mm off": (lambda: moved(fa(), shift=(0, 0, -18)), "fa", "has its centre 1[78] mm"),
    "a nod of 12 degrees": (lambda: moved(t1(), turn=(12, 0, 0)), "t1", "turned by about 12"),
    "a tilt of 12 degrees": (lambda: moved(t1(), turn=(0, -12, 0)), "t1", "turned by about 12"),
    "fa, turned": (lambda: moved(fa(), turn=(0, 0, 12)), "fa", "turned by about 12"),
    "back to front": (lambda: t1()[:, ::-1], "t1", "turned"),
    "upside down": (lambda: t1()[:, :, ::-1], "t1", "centre|turned"),
    "an FA map": (fa, "t1", "is no T1: most of the brain is as dark as an FA map; exchange"),
    "a T1": (t1, "fa", "is no FA map: most of the brain is as bright as a T1; exchange"),
    "a T1 from 0 to 1": (lambda: t1() / 1000, "fa", "as bright as a T1; exchange"),
    "a T2": (lambda: fluid() + 0.5 * gm() + 0.3 * brain("wm_template"), "t1", "is no T1: bright"),
    "inverted": (lambda: (1000 - t1()) * inside(), "t1", "is no T1: bright"),
    "grey matter": (gm, "t1", "is no T1: bright"),
    "FA x 1000": (lambda: 1000 * fa(), "fa", r"goes to \d+.*fslmaths in -div 1000 out"),
    "FA x 100": (lambda: 100 * fa(), "fa", r"goes to \d+.*fslmaths in -div 100 out"),
    "MD, mm2/s": (lambda: mean_diffusivity() / 1000, "fa", "is no FA map: bright"),
    "MD, um2/ms": (lambda: mean_diffusivity(), "fa", "is no FA map: bright"),
    "FA, standardised": (lambda: standardised(fa()), "fa", "."),
    "a T1 for grey matter": (t1, "gm", "is no map of grey-matter density"),
    "white matter": (lambda: brain("wm_template"), "gm", "is no map of grey-matter density"),
    "gm x 1000": (lambda: 1000 * gm(), "gm", "fslmaths in -div 1000 out"),
    "gm, 20 mm off": (lambda: moved(gm(), shift=(0, 20, 0)), "gm", "has its centre"),
}


def mean_diffusivity():
    return (0.75 * brain("wm_template") + 0.85 * gm() + 2.8 * fluid()) * inside()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_images_are_named_with_a_mend(name):
    make, kind, words = WRONG[name]
    said = judged(make(), kind)
    assert re.search(words, said) and "; " in said and len(said) < 200, said


def test_every_number_means_what_it_says():
    found = content.numbers(t1(), "t1")
    assert found["share"] == pytest.approx(inside().mean(), abs=0.02)
    assert found["correlation"] > 0.99 and found["distance_mm"] < 1 and found["turned"] == 0
    assert content.numbers(moved(t1(), shift=(-10, 0, 0)), "t1")["distance_mm"] == pytest.approx(
        10, abs=1
    )
    assert content.numbers(head(), "t1")["outside"] > 0.25
    assert content.numbers(fa(), "fa")["within"] == 1
    assert content.numbers(3 * fa(), "fa")["within"] < 0.9
    top = content.numbers(2 * fa(), "fa")["top"] / content.numbers(fa(), "fa")["top"]
    assert top == pytest.approx(2)


# --- files ------------------------------------------------------------------------------


def save(path, data, affine=AFFINE, dtype=np.float32):
    nib.save(nib.Nifti1Image(np.asarray(data, dtype), affine), path)
    return path


def test_a_good_file_of_each_kind(tmp_path):
    assert content.fault(save(tmp_path / "a.nii.gz", t1(), dtype=np.int16), "t1") == ""
    assert content.fault(save(tmp_path / "b.nii", fa()), "fa") == ""
    one = datasets.load_mni152_template(resolution=1)  # 1 mm, its own grid
    nib.save(one, tmp_path / "c.nii.gz")
    assert content.fault(tmp_path / "c.nii.gz", "t1") == ""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: inside(), "holds 1 different values, as a mask or labels"),
        (
            lambda: 2 * (gm() > 0.5) + 41 * (brain("wm_template") > 0.5),
            r"holds \d+ different values, as a mask or labels",
        ),
        (lambda: t1() * 0 + 5, "has the same value in every voxel"),
    ],
)
def test_masks_labels_and_constants_are_named(tmp_path, make, words):
    for kind in ("t1", "fa"):
        said = content.fault(save(tmp_path / "a.nii.gz", make(), dtype=np.int16), kind)
        assert re.match(words, said), said


def test_a_file_that_cannot_be_read_is_named_without_its_path(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"<html>please log in</html>")
    said = content.fault(path, "t1")
    assert said.startswith("cannot be read as NIfTI") and str(path) not in said
    assert content.fault(tmp_path / "none.nii", "t1").startswith("is missing")
    assert content.fault(tmp_path / "scan.img", "t1").endswith("; save it as one")


@pytest.mark.parametrize(
    ("q", "s", "words"),
    [
        ((AFFINE, 1), (AFFINE, 4), ""),
        ((AFFINE, 1), (np.eye(4), 0), ""),
        ((np.eye(4), 0), (AFFINE, 1), ""),
        ((AFFINE, 0), (AFFINE, 0), "no qform or sform code is set"),
        ((AFFINE @ np.diag([-1, 1, 1, 1]), 1), (AFFINE, 1), "qform and sform are 364 mm apart"),
        ((AFFINE + np.outer([0, 1, 0, 0], [0, 0, 0, 12]), 1), (AFFINE, 1), "are 12 mm apart"),
    ],
)
def test_a_header_that_leaves_the_sides_open_is_named(tmp_path, q, s, words):
    image = nib.Nifti1Image(t1().astype(np.int16), AFFINE)
    image.set_qform(*q)
    image.set_sform(*s)
    raw = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]))
    header["qform_code"], header["sform_code"] = q[1], s[1]
    raw[:348] = header.binaryblock
    (tmp_path / "a.nii").write_bytes(bytes(raw))
    said = content.sides(tmp_path / "a.nii")
    assert (words in said and "; convert it again, or keep" in said) if words else said == ""


def test_blocks_are_means():
    assert content._blocks(np.ones(GRID)).shape == content.BLOCKS
    ramp = np.broadcast_to(np.arange(91.0)[:, None, None], GRID)
    wanted = torch.nn.AdaptiveAvgPool3d(content.BLOCKS)(torch.tensor(ramp.copy())[None])[0]
    assert np.allclose(content._blocks(ramp), wanted)
