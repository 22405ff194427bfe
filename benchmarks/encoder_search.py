"""Which recipe lets stage 1 learn from every modality? `python benchmarks/encoder_search.py`.

Trains stage 1 on a finished run's cohort and volumes, once as the book does ('book') and once
for each change of its recipe, and adds a row per training to a table that chapter 4 shows. A
row that is already there is not made again, so that a search may be cut at any time. Names
joined by '+' are tried together, and the test part is never touched.

    python benchmarks/encoder_search.py --list
    python benchmarks/encoder_search.py --run quick-seed0 --variants book,wide,batch32+lr1e-3

A name that no longer exists in the core stops its variant, with a message, and the exit code
is 1: a recipe is never passed over in silence.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import nn
from torch.nn.utils import parametrize

from memoir_book import chapters, store
from memoir_book.manifest import read_manifest
from memoir_core import model as network
from memoir_core import training
from memoir_core.cohort import load_cohort
from memoir_core.config import MODALITIES, get_profile
from memoir_core.data import FaTogether, MemoirDataset, Scaler
from memoir_core.losses import PairwiseInfoNCE
from memoir_core.model import DROP, ImageEncoder
from memoir_core.volumes import Volumes, augment, load_volumes

OUT = chapters.ROOT / "book" / "reference" / "encoder_search.csv"
KEY = ["variant", "epochs", "seed"]
resnet18, AdamW = network.resnet18, torch.optim.AdamW


# --- what a variant may put in the place of something ------------------------------------


class TogetherMoved:
    """`augment` that moves the T1 and the FA of one step by the same draw."""

    def __init__(self) -> None:
        self.before: torch.Tensor | None = None

    def __call__(self, batch: torch.Tensor, noise: torch.Generator, *rest: Any) -> torch.Tensor:
        if self.before is None:
            self.before = noise.get_state()
        else:
            noise.set_state(self.before)
            self.before = None
        return augment(batch, noise, *rest)


class NotCentred(ImageEncoder):
    """No batch norm between the backbone and the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.get_submodule("centre")  # AttributeError where the book has none
        self.centre = nn.Identity()  # type: ignore[assignment]


class Mean(nn.Module):
    def forward(self, log_scale: torch.Tensor) -> torch.Tensor:
        return log_scale.mean().expand_as(log_scale)


def one_scale() -> PairwiseInfoNCE:
    """All pairs share one temperature: whatever each learns, all use the mean."""
    criterion = PairwiseInfoNCE()
    parametrize.register_parametrization(criterion, "log_scale", Mean())
    return criterion


def decay_everything(groups: Any, **how: Any) -> torch.optim.Optimizer:
    """AdamW that shrinks norms, biases and the temperature as well."""
    groups = [{**group, "weight_decay": training.WEIGHT_DECAY} for group in groups]
    return AdamW(groups, **how)


def scattered(has_fa: torch.Tensor, size: int, generator: torch.Generator) -> FaTogether:
    """Subjects in any order, whether they have FA or not."""
    return FaTogether(torch.zeros_like(has_fa), size, generator)


def backbone(**changes: Any) -> Any:
    return lambda **how: resnet18(**{**how, **changes})


def fa_per_volume(volumes: Volumes) -> Volumes:
    """Every FA map to mean 0 and SD 1 of its own: FA and 0.8 x FA become the same input."""
    fa = np.zeros_like(volumes.fa)
    for row, volume in enumerate(volumes.fa):
        inside = volume != 0
        values = volume[inside].astype(np.float32)
        fa[row][inside] = (values - values.mean()) / values.std()
    return replace(volumes, fa=fa, digest=f"{volumes.digest}, FA per volume")


# --- the variants ------------------------------------------------------------------------

CORE = "memoir_core"
MOVES = ("TURN", "ZOOM", "SHIFT")  # degrees, share, share of the grid


def moved(*sizes: float) -> dict[str, Any]:
    return {f"{CORE}.volumes.{name}": size for name, size in zip(MOVES, sizes, strict=True)}


