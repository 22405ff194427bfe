"""Training speed against the usual recipe: `python benchmarks/training.py`.

The same two image encoders, clinical encoder, fusion and heads, trained with the loss of
stage 2 on random volumes at the published FA coverage, in subjects per second:

- usual: MONAI CacheDataset with RandAffined, DataLoader, fp32, both encoders on every row;
- book: memory map, augmentation per batch, absent FA skipped, fused AdamW, and bf16 where
  `precision.checked_half_type` expects it to be faster and its gradients agree;
- book, bf16 (with --bf16): the same in bf16 whatever the CPU, to see whether that expectation
  holds. Where it does not, a step may take twenty times as long.

Repeats alternate, so that a busy machine slows both; medians are printed, with the share of time
in which the loop waits for data, and the share of the machine's peak that its convolutions and
products reach: of what one large fp32 product does a second, measured between the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import pandas as pd
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, RandAffined, RandScaleIntensityd
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from memoir_book.store import peak_gib
from memoir_core.config import SCORES
from memoir_core.data import MemoirDataset, Scaler, vary
from memoir_core.losses import multitask_loss
from memoir_core.model import MatrixConv, Memoir, masking_gate
from memoir_core.precision import choose_precision
from memoir_core.volumes import SHIFT, TURN, ZOOM, Volumes


def random_cohort(n: int, shape: tuple[int, ...], fa: float) -> tuple[pd.DataFrame, Volumes]:
    """Random records and volumes in the shapes of a run."""
    rng = np.random.default_rng(0)
    cohort = pd.DataFrame({name: rng.normal(size=n) for name in SCORES})
    cohort["case"], cohort["split"] = np.arange(n), "train"
    cohort["DX"] = np.array(["CN", "MCI", "Dementia"])[np.arange(n) % 3]
    cohort["AGE"], cohort["APOE4"] = rng.normal(73, 7, n), rng.integers(0, 3, n)
    cohort["PTGENDER"] = np.where(rng.random(n) < 0.5, "Male", "Female")
    has_fa = np.arange(n) < round(fa * n)
    rng.shuffle(has_fa)
    rows = np.where(has_fa, np.cumsum(has_fa) - 1, -1)
    t1 = rng.normal(size=(n, *shape)).astype(np.float16)
    fa_volumes = rng.normal(size=(has_fa.sum(), *shape)).astype(np.float16)
    return cohort, Volumes(t1, fa_volumes, np.ones(shape, bool), rows, pd.DataFrame())


class Everything(Memoir):
    """The usual way: MONAI's network, all of it convolutions, and every encoder on every row."""

    def __init__(self) -> None:
        super().__init__()
        for part in self.modules():
            if isinstance(part, MatrixConv):
                part.__class__ = nn.Conv3d  # type: ignore[assignment]
        self.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def encode(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        clinical = self.clinical(batch["scores"], batch["known"], batch["apoe"])
        return torch.stack([self.t1(batch["t1"]), self.fa(batch["fa"]), clinical], dim=1)


def train(
    model: nn.Module, loader, steps: int, prepare, autocast: torch.dtype | None, fused: bool
) -> dict:
    """Run `steps` steps; return subjects per second and the share of time spent waiting."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=fused)
    noise = torch.Generator().manual_seed(0)
    model.train()
    waited, subjects, batches = 0.0, 0, iter(loader)
    started = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        batch = prepare(batch, noise)
        keep = masking_gate(batch["present"], noise)
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            loss = multitask_loss(model(batch, keep), batch)["total"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        subjects += len(batch["dx3"])
    seconds = time.perf_counter() - started
    return {"subjects/s": subjects / seconds, "waiting": waited / seconds}


def peak_flops(size: int = 3072) -> float:
    """Floating-point operations a second in the best of three products of fp32 matrices."""
    a, b, best = torch.randn(size, size), torch.randn(size, size), float("inf")
    for _ in range(4):  # the first one warms up
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def flops_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Floating-point operations of a step, per subject: forward and backward, without AdamW."""
    with FlopCounterMode(display=False) as counter:
        multitask_loss(model(batch), batch)["total"].backward()
    model.zero_grad()
    return counter.get_total_flops() / len(batch["dx3"])


def measure(
    shape: tuple[int, ...], batch: int, steps: int, repeats: int, bf16: bool
) -> pd.DataFrame:
    cohort, volumes = random_cohort(batch * (steps + 1), shape, 0.394)
    data = MemoirDataset(cohort, volumes, Scaler.fit(cohort, volumes), "train")
    angle, size = np.deg2rad(TURN), SHIFT * np.array(shape)
    usual_data = CacheDataset(
        [data[i] for i in range(len(data))],
        Compose(
            [
                RandAffined(
                    ("t1", "fa"),
                    prob=1.0,
                    rotate_range=(angle,) * 3,
                    scale_range=(ZOOM,) * 3,
                    translate_range=tuple(size),
                ),
                RandScaleIntensityd(("t1", "fa"), factors=0.1, prob=1.0),
            ]
        ),
        progress=False,
    )
    torch.manual_seed(0)
    usual, book = Everything(), Memoir()
    precision = choose_precision(
        "cpu", book, nn.Identity(), lambda out, b: multitask_loss(out, b)["total"], data
    )
    half = torch.bfloat16 if precision == "bf16" else None

    def as_tensors(batch, noise):
        return {k: torch.as_tensor(v) for k, v in batch.items()}

    def augmented(batch, noise):
        return vary(batch, noise)

    recipes = ["usual", "book"] + ["book, bf16"] * bf16
    found: dict[str, list[dict]] = {name: [] for name in recipes}
    peaks = []
    for _ in range(repeats):
        peaks.append(peak_flops())
        loader = DataLoader(usual_data, batch_size=batch, shuffle=True, num_workers=0)
        found["usual"].append(train(usual, loader, steps, as_tensors, None, fused=False))
        plain = torch.utils.data.DataLoader(data, batch, shuffle=True)
        found["book"].append(train(book, plain, steps, augmented, half, fused=True))
        if bf16:
            halved = train(book, plain, steps, augmented, torch.bfloat16, fused=True)
            found["book, bf16"].append(halved)
    asked = torch.utils.data.default_collate([data[i] for i in range(2 * batch)])
    flops = {"usual": flops_of(usual, asked), "book": flops_of(book, asked)}
    precisions = {"usual": "fp32", "book": "bf16" if half else "fp32", "book, bf16": "bf16"}
    rows = [
        {
            "grid": "x".join(map(str, shape)),
            "recipe": name,
            "precision": precisions[name],
            **{key: statistics.median(run[key] for run in runs) for key in runs[0]},
        }
        for name, runs in found.items()
    ]
    table = pd.DataFrame(rows)
    table["times faster"] = table["subjects/s"] / table["subjects/s"][0]
    table["GFLOP a subject"] = [flops[name.split(",")[0]] / 1e9 for name in table["recipe"]]
    reached = table["GFLOP a subject"] * table["subjects/s"]
    table["share of peak"] = reached / (statistics.median(peaks) / 1e9)
    print(f"{table['grid'][0]}: peak {statistics.median(peaks) / 1e9:.0f} GFLOP/s in fp32")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--grid", choices=("4mm", "2mm", "both"), default="4mm")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="in bf16, too, however slow")
    options = parser.parse_args()
    tables, repeats, bf16 = [], options.repeats, options.bf16
    if options.grid in ("4mm", "both"):
        tables.append(measure((46, 55, 46), 16, options.steps, repeats, bf16))
    if options.grid in ("2mm", "both"):
        tables.append(measure((91, 109, 91), 6, max(2, options.steps // 2), repeats, bf16))
    print(pd.concat(tables).round(3).to_string(index=False))
    print(f"{torch.get_num_threads()} threads, peak {peak_gib():.1f} GiB")


if __name__ == "__main__":
    main()
