"""The run folder: a chapter begins and ends here, and its results carry where they come from.

What was made from what is noted in `manifest.json`, see `manifest.py`.
"""

import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from memoir_core.config import Profile, get_profile
from memoir_core.files import MissingArtefactError, checksum, digest, read_json, write_json

from . import chapters, manifest, privacy
from .chapters import get_chapter
from .dataset import Dataset, lacks, read_dataset
from .intake import oasis
from .manifest import MANIFEST, RunMismatchError, read_manifest, write_manifest
from .messages import say

COMMON = ("profile", "run", "data_dir", "seed", "device")
FIRST: dict[str, Any] = {"profile": "smoke", "seed": 0, "data": ""}  # what '' and None stand for


@dataclass(frozen=True)
class Run:
    """One chapter of one run: settings, folder, and the label that its results carry."""

    name: str
    profile: Profile
    seed: int
    device: str
    data_dir: Path
    synthetic: bool
    chapter: str
    parameters: dict[str, Any]  # the notebook's own, with what 0 and '' stand for
    reads: dict[str, str]  # artefact -> checksum when the chapter began
    dataset: Dataset = field(default_factory=Dataset)
    weights: dict[str, dict] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def dir(self) -> Path:
        return chapters.runs_dir() / self.name

    @property
    def cohort_label(self) -> str:
        return "synthetic" if self.synthetic else self.dataset.name

    @property
    def label(self) -> str:
        """Say where a number comes from, for figure captions and tables."""
        made_on = f"{self.cohort_label} cohort, profile {self.profile.name}"
        return f"{made_on}, seed {self.seed}, {self.device}"

    def path(self, *parts: str) -> Path:
        return self.dir.joinpath(*parts)

    def use_weights(self, name: str, found: Any) -> None:
        """Note which weights (`weights.Weights`) the chapter uses where `name` was asked for."""
        keys = ("name", "origin", "revision", "sha256", "fingerprint", "use")
        self.weights[name] = {key: getattr(found, key) for key in keys}
        self.weights[name]["path"] = str(found.path) if found.origin == "path" else ""


def start_chapter(
    chapter: str, *, profile: str = "", run: str = "", data_dir: str = "",
    seed: int | None = None, device: str = "auto", **own: Any,
) -> Run:  # fmt: skip
    """Open a run folder for a chapter: check parameters and inputs, fix seeds, say what runs.

    Without any of the common parameters, the run made last goes on (a first one is smoke, seed 0,
    synthetic data); `own` are the notebook's other parameters.

    Raises ValueError or RunMismatchError for a parameter of a wrong type or out of its range, or
    not that of the run; MissingArtefactError or DamagedFileError where an input is absent, stale
    or not what was written: the message says how to make it.
    """
    spec = get_chapter(chapter)
    declared = chapters.parameters_of(spec)
    given = own | dict(zip(COMMON, (profile, run, data_dir, seed, device), strict=True))
    if unknown := set(given) - set(declared):
        raise ValueError(f"{spec.name} has no parameter {', '.join(sorted(unknown))}")
    values = {n: chapters.checked(n, given.get(n, d), kind, d) for n, (kind, d) in declared.items()}
    name, settings = find_run(*(values.pop(key) for key in COMMON[:4]))
    sizes, chosen = get_profile(settings["profile"]), resolve_device(values.pop("device"))
    folder, data = open_folder(name, settings), data_folder(settings)
    reads = manifest.check_inputs(folder, read_manifest(folder), spec, data)
    import torch
    from threadpoolctl import ThreadpoolController

    ThreadpoolController().select(prefix="libscipy_openblas").limit(limits=1)  # threads wait
    random.seed(settings["seed"])
    np.random.seed(settings["seed"])  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(settings["seed"])
    own = chapters.resolved(spec, values, asdict(sizes))
    at = (name, sizes, settings["seed"], chosen, data, is_synthetic(settings))
    book = Run(*at, spec.name, own, reads, read_dataset(data))
    print(f"{spec.number} {spec.title}: {book.label}; results in runs/{name}/")
    there = "cohort.parquet" in spec.reads  # then it is said what nobody in it has
    absent = lacks(pd.read_parquet(folder / "cohort.parquet")) if there else []
    for line in [*book.dataset.notes, *map(book.dataset.reword, absent)]:
        print(line)
    return book