# Name -> what changed, in words, and the changes: of an argument of `train_stage1`, of the
# volumes (a function), or of a name of the core (its dotted path).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "book": ("nothing: the recipe of the book", {}),
    "still": ("volumes are not moved at all", moved(0, 0, 0)),
    "double": ("2 degrees, 2 %, 1 % of the grid", moved(2, 0.02, 0.01)),
    "wide": ("4 degrees, 4 %, 4 % of the grid, T1 and FA apart", moved(4, 0.04, 0.04)),
    "together": (
        "4 degrees, 4 %, 4 % of the grid, T1 and FA by one movement",
        moved(4, 0.04, 0.04) | {f"{CORE}.data.augment": TogetherMoved()},
    ),
    "not-centred": (
        "no batch norm before the projection of T1 and FA",
        {f"{CORE}.model.ImageEncoder": NotCentred},
    ),
    "one-scale": ("one temperature for all pairs", {f"{CORE}.training.PairwiseInfoNCE": one_scale}),
    "decay-all": ("weight decay on every parameter", {"torch.optim.AdamW": decay_everything}),
    "no-decay": ("no weight decay", {f"{CORE}.training.WEIGHT_DECAY": 0.0}),
    "lr1e-3": ("learning rate 1e-3", {"lr": 1e-3}),
    "lr1e-4": ("learning rate 1e-4", {"lr": 1e-4}),
    "batch8": ("batches of 8", {"batch_size": 8}),
    "batch24": ("batches of 24", {"batch_size": 24}),
    "batch32": ("batches of 32", {"batch_size": 32}),
    "stride1": (
        "first convolution with stride 1",
        {f"{CORE}.model.resnet18": backbone(conv1_t_stride=1)},
    ),
    "group-norm": (
        "GroupNorm of 8 groups in the backbone",
        {f"{CORE}.model.resnet18": backbone(norm=("group", {"num_groups": 8}))},
    ),
    "fa-per-volume": ("each FA map scaled by itself", {"volumes": fa_per_volume}),
    "running": (
        "norms keep their running statistics",
        {f"{CORE}.training.update_bn": lambda *_: None},
    ),
    "no-retest": ("no noise on the scores in training", {f"{CORE}.data.RETEST": 0.0}),
    "fa-scattered": (
        "batches drawn without regard to FA",
        {f"{CORE}.training.FaTogether": scattered},
    ),
}


def changes_of(name: str) -> tuple[str, dict[str, Any]]:
    """What a name, or several joined by '+', stand for."""
    parts = [VARIANTS[part] for part in name.split("+")]
    changes: dict[str, Any] = {}
    for _, own in parts:
        if clash := set(own) & set(changes):
            raise ValueError(f"{name}: {', '.join(sorted(clash))} cannot be changed twice")
        changes |= own
    return "; ".join(words for words, _ in parts), changes


# --- one training, one row ---------------------------------------------------------------


def counts_of(cohort: pd.DataFrame, volumes: Volumes) -> dict[str, int]:
    """Validation subjects of each pair of modalities."""
    there = MemoirDataset(cohort, volumes, Scaler.fit(cohort, volumes), "val").present
    pairs = combinations(range(len(MODALITIES)), 2)
    return {
        f"{MODALITIES[a]}_{MODALITIES[b]}": int((there[:, a] & there[:, b]).sum()) for a, b in pairs
    }


def recall_row(pair: str, value: float, n: int, k: int = 5) -> dict[str, float]:
    """Recall@k of n people with Wilson's 95 % interval, and chance."""
    low = high = float("nan")
    if n:
        low, high = binomtest(round(value * n), n).proportion_ci(method="wilson")
    found = {"recall": value, "low": low, "high": high, "chance": min(1, k / n) if n else low}
    return {f"{name}_{pair}": number for name, number in found.items()} | {f"n_{pair}": n}


def train_variant(
    changes: dict[str, Any], cohort: pd.DataFrame, volumes: Volumes, sizes: dict[str, Any],
    chapter_4: Path,
) -> pd.DataFrame:  # fmt: skip
    """Train stage 1 under a variant's changes; return its history.

    sizes : arguments of `train_stage1`.
    chapter_4 : the run's own stage 1, which is 'book' where code, data and sizes are the same.
    """
    change_volumes = changes.get("volumes", lambda unchanged: unchanged)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as changed:
        for path, value in changes.items():
            if "." in path:
                changed.enter_context(mock.patch(path, value))
        folder = Path(temporary) / "stage1"
        if not changes and chapter_4.exists():
            shutil.copytree(chapter_4, folder)  # finished and the same, it is returned at once
        return training.train_stage1(cohort, change_volumes(volumes), folder, drop=DROP, **sizes)


