"""How far trainings with one seed part: `python benchmarks/determinism.py --device cuda`.

Stage 2 is trained several times from the same start, on the data of a finished chapter 2, and
every repeat is set beside the first: the largest difference of a weight, the test subjects
whose predicted diagnosis changes, and the balanced accuracy. The last row is a training with
the next seed, to say how large such a difference is. On a CPU the repeats must be equal.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace

import pandas as pd
import torch

from memoir_book.artefacts import Run, default_run_name, provenance, start_chapter
from memoir_core.cohort import load_cohort
from memoir_book import chapters
from memoir_core.config import DX
from memoir_core.data import MemoirDataset
from memoir_core.inference import encode, load_trained, predict
from memoir_core.metrics import task_metrics
from memoir_core.training import train_stage2
from memoir_core.volumes import Volumes, load_volumes


def train(run: Run, cohort: pd.DataFrame, volumes: Volumes, epochs: int | None) -> dict:
    """Train stage 2 without stage 1; return its weights and what it says of the test part."""
    train_stage2(run, cohort, volumes, epochs, pretrained=False)
    model, scaler = load_trained(run.path("stage2"), "last", run.device)
    test = MemoirDataset(cohort, volumes, scaler, "test")
    z, present = encode(model, test)
    table = predict(model, z, present, cohort.loc[test.rows], scaler)
    weights = torch.cat([p.detach().cpu().flatten() for p in model.parameters()])
    shutil.rmtree(run.dir)
    return {
        "weights": weights,
        "diagnosis": table[[f"p_{name}" for name in DX]].to_numpy().argmax(axis=1),
        "balanced_accuracy": task_metrics(table)["dx3"]["balanced_accuracy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--run", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    run = start_chapter(
        "03_encoders",
        profile=options.profile,
        run=options.run or default_run_name(options.profile, options.seed, options.data),
        data_dir=options.data,
        seed=options.seed,
        device=options.device,
    )
    cohort, volumes = (
        load_cohort(run.path("cohort.parquet")),
        load_volumes(run.path("volumes.json"), chapters.cache_dir()),
    )
    seeds = [run.seed] * options.repeats + [run.seed + 1]
    rows: list[dict] = []
    for number, seed in enumerate(seeds):
        again = replace(run, name=f"{run.name}-again{number}", seed=seed)
        found = train(again, cohort, volumes, options.epochs)
        if not rows:
            first = found
        rows.append(
            {
                "seed": seed,
                "largest difference of a weight": float(
                    (found["weights"] - first["weights"]).abs().max()
                ),
                "changed diagnoses": int((found["diagnosis"] != first["diagnosis"]).sum()),
                "n": len(found["diagnosis"]),
                "balanced_accuracy": round(found["balanced_accuracy"], 4),
            }
        )
    print(pd.DataFrame(rows).to_string(index=False))
    source = provenance(run)
    print(source["label"], source["versions"])


if __name__ == "__main__":
    main()
