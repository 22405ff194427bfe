"""The search behind chapter 4's recipe: what a variant changes, and what its table refuses."""

import importlib.util
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

from memoir_core.losses import PairwiseInfoNCE
from memoir_core.volumes import Volumes

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "encoder_search.py"
ROW = {"variant": "book", "epochs": 8, "seed": 0, "profile": "quick", "cohort": "synthetic, seed 0"}


@pytest.fixture(scope="module")
def search():
    spec = importlib.util.spec_from_file_location("encoder_search", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_is_made_once_and_a_table_holds_one_cohort(search, tmp_path):
    out = tmp_path / "new" / "table.csv"
    assert not search.is_there(out, ROW)
    search.add_row(out, ROW)
    assert search.is_there(out, ROW) and not search.is_there(out, ROW | {"seed": 1})
    assert not search.is_there(out, ROW | {"variant": "wide"})
    search.add_row(out, ROW | {"seed": 1})
    for other in ({"profile": "smoke"}, {"cohort": "ADNI, seed 0"}):
        with pytest.raises(ValueError, match="give another --out"):
            search.add_row(out, ROW | other)
    assert pd.read_csv(out)["seed"].tolist() == [0, 1]


def test_names_join_and_clash(search):
    words, changes = search.changes_of("batch32+lr1e-3")
    assert words == "batches of 32; learning rate 1e-3"
    assert changes == {"batch_size": 32, "lr": 1e-3}
    with pytest.raises(ValueError, match="lr cannot be changed twice"):
        search.changes_of("lr1e-3+lr1e-4")


def test_a_name_that_the_core_does_not_have_stops_its_variant(search, monkeypatch, capsys):
    gone = {"gone": ("a name of yesterday", {"memoir_core.training.NO_SUCH_NAME": 0})}
    monkeypatch.setattr(search, "VARIANTS", gone)
    for name in ("read_manifest", "load_cohort", "load_volumes"):
        made = {"profile": "smoke", "seed": 0, "data": ""}
        monkeypatch.setattr(search, name, lambda *a, found=made: found)
    row = mock.Mock()
    monkeypatch.setattr(search, "add_row", row)
    assert search.main(["--run", "x", "--device", "cpu", "--out", "none.csv"]) == 1
    assert "gone: NOT TRIED" in capsys.readouterr().out and not row.called


def test_only_the_books_recipe_may_be_that_of_chapter_4(search, tmp_path, monkeypatch):
    """It is handed to the training, which knows whether code, data and sizes are its own."""
    (tmp_path / "history.csv").write_text("epoch")
    handed = []
    train = lambda cohort, volumes, folder, **sizes: handed.append([*folder.glob("*")])  # noqa: E731
    monkeypatch.setattr(search.training, "train_stage1", train)
    for name in ("book", "lr1e-3", "still"):
        search.train_variant(search.changes_of(name)[1], None, None, {"lr": 1}, tmp_path)
    search.train_variant({}, None, None, {"lr": 1}, tmp_path / "none")
    assert [[file.name for file in found] for found in handed] == [["history.csv"], [], [], []]


def test_moved_together_is_one_movement(search, monkeypatch):
    seen = []
    monkeypatch.setattr(
        search, "augment", lambda x, noise: seen.append(torch.rand(3, generator=noise))
    )
    together, noise = search.TogetherMoved(), torch.Generator().manual_seed(0)
    for _ in range(4):
        together(torch.zeros(1), noise)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2])


def test_fa_per_volume_forgets_the_gain(search):
    fa = np.random.default_rng(0).random((2, 4, 4, 4)).astype(np.float16)
    fa[0, 0] = 0
    fa[1] = fa[0] * np.float16(0.5)
    given = Volumes(fa, fa, np.ones((4, 4, 4), bool), np.arange(2), pd.DataFrame(), "a")
    scaled = search.fa_per_volume(given)
    np.testing.assert_allclose(scaled.fa[0], scaled.fa[1], atol=2e-2)
    assert (scaled.fa[:, 0] == 0).all() and scaled.fa[0, 1:].std() == pytest.approx(1, abs=0.01)
    assert scaled.digest != given.digest and given.fa is fa and scaled.t1 is given.t1


def test_one_scale_learns_one_number_and_decay_reaches_everything(search):
    criterion = search.one_scale()
    z = torch.nn.functional.normalize(torch.randn(6, 3, 8), dim=-1)
    there = torch.ones(6, 3, dtype=torch.bool)
    torch.testing.assert_close(criterion(z, there), PairwiseInfoNCE()(z, there))
    (learned,) = criterion.parameters()
    torch.nn.init.normal_(learned)
    assert criterion.log_scale.unique().numel() == 1
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "weight_decay": 0.0}]
    with mock.patch("torch.optim.AdamW", search.decay_everything):
        optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.0)
    assert optimizer.param_groups[0]["weight_decay"] == search.training.WEIGHT_DECAY > 0
