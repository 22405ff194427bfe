"""The manifest: what was made from what, on a small book of two chapters and no kernel."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import fakebook
import pytest

from memoir_book import chapters, manifest, run, store
from memoir_core.files import DamagedFileError, MissingArtefactError


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Two chapters; `work` plays one as its notebook would."""
    fakebook.write(tmp_path)
    fakebook.open_here(monkeypatch.setattr, tmp_path)
    monkeypatch.delenv("MEMOIR_RUNS", raising=False)
    monkeypatch.delenv("MEMOIR_CACHE", raising=False)
    return tmp_path


def work(number, text="one", **parameters):
    parameters = {"profile": "smoke", "run": "r", "device": "cpu"} | parameters
    opened = store.start_chapter(number, **parameters)
    name = {"1": "first", "2": "second"}[number]
    opened.path(f"{name}.txt").write_text(text)
    store.save_results(opened, {})
    store.end_chapter(opened)
    page = opened.path("notebooks", f"{opened.chapter}.ipynb")
    page.parent.mkdir(exist_ok=True)
    page.write_text("{}")
    manifest.add_artefact(opened.dir, opened.chapter, f"notebooks/{page.name}")
    return opened


def why(number, **own):
    """What the runner says of a chapter: '' is up to date."""
    found = store.find_run("smoke", "r", "", None)[1]
    common = {"run": "r", "data_dir": found["data"], "device": "auto"} | found
    return run.out_of_date(chapters.get_chapter(number), common, own)


def test_images_on_another_disk_are_looked_at_too(book):
    """`intake adni` leaves them where they are and lists whole paths; others link a folder."""
    disk = book / "disk"
    disk.mkdir()
    for name in ("whole.nii", "linked.nii"):
        (disk / name).write_bytes(b"brain")
    (book / "adni" / "there").symlink_to(disk)
    (book / "adni" / "images.csv").write_text(
        f"PTID,VISCODE,t1_path,fa_path\n9,bl,{disk}/whole.nii,\n8,bl,there/linked.nii,\n"
    )
    work("1", data_dir=str(book / "adni"))
    for name in ("whole.nii", "linked.nii"):
        assert why("1") == ""
        (disk / name).write_bytes(b"other")
        assert "images changed" in why("1")
        (disk / name).write_bytes(b"brain")