def row_of(history: pd.DataFrame, counts: dict[str, int], batch_size: int) -> dict[str, float]:
    """What the table tells of a training, from the last epoch of its history."""
    last = history.iloc[-1]
    row = {"train_loss": last["train_loss"], "ln_batch": math.log(batch_size)}
    for pair, n in counts.items():
        row[f"val_loss_{pair}"] = last[f"val_loss_{pair}"]
        row |= recall_row(pair, last[f"val_recall@5_{pair}"], n)
    row |= {f"{what}_{m}": last[f"{what}_{m}"] for what in ("cosine", "rank") for m in MODALITIES}
    return row | {"seconds": round(history["seconds"].sum(), 1)}


def add_row(out: Path, row: dict[str, Any]) -> None:
    """Add a row to the table; ValueError where the table is of other data."""
    table = pd.DataFrame([row])
    if out.exists():
        old = pd.read_csv(out)
        for column in ("profile", "cohort"):
            if set(old[column]) != {row[column]}:
                raise ValueError(f"{out} is of {column} {set(old[column])}; give another --out")
        table = pd.concat([old, table], ignore_index=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.round(6).to_csv(out, index=False)


def is_there(out: Path, row: dict[str, Any]) -> bool:
    if not out.exists():
        return False
    return bool((pd.read_csv(out)[KEY] == pd.Series(row)[KEY]).all(axis=1).any())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--run", default="quick-seed0", help="whose cohort and volumes are used")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="names with commas between")
    parser.add_argument("--epochs", type=int, default=0, help="0: as the run's profile says")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the weights (default: the run's)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--list", action="store_true", help="name the variants and stop")
    options = parser.parse_args(argv)
    if options.list:
        print("\n".join(f"{name:14} {words}" for name, (words, _) in VARIANTS.items()))
        return 0
    names = options.variants.split(",")
    if unknown := {part for name in names for part in name.split("+")} - set(VARIANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; see --list")
    folder = chapters.runs_dir() / options.run
    made = read_manifest(folder)
    if not made:
        parser.error(f"there is no run {folder}")
    cohort = load_cohort(folder / "cohort.parquet")
    volumes = load_volumes(folder / "volumes.json", chapters.cache_dir())
    sizes = get_profile(made["profile"])
    how = {
        "epochs": options.epochs or sizes.stage1_epochs,
        "lr": sizes.lr_stage1,
        "batch_size": sizes.batch_size,
        "seed": made["seed"] if options.seed is None else options.seed,
        "device": store.resolve_device(options.device),
    }
    place = {
        "profile": f"{made['profile']} ({sizes.subjects} subjects, {sizes.voxel_mm:g} mm)",
        "cohort": f"{'synthetic' if store.is_synthetic(made) else 'ADNI'}, seed {made['seed']}",
        "versions": f"torch {version('torch')}, monai {version('monai')}",
    }
    failed = []
    for name in names:
        if is_there(options.out, how | {"variant": name}):
            print(f"{name}: its row is there")
            continue
        words, changes = changes_of(name)
        own = how | {key: value for key, value in changes.items() if key in how}
        try:
            history = train_variant(changes, cohort, volumes, own, folder / "stage1")
        except (AttributeError, RuntimeError) as error:
            print(f"{name}: NOT TRIED: {error}", flush=True)
            failed.append(name)
            continue
        row = {"variant": name, "changed": words, **own}
        row |= row_of(history, counts_of(cohort, volumes), own["batch_size"])
        add_row(options.out, row | place)
        gains = {
            key: round(float(row[key]), 2) for key in row if key.startswith(("recall_", "rank_"))
        }
        print(f"{name}: {gains} in {row['seconds']} s", flush=True)
    if failed:
        print(f"not tried: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
