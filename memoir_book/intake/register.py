"""What `prepare` does to one image: read it, find the brain, even it out, put it on the grid.

SimpleITK and deepbet (group intake of pyproject.toml) are imported where they are used.
"""

from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy import ndimage

from memoir_core.volumes import AFFINE, GRID, GRID_MM, MOST, VolumeError, brain_mask
from memoir_core.volumes import on_grid as resampled

from ..messages import say
from . import content

METHOD = 2  # raise it where a change of this file makes earlier results stale
CENTRE = AFFINE[:3, 3] + GRID_MM * (np.array(GRID) - 1) / 2  # mm
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK counts mm to the left and to the back
BRAIN_ML = (600, 2600)
SCALES = (0.7, 1.4)  # sizes of a head against the template that are possible


@cache
def template(kind: str) -> np.ndarray:
    """What an image is registered to, (91, 109, 91), 0 outside the brain: T1, white matter."""
    name = {"t1": "template", "fa": "wm_template"}[kind]
    return (content.shipped(name) * brain_mask(GRID)).astype(np.float32)


def read_raw(path: Path) -> Any:
    """Read one NIfTI file in any orientation: an RAS nibabel image of float32, NaN as 0.

    VolumeError where it is unreadable, not 3D, constant, or does not say where left is.
    """
    try:
        loaded: Any = nibabel.load(path)
        if {*loaded.shape[3:]} - {1} or 4 * np.prod(loaded.shape, dtype=object) > MOST:
            raise ValueError(f"it has shape {loaded.shape}, one 3D volume is expected")
        (to_q, q), (to_s, s) = loaded.get_qform(coded=True), loaded.get_sform(coded=True)
        if not (q or s):
            raise ValueError("no form code in its header: it does not say where left is")
        if q and s and nibabel.aff2axcodes(to_q) != nibabel.aff2axcodes(to_s):
            raise ValueError("sform and qform in its header contradict each other")
        data = np.asarray(loaded.dataobj, np.float32).reshape(loaded.shape[:3])
        data = np.nan_to_num(data, nan=0, posinf=0, neginf=0)
        if data.max() == data.min():
            raise ValueError("it has the same value in every voxel")
        return nibabel.as_closest_canonical(nibabel.Nifti1Image(data, loaded.affine))
    except Exception as error:  # nibabel and gzip raise many kinds: all mean the file
        why = str(error).replace(str(path), "the file")[:80] or type(error).__name__
        raise VolumeError(say("unusable image", path=path, why=why)) from error


@cache
def _stripper() -> Any:
    from deepbet import BrainExtraction

    return BrainExtraction(no_gpu=True)


def find_brain(head: Any, stripped: bool) -> np.ndarray:
    """Find the brain of an RAS image: (X, Y, Z) bool; VolumeError where there is none.

    stripped : the image holds nothing else, and what is not 0 is brain.
    """
    try:
        mask = np.asarray((head if stripped else _stripper().run(head)[1]).dataobj) > 0
        volume = mask.sum() * abs(np.linalg.det(head.affine[:3, :3])) / 1000
    except (AssertionError, ValueError, IndexError) as error:  # as deepbet says that it has none
        raise VolumeError(say("no brain")) from error
    if not BRAIN_ML[0] < volume < BRAIN_ML[1]:
        what = "what is not 0 in it" if stripped else "the brain that deepbet finds"
        raise VolumeError(say("no head", what=what, volume=volume))
    return mask


