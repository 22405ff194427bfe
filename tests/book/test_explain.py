"""Occlusion maps."""

import numpy as np
import pytest
import torch

from memoir_book import explain


def test_occlusion_finds_the_only_region_that_counts():
    class Corner(torch.nn.Module):
        """Diagnoses Dementia from the mean of one corner, and nothing else."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def t1(self, volume):
            return volume[:, :, :6, :6, :6].mean(dim=(1, 2, 3, 4))[:, None].expand(-1, 512)

        def fuse(self, embeddings, present):
            assert present[:, 0].all() and not present[:, 1:].any()
            score = embeddings[:, 0, 0] * self.weight
            return {"dx3": torch.stack([score * 0, score * 0, 4 * score], dim=1)}

    volumes = {"Dementia": np.ones((2, 18, 18, 18), np.float16)}
    found = explain.occlusion_maps(Corner(), volumes, mask_mm=24, voxel_mm=4.0)["Dementia"]
    assert found.shape == (18, 18, 18)
    assert found[:6, :6, :6].mean() > 5 * abs(found[12:, 12:, 12:]).mean()
    # Where the head is off its threshold, a probability of nearly 0 cannot fall; a bias mends it.
    off = explain.occlusion_maps(Corner(), volumes, 24, 4.0, bias=(9, 0, -9))["Dementia"]
    mended = explain.occlusion_maps(Corner(), volumes, 24, 4.0, 2.0, (6, 0, 0))["Dementia"]
    assert abs(off).max() < 1e-5 and mended.max() > 2 * found.max()


def test_the_largest_fall_is_placed_in_millimetres():
    values = np.zeros((91, 109, 91))
    values[45 + 11, 54, 40] = -0.4  # 2 mm voxels; the middle one lies at 0, -18, 18
    found = explain.largest_fall(values)
    assert [found[k] for k in ("fall", "x", "y", "z")] == pytest.approx([-0.4, 22, -18, 8])
    assert abs(found["mirror"]) < 0.01
    both = explain.largest_fall(values + values[::-1])
    assert both["mirror"] == pytest.approx(1)
    half = explain.largest_fall(np.pad([[[1.0]]], ((0, 1), (0, 0), (0, 0))))
    assert half["x"] == pytest.approx(-45.5)  # the middle of the left half
    assert np.isnan(explain.largest_fall(np.zeros((4, 4, 4)))["mirror"])


def test_the_template_lies_where_volumes_lie():
    from nilearn import datasets

    found = explain.template((91, 109, 91))
    assert found.shape == (91, 109, 91) and found.dtype == np.float32
    image = datasets.load_mni152_template(resolution=2)
    values = image.get_fdata()
    for mm in ((30, -40, 20), (-44, 10, 0), (0, 50, 10)):
        own = found[tuple(np.add(mm, (90, 126, 72)) // 2)]
        voxel = (np.linalg.inv(image.affine) @ [*mm, 1])[:3].round().astype(int)
        assert own == pytest.approx(values[tuple(voxel)], abs=1e-3)
    assert explain.template((5, 6, 5)).shape == (5, 6, 5)
