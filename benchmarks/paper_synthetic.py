"""The paper profile on the synthetic cohort: `python benchmarks/paper_synthetic.py --device cuda`.

Both trainings at the published sizes (2,363 subjects, 2 mm, 30 epochs each), and what chapters 4
to 6 measure of them, by the same functions and by the cells of chapter 6 themselves. Folders are
those of any run (runs/paper-synthetic, cache); a call that was cut goes on after its last epoch.
Histories, spectra and results go to book/reference/paper_synthetic.json, with device and versions.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from datetime import date
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from memoir_book import chapters, store
from memoir_book.intake.images import list_images
from memoir_core import cohort as cohorts
from memoir_core import files, metrics
from memoir_core.config import DX, MODALITIES, Profile, get_profile
from memoir_core.data import MemoirDataset
from memoir_core.inference import encode, fuse, load_trained, load_weights, predict_subsets
from memoir_core.model import DROP, Memoir
from memoir_core.training import train_stage1, train_stage2
from memoir_core.volumes import Volumes, build_volumes, load_volumes
from synthetic_adni import write

sys.path.append(str(chapters.ROOT / "tests" / "core"))
from encoder_search import recall_row
from ideas import idea

OUT = chapters.ROOT / "book" / "reference" / "paper_synthetic.json"
AXES = 50  # of a spectrum, that are kept
TASKS = ("dx3", "dx2", "sex")


def rounded(value: Any) -> Any:
    """Four digits, and None for NaN, at any depth."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def make_data(sizes: Profile, seed: int, device: str, folder: Path) -> tuple[pd.DataFrame, Volumes]:
    """Chapters 1 and 2 without their figures: download, cohort, volumes."""
    data = store.data_folder({"profile": sizes.name})
    write.ensure_download(data, sizes.subjects, sizes.fa_fraction, device=device)
    visits = cohorts.read_adnimerge(data / "ADNIMERGE.csv")
    table, _ = cohorts.build_cohort(visits, list_images(data), data, seed, "latest", 0.15)
    cohorts.check_split(table)
    cohorts.write_cohort(folder / "cohort.parquet", table)
    cohort = cohorts.load_cohort(folder / "cohort.parquet")
    index = build_volumes(cohort, data, sizes.volume_shape, chapters.cache_dir())
    files.write_json(folder / "volumes.json", index)
    return cohort, load_volumes(folder / "volumes.json", chapters.cache_dir())


def describe(z: torch.Tensor) -> dict[str, Any]:
    """Spread of unit vectors (n, 512), and the shares of variance along their first axes."""
    axes = metrics.spectrum(z)
    shares = (axes / axes.sum())[:AXES]
    return metrics.spread(z) | {"n": len(z), "spectrum": shares.tolist()}


def stage1_on_test(model: Memoir, test: MemoirDataset, batch_size: int) -> dict[str, Any]:
    """Spread of each modality's embeddings, and recall@5 of each pair with Wilson's interval."""
    z, present = encode(model, test, batch_size)
    spreads = {m: describe(z[present[:, i], i]) for i, m in enumerate(MODALITIES)}
    recalls: dict[str, float] = {}
    for a, b in combinations(range(len(MODALITIES)), 2):
        both = present[:, a] & present[:, b]
        value = metrics.recall_at(z[both, a], z[both, b], (5,))["recall@5"]
        recalls |= recall_row(f"{MODALITIES[a]}_{MODALITIES[b]}", value, int(both.sum()))
    return {"spread": spreads, "recall@5": recalls}


def subsets_table(tables: dict[str, pd.DataFrame], samples: int, seed: int) -> dict[str, Any]:
    """Subset -> task -> value, interval, AUC, n, and the class that all were given, if one."""
    found: dict[str, Any] = {}
    for row in metrics.ablate(tables, {}, samples, seed).to_dict("records"):
        kept = ["metric", "value", "low", "high", "n", "one_class"]
        kept += ["auc", "auc_low", "auc_high"] if row["task"] in TASKS else []
        found.setdefault(row["subset"], {})[row["task"]] = {key: row[key] for key in kept}
    return found


