"""kill -9 before a file operation of a training, then the same call: the same end.

A sample of the operations; MEMOIR_KILL=all tries every one (minutes).
"""

import os

import crash
import pandas as pd
import pytest
import small
import torch

from memoir_core import training

pytestmark = pytest.mark.usefixtures("tiny_net")


def work(stage, subjects, folder):
    told = {"epochs": 3, "batch_size": 12, "drop": small.DROP, "seed": 0, "device": "cpu"}
    if stage == 1:
        return lambda: training.train_stage1(*subjects, folder, lr=1e-2, **told)
    rates = {"lr_backbone": 1e-3, "lr_heads": 1e-2, "start": None}
    return lambda: training.train_stage2(*subjects, folder, **rates, **told)


def end(folder):
    """All files but what tells the time, and whether anything else was left."""
    history = pd.read_csv(folder / "history.csv", dtype=str).drop(columns="seconds")
    files = {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
    return history.to_csv(), files, sorted(p.name for p in folder.rglob("*"))


@pytest.mark.fault(
    "`kill -9` at any file operation of a training",
    "No half file under a final name. The next start goes on after the last whole epoch and ends "
    "with the same history and the same weights, bit for bit; nothing is left over.",
)
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("changed", [False, True])
def test_a_killed_training_ends_like_one_that_was_not(stage, changed, subjects, tmp_path):
    torch.set_num_threads(1)
    table, volumes = subjects

    def prepare(folder):
        """Another training's folder lies there, or nothing."""
        if changed:
            older = table.assign(AGE=table["AGE"] + 1)
            assert crash.run(work(stage, (older, volumes), folder)) == 0

    prepare(tmp_path / "whole")
    assert crash.run(work(stage, subjects, tmp_path / "whole"), note=tmp_path / "log") == 0
    wanted, log = end(tmp_path / "whole"), (tmp_path / "log").read_text().splitlines()
    assert len(log) > 20
    step = 1 if os.environ.get("MEMOIR_KILL") == "all" else len(log) // 4
    for at in range(1 + stage, len(log) + 1, step):
        folder = tmp_path / str(at)
        prepare(folder)
        assert crash.run(work(stage, subjects, folder), at) == 137
        assert crash.run(work(stage, subjects, folder)) == 0, log[at - 1]
        assert end(folder) == wanted, log[at - 1]
