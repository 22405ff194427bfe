"""Both stages on 24 subjects: artefacts, resuming, errors, and several processes."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from memoir_core import data, inference, metrics, training
from memoir_core.config import SUBSETS
from memoir_core.losses import PairwiseInfoNCE
from memoir_core.model import Memoir, masking_gate


@pytest.fixture
def trained(tiny):
    """Stage 1 and stage 2 of one and two epochs; made once per session by the first test."""
    if not tiny.run.path("stage2", "last.safetensors").exists():
        training.train_stage1(tiny.run, tiny.cohort, tiny.volumes, epochs=1)
        training.train_stage2(tiny.run, tiny.cohort, tiny.volumes, epochs=2)
    return tiny


def test_both_stages_leave_what_they_promise(trained):
    folder = trained.run.dir
    assert len(pd.read_csv(folder / "stage1" / "history.csv")) == 1
    history = pd.read_csv(folder / "stage2" / "history.csv")
    assert history["epoch"].tolist() == [1, 2] and np.isfinite(history["train_loss"]).all()
    assert not list(folder.rglob("epoch*"))
    best, last = (load_file(folder / "stage2" / f"{n}.safetensors") for n in ("best", "last"))
    assert best.keys() == last.keys()
    chosen = history["composite"].idxmax() == len(history) - 1
    assert all(torch.equal(best[k], last[k]) for k in best) == chosen


@pytest.mark.fault(
    "a notebook cell interrupted in training",
    "The kernel stays usable: the same cell goes on after the last whole epoch, in the same "
    "process, with the same history and weights.",
)
def test_a_killed_training_goes_on_as_if_nothing_had_been(trained, monkeypatch):
    whole = pd.read_csv(trained.run.path("stage2", "history.csv"))
    real = training._epoch

    def killed(title, *rest):
        if "epoch 2" in title:
            raise KeyboardInterrupt
        return real(title, *rest)

    arguments = trained.run, trained.cohort, trained.volumes
    monkeypatch.setattr(training, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train_stage2(*arguments, epochs=2, folder="again")
    assert trained.run.path("again", "epoch001.pt").exists()
    monkeypatch.setattr(training, "_epoch", real)
    history = training.train_stage2(*arguments, epochs=2, folder="again")
    same = [c for c in whole if c != "seconds"]
    pd.testing.assert_frame_equal(history[same], whole[same], rtol=1e-12)
    a, b = (load_file(trained.run.path(f, "last.safetensors")) for f in ("stage2", "again"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_loss_that_is_no_number_stops_with_the_way_out(trained, monkeypatch):
    monkeypatch.setattr(
        training, "multitask_loss", lambda out, batch: {"total": out["age"].sum() * torch.nan}
    )
    monkeypatch.setattr(training, "choose_precision", lambda *a, **k: "no")
    arguments = trained.run, trained.cohort, trained.volumes
    with pytest.raises(training.TrainingError, match=r"learning rate\. No epoch had finished"):
        training.train_stage2(*arguments, epochs=1, folder="nan")
    assert not trained.run.path("nan", "last.safetensors").exists()


def test_the_last_good_weights_are_named_and_there(trained, monkeypatch):
    real, arguments = training._epoch, (trained.run, trained.cohort, trained.volumes)

    def spoiled(title, accelerator, model, criterion, loss_of, *rest):
        def worse(out, batch):
            return loss_of(out, batch) * (torch.nan if "epoch 2" in title else 1)

        return real(title, accelerator, model, criterion, worse, *rest)

    monkeypatch.setattr(training, "_epoch", spoiled)
    with pytest.raises(training.TrainingError, match=r"epoch001\.safetensors"):
        training.train_stage2(*arguments, epochs=2, folder="spoiled")
    inference.load_weights(Memoir(), trained.run.path("spoiled", "epoch001.safetensors"))


def test_tensorboard_is_asked_for_by_a_variable(tmp_path, monkeypatch):
    assert training._tensorboard(tmp_path) is None
    monkeypatch.setenv("MEMOIR_TENSORBOARD", "1")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if not installed
    with pytest.raises(training.TrainingError, match="pip install tensorboard"):
        training._tensorboard(tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"best\.safetensors"):
        inference.load_weights(Memoir(), path)


def test_the_scaler_knows_the_train_part_only(tiny):
    changed = tiny.cohort.copy()
    changed.loc[changed["split"] != "train", ["AGE", "MMSE", "CDRSB"]] = 5.0
    assert data.Scaler.fit(changed) == data.Scaler.fit(tiny.cohort)


def test_hidden_scores_do_not_reach_the_network(tiny):
    scaler = data.Scaler.fit(tiny.cohort)
    part = data.MemoirDataset(tiny.cohort, tiny.volumes, scaler, "all", ("CDRSB",))
    assert all(part[i]["scores"][0] == 0 and part[i]["known"][0] == 0 for i in range(len(part)))


def test_the_ablation_has_seven_subsets_and_five_tasks(trained):
    model, scaler = inference.load_trained(trained.run.path("stage2"))
    part = data.MemoirDataset(trained.cohort, trained.volumes, scaler, "test")
    known = {"dx3": {"t1+dti+clinical": 0.707}}
    z, present = inference.encode(model, part)
    tables = inference.predict_subsets(model, z, present, trained.cohort.loc[part.rows], scaler)
    table = metrics.ablate(tables, known, 20, 0)
    assert len(table) == 7 * 5
    assert table["subset"].drop_duplicates().tolist() == ["+".join(s) for s in SUBSETS]
    whole = table[(table["subset"] == "t1+fa+clinical") & (table["task"] == "dx3")]
    assert whole["published"].tolist() == [0.707]
    alone = table[(table["subset"] == "fa") & (table["task"] == "dx3")]
    assert alone["n"].item() == part.present[:, 1].sum()


# --- several processes ------------------------------------------------------------------


def _one_rank(rank, world, folder, z, present):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    rows = slice(rank * len(z) // world, (rank + 1) * len(z) // world)
    own = z[rows].clone().requires_grad_()
    loss = PairwiseInfoNCE()(training.gather(own), training.gather(present[rows]))
    loss.backward()
    keep = masking_gate(present[rows], torch.Generator().manual_seed(1))
    dx3 = training.gather(torch.arange(len(z))[rows])
    # Every rank holds the whole loss, so gradients add up to `world` times the single ones.
    found = {"loss": loss.detach(), "grad": own.grad / world, "keep": keep, "dx3": dx3}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_loss_gradients_and_masks_of_one(tmp_path):
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(8, 3, 32), dim=-1)
    present = torch.ones(8, 3, dtype=torch.bool)
    present[1:6, 1] = False
    whole = z.clone().requires_grad_()
    loss = PairwiseInfoNCE()(whole, present)
    loss.backward()
    torch.multiprocessing.spawn(_one_rank, (2, str(tmp_path), z, present), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.allclose(part["loss"], loss, atol=1e-6) for part in parts)
    assert torch.allclose(torch.cat([p["grad"] for p in parts]), whole.grad, atol=1e-6)
    keep = masking_gate(present, torch.Generator().manual_seed(1))
    assert torch.equal(torch.cat([part["keep"] for part in parts]), keep)
    assert all(torch.equal(part["dx3"], torch.arange(8)) for part in parts)


def test_the_same_subjects_meet_in_a_step_whatever_the_number_of_processes():
    """What the recipes page states: order of samples, and size of a step, do not depend on it."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler, RandomSampler

    def steps(world, batch=8):
        parts = []
        for rank in range(world):
            order = torch.Generator().manual_seed(3)
            sampler = RandomSampler(range(37), generator=order)
            inner = BatchSampler(sampler, batch // world, drop_last=True)
            parts.append(list(BatchSamplerShard(inner, world, rank)))
        return [[i for rows in step for i in rows] for step in zip(*parts, strict=True)]

    assert steps(1) == steps(2) == steps(4)
