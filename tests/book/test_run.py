"""The runner and the pages, on a small book with real kernels."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fakebook
import pytest
from filelock import FileLock

from memoir_book import manifest, pages, run, store

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1]


TORCH = "def manual_seed(seed): pass\ndef get_num_threads(): return 1\n"


def open_book(tmp_path, monkeypatch):
    fakebook.write(tmp_path)
    fakebook.open_here(monkeypatch.setattr, tmp_path)
    monkeypatch.setenv("FAKEBOOK", str(tmp_path))
    # Kernels start five times as fast with what a run asks of torch.
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'stub'}:{HERE}:{SOURCE}")
    monkeypatch.setenv("MEMOIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache"))
    for name in ("01_first", "02_second"):  # the module is in the fake checkout, not installed
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.write_text(path.read_text().replace("from memoir_core import tool", "x = 1 #"))
    return tmp_path


@pytest.fixture
def book(tmp_path, monkeypatch):
    return open_book(tmp_path, monkeypatch)


def start(*options):
    return run.main(["--profile", "smoke", "--run", "r", "--device", "cpu", *options])


def made(book):
    return [r["made"] for r in manifest.read_manifest(book / "runs" / "r")["chapters"].values()]


def test_unchanged_chapters_are_skipped_and_changed_ones_run_again(book, capsys):
    assert start() == 0
    first = made(book)
    left = book / "runs" / "r" / ".manifest.json.99999999.partial"  # killed at its last step
    left.mkdir()
    assert start() == 0 and made(book) == first and not left.exists()
    assert capsys.readouterr().out.count("up to date") == 2

    assert start("--param", "epochs=4") == 0
    assert "epochs 2 -> 4" in capsys.readouterr().out
    second = made(book)
    assert second[0] > first[0] and second[1] > first[1], "the second reads what the first left"

    (book / "runs" / "r" / "first.txt").write_text("damaged")
    assert start("--param", "epochs=4") == 0
    third = made(book)
    assert third[0] > second[0] and third[1] == second[1], "the same text as before"

    assert start("--only", "2", "--force") == 0
    assert made(book)[1] > third[1]


def test_a_failing_chapter_is_named_with_cell_and_error(book, capsys):
    fakebook.write_notebook(book / "notebooks" / "02_second.ipynb", "x = 1\nraise KeyError('DX')")
    assert start() == 1
    message = capsys.readouterr().err
    assert str(book / "notebooks" / "02_second.ipynb") in message
    assert "KeyError: 'DX'" in message and "cell" in message
    assert (book / "runs" / "r" / "notebooks" / "02_second.failed.ipynb").exists()
    assert [*manifest.read_manifest(book / "runs" / "r")["chapters"]] == ["01_first"]


def test_a_chapter_that_does_not_end_properly_fails(book, capsys):
    fakebook.write_notebook(book / "notebooks" / "01_first.ipynb", "pass")
    assert start() == 1
    assert "did not call end_chapter" in capsys.readouterr().err
    code = fakebook.FIRST.replace("from memoir_core import tool", "").replace("first.txt", "x.txt")
    fakebook.write_notebook(book / "notebooks" / "01_first.ipynb", code, fakebook.OWN)
    assert start() == 1
    assert "did not write first.txt" in capsys.readouterr().err


def test_chapters_before_are_asked_for_at_once(book, capsys):
    assert start("--only", "2") == 1
    assert "--to 01" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--param", "epoch=3"], "01_first: epochs, pretrained, drop_fa"),
        (["--param", "epochs=many"], "a whole number is expected"),
        (["--param", "drop_fa=1.5"], "must lie between 0 and 1"),
        (["--param", "pretrained=maybe"], "True or False"),
        (["--param", "epochs"], "must look like NAME=VALUE"),
        (["--param", "seed=3"], "use the option --seed"),
        (["--only", "02", "--param", "epochs=3"], "02_second: none of its own"),
        (["--from", "2", "--to", "1"], "lies after"),
        (["--only", "12"], "chapter '12' is unknown"),
        (["--only", "1", "--to", "2"], "cannot be combined"),
        (["--data", "nowhere"], "is not a folder"),
        (["--run", ".."], "plain folder name"),
        (["--run", "CON"], "plain folder name"),  # no folder of Windows
        (["--run", "Compare"], "plain folder name"),  # some disks know no case
        (["--run", "../../outside"], "plain folder name"),
        (["--seed", "4294967296"], "seed"),
    ],
)
def test_bad_arguments_are_explained_before_anything_is_written(book, capsys, arguments, message):
    before = sorted(book.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert sorted(book.rglob("*")) == before


def test_a_second_runner_on_the_same_folder_is_refused(book, capsys):
    (book / "runs" / "r").mkdir(parents=True)
    with FileLock(book / "runs" / "r" / ".lock"):
        assert start() == 1
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


# --- pages ------------------------------------------------------------------------------


def settings(data=""):
    return {"profile": "smoke", "seed": 0, "data": data}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, made once."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        open_book(root, patch)
        assert start() == 0
    return root


@pytest.fixture
def finished(whole, tmp_path, monkeypatch):
    book = shutil.copytree(whole, tmp_path / "copy")
    fakebook.open_here(monkeypatch.setattr, book)
    monkeypatch.setenv("FAKEBOOK", str(book))
    monkeypatch.setenv("PYTHONPATH", f"{book / 'stub'}:{HERE}:{SOURCE}")
    monkeypatch.setenv("MEMOIR_RUNS", str(book / "runs"))
    monkeypatch.setenv("MEMOIR_CACHE", str(book / "cache"))
    for name in ("headline", "times"):
        monkeypatch.setattr(pages, name, lambda folder: "")
    monkeypatch.setattr(pages.codepages, "write_pages", lambda source: None)
    return book


def test_a_book_shows_one_whole_run(finished):
    pages.lay_out("r", settings())
    shown = finished / "book" / "chapters"
    assert json.loads((shown / "02_second.ipynb").read_text())["metadata"]["memoir"]["run"] == "r"
    (shown / "99_other.ipynb").write_text("a page of another run")
    pages.lay_out("r", settings())
    assert not (shown / "99_other.ipynb").exists()
    assert run.main(["--profile", "smoke", "--run", "half", "--to", "1", "--device", "cpu"]) == 0
    with pytest.raises(FileNotFoundError, match=r"(?s)chapter 02.*--run half"):
        pages.lay_out("half", settings())
    page = json.loads((shown / "02_second.ipynb").read_text())
    assert page["metadata"]["memoir"]["run"] == "r", "a refusal changes nothing"


def test_a_page_that_was_changed_by_hand_is_refused(finished):
    (finished / "runs" / "r" / "notebooks" / "01_first.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="is not the page that the run left"):
        pages.lay_out("r", settings())


def test_pages_of_real_data_stay_in_their_run(finished, capsys):
    data = finished / "adni"
    (data / "SYNTHETIC.json").write_text("{}")  # a copied marker protects nobody
    mask = os.umask(0o022)
    try:
        code = run.main(
            ["--profile", "smoke", "--run", "own", "--device", "cpu", "--data", str(data)]
        )
    finally:
        os.umask(mask)
    assert code == 0 and not store.is_synthetic(settings(str(data)))
    for name in ("_toc.yml", "_config.yml"):
        (finished / name).write_bytes((SOURCE / name).read_bytes())
    for name in ("_ext", "_static"):
        (finished / "book" / name).mkdir(parents=True)
    source, out = pages.lay_out("own", settings(str(data)))
    assert source.is_relative_to(finished / "runs" / "own")
    assert out.is_relative_to(finished / "runs" / "own")
    assert not (finished / "book" / "chapters").exists()
    config = (source / "_config.yml").read_text()
    assert pages.PRIVATE in config and "noindex" in config
    text = (source / "book" / "chapters" / "01_first.ipynb").read_text()
    assert str(data) not in text
    assert (finished / "runs" / "own").stat().st_mode & 0o077 == 0
