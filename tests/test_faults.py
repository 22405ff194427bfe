"""What may go wrong on a real machine, and what happens then.

Each test is named by its `fault` mark; book/faults.md is written from these marks by
`python book/faults.py`.
"""

import errno
import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tinyllm
import torch
import victim
from damage import cut, damaged, flip
from safetensors.torch import load_file

from memoir_book import answers, artefacts, weights
from memoir_book import run as runner
from memoir_core import cohort as tables
from memoir_core import config, inference, llm, training, volumes, vqa
from memoir_core import retrieval as search
from memoir_core import text as words
from memoir_core.captions import caption_rows

fault = pytest.mark.fault


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    plain = weights.Backbone("tiny", "tiny", "Tiny", quantisation="none")
    return plain, weights.Weights("tiny", tinyllm.save(tmp_path_factory.mktemp("llm")), "path")


@pytest.fixture(scope="module")
def plan():
    cohort = tinyllm.cohort()
    hits = tinyllm.retrieval(cohort)
    return vqa.plan_questions(cohort, caption_rows(cohort), hits, 8, seed=0)[:8]


def finals(folder, pattern="*"):
    """Files under their final names: nothing hidden or temporary."""
    found = (path.relative_to(folder) for path in Path(folder).rglob(pattern))
    return [str(path) for path in found if not any(part[0] == "." for part in path.parts)]


def same_weights(a, b):
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- kill -9 ----------------------------------------------------------------------------


@fault(
    "`kill -9` while volumes are cached",
    "No half memory map under a final name. The next start fills the cache with the same bytes "
    "and removes what was left half written.",
)
def test_kill_while_volumes_are_cached(tiny, tmp_path, monkeypatch):
    for kind, call in (("t1", 5), ("fa", 2)):
        job = victim.cache_volumes, tiny.run.data_dir, kind, call
        assert victim.run(*job, cache=tmp_path) == -signal.SIGKILL
        assert f"{kind}.npy" not in [Path(name).name for name in finals(tmp_path)]
        assert not list(tmp_path.rglob("index.json"))
    assert list(tmp_path.rglob(".t1.*.npy")) == []  # swept by the second start
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path))
    folder = volumes.build_volumes(tiny.cohort, tiny.run.data_dir, tiny.run.profile)
    whole = artefacts.read_json(tiny.run.path("volumes.json"))
    again = artefacts.read_json(folder / "index.json")
    assert {name: whole[name] for name in again} == again
    assert sorted(path.name for path in folder.iterdir()) == ["fa.npy", "index.json", "t1.npy"]


@pytest.fixture(scope="module")
def whole_stages(tiny_folders):
    """What an uninterrupted training gives: history and weights per stage, made on demand."""
    made = {}

    def get(stage, tiny):
        if stage not in made:
            history = victim.train_whole(stage, "whole", tiny.run, tiny.cohort, tiny.volumes)
            made[stage] = history.drop(columns="seconds")
        final = "model" if stage == "stage1" else "last"
        return made[stage], f"{stage}/{final}.safetensors"

    return get


@fault(
    "`kill -9` while a checkpoint or the state of an epoch is written",
    "No half file under a final name. The next start goes on after the last whole epoch and ends "
    "with the same history and the same weights, bit for bit.",
)
@pytest.mark.parametrize(("stage", "place"), [("stage1", "weights"), ("stage2", "state")])
def test_kill_in_a_training_stage(tiny, whole_stages, stage, place):
    folder = f"killed-{stage}-{place}"
    assert victim.run(victim.train, stage, folder, place) == -signal.SIGKILL
    left = config.runs_dir() / folder
    assert f"{stage}/epoch001.pt" in finals(left)
    for name in finals(left, "*.safetensors"):
        load_file(left / name)
    for name in finals(left, "*.pt"):
        torch.load(left / name, weights_only=True)
    history = victim.train_whole(stage, folder, tiny.run, tiny.cohort, tiny.volumes)
    whole, weights = whole_stages(stage, tiny)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), whole, rtol=0, atol=0)
    assert same_weights(left / weights, config.runs_dir() / "whole" / weights)


@fault(
    "`kill -9` in masked language modelling, or while the text encoder is written",
    "No half text encoder under its final name. The next start begins this step anew and gives the "
    "same losses and weights.",
)
def test_kill_in_language_pre_training(tiny, tmp_path):
    for place in ("step", "save"):
        assert victim.run(victim.mlm, str(tmp_path / "e"), place) == -signal.SIGKILL
        assert finals(tmp_path) == []
    curve = victim.mlm_whole(tmp_path / "e")
    pd.testing.assert_frame_equal(curve, victim.mlm_whole(tmp_path / "whole"), rtol=0, atol=0)
    for name in ("model.safetensors", "projection.safetensors"):
        assert same_weights(tmp_path / "e" / name, tmp_path / "whole" / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "whole"]


