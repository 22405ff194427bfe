"""Answers of language models to a plan of questions: made once per model, or read from a file."""

import gc
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
from tqdm import tqdm

from memoir_core import files, llm, vqa

from . import experts, onednn, weights
from .messages import say
from .weights import Backbone, Weights

BATCH = 8  # prompts at a time


class NoRoom(MemoryError):
    """A model that does not fit into memory: a chapter goes on without it."""


def precision(backbone: Backbone, share: float) -> str:
    """How a model's weights are held; below 95 % in 4 bit it is not called NF4."""
    if backbone.quantisation != "nf4":
        return "un-quantised"
    return "NF4" if share >= 0.95 else f"{share:.0%} of the weights in 4 bit"


def cut_context(loaded: llm.Loaded, row: dict, reserve: int = 0) -> dict:
    """Drop whole captions, the farthest first, until the prompt fits the model's window."""
    room = loaded.window - (reserve or llm.new_tokens(loaded, row["options"]))
    encode = loaded.tokenizer
    while row["context"] and len(encode(llm.as_chat(loaded, row["prompt"])).input_ids) > room:
        shown = row["context"][:-1]
        prompt = vqa.build_prompt(row["kind"], row["case"], row["caption"], shown)
        row = {**row, "context": shown, "prompt": prompt}
    return row


def answer_plan(
    plan: Sequence[dict], folder: Path, backbone: Backbone, found: Weights,
    device: str = "cpu", adapter: str | Path = "",
) -> tuple[list[dict], dict]:  # fmt: skip
    """Let one model answer the whole plan, once, and free its memory.

    `folder` receives answers.jsonl, a row per question, and speed.json, what they cost; both are
    returned. Finished answers of the same weights, adapter, quantisation and device to the same
    plan are read back. A model that does not fit into memory raises `NoRoom`; a MemoryError says
    what to do where the GPU is too small for the prompts.
    """
    settings: dict = {"weights": found.sha256, "quantisation": backbone.quantisation}
    settings |= {"chat": backbone.chat, "device": device}
    settings |= {"adapter": files.checksum(Path(adapter)) if adapter else ""}
    settings |= {"plan": files.digest([*plan]), "code": files.code_digest(llm, vqa)}
    if not files.is_finished(folder, settings):
        load = llm.load_4bit if backbone.quantisation == "nf4" else llm.load
        try:
            loaded = load(found.path, device, chat=backbone.chat, adapter=adapter)
        except (MemoryError, torch.OutOfMemoryError) as error:
            what = f"{backbone.title} does not fit into memory on {device}: skipped"
            raise NoRoom(what) from error
        share, memory = experts.four_bit_share(loaded.model), loaded.model.get_memory_footprint()
        if share and device == "cpu":
            # Else a CPU unpacks them for every product; the numbers are the same, in more memory
            with weights.quiet():
                loaded.model.dequantize()
        if device == "cpu":
            onednn.use(loaded.model.requires_grad_(False))
        cut = [cut_context(loaded, row) for row in plan]
        # Each prompt once: five equal labels, say, are the same when they are shuffled.
        first = {row["prompt"]: i for i, row in reversed([*enumerate(cut)])}
        # Prompts of one kind and about one length together, of whatever protocol: fewer batches.
        order = sorted(first.values(), key=lambda i: (cut[i]["kind"], len(cut[i]["prompt"]), i))
        groups = [list(g) for _, g in groupby(order, lambda i: cut[i]["kind"])]
        batches = [g[i : i + BATCH] for g in groups for i in range(0, len(g), BATCH)]
        began, found_at = time.perf_counter(), dict[int, dict]()
        try:
            for part in tqdm(batches, desc=folder.name, unit="batch"):
                prompts, options = [cut[i]["prompt"] for i in part], cut[part[0]]["options"]
                found_at |= zip(part, llm.answer_batch(loaded, prompts, options), strict=True)
            made = [found_at[first[row["prompt"]]] for row in cut]
            seconds = max(time.perf_counter() - began, 1e-6)
            # What a model prefers where the prompt says nothing.
            prior = dict[str, dict]()
            for kind in dict.fromkeys(row["kind"] for row in plan):
                empty, options = vqa.build_prompt(kind, 0, "N/A"), vqa.QUESTIONS[kind][1]
                (prior[kind],) = llm.answer_batch(loaded, [empty], options, most=1)
        except torch.OutOfMemoryError as error:
            words = {"name": folder.name, "file": __file__, "batch": BATCH}
            raise MemoryError(say("GPU memory ran out", **words)) from error
        tokens = sum(answer["tokens"] + answer["prompt_tokens"] for answer in found_at.values())
        kept, whole = (sum(len(row["context"]) for row in rows) for rows in (cut, plan))
        speed: dict = {"questions": len(plan), "seconds": round(seconds, 1)}
        speed |= {"tokens_per_second": round(tokens / seconds, 1)}
        speed |= {"load_seconds": round(loaded.load_seconds, 1)}
        speed |= {"memory_mib": round(memory / 2**20), "four_bit_share": round(share, 4)}
        speed |= {"weights_held": precision(backbone, share), "captions_cut": whole - kept}
        speed["truncated"] = sum(answer["truncated"] for answer in made)
        rows = [
            {"id": row["id"], **a, "prior": prior[row["kind"]]["log_likelihood"]}
            | {"cases_used": [case for case, _, _ in row["context"]], "note": vqa.NOTE}
            for row, a in zip(cut, made, strict=True)
        ]
        files.write_jsonl(folder / "answers.jsonl", rows)
        files.write_json(folder / "speed.json", speed)
        files.finish(folder, settings)
        del loaded  # the next model needs the memory
        gc.collect()
        torch.cuda.empty_cache()
    return files.read_jsonl(folder / "answers.jsonl"), files.read_json(folder / "speed.json")


def read_answers(path: Path, plan: Sequence[dict]) -> list[dict]:
    """Read what any other program answered to plan.jsonl, rows {id, answer}, in its order.

    A ValueError names a row that lacks a field, and ids that are not those of the plan, each once.
    """
    rows = files.read_jsonl(path)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not {"id", "answer"} <= row.keys():
            raise ValueError(f'{path}, line {number} is not {{"id": "..", "answer": ".."}}')
    asked, given = Counter(row["id"] for row in plan), Counter(row["id"] for row in rows)
    for what, ids in (("unknown or repeated", given - asked), ("missing", asked - given)):
        if ids:
            some = ", ".join(map(repr, [*ids][:3]))
            raise ValueError(say("ids of a plan", path=path, n=len(ids), what=what, some=some))
    said = {row["id"]: {"answer": row["answer"]} for row in rows}
    return [said[row["id"]] for row in plan]
