"""Whole files, and folders that know what made them."""

import errno
import json
import os
import pickle

import numpy as np
import pandas as pd
import pytest
from damage import flip

from memoir_core import files, losses, model


def write(path, text):
    with files.atomic_path(path) as temporary:
        temporary.write_text(text)


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write(path, "old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("old", "new"):
        with files.atomic_path(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]
    assert [*tmp_path.iterdir()] == [tmp_path / "model"]


def test_what_a_killed_process_left_is_deleted_and_a_living_one_is_not(tmp_path):
    dead = tmp_path / ".a.txt.999999999.partial"
    alive = tmp_path / f".a.txt.{os.getppid()}.partial"
    for folder in (dead, alive):
        folder.mkdir()
    write(tmp_path / "a.txt", "x")
    assert not dead.exists() and alive.exists()


def test_a_killed_process_with_the_same_number_is_no_hindrance(tmp_path):
    (tmp_path / f".model.{os.getpid()}.partial" / "model").mkdir(parents=True)  # in a container
    with files.atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
    assert [*tmp_path.iterdir()] == [tmp_path / "model"]


@pytest.mark.fault(
    "a power cut after a small result was written",
    "It is forced to the disk before it gets its name.",
)
def test_a_write_is_forced_to_the_disk(tmp_path, monkeypatch):
    synced, rename = [], files.Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: synced.append("sync"))
    monkeypatch.setattr(files.Path, "replace", lambda *a: (synced.append("name"), rename(*a)))
    files.write_json(tmp_path / "a.json", 1)
    assert synced == ["sync", "name"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_named(tmp_path, number):
    write(tmp_path / "a.txt", "old")
    said = pytest.raises(OSError, match=r"no space left.*this was not changed.*a\.txt")
    with said, files.atomic_path(tmp_path / "a.txt"):
        raise OSError(number, os.strerror(number))
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_library_that_only_speaks_of_a_full_disk_is_understood(tmp_path):
    with pytest.raises(OSError, match="no space left"), files.atomic_path(tmp_path / "a.pt"):
        raise RuntimeError("PytorchStreamWriter failed: No space left on device")


def test_checksums_follow_content_and_names(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("1")
    before = files.checksum(tmp_path / "d")
    (tmp_path / "d" / ".a.partial").write_text("locks and halves do not count")
    assert files.checksum(tmp_path / "d") == before
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    assert files.checksum(tmp_path / "d") != before


TABLE = pd.DataFrame({"DX": ["CN", "MCI"], "AGE": [70.0, np.nan]})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (TABLE, TABLE.iloc[::-1]),
        (TABLE, TABLE.rename(columns={"DX": "dx"})),
        (TABLE, TABLE.fillna(0)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(2, np.float32), np.zeros(2, np.float64)),
        ([1, 2], [12]),
        (["a", "b"], ["ab"]),
        ({"a": 1}, {"a": True}),
        ({"a": {"b": 1}}, {"a": {"b": 2}}),
        (None, "None"),
    ],
)
def test_digests_tell_apart(a, b):
    assert files.digest(a) != files.digest(b)
    assert files.digest(a) == files.digest(a)


def test_digests_do_not_depend_on_the_order_of_keys():
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})


def test_code_digests_follow_the_source():
    assert files.code_digest(losses) != files.code_digest(losses, model)


@pytest.mark.fault(
    "a half-written JSON file that some other program left",
    "It is named, a .jsonl with its line.",
)
@pytest.mark.parametrize("content", [b'{"a": 1', b"\xff\xfe{}", b""])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(files.DamagedFileError, match=r"x\.json"):
        files.read_json(tmp_path / "x.json")


def test_json_round_trip(tmp_path):
    rows = [{"a": np.float32(0.5), "b": np.arange(2)}, {"a": "é"}]
    files.write_jsonl(tmp_path / "x.jsonl", rows)
    assert files.read_jsonl(tmp_path / "x.jsonl") == [{"a": 0.5, "b": [0, 1]}, {"a": "é"}]
    with open(tmp_path / "x.jsonl", "a") as handle:
        handle.write('{"a": \n')
    with pytest.raises(files.DamagedFileError, match="line 3"):
        files.read_jsonl(tmp_path / "x.jsonl")


def test_differences_in_words():
    old = {"lr": 0.001, "drop": {"fa": 0.3}, "cohort": "a" * 64, "hide": ("CDRSB",)}
    assert files.difference(old, json.loads(json.dumps(old))) == ""
    new = {"lr": 0.002, "drop": {"fa": 0.5}, "cohort": "b" * 64, "start": None}
    said = files.difference(old, new)
    assert said == "lr 0.001 -> 0.002, drop (fa 0.3 -> 0.5), cohort changed, hide ['CDRSB'] -> None"


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights").write_text("w")
    files.finish(folder, {"seed": 0})
    return folder


def test_finished_work_is_used_only_with_its_settings(work, capsys):
    assert files.is_finished(work, {"seed": 0})
    assert not files.is_finished(work, {"seed": 1}) and not work.exists()
    assert "adapter is made anew: seed 0 -> 1" in capsys.readouterr().out


@pytest.mark.fault(
    "one flipped bit in a text encoder, LoRA adapter, converted model or in a model's answers",
    "It is noticed by its checksum, said, and the work is done anew.",
)
@pytest.mark.parametrize("name", ["weights", files.SETTINGS])
def test_damaged_work_is_made_anew(work, name, capsys):
    (work / name).write_text("x")
    assert not files.is_finished(work, {"seed": 0})
    assert "damaged" in capsys.readouterr().out


def test_half_done_work_is_made_anew(work, capsys):
    (work / files.SETTINGS).unlink()
    assert not files.is_finished(work, {"seed": 0})
    assert "not finished" in capsys.readouterr().out
    assert not files.is_finished(work, {"seed": 0})  # nothing there: nothing to say
    assert capsys.readouterr().out == ""


def test_work_that_is_finished_twice_is_whole(work):
    files.finish(work, {"seed": 2})
    assert files.is_finished(work, {"seed": 2})


# --- states of a training ---------------------------------------------------------------


@pytest.fixture
def states(tmp_path):
    folder = tmp_path / "stage1"
    for epoch in (1, 2, 3):
        files.save_state(folder, epoch, {"seed": 0}, {"epoch": epoch})
    return folder


def test_the_newest_state_is_taken_and_one_before_it_kept(states):
    assert files.newest_state(states, {"seed": 0}) == {"epoch": 3}
    assert len(list((states / files.STATE).iterdir())) == 2


def test_of_a_damaged_state_the_one_before_is_taken(states, capsys):
    flip(max((states / files.STATE).iterdir()))
    assert files.newest_state(states, {"seed": 0}) == {"epoch": 2}
    assert "epoch003" in capsys.readouterr().out


def test_a_state_of_other_settings_is_deleted_with_its_training(states, capsys):
    assert files.newest_state(states, {"seed": 1}) is None and not states.exists()
    assert "seed 0 -> 1" in capsys.readouterr().out


def test_a_state_cannot_bring_code(tmp_path):
    files.save_state(tmp_path / "stage1", 1, {}, {"call": os.getcwd})
    with pytest.raises(pickle.UnpicklingError):
        files.newest_state(tmp_path / "stage1", {})
