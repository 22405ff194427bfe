"""The runner and the pages, on a small book with real kernels."""

import contextlib
import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fakebook
import nbformat
import papermill
import pytest
from damage import flip
from filelock import FileLock

from memoir_book import kernels, manifest, pages, privacy, run, seeds, store
from memoir_core.config import get_profile
from synthetic_adni import write

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1]


TORCH = "def manual_seed(seed): pass\ndef get_num_threads(): return 1\n"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """Kernels of one process for all runs here: this book wants no other library, nor of torch more
    than a run asks of it.
    """
    stub = tmp_path_factory.mktemp("stub")
    (stub / "torch.py").write_text(TORCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{stub}:{HERE}:{SOURCE}")
        with kernels.ready("ipykernel.kernelapp") as name:
            yield name


def use(kernel, book, monkeypatch):
    """Let runs take place in a folder, with kernels that are there."""
    monkeypatch.setenv("FAKEBOOK", str(book))
    monkeypatch.setattr(kernels, "ready", lambda _: contextlib.nullcontext(kernel))
    monkeypatch.setenv("MEMOIR_RUNS", str(book / "runs"))
    monkeypatch.setenv("MEMOIR_CACHE", str(book / "cache"))


def open_book(tmp_path, monkeypatch, kernel):
    fakebook.write(tmp_path)
    fakebook.open_here(monkeypatch.setattr, tmp_path)
    use(kernel, tmp_path, monkeypatch)
    for name in ("01_first", "02_second"):  # the module is in the fake checkout, not installed
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.write_text(path.read_text().replace("from memoir_core import tool", "x = 1 #"))
    return tmp_path


@pytest.fixture
def book(tmp_path, monkeypatch, kernel):
    return open_book(tmp_path, monkeypatch, kernel)


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


def test_libraries_are_loaded_for_the_kernels_of_several_chapters_alone(book, monkeypatch):
    asked, usual = [], kernels.ready
    monkeypatch.setattr(kernels, "ready", lambda told: (asked.append(told), usual(told))[1])
    assert start("--only", "1") == start() == 0
    assert asked == ["", kernels.LIBRARIES]


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


@pytest.mark.fault(
    "the kernel of a chapter is killed, as when memory runs out",
    "The runner names the chapter, what to lower, and the notebook up to there; no traceback.",
)
def test_a_killed_kernel_is_reported_with_what_to_lower(book, capfd):
    batch = "batch_size: int = 0\n"
    killed = "import os; os.kill(os.getpid(), 9)"
    fakebook.write_notebook(book / "notebooks" / "01_first.ipynb", killed, fakebook.OWN + batch)
    assert start() == 1
    said = capfd.readouterr().err
    assert "01_first.ipynb\nits kernel was killed, as a rule for want of memory" in said
    half = get_profile("smoke").batch_size // 2
    assert f"--param batch_size={half}" in said and "Traceback" not in said
    assert (book / "runs" / "r" / "notebooks" / "01_first.failed.ipynb").exists()
    chapter, quick = fakebook.CHAPTERS[0], {"profile": "quick", "batch_size": 10}
    assert "batch_size=5 or --profile smoke --run NEW" in run.less(chapter, quick)


@pytest.mark.fault(
    "the disk is full under an executed notebook, or under the log of a run",
    "One sentence says so, and of a notebook which; nothing half stands under a final name, and "
    "with space again the same command goes on.",
)
def test_a_full_disk_under_a_notebook_or_a_log(book, capfd, monkeypatch):
    def full(source, target, *_, **__):
        Path(target).write_text('{"cells": [')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as papermill: it names no file

    with monkeypatch.context() as patch:
        patch.setattr("papermill.execute_notebook", full)
        assert start("--to", "1") == 1
    page = book / "runs" / "r" / "notebooks" / ".01_first.ipynb"
    said = capfd.readouterr().err
    assert f"No space left on device; make room, run again: '{page}'" in said
    assert [*page.parent.iterdir()] == []
    with open("/dev/full", "w", buffering=1) as log, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", log)
        assert start("--to", "1") == 1
        with contextlib.suppress(OSError):
            log.close()
    said = capfd.readouterr().err
    assert said == "error: [Errno 28] No space left on device, where this is printed (a log?)\n"
    assert start("--to", "1") == 0


@pytest.mark.fault(
    "the folder of runs belongs to another user, or is read-only",
    "One sentence names the folder; no traceback.",
)
@pytest.mark.parametrize("where", ["the folder", "the lock"])
def test_a_run_that_cannot_be_written_is_named(book, capsys, monkeypatch, where):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    if where == "the folder":
        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        monkeypatch.setattr(run, "FileLock", refuse)
    assert start() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: [Errno 13] Permission denied: ") and said.count("\n") == 1
    assert str(book / "runs" / "r") in said


@pytest.mark.fault(
    "a bit of manifest.json is flipped, and its message is followed",
    "The file is deleted and the same command given: the run ends as usual.",
)
def test_the_remedy_for_a_damaged_manifest_ends_the_run(book, capsys):
    assert start("--to", "1") == 0
    path = book / "runs" / "r" / "manifest.json"
    flip(path)
    with pytest.raises(SystemExit):
        start("--to", "1")
    said = capsys.readouterr().err
    assert f"{path} is damaged; delete it and run `python -m memoir_book.run --run r`" in said
    path.unlink()
    assert start("--to", "1") == 0 and [*manifest.read_manifest(path.parent)["chapters"]]


# --- pages ------------------------------------------------------------------------------


def settings(data=""):
    return {"profile": "smoke", "seed": 0, "data": data}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, kernel):
    """A finished run, made once."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        open_book(root, patch, kernel)
        assert start() == 0
    return root


@pytest.fixture
def finished(whole, tmp_path, monkeypatch, kernel):
    book = shutil.copytree(whole, tmp_path / "copy")
    fakebook.open_here(monkeypatch.setattr, book)
    use(kernel, book, monkeypatch)
    for name in ("headline", "times"):
        monkeypatch.setattr(pages, name, lambda folder: "")
    told = pages.told  # a made-up run has nothing for the cards
    monkeypatch.setattr(pages, "told", lambda f, part: told(f, part) if part == "findings" else "")
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


@pytest.mark.fault(
    "a run folder was moved or renamed, or its download",
    "All of it is up to date in its new place.",
)
def test_a_moved_run_goes_on(finished, capsys):
    assert start() == 0  # a copy of a run that was made elsewhere
    (finished / "runs" / "r").rename(finished / "runs" / "renamed")
    assert run.main(["--run", "renamed", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("up to date") == 4


@pytest.mark.fault(
    "the disk is full while pages are built",
    "The message names the folder; the pages of before stay, or lose their index where Jupyter "
    "Book stopped half-way.",
)
def test_a_full_disk_under_the_pages(finished, capsys, monkeypatch):
    pages.lay_out("r", settings())
    shown = finished / "book" / "chapters"
    before = sorted(path.name for path in shown.iterdir())
    index = finished / "book" / "_build" / "html" / "index.html"
    index.parent.mkdir(parents=True)
    index.touch()

    def full(source, target):
        Path(target).write_text("{")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pages.shutil, "copyfile", full)
        assert pages.main(["--run", "r"]) == 1
    said = capsys.readouterr().err
    assert "no space left on the disk (OSError); this was not changed." in said
    assert f"Free some and run again: '{shown}'" in said
    assert sorted(path.name for path in shown.iterdir()) == before and index.exists()
    assert not [*shown.parent.glob(".*")]
    monkeypatch.setattr(pages.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    assert pages.main(["--run", "r"]) == 2 and not index.exists()
    assert f"{index.parent} is not whole; is there no space?" in capsys.readouterr().err


def test_a_page_that_was_changed_by_hand_is_refused(finished):
    (finished / "runs" / "r" / "notebooks" / "01_first.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="is not what the run left"):
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
    model = source / "book" / "chapters" / "model.js"  # what a page would compute with
    assert model.read_text() == "globalThis.MEMOIR_MODEL = null;\n"
    config = (source / "_config.yml").read_text()
    assert privacy.BANNER in config and "noindex" in config
    text = (source / "book" / "chapters" / "01_first.ipynb").read_text()
    assert str(data) not in text
    paths = [finished / "runs" / "own", *(finished / "runs" / "own").rglob("*")]
    wrong = [p for p in paths if p.stat().st_mode & 0o777 != (0o700 if p.is_dir() else 0o600)]
    assert len(paths) > 20 and not wrong, "also what another process lays out for the pages"


# --- real people in no public folder ------------------------------------------------------

RECORD = "A woman of 93 with two e4 alleles"  # no pattern knows it: only the place protects it
WHO = ("137_S_4101", "20120531", "2012-05-31", "I61000", "S21000", "doe", RECORD)
RID = re.compile(r"(?<![0-9a-f.])4101(?![0-9a-f])")  # not within a clock's digits or a cell's id
SCAN = "ADNI/137_S_4101/ADNI_137_S_4101_MR_MPRAGE_20120531_S21000_I61000.nii.gz"


def execute_here(fails=""):
    """What papermill does, without a kernel, for a chapter that shows and tells of people."""

    def execute(path, out, parameters, **options):
        notebook, variables = nbformat.read(path, as_version=4), {}
        for cell in notebook.cells:
            exec(cell.source.replace("from memoir_core import tool", ""), variables)
            variables |= parameters
        scan = f"{variables['book'].data_dir}/{SCAN}"
        said = f"{RECORD} {scan} /mnt/doe/137_S_4101/m12 I61000.nii.gz RID 4101, seen 2012-05-31"
        table = f"<td>{RECORD}</td><td>137_S_4101</td><td>{scan}</td>"
        warning = f"{nbformat.__file__}:7: UserWarning: {scan}, RID 4101 of 31may2012"
        why = f"{scan} of 137_S_4101 (RID 4101, 5/31/2012) is missing; '4101' is not a score"
        outputs = [
            nbformat.v4.new_output("stream", text=said),
            nbformat.v4.new_output("stream", name="stderr", text=warning),
            nbformat.v4.new_output("display_data", {"text/html": table, "text/plain": table}),
            nbformat.v4.new_output("error", ename="E", evalue=why, traceback=["\x1b[31m", why]),
        ]
        notebook.cells[-1].outputs = outputs[: 4 if fails in path and fails else 3]
        notebook.metadata.papermill = {"parameters": dict(parameters)}
        nbformat.write(notebook, out)
        if fails and fails in path:
            raise papermill.PapermillExecutionError(1, 1, "x", "E", why, [why])

    return execute


@pytest.fixture
def quick(finished, monkeypatch):
    """A book whose chapters run here, and a download that looks real."""
    torch = SimpleNamespace(manual_seed=lambda seed: None, get_num_threads=lambda: 1)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(papermill, "execute_notebook", execute_here())
    for name in ("_toc.yml", "_config.yml"):
        (finished / name).write_bytes((SOURCE / name).read_bytes())
    shutil.copytree(finished / "adni", finished / "doe-adni")
    return finished


def named(text):
    """Which of the planted identifiers a text holds."""
    return [who for who in WHO if who in text] + ["RID"] * bool(RID.search(text))


def texts(*folders):
    """Everything that lies in some folders, as one text a file."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes().decode("utf-8", "replace") for path in paths}


