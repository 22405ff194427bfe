"""Both stages on forty made-up subjects: the loop against one written by hand, and its identity."""

import json
import math
import multiprocessing
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small import same, weights

from memoir_core import inference, training
from memoir_core.data import FaTogether, MemoirDataset, Scaler, vary
from memoir_core.losses import PairwiseInfoNCE, gather, multitask_loss
from memoir_core.metrics import composite, task_metrics
from memoir_core.model import Memoir, masking_gate

pytestmark = pytest.mark.usefixtures("tiny_net")
ONE = {"epochs": 2, "lr": 1e-2, "batch_size": 6, "drop": small.DROP, "seed": 3, "device": "cpu"}
TWO = {k: v for k, v in ONE.items() if k != "lr"}
TWO |= {"start": None, "lr_backbone": 1e-3, "lr_heads": 1e-2, "hide": ()}


@pytest.fixture
def stop_in(monkeypatch):
    """Interrupt trainings at the end of the given epoch; 0 lets them run."""

    def stop(epoch):
        calls = [0]

        def interrupted(*arguments):
            calls[0] += 1
            if calls[0] == epoch:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(training, "_validate", interrupted)

    real = training._validate
    return stop


def train(stage, subjects, folder, **changes):
    function = training.train_stage1 if stage == 1 else training.train_stage2
    return function(*subjects, folder, **((ONE if stage == 1 else TWO) | changes))


def last(stage, folder):
    return load_file(folder / ("model.safetensors" if stage == 1 else "last.safetensors"))


# --- what is trained --------------------------------------------------------------------


def by_hand(stage, table, volumes, epochs, rates, batch_size, seed):
    """The same training with nothing but torch: what the published description says."""
    scaler = Scaler.fit(table, volumes)
    data = MemoirDataset(table, volumes, scaler, "train")
    torch.manual_seed(training_seeds(seed, stage, 0)[0])
    net, temperature = Memoir(), PairwiseInfoNCE()
    encoders = [*net.t1.parameters(), *net.fa.parameters(), *net.clinical.parameters()]
    heads = [*net.fusion.parameters(), *net.heads.parameters(), *temperature.parameters()]
    rates = [rate for rate in rates for _ in range(2)]
    groups = []
    for own in (encoders, heads):  # what is a vector or a number does not decay
        groups.append({"params": [p for p in own if p.ndim > 1], "weight_decay": 0.01})
        groups.append({"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups)
    steps = len(data) // batch_size * epochs
    warm, step = max(1, steps // 10), 0
    for epoch in range(1, epochs + 1):
        seeds = training_seeds(seed, stage, epoch)
        torch.manual_seed(seeds[0])
        order = torch.Generator().manual_seed(seeds[1])
        noise = torch.Generator().manual_seed(seeds[2])
        together = torch.from_numpy(data.present[:, 1]) & (stage == 1)
        loader = torch.utils.data.DataLoader(
            data, batch_size, sampler=FaTogether(together, batch_size, order), drop_last=True
        )
        net.train()
        for batch in loader:
            past = (step - warm) / (steps - warm)
            share = (step + 1) / warm if step < warm else (1 + math.cos(math.pi * past)) / 2
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            keep = masking_gate(batch["present"], noise, small.DROP)
            batch = vary(batch, noise)
            out = net(batch, keep)
            if stage == 1:
                loss = temperature(out["embeddings"], out["present"])
            else:
                loss = multitask_loss(out, batch)["total"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*encoders, *heads], 1.0)
            optimizer.step()
            step += 1
    # Statistics of the norms: means over batches of 48 train subjects and 16 more with FA, as they
    # are (not varied), and nothing of what was before
    order = np.random.default_rng(seed).permutation(len(data))
    shown = [*order[:48], *[i for i in order if data.present[i, 1]][:16]]
    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all that comes
    with torch.no_grad():
        for batch in torch.utils.data.DataLoader([data[i] for i in shown], batch_size):
            net(batch)
    return net, temperature


def training_seeds(seed, stage, epoch):
    return np.random.SeedSequence((seed, stage, epoch)).generate_state(3).tolist()


@pytest.mark.parametrize("stage", [1, 2])
def test_a_training_equals_one_written_by_hand(stage, subjects, tmp_path):
    rates = (1e-2, 1e-2) if stage == 1 else (1e-3, 1e-2)
    history = train(stage, subjects, tmp_path / "x", epochs=4)
    net, temperature = by_hand(stage, *subjects, 4, rates, 6, 3)
    found, wanted = last(stage, tmp_path / "x"), weights(net)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=2e-4, rtol=1e-3, msg=name)
    if stage == 1:
        scales = history.filter(like="scale_").iloc[-1].to_numpy()
        wanted = temperature.log_scale.detach().exp().numpy()
        np.testing.assert_allclose(scales, wanted, rtol=1e-4)
        assert abs(scales / (1 / 0.07) - 1).max() > 1e-3  # it is learned


def test_the_rate_rises_over_a_tenth_of_the_steps_and_falls_to_zero():
    rates = [training._rate(step, 100) for step in range(101)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3]) and rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert training._rate(0, 1) == 1  # a training of one step trains


