"""A finished synthetic run in one file: `python -m memoir_book.run pack RUN`, and `unpack FILE`.

A pack is a tar file of what a run's manifest lists, of its trainings and answers, and of its
volumes and download in the cache, so that any chapter may be next. It is not compressed, and so
cannot grow; it holds plain files only, and all are verified before any is moved into place.
"""

import re
import shutil
import sys
import tarfile
from pathlib import Path

from filelock import FileLock

from memoir_core import files
from memoir_core.files import atomic_path, read_json
from synthetic_adni import write

from . import chapters, manifest, store
from .messages import say

SAFE: dict = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in Python 3.11.3
ODD = (FileNotFoundError, LookupError, TypeError, AttributeError, RecursionError, tarfile.TarError)
NAME = re.compile(r"(?a)(?:run|cache/(?:volumes|synthetic)/\w[\w.-]*)(?:/\w[\w.+-]*)+")  # no '..'


def main(argv: list[str]) -> int:
    args = chapters.parser_of(f"run {argv[0]}", __doc__).parse_args(argv[1:])
    try:
        print(pack(args.run, args.out) if argv[0] == "pack" else unpack(args.file, args.run))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def pack(run: str, out: Path | None = None) -> str:
    """Write a run ('': the one made last) into one file, and say what it holds.

    ValueError or OSError: it is not synthetic, or not as its chapters left it.
    """
    name, settings = store.find_run("", run, "", None)
    folder, cache = chapters.runs_dir() / name, chapters.cache_dir()
    found = {f"run/{part}": folder / part for part in whole(folder, "run")}
    with FileLock(folder / ".lock", timeout=0):
        used = [store.data_folder(settings), cache / read_json(folder / "volumes.json")["folder"]]
        for place in used:
            short = f"cache/{place.relative_to(cache).as_posix()}"
            found |= {f"{short}/{part}": place / part for part in whole(place, short)}
        with atomic_path(out := out or Path(f"{name}.tar")) as new, tarfile.open(new, "w:") as tar:
            for short, path in sorted(found.items()):
                member = tarfile.TarInfo(short)  # of no owner and no time
                member.size = path.stat().st_size
                with open(path, "rb") as content:
                    tar.addfile(member, content)
    return f"{out}: {len(found)} files, {out.stat().st_size / 1e6:,.0f} MB"


def unpack(file: Path, run: str = "") -> str:
    """Make the run that a pack holds, called like the file unless `run` names it.

    What is in the cache already stays. ValueError or OSError where anything is odd, damaged or
    there already: then nothing has been written.
    """
    name = chapters.checked("run", run or file.stem, str, "")
    if (target := chapters.runs_dir() / name).exists():
        raise FileExistsError(say("run exists", name=name))
    with atomic_path(target) as new:
        parts = {"run": (box := new.with_name(".box")) / "run"}  # goes with the folder around it
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    if not (NAME.fullmatch(member.name) and member.isreg()) or member.sparse:
                        raise ValueError(f"{ascii(member.name)[:200]} is no plain file")
                    tar.extract(member, box, **SAFE)
            parts |= {p.relative_to(box).as_posix(): p for p in box.glob("cache/*/*")}
            for short, part in parts.items():
                there = {p.relative_to(part).as_posix() for p in part.rglob("*") if p.is_file()}
                if odd := there ^ whole(part, short):
                    raise ValueError(f"{short}/{min(odd)} is listed or there, not both")
        except (ValueError, *ODD) as error:
            raise ValueError(say("no pack", file=file, why=error)) from error
        for short, part in parts.items():
            place = new if short == "run" else chapters.cache_dir() / short.removeprefix("cache/")
            if not place.exists():
                with atomic_path(place) as moved:
                    shutil.move(part, moved)
        (new / manifest.MANIFEST).touch()  # the run made last
    return f"{target}: jupyter lab student/ goes on with any chapter"


def whole(folder: Path, short: str) -> set[str]:
    """Name the files of a part of a pack: a run, volumes, or a download. All are verified.

    ValueError or OSError where one is missing or changed, or is not of the synthetic cohort.
    """
    if short.startswith("cache/synthetic"):
        names = {write.MARKER, *write.TABLES, *read_json(folder / write.MARKER)["volumes"]}
        if not (all(NAME.fullmatch(f"run/{n}") for n in names) and write.is_synthetic(folder)):
            raise ValueError(say("no synthetic run", name=short))
        return names
    found = manifest.read_manifest(folder) if short == "run" else {}
    paths = [folder / manifest.MANIFEST] if short == "run" else []
    cohorts = {record["cohort"] for record in found.get("chapters", {}).values()}
    if short == "run" and (cohorts != {"synthetic"} or found["data"]):
        raise ValueError(say("no synthetic run", name=folder.name))
    for name, (wanted, maker) in manifest.current(found).items():
        if not NAME.fullmatch(f"run/{name}"):
            raise ValueError(f"the manifest lists {ascii(name)[:200]}")
        manifest.verify(path := folder / name, wanted, f"run chapter {maker[:2]} again")
        paths += path.rglob("*") if path.is_dir() else [path]
    for path in folder.rglob(files.SETTINGS):  # of trainings, adapters, answers, volumes
        if why := files.damage(path.parent):
            raise ValueError(why)
        paths += [path, *(path.parent / name for name in read_json(path)["files"])]
    return {p.relative_to(folder).as_posix() for p in paths if p.is_file() and p.name[0] != "."}
