"""The runner, on a small book of two notebooks."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from memoir_book import artefacts, run
from memoir_core import config
from memoir_core.config import Chapter
from synthetic_adni.write import ensure_download

PARAMETERS = 'profile = "smoke"\nrun = ""\ndata_dir = ""\nseed = 0\ndevice = "auto"\n'
WRITE = (
    "import os, pathlib\n"
    "folder = pathlib.Path(os.environ['MEMOIR_RUNS']) / run\n"
    "with open(folder / 'log.txt', 'a') as log: log.write('{name}\\n')\n"
    "(folder / '{name}.txt').write_text(str({value}))"
)


def write_notebook(path, code, parameters=PARAMETERS):
    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata["language_info"] = {"name": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def book(tmp_path, monkeypatch, runs):
    chapters = (
        Chapter("01_first", "First", (), ("first.txt",)),
        Chapter("02_second", "Second", ("first.txt",), ("second.txt",)),
    )
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setattr(config, "CHAPTERS", chapters)
    monkeypatch.setattr(run, "CHAPTERS", chapters)
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "memoir_core").mkdir()
    (tmp_path / "memoir_core" / "published.json").write_text("{}")
    (tmp_path / "memoir_core" / "tool.py").write_text("value = 1\n")
    (tmp_path / "requirements.txt").write_text("")
    parameters = PARAMETERS + "epochs = 2  # passes over the data\nrate = 0.5  # step\n"
    write_notebook(
        tmp_path / "notebooks" / "01_first.ipynb",
        WRITE.format(name="first", value="epochs * rate"),
        parameters,
    )
    write_notebook(
        tmp_path / "notebooks" / "02_second.ipynb", WRITE.format(name="second", value="seed")
    )
    return tmp_path


def log(book):
    return (book / "runs" / "r" / "log.txt").read_text().split()


def test_unchanged_chapters_are_skipped_and_changed_ones_run_again(book, capsys):
    assert run.main(["--run", "r"]) == 0
    assert log(book) == ["first", "second"]
    assert (book / "book" / "chapters" / "02_second.ipynb").exists()

    assert run.main(["--run", "r"]) == 0
    assert log(book) == ["first", "second"]
    assert capsys.readouterr().out.count("up to date") == 2

    write_notebook(book / "notebooks" / "02_second.ipynb", WRITE.format(name="second", value="7"))
    assert run.main(["--run", "r"]) == 0
    assert log(book) == ["first", "second", "second"]

    (book / "runs" / "r" / "first.txt").write_text("damaged")
    assert run.main(["--run", "r"]) == 0
    assert log(book)[3:] == ["first"]  # the same text as before, so the second is still right

    assert run.main(["--run", "r", "--only", "2", "--force"]) == 0
    assert log(book)[4:] == ["second"]


def test_changing_a_parameter_reruns_what_depends_on_it(book):
    assert run.main(["--run", "r"]) == 0
    assert run.main(["--run", "r", "--param", "epochs=4", "--param", "rate=1"]) == 0
    assert (book / "runs" / "r" / "first.txt").read_text() == "4.0"
    assert log(book) == ["first", "second", "first", "second"]


def test_changing_an_imported_module_changes_the_code_hash(book):
    path = book / "notebooks" / "01_first.ipynb"
    write_notebook(path, "from memoir_core import tool")
    before = run.code_hash(path)
    (book / "memoir_core" / "tool.py").write_text("value = 2\n")
    assert run.code_hash(path) != before


def test_a_failing_chapter_is_named_with_cell_and_error(book, capsys):
    write_notebook(book / "notebooks" / "02_second.ipynb", "x = 1\nraise KeyError('DX')")
    assert run.main(["--run", "r"]) == 1
    message = capsys.readouterr().err
    assert str(book / "notebooks" / "02_second.ipynb") in message
    assert "KeyError: 'DX'" in message
    assert "cell" in message
    assert (book / "runs" / "r" / "first.txt").exists()
    assert (book / "runs" / "r" / "notebooks" / "02_second.failed.ipynb").exists()
    assert not (book / "book" / "chapters" / "02_second.ipynb").exists()


def test_a_chapter_that_does_not_write_its_artefact_fails(book, capsys):
    write_notebook(book / "notebooks" / "01_first.ipynb", "pass")
    assert run.main(["--run", "r"]) == 1
    assert "did not write first.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--param", "epoch=3"], "01_first: epochs, rate"),
        (["--param", "epochs=many"], "a value of type int is expected"),
        (["--param", "epochs"], "must look like NAME=VALUE"),
        (["--param", "seed=3"], "use the option --seed"),
        (["--only", "02", "--param", "epochs=3"], "02_second: none of its own"),
        (["--from", "2", "--to", "1"], "lies after"),
        (["--only", "12"], "chapter '12' is unknown"),
        (["--only", "1", "--to", "2"], "cannot be combined"),
        (["--data", "nowhere"], "is not a folder"),
    ],
)
def test_bad_arguments_are_explained(book, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_second_runner_on_the_same_folder_is_refused(book, capsys):
    with run.run_lock(book / "runs" / "r"):
        assert run.main(["--run", "r"]) == 1
    assert "another process is running 'r'" in capsys.readouterr().err


def test_help_starts_without_heavy_imports():
    code = (
        "import sys, memoir_book.run as r\n"
        "try: r.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'transformers', 'papermill'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--from CHAPTER" in done.stdout


def test_state_is_only_written_after_success(book):
    write_notebook(book / "notebooks" / "02_second.ipynb", "1 / 0")
    run.main(["--run", "r"])
    assert (book / "runs" / "r" / "state" / "01_first.json").exists()
    assert not (book / "runs" / "r" / "state" / "02_second.json").exists()
    assert artefacts.read_json(book / "runs" / "r" / "state" / "01_first.json")["code"]


def test_chapters_1_and_2_on_a_download_without_dti(tmp_path):
    """As the recipe makes it; the later chapters take longer than a unit test may."""
    profile = config.PROFILES["smoke"]
    source = ensure_download(
        artefacts.synthetic_dir(profile), profile.subjects, profile.fa_fraction
    )
    data = shutil.copytree(source, tmp_path / "t1-only")
    images = pd.read_csv(data / "images.csv").assign(fa_path=None)
    images.to_csv(data / "images.csv", index=False)
    options = ["--data", str(data), "--device", "cpu", "--to", "2", "--no-publish"]
    done = subprocess.run(
        [sys.executable, "-m", "memoir_book.run", "--profile", "smoke", *options],
        env=os.environ | {"MEMOIR_RUNS": str(tmp_path / "runs")},
        cwd=config.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (folder,) = (tmp_path / "runs").iterdir()
    cells = json.loads((folder / "notebooks" / "02_visualisation.ipynb").read_text())["cells"]
    printed = "".join(t for c in cells for o in c.get("outputs", ()) for t in o.get("text", ()))
    assert "no subject has an FA volume" in printed