def test_gradients_are_clipped_to_length_one(subjects, tmp_path, monkeypatch):
    lengths = []
    real = torch.nn.utils.clip_grad_norm_

    def seen(parameters, longest, **options):
        parameters = list(parameters)
        real(parameters, longest, **options)
        squares = [p.grad.square().sum() for p in parameters if p.grad is not None]
        lengths.append(float(torch.stack(squares).sum().sqrt()))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", seen)
    train(2, subjects, tmp_path / "x", epochs=1)
    assert lengths and max(lengths) <= 1.001


def test_the_history_is_what_the_validation_part_says(subjects, tmp_path):
    table, _ = subjects
    table["has_fa"] |= table["split"] == "val"
    table.loc[table.index[table["split"] == "val"][0], "has_fa"] = False
    volumes = small.volumes(table)
    subjects = table, volumes
    history = train(2, subjects, tmp_path / "x")
    net, scaler = inference.load_trained(tmp_path / "x", "last")
    val = table[table["split"] == "val"]
    data = MemoirDataset(table, volumes, scaler, "val")
    found = task_metrics(inference.predict(net, *inference.encode(net, data), val, scaler))
    row = history.iloc[-1]
    assert row["dx3_balanced_accuracy"] == pytest.approx(found["dx3"]["balanced_accuracy"])
    assert row["age_mae"] == pytest.approx(found["age"]["mae"], rel=1e-4)
    assert row["composite"] == pytest.approx(composite(found, scaler), rel=1e-4)
    one = train(1, subjects, tmp_path / "y")
    net = Memoir()
    inference.load_weights(net, tmp_path / "y" / "model.safetensors")
    z, _ = inference.encode(net, data)
    row = one.iloc[-1]
    for a, b, pair in ((0, 1, "t1_fa"), (0, 2, "t1_clinical"), (1, 2, "fa_clinical")):
        both = (z[:, a].norm(dim=1) > 0.5) & (z[:, b].norm(dim=1) > 0.5)  # zero where absent
        x, y = z[both, a], z[both, b]
        place = (x @ y.T).argsort(dim=1, descending=True).tolist()
        expected = np.mean([i in near[:5] for i, near in enumerate(place)])
        assert row[f"val_recall@5_{pair}"] == pytest.approx(expected), pair
        logits, right = row[f"scale_{pair}"] * x @ y.T, torch.arange(len(x))
        both_ways = F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)
        assert row[f"val_loss_{pair}"] == pytest.approx(both_ways.item() / 2, rel=1e-4), pair
    losses = row[["val_loss_t1_fa", "val_loss_t1_clinical", "val_loss_fa_clinical"]]
    assert row["val_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    for column, name in enumerate(("t1", "fa", "clinical")):
        own = z[z[:, column].norm(dim=1) > 0.5, column]
        cosine = (own @ own.T)[~torch.eye(len(own), dtype=torch.bool)].mean()
        assert row[f"cosine_{name}"] == pytest.approx(float(cosine), abs=1e-5), name
        assert np.isnan(row[f"rank_{name}"]) == (row[f"cosine_{name}"] > 0.99), name


def test_a_pair_that_nobody_of_the_validation_part_has_is_nan_in_the_history(subjects, tmp_path):
    table, volumes = subjects
    volumes.fa_row[(table["split"] == "val").to_numpy()] = -1
    row = train(1, subjects, tmp_path / "x", epochs=1).iloc[-1]
    missing = {name for name in row.index if np.isnan(row[name])}
    unknown = {
        f"val_{what}_{pair}" for what in ("loss", "recall@5") for pair in ("t1_fa", "fa_clinical")
    }
    assert unknown | {"cosine_fa", "rank_fa"} <= missing
    assert not missing & {"val_loss", "val_loss_t1_clinical", "cosine_t1", "scale_t1_fa"}


def test_the_test_part_is_never_touched(subjects, tmp_path):
    table, volumes = subjects
    poisoned = table.copy()
    hidden = (table["split"] == "test").to_numpy()
    poisoned.loc[hidden, ["AGE", "CDRSB", "MMSE"]] = 1e30
    volumes.t1[hidden] = np.nan
    volumes.fa[volumes.fa_row[hidden & table["has_fa"].to_numpy()]] = np.nan
    for stage in (1, 2):
        spoiled = train(stage, (poisoned, volumes), tmp_path / f"a{stage}")
        clean = train(stage, (table, small.volumes(table)), tmp_path / f"b{stage}")
        assert not [name for name in spoiled if "test" in name]
        pd.testing.assert_frame_equal(
            spoiled.drop(columns="seconds"), clean.drop(columns="seconds")
        )


def test_every_train_subject_is_seen_and_no_other(subjects, tmp_path, monkeypatch):
    table, _ = subjects
    seen = []

    class Watched(MemoirDataset):
        def __getitem__(self, i):
            seen.append(int(self.rows[i]))
            return super().__getitem__(i)

    monkeypatch.setattr(training, "MemoirDataset", Watched)
    monkeypatch.setattr(training, "choose_precision", lambda *a: "no")
    monkeypatch.setattr(training, "_validate", lambda *a: {"composite": 0.0})
    train(2, subjects, tmp_path / "x", epochs=6, batch_size=4)
    assert set(seen) == set(table.index[table["split"] == "train"])


def test_a_hidden_score_is_in_no_batch_of_a_training(subjects, tmp_path, monkeypatch):
    parts = {}

    class Watched(MemoirDataset):
        def __getitem__(self, i):
            item = super().__getitem__(i)
            parts.setdefault(self.subjects["split"].iloc[0], []).append(item["known"])
            return item

    monkeypatch.setattr(training, "MemoirDataset", Watched)
    train(2, subjects, tmp_path / "x", epochs=1, hide=("CDRSB",))
    assert parts.keys() == {"train", "val"}
    for known in map(torch.stack, parts.values()):
        assert not known[:, 0].any() and known[:, 1:].any()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_both_stages_go_without_fa_and_without_cdrsb(tmp_path):
    table = small.cohort().assign(CDRSB=np.nan, has_fa=False)
    subjects = table, small.volumes(table)
    first = train(1, subjects, tmp_path / "one").iloc[-1]
    assert np.isfinite(
        first[["train_loss", "val_loss", "val_loss_t1_clinical"]].astype(float)
    ).all()
    assert first[["val_loss_t1_fa", "val_recall@5_fa_clinical", "cosine_fa"]].isna().all()
    history = train(2, subjects, tmp_path / "two", epochs=3)
    assert np.isfinite(history["composite"]).all() and "cdrsb_mae" not in history
    found, scaler = inference.load_trained(tmp_path / "two")
    val = table[table["split"] == "val"]
    z = inference.encode(found, MemoirDataset(table, subjects[1], scaler, "val"))
    tables = inference.predict_subsets(found, *z, val, scaler, [("t1", "clinical"), ("t1",)])
    assert [*tables] == ["t1+clinical", "t1"]
    assert all(
        t["CDRSB_pred"].isna().all() and t["AGE_pred"].notna().all() for t in tables.values()
    )
    best = composite(task_metrics(tables["t1+clinical"]), scaler)
    assert history["composite"].max() == pytest.approx(best, rel=1e-4)


def test_the_best_epoch_by_the_composite_is_kept(subjects, tmp_path, monkeypatch):
    after, scores = [], iter([0.2, 0.5, 0.3])

    def validate(how, net, *rest):
        after.append(weights(net))
        return {"composite": next(scores)}

    monkeypatch.setattr(training, "_validate", validate)
    train(2, subjects, tmp_path / "x", epochs=3)
    assert same(load_file(tmp_path / "x" / "best.safetensors"), after[1])
    assert same(load_file(tmp_path / "x" / "last.safetensors"), after[2])


def test_stage_2_starts_from_the_weights_that_it_is_given(subjects, tmp_path):
    train(1, subjects, tmp_path / "one")
    start = tmp_path / "one" / "model.safetensors"
    slow = {"epochs": 1, "lr_backbone": 1e-12, "lr_heads": 1e-12}
    train(2, subjects, tmp_path / "a", start=start, **slow)
    ended = last(2, tmp_path / "a")
    for name, _ in Memoir().named_parameters():  # what the norms count of the batches goes on
        torch.testing.assert_close(ended[name], load_file(start)[name], atol=1e-6, rtol=1e-6)
    train(2, subjects, tmp_path / "b", **slow)
    begun = load_file(start)["t1.project.weight"]  # "b" begins with other weights
    assert not torch.allclose(last(2, tmp_path / "b")["t1.project.weight"], begun, atol=1e-3)
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors"):
        train(2, subjects, tmp_path / "c", start=tmp_path / "no.safetensors")


@pytest.mark.parametrize("seed", [0, 42_950, 20_251_125, 2**32 - 1])
def test_any_seed_trains_and_seeds_differ(subjects, tmp_path, seed):
    train(1, subjects, tmp_path / "a", epochs=1, seed=seed)
    train(1, subjects, tmp_path / "b", epochs=1, seed=seed ^ 1)
    a, b = (last(1, tmp_path / name)["t1.project.weight"] for name in "ab")
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"lr": 0.0}, "learning rates"),
        ({"drop": small.DROP | {"fa": 1.5}}, "drop"),
        ({"drop": {"t1": 0.1}}, "drop"),
        ({"seed": 2**32}, "seed"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_setting_out_of_range_is_named(subjects, tmp_path, wrong, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        train(1, subjects, tmp_path / "x", **wrong)
    with pytest.raises(ValueError, match=r"^hide"):
        train(2, subjects, tmp_path / "x", hide=("AGE",))


def test_a_loss_that_is_no_number_stops_with_the_way_out(subjects, tmp_path, monkeypatch):
    monkeypatch.setattr(
        training, "multitask_loss", lambda out, batch: {"total": out["age"].sum() * torch.nan}
    )
    monkeypatch.setattr(training, "choose_precision", lambda *a: "no")
    with pytest.raises(RuntimeError, match=r"nan .*lower the learning rate"):
        train(2, subjects, tmp_path / "x")
    assert not list((tmp_path / "x").glob("*.safetensors"))


@pytest.mark.fault(
    "the GPU runs out of memory in a training step",
    "The message names the parameter to lower and a value to try; whole epochs stay.",
)
def test_a_full_gpu_says_which_batch_size_to_try(subjects, tmp_path, monkeypatch):
    def full(*a):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(training, "vary", full)
    with pytest.raises(RuntimeError, match=r"batch_size \(now 6; try 3\)"):
        train(1, subjects, tmp_path / "x")


def test_too_few_subjects_are_named(subjects, tmp_path):
    with pytest.raises(RuntimeError, match="do not fill a batch of 64"):
        train(1, subjects, tmp_path / "x", batch_size=64)


# --- going on, beginning anew -----------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A stage 2 that was interrupted, and one that has ended; made by the first test."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def begun(kept, tmp_path, subjects, stop_in):
    def copy(finished):
        folder = kept / str(finished)
        if not folder.exists():
            stop_in(0 if finished else 2)
            with nullcontext() if finished else pytest.raises(KeyboardInterrupt):
                train(2, subjects, folder)
            stop_in(0)
        return Path(shutil.copytree(folder, tmp_path / "x"))

    return copy


@pytest.mark.fault(
    "a notebook cell interrupted in training",
    "The kernel stays usable: the same cell goes on after the last whole epoch, in the same "
    "process, with the same history and weights.",
)
@pytest.mark.parametrize("stage", [1, 2])
def test_an_interrupted_training_ends_like_one_that_was_not(
    stage, subjects, tmp_path, stop_in, capsys
):
    whole = train(stage, subjects, tmp_path / "whole", epochs=4)
    stop_in(3)
    with pytest.raises(KeyboardInterrupt):
        train(stage, subjects, tmp_path / "cut", epochs=4)
    stop_in(0)
    history = train(stage, subjects, tmp_path / "cut", epochs=4)
    assert "resumed after epoch002" in capsys.readouterr().out
    pd.testing.assert_frame_equal(
        history.drop(columns="seconds"), whole.drop(columns="seconds"), check_exact=True
    )
    names = {p.name for p in (tmp_path / "whole").iterdir()}
    assert names == {p.name for p in (tmp_path / "cut").iterdir()}
    assert names == {"history.csv", "settings.json"} | (
        {"model.safetensors"}
        if stage == 1
        else {"best.safetensors", "last.safetensors", "scaler.json"}
    )
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


def other_age(table, volumes):
    table.loc[table.index[table["split"] == "train"][0], "AGE"] += 1


def other_validation(table, volumes):
    table.loc[table.index[table["split"] == "val"][0], "AGE"] += 1  # it chooses the epoch


def other_split(table, volumes):
    table.loc[[0, 9], "split"] = table.loc[[9, 0], "split"].to_numpy()


def other_order(table, volumes):
    table.loc[[0, 3]] = table.loc[[3, 0]].to_numpy()
    table["case"] = table["case"].astype(int)


def other_volumes(table, volumes):
    volumes.digest = "others"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 3}, "epochs 2 -> 3"),
        ({"lr_backbone": 2e-3}, "lr_backbone 0.001 -> 0.002"),
        ({"lr_heads": 2e-2}, "lr_heads 0.01 -> 0.02"),
        ({"batch_size": 5}, "batch_size 6 -> 5"),
        ({"drop": small.DROP | {"fa": 0.5}}, "fa 0.3 -> 0.5"),
        ({"hide": ("CDRSB",)}, "hide"),
        ({"seed": 4}, "seed 3 -> 4"),
        ({"start": "stage 1"}, "start"),
        (other_age, "subjects changed"),
        (other_validation, "subjects changed"),
        (other_split, "subjects changed"),
        (other_order, "subjects changed"),
        (other_volumes, "volumes made up -> others"),
        ("code", "code changed"),
    ],
)
@pytest.mark.fault(
    "a training that was begun with other settings, subjects, volumes, weights or code",
    "It is neither continued nor taken for finished: the next start says what changed, and begins "
    "anew.",
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_training_is_never_continued(
    subjects, tmp_path, begun, capsys, monkeypatch, change, said, finished
):
    class Decided(Exception):
        pass

    folder, changes = begun(finished), {}
    if change == "code":
        monkeypatch.setattr(training.files, "code_digest", lambda *modules: "0" * 32)
    elif callable(change):
        change(*subjects)
    else:
        changes = change
    if "start" in changes:
        changes = {"start": tmp_path / "model.safetensors"}
        inference.save_weights(Memoir(), changes["start"])

    def decided(*arguments):
        raise Decided

    monkeypatch.setattr(training.Scaler, "fit", decided)
    capsys.readouterr()
    with pytest.raises(Decided):
        train(2, subjects, folder, **changes)
    out = capsys.readouterr().out
    assert "made anew" in out and said in out and "resumed" not in out
    assert not folder.exists()


def test_test_subjects_do_not_belong_to_the_identity(subjects, tmp_path, capsys):
    train(1, subjects, tmp_path / "x")
    table, volumes = subjects
    table.loc[table["split"] == "test", "AGE"] += 1
    train(1, (table, volumes), tmp_path / "x")
    assert "already trained" in capsys.readouterr().out


def test_a_finished_training_is_returned_at_once(subjects, tmp_path, capsys, monkeypatch):
    history = train(2, subjects, tmp_path / "x")
    with monkeypatch.context() as patch:
        patch.setattr(training, "Memoir", None)
        again = train(2, subjects, tmp_path / "x")
    pd.testing.assert_frame_equal(history, again, check_exact=True)
    assert "already trained with these settings" in capsys.readouterr().out
    path = tmp_path / "x" / "best.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    train(2, subjects, tmp_path / "x")
    assert "best.safetensors is damaged" in capsys.readouterr().out
    assert path.read_bytes() == whole
    assert json.loads((tmp_path / "x" / "settings.json").read_text())["settings"]["seed"] == 3


@pytest.mark.fault(
    "a bit of a training's state changed on the disk",
    "The next start says so, and goes on from the epoch before, or from the beginning; the end is "
    "the same.",
)
@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_state_is_noticed(subjects, tmp_path, stop_in, capsys, damaged):
    whole = train(2, subjects, tmp_path / "whole", epochs=3)
    stop_in(3)
    with pytest.raises(KeyboardInterrupt):
        train(2, subjects, tmp_path / "x", epochs=3)
    stop_in(0)
    states = sorted((tmp_path / "x" / ".state").iterdir(), reverse=True)
    for path in states[:damaged]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    history = train(2, subjects, tmp_path / "x", epochs=3)
    out = capsys.readouterr().out
    assert "is damaged" in out and ("resumed after epoch001" in out) == (damaged == 1)
    assert same(last(2, tmp_path / "x"), last(2, tmp_path / "whole"))
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), whole.drop(columns="seconds"))


# --- several processes ------------------------------------------------------------------


def _one_rank(rank, world, folder, z, present):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    rows = slice(rank * len(z) // world, (rank + 1) * len(z) // world)
    own = z[rows].clone().requires_grad_()
    loss = PairwiseInfoNCE()(gather(own), gather(present[rows]))
    loss.backward()
    keep = masking_gate(present[rows], torch.Generator().manual_seed(1))
    dx3 = gather(torch.arange(len(z))[rows])
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
    # not "fork": of a process whose threads have worked, a copy may wait for them for ever
    multiprocessing.set_forkserver_preload(["memoir_core.training"])
    told = _one_rank, (2, str(tmp_path), z, present)
    torch.multiprocessing.start_processes(*told, nprocs=2, start_method="forkserver")
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.allclose(part["loss"], loss, atol=1e-6) for part in parts)
    assert torch.allclose(torch.cat([p["grad"] for p in parts]), whole.grad, atol=1e-6)
    keep = masking_gate(present, torch.Generator().manual_seed(1))
    assert torch.equal(torch.cat([part["keep"] for part in parts]), keep)
    assert all(torch.equal(part["dx3"], torch.arange(8)) for part in parts)
