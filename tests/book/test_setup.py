"""`make` where Python, .venv or the checkout are not what it expects, and what `clean` spares."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from memoir_book import chapters

fault = pytest.mark.fault
# Says that it is another version, and makes of `-m venv` a folder with what make looks at.
PYTHON = f"""#!{sys.executable}
import os, pathlib, sys
if sys.argv[1] == "-c":
    sys.version_info = (3, VERSION, 0)
    exec(sys.argv[2])
made = pathlib.Path(sys.argv[-1])
print("made", *sys.argv[1:], flush=True)
(made / "bin").mkdir(parents=True, exist_ok=True)
(made / "bin" / "activate").write_text(str(made.resolve()))
(made / "pyvenv.cfg").write_text("version = 3.VERSION.0")
(made / "bin" / "python").unlink(missing_ok=True)
(made / "bin" / "python").symlink_to("/bin/true")
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what `make` reads, in a folder with a space."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for path in (chapters.ROOT / "Makefile", *chapters.ROOT.glob("requirements*")):
        shutil.copy(path, folder)
    (folder / "pyproject.toml").touch()
    return folder


def make(folder, *arguments, version=11, python=None, text=PYTHON, path=None, **how):
    python = python or folder.parent / "python"
    python.write_text(text.replace("VERSION", str(version)))
    python.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    kept["PATH"] = path or kept["PATH"]
    command = ["make", *arguments, f"PYTHON={python}"]
    return subprocess.run(
        command, cwd=folder, env=kept, capture_output=True, text=True, check=False, **how
    )


@fault(
    "`make` finds a Python that is none of 3.11 to 3.13",
    "One sentence says so, and how to name another; nothing is installed.",
)
@pytest.mark.parametrize("version", [8, 10, 14])
def test_another_python_is_named_before_anything_is_installed(checkout, version):
    done = make(checkout, "setup", version=version)
    assert done.returncode == 2 and not (checkout / ".venv").exists()
    assert (
        "The book needs Python 3.11, 3.12 or 3.13" in done.stdout and "make PYTHON=" in done.stdout
    )
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


@fault(
    "`.venv` was moved, or made by another Python, or its Python is gone",
    "`make` makes it anew before it does anything else.",
)
@pytest.mark.parametrize("why", ["moved", "another", "gone"])
def test_a_stale_environment_is_made_anew(checkout, why):
    assert make(checkout, "setup").stdout.count("made -m venv .venv") == 1
    assert "made" not in make(checkout, "setup").stdout
    if why == "moved":
        checkout = checkout.rename(checkout.with_name("elsewhere"))
    elif why == "another":
        (checkout / ".venv" / "pyvenv.cfg").write_text("version = 3.10.1")
    else:
        (checkout / ".venv" / "bin" / "python").unlink()
        (checkout / ".venv" / "bin" / "python").symlink_to("/nowhere/python3.11")
    done = make(checkout, "setup")
    assert done.returncode == 0 and "made -m venv --clear .venv" in done.stdout
    assert "made" not in make(checkout, "setup").stdout


@pytest.mark.parametrize("version", [12, 13])
def test_a_python_that_is_asked_for_replaces_another(checkout, version):
    assert make(checkout, "setup").returncode == 0
    assert "made -m venv --clear .venv" in make(checkout, "setup", version=version).stdout
    assert "made" not in make(checkout, "setup", version=version).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one build of PyTorch")
@pytest.mark.parametrize("why", ["no card", "card", "DEVICE=cuda", "not here", "nowhere"])
def test_pytorch_comes_without_cuda_where_no_card_is_seen(checkout, why):
    """From the index that this machine is set up for, else from PyTorch's own, else with CUDA."""
    tools = checkout.parent / "tools"
    tools.mkdir()
    card = "echo 'GPU 0: one'" if why == "card" else "exit 9"
    refuses = {"not here": "*+cpu*lock", "nowhere": "*+cpu*"}.get(why, "nothing")
    (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{card}\n")
    log = f'#!/bin/sh\necho "$*" >> log\ncase "$*" in {refuses}) exit 1;; esac\n'
    (tools / "pip").write_text(log)
    for tool in tools.iterdir():
        tool.chmod(0o755)
    python = checkout.parent / "python"
    asked = ["DEVICE=cuda"] if why == "DEVICE=cuda" else []
    path = f"{tools}:{os.environ['PATH']}"
    text = PYTHON.replace("/bin/true", str(tools / "pip")).replace("VERSION", "11")
    done = make(checkout, ".venv/installed", *asked, python=python, text=text, path=path)
    assert done.returncode == 0, done.stderr
    said = [line for line in (checkout / "log").read_text().splitlines() if "torch==" in line]
    assert all("+cpu -c requirements.lock" in line for line in said)
    assert len(said) == {"no card": 1, "not here": 2, "nowhere": 2}.get(why, 0)
    from_pytorch = ["--index-url https://download.pytorch.org/whl/cpu" in line for line in said]
    assert from_pytorch == [False, True][: len(said)]
    assert ("cannot be had" in done.stdout) == (why == "nowhere")


@fault("the checkout is read-only", "`make` says so in one sentence.")
def test_a_read_only_checkout_is_named(checkout):
    with tempfile.TemporaryDirectory() as open_to_all:  # pytest's own folders are closed to others
        os.chmod(open_to_all, 0o755)  # noqa: PTH101
        folder = shutil.copytree(checkout, Path(open_to_all) / "checkout")
        folder.chmod(0o555)
        as_nobody = {"user": 65534, "group": 65534} if os.getuid() == 0 else {}
        done = make(folder, "setup", python=checkout.parent / "python", **as_nobody)
        folder.chmod(0o755)
        assert done.returncode == 2 and not (folder / ".venv").exists()
        assert done.stdout.strip() == f"{folder} is read-only: copy it to where you may write"


@fault(
    "`make clean`",
    "It deletes pages and caches that chapters make again; runs and converted models stay.",
)
def test_clean_spares_runs_and_models(checkout):
    kept = ["runs/adni-paper/manifest.json", "cache/models/m/model.safetensors", "book/intro.md"]
    lost = ["runs/.test/x", "cache/volumes/x", "cache/synthetic/x", "book/_build/x", "book/code/x"]
    for name in kept + lost:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    assert make(checkout, "clean").returncode == 0
    assert [name for name in kept + lost if (checkout / name).exists()] == kept