@fault(
    "`kill -9` while the retrieval index is written",
    "No half index under its final name; an index without its list of cases is not used. "
    "The next start writes both again.",
)
def test_kill_while_the_index_is_written(tiny, tmp_path):
    rows, table = victim.fake_index()
    assert victim.run(victim.index, str(tmp_path), "vectors") == -signal.SIGKILL
    assert "index.faiss" not in finals(tmp_path)
    assert victim.run(victim.index, str(tmp_path), "list") == -signal.SIGKILL
    with pytest.raises(FileNotFoundError):
        search.load_index(tmp_path / "index.faiss", tmp_path / "embeddings.npz", table)
    index = victim.index_whole(tmp_path, rows, table)
    assert (index.search(rows[:5], 1)[0][:, 0] == np.arange(5)).all()


@fault(
    "`kill -9` while a language model answers",
    "Answers of models that had finished are kept; this model answers anew, and the file is the "
    "same, byte for byte.",
)
@pytest.mark.parametrize("place", ["batch", "end"])
def test_kill_in_generation(tiny, language_model, plan, tmp_path, place):
    answers.answer_plan(plan, tmp_path / "whole", *language_model)
    job = victim.answer, language_model, plan, str(tmp_path / "killed"), place
    assert victim.run(*job) == -signal.SIGKILL
    answers.answer_plan(plan, tmp_path / "killed", *language_model)
    whole, killed = (tmp_path / name / "answers.jsonl" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()


# --- an interrupted cell ----------------------------------------------------------------


@pytest.fixture(autouse=True)
def signals():
    """Interrupt as Python does by default, also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_at(monkeypatch, module, name, call):
    """Press Ctrl-C (the kernel's interrupt button sends the same signal) in a call."""
    real, calls = getattr(module, name), [0]

    def interrupted(*arguments, **options):
        calls[0] += 1
        if calls[0] == call:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, interrupted)
    return calls


@fault(
    "a notebook cell interrupted while volumes are cached",
    "It stops at once, without first reading all other volumes, and leaves nothing behind; the "
    "same cell then makes the cache.",
)
def test_an_interrupted_caching_cell_can_run_again(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path))
    begun = []
    real = volumes.read_volume

    def interrupted(path):
        begun.append(path)
        if len(begun) == 4:
            os.kill(os.getpid(), signal.SIGINT)  # reaches the main thread, as in a kernel
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(volumes, "read_volume", interrupted)
        with pytest.raises(KeyboardInterrupt):
            volumes.build_volumes(tiny.cohort, tiny.run.data_dir, tiny.run.profile)
    assert len(begun) < len(tiny.cohort), "it must not go on reading"
    assert list(tmp_path.rglob("*.npy")) == []
    folder = volumes.build_volumes(tiny.cohort, tiny.run.data_dir, tiny.run.profile)
    checksums = artefacts.read_json(tiny.run.path("volumes.json"))["checksums"]
    assert artefacts.read_json(folder / "index.json")["checksums"] == checksums


@fault(
    "a notebook cell interrupted while a language model answers",
    "The same cell lets this model answer anew, in the same process; models that had finished are "
    "not asked again.",
)
def test_an_interrupted_answering_cell_can_run_again(language_model, plan, tmp_path, monkeypatch):
    whole, _ = answers.answer_plan(plan, tmp_path / "whole", *language_model)
    interrupt_at(monkeypatch, llm, "answer_batch", 3)
    with pytest.raises(KeyboardInterrupt):
        answers.answer_plan(plan, tmp_path / "a", *language_model)
    again, _ = answers.answer_plan(plan, tmp_path / "a", *language_model)
    assert again.equals(whole)
    monkeypatch.setattr(llm, "load", pytest.fail)
    answers.answer_plan(plan, tmp_path / "whole", *language_model)


