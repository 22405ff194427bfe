"""Forty made-up subjects with volumes of 4 x 4 x 4 voxels, and an encoder for these."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from memoir_core import model
from memoir_core.config import DX, SCORES

N, SHAPE = 40, (4, 4, 4)
DROP = {"t1": 0.1, "fa": 0.3, "clinical": 0.05}


def cohort(n=N):
    """Scores follow the diagnosis; some are missing. 24 train, 8 val, 8 test per 40."""
    rng = np.random.default_rng(1)
    severity = np.arange(n) % 3
    table = pd.DataFrame({"case": np.arange(n), "DX": np.array(DX)[severity]})
    for k, name in enumerate(SCORES):
        table[name] = 2.0 * severity + k + rng.normal(size=n)
        table.loc[rng.random(n) < 0.1, name] = np.nan
    table["split"] = np.array(["train", "train", "train", "val", "test"])[np.arange(n) // 3 % 5]
    table["PTGENDER"] = np.where(rng.random(n) < 0.5, "Male", "Female")
    table["AGE"], table["APOE4"] = rng.normal(73, 7, n), rng.integers(0, 3, n).astype(float)
    table.loc[5, "APOE4"] = np.nan
    table["has_fa"] = np.arange(n) % 7 < 3
    return table


def volumes(table):
    """Volumes whose mean follows the diagnosis, FA for three in seven."""
    rng = np.random.default_rng(2)
    shift = table["DX"].map(DX.index).to_numpy()[:, None, None, None]
    t1 = (rng.normal(size=(len(table), *SHAPE)) + shift).astype(np.float16)
    has_fa = table["has_fa"].to_numpy()
    fa_row = np.where(has_fa, np.cumsum(has_fa) - 1, -1)
    inside = np.indices(SHAPE).sum(axis=0) > 1  # all voxels but four in a corner
    fa = t1[has_fa] + 1
    return SimpleNamespace(
        t1=t1, fa=fa, inside=inside, fa_row=fa_row, shape=SHAPE, digest="made up"
    )


class Encoder(nn.Module):
    """A linear map in place of the 3D ResNet-18: a training step takes milliseconds."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(int(np.prod(SHAPE)), model.EMBEDDING_DIM)

    def forward(self, volume):
        return F.normalize(self.project(volume.flatten(1)), dim=-1)


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
