"""The look before a run: what stops it, what is a note, and what was measured."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from memoir_book import artefacts, doctor, weights
from memoir_core import config


def by(found):
    return {(f.what, f.level): f for f in found}


def test_a_sound_machine_has_nothing_to_mend(runs, tiny_folders, capsys):
    assert doctor.main(["--profile", "smoke", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "FAIL" not in text and "Nothing found that would stop profile smoke" in text
    assert "no run of profile smoke yet" in text  # no time is invented


def test_missing_packages_fail_and_other_versions_are_noted(monkeypatch):
    real = doctor.version

    def changed(name):
        if name == "monai":
            raise PackageNotFoundError(name)
        return "0.1" if name == "numpy" else real(name)

    monkeypatch.setattr(doctor, "version", changed)
    found = by(doctor.versions())
    assert "monai==" in found["packages", "fail"].found
    assert "numpy 0.1 (pinned" in found["packages", "note"].found
    assert doctor.examine(config.PROFILES["smoke"])[-1].what == "packages"  # and looks no further


def test_a_full_disk_and_a_folder_without_rights_fail(runs, monkeypatch):
    full = SimpleNamespace(free=10**6)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: full)
    found = by(doctor.machine(config.PROFILES["smoke"], "cpu"))
    assert found["disk, runs", "fail"].mend.startswith("free some space")
    monkeypatch.setattr(doctor.os, "access", lambda folder, mode: False)
    found = by(doctor.machine(config.PROFILES["smoke"], "cpu"))
    assert found["disk, cache", "fail"].mend == "set MEMOIR_CACHE"


def test_a_gpu_that_is_not_there_fails(runs, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert doctor.main(["--profile", "smoke", "--device", "cuda"]) == 1
    assert "torch sees no GPU" in capsys.readouterr().out


def test_missing_models_fail_only_where_nothing_can_fetch_them(monkeypatch):
    monkeypatch.setattr(weights, "fingerprint", lambda name: "")
    levels = {}
    for offline in ("0", "1"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        found = doctor.models(config.PROFILES["paper"])
        levels[offline] = {f.what: f.level for f in found}
    assert levels["0"]["model minilm"] == "note" and levels["1"]["model minilm"] == "fail"
    assert set(levels["1"].values()) == {"note", "fail"}
    assert levels["1"]["model mistral-7b"] == "note"  # a stand-in takes its place
    assert levels["1"]["model cross-encoder"] == "note"  # one is trained


def test_data_is_looked_at(tiny, tmp_path):
    profile = config.PROFILES["smoke"]
    (found,) = doctor.data(profile, str(tiny.run.data_dir))
    assert found.level == "ok" and "24 subjects" in found.found
    (found,) = doctor.data(profile, str(tmp_path / "nowhere"))
    assert found.level == "fail"
    (found,) = doctor.data(profile, str(tmp_path))
    assert found.level == "fail" and "ADNIMERGE.csv: is missing" in found.found


def test_times_come_from_results_files(runs):
    run = artefacts.start_chapter("01", profile="smoke", run="r", device="cpu")
    artefacts.save_results(run, {})
    (found,) = doctor.measured(config.PROFILES["smoke"])
    assert "run r: 1 of 11 chapters took" in found.found and "on cpu" in found.found
    (found,) = doctor.measured(config.PROFILES["quick"])
    assert found.level == "note"


@pytest.mark.parametrize("module", ["doctor"])
def test_it_starts_without_the_packages_that_it_looks_for(module):
    code = (
        "import sys\n"
        "for name in ('numpy', 'torch', 'pandas', 'psutil'): sys.modules[name] = None\n"
        f"import memoir_core.{module}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
