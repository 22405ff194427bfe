"""Read one NIfTI file and check that the model can use it: whole, 3D, on MNI space."""

from __future__ import annotations

import gzip
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

GRID = (91, 109, 91)  # 2 mm MNI, the published input
GRID_MM = 2.0
MNI_CENTRE = np.array([0.0, -18.0, 18.0])  # mm, of that grid


class VolumeError(ValueError):
    """An image file cannot be used; the message names the file and the mend."""


def read_volume(path: Path) -> Any:
    """Read one NIfTI file as a (1, X, Y, Z) MONAI MetaTensor in RAS, in its own voxel size.

    Raises VolumeError if it is unreadable, truncated or (where compressed) changed by a bit;
    not 3D; NaN or constant; or if its header does not place it on MNI space.
    """
    try:
        volume = _decode(Path(path).read_bytes())
    except Exception as error:  # nibabel and gzip raise many kinds: all mean the file
        what = f"cannot be read as NIfTI ({type(error).__name__}: {error})"
        raise VolumeError(f"{path} {what}; download or convert it again") from error
    if fault := _fault(np.asarray(volume)[0], np.asarray(volume.affine, float)):
        raise VolumeError(f"{path} {fault}")
    return volume


def _decode(raw: bytes) -> Any:
    import nibabel
    from monai.data import MetaTensor
    from monai.data.utils import correct_nifti_header_if_necessary

    if raw[:2] == b"\x1f\x8b":  # nibabel never compares the checksum at the end of gzip
        raw = gzip.decompress(raw)
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(raw))
    shape = header.get_data_shape()
    if len(shape) != 3:
        raise ValueError(f"it has shape {shape}, one 3D volume is expected")
    needed = math.prod(shape) * header.get_data_dtype().itemsize
    if needed > len(raw):  # before memory is claimed for what a wrong header promises
        raise ValueError(f"the header promises {needed} bytes, the file has {len(raw)}")
    image = correct_nifti_header_if_necessary(nibabel.Nifti1Image.from_bytes(raw))
    plain = nibabel.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine)
    turned = nibabel.as_closest_canonical(plain)
    return MetaTensor(np.ascontiguousarray(turned.dataobj)[None], affine=turned.affine)


def _fault(data: np.ndarray, affine: np.ndarray) -> str:
    """Say why the model cannot use an RAS image, and the mend; '' if it can."""
    if not np.isfinite(data).all():
        return "holds NaN or infinite values; convert it again"
    if data.max() == data.min():
        return "has the same value in every voxel; convert it again"
    mend = "register it to the 2 mm MNI grid (91x109x91)"
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    extent, wanted = spacing * data.shape, np.array(GRID) * GRID_MM
    if not (0.6 * wanted < extent).all() or not (extent < 1.7 * wanted).all():
        return f"covers {extent.round()} mm, the MNI grid {wanted} mm; {mend}"
    if (np.diag(affine)[:3] / spacing < 0.95).any():
        return f"is rotated against the MNI axes; {mend}"
    centre = (affine @ [*(np.array(data.shape) - 1) / 2, 1])[:3]
    if not (np.abs(centre - MNI_CENTRE) <= 40).all():  # NaN, too
        return f"has its centre at {centre.round()} mm, the MNI grid at {MNI_CENTRE}; {mend}"
    return ""