def evaluate(
    cohort: pd.DataFrame, volumes: Volumes, folder: Path, sizes: Profile, seed: int, device: str
) -> dict[str, Any]:
    """What chapters 4, 5 and 6 measure on the test part."""
    model, scaler = load_trained(folder / "stage2", device=device)
    data = {part: MemoirDataset(cohort, volumes, scaler, part) for part in ("val", "test")}
    first = Memoir()
    load_weights(first, folder / "stage1" / "model.safetensors")
    stage1 = stage1_on_test(first.to(device), data["test"], sizes.batch_size)
    z, present = encode(model, MemoirDataset(cohort, volumes, scaler), sizes.batch_size)
    z_fused = torch.nn.functional.normalize(fuse(model, z, present)["z_fused"], dim=-1)
    rows = {part: (cohort["split"] == part).to_numpy(copy=True) for part in data}
    said = {
        part: predict_subsets(model, z[own], present[own], cohort[own], scaler)
        for part, own in rows.items()
    }
    test = rows["test"]
    spreads = {m: describe(z[test][present[test, i], i]) for i, m in enumerate(MODALITIES)}
    spreads["z_fused"] = describe(z_fused[test])

    # The definitions of chapter 6, from its own cells
    tools: dict[str, Any] = {"np": np, "pd": pd, "DX": DX, "minimize": minimize}
    tools |= {"logsumexp": logsumexp, "softmax": softmax, "heads": metrics.heads}
    tools |= {"redraw": metrics.redraw, "MODALITIES": MODALITIES, "cohort": cohort}
    tools |= {"DummyClassifier": DummyClassifier, "LogisticRegression": LogisticRegression}
    tools |= {"Ridge": Ridge, "make_pipeline": make_pipeline, "StandardScaler": StandardScaler}
    tools |= {"validation": said["val"], "predictions": said["test"]}
    tools |= {"kept": {"z": z.numpy(), "z_fused": z_fused.numpy(), "present": present.numpy()}}
    for holds in ("fit_thresholds", "refit", "linear_probe", "probed", "r2_interval"):
        tools |= idea("06", f"def {holds}", **tools)
    boot = sizes.bootstrap, seed
    probes = subsets_table(tools["lines"], *boot)
    for name, table in tools["lines"].items():
        y, answers = table[["AGE", "AGE_pred"]].to_numpy(float).T
        own = {task: probes[name][task] for task in TASKS}
        probes[name] = own | {"age_r2": tools["r2_interval"](y, answers, *boot)}
    return {
        "stage1": stage1,
        "spread": spreads,
        "subsets": subsets_table(said["test"], *boot),
        "refitted": subsets_table(tools["refitted"], *boot),
        "probes": probes,
        "all_modalities": metrics.task_metrics(said["test"]["t1+fa+clinical"]),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--stage1-epochs", type=int, default=0, help="0: as the profile says")
    parser.add_argument("--stage2-epochs", type=int, default=0, help="likewise")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    sizes, seed = get_profile(options.profile), options.seed
    device = store.resolve_device(options.device)
    folder = chapters.runs_dir() / f"{sizes.name}-synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    spent: dict[str, float] = {}

    def clock(name: str, began: float) -> None:
        spent[name] = round(time.time() - began, 1)
        print(f"{name}: {spent[name]} s", flush=True)

    began = time.time()
    cohort, volumes = make_data(sizes, seed, device, folder)
    clock("data", began)
    shared: dict[str, Any] = {"batch_size": sizes.batch_size, "drop": DROP, "seed": seed}
    shared |= {"device": device}
    one = train_stage1(
        cohort,
        volumes,
        folder / "stage1",
        epochs=options.stage1_epochs or sizes.stage1_epochs,
        lr=sizes.lr_stage1,
        **shared,
    )
    two = train_stage2(
        cohort,
        volumes,
        folder / "stage2",
        start=folder / "stage1" / "model.safetensors",
        epochs=options.stage2_epochs or sizes.stage2_epochs,
        lr_backbone=sizes.lr_backbone,
        lr_heads=sizes.lr_heads,
        **shared,
    )
    spent |= {f"stage {i}": round(t["seconds"].sum(), 1) for i, t in enumerate((one, two), 1)}
    began = time.time()
    found = evaluate(cohort, volumes, folder, sizes, seed, device)
    clock("evaluation", began)
    cuda = device.startswith("cuda")
    where = {
        "cohort": "synthetic",
        "profile": sizes.name,
        "seed": seed,
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda}
        | {name: version(name) for name in ("torch", "monai", "accelerate", "numpy")},
        "made": date.today().isoformat(),
        "seconds": spent,
        "parts": cohort["split"].value_counts().to_dict(),
        "with_fa": cohort[cohort["has_fa"]]["split"].value_counts().to_dict(),
        "scaler": files.read_json(folder / "stage2" / "scaler.json"),
        "settings": {
            stage: files.read_json(folder / stage / "settings.json")["settings"]
            for stage in ("stage1", "stage2")
        },
    }
    history = {"stage1": one.to_dict("list"), "stage2": two.to_dict("list")}
    whole = rounded({"provenance": where, "history": history, "results": found})
    files.write_json(options.out, whole)
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
