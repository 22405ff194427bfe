"""What an image shows, judged against the MNI template: `fault(path, kind)`.

A header says where an image lies; only its content says whether that is true, and what it is.
It is judged on blocks of 8 mm, which tell a wrong image from a right one in a few milliseconds.
A mirrored brain cannot be told from a right one so: the template is as good as symmetric.
"""

import gzip
import itertools
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import torch
from nilearn import datasets
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from memoir_core import volumes
from memoir_core.volumes import GRID, GRID_MM, VolumeError, brain

from ..messages import say

BLOCKS = (23, 28, 23)  # of 8 mm
ANGLES = np.arange(-15, 16, 3)  # degrees
NAMES = {"t1": "T1", "fa": "FA map", "gm": "map of grey-matter density"}
LIKE = {"t1": "template", "fa": "wm_template", "gm": "gm_template"}  # where a kind is bright
LEAST = {"t1": 0.05, "fa": 0.1, "gm": 0.3}  # correlation with it, inside the brain


def fault(path: Path, kind: str) -> str:
    """Say what is wrong with a file as 't1', 'fa' or 'gm', and the mend: 'what; mend', or ''."""
    if not str(path).lower().endswith((".nii", ".nii.gz")):  # Analyze, a pair, DICOM, MGH, ...
        return say("no NIfTI file")
    try:
        data, affine = volumes.read_volume(path)
    except VolumeError as error:
        return str(error).removeprefix(str(path)).strip()
    if (unclear := sides(path)) or data.max() == data.min():
        return unclear or say("constant image")
    some = data[::3, ::3, ::3]
    counts = np.sort(np.unique(some[some != 0], return_counts=True)[1])
    if len(counts) <= 150 and counts[-10:].sum() >= 0.5 * counts.sum():
        return say("a mask", n=len(counts), wanted=NAMES[kind])
    data = volumes.lift(data) if kind == "t1" else data
    return judge(numbers(volumes.on_grid(data, affine), kind), kind)


def sides(path: Path) -> str:
    """Say what keeps left and right open in a header: 'what; mend', or ''."""
    with Path(path).open("rb") as file:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        header = nibabel.Nifti1Header((gzip.GzipFile(fileobj=file) if packed else file).read(348))
    forms = [f for f, code in (header.get_qform(coded=True), header.get_sform(coded=True)) if code]
    size = [*header.get_data_shape()[:3], 1]
    gap = np.abs((forms[0] - forms[-1]) * size).max() if forms else np.inf  # mm
    what = f"qform and sform are {gap:.0f} mm apart" if forms else "no qform or sform code is set"
    return "" if gap < 5 else say("sides open", what=what)


def numbers(volume: np.ndarray, kind: str) -> dict[str, float]:
    """Measure a volume (X, Y, Z) that fills the MNI grid, of any resolution, or a stored one.

    share, outside : of the grid, what is brain; of that, what lies outside of the template's.
    distance_mm, correlation : of the centre of mass, and of the values, to the template's.
    turned : degrees about x, y or z at which the template's brain fits better than unturned.
    contrast : correlation with where the kind is bright, inside the brain.
    middle, top, within : the brain's median (98th percentile: 1), 99th percentile, share in 0..1.
    """
    volume = np.asarray(volume, np.float32)
    standard = kind != "fa" and volume.min() < 0  # its scale is gone: nothing is said of it
    volume = volumes.lift(volume) if standard else volume
    small, some = _blocks(volume), volume[:: 1 + (len(volume) > 50), ::2]  # half the voxels do
    if some.max() <= 0 or small.max() <= 0:
        return {"share": 0.0}
    middle, top = np.percentile(small[brain(small)], [50, 98])
    there, values, mask = small > 0.4 * middle, (small / top).clip(0, 1), template("brain_mask")
    at, wanted = (np.argwhere(x).mean(axis=0) for x in (there, mask > 0.5))
    like, known = template(LIKE[kind]), some[some != 0]
    fits = _turned() @ _unit(there)  # (axes, angles)
    found = {
        "share": there.mean(),
        "outside": (there & (mask < 0.05)).sum() / there.sum(),
        "distance_mm": np.linalg.norm((at - wanted) * GRID_MM * GRID / BLOCKS),
        "correlation": _unit(values) @ _unit(like if kind == "gm" else template("template")),
        "turned": np.abs(ANGLES[(fits - 0.01 * (ANGLES != 0)).argmax(axis=1)]).max(),
        "contrast": _unit(values[mask > 0.9]) @ _unit(like[mask > 0.9]),
        "middle": middle / top,
        "top": 1.0 if standard else np.percentile(some[brain(some)], 99),
        "within": ((known > -0.05) & (known < 1.05)).mean(),
    }
    return {name: float(value) for name, value in found.items()}


def judge(found: dict[str, float], kind: str) -> str:
    """Say why the `numbers` are not those of a kind on MNI space: 'what; mend', or ''."""
    if not 0.12 <= (share := found["share"]) <= 0.4:
        return say("almost empty" if share < 0.12 else "too large", share=share)
    top, most = found["top"], {"t1": np.inf, "fa": 1.05, "gm": 2}[kind]
    power = 10 ** round(np.log10(max(top, 1e-9) / 0.6))
    scaled = top > most or (kind == "fa" and (top < 0.15 or found["within"] < 0.99))
    cases = {
        "off centre": found["distance_mm"] > 15,
        "skull": found["outside"] > 0.1,
        "turned": found["turned"] >= 9,
        "other contrast": found["contrast"] < LEAST[kind],
        "dark t1": kind == "t1" and not found["middle"] > 0.5,
        "bright fa": kind == "fa" and found["middle"] > 0.5,
        "scaled up": scaled and power > 1,
        "another scale": scaled,
        "unlike": found["correlation"] < 0.6,
    }
    wrong = [key for key, fits in cases.items() if fits]
    return say(wrong[0], wanted=NAMES[kind], power=power, **found) if wrong else ""


@cache
def template(name: str) -> np.ndarray:
    """A map that nilearn ships, in `BLOCKS`."""
    return _blocks(shipped(name))


def shipped(name: str) -> np.ndarray:
    """A map that nilearn ships (load_mni152_...) on the grid: (91, 109, 91)."""
    loaded = getattr(datasets, f"load_mni152_{name}")(resolution=2)
    return loaded.get_fdata()[4:95, 4:113, :91]


@cache
def _turned() -> np.ndarray:
    """The template's brain, turned about x, y and z by `ANGLES`: (3, angles, blocks)."""
    mask, found = template("brain_mask"), []
    middle = np.argwhere(mask > 0.5).mean(axis=0)
    for axis, angle in itertools.product("xyz", ANGLES):
        back = Rotation.from_euler(axis, -angle, degrees=True).as_matrix()
        found.append(_unit(affine_transform(mask, back, middle - back @ middle, order=1)))
    return np.reshape(found, (3, len(ANGLES), -1))


def _unit(values: np.ndarray) -> np.ndarray:
    """Values of mean 0 and length 1, flat: the product of two such is their correlation."""
    flat = values.ravel() - values.mean()
    return flat / (np.linalg.norm(flat) or 1)


def _blocks(volume: np.ndarray) -> np.ndarray:
    plain = torch.from_numpy(np.ascontiguousarray(volume, np.float32))
    return torch.nn.AdaptiveAvgPool3d(BLOCKS)(plain[None])[0].numpy()
