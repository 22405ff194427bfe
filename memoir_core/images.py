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
    from monai.transforms import Orientation
    from nibabel.orientations import io_orientation

    def unusable(what: str, mend: str = "convert it again") -> VolumeError:
        return VolumeError(f"{path} {what}; {mend}")

    try:
        volume = _decode(Path(path).read_bytes())
    except Exception as error:  # nibabel and gzip raise many kinds: all mean the file
        what = f"cannot be read as NIfTI ({type(error).__name__}: {error})"
        raise unusable(what, "download or convert it again") from error
    affine = np.asarray(volume.affine, float)
    if volume.ndim != 4:
        raise unusable(f"has shape {tuple(volume.shape[1:])}", "one 3D volume is expected")
    if not np.isfinite(np.asarray(volume)).all():
        raise unusable("holds NaN or infinite values")
    if volume.max() == volume.min():
        raise unusable("has the same value in every voxel")
    if not np.isfinite(affine).all() or np.isnan(io_orientation(affine)).any():
        raise unusable("has an affine that is no affine", "convert it again from DICOM")
    oriented: Any = Orientation(axcodes="RAS", labels=None)(volume)
    if wrong := _off_grid(np.asarray(oriented.affine, float), np.array(oriented.shape[1:])):
        raise unusable(wrong, "register it to the 2 mm MNI grid (91x109x91)")
    return oriented


def _decode(raw: bytes) -> Any:
    """Turn the bytes of a NIfTI file into a (1, X, Y, Z) MetaTensor.

    The whole file is unpacked first, because gzip's checksum stands at its end: a reader
    that stops after the last voxel (nibabel's, say) never compares it.
    """
    import nibabel
    from monai.data import MetaTensor
    from monai.data.utils import correct_nifti_header_if_necessary

    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    kind = next((k for k in kinds if k.header_class.may_contain_header(raw)), None)
    if kind is None:
        raise ValueError("no NIfTI header")
    header = kind.header_class.from_fileobj(io.BytesIO(raw))
    needed = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    if needed > len(raw):  # before memory is claimed for what a wrong header promises
        raise ValueError(f"the header promises {needed} bytes, the file has {len(raw)}")
    image = correct_nifti_header_if_necessary(kind.from_bytes(raw))
    return MetaTensor(np.asarray(image.dataobj, np.float32)[None], affine=image.affine)


def _off_grid(affine: np.ndarray, shape: np.ndarray) -> str:
    """Say where an RAS header contradicts the MNI grid in size, direction or place; '' if not."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    extent, wanted = spacing * shape, np.array(GRID) * GRID_MM
    if not (0.6 * wanted < extent).all() or not (extent < 1.7 * wanted).all():
        return f"covers {extent.round()} mm, the MNI grid {wanted} mm"
    if (np.diag(affine)[:3] / spacing < 0.95).any():
        return "is rotated against the MNI axes"
    centre = (affine @ [*((shape - 1) / 2), 1])[:3]
    if (np.abs(centre - MNI_CENTRE) > 40).any():
        return f"has its centre at {centre.round()} mm, the MNI grid at {MNI_CENTRE}"
    return ""
