"""What a subject looks like to the network: statistics of the train part, and the dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, Sampler

from .config import DX, SCORES
from .volumes import Volumes, augment, own_rows

IGNORE = -100  # label of a row that a head's loss leaves out
RECORD = ("case", "split", "DX", "PTGENDER", "AGE", "APOE4", *SCORES)  # what is read of a subject
COLUMNS = ("scores", "known", "apoe", "present", "dx3", "dx2", "sex", "age", "cdrsb")  # of an item
RETEST = 0.5  # SDs: noise on the scores in training, as of a second visit; the size is our choice
BRIGHTEN = {"t1": 0.1, "fa": 0.0}  # FA is a quantity
APOE_MISSING = 3  # index of the embedding for an unknown genotype; 0, 1, 2 count e4 alleles


@dataclass(frozen=True)
class Scaler:
    """Means and standard deviations of the train part; nothing of val or test enters."""

    score_mean: tuple[float, ...]
    score_std: tuple[float, ...]
    age_mean: float
    age_std: float
    cdrsb_mean: float
    cdrsb_std: float
    fa_mean: float  # of all voxels inside the mask of all FA
    fa_std: float

    @classmethod
    def fit(cls, cohort: pd.DataFrame, volumes: Volumes) -> Scaler:
        train = cohort[cohort["split"] == "train"]
        rows = volumes.fa_row[train["case"]]
        fa = volumes.fa[np.sort(rows[rows >= 0])][:, volumes.inside].astype(np.float32)
        of_fa = (fa.mean(dtype=float), fa.std(dtype=float)) if fa.size else (0.0, 1.0)
        scores, age, cdrsb = train[list(SCORES)], train["AGE"], train["CDRSB"]
        mean = tuple(scores.mean().fillna(0.0))
        std = tuple(scores.std().fillna(1.0).replace(0.0, 1.0))
        ends = age.mean(), age.std() or 1.0, cdrsb.mean(), cdrsb.std() or 1.0  # NaN: no such head
        return cls(mean, std, *map(float, (*ends, *of_fa)))


class MemoirDataset(Dataset):
    """One subject per item, as the model wants it.

    Items hold t1, fa (1, X, Y, Z) float32 (zeros where absent); scores, known (5,); apoe;
    present (3,) bool; targets dx3, dx2, sex, age, cdrsb; and `case`.

    cohort, volumes : from `load_cohort` and `load_volumes`, all rows in the same order.
    part : 'train', 'val', 'test', or 'all'.
    hide : scores that the clinical branch must not see, such as ('CDRSB',).
    """

    def __init__(
        self, cohort: pd.DataFrame, volumes: Volumes, scaler: Scaler,
        part: str = "all", hide: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        if len(volumes.t1) != len(cohort):
            what = f"{len(volumes.t1)} T1 volumes do not fit {len(cohort)} subjects"
            raise ValueError(f"{what}: run chapter 2 again")
        kept = cohort if part == "all" else cohort[cohort["split"] == part]
        if not len(kept):
            raise ValueError(f"no subject has split={part!r}; use 'train', 'val', 'test' or 'all'")
        self.subjects = kept  # rows of the cohort, in the order of the items
        self.rows = kept["case"].to_numpy()
        self.volumes = volumes
        self.fa_mean, self.fa_std = scaler.fa_mean, scaler.fa_std or 1.0
        raw = kept[list(SCORES)].to_numpy(np.float32)
        known = ~np.isnan(raw)
        known[:, [SCORES.index(name) for name in hide]] = False
        mean, std = np.array(scaler.score_mean), np.array(scaler.score_std)
        self.scores = np.where(known, (raw - mean) / std, 0).astype(np.float32)
        self.known = known.astype(np.float32)
        self.apoe = kept["APOE4"].fillna(APOE_MISSING).to_numpy(np.int64)
        has_fa = volumes.fa_row[self.rows] >= 0
        clinical = known.any(axis=1) | (self.apoe != APOE_MISSING)
        self.present = np.stack([np.ones(len(kept), bool), has_fa, clinical], axis=1)
        self.dx3 = kept["DX"].map({name: i for i, name in enumerate(DX)}).to_numpy(np.int64)
        self.dx2 = np.select([self.dx3 == 0, self.dx3 == 2], [0, 1], IGNORE)
        self.sex = (kept["PTGENDER"] == "Male").to_numpy(np.int64)
        self.age = ((kept["AGE"] - scaler.age_mean) / scaler.age_std).to_numpy(np.float32)
        self.cdrsb = ((kept["CDRSB"] - scaler.cdrsb_mean) / scaler.cdrsb_std).to_numpy(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = self.rows[i]
        fa_row = self.volumes.fa_row[row]
        fa = np.zeros(self.volumes.t1.shape[1:], np.float32)
        if fa_row >= 0:  # constants of the train part inside one mask: 0.8 x FA looks different
            raw = (self.volumes.fa[fa_row] - np.float32(self.fa_mean)) / np.float32(self.fa_std)
            fa = np.where(self.volumes.inside, raw, 0)
        item = {name: torch.as_tensor(getattr(self, name)[i]) for name in COLUMNS}
        item["t1"] = torch.from_numpy(np.asarray(self.volumes.t1[row], np.float32)[None])
        item["fa"] = torch.from_numpy(np.asarray(fa, np.float32)[None])
        return item | {"case": row}


def workers(device: str) -> dict[str, Any]:
    """Options of a DataLoader: a GPU reads faster than one process prepares, so it has more."""
    more = {"num_workers": min(8, os.cpu_count() or 1), "pin_memory": True}
    return more if device.startswith("cuda") else {}


class FaTogether(Sampler[int]):
    """Shuffle subjects so that those with FA fill steps of their own, and the others theirs.

    Drawn without that, a step of 16 shows four FA volumes after the masking gate: too few to be
    told apart. Only the last steps of an epoch are mixed.

    has_fa : (n,) bool. size : subjects per step.
    """

    def __init__(self, has_fa: Tensor, size: int, generator: Generator) -> None:
        self.has_fa, self.size, self.generator = has_fa, size, generator

    def __len__(self) -> int:
        return len(self.has_fa)

    def __iter__(self) -> Iterator[int]:
        steps, rest = [], []
        for own in (self.has_fa.nonzero()[:, 0], (~self.has_fa).nonzero()[:, 0]):
            drawn = own[torch.randperm(len(own), generator=self.generator)]
            whole = len(own) // self.size * self.size
            steps += drawn[:whole].split(self.size)
            rest.append(drawn[whole:])
        order = torch.randperm(len(steps), generator=self.generator)
        mixed = torch.cat(rest)
        mixed = mixed[torch.randperm(len(mixed), generator=self.generator)]
        yield from torch.cat([*(steps[i] for i in order), mixed]).tolist()


def vary(batch: dict[str, Tensor], generator: Generator) -> dict[str, Tensor]:
    """Change in a batch what a second visit would: the head's place, brightness, the scores."""
    moved = {name: augment(batch[name], generator, most) for name, most in BRIGHTEN.items()}
    n, width = batch["scores"].shape
    noise = RETEST * own_rows(n, width, generator, torch.randn)
    return batch | moved | {"scores": batch["scores"] + noise.to(batch["scores"])}
