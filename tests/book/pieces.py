"""Pieces of work that write files, made quick, for the kills of test_faults.py.

Each is called with a folder and makes everything below it; `old` makes another version, which
then lies there when the piece begins.
"""

import itertools
import json
import os
import sys
import time
import types
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "core")]
time.time = lambda: 0.0  # in files: seconds


def a_file(folder, old=False):
    from memoir_core import files

    files.write_jsonl(folder / "results" / "rows.jsonl", [{"case": 0, "old": old}] * 50)


def a_folder(folder, old=False):
    from memoir_core import files

    target, settings = folder / "model", {"seed": int(old)}
    if not files.is_finished(target, settings):
        with files.atomic_path(target) as temporary:
            (temporary / "part").mkdir(parents=True)
            (temporary / "part" / ("a" if old else "b")).write_text("weights")
            (temporary / "config.json").write_text(str(old))
        files.finish(target, settings)


def cohort(folder, old=False):
    from memoir_core import cohort, files

    table = pd.DataFrame({"case": range(6), "PTID": list("abcdef"), "AGE": 70.0 + old})
    cohort.write_cohort(folder / "cohort.parquet", table)
    files.write_json(folder / "cohort_flow.json", [{"step": "visits", "rows": 6 + old}])


def volumes(folder, old=False):
    from memoir_core import files, volumes

    def preprocess(path, kind, shape):
        return np.full(shape, len(path.name), np.float32), 0.25

    volumes.preprocess = preprocess
    volumes.brain_mask = lambda shape: np.ones(shape, bool)  # reading the true one takes long
    data = folder.parent / f"images{old}"
    names = sorted(path.name for path in data.iterdir())
    table = pd.DataFrame({"t1_path": names, "fa_path": [None, *names[1:3], None, None]})
    index = volumes.build_volumes(table, data, (2, 3, 2), folder / "cache")
    files.write_json(folder / "volumes.json", index)
    volumes.load_volumes(folder / "volumes.json", folder / "cache")


class Encoder:
    """Stands for what libraries write with their own `save`."""

    def __init__(self, value):
        self.value = value

    def save(self, path, **_):
        import torch
        from safetensors.torch import save_file

        Path(path).mkdir(exist_ok=True)
        (Path(path) / "config.json").write_text(json.dumps({"value": self.value}))
        save_file({"w": torch.full((4,), self.value)}, Path(path) / "model.safetensors")

    save_pretrained = save


def index(folder, old=False):
    import faiss

    from memoir_core import files, retrieval, text

    rows = text.unit_rows(np.random.default_rng(int(old)).normal(size=(30, 512)))
    table = pd.DataFrame({"case": np.arange(30), "split": ["train"] * 24 + ["test"] * 6})
    with files.atomic_path(folder / "text_embeddings.npz") as path:
        np.savez(path, case=table["case"], z_text=rows)
    made = retrieval.build_index(rows[:24], np.arange(24), table)
    with files.atomic_path(folder / "index.faiss") as path:
        faiss.write_index(made, str(path))


def _train(folder, stage, old):
    import small

    from memoir_core import model, training

    model.EMBEDDING_DIM, model.ImageEncoder = 32, small.Encoder
    table = small.cohort()
    told = {"epochs": 3, "batch_size": 6, "drop": small.DROP, "seed": int(old), "device": "cpu"}
    if stage == 1:
        given = table, small.volumes(table), folder / "stage1"
        training.train_stage1(*given, lr=1e-2, **told)
    else:
        told |= {"start": None, "lr_backbone": 1e-3, "lr_heads": 1e-2}
        training.train_stage2(table, small.volumes(table), folder / "stage2", **told)


def stage1(folder, old=False):
    _train(folder, 1, old)


def stage2(folder, old=False):
    _train(folder, 2, old)


def lora(folder, old=False):
    from memoir_book import standins

    base = folder.parent / "tiny"
    row = {"prompt": "Case 1: MMSE 20\nAnswer:", "reference": "MCI"}
    standins.train_lora(base, "sum", [[row, row]], folder / "adapter", seed=int(old))


def answers(folder, old=False):
    from torch import nn

    from memoir_book import answers, weights
    from memoir_core import files, llm, vqa

    parts = {"get_memory_footprint": lambda self: 2**20, "dequantize": lambda self: None}
    model = type("Model", (nn.Module,), parts)()
    said = {"answer": "MCI", "tokens": 1, "prompt_tokens": 9, "log_likelihood": {}}
    said["truncated"] = False
    llm.answer_batch = lambda loaded, prompts, options, most=0: [said] * len(prompts)
    answers.experts.four_bit_share = lambda model: 1.0
    llm.load_4bit = lambda *_, **__: llm.Loaded(model, None)
    answers.cut_context = lambda loaded, row: row
    answers.time = types.SimpleNamespace(perf_counter=itertools.count().__next__)
    plan = [vqa.question("diagnosis", n, "blind", "MMSE 20", (), "MCI") for n in range(6)]
    files.write_jsonl(folder / "plan.jsonl", plan)
    backbone = weights.BACKBONES["gemma-3-270m-nf4"]
    found = types.SimpleNamespace(sha256=str(old), path=folder)
    made, _ = answers.answer_plan(plan, folder / "answers", backbone, found)
    with files.atomic_path(folder / "llm_scores.csv") as path:
        pd.DataFrame(made).to_csv(path, index=False)


