"""Look before a run (`make doctor`): versions, memory, disk, models and data.

Exit code 1 only for what would make the run fail. Nothing is downloaded or changed.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from memoir_core.config import PROFILES, Profile  # others need packages, which may be missing

from . import chapters

Finding = tuple[str, str, str]  # 'ok', 'note' or 'fail'; what was looked at; what was found


def versions() -> list[Finding]:
    """Compare Python and the installed packages with requirements.txt."""
    tested = sys.version_info[:2] == (3, 11)
    found = [("ok" if tested else "note", "Python", f"{sys.version.split()[0]} (tested: 3.11)")]
    text = (chapters.ROOT / "requirements.txt").read_text(encoding="utf-8")
    for name, pinned in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE):
        try:
            installed = version(name).split("+")[0]  # +cpu is torch's build
            if installed != pinned.split("+")[0]:
                found.append(("note", name, f"{installed}; tested was {pinned}"))
        except PackageNotFoundError:
            found.append(("fail", name, f"{pinned} is missing; make setup"))
    return found


def machine(profile: Profile, device: str) -> list[Finding]:
    """Look at device, memory and disk, and compare them with what a profile needs."""
    import psutil

    from .store import resolve_device

    found: list[Finding] = []
    try:
        chosen, paper = resolve_device(device), profile.name == "paper"
        slow = "; paper is meant for a GPU" if paper and chosen == "cpu" else ""
        found.append(("note" if slow else "ok", "device", chosen + slow))
    except ValueError as error:
        found.append(("fail", "device", f"{error}, or install a driver and a CUDA build of torch"))
    wanted, free = (8 if profile.name == "paper" else 4), psutil.virtual_memory().available / 2**30
    text = f"{free:.1f} GiB free, about {wanted} GiB wanted"
    found.append(("ok" if free >= wanted else "note", "memory", text))
    volumes = profile.subjects * (1 + profile.fa_fraction)  # .nii.gz and float16; then a model
    cache = volumes * (2 * math.prod(profile.volume_shape) + 0.5e6) / 2**30 + 1.1
    for variable, folder, needed in (
        ("MEMOIR_CACHE", chapters.cache_dir(), cache),
        ("MEMOIR_RUNS", chapters.runs_dir(), 5),  # checkpoints of four trainings, text models
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30
        free = shutil.disk_usage(there).free / 2**30
        text = f"{folder}: {free:.1f} GiB free, up to {needed:.1f} GiB wanted"
        good = os.access(there, os.W_OK) and free >= needed - used
        mend = (
            "" if good else f"; free some space, or set {variable} to a folder that can be written"
        )
        found.append(("ok" if good else "fail", "disk", text + mend))
    return found


def models(profile: Profile) -> list[Finding]:
    """Look where each model would come from."""
    from . import weights

    found: list[Finding] = []
    names = {name.removesuffix("-nf4").removesuffix("-lora") for name in profile.llms}
    for name in ("minilm", "cross-encoder", *sorted(names)):
        stand_in = weights.SOURCES[name].stand_in or {"cross-encoder": "one trained here"}.get(name)
        if (where := weights.fingerprint(name)).startswith(name):  # else it is the stand-in's
            found.append(("ok", name, where))
        elif stand_in:
            found.append(("note", name, f"not here; the hub is asked, else {stand_in} stands in"))
        else:
            level = "fail" if os.environ.get("HF_HUB_OFFLINE", "0") != "0" else "note"
            found.append((level, name, f"not here; {weights.mend(name)}"))
    return found


def data(profile: Profile, data_dir: str) -> list[Finding]:
    """Look at the tables of a download; the images are the business of `check`."""
    from memoir_core.cohort import build_cohort, read_adnimerge

    from .intake import list_images

    if not data_dir:
        return [("ok", "data", f"synthetic, {profile.subjects} subjects; chapter 1 makes them")]
    folder, more = Path(data_dir).expanduser(), f"python -m memoir_book.check {data_dir}"
    try:
        visits, images = read_adnimerge(folder / "ADNIMERGE.csv"), list_images(folder)
        table, _ = build_cohort(visits, images, None, seed=0)
    except (ValueError, OSError) as error:
        return [("fail", "data", f"{error}\n{more} lists everything")]
    text = f"{len(table)} subjects with a T1, {table['has_fa'].sum()} of them with FA"
    return [("ok", "data", f"{text}; {more} reads the images")]


def main(arguments: list[str] | None = None) -> int:
    """Print the report; exit code 1 where something would make the run fail."""
    parser = argparse.ArgumentParser(prog="python -m memoir_book.doctor", description=__doc__)
    parser.add_argument("--profile", default="quick", choices=tuple(PROFILES))
    parser.add_argument("--data", default="", help="ADNI download (default: synthetic cohort)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)
    profile, found = PROFILES[options.profile], versions()
    if all(level != "fail" for level, *_ in found):
        found += machine(profile, options.device) + models(profile) + data(profile, options.data)
    for level, what, text in found:
        print(f"{level.upper() if level == 'fail' else level:4}  {what:<15} {text}")
    failed = sum(level == "fail" for level, *_ in found)
    print(f"{failed} to mend before" if failed else "Nothing found that would stop", profile.name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