# --- a full disk ------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB; where nobody may mount one, a limit on file sizes (a quota)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    mounted = shutil.which("mount") and not subprocess.run(command, capture_output=True).returncode
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@fault(
    "the disk is full, or a quota is used up",
    "The message names the file, says that there is no space left, and nothing half written stands "
    "under a final name. Space for a cache of volumes is claimed before it is filled, because a "
    "full disk under a memory map would kill the kernel without a word.",
)
@pytest.mark.parametrize("kind", victim.WRITERS)
@pytest.mark.parametrize("limit", [0, 2**19], ids=["disk", "quota"])
def test_a_full_disk(tiny, small_disk, kind, limit):
    if not limit and not os.path.ismount(small_disk):
        pytest.skip("no right to mount a small file system here")
    job = victim.write, kind, str(small_disk), tiny.run.data_dir, limit
    code = victim.run(*job, cache=small_disk)
    assert code == 28, "a named error, no crash" if code is not None and code >= 0 else "a crash"
    names = [Path(name).name for name in finals(small_disk)]
    assert not {f"file.{kind}", "epoch001.pt", "t1.npy"} & set(names)
    assert not [path for path in small_disk.rglob(".*") if path.suffix != ".blake2b"]


# --- damaged files ----------------------------------------------------------------------


def read_checkpoint(path):
    inference.load_weights(torch.nn.Linear(512, 1200), path)


def read_epoch(path):
    training._resume(path.parent, {}, True)


def read_index(path):
    table = pd.DataFrame({"case": np.arange(1200), "split": "train"})
    search.load_index(path, path.with_name("embeddings.json"), table)


READERS = {
    "safetensors": (read_checkpoint, "file.safetensors"),
    "pt": (read_epoch, "epoch001.pt"),
    "faiss": (read_index, "file.faiss"),
    "jsonl": (artefacts.read_jsonl, "file.jsonl"),
    "npz": (lambda path: words.read_fused(path, pd.DataFrame()), "file.npz"),
}


@fault(
    "a truncated or bit-flipped checkpoint (.safetensors), epoch state (.pt), FAISS index, .jsonl "
    "or .npz",
    "Found by its checksum when it is read; the message names the file and what to do.",
)
@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_named(tmp_path, kind, damage):
    read, name = READERS[kind]
    path = tmp_path / name
    victim._write(kind, path)
    damage(path)
    message = rf"{re.escape(name)} is (damaged|not the file that).* again"
    with pytest.raises(ValueError, match=message):
        read(path)


@fault(
    "a truncated or bit-flipped result of an earlier chapter (.parquet, .npz, .jsonl, weights)",
    "The chapter does not start; the message gives the command that makes the file again. "
    "`python -m memoir_book.run` notices by itself and runs the earlier chapter again.",
)
@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_input_of_a_chapter_is_named(tiny, damage):
    with damaged(tiny.run.path("cohort.parquet"), damage):
        with pytest.raises(artefacts.DamagedFileError, match="--only 01 --force"):
            artefacts.start_chapter("02", profile="tiny", run="t", device="cpu")
        with pytest.raises(artefacts.DamagedFileError, match=r"cohort\.parquet is damaged"):
            tables.load_cohort(tiny.run)


@fault(
    "a truncated or bit-flipped memory map of volumes (.npy)",
    "Found when the cache is opened, by the checksum in its index.json (once per process and date "
    "of the file); the message names the folder to delete.",
)
@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_memory_map_is_named(tiny, damage):
    folder = config.cache_dir() / artefacts.read_json(tiny.run.path("volumes.json"))["folder"]
    path = folder / "fa.npy"
    message = rf"{path}.* delete {folder}"
    with damaged(path, damage), pytest.raises(ValueError, match=message):
        volumes.open_volumes(tiny.run)


@fault(
    "a truncated or bit-flipped compressed NIfTI file (.nii.gz)",
    "The file is named, by chapter 2 and by `python -m memoir_book.check`. The whole file is "
    "unpacked first, because gzip's checksum stands at its end. An uncompressed .nii has no "
    "checksum: truncation is found, a flipped bit in a voxel is not.",
)
def test_a_flipped_bit_in_a_compressed_volume_is_found(tiny, tmp_path):
    source = tiny.run.data_dir / tiny.cohort["t1_path"][0]
    path = tmp_path / "scan.nii.gz"
    for share in np.linspace(0.02, 0.98, 12):
        shutil.copyfile(source, path)
        flip(path, share)
        with pytest.raises(volumes.VolumeError, match=r"scan\.nii\.gz cannot be read"):
            volumes.read_volume(str(path))
    plain = tmp_path / "scan.nii"
    plain.write_bytes(gzip.decompress(source.read_bytes())[:-1000])
    with pytest.raises(volumes.VolumeError, match="promises"):
        volumes.read_volume(str(plain))


# --- the machine around it --------------------------------------------------------------