def find_run(profile: str, run: str, data_dir: str, seed: int | None) -> tuple[str, dict[str, Any]]:
    """Say which run is meant, and its profile, seed and data folder ('': synthetic).

    Raises ValueError, FileNotFoundError (of the data), or RunMismatchError (other settings).
    """
    accepted = os.environ.get("MEMOIR_ACCEPT") == "yes"
    data_dir = oasis.as_download(data_dir, accepted) if data_dir else ""
    data = str(Path(data_dir).expanduser().resolve()) if data_dir else ""
    if data and not Path(data).is_dir():
        raise FileNotFoundError(f"data_dir={data_dir!r} is not a folder")
    run = chapters.checked("run", run, str, "")
    if not run and not profile and not data and seed is None:  # the run made last, if any
        made = chapters.runs_dir().glob(f"*/{MANIFEST}")
        run = max(made, key=lambda path: path.stat().st_mtime_ns, default=Path()).parent.name
    # A folder's own name may tell too much: a run is named after its hash.
    of_data = f"-data-{digest(data)[:6]}" if data else ""
    name = run or f"{profile or FIRST['profile']}-seed{seed or 0}{of_data}"
    found = read_manifest(chapters.runs_dir() / name)
    known = {key: found.get(key, first) for key, first in FIRST.items()}
    asked = {"profile": profile or known["profile"], "data": data or known["data"]}
    asked["seed"] = known["seed"] if seed is None else seed
    changed = [k for k in ("profile", "seed") if found and asked[k] != known[k]]
    changed += ["data"] if found and bool(asked["data"]) != bool(known["data"]) else []
    if changed:
        said = ", ".join(f"{key}={known[key]!r}" for key in changed)
        raise RunMismatchError(say("other settings", name=name, said=said))
    return name, asked


def resolve_device(device: str) -> str:
    """Turn 'auto' into 'cuda' where there is a GPU, else 'cpu'."""
    if device not in ("auto", "cpu") and not device.startswith("cuda"):
        raise ValueError(say("unknown device", device=device))
    import torch  # here, so that the runner and --help start fast

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(say("no GPU", device=device))
    return device


def data_folder(settings: Mapping[str, Any]) -> Path:
    """The download of a run: a given folder, or the profile's synthetic one."""
    given = settings.get("data", settings.get("data_dir"))
    sizes = get_profile(settings["profile"])
    synthetic = chapters.cache_dir() / "synthetic" / f"{sizes.name}-{sizes.subjects}"
    return Path(given) if given else synthetic


def is_synthetic(settings: Mapping[str, Any]) -> bool:
    """Are a run's tables those that the generator of the synthetic cohort wrote?"""
    from synthetic_adni import write

    return not settings["data"] or write.is_synthetic(data_folder(settings))


def is_private(name: str, settings: Mapping[str, Any]) -> bool:
    """Does a run hold real people, now, or in a chapter that was run on another data folder?"""
    known = read_manifest(chapters.runs_dir() / name).get("chapters", {}).values()
    return not is_synthetic(settings) or any(made["cohort"] != "synthetic" for made in known)


def open_folder(name: str, settings: Mapping[str, Any]) -> Path:
    """Make a run's folder and manifest where needed; one of real data is its owner's only."""
    folder = chapters.runs_dir() / name
    if is_private(name, settings):
        privacy.keep_private(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".manifest.lock"):
        found = read_manifest(folder)
        if (now := {"chapters": {}} | found | {**settings}) != found:  # a download may have moved
            write_manifest(folder, now)
    return folder


def provenance(book: Run) -> dict[str, Any]:
    """Say on what a result was computed."""
    names = ("label", "seed", "device", "parameters", "weights")
    found = {name: getattr(book, name) for name in names} | manifest.machine()
    found |= {"cohort": book.cohort_label, "run": book.name, "profile": book.profile.name}
    return found | {"made": datetime.now(UTC).isoformat()}


def save_results(book: Run, results: dict) -> Path:
    """Write a chapter's headline figures with their provenance to `results/<chapter>.json`."""
    path = book.path("results", f"{book.chapter}.json")
    spent = {"seconds": round(time.monotonic() - book.started, 1), "peak_memory_gib": peak_gib()}
    write_json(path, {"provenance": provenance(book), **spent, "results": results})
    return path


def load_results(book: Run, chapter: str) -> dict[str, Any]:
    """Read the headline figures of an earlier chapter (name or number), verified."""
    name = f"results/{get_chapter(chapter).name}.json"
    known = manifest.current(read_manifest(book.dir))
    if name not in known:
        raise MissingArtefactError(f"{book.path(name)} is missing: run chapter {chapter} first")
    manifest.verify(book.path(name), known[name][0], f"run chapter {chapter} again")
    return read_json(book.path(name))["results"]


def peak_gib() -> float:
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def end_chapter(book: Run) -> None:
    """Note in the manifest what the chapter left, and all that it depended on.

    Raises MissingArtefactError if it did not write what it promises.
    """
    spec = get_chapter(book.chapter)
    promised = [*spec.writes, f"results/{spec.name}.json"]
    if absent := [name for name in promised if not book.path(name).exists()]:
        raise MissingArtefactError(f"{spec.name} did not write {', '.join(absent)} in {book.dir}")
    reads = dict(book.reads)
    if spec.download and book.synthetic:  # chapter 1 itself makes it
        reads |= manifest.read_download(book.data_dir, spec.download)
    record = provenance(book) | {"reads": reads, "code": manifest.code_of(spec)}
    record["artefacts"] = {name: checksum(book.path(name)) for name in promised}
    with FileLock(book.dir / ".manifest.lock"):
        found = read_manifest(book.dir)
        found["chapters"][spec.name] = record
        write_manifest(book.dir, found)
    seconds = time.monotonic() - book.started
    print(f"{spec.number} took {seconds:.0f} s and at most {peak_gib():.1f} GiB of memory")