def test_a_chapter_is_current_until_something_it_depends_on_changes(book):
    work("1", data_dir=str(book / "adni"))
    work("2")
    assert why("1") == "" and why("2") == ""
    assert "epochs 2 -> 5" in why("1", epochs=5)
    assert "drop_fa" in why("1", drop_fa=0.5)
    (book / "memoir_core" / "tool.py").write_text("value = 2\n")
    assert "memoir_core/tool.py" in why("1") and why("2") == ""
    (book / "memoir_core" / "tool.py").write_text("value = 1\n")
    for change in (
        lambda p: p.write_bytes(b"an image with the same name and length"[:5]),
        lambda p: p.unlink(),
        lambda p: (p.write_bytes(b"brain"), (p.parent / "b.nii").write_bytes(b"more")),
    ):
        stamp = (book / "adni" / "ADNIMERGE.csv").stat()
        change(book / "adni" / "a.nii.gz")
        os.utime(book / "adni", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert "images changed" in why("1")
    (book / "adni" / "b.nii").unlink()
    assert why("1") == ""


def test_what_was_made_from_something_older_is_not_read(book):
    work("1", data_dir=str(book / "adni"))
    work("2")
    work("1", "two")  # chapter 1 anew: what chapter 2 made is stale
    assert "first.txt" in why("2")
    opened = work("1", "one")
    assert why("2") == ""  # the same content again: nothing has changed
    opened.path("first.txt").write_text("another run's")
    with pytest.raises(DamagedFileError, match=r"(?s)first\.txt.*--only 01"):
        store.start_chapter("2", profile="smoke", run="r", device="cpu")


def test_a_missing_input_names_all_that_must_run_first(book):
    with pytest.raises(MissingArtefactError, match=r"(?s)first\.txt.*--to 01"):
        store.start_chapter("2", profile="smoke", run="new", device="cpu")


@pytest.mark.fault(
    "one flipped bit in any artefact of a chapter, or in the manifest",
    "The next chapter does not start; the message names the file and gives the command "
    "that makes it again. `python -m memoir_book.run` runs the earlier chapter again by "
    "itself.",
)
def test_one_flipped_bit_anywhere_is_named(book):
    opened = work("1", data_dir=str(book / "adni"))
    for name in ("first.txt", "manifest.json"):
        path = opened.path(name)
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            for bit in (0x01, 0x80):
                torn = bytearray(whole)
                torn[at] ^= bit
                path.write_bytes(torn)
                with pytest.raises(DamagedFileError, match=name):
                    store.start_chapter("2", profile="smoke", run="r", device="cpu")
        path.write_bytes(whole)
    store.start_chapter("2", profile="smoke", run="r", device="cpu")


def test_the_remedy_for_a_damaged_manifest_works(book):
    opened = work("1", data_dir=str(book / "adni"))
    opened.path("manifest.json").unlink()
    assert why("1") == "new"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pretrained": "maybe"}, "pretrained='maybe': True or False"),
        ({"pretrained": 0}, "pretrained=0"),
        ({"epochs": 2.5}, "epochs=2.5: a whole number"),
        ({"epochs": -1}, "epochs=-1 must lie between"),
        ({"epochs": True}, "epochs=True"),
        ({"drop_fa": 1.5}, "drop_fa=1.5 must lie between 0 and 1"),
        ({"drop_fa": float("nan")}, "drop_fa=nan"),
        ({"seed": 2**32}, f"seed={2**32} must lie between 0 and {2**32 - 1}"),
        ({"run": ".."}, "run='..' must be a plain folder name"),
        ({"run": "../x"}, "plain folder name"),
        ({"run": "a\nb"}, "plain folder name"),
        ({"run": ".hidden"}, "plain folder name"),
        ({"run": "-rf"}, "plain folder name"),
        ({"run": "x" * 300}, "plain folder name"),
        ({"profile": "huge"}, "profile='huge' is unknown"),
        ({"epoch": 3}, "no parameter epoch"),
        ({"device": "tpu"}, "device='tpu' is unknown"),
    ],
)
def test_parameters_are_checked(book, given, said):
    with pytest.raises(ValueError, match=said.replace("..", r"\.\.")):
        store.start_chapter("1", **{"profile": "smoke", "device": "cpu"} | given)
    assert not list((book / "runs").glob("*/first.txt")) and not (book / "notebooks/x").exists()


def test_words_of_the_command_line_are_understood(book):
    opened = store.start_chapter(
        "1", profile="smoke", run=20241125, device="cpu", pretrained="false", drop_fa=0, epochs="3"
    )
    assert opened.name == "20241125"
    assert opened.parameters == {"epochs": 3, "pretrained": False, "drop_fa": 0.0}
    assert store.start_chapter("1", device="cpu").parameters["epochs"] == 2  # as the profile says


def test_an_empty_run_is_the_one_made_last(book):
    first = store.start_chapter("1", device="cpu")
    assert (first.name, first.profile.name, first.seed) == ("smoke-seed0", "smoke", 0)
    quick = store.start_chapter("1", profile="quick", seed=7, device="cpu")
    assert quick.name == "quick-seed7"
    again = store.start_chapter("1", device="cpu")
    assert (again.name, again.profile.name, again.seed) == ("quick-seed7", "quick", 7)


@pytest.mark.fault(
    "the clock goes back, or stands still",
    "The run made last is the one that was written to last; trainings, locks and manifests look at "
    "no clock.",
)
@pytest.mark.parametrize("back", [0, 3600])
def test_the_run_made_last_does_not_hang_on_the_clock(book, monkeypatch, back):
    made = []

    def at(path, value, real=manifest.files.write_json):
        real(path, value)
        now = (2_000_000_000 - back * len(made)) * 10**9
        made.append(path)
        os.utime(path, ns=(now, now))

    monkeypatch.setattr(manifest.files, "write_json", at)
    for name in ("c", "a", "d", "b"):
        store.start_chapter("1", profile="smoke", run=name, device="cpu")
        assert store.start_chapter("1", device="cpu").name == name
    assert len(made) == 4


