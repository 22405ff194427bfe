"""Chapter 2 writes out the preprocessing: it is that of the core."""

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import monai.transforms as mt
import nibabel as nib
import numpy as np
import pytest
import torch

from memoir_core import volumes
from memoir_core.volumes import GRID

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_visualisation.ipynb"


def idea():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    (cell,) = [c for c in cells if "idea" in c["metadata"].get("tags", [])]
    return "".join(cell["source"])


@pytest.mark.parametrize("millimetres", [2.0, 2.5])
def test_the_chain_written_out_is_that_of_the_core(tmp_path, millimetres):
    """On an asymmetric brain, stored front to back and in other voxels than the network's."""
    shape = tuple(round(2 * n / millimetres) for n in GRID)
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*[np.linspace(-1.15, 1.15, n) for n in shape], indexing="ij")
    data = np.where(x**2 + y**2 + z**2 < 1, rng.normal(500 + 200 * x + 90 * z, 60), 0).clip(0)
    affine = np.diag([-millimetres, millimetres, millimetres, 1])
    affine[:3, 3] = [0, -18, 18] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    sizes = (31, 37, 31)
    book = SimpleNamespace(profile=SimpleNamespace(volume_shape=sizes))
    names = {"mt": mt, "np": np, "torch": torch, "first": path, "book": book}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(idea(), names)
    wanted, _ = volumes.preprocess(path, "t1", sizes)
    assert np.allclose(names["by_hand"], wanted, atol=1e-3)
    assert "(31, 37, 31), mean 0.000, sd 1.000" in said.getvalue().replace("-0.000", "0.000")
