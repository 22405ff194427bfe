"""Look before a run (`make doctor`): versions, memory, disk and models; `check` looks at data.

Exit code 1 only for what would make the run fail. Nothing is downloaded or changed.
"""

import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from memoir_core.config import PROFILES, Profile  # others need packages, which may be missing

from . import chapters

PYTHONS = ("3.11", "3.12", "3.13")
GIB_WANTED = {"smoke": 6, "quick": 8, "paper": 40}  # of disk: volumes, checkpoints, text models


def versions() -> Iterator[tuple[str, str, str]]:
    """Compare installed packages with those that the lock names: level, name, what was found."""
    chapters.runs_dir()  # needs the checkout, and says so
    if (found := platform.python_version()).rpartition(".")[0] not in PYTHONS:
        yield "note", "Python", f"{found}; tested were {', '.join(PYTHONS)}"
    told = tomllib.loads((chapters.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = (told["dependency-groups"][name] for name in ("book", "dev", "weights"))
    text = (chapters.ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
    for wanted in sum(groups, told["project"]["dependencies"]):
        pinned = pins[name := re.split("[=<>]", wanted)[0]]
        try:
            installed = version(name).split("+")[0]  # +cpu is torch's build
            if installed != pinned.split("+")[0]:
                yield "note", name, f"{installed}; tested was {pinned}"
        except PackageNotFoundError:
            yield "fail", name, f"{pinned} is missing; make setup"


def machine(profile: Profile, device: str) -> Iterator[tuple[str, str, str]]:
    """Compare device, memory, disk and models with what a profile needs."""
    import psutil
    import torch

    from . import store, weights

    try:
        chosen = store.resolve_device(device)
        slow = profile.name == "paper" and chosen == "cpu"
        yield "note" if slow else "ok", "device", chosen + slow * "; paper is meant for a GPU"
    except ValueError as error:
        yield "fail", "device", str(error)
    free = psutil.virtual_memory().available / 2**30
    yield "ok" if free >= 4 else "note", "memory", f"{free:.1f} GiB free, about 4 GiB wanted"
    for folder in (chapters.cache_dir(), chapters.runs_dir()):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free, wanted = shutil.disk_usage(there).free / 2**30, GIB_WANTED[profile.name]
        text = f"{folder}: {free:.1f} GiB free, up to {wanted} GiB wanted"
        good = os.access(there, os.W_OK) and free >= wanted
        mend = "" if good else "; free some, or move it by MEMOIR_CACHE and MEMOIR_RUNS"
        yield "ok" if good else "fail", "disk", text + mend
    names = dict.fromkeys(weights.BACKBONES[name].weights for name in profile.llms)
    for name in ("minilm", "cross-encoder", *names):
        yield "ok", name, weights.fingerprint(name, use=profile.weights) or "not here"
    sources = {name: weights.SOURCES[name] for name in names if weights.SOURCES[name].gib}
    if not sources:
        return
    missing = [n for n in sources if not weights.fingerprint(n).startswith(f"{n} ")]
    disk = sum(sources[name].gib for name in missing)
    there = Path(weights.constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(p for p in (there, *there.parents) if p.exists())).free / 2**30
    text = f"{there}: {free:.1f} GiB free, {disk:.0f} GiB wanted for {', '.join(missing) or '-'}"
    mend = "" if free >= disk else "; free some, or move it by HF_HOME (else stand-ins)"
    yield "ok" if free >= disk else "note", "disk, models", text + mend
    # In 4 bit a quarter of what lies on the disk, word embeddings and a cache for prompts besides
    gpu = max(source.gib for source in sources.values()) * 0.3 + 2
    free = torch.cuda.mem_get_info()[0] / 2**30 if torch.cuda.is_available() else 0
    text = f"{free:.1f} GiB free, about {gpu:.0f} GiB wanted by the largest language model"
    mend = "" if free >= gpu else "; a model that does not fit is skipped, with a note"
    yield "ok" if free >= gpu else "note", "GPU memory", text + mend


def main(arguments: list[str] | None = None) -> int:
    """Print the report; exit code 1 where something would make the run fail."""
    options = chapters.parser_of("doctor", __doc__).parse_args(arguments)
    found = [*versions()]
    if not any(level == "fail" for level, *_ in found):
        found += machine(PROFILES[options.profile], options.device)
    for level, what, text in found:
        print(f"{level:4}  {what:<18} {text}")
    failed = any(level == "fail" for level, *_ in found)
    print("Mend what fails first." if failed else f"Nothing found that stops {options.profile}.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
