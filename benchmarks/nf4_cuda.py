"""Language models in NF4 on a GPU, by the book's own code: `python benchmarks/nf4_cuda.py`.

Nobody's weights are needed: all are random. Two questions:

- same: tiny models of the three published classes, in 4 bit, against dense ones whose every
  matrix was rounded to NF4 and back; how far do the likelihoods of the options differ? Beside
  it, on the CPU: how far does arithmetic in bf16 move those of the dense ones?
- speed: a model of the published sizes of Mistral 7B answers prompts with five cases, in NF4 and
  un-quantised. What a random model says is noise, and it never ends its turn: each answer has all
  the tokens that it may have.

Chapter 9 shows what it writes: book/reference/nf4_cuda.json.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM

from memoir_book import chapters, experts, store
from memoir_book.answers import BATCH, answer_plan
from memoir_book.weights import BACKBONES, Weights
from memoir_core import files, llm, vqa
from memoir_core.captions import caption_rows

sys.path.append(str(chapters.ROOT / "tests"))
import tinyllm

OUT = chapters.ROOT / "book" / "reference" / "nf4_cuda.json"
MISTRAL_7B: dict[str, Any] = {  # as published with Mistral-7B-Instruct-v0.3
    "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1e6,
    "max_position_embeddings": 32768, "sliding_window": None,
}  # fmt: skip


def make_plan(questions: int) -> list[dict]:
    """Diagnosis questions about made-up subjects, each with five train cases."""
    cohort, rng = tinyllm.cohort(), np.random.default_rng(0)
    rows = {row["case"]: row for row in caption_rows(cohort)}
    labels = dict(zip(cohort["case"], cohort["DX"], strict=True))
    train = cohort.loc[cohort["split"] == "train", "case"].to_numpy()
    plan = []
    for case in cohort["case"][:questions]:
        near = rng.choice(train[train != case], 5, replace=False).tolist()
        shown = [(c, rows[c]["caption"], labels[c]) for c in near]
        asked = case, "blind", rows[case]["caption_blind"], shown, labels[case]
        plan.append(vqa.question("diagnosis", *asked))
    return plan


def largest_gap(one: list[dict], other: list[dict]) -> float:
    """Largest difference in a log-likelihood of an option."""
    both = [(a["log_likelihood"], b["log_likelihood"]) for a, b in zip(one, other, strict=True)]
    return max(abs(a[name] - b[name]) for a, b in both for name in vqa.DX)


def dense_rounded(folder: Path, device: str, dtype: torch.dtype | None = None) -> llm.Loaded:
    """A dense model whose every matrix was rounded to NF4 and back."""
    dense = llm.load(folder, device, chat=True, dtype=dtype)
    for weight in dense.model.get_decoder().layers.parameters():
        if weight.ndim > 1:
            how: dict[str, Any] = {"compress_statistics": True, "quant_type": "nf4"}
            back = dequantize_4bit(*quantize_4bit(weight.data.float(), **how))
            weight.data.copy_(back.to(weight.dtype))
    return dense


def rounding(scratch: Path) -> dict[str, Any]:
    """How far bf16 moves the likelihoods of the dense tiny models, against fp32."""
    prompts = [row["prompt"] for row in make_plan(8)]
    gaps: dict[str, Any] = {"device": "CPU", "torch": version("torch")}
    for key in tinyllm.PUBLISHED:
        folder = tinyllm.save_published(scratch / key, key)
        one, other = (
            llm.answer_batch(dense_rounded(folder, "cpu", dtype), prompts, vqa.DX, most=8)
            for dtype in (torch.float32, torch.bfloat16)
        )
        gaps[key] = largest_gap(one, other)
    return gaps


def compare_classes(device: str, scratch: Path) -> dict[str, Any]:
    """Tiny models of the published classes: 4 bit, rounded by hand, and as they are."""
    found, prompts = {}, [row["prompt"] for row in make_plan(8)]
    for key in tinyllm.PUBLISHED:
        folder = tinyllm.save_published(scratch / key, key)
        four, dense = llm.load_4bit(folder, device, chat=True), llm.load(folder, device, chat=True)
        by_hand = dense_rounded(folder, device)
        full, rounded, quantised = (
            llm.answer_batch(loaded, prompts, vqa.DX, most=8) for loaded in (dense, by_hand, four)
        )
        found[key] = {
            "class": type(four.model).__name__,
            "four_bit_share": experts.four_bit_share(four.model),
            "gap_to_rounded": largest_gap(quantised, rounded),
            "gap_to_unquantised": largest_gap(quantised, full),
        }
        print(key, found[key], flush=True)
    return found


def save_mistral(folder: Path, layers: int, device: str) -> None:
    """A random model of the published sizes, with the tests' tokenizer."""
    _, template, marks = tinyllm.PUBLISHED["mistral-7b"]
    tinyllm.tokenizer(template, *(m for m in marks if m != "<eos>")).save_pretrained(folder)
    sizes = MISTRAL_7B | {"num_hidden_layers": layers, "eos_token_id": 1, "bos_token_id": 2}
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = MistralForCausalLM(MistralConfig(**sizes, pad_token_id=0))
    finally:
        torch.set_default_dtype(usual)
    model.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder, max_shard_size="5GB")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--layers", type=int, default=32, help="of the large model (published: 32)")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--rounding", action="store_true", help="only that part, into --out")
    parser.add_argument("--note", default="", help="what else the machine did, for the record")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    device = store.resolve_device(options.device)
    cuda = device.startswith("cuda")
    speeds: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        moved = rounding(scratch / "cpu")
        if options.rounding:
            files.write_json(options.out, files.read_json(options.out) | {"bf16": moved})
            return 0
        classes = compare_classes(device, scratch)
        save_mistral(scratch / "mistral", options.layers, device)
        found = Weights("mistral-7b", scratch / "mistral", "path", revision="random")
        plan = make_plan(options.questions)
        for how in ("nf4", "none"):
            backbone = BACKBONES["mistral-7b"]._replace(quantisation=how)
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            _, speed = answer_plan(plan, scratch / how, backbone, found, device)
            said = files.read_jsonl(scratch / how / "answers.jsonl")
            speed["prompt_tokens"] = float(np.mean([row["prompt_tokens"] for row in said]))
            speed["written_tokens"] = float(np.mean([row["tokens"] for row in said]))
            speed["written_per_second"] = sum(r["tokens"] for r in said) / speed["seconds"]
            speed["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
            speeds[speed.pop("weights_held")] = speed
            print(how, speed, flush=True)
    where = {
        "weights": "random, of the published classes and sizes",
        "layers": options.layers,
        "batch": BATCH,
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "beside": options.note,
        "made": date.today().isoformat(),
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda}
        | {name: version(name) for name in ("torch", "transformers", "bitsandbytes")},
    }
    whole = {"provenance": where, "same": classes, "speed": speeds, "bf16": moved}
    files.write_json(options.out, whole)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
