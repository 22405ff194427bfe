"""What may go wrong on a real machine, and what happens then.

Each test is named by its `fault` mark; book/faults.md is written from these marks by
`python tests/faults.py`. MEMOIR_KILL_EVERY=1 tries all points, not a sample.
"""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import crash
import faiss
import pandas as pd
import pieces
import pytest
import torch

from memoir_book import chapters, run, store
from memoir_core import cohort, files, retrieval, text, volumes

fault = pytest.mark.fault
COUNTED = {}
LONG = {"stage1": 3, "stage2": 3, "book": 3}  # a call takes longer: in a sample, fewer points
LONG["intake"] = 0.2  # between any two of its three files
# The page of a chapter is the notebook kernel's, its text beside the chapters that of the builder.
OURS = [name for name in pieces.PIECES if name != "book"]


def explore(piece, older, folder, kind):
    start = partial(pieces.begin, piece, older)
    every = crash.EVERY if crash.EVERY == 1 else int(crash.EVERY * LONG.get(piece, 1)) or 1
    found = crash.explore(pieces.PIECES[piece], start, folder, kind, every)
    if kind != "two":
        print(f"{kind}: {piece}, {found['tried']} of {found['operations']} file operations")
        assert found["operations"], "a piece that writes nothing tries nothing"
    return found


@fault(
    "`kill -9` before any file operation of a chapter, a training, the runner or the pages",
    "The same call again ends with the same files as one that was left alone, and nothing of the "
    "killed one is left over.",
)
@pytest.mark.parametrize("older", [False, True], ids=["new", "over an older one"])
@pytest.mark.parametrize("piece", pieces.PIECES)
def test_a_kill_at_any_point(piece, older, tmp_path):
    found = COUNTED[piece, older] = explore(piece, older, tmp_path, "kill")
    assert found["bad"] == []


def test_all_points_are_counted():
    tried, there = (sum(f[key] for f in COUNTED.values()) for key in ("tried", "operations"))
    print(f"killed at {tried} of {there} file operations")
    if len(COUNTED) == 2 * len(pieces.PIECES):
        assert there >= 349


@fault(
    "the disk is full from some moment on, or a quota is used up",
    "The message names the file; nothing half written stands under a final name or is left over. "
    "With space again, the same call ends as usual.",
)
@pytest.mark.parametrize("piece", OURS)
def test_a_full_disk(piece, tmp_path):
    assert explore(piece, True, tmp_path, "full")["bad"] == []


@fault(
    "two processes want the same download, volumes or converted model at the same time",
    "One makes it, the other waits; both go on.",
)
@pytest.mark.parametrize("piece", ["volumes", "converted", "download"])
@pytest.mark.parametrize("older", [False, True], ids=["new", "over an older one"])
def test_two_processes_at_once(piece, older, tmp_path):
    assert explore(piece, older, tmp_path, "two")["bad"] == []


@fault(
    "a notebook cell interrupted while volumes are cached",
    "It stops without first reading all other volumes; the same cell then makes the cache.",
)
def test_an_interrupted_caching_cell_can_run_again(tiny, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # also in a background shell
    begun, real = [], volumes.read_volume
    shape, cache = tiny.run.profile.volume_shape, tmp_path / "cache"

    def interrupted(path):
        begun.append(path)
        if len(begun) == 4:
            os.kill(os.getpid(), signal.SIGINT)  # reaches the main thread, as in a kernel
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(volumes, "read_volume", interrupted)
        with pytest.raises(KeyboardInterrupt):
            volumes.build_volumes(tiny.cohort, tiny.run.data_dir, shape, cache)
    signal.signal(signal.SIGINT, before)
    assert len(begun) < len(tiny.cohort), "it must not go on reading"
    assert not list(tmp_path.rglob("*.npy"))
    made = volumes.build_volumes(tiny.cohort, tiny.run.data_dir, shape, cache)
    assert made["digest"] == tiny.volumes.digest


@fault("the data folder is read-only", "Chapters read it and write nothing into it.")
def test_a_read_only_data_folder_suffices(tiny, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny.run.data_dir, data)
    everything = [data, *data.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in everything}
    tables = (
        cohort.read_adnimerge(data / "ADNIMERGE.csv"),
        cohort.read_images(data / "images.csv"),
    )
    table, _ = cohort.build_cohort(*tables, data, 0)
    shape = tiny.run.profile.volume_shape
    volumes.build_volumes(table.head(3), data, shape, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (data, *data.rglob("*"))} == before
    for path in everything:
        path.chmod(0o755)


@fault(
    "paths with spaces and letters beyond ASCII",
    "A chapter runs through papermill with such folders of runs, cache and data; volumes and an "
    "index are written and read there.",
)
def test_paths_with_spaces_and_other_letters(tiny, tmp_path, monkeypatch):
    data = tmp_path / "Дані ADNI – копія 1"
    shutil.copytree(tiny.run.data_dir, data)
    monkeypatch.setenv("MEMOIR_RUNS", str(tmp_path / "Läufe und mehr"))
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache é"))
    wanted = ["--profile", "smoke", "--run", "r", "--data", str(data), "--device", "cpu"]
    assert run.main(["--only", "1", *wanted]) == 0
    book = store.start_chapter("02", run="r", device="cpu")
    table = cohort.load_cohort(book.path("cohort.parquet"))
    shape, cache = book.profile.volume_shape, chapters.cache_dir()
    files.write_json(book.path("volumes.json"), volumes.build_volumes(table, data, shape, cache))
    assert len(volumes.load_volumes(book.path("volumes.json"), cache).t1) == len(tiny.cohort)
    rows = text.unit_rows(torch.eye(3, 512).numpy())
    cases = pd.DataFrame({"case": range(3), "split": "train"})
    index = retrieval.build_index(rows, range(3), cases)
    with files.atomic_path(book.path("index.faiss")) as path:
        faiss.write_index(index, str(path))
    assert faiss.read_index(str(book.path("index.faiss"))).ntotal == 3


@fault(
    "`device='cuda'` on a machine without a GPU",
    "The chapter does not start and says that torch sees no GPU.",
)
def test_a_gpu_that_is_not_there(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda' was asked for, but torch sees no GPU"):
        store.start_chapter("02", run="t", device="cuda")


def test_every_fault_is_in_the_book():
    page = chapters.ROOT / "book" / "faults.md"
    script = [sys.executable, str(chapters.ROOT / "tests" / "faults.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page} is stale: run `python tests/faults.py`\n{done.stderr}"
    assert "book/faults" in (chapters.ROOT / "_toc.yml").read_text()
