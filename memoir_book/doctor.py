"""Look before a run: `python -m memoir_book.doctor`, or `make doctor`.

Says which versions, memory, disk, models, data and browser were found, and what a profile
needs. Exit code 1 only for what would make the run fail.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from memoir_core import config  # the others need packages, which may be what is missing
from memoir_core.config import Profile

WEIGHTS = 70e6 * 4  # bytes of the network in float32


@dataclass(frozen=True)
class Finding:
    """One line of the report; `level` is 'ok', 'note' or 'fail'."""

    level: str
    what: str
    found: str
    mend: str = ""


def examine(profile: Profile, data_dir: str = "", device: str = "auto") -> list[Finding]:
    """Look at everything; nothing is downloaded, converted or changed."""
    found = versions()
    if any(finding.level == "fail" for finding in found):
        return found
    found += [*machine(profile, device), *models(profile)]
    return [*found, *data(profile, data_dir), browser(), *measured(profile)]


def versions() -> list[Finding]:
    """Compare Python and the installed packages with requirements.txt.

    What is missing makes a run fail; another version is a note, because it may well work.
    """
    running = ".".join(map(str, sys.version_info[:3]))
    tested = sys.version_info[:2] == (3, 11)
    mend = "" if tested else "the pinned packages were tested with Python 3.11"
    found = [Finding("ok" if tested else "note", "Python", running, mend)]
    missing, other = [], []
    lines = (config.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if re.match(r"[A-Za-z0-9_.-]+==", line)]
    for name, pinned in pins:
        try:
            installed = version(name)
        except PackageNotFoundError:
            missing.append(f"{name}=={pinned}")
            continue
        if installed.split("+")[0] != pinned.split("+")[0]:  # +cpu is torch's build
            other.append(f"{name} {installed} (pinned {pinned})")
    if missing:
        found.append(Finding("fail", "packages", f"missing: {', '.join(missing)}", "make setup"))
    if other:
        mend = "make setup, if something behaves oddly"
        found.append(Finding("note", "packages", f"other versions: {', '.join(other)}", mend))
    if not missing and not other:
        found.append(Finding("ok", "packages", f"all {len(pins)} as pinned"))
    return found


def machine(profile: Profile, device: str) -> list[Finding]:
    """Look at the device, memory and disk, and compare them with what a profile needs."""
    import psutil

    from . import artefacts

    found = []
    try:
        chosen = artefacts.resolve_device(device)
    except (ValueError, ImportError) as error:
        chosen = "cpu"
        mend = "set DEVICE=cpu, or install a driver and a CUDA build of torch"
        found.append(Finding("fail", "device", str(error), mend))
    else:
        found.append(Finding("ok", "device", _describe(chosen)))
    if chosen == "cpu" and profile.name == "paper":
        mend = "use a GPU, or PROFILE=quick"
        found.append(Finding("note", "device", "the paper profile is meant for a GPU", mend))
    needed, free = memory_needed(profile), psutil.virtual_memory().available
    short = free < needed
    found.append(
        Finding(
            "note" if short else "ok",
            "memory",
            f"{free / 2**30:.1f} GiB free, about {needed / 2**30:.0f} GiB wanted",
            "end other programs, or take a smaller profile" if short else "",
        )
    )
    for what, folder, wanted in (
        ("disk, cache", config.cache_dir(), cache_needed(profile)),
        ("disk, runs", config.runs_dir(), run_needed()),
    ):
        found.append(_disk(what, folder, wanted))
    return found


def _describe(device: str) -> str:
    if not device.startswith("cuda"):
        return f"cpu, {os.cpu_count()} cores, {platform.processor() or platform.machine()}"
    import torch

    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return f"{device}, {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"


def _disk(what: str, folder: Path, wanted: float) -> Finding:
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(there).free
    text = f"{free / 2**30:.1f} GiB free, up to {wanted / 2**30:.1f} GiB wanted"
    if not os.access(there, os.W_OK):
        variable = "MEMOIR_CACHE" if "cache" in what else "MEMOIR_RUNS"
        return Finding("fail", what, f"{there} cannot be written", f"set {variable}")
    if free < wanted - used:
        return Finding("fail", what, text, "free some space, or set MEMOIR_CACHE and MEMOIR_RUNS")
    return Finding("ok", what, text)


def cache_needed(profile: Profile) -> float:
    """Bytes of the cache: volumes, a synthetic download, the converted language model."""
    volumes = profile.subjects * (1 + profile.fa_fraction)
    return volumes * (2 * math.prod(profile.volume_shape) + 0.5e6) + 1.2e9  # float16; .nii.gz


def run_needed() -> float:
    """Bytes of a run folder: stage 1, stage 2, two more trainings for comparison, text models.

    Best and last weights of each, and of the one in progress two copies and two moments.
    """
    return (1 + 3 * 2 + 4) * WEIGHTS + 0.5e9


def memory_needed(profile: Profile) -> float:
    """Bytes of memory: the libraries and one training with its optimizer, and a batch."""
    return 4 * 2**30 + (4 * 2**30 if profile.name == "paper" else 0)


def models(profile: Profile) -> list[Finding]:
    """Look where each model would come from; nothing is fetched or converted."""
    from . import weights

    wanted = {name.removesuffix("-nf4").removesuffix("-lora") for name in profile.llms}
    found = []
    for name in ("minilm", "cross-encoder", *sorted(wanted)):
        source = weights.SOURCES[name]
        what, where = f"model {name}", weights.locate(name)
        if where:
            found.append(Finding("ok", what, where))
        elif name == "cross-encoder":
            text = "not on this machine; chapter 8 asks the hub, else trains a stand-in"
            found.append(Finding("note", what, text))
        elif source.stand_in:
            text = f"not on this machine; the hub is asked, else {source.stand_in} stands in"
            found.append(Finding("note", what, text, source.gate))
        else:
            level = "fail" if weights.offline() else "note"
            found.append(Finding(level, what, "not on this machine", weights.mend(source)))
    return found


def data(profile: Profile, data_dir: str) -> list[Finding]:
    """Look at the tables of a download; the images are the business of `check`."""
    from memoir_core import cohort

    from . import artefacts

    if not data_dir:
        folder = artefacts.synthetic_dir(profile)
        made = (folder / artefacts.SYNTHETIC_MARKER).exists()
        text = f"synthetic cohort, {profile.subjects} subjects, "
        return [Finding("ok", "data", text + ("made" if made else "chapter 1 will make it"))]
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        return [Finding("fail", "data", f"{data_dir} is not a folder", "correct DATA")]
    try:
        table, _ = cohort.build_cohort(folder, seed=0)
    except (cohort.CohortError, OSError) as error:
        mend = f"python -m memoir_book.check {data_dir} lists everything"
        return [Finding("fail", "data", str(error), mend)]
    with_fa = int(table["fa_path"].notna().sum())
    text = f"{len(table)} subjects with a T1, {with_fa} of them with FA"
    return [Finding("ok", "data", text, f"python -m memoir_book.check {data_dir} reads the images")]


def browser() -> Finding:
    """Look for a browser, which only the tests of the built site want."""
    if found := config.find_browser():
        return Finding("ok", "browser", found)
    return Finding("note", "browser", "none found", "only tests of the built site want one")


def measured(profile: Profile) -> list[Finding]:
    """Sum up what earlier runs of this profile took, from their results files."""
    from . import artefacts

    found = []
    for folder in sorted(config.runs_dir().glob("*/results")):
        try:
            stored = [artefacts.read_json(path) for path in sorted(folder.glob("*.json"))]
            same = [one for one in stored if one["provenance"]["profile"] == profile.name]
            if not same:
                continue
            seconds = sum(one["seconds"] for one in same)
            peak = max(one["peak_memory_gib"] for one in same)
            device = same[-1]["provenance"]["device"]
        except (KeyError, ValueError) as error:
            found.append(Finding("note", "measured", f"{folder} cannot be read: {error}"))
            continue
        found.append(
            Finding(
                "ok",
                "measured",
                f"run {folder.parent.name}: {len(same)} of {len(config.CHAPTERS)} chapters took "
                f"{seconds / 60:.1f} minutes and at most {peak:.1f} GiB on {device}",
            )
        )
    if not found:
        text = f"no run of profile {profile.name} yet, so no time can be given"
        found.append(Finding("note", "measured", text))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the report; exit code 1 where something would make the run fail."""
    parser = argparse.ArgumentParser(
        prog="python -m memoir_book.doctor",
        description="Look before a run: versions, device, memory, disk, models, data.",
        epilog="Exit code 1 only for what would make the run fail.",
    )
    parser.add_argument("--profile", default="quick", choices=tuple(config.PROFILES))
    parser.add_argument("--data", default="", help="ADNI download (default: synthetic cohort)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = parser.parse_args(arguments)
    profile = config.get_profile(options.profile)
    found = examine(profile, options.data, options.device)
    width = max(len(finding.what) for finding in found)
    marks = {"ok": "ok  ", "note": "note", "fail": "FAIL"}
    for finding in found:
        print(f"{marks[finding.level]}  {finding.what:<{width}}  {finding.found}")
        if finding.mend:
            print(f"{'':4}  {'':<{width}}  -> {finding.mend}")
    failed = sum(finding.level == "fail" for finding in found)
    if failed:
        print(f"\n{failed} to mend before profile {profile.name} can run.")
    else:
        print(f"\nNothing found that would stop profile {profile.name}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
