"""A run handed on as one file: the same in another place, and nothing else gets in or out."""

import io
import json
import tarfile
import time
from pathlib import Path

import pytest

from memoir_book import manifest, packs, run
from memoir_core import files
from synthetic_adni import write

VOLUMES = "volumes/2x2x2-abc"


def write_all(folder, contents):
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def make_run(root, name="r", cohort="synthetic", data=""):
    """As much of a run as a pack looks at: artefacts, a training, volumes, a download."""
    folder, cache = root / "runs" / name, root / "cache"
    write_all(folder, {"stage1/model.safetensors": "weights", "stage1/history.csv": "epoch\n1\n"})
    files.finish(folder / "stage1", {"epochs": 1})
    write_all(cache / VOLUMES, {"t1.npy": "volumes"})
    files.finish(cache / VOLUMES, {"shape": 2})
    artefacts = {"results/01_cohort.json": "{}", "text_encoder/a/config.json": "{}"}
    artefacts["volumes.json"] = json.dumps({"folder": VOLUMES})
    write_all(folder, artefacts | {".lock": "", "notes.txt": "mine", "stage1/.state/new": "half"})
    kept = [*artefacts, "text_encoder", "stage1/model.safetensors"]
    kept.remove("text_encoder/a/config.json")
    record = {"cohort": cohort, "reads": {}, "run": name}
    record["artefacts"] = {artefact: files.checksum(folder / artefact) for artefact in kept}
    told = {"profile": "smoke", "seed": 0, "data": data, "chapters": {"01_cohort": record}}
    manifest.write_manifest(folder, told)
    download = cache / "synthetic" / "smoke-72"
    tables = {
        "ADNIMERGE.csv": "PTID\n941_S_9001\n",
        "images.csv": "t1_path,fa_path\nimages/a.nii.gz,\n",
    }
    write_all(download, tables | {"images/a.nii.gz": "brain"})
    marker = {
        "tables": write._sums(download),
        "volumes": write._volumes(download, ["images/a.nii.gz"]),
    }
    write_all(download, {write.MARKER: json.dumps(marker)})
    return folder


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two machines: `here` is where the run was made; `there(name)` goes to another one."""

    def go(name):
        monkeypatch.setenv("MEMOIR_RUNS", str(tmp_path / name / "runs"))
        monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / name / "cache"))
        return tmp_path / name

    monkeypatch.chdir(tmp_path)
    make_run(go("here"))
    return go


def tree(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_a_run_is_the_same_in_another_place(places, tmp_path, capsys):
    assert run.main(["pack"]) == 0
    assert "r.tar: 13 files" in capsys.readouterr().out
    there = places("there")
    make_run(there, "older")  # a reader's own, with its own cache
    write_all(there / "cache" / VOLUMES, {"t1.npy": "mine"})
    time.sleep(0.01)
    assert run.main(["unpack", "r.tar"]) == 0
    mine = {
        n
        for n in tree(tmp_path / "here" / "runs" / "r")
        if n.startswith((".", "notes", "stage1/."))
    }
    wanted = {n: t for n, t in tree(tmp_path / "here" / "runs" / "r").items() if n not in mine}
    assert tree(there / "runs" / "r") == wanted and len(mine) == 3
    assert (there / "cache" / VOLUMES / "t1.npy").read_text() == "mine", "what is there stays"
    newest = max((there / "runs").glob("*/manifest.json"), key=lambda p: p.stat().st_mtime_ns)
    assert newest.parent.name == "r", "chapters go on with it"
    assert run.main(["unpack", "r.tar"]) == 1
    assert "runs/r is there already; give another name by --run" in capsys.readouterr().err
    assert run.main(["unpack", "r.tar", "--run", "again"]) == 0
    assert tree(there / "runs" / "again") == wanted


def test_a_pack_tells_of_no_owner_and_is_the_same_each_time(places, tmp_path):
    assert run.main(["pack", "r"]) == run.main(["pack", "r", "--out", "again.tar"]) == 0
    assert (tmp_path / "r.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    with tarfile.open("r.tar") as tar:
        assert {(m.uid, m.uname, m.mtime, m.isreg()) for m in tar} == {(0, "", 0, True)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: make_run(f.parents[1], cohort="ADNI"), "no whole run on the synthetic cohort"),
        (lambda f: make_run(f.parents[1], data="/data"), "no whole run on the synthetic cohort"),
        (lambda f: (f / "volumes.json").write_text("{}"), "volumes.json is not the one that its"),
        (lambda f: (f / "results/01_cohort.json").unlink(), "01_cohort.json"),
        (lambda f: (f / "stage1/history.csv").write_text("2"), "history.csv is damaged or missing"),
        (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json is damaged"),
        (lambda f: (f.parents[1] / "cache" / VOLUMES / "t1.npy").unlink(), "t1.npy is damaged"),
        (
            lambda f: write_all(f.parents[1] / "cache/synthetic/smoke-72", {"more.csv": "PTID"}),
            "no whole run on the synthetic cohort",
        ),
    ],
)
def test_only_whole_synthetic_runs_are_packed(places, tmp_path, capsys, change, said):
    change(tmp_path / "here" / "runs" / "r")
    assert run.main(["pack", "r"]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "r.tar").exists()


def test_a_run_that_is_not_there_is_not_made(places, tmp_path, capsys):
    assert run.main(["pack", "absent"]) == 1
    assert "no whole run" in capsys.readouterr().err
    assert not (tmp_path / "here" / "runs" / "absent").exists()


def rewrite(change):
    """Write the pack anew; `change` gets its members (name -> content) and the open tar file."""
    with tarfile.open("r.tar") as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}
    with tarfile.open("bad.tar", "w:") as tar:
        change(members, tar)
        for name, content in members.items():
            add(tar, name, content)


def add(tar, name, content=b"", **told):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in told.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def of_manifest(**changed):
    """A manifest whose own checksum is right, as whoever makes up a pack can write one."""

    def change(members, tar):
        told = json.loads(members["run/manifest.json"])
        told.pop("checksum")
        told |= changed
        told["checksum"] = files.digest(json.dumps(told))
        members["run/manifest.json"] = json.dumps(told).encode()

    return change


def of_marker(volume, table=""):
    def change(members, tar):
        place = "cache/synthetic/smoke-72/"
        marker = json.loads(members[place + write.MARKER])
        marker["volumes"][volume] = "0"
        if table:
            members[place + "images.csv"] = f"t1_path,fa_path\n{table},\n".encode()
            marker["tables"]["images.csv"] = write._sum(members[place + "images.csv"])
        members[place + write.MARKER] = json.dumps(marker).encode()

    return change


CHAPTER = {"cohort": "synthetic", "reads": {}, "artefacts": {}}
LINKS = {"linkname": "../../../secret"}
HOSTILE = {
    "a parent folder": lambda m, tar: add(tar, "run/../../../../evil.txt", b"x"),
    "a parent folder of the cache": lambda m, tar: add(tar, "cache/volumes/../../evil.txt", b"x"),
    "a root": lambda m, tar: add(tar, f"{Path.cwd()}/evil.txt", b"x"),
    "a drive": lambda m, tar: add(tar, "C:\\evil.txt", b"x"),
    "a backslash": lambda m, tar: add(tar, "run/..\\evil.txt", b"x"),
    "a control character": lambda m, tar: add(tar, "run/a\x1b[2J", b"x"),
    "a hidden file": lambda m, tar: add(tar, "run/.bashrc", b"x"),
    "another part of the cache": lambda m, tar: add(tar, "cache/models/x/evil.json", b"x"),
    "a symbolic link": lambda m, tar: add(tar, "run/link", type=tarfile.SYMTYPE, **LINKS),
    "a link for a folder": lambda m, tar: add(tar, "run/stage1", type=tarfile.SYMTYPE, **LINKS),
    "a hard link": lambda m, tar: add(tar, "run/link", type=tarfile.LNKTYPE, **LINKS),
    "a pipe": lambda m, tar: add(tar, "run/pipe", type=tarfile.FIFOTYPE),
    "a device": lambda m, tar: add(tar, "run/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "a sparse file": lambda m, tar: add(tar, "run/big", type=tarfile.GNUTYPE_SPARSE),
    "a file that nothing lists": lambda m, tar: m.update({"run/results/evil.py": b"x"}),
    "a file less": lambda m, tar: m.pop("run/stage1/history.csv"),
    "an artefact less": lambda m, tar: m.pop("run/volumes.json"),
    "no manifest": lambda m, tar: m.pop("run/manifest.json"),
    "nothing": lambda m, tar: m.clear(),
    "other weights": lambda m, tar: m.update({"run/stage1/model.safetensors": b"WEIGHTS"}),
    "other volumes": lambda m, tar: m.update({f"cache/{VOLUMES}/t1.npy": b"VOLUMES"}),
    "another image": lambda m, tar: m.update({"cache/synthetic/smoke-72/images/a.nii.gz": b"x"}),
    "a file as a folder": lambda m, tar: add(tar, "run/results", b"x"),
    "real people": of_manifest(chapters={"01_cohort": CHAPTER | {"cohort": "ADNI"}}),
    "a data folder": of_manifest(data="/home"),
    "an artefact elsewhere": of_manifest(
        chapters={"01_cohort": CHAPTER | {"artefacts": {"../../secret": "0"}}}
    ),
    "a device as artefact": of_manifest(
        chapters={"01_cohort": CHAPTER | {"artefacts": {"/dev/zero": "0"}}}
    ),
    "no chapters": of_manifest(chapters={}),
    "chapters of another shape": of_manifest(chapters=[1]),
    "artefacts of another shape": of_manifest(chapters={"01_cohort": CHAPTER | {"artefacts": 1}}),
    "a marker that leads out": of_marker("../../../secret"),
    "a table that leads out": of_marker("images/a.nii.gz", "/dev/zero"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_or_damaged_pack_writes_nothing(places, tmp_path, capsys, what):
    assert run.main(["pack"]) == 0
    rewrite(HOSTILE[what])
    there = places("there")
    (there / "runs").mkdir(parents=True)
    write_all(tmp_path, {"secret": "mine"})
    before = tree(tmp_path)
    assert run.main(["unpack", "bad.tar"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "\x1b" not in said and said.count("\n") == 1
    assert tree(tmp_path) == before and not [*(there / "runs").iterdir()]


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5])
def test_half_a_file_and_no_pack_at_all_are_refused(places, tmp_path, capsys, share):
    assert run.main(["pack"]) == 0
    whole = (tmp_path / "r.tar").read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[: int(len(whole) * share)])
    there = places("there")
    assert run.main(["unpack", "half.tar"]) == 1
    assert "half.tar" in capsys.readouterr().err and not tree(there)


def test_a_compressed_one_is_refused_since_it_could_grow(places, tmp_path, capsys):
    with tarfile.open("bomb.tar", "w:gz") as tar:
        add(tar, "run/manifest.json", b"0" * 10**7)
    places("there")
    assert run.main(["unpack", "bomb.tar"]) == 1
    assert "bomb.tar is not as `pack` writes it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../evil", "compare", "con", "a/b", ".hidden"])
def test_a_run_gets_a_plain_name(places, capsys, name):
    assert run.main(["pack"]) == 0
    assert run.main(["unpack", "r.tar", "--run", name]) == 1
    assert "must be a plain folder name" in capsys.readouterr().err


def test_what_fails_half_way_leaves_nothing_and_the_same_command_goes_on(
    places, capsys, monkeypatch
):
    assert run.main(["pack"]) == 0
    there, move = places("there"), packs.shutil.move

    def fail(source, target):
        if source.name == "smoke-72":
            raise OSError(28, "No space left on device")
        return move(source, target)

    monkeypatch.setattr(packs.shutil, "move", fail)
    assert run.main(["unpack", "r.tar"]) == 1
    assert "no space left" in capsys.readouterr().err
    assert not (there / "runs" / "r").exists()
    monkeypatch.setattr(packs.shutil, "move", move)
    assert run.main(["unpack", "r.tar"]) == 0
    assert packs.whole(there / "runs" / "r", "run")