def converted(folder, old=False):
    from memoir_book import weights

    os.environ["MEMOIR_CACHE"] = str(folder / "cache")
    known = weights.SOURCES["gemma-3-270m"]
    weights.SOURCES["gemma-3-270m"] = known._replace(sha256=str(old))  # of another package
    weights._fetch = lambda _: None
    weights._verify = lambda *_: None
    weights._packaged = lambda source: [folder.parent / source.files[0]]
    weights.distribution = lambda _: types.SimpleNamespace(version=str(old))
    weights.constants.HF_HUB_CACHE = str(folder / "hub")
    weights._convert = lambda _, target: Encoder(float(old)).save(target)
    weights.find("gemma-3-270m")


def download(folder, old=False):
    from synthetic_adni import render, write

    render.render_t1 = render.render_fa = lambda rows, _: np.full((len(rows), 2, 2, 2), 0.5)
    target = folder / "synthetic"
    write.ensure_download(target, 5 if old else 4, 0.5, workers=1, device="cuda")


def intake(folder, old=False):
    from memoir_book.intake import adni

    source, out = folder.parent / f"loni{old}", folder / "adni"
    options = types.SimpleNamespace(download=source, out=out, images=None)
    if adni.run(options):
        raise RuntimeError("the intake refuses")


def book(folder, old=False):
    """The runner and what begins, ends and shows a chapter; the kernel is this process."""
    import fakebook
    import papermill

    from memoir_book import pages, run, store

    def execute(source, target, parameters, **_):
        opened = store.start_chapter(Path(source).stem, **parameters)
        opened = replace(opened, started=0.0)
        name = opened.chapter.split("_")[1]
        opened.path(f"{name}.txt").write_text(str(opened.parameters))
        Path(target).write_text(json.dumps({"cells": [], "metadata": {}}))
        store.save_results(opened, {})
        store.end_chapter(opened)

    store.peak_gib = lambda: 0.0
    store.time = types.SimpleNamespace(monotonic=lambda: 0.0)
    papermill.execute_notebook = execute
    run.kernels.ready = lambda _: nullcontext("python3")  # a process for kernels that nobody asks
    pages.headline = pages.times = lambda _: ""
    told = pages.told  # a made-up run has nothing for the cards
    pages.told = lambda at, part: told(at, part) if part == "findings" else ""
    pages.codepages.write_pages = lambda _: None
    fakebook.open_here(root=folder / "root")
    for variable in ("MEMOIR_RUNS", "MEMOIR_CACHE"):
        os.environ.pop(variable, None)
    wanted = ["--profile", "smoke", "--run", "r", "--device", "cpu"]
    if run.main([*wanted, *(["--param", "epochs=7"] if old else [])]):
        raise RuntimeError("the runner failed")
    pages.lay_out("r", {"profile": "smoke", "seed": 0, "data": ""})


def begin(name, older, folder):
    """Lay out what a piece needs beside its folder, and there an older version if asked for."""
    beside = folder.parent
    if name == "book":
        import fakebook

        if not (beside / "book").exists():
            (beside / "book").mkdir()
            fakebook.write(beside / "book")
        (folder / "root").mkdir()
        for part in ("notebooks", "memoir_core"):
            (folder / "root" / part).symlink_to(beside / "book" / part)
    if name == "lora" and not (beside / "tiny").exists():
        import tinyllm

        tinyllm.save(beside / "tiny")
    if name == "intake":
        row = {"RID": 4101, "PTID": "137_S_4101", "VISCODE": "bl", "EXAMDATE": "2012-03-05"}
        row |= {"CDRSB": 0.5, "ADAS11": 9, "ADAS13": 14, "MMSE": 28, "MOCA": 25, "AGE": 73.5}
        row |= {"PTGENDER": "Female", "PTEDUCAT": 16, "APOE4": 1, "DX": "MCI"}
        for old in (False, True):
            source = beside / f"loni{old}"
            source.mkdir(exist_ok=True)
            (source / "a.nii").touch()
            listed = {"PTID": [row["PTID"]], "VISCODE": "bl", "t1_path": "a.nii", "fa_path": ""}
            pd.DataFrame(listed).to_csv(source / "images.csv", index=False)
            told = row | {"AGE": 73.5 + old}
            pd.DataFrame([told]).to_csv(source / "ADNIMERGE_15Jan2025.csv", index=False)
    if name == "volumes":
        for old in (False, True):
            (beside / f"images{old}").mkdir(exist_ok=True)
            for n in range(1, 6):
                (beside / f"images{old}" / f"{'x' * n}.nii").write_text(f"{n} {old}")
    if older:
        PIECES[name](folder, old=True)


PIECES = {
    piece.__name__: piece
    for piece in (
        *(a_file, a_folder, cohort, volumes, stage1, stage2, index),
        *(lora, answers, converted, download, intake, book),
    )
}
