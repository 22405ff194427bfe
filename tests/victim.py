"""Work that runs in a process of its own and may die there: see test_faults.py.

The processes come from a fork server that has imported what they need, so that a dozen of
them cost seconds, and a real `kill -9` or a full disk hits none but them.
"""

import errno
import functools
import multiprocessing
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    ["memoir_core.training", "memoir_core.text", "memoir_core.retrieval", "memoir_core.vqa"]
)


def run(job, *arguments, cache=None):
    """Run a function of this module in a process of its own; return its exit code."""
    process = start(job, *arguments, cache=cache)
    process.join()
    return process.exitcode


def start(job, *arguments, cache=None):
    from memoir_core import config

    folders = os.environ["MEMOIR_RUNS"], str(cache or os.environ["MEMOIR_CACHE"])
    process = server.Process(target=_child, args=(job, folders, config.PROFILES["tiny"], arguments))
    process.start()
    return process


def _child(job, folders, profile, arguments):
    import torch

    from memoir_core import config

    os.environ["MEMOIR_RUNS"], os.environ["MEMOIR_CACHE"] = folders
    config.PROFILES["tiny"] = profile
    torch.set_num_threads(2)
    # The collator of transformers takes any other name for a worker of a data loader.
    multiprocessing.current_process().name = "MainProcess"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # bars, and tracebacks that are awaited
    job(*arguments)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(module, name, call, half=False):
    """Kill this process in the given call of a function: before it, or after it wrote half."""
    real, calls = getattr(module, name), [0]

    @functools.wraps(real)  # transformers reads the signature of `forward`
    def deadly(*arguments, **options):
        calls[0] += 1
        if calls[0] < call:
            return real(*arguments, **options)
        if half:
            real(*arguments, **options)
            for path in (a for a in arguments if isinstance(a, str | Path)):
                os.truncate(path, Path(path).stat().st_size // 2)
        die()

    setattr(module, name, deadly)


# --- jobs -------------------------------------------------------------------------------


def cache_volumes(data_dir, kind="", call=0, log=""):
    """Fill the cache; with `kind` die at a volume of it, with `log` note each volume there."""
    from memoir_core import volumes

    table, run_profile = _cohort(data_dir)
    real, calls = volumes.preprocess, [0]

    def counted(profile, which):
        one = real(profile, which)

        def deadly(path):
            calls[0] += which == kind
            if kind and calls[0] > call:
                die()
            if log:
                with open(log, "a") as handle:
                    handle.write(f"{path}\n")
            return one(path)

        return deadly

    volumes.preprocess = counted
    volumes.build_volumes(table, data_dir, run_profile)


def make_download(folder):
    """Write a synthetic download of four subjects."""
    from synthetic_adni.write import ensure_download

    ensure_download(folder, 4, 0.5, workers=1)


def _cohort(data_dir):
    from memoir_core import cohort, config

    return cohort.build_cohort(data_dir, 0)[0], config.PROFILES["tiny"]


def open_run():
    from memoir_book import artefacts
    from memoir_core import cohort, volumes

    run = artefacts.start_chapter("03", profile="tiny", run="t", device="cpu")
    return run, cohort.load_cohort(run), volumes.open_volumes(run)


def train(stage, folder, place):
    """Train and die with half a file of the second written."""
    from memoir_core import training

    if place == "weights":
        die_at(training, "save_file", 2, half=True)
    elif place == "state":
        real_save = training.torch.save

        def half(state, file):
            real_save(state, file)
            if state["epoch"] == 2:
                file.truncate(file.tell() // 2)
                die()

        training.torch.save = half
    train_whole(stage, folder, *open_run())


def train_whole(stage, folder, run, cohort, volumes):
    from memoir_core import training

    run = replace(run, name=folder)
    if stage == "stage1":
        return training.train_stage1(run, cohort, volumes, epochs=2)
    return training.train_stage2(run, cohort, volumes, epochs=3, pretrained=False)


def mlm(folder, place):
    """Adapt MiniLM to a few sentences and save it; die in a step or while saving."""
    from memoir_core import text

    if place == "step":
        die_at(text.MaskedBert, "forward", 2)
    else:
        die_at(text, "save_file", 1, half=True)
    mlm_whole(folder)


def mlm_whole(folder):
    from transformers import AutoTokenizer

    from memoir_book import artefacts
    from memoir_core import text
    from synthetic_adni import sentences

    artefacts.set_seed(0)  # as start_chapter does: the new head starts at random
    source = text.find_minilm().path
    model, _ = text.load_mlm(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    drawn = sentences.synthetic_sentences(48, 0)
    curve = text.train_mlm(model, tokenizer, drawn, epochs=1, seed=0, device="cpu")
    encoder = text.new_text_encoder(source, "cpu", 0, model)
    text.save_text_encoder(encoder, Path(folder))
    return curve


def index(folder, place):
    from memoir_core import retrieval

    if place == "vectors":
        die_at(retrieval.faiss, "write_index", 1, half=True)
    else:
        die_at(retrieval, "write_json", 1)
    index_whole(folder, *fake_index())


def fake_index():
    """Vectors and cohort of 30 cases, from a fixed seed."""
    import pandas as pd

    from memoir_core.text import unit_rows

    rows = unit_rows(np.random.default_rng(0).normal(size=(30, 512)))
    table = pd.DataFrame({"case": np.arange(30), "split": ["train"] * 24 + ["test"] * 6})
    return rows, table


def index_whole(folder, rows, table):
    from memoir_book import artefacts
    from memoir_core import retrieval

    embeddings, path = Path(folder) / "embeddings.npz", Path(folder) / "index.faiss"
    with artefacts.atomic_path(embeddings) as temporary:
        np.savez(temporary, case=np.arange(len(rows)), z_fused=rows)
    made = retrieval.build_index(rows[:24], np.arange(24), table)
    retrieval.save_index(made, path, embeddings)
    return retrieval.load_index(path, embeddings, table)


def answer(model, plan, folder, place):
    from memoir_book import answers
    from memoir_core import llm

    if place == "batch":
        die_at(llm, "answer_batch", 3)
    else:
        die_at(answers, "finish", 1)  # all is written, and nothing says so
    answers.answer_plan(plan, Path(folder), *model)


# --- a full disk ------------------------------------------------------------------------


WRITERS = ("safetensors", "pt", "npz", "parquet", "faiss", "jsonl", "json", "volumes")


def write(kind, folder, data_dir="", limit=0):
    """Write a file of some kind, larger than 1 MB; exit 28 when told that the disk is full."""
    if limit:  # no file may grow beyond it: what a quota does
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        _write(kind, Path(folder) / f"file.{kind}", data_dir)
    except OSError as error:
        full = error.errno == errno.ENOSPC and "no space left while writing" in str(error)
        os._exit(28 if full else 5)


def _write(kind, path, data_dir=""):
    import faiss
    import pandas as pd
    import torch

    from memoir_book import artefacts
    from memoir_core import retrieval, training

    values = np.random.default_rng(0).normal(size=(1200, 512)).astype(np.float32)
    if kind == "volumes":
        from memoir_core import volumes

        table, profile = _cohort(data_dir)
        volumes.build_volumes(table, data_dir, profile)
    elif kind == "safetensors":
        training.save_weights(torch.nn.Linear(512, 1200), path)
    elif kind == "json":
        artefacts.write_json(path, values.tolist())
    elif kind == "jsonl":
        artefacts.write_jsonl(
            path, [{"case": i, "z": row.tolist()} for i, row in enumerate(values)]
        )
    elif kind == "faiss":
        made = faiss.IndexFlatIP(512)
        made.add(values)
        embeddings = path.with_name("embeddings.json")
        artefacts.write_json(embeddings, 0)
        retrieval.save_index(retrieval.Index(made, np.arange(1200)), path, embeddings)
    elif kind == "pt":
        state = {"epoch": 1, "optimizer": torch.from_numpy(values), "history": [{"epoch": 1}]}
        training._save_epoch(path.parent, torch.nn.Linear(1, 1), state)
    else:
        with artefacts.atomic_path(path) as temporary:
            if kind == "npz":
                np.savez(temporary, z_fused=values)
            else:
                pd.DataFrame(values, columns=[str(i) for i in range(512)]).to_parquet(temporary)
