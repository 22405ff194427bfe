"""Experiments that put a leak in on purpose and measure what it does to the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memoir_core.config import SCORES
from memoir_core.data import MemoirDataset, Scaler
from memoir_core.inference import predict
from memoir_core.losses import multitask_loss
from memoir_core.metrics import bootstrap, composite, hits, task_metrics
from memoir_core.model import DROP, Memoir, masking_gate

RECORD = [*SCORES, "APOE4"]
TARGETS = ("dx3", "dx2", "sex", "age", "cdrsb")
ERRORS = {"AGE": "mae, years", "CDRSB": "mae, CDR-SB points"}
ACCURACY = "balanced accuracy"
ON_TEST = "test_dx3_balanced_accuracy"  # a column that chapter 11 adds to a history


def experiment(name: str, honest: dict, leaky: dict, n: int, metric: str = ACCURACY) -> dict:
    """One row of leakage.csv from two intervals {'value', 'low', 'high'} of separate samples.

    `gain`: the rise of an accuracy, the fall of an error; of other subjects, without interval.
    """
    row: dict[str, Any] = {"experiment": name, "metric": metric}
    for kind, found in (("honest", honest), ("leaky", leaky)):
        row |= {kind: found["value"], f"{kind}_low": found["low"], f"{kind}_high": found["high"]}
    gain = (row["leaky"] - row["honest"]) * _sign(metric)
    return row | {"gain": gain, "gain_low": np.nan, "gain_high": np.nan, "n": n}


def paired(
    name: str, honest: np.ndarray, leaky: np.ndarray, groups: np.ndarray | None,
    samples: int, seed: int, metric: str = ACCURACY,
) -> dict:  # fmt: skip
    """One row of leakage.csv from values (n,) of the same subjects: hits, or errors.

    Subjects are redrawn within their class in `groups` (n,), for a mean of class means; None: a
    plain mean. NaN where a subject has no value; ValueError where all have none. Of errors, whose
    metric begins with 'mae' or 'loss', less is better.
    """
    both = np.stack([honest, leaky], axis=1).astype(float)  # (n, 2)
    known = ~np.isnan(both).any(axis=1)
    both, groups = both[known], groups[known] if groups is not None else None
    if not len(both):
        raise ValueError(f"experiment {name!r} has no subject with both values")
    gains = (both[:, 1] - both[:, 0]) * _sign(metric)
    first, second, gain = (bootstrap(x, groups, samples, seed) for x in (*both.T, gains))
    row = experiment(name, first, second, len(both), metric)
    return row | {"gain_low": gain["low"], "gain_high": gain["high"]}


def _sign(metric: str) -> int:
    return -1 if metric.startswith(("mae", "loss")) else 1


def compare(
    name: str, honest: pd.DataFrame, leaky: pd.DataFrame, samples: int, seed: int, by: str = "DX"
) -> dict:
    """A row for two tables of `inference.predict` of the same cases (others: ValueError).

    `by`: 'DX' for the three-class diagnosis, 'PTGENDER', or the error in 'AGE' or 'CDRSB'.
    """
    if list(honest["case"]) != list(leaky["case"]):
        raise ValueError(f"experiment {name!r}: the two tables are not of the same cases")
    if by in ERRORS:
        before, after = ((t[by] - t[f"{by}_pred"]).abs().to_numpy() for t in (honest, leaky))
        return paired(name, before, after, None, samples, seed, ERRORS[by])
    task = {"DX": "dx3", "PTGENDER": "sex"}[by]
    right = hits(honest, task), hits(leaky, task)
    return paired(name, *right, honest[by].to_numpy(), samples, seed)


def shown(rows: Sequence[dict], label: str) -> pd.DataFrame:
    """Rows of leakage.csv as a table for the page, with `label` as the name of its columns."""
    columns = ["metric", "honest", "leaky", "gain", "gain_low", "gain_high", "n"]
    return pd.DataFrame(rows).set_index("experiment")[columns].round(3).rename_axis(columns=label)


@dataclass(frozen=True)
class Retrained:
    """A row per epoch (train_loss; validation's measures), and test predictions after each."""

    history: pd.DataFrame
    tests: list[pd.DataFrame]

    def chosen(self, by: str = "composite") -> pd.DataFrame:
        """Test predictions of the epoch at which a column of the history is largest."""
        return self.tests[int(self.history[by].to_numpy().argmax())]


def retrain_clinical(
    data: MemoirDataset, scaler: Scaler, z: Tensor, present: Tensor, *, seed: int,
    drop: dict[str, float] = DROP, extra: pd.DataFrame | None = None, epochs: int = 15,
) -> Retrained:  # fmt: skip
    """Train clinical encoder, fusion and heads anew on the frozen image embeddings of chapter 5.

    Seconds instead of hours, as no volume is touched; but the image encoders stay, which were
    trained beside a clinical branch that saw CDR-SB, and for a CDR-SB head.

    data : all cases; with `hide=("CDRSB",)`, neither training nor test see that score.
    z, present, drop : (n, 3, 512) and (n, 3), stage2/embeddings.npz; the gate's rates in stage 2.
    extra : (n rows, k) further inputs of every case, such as the diagnosis as three columns.
    """
    more = [] if extra is None else [extra.to_numpy(np.float32)]
    given = torch.from_numpy(np.hstack([data.scores * data.known, data.known, *more]))
    apoe = torch.from_numpy(data.apoe)
    present = present.clone()
    present[:, 2] = torch.from_numpy(data.present[:, 2]) | (extra is not None)
    targets = {name: torch.tensor(getattr(data, name)) for name in TARGETS}
    torch.manual_seed(seed)
    model = Memoir()
    model.t1, model.fa = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    mlp: Any = model.clinical.mlp
    if extra is not None:
        mlp[0] = nn.Linear(mlp[0].in_features + extra.shape[1], mlp[0].out_features)

    def embeddings(rows: Tensor) -> Tensor:  # (B,) -> (B, 3, D), the clinical column anew
        mlp.train(model.training and len(rows) > 1)  # as in Memoir
        clinical = mlp(torch.cat([given[rows], model.clinical.apoe(apoe[rows])], dim=1))
        return torch.stack([z[rows, 0], z[rows, 1], F.normalize(clinical, dim=-1)], dim=1)

    @torch.no_grad()
    def predicted(rows: Tensor) -> pd.DataFrame:
        model.eval()
        subjects = data.subjects.iloc[rows.numpy()]
        return predict(model, embeddings(rows), present[rows], subjects, scaler)

    split, parts = data.subjects["split"].to_numpy(), ("train", "val", "test")
    train, val, test = (torch.from_numpy(np.flatnonzero(split == name)) for name in parts)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    noise = torch.Generator().manual_seed(seed)
    history, tests = [], []
    for epoch in range(1, epochs + 1):
        model.train()
        losses = []
        for rows in train[torch.randperm(len(train), generator=noise)].split(16):
            keep = masking_gate(present[rows], noise, drop)
            out = model.fuse(embeddings(rows), present[rows] & keep)
            loss = multitask_loss(out, {k: v[rows] for k, v in targets.items()})["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        found = task_metrics(predicted(val))
        tests.append(predicted(test))
        row = {"epoch": epoch, "train_loss": np.mean(losses), "composite": composite(found, scaler)}
        history.append(row | {"dx3_balanced_accuracy": found["dx3"]["balanced_accuracy"]})
    return Retrained(pd.DataFrame(history), tests)