@fault(
    "two runs share a cache and start at the same time",
    "One makes the synthetic download and the cache, the other waits for it; each volume is read "
    "once.",
)
def test_two_runs_share_a_cache(tiny, tmp_path):
    log = tmp_path / "log"
    job = victim.cache_volumes, tiny.run.data_dir, "", 0, str(log)
    both = [victim.start(*job, cache=tmp_path / "cache") for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    count = len(tiny.volumes.t1) + len(tiny.volumes.fa)
    assert len(log.read_text().splitlines()) == count
    data = tmp_path / "data"
    both = [victim.start(victim.make_download, str(data)) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    listed = pd.read_csv(data / "images.csv")
    names = [name for column in ("t1_path", "fa_path") for name in listed[column].dropna()]
    assert names and all((data / name).exists() for name in names)
    assert not (data / "begun.json").exists()


@fault(
    "the data folder is read-only",
    "Chapters and checks read it and write nothing into it.",
)
def test_a_read_only_data_folder_suffices(tiny, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(tiny.run.data_dir, data)
    for path in sorted(data.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    data.chmod(0o555)
    before = {path: path.stat().st_mtime_ns for path in (data, *data.rglob("*"))}
    monkeypatch.setenv("MEMOIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache"))
    run = artefacts.start_chapter("01", profile="tiny", run="r", data_dir=str(data), device="cpu")
    table, _ = tables.build_cohort(data, 0)
    tables.write_cohort(run, table)
    volumes.write_volumes(run, table)
    assert {path: path.stat().st_mtime_ns for path in (data, *data.rglob("*"))} == before
    data.chmod(0o755)
    for path in data.rglob("*"):
        path.chmod(0o755)


@fault(
    "paths with spaces and letters beyond ASCII",
    "A chapter runs through papermill with such a run folder, cache and data folder; an index and "
    "weights are written and read there.",
)
def test_paths_with_spaces_and_other_letters(tiny, tmp_path, monkeypatch):
    data = tmp_path / "Дані ADNI – копія 1"
    shutil.copytree(tiny.run.data_dir, data)
    monkeypatch.setenv("MEMOIR_RUNS", str(tmp_path / "Läufe und mehr"))
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache é"))
    name = "Größe 1"
    arguments = ["--only", "1", "--run", name, "--data", str(data), "--device", "cpu"]
    arguments.append("--no-publish")
    assert runner.main(arguments) == 0
    run = artefacts.start_chapter("02", profile="smoke", run=name, data_dir=str(data), device="cpu")
    volumes.write_volumes(run, tables.load_cohort(run))
    assert len(volumes.open_volumes(run).t1) == len(tiny.cohort)
    victim.index_whole(run.dir, *victim.fake_index())
    victim._write("safetensors", run.path("file.safetensors"))
    read_checkpoint(run.path("file.safetensors"))


@fault(
    "`device='cuda'` on a machine without a GPU",
    "The chapter does not start and says that torch sees no GPU.",
)
def test_a_gpu_that_is_not_there(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda' was asked for, but torch sees no GPU"):
        artefacts.start_chapter("02", profile="tiny", run="t", device="cuda")


@fault(
    "the GPU runs out of memory in a training step or in generation",
    "The message names the parameter to lower and a value to try; whole epochs stay, and so do "
    "the answers of models that had finished.",
)
def test_out_of_gpu_memory(tiny, language_model, plan, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    run = replace(tiny.run, name="oom")
    with monkeypatch.context() as patch:
        patch.setattr(training, "augment", full)
        with pytest.raises(training.TrainingError, match=r"batch_size \(now 6; try 3\)"):
            training.train_stage1(run, tiny.cohort, tiny.volumes, epochs=1)
    monkeypatch.setattr(llm, "answer_batch", full)
    with pytest.raises(MemoryError, match="smaller model"):
        answers.answer_plan(plan, tmp_path / "a", *language_model)


@fault(
    "a half-written file that some other program left, or a power cut",
    "Small results are forced to the disk before they get their name; a file that is no valid "
    "JSON is named with its line.",
)
def test_a_write_is_forced_to_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(artefacts.os, "fsync", lambda handle: synced.append(handle))
    artefacts.write_jsonl(tmp_path / "a.jsonl", [{"case": 1}])
    assert synced
    (tmp_path / "b.jsonl").write_text('{"case": 1}\n{"case"')
    with pytest.raises(ValueError, match=r"b\.jsonl, line 2"):
        artefacts.read_jsonl(tmp_path / "b.jsonl")


def test_an_error_of_another_kind_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError), artefacts.atomic_path(tmp_path / "a.json"):
        raise PermissionError(errno.EACCES, "not yours")


def test_every_fault_is_in_the_book():
    page = config.ROOT / "book" / "faults.md"
    script = [sys.executable, str(config.ROOT / "book" / "faults.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page} is stale: run `python book/faults.py`\n{done.stderr}"
    assert "book/faults" in (config.ROOT / "_toc.yml").read_text()
