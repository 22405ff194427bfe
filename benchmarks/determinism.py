"""How far trainings with one seed part: `python benchmarks/determinism.py --device cuda`.

Stage 2 is trained several times from the same start, on the data of a finished chapter 2, and
every repeat is set beside the first: the largest difference of a weight, the test subjects
whose predicted diagnosis changes, and the balanced accuracy. The last row is a training with
the next seed, to say how large such a difference is. On a CPU the repeats must be equal.

Each of these adds a training with the first seed: `--threads 2` with so many threads, `--loaders 2`
with so many processes that prepare batches, `--processes 2` shared by so many that train (on the
CPU).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import pandas as pd
import torch

from memoir_book.chapters import cache_dir
from memoir_book.store import Run, provenance, start_chapter
from memoir_core import training
from memoir_core.cohort import load_cohort
from memoir_core.config import DX
from memoir_core.data import MemoirDataset
from memoir_core.inference import encode, load_trained, predict
from memoir_core.metrics import task_metrics
from memoir_core.volumes import Volumes, load_volumes

USUAL = {"threads": 0, "loaders": 0, "processes": 1}


def train(
    book: Run, cohort: pd.DataFrame, volumes: Volumes, seed: int, epochs: int, how: dict[str, int]
) -> dict:
    """Train stage 2 without stage 1; return its weights and what it says of the test part."""
    with tempfile.TemporaryDirectory() as folder:
        told = book, cohort, volumes, seed, epochs, how, folder
        if how["processes"] > 1:
            torch.multiprocessing.start_processes(
                one_process, told, nprocs=how["processes"], start_method="spawn"
            )
        else:
            one_process(None, *told)
        model, scaler = load_trained(Path(folder) / "stage2", "last", book.device)
    test = MemoirDataset(cohort, volumes, scaler, "test")
    table = predict(model, *encode(model, test), test.subjects, scaler)
    return {
        "weights": torch.cat([p.detach().cpu().flatten() for p in model.parameters()]),
        "diagnosis": table[[f"p_{name}" for name in DX]].to_numpy().argmax(axis=1),
        "balanced_accuracy": task_metrics(table)["dx3"]["balanced_accuracy"],
    }


def one_process(
    rank: int | None, book: Run, cohort: pd.DataFrame, volumes: Volumes, seed: int, epochs: int,
    how: dict[str, int], folder: str,
) -> None:  # fmt: skip
    """Train alone, or as one of several, which meet as `accelerate launch` lets them."""
    torch.set_num_threads(how["threads"])
    if rank is not None:
        meet: dict[str, object] = {"WORLD_SIZE": how["processes"], "RANK": rank, "LOCAL_RANK": rank}
        meet |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29533, "ACCELERATE_USE_CPU": "true"}
        os.environ |= {name: str(value) for name, value in meet.items()}
    if how["loaders"]:  # a CPU has none; a GPU has up to eight
        training.workers = lambda device: {"num_workers": how["loaders"]}
    sizes = book.profile
    training.train_stage2(
        cohort,
        volumes,
        Path(folder) / "stage2",
        start=None,
        epochs=epochs or sizes.stage2_epochs,
        lr_backbone=sizes.lr_backbone,
        lr_heads=sizes.lr_heads,
        batch_size=sizes.batch_size,
        drop={"t1": 0.1, "fa": 0.3, "clinical": 0.05},
        seed=seed,
        device=book.device,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--run", default="", help="folder under runs/; empty: the run made last")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--epochs", type=int, default=0, help="0: as the profile says")
    parser.add_argument("--repeats", type=int, default=3)
    for name in USUAL:
        parser.add_argument(f"--{name}", type=int, default=0, help="of one more training")
    options = parser.parse_args()
    book = start_chapter("03_encoders", run=options.run, device=options.device)
    cohort = load_cohort(book.path("cohort.parquet"))
    volumes = load_volumes(book.path("volumes.json"), cache_dir())
    rows: list[dict] = []
    usual = USUAL | {"threads": torch.get_num_threads()}
    plan = [(book.seed, usual)] * options.repeats + [(book.seed + 1, usual)]
    more = [{name: getattr(options, name)} for name in USUAL if getattr(options, name)]
    workers = training.workers
    for seed, how in plan + [(book.seed, usual | one) for one in more]:
        training.workers = workers
        found = train(book, cohort, volumes, seed, options.epochs, how)
        if not rows:
            first = found
        rows.append(
            {
                "seed": seed,
                **how,
                "largest difference of a weight": float(
                    (found["weights"] - first["weights"]).abs().max()
                ),
                "changed diagnoses": int((found["diagnosis"] != first["diagnosis"]).sum()),
                "n": len(found["diagnosis"]),
                "balanced_accuracy": round(found["balanced_accuracy"], 4),
            }
        )
    print(pd.DataFrame(rows).to_string(index=False))
    print(provenance(book))


if __name__ == "__main__":
    main()