def correct_bias(data: np.ndarray, affine: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Divide an image by its smooth gain, as N4 finds it inside the mask; 0 outside."""
    import SimpleITK

    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50, 50])  # with more levels it takes anatomy away, too
    whole, inside = to_itk(data * mask, affine), to_itk(mask.astype(np.uint8), affine)
    shrink = [max(1, round(4 / mm)) for mm in whole.GetSpacing()]
    n4.Execute(SimpleITK.Shrink(whole, shrink), SimpleITK.Shrink(inside, shrink))
    gain = np.exp(SimpleITK.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)).T)
    return np.where(mask, data / gain, 0).astype(np.float32)


def to_itk(data: np.ndarray, affine: np.ndarray) -> Any:
    """Make an (X, Y, Z) array, placed by a (4, 4) RAS affine in mm, an image of SimpleITK."""
    import SimpleITK

    made = SimpleITK.GetImageFromArray(np.ascontiguousarray(data.T))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    made.SetSpacing(spacing.tolist())
    made.SetOrigin((LPS @ affine)[:3, 3].tolist())
    made.SetDirection(((LPS @ affine)[:3, :3] / spacing).ravel().tolist())
    return made


def register(data: np.ndarray, affine: np.ndarray, kind: str) -> np.ndarray:
    """Find the 9 DOF that take the template to an image (X, Y, Z): (4, 4), mm to mm, RAS.

    Mutual information, with 6 DOF and then 9, from the centres of mass. One transform, turn
    times scales, is refined; transforms multiplied with each other would shear.
    """
    import SimpleITK as itk

    fixed, moving = to_itk(template(kind), AFFINE), to_itk(data, affine)
    moving = itk.BinShrink(moving, [max(1, round(GRID_MM / mm)) for mm in moving.GetSpacing()])
    moments = itk.CenteredTransformInitializerFilter.MOMENTS
    start = itk.CenteredTransformInitializer(fixed, moving, itk.Euler3DTransform(), moments)
    found = itk.ComposeScaleSkewVersor3DTransform()
    found.SetCenter(start.GetFixedParameters()[:3])
    found.SetTranslation(start.GetParameters()[3:])
    for free, levels in ((6, [4, 2]), (9, [2, 1])):
        way, method = itk.CompositeTransform([found]), itk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(0.1, 1)
        method.SetInterpolator(itk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 150, 0.6, 1e-6)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetOptimizerWeights([1] * free + [0] * (12 - free))  # the last three are shears
        method.SetShrinkFactorsPerLevel(levels)
        method.SetSmoothingSigmasPerLevel(levels)
        method.SetInitialTransform(way, inPlace=True)
        method.Execute(fixed, moving)
        found.SetParameters(way.GetParameters())
    matrix, centre = np.eye(4), np.array(found.GetCenter())
    matrix[:3, :3] = np.reshape(found.GetMatrix(), (3, 3))
    matrix[:3, 3] = centre + found.GetTranslation() - matrix[:3, :3] @ centre
    return LPS @ matrix @ LPS


def nine_dof(matrix: np.ndarray) -> dict[str, Any]:
    """Take a (4, 4) matrix, template to head, apart: turn, scales, shift of the grid's centre.

    VolumeError where something is left (shear, a mirror), or the head's size is impossible.
    """
    scales = np.linalg.norm(matrix[:3, :3], axis=0)
    turn = matrix[:3, :3] / scales
    if not np.allclose(turn.T @ turn, np.eye(3), atol=1e-6) or np.linalg.det(turn) < 0:
        raise VolumeError(say("more than 9 DOF"))
    if not ((scales > SCALES[0]) & (scales < SCALES[1])).all():
        raise VolumeError(say("impossible size", sizes=scales.round(2).tolist()))
    degrees = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    shift = (matrix @ [*CENTRE, 1])[:3] - CENTRE
    return {"degrees": float(degrees), "scales": scales.tolist(), "shift_mm": shift.tolist()}


def likeness(volume: np.ndarray, kind: str) -> float:
    """Correlation of a volume on the grid with the template, inside the template's brain."""
    inside = brain_mask(GRID)
    return float(np.corrcoef(volume[inside], template(kind)[inside])[0, 1])


def on_grid(volume: np.ndarray) -> Any:
    """Make a volume on the grid a NIfTI image whose header says MNI, twice."""
    made = nibabel.Nifti1Image(volume, AFFINE)
    made.set_sform(AFFINE, code=4)
    made.set_qform(AFFINE, code=4)
    return made


def prepare_image(
    path: Path, kind: str, stripped: bool = False, matrix: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Put a raw 't1' or 'fa' on the grid: (91, 109, 91) float32, and the matrix that did it.

    stripped : the T1 holds no skull. matrix : of `register`, where the FA shares the T1's space.
    VolumeError where the image cannot be used.
    """
    read = read_raw(path)
    data, affine = np.asarray(read.dataobj), read.affine
    if kind == "t1":
        mask = find_brain(read, stripped)
        margin = ndimage.find_objects(ndimage.binary_dilation(mask, iterations=4).astype(int))[0]
        affine = affine @ nibabel.affines.from_matvec(np.eye(3), [part.start for part in margin])
        data = correct_bias(data[margin], affine, mask[margin])
    elif (most := np.percentile(data[data > 0], 99)) > 1.2 or most < 0.2:
        raise VolumeError(say("no FA values", most=most))
    else:
        data = data.clip(0, 1)
    try:
        matrix = register(data, affine, kind) if matrix is None else np.asarray(matrix)
    except RuntimeError as error:  # ITK: no overlap, a header that it cannot read
        raise VolumeError(say("not registered", why=str(error)[-80:])) from error
    volume = resampled(data, np.linalg.inv(matrix) @ affine)
    return volume * brain_mask(GRID) if kind == "fa" else volume, matrix


def draw(volume: np.ndarray, path: Path) -> None:
    """Draw three slices through the grid's middle, with the outline of the template's brain."""
    from nilearn import plotting

    outline = on_grid(brain_mask(GRID).astype(np.float32))
    how: Any = {"dim": 0, "draw_cross": False, "colorbar": False}
    how |= {"view_type": "contours", "cmap": "Wistia_r", "alpha": 1, "linewidths": 0.8}  # orange
    plotting.plot_roi(outline, on_grid(volume), tuple(CENTRE), path, **how)