@pytest.fixture
def site():
    spec = importlib.util.spec_from_file_location(
        "memoir_site", SOURCE / "book/_ext/memoir_site.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_as_sphinx(book, site, monkeypatch):
    """In place of Jupyter Book: what memoir_site does, and the sources that Sphinx ships."""

    def build(command, check):
        source, out, builder = Path(command[2]), Path(command[4]), command[7]
        private = "memoir_private: true" in (source / "_config.yml").read_text()
        html = out / "_build" / builder
        app = SimpleNamespace(srcdir=source, outdir=html, config=SimpleNamespace())
        app.builder, app.config.memoir_private = SimpleNamespace(format="html"), private
        site.refuse_others(app)
        shutil.copytree(source / "book" / "chapters", html / "_sources", dirs_exist_ok=True)
        site.copy_files(app, None)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(site, "MATHJAX", ())
    monkeypatch.setattr(site, "NOTEBOOKS", book / "notebooks")
    monkeypatch.setattr(pages, "subprocess", SimpleNamespace(run=build))


def test_no_way_leads_from_real_people_to_a_public_page(quick, site, monkeypatch, capsys):
    """Each command that the README names, and what a hurried person does by hand."""
    book, real, data = quick, quick / "runs" / "own", quick / "doe-adni"
    write.write_tables(book / "copy", 24, 0.5)
    build_as_sphinx(book, site, monkeypatch)
    assert start("--run", "own", "--data", str(data)) == 0
    page = (real / "notebooks" / "01_first.ipynb").read_text()
    assert page.count(RECORD) == 3, "shown to their owner"
    assert len(named(RECORD + SCAN)) == 6 and named("RID 4101, seen") == ["RID"]

    def public_is_clean(*ways):
        for way in ways or ([],):
            code = pages.main(way) if way else None
            public = texts(book / "book", *book.glob("*.md"))
            for path, text in public.items():
                assert not named(text), (way, path)
        return code

    ways = [["--run", "own"], ["--run", "own", "--builder", "singlehtml"], []]
    ways += [["--run", "own", "--data", str(data)], ["--profile", "smoke", "--data", str(data)]]
    public_is_clean(*filter(None, ways))
    assert RECORD in (real / "book/_build/html/_sources/01_first.ipynb").read_text()
    assert not (book / "book" / "chapters").exists() and pages.main([]) == 0
    public_is_clean(["--run", "own", "--data", str(book / "copy")])  # "the download has moved"
    assert pages.main(["--run", "r"]) == 0 and (book / "book/chapters/01_first.ipynb").exists()
    public_is_clean(*filter(None, ways), ["--run", "r"], ["--run", "r", "--builder", "singlehtml"])

    # by hand into the public pages: the next build clears them, Sphinx alone refuses them
    for cells in ("own", "by hand"):
        shutil.copy(
            real / "notebooks" / "01_first.ipynb", book / "book" / "chapters" / "01_first.ipynb"
        )
        if cells == "by hand":
            text = json.loads((book / "book/chapters/01_first.ipynb").read_text())
            text["metadata"] = {}
            (book / "book/chapters/01_first.ipynb").write_text(json.dumps(text))
        html = book / "book"
        with pytest.raises(
            site.ExtensionError, match=r"01_first\.ipynb shows what no synthetic run"
        ):
            pages.subprocess.run(
                ["jb", "build", str(book), "-", str(html), "", "", "html"], check=False
            )
        assert public_is_clean(["--run", "r"]) == 0
    # by hand into a synthetic run
    ours = book / "runs" / "r"
    for name in ("notebooks/01_first.ipynb", "results/01_first.json"):
        before = (ours / name).read_bytes()
        shutil.copy(real / name, ours / name)
        assert public_is_clean(["--run", "r"]) == 1
        assert "is not what the run left" in capsys.readouterr().err
        (ours / name).write_bytes(before)
    # run and saved in notebooks/, as JupyterLab does
    path = book / "notebooks" / "01_first.ipynb"
    shown = json.loads(path.read_text())
    cell = json.loads(page)["cells"][-1]
    shown["cells"][-1] |= {"outputs": cell["outputs"], "execution_count": 7}
    pasted = {"attachments": {"a": {"image/png": RECORD}}, "source": "![](attachment:a)"}
    shown["cells"].append({"cell_type": "markdown", "id": "a", "metadata": {}} | pasted)
    shown["metadata"]["papermill"] = {"parameters": {"data_dir": str(data)}}
    path.write_text(json.dumps(shown))
    assert public_is_clean(["--run", "r"]) == 0
    shipped = json.loads((book / "book/_build/html/notebooks/01_first.ipynb").read_text())
    texts_of = lambda book: ["".join(c["source"]) for c in book["cells"]]  # noqa: E731
    assert texts_of(shipped) == texts_of(shown)
    shown["cells"].pop()
    path.write_text(json.dumps(shown))
    with pytest.raises(ValueError, match="synthetic data"):
        monkeypatch.setattr(seeds, "HEADLINES", {"01": {}, "02": {}})
        monkeypatch.setattr(seeds.chapters, "CHAPTERS", fakebook.CHAPTERS)
        for n, name in enumerate(("own", "other")):
            if name != "own":
                shutil.copytree(real, book / "runs" / name)
            stored = book / "runs" / name / "results" / "01_first.json"
            stored.write_text(stored.read_text().replace('"seed": 0', f'"seed": {n}'))
            (stored.parent / "02_second.json").unlink(missing_ok=True)
        seeds.make_bands(["own", "other"])


def test_a_synthetic_folder_with_real_tables_in_it_is_real(finished, capsys):
    copy = finished / "copy"
    write.write_tables(copy, 24, 0.5)
    assert not store.is_private("new", settings(str(copy)))
    (copy / "ADNIMERGE.csv").write_bytes((finished / "adni" / "ADNIMERGE.csv").read_bytes())
    assert store.is_private("new", settings(str(copy))), "its marker came along"
    folder = store.open_folder("new", settings(str(copy)))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_a_real_run_keeps_of_messages_names_no_one(quick, monkeypatch, capsys):
    """In executed and in failed notebooks; the screen of whoever holds the data may name a file."""
    monkeypatch.setattr(papermill, "execute_notebook", execute_here("02_second"))
    data = quick / "doe-adni"
    assert start("--run", "own", "--data", str(data)) == 1
    assert f"{data}/{SCAN} of 137_S_4101" in capsys.readouterr().err
    for name in ("01_first.ipynb", "02_second.failed.ipynb"):
        text = (quick / "runs" / "own" / "notebooks" / name).read_text()
        outputs = json.loads(text)["cells"][-1]["outputs"]
        assert len(outputs) == 3 + ("failed" in name) and text.count(RECORD) == 3
        assert named(text) == [RECORD], (name, named(text))
        assert str(quick) not in text and "site-packages" not in text
    assert "[path]:7: UserWarning: [path], [RID] of [date]" in text


def test_warnings_of_a_public_page_show_no_path(quick):
    assert start("--run", "s", "--only", "1") == 0
    text = (quick / "runs" / "s" / "notebooks" / "01_first.ipynb").read_text()
    assert "[path]:7: UserWarning" in text and "site-packages" not in text
