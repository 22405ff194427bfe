"""What somebody else gives us runs no command: values of make, sweep files, workflows."""

import json
import os
import re
import shutil
import subprocess

import pytest

from memoir_book import chapters

ROOT = chapters.ROOT
LOG = '#!/bin/sh\nfor part in "$@"; do printf "[%s]" "$part"; done >> log\necho >> log\n'
VALUES = [
    *("/data/my adni", "/data/O'Brien", '/data/a"b', "/data/$HOME", "/data/$$HOME", "/data/Дані"),
    *("/data/a`touch PWN`", "/data/$(touch PWN)", "/data/$(shell touch PWN)", "/data/x; touch PWN"),
    *("/data/a#b", 'x"; touch PWN; "', "/data/a\\", "/data/%s$@"),
]


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose Python writes down what it is given."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "python").write_text(LOG)
    (tools / "python").chmod(0o755)
    for name in ("pyproject.toml", *(path.name for path in ROOT.glob("requirements*"))):
        (tmp_path / name).touch()
    for name in ("installed", "ready"):
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def make(folder, target, **values):
    """What the programs of a target are given, a line each; and that nothing else was made."""
    (folder / "log").unlink(missing_ok=True)
    given = [f"{name}={value}" for name, value in values.items()]
    done = subprocess.run(
        ["make", "-s", target, *given], cwd=folder, capture_output=True, text=True, check=False
    )
    assert not list(folder.rglob("PWN*")), values
    assert done.returncode == 0, done.stderr
    return (folder / "log").read_text()


@pytest.mark.parametrize("value", VALUES)
def test_values_of_make_reach_programs_as_they_are(checkout, value):
    said = make(checkout, "book", DATA=value, RUN=value, WEIGHTS=value, PROFILE=value, SEED=value)
    first, second = said.splitlines()
    for line in (first, second):
        for option in ("data", "run", "profile", "seed"):
            assert f"[--{option}][{value}]" in line, line
    assert f"[--param][weights={value}]" in first
    assert f"[--device][{value}]" in make(checkout, "doctor", DEVICE=value)
    assert f"[--run][{value}]" in make(checkout, "html", RUN=value)


def test_values_from_the_environment_reach_programs_as_they_are(checkout, monkeypatch):
    monkeypatch.setenv("DATA", "/data/$(touch PWN) `touch PWN` $HOME")
    assert "[--data][/data/$(touch PWN) `touch PWN` $HOME]" in make(checkout, "book")


def test_a_sweep_gives_the_shell_nothing_but_quoted_words():
    """Snakemake's `:q` quotes each part of a list; nothing else is put into a command."""
    text = (ROOT / "Snakefile").read_text(encoding="utf-8")
    commands = re.findall(r"^    +shell:\n +(.*)\n", text, re.MULTILINE)
    assert len(commands) == text.count("shell:") == 2
    assert all(command.startswith('"{params.command:q}"') for command in commands)


@pytest.fixture
def snakemake():
    path = f"{ROOT}/.venv/sweep/bin:{os.environ['PATH']}"
    return shutil.which("snakemake", path=path) or pytest.skip("see requirements-sweep.txt")


def test_a_sweep_file_runs_no_command(checkout, snakemake, monkeypatch):
    monkeypatch.setenv("MEMOIR_RUNS", str(checkout / "the runs"))
    value = '`touch PWN` $(touch PWN) O\'Brien "x"; touch PWN'
    sweep = {"base": {"visit": value}}
    given = {"data": value, "python": str(checkout / ".venv" / "bin" / "python"), "to": "01"}
    given |= {"sweep": sweep, "device": value}
    (checkout / "sweep.json").write_text(json.dumps(given))
    command = [snakemake, "-j1", "--snakefile", str(ROOT / "Snakefile"), "--latency-wait", "0"]
    command += ["--configfile", "sweep.json"]
    subprocess.run(command, cwd=checkout, capture_output=True, check=False)
    assert not list(checkout.rglob("PWN*"))
    said = (checkout / "log").read_text()
    assert f"[--data][{value}]" in said and f"[--param=visit={value}]" in said
    assert f"[--device][{value}]" in said


def test_a_sweep_with_a_name_that_is_no_folder_is_refused(checkout, snakemake):
    command = [snakemake, "-n", "--snakefile", str(ROOT / "Snakefile"), "--config"]
    command += ['sweep={"../../x":{}}']
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode and "must be a plain folder name" in done.stdout + done.stderr
