"""The look before a run: what stops it, and what is a note."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

from memoir_book import doctor
from memoir_core.config import PROFILES

SMOKE = PROFILES["smoke"]


def by(found):
    return {(what, level): text for level, what, text in found}


def test_a_sound_machine_has_nothing_to_mend(runs, capsys):
    assert doctor.main(["--profile", "smoke", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "fail  " not in text and "Nothing found that stops smoke" in text
    for what in ("device", "memory", "disk", "minilm"):
        assert f"  {what}" in text, what


def test_missing_packages_fail_and_other_versions_are_noted(monkeypatch, capsys):
    real = doctor.version

    def changed(name):
        if name == "monai":
            raise PackageNotFoundError(name)
        return "0.1" if name == "numpy" else real(name)

    monkeypatch.setattr(doctor, "version", changed)
    found = by(doctor.versions())
    assert "is missing; make setup" in found["monai", "fail"]
    assert found["numpy", "note"].startswith("0.1; tested was ")
    assert doctor.main(["--profile", "smoke"]) == 1  # and looks no further
    assert "memory" not in capsys.readouterr().out


def test_another_python_is_noted(monkeypatch):
    assert ("Python", "note") not in by(doctor.versions())
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.14.0rc1")
    said = by(doctor.versions())["Python", "note"]
    assert said == "3.14.0rc1; tested were 3.11, 3.12, 3.13"


def test_a_full_disk_and_a_folder_without_rights_fail(runs, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    assert "free some" in by(doctor.machine(SMOKE, "cpu"))["disk", "fail"]
    monkeypatch.undo()
    monkeypatch.setattr(doctor.os, "access", lambda folder, mode: False)
    assert "MEMOIR_RUNS" in by(doctor.machine(SMOKE, "cpu"))["disk", "fail"]


def test_little_memory_is_a_note(runs, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**30))
    assert "1.0 GiB free, about 4 GiB wanted" in by(doctor.machine(SMOKE, "cpu"))["memory", "note"]


def test_a_gpu_that_is_not_there_fails(runs, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "torch sees no GPU" in by(doctor.machine(SMOKE, "cuda"))["device", "fail"]
    assert ("device", "note") in by(doctor.machine(PROFILES["paper"], "cpu"))


def test_room_for_the_published_models_is_counted(runs, monkeypatch, tmp_path):
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=50 * 2**30)
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = by(doctor.machine(PROFILES["paper"], "cpu"))
    text = found["disk, models", "note"]  # 13.5 + 48.1 + 8 in all
    assert "70 GiB wanted for mistral-7b, gemma-4-26b, medgemma-1.5-4b; free some" in text
    assert "0.0 GiB free, about 16 GiB wanted" in found["GPU memory", "note"]
    assert not any(what == "disk, models" for what, _ in by(doctor.machine(SMOKE, "cpu")))


def test_it_starts_without_the_packages_that_it_looks_for():
    code = (
        "import sys\n"
        "for name in ('numpy', 'torch', 'pandas', 'psutil'): sys.modules[name] = None\n"
        "import memoir_book.doctor\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