def test_a_download_may_move(book):
    work("1", data_dir=str(book / "adni"))
    (book / "adni").rename(book / "moved")
    opened = store.start_chapter("2", run="r", data_dir=str(book / "moved"), device="cpu")
    assert opened.data_dir == book / "moved" and why("1") == ""


def test_a_run_keeps_its_settings(book):
    work("1", data_dir=str(book / "adni"))
    for other in ({"seed": 1}, {"profile": "quick"}):
        with pytest.raises(manifest.RunMismatchError, match=next(iter(other))):
            store.start_chapter("1", **{"run": "r", "device": "cpu"} | other)
    assert store.start_chapter("1", run="r", device="cpu").data_dir == book / "adni"


def test_a_relative_runs_folder_lies_in_the_checkout(book, monkeypatch):
    monkeypatch.setenv("MEMOIR_RUNS", "elsewhere")
    monkeypatch.chdir(book / "adni")
    assert chapters.runs_dir() == book / "elsewhere"


def test_without_the_checkout_nothing_is_written(book, monkeypatch):
    monkeypatch.setattr(chapters, "ROOT", book / "site-packages")
    with pytest.raises(FileNotFoundError, match="checkout"):
        chapters.runs_dir()


def test_real_data_are_their_owners_only(book):
    mask = os.umask(0o022)
    try:
        opened = work("1", data_dir=str(book / "adni"))
        assert not opened.synthetic
        assert opened.dir.stat().st_mode & 0o777 == 0o700
        assert opened.path("first.txt").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(mask)


def test_results_say_what_made_them(book):
    opened = work("1", data_dir=str(book / "adni"), drop_fa=0.5)
    found = json.loads(opened.path("results", "01_first.json").read_text())["provenance"]
    assert found["parameters"]["drop_fa"] == 0.5 and found["device"] == "cpu"
    record = manifest.read_manifest(opened.dir)["chapters"]["01_first"]
    assert record["parameters"]["drop_fa"] == 0.5
    assert {"threads", "versions", "device", "weights", "reads", "code"} <= record.keys()


def test_identities_do_not_hang_on_the_hash_seed():
    """Sets of words come in another order in each process."""
    code = (
        "import json; from memoir_book import chapters, manifest\n"
        "print(json.dumps(manifest.code_of(chapters.get_chapter('10'))))"
    )
    said = set()
    for seed in "12":
        how = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=how, capture_output=True, text=True, check=True)
        said.add(done.stdout)
    assert len(said) == 1 and "memoir_book/report.py" in said.pop()


def test_weights_are_part_of_a_chapter(book, monkeypatch):
    opened = work("1", data_dir=str(book / "adni"))
    found = manifest.read_manifest(opened.dir)
    found["chapters"]["01_first"]["weights"] = {"minilm": {"fingerprint": "old"}}
    manifest.write_manifest(opened.dir, found)
    from memoir_book import weights

    monkeypatch.setattr(weights, "fingerprint", lambda *_: "old")
    assert why("1") == ""
    monkeypatch.setattr(weights, "fingerprint", lambda *_: "new")
    assert "minilm" in why("1")


def test_another_download_under_one_name_is_refused(book):
    work("1", data_dir=str(book / "adni"))
    second = replace(chapters.CHAPTERS[1], download="tables")
    with pytest.MonkeyPatch.context() as patch:
        for room in (chapters, manifest, run):
            patch.setattr(room, "CHAPTERS", (chapters.CHAPTERS[0], second))
        (book / "adni" / "ADNIMERGE.csv").write_text("PTID\nsomebody else\n")
        with pytest.raises(manifest.RunMismatchError, match="tables"):
            store.start_chapter("2", run="r", device="cpu")
