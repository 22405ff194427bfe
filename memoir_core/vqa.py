"""Questions about a case, answered by a language model from retrieved captions.

The model never sees an image: it reads the captions of the five reranked
training cases and the query's caption without diagnosis and CDR-SB (project page,
'Retrieval-Augmented VQA Extension'). All models get the same text. Beside the
free answer, the likelihood of each allowed answer is scored, which separates a
model that formats badly from one that reasons badly.

Answers are for study only: every row carries 'not for clinical use'.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import ipaddress
import json
import os
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import torch
from huggingface_hub import InferenceClient
from tqdm import tqdm

from memoir_book import weights
from memoir_book.artefacts import (
    Run,
    atomic_path,
    seal,
    seal_weights,
    unseal,
    verify,
    verify_weights,
)

from . import config
from .captions import BANDS, PROTOCOLS, SCORE_NAMES, band
from .metrics import majority
from .precision import HALF, checked_half_type

NOTE = "not for clinical use"
MAX_NEW_TOKENS = 24  # answers are phrases; a longer text costs time and adds nothing
CLOSED_TOKENS = 12  # for a base model and a question with allowed answers
# Each changes the blind protocol's context in one way: none at all; that of another query;
# the same cases with blind captions and no answers.
CONTROLS = ("no context", "shuffled context", "label-masked")
# Fixed, so that a resumed run repeats the same arithmetic. On a CPU, the tensors of eight prompts
# of 700 tokens are past 32 MB, which the allocator asks the system for anew each time.
BATCH = {"cpu": 4, "cuda": 8}


# ---------------------------------------------------------------- backbones
@dataclass(frozen=True)
class Backbone:
    """A language model as the book compares it.

    `weights` is a name that `weights.find` knows; `path` overrides it with a
    folder. `lora` marks a model that needs an `adapter`, a folder that `train_lora`
    wrote. `chat` wraps the prompt in the tokenizer's chat template, which models
    tuned on instructions expect; a base model gets the plain prompt.
    `quantisation` is 'nf4' or 'none'.
    `published` names the model's row in published.json, '' where it has none.
    `endpoint` is the URL of an OpenAI-compatible server that answers instead; `weights`
    is then the model's name on that server.
    """

    name: str
    weights: str
    title: str
    chat: bool = False
    quantisation: str = "nf4"
    path: str = ""
    lora: bool = False
    adapter: str = ""
    published: str = ""
    endpoint: str = ""

    @property
    def licence(self) -> str:
        return weights.SOURCES[self.weights].licence if self.weights in weights.SOURCES else ""

    @property
    def gate(self) -> str:
        """What must be accepted before a download; '' where nothing."""
        return weights.SOURCES[self.weights].gate if self.weights in weights.SOURCES else ""


BACKBONES = {
    b.name: b
    for b in (
        Backbone(
            "mistral-7b",
            "mistral-7b",
            "Mistral 7B Instruct v0.3",
            chat=True,
            published="Mistral 7B Instruct v0.3",
        ),
        Backbone(
            "gemma-4-26b",
            "gemma-4-26b",
            "Gemma 4 26B MoE",
            chat=True,
            published="Gemma 4 26B MoE",
        ),
        Backbone(
            "medgemma-1.5-4b",
            "medgemma-1.5-4b",
            "MedGemma 1.5 4B IT",
            chat=True,
            published="MedGemma 1.5 4B IT",
        ),
        Backbone("gemma-3-270m-nf4", "gemma-3-270m", "Gemma 3 270M base, NF4 (stand-in)"),
        Backbone(
            "gemma-3-270m",
            "gemma-3-270m",
            "Gemma 3 270M base, un-quantised (stand-in)",
            quantisation="none",
        ),
        Backbone(
            "gemma-3-270m-lora",
            "gemma-3-270m",
            "Gemma 3 270M + LoRA on train captions (stand-in)",
            quantisation="none",
            lora=True,
        ),
    )
}
STAND_INS = ("gemma-3-270m-nf4", "gemma-3-270m", "gemma-3-270m-lora")


def choose_backbones(names: Sequence[str]) -> tuple[list[Backbone], list[str]]:
    """Return the backbones that can be had, and one sentence for each that cannot.

    A published model without weights is dropped; the small stand-ins take the
    place of all that are missing, so that the chapter still compares models.
    """
    chosen, notes = [], []
    for name in names:
        if name not in BACKBONES:
            raise ValueError(f"llm {name!r} is unknown; choose from {', '.join(BACKBONES)}")
        backbone = BACKBONES[name]
        found = weights.find(backbone.weights, backbone.path)
        if found.stand_in_for:
            gate = f" ({backbone.gate})" if backbone.gate else ""
            notes.append(f"{backbone.title}: no weights found{gate}; not run, stand-ins instead.")
        else:
            chosen.append(backbone)
            notes.append(f"{backbone.title}: {found.describe()}.")
    if len(chosen) < len(names):
        chosen += [BACKBONES[name] for name in STAND_INS if BACKBONES[name] not in chosen]
    return chosen, notes


def served_backbone(url: str, model: str, allow_remote: bool = False) -> Backbone:
    """Name a model that an OpenAI-compatible server answers for (vLLM, llama.cpp, Ollama).

    Parameters
    ----------
    url : such as 'http://127.0.0.1:8080/v1'.
    model : the model's name on that server.
    allow_remote : captions leave this machine only with this flag.

    Raises
    ------
    ValueError
        The URL is not http(s), or names another machine without `allow_remote`.
    """
    host = urlparse(url).hostname
    if urlparse(url).scheme not in ("http", "https") or not host:
        raise ValueError(f"endpoint={url!r} is no URL; write it as http://127.0.0.1:8080/v1")
    if not _is_loopback(host):
        if not allow_remote:
            raise ValueError(
                f"endpoint={url!r} is another machine, and prompts hold subjects' records. ADNI's "
                "data use agreement forbids passing them on; serve the model on 127.0.0.1, or set "
                "allow_remote if your agreement covers that machine"
            )
        warnings.warn(
            f"captions are sent to {host}: ADNI's data use agreement applies to it", stacklevel=2
        )
    return Backbone(f"served-{_file_name(model)}", model, f"{model}, served", endpoint=url)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: where it leads may change between check and use
        return False


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


@dataclass(frozen=True)
class Loaded:
    """A backbone in memory: `model` and `tokenizer` of transformers, and what they cost.

    For a served backbone, `model` is the client and `tokenizer` is None.
    """

    backbone: Backbone
    model: Any
    tokenizer: Any
    device: str
    source: str
    load_seconds: float
    memory_mib: float


def compute_dtype(device: str) -> torch.dtype:
    """bfloat16 on a GPU that has it, else float16; float32 on the CPU."""
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load_backbone(
    backbone: Backbone, device: str = "cpu", dtype: torch.dtype | None = None
) -> Loaded:
    """Load a causal language model, in 4-bit NF4 where the backbone says so.

    `dtype` is the type of the arithmetic; None takes `compute_dtype(device)`.

    NF4 with double quantisation follows Dettmers et al. 2023 (QLoRA,
    arXiv:2305.14314) through `transformers.BitsAndBytesConfig`.

    Raises
    ------
    FileNotFoundError
        The weights are nowhere (see `weights.find`).
    """
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    if backbone.endpoint:
        client = InferenceClient(base_url=backbone.endpoint, timeout=300)
        return Loaded(backbone, client, None, device, backbone.endpoint, 0.0, float("nan"))
    if backbone.lora and not backbone.adapter:
        raise ValueError(f"{backbone.name} has no adapter yet; train_lora() makes one")
    disable_progress_bar()  # bars of a second
    started = time.time()
    found = weights.find(backbone.weights, backbone.path)
    if found.stand_in_for:
        raise FileNotFoundError(
            f"{backbone.title} has no weights here; choose_backbones() names stand-ins"
        )
    dtype = dtype or compute_dtype(device)
    options: dict = {"dtype": dtype, "device_map": {"": device}}
    if backbone.quantisation == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    elif backbone.quantisation != "none":
        raise ValueError(f"quantisation={backbone.quantisation!r} is unknown; use 'nf4' or 'none'")
    tokenizer = AutoTokenizer.from_pretrained(
        found.path, padding_side="left", trust_remote_code=False
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(
        found.path, trust_remote_code=False, use_safetensors=True, **options
    )
    if backbone.adapter:
        from peft import PeftModel

        verify_weights(
            Path(backbone.adapter), f"delete {backbone.adapter} and run chapter 09 again"
        )
        # Merged into the weights, the adapter costs no time in generation.
        model = PeftModel.from_pretrained(model, backbone.adapter).merge_and_unload()
    if device == "cpu":
        # bitsandbytes' own CPU kernel is made for single tokens. Prompts of hundreds are faster
        # when each layer's weights are unpacked first and multiplied as usual.
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False
    return Loaded(
        backbone=backbone,
        model=model.eval(),
        tokenizer=tokenizer,
        device=device,
        source=found.source,
        load_seconds=time.time() - started,
        memory_mib=model.get_memory_footprint() / 2**20,
    )


# ---------------------------------------------------------------- questions
@dataclass(frozen=True)
class Question:
    """A kind of question, put to every case of a prompt in the same words.

    `options` are the allowed answers; empty for free text.
    """

    kind: str
    text: str
    options: tuple[str, ...] = ()


SEVERITY = BANDS["CDRSB"][1]  # the words that captions use for CDR-SB
SEX_WORDS = {"Female": "woman", "Male": "man"}
AGE_BANDS = ("under 60", "60 to 69", "70 to 79", "80 or older")
QUESTIONS = {
    q.kind: q
    for q in (
        Question("diagnosis", "What is the diagnosis: CN, MCI or Dementia?", config.DX),
        Question(
            "severity", "How severe is the impairment: " + ", ".join(SEVERITY) + "?", SEVERITY
        ),
        Question("sex", "Is this a woman or a man?", ("woman", "man")),
        Question(
            "age",
            "Which age band: under 60, 60 to 69, 70 to 79, or 80 or older?",
            AGE_BANDS,
        ),
        Question(
            "score",
            "Which score is most abnormal: MMSE, MoCA, ADAS-11 or ADAS-13?",
            tuple(SCORE_NAMES.values()),
        ),
        Question("why", "What is the diagnosis, and why?"),
    )
}


def age_band(age: float) -> str:
    return AGE_BANDS[int(np.searchsorted([60, 70, 80], age, side="right"))]


def abnormality(cohort: pd.DataFrame) -> pd.DataFrame:
    """Distance of each score from the CN mean of the train part, in its standard deviations.

    Positive is worse for all four (MMSE and MoCA fall with disease, so their sign
    turns). NaN where the score is missing. One row per row of `cohort`.
    """
    normal = cohort[(cohort.split != "test") & (cohort.DX == "CN")][list(SCORE_NAMES)]
    spread = normal.std().fillna(0).clip(lower=0.5)  # ceiling scores: half a point at least
    z = (cohort[list(SCORE_NAMES)] - normal.mean()) / spread
    z[["MMSE", "MOCA"]] *= -1
    return z.rename(columns=SCORE_NAMES)


def reference_answers(cohort: pd.DataFrame) -> dict[str, dict[int, str]]:
    """Answer every kind of question from the records.

    Returns
    -------
    {kind: {case: answer}}; a case whose record lacks what a question needs (no
    score at all, say) is left out of that kind.
    """
    z = abnormality(cohort)
    answers: dict[str, dict[int, str]] = {kind: {} for kind in QUESTIONS}
    for row, deviations in zip(cohort.to_dict("records"), z.to_dict("records"), strict=True):
        case = int(row["case"])
        known = [(name, value) for name, value in deviations.items() if pd.notna(value)]
        worst = sorted(known, key=lambda pair: -pair[1])  # worst first; ties keep their order
        answers["diagnosis"][case] = row["DX"]
        if row["PTGENDER"] in SEX_WORDS:
            answers["sex"][case] = SEX_WORDS[row["PTGENDER"]]
        if pd.notna(row["AGE"]):
            answers["age"][case] = age_band(row["AGE"])
        if pd.notna(row["CDRSB"]):
            answers["severity"][case] = band("CDRSB", row["CDRSB"])
        if worst:
            answers["score"][case] = str(worst[0][0])
            answers["why"][case] = _reason(row, worst)
    return answers


def _reason(row: dict, worst: list) -> str:
    columns = {shown: column for column, shown in SCORE_NAMES.items()}
    parts = [
        f"{name} {row[columns[name]]:.0f} is "
        + ("worse than" if value > 1 else "within the range of")
        + " healthy cases"
        for name, value in worst[:2]
    ]
    return f"{row['DX']}, because " + " and ".join(parts)


# ---------------------------------------------------------------- prompts
_ROLE_MARKS = re.compile(r"</?[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
_TURN_WORDS = re.compile(r"\b(question|answer|case\s+\d+|system|user|assistant)\s*:", re.IGNORECASE)


def as_data(text: str) -> str:
    """Make a caption harmless as prompt text: one line, no role marks, no turn words.

    A record is data. Text in it that looks like a turn of the conversation
    ('Answer: CN', '<start_of_turn>') must not end the question or give an answer.
    """
    text = _ROLE_MARKS.sub(" ", text)
    text = _TURN_WORDS.sub(lambda match: match.group(1), text)
    return " ".join(text.split())


def build_prompt(
    kind: str, case: int, caption: str, context: Sequence[tuple[int, str, str]] = ()
) -> str:
    """Write the plain prompt that every model gets.

    Parameters
    ----------
    kind : key of `QUESTIONS`.
    case, caption : the query and its blind caption.
    context : (case, caption, answer) of each retrieved train case, best first. Its
        answer comes from the train record; it shows a base model the format. '' for none.
    """
    blocks = [
        "Answer the question about each case in a few words, as in the cases before it.\n"
        f"Question: {QUESTIONS[kind].text}"
    ]
    blocks += [
        f"Case {other}: {as_data(text)}" + (f"\nAnswer: {as_data(answer)}" if answer else "")
        for other, text, answer in reversed(context)  # the nearest case stands last
    ]
    blocks.append(f"Case {case}: {as_data(caption)}\nAnswer:")
    return "\n\n".join(blocks)


def as_chat(loaded: Loaded, prompt: str) -> str:
    """Wrap a prompt in the model's chat template; a base model's prompt stays plain."""
    if not loaded.backbone.chat:
        return prompt
    return loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )


@dataclass(frozen=True)
class Item:
    """One question of the plan, with its prompt before any chat template.

    `protocol` is one of `PROTOCOLS` or `CONTROLS`, or 'blind, t1' and the like for a query
    of fewer modalities; `context` the retrieved cases as (case, caption, answer).
    """

    case: int
    kind: str
    protocol: str
    reference: str
    caption: str
    context: tuple[tuple[int, str, str], ...]

    @property
    def prompt(self) -> str:
        return build_prompt(self.kind, self.case, self.caption, self.context)


def example_prompt(run: Run, plan: Sequence[Item], cohort: pd.DataFrame) -> str:
    """A prompt to show: the first of the plan."""
    return plan[0].prompt


def plan_questions(
    cohort: pd.DataFrame,
    captions: list[dict],
    retrieval: list[dict],
    questions: int,
    seed: int,
    protocols: Sequence[str] = (*PROTOCOLS, *CONTROLS),
    controls: int = 0,
) -> list[Item]:
    """Choose the questions; every protocol and every model gets the same ones.

    One in ten goes to each of the five other kinds, the rest ask for the
    diagnosis of as many test cases. The other kinds are asked in the first
    protocol only; the diagnosis in all, in each control for the first `controls`
    cases (0: for all).

    Raises
    ------
    ValueError
        `retrieval` lacks a protocol, or the test part is too small.
    """
    texts = {row["case"]: row for row in captions}
    hits = {(row["case"], row["protocol"]): row["reranked"] for row in retrieval}
    answers = reference_answers(cohort)
    order = _shuffled(hits, seed)
    each = max(1, questions // 10)
    wanted: list[tuple[str, int]] = []
    for kind in QUESTIONS:
        count = questions - 5 * each if kind == "diagnosis" else each
        able = [case for case in order if case in answers[kind]]
        if count < 1 or len(able) < count:
            raise ValueError(
                f"questions={questions} asks for {count} questions on {kind}, but {len(able)} of "
                f"{len(order)} test cases can be asked; choose fewer, but 6 at least"
            )
        wanted += [(kind, case) for case in able[:count]]
    plan = []
    for protocol in protocols:
        some = wanted[: controls or None] if protocol in CONTROLS else wanted
        for kind, case in some:
            if kind != "diagnosis" and protocol != protocols[0]:
                continue
            found = hits.get((_asked_as(case, protocol, order), _ranked_by(protocol)))
            if found is None:
                raise ValueError(
                    f"retrieval.jsonl has no row for case {case}, protocol {protocol!r}; run "
                    "chapter 08 again"
                )
            context = _context(found, protocol, texts, answers[kind])
            blind = texts[case]["caption_blind"]
            plan.append(Item(case, kind, protocol, answers[kind][case], blind, context))
    return plan


def _shuffled(hits: dict, seed: int) -> list[int]:
    test = sorted({case for case, *_ in hits})
    return [test[i] for i in np.random.default_rng(seed).permutation(len(test))]


def _ranked_by(protocol: str) -> str:
    """Which ranking a protocol's cases come from: the controls change the blind one."""
    return "own_caption" if protocol == "own_caption" else "blind"


def _asked_as(case: int, protocol: str, order: list[int]) -> int:
    """Whose neighbours a question gets: the next query's where contexts are shuffled."""
    if protocol != "shuffled context":
        return case
    return order[(order.index(case) + 1) % len(order)]


def _context(
    found: Sequence[int], protocol: str, texts: dict[int, dict], answers: dict[int, str]
) -> tuple[tuple[int, str, str], ...]:
    if protocol == "no context":
        return ()
    if protocol == "label-masked":
        return tuple((case, texts[case]["caption_blind"], "") for case in found)
    return tuple((c, texts[c]["caption"], answers[c]) for c in found if c in answers)


def plan_subsets(
    cohort: pd.DataFrame, captions: list[dict], rows: list[dict], count: int, seed: int
) -> list[Item]:
    """Ask for the diagnosis where the query has fewer modalities, blind.

    Both the retrieved cases and the query's text come from the subset alone.

    Parameters
    ----------
    rows : rows of retrieval_subsets.jsonl.
    count : questions per subset, fewer where fewer test cases have it.
    """
    texts = {row["case"]: row for row in captions}
    answers = reference_answers(cohort)["diagnosis"]
    blind = {(r["case"], r["subset"]): r for r in rows if r["protocol"] == "blind"}
    order = _shuffled(blind, seed)
    plan = []
    for subset in dict.fromkeys(subset for _, subset in blind):
        for case in [case for case in order if (case, subset) in blind][:count]:
            row = blind[case, subset]
            context = _context(row["reranked"], "blind", texts, answers)
            protocol = f"blind, {subset}"
            plan.append(Item(case, "diagnosis", protocol, answers[case], row["query"], context))
    return plan


def cut_context(loaded: Loaded, item: Item, reserve: int = MAX_NEW_TOKENS) -> Item:
    """Drop whole captions, the farthest first, until the prompt fits the model's window."""
    if loaded.tokenizer is None:  # a server knows its own window, and says when it is too small
        return item
    sizes = loaded.model.config.get_text_config()
    window = int(sizes.max_position_embeddings) - reserve
    while item.context and _length(loaded, as_chat(loaded, item.prompt)) > window:
        item = replace(item, context=item.context[:-1])
    return item


def _length(loaded: Loaded, text: str) -> int:
    return len(loaded.tokenizer(text).input_ids)


# ---------------------------------------------------------------- answers
def parse_answer(text: str, options: Sequence[str]) -> str:
    """Map a free answer to one of `options`, else 'unparsed'.

    The first line must name exactly one option, as a whole word and without
    regard to case. For the diagnosis, common synonyms count too.
    """
    line = next((part for part in text.splitlines() if part.strip()), "").lower()
    named = set()
    for option in options:
        names = [option.lower(), *_SYNONYMS.get(option, ())]
        if any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", line) for name in names):
            named.add(option)
    return named.pop() if len(named) == 1 else "unparsed"


_SYNONYMS = {
    "CN": ("cognitively normal", "normal cognition"),
    "MCI": ("mild cognitive impairment",),
    "Dementia": ("alzheimer's disease", "alzheimer's dementia"),
}


@torch.inference_mode()
def answer_batch(loaded: Loaded, prompts: Sequence[str], options: Sequence[str] = ()) -> list[dict]:
    """Answer a batch of prompts greedily and score the allowed answers.

    The prompt is read once: its key-value cache serves the free answer and every
    option.

    Returns
    -------
    One dict per prompt: `answer` (first line), `tokens` (generated), `prompt_tokens`, and
    `log_likelihood` {option: sum of log-probabilities of its tokens}; {} from a server,
    because the common interface does not give the likelihood of a text.
    """
    if loaded.tokenizer is None:
        return [_served_answer(loaded, prompt) for prompt in prompts]
    tokenizer, model = loaded.tokenizer, loaded.model
    chat = loaded.backbone.chat
    texts = [as_chat(loaded, prompt) for prompt in prompts]
    # A chat template writes its own begin-of-sequence token.
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not chat).to(
        loaded.device
    )
    ids, mask = batch["input_ids"], batch["attention_mask"]  # (B, L), left-padded
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = model.base_model(  # the decoder alone: the prompt's own logits are not needed
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=positions[:, :-1],
        use_cache=True,
    ).past_key_values
    scores: list[dict[str, float]] = [{} for _ in prompts]
    for option in options:
        extra = _option_ids(tokenizer, texts[0], option, chat).to(ids.device)  # (T,)
        tail = torch.cat([ids[:, -1:], extra.expand(len(prompts), -1)], 1)  # (B, 1+T)
        ones = mask.new_ones(len(prompts), len(extra))
        places = positions[:, -1:] + torch.arange(tail.shape[1], device=ids.device)
        logits = model(
            input_ids=tail,
            attention_mask=torch.cat([mask, ones], 1),
            position_ids=places,
            past_key_values=copy.deepcopy(cache),
            use_cache=True,
        ).logits[:, :-1]  # (B, T, V): what follows the prompt, token by token
        logp = logits.float().log_softmax(-1).gather(2, tail[:, 1:, None]).sum((1, 2))
        for row, value in zip(scores, logp.tolist(), strict=True):
            row[option] = round(value, 4)
    stops = _stop_ids(tokenizer, model, chat)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        max_new_tokens=CLOSED_TOKENS if options and not chat else MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
    )[:, ids.shape[1] :]
    rows = []
    for tokens, score in zip(out.tolist(), scores, strict=True):
        length = next((i for i, t in enumerate(tokens) if t in stops), len(tokens))
        text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
        line = next((part.strip() for part in text.splitlines() if part.strip()), "")
        rows.append({"answer": line, "tokens": length, "log_likelihood": score})
    lengths = mask.sum(1).tolist()
    return [row | {"prompt_tokens": n} for row, n in zip(rows, lengths, strict=True)]


def _served_answer(loaded: Loaded, prompt: str) -> dict:
    try:
        reply = loaded.model.chat_completion(
            [{"role": "user", "content": prompt}],
            model=loaded.backbone.weights,
            max_tokens=MAX_NEW_TOKENS,
            temperature=0.0,
        )
    except Exception as error:  # the client raises many kinds, all of them mean the server
        raise RuntimeError(
            f"{loaded.backbone.endpoint} does not answer for {loaded.backbone.weights!r} "
            f"({type(error).__name__}: {error}); is the server up, and is that its model's name?"
        ) from error
    text = reply.choices[0].message.content or ""
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    usage = reply.usage
    return {
        "answer": line,
        "tokens": usage.completion_tokens if usage else 0,
        "prompt_tokens": usage.prompt_tokens if usage else 0,
        "log_likelihood": {},
    }


def _option_ids(tokenizer, prompt: str, option: str, chat: bool) -> torch.Tensor:
    """Token ids of an option as they follow the prompt."""
    text = option if chat else " " + option
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    whole = tokenizer(prompt + text, add_special_tokens=False).input_ids
    if whole[: len(before)] == before:
        return torch.tensor(whole[len(before) :])
    return torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)


def _stop_ids(tokenizer, model, chat: bool) -> list[int]:
    """End tokens; a plain prompt's answer also ends with its line."""
    end = model.generation_config.eos_token_id
    stops = list(end) if isinstance(end, (list, tuple)) else [end]
    if tokenizer.eos_token_id is not None:
        stops.append(tokenizer.eos_token_id)
    if not chat:
        for ending in ("\n", "\n\n"):
            ids = tokenizer(ending, add_special_tokens=False).input_ids
            if len(ids) == 1:
                stops.append(ids[0])
    return sorted({int(s) for s in stops if s is not None})


def answer_questions(
    loaded: Loaded, plan: Sequence[Item], path: Path, batch: int = 0
) -> tuple[pd.DataFrame, dict]:
    """Answer the whole plan, appending to `path` batch by batch.

    A killed run goes on at the last whole batch: batches are fixed by the plan, so
    the finished file is the same. A file made from another plan or another model
    is begun anew. `batch` questions are read at a time (0: `BATCH` of the device).

    Returns
    -------
    The answers (one row per item), and how fast those of this call came.
    """
    batch = batch or BATCH[torch.device(loaded.device).type]
    cut = [cut_context(loaded, item) for item in plan]
    groups = _batches(cut, batch)
    identity = _identity(loaded)
    rows = _resume(path, groups, identity)
    done = len(rows)
    began, tokens, prompt_tokens = time.time(), 0, 0
    with tqdm(total=len(plan), initial=done, desc=loaded.backbone.name, unit="q") as bar:
        for group in groups:
            if done > 0:  # this batch is in the file
                done -= len(group)
                continue
            options = QUESTIONS[group[0].kind].options
            try:
                made = answer_batch(loaded, [item.prompt for item in group], options)
            except torch.OutOfMemoryError as error:
                raise MemoryError(
                    f"the GPU ran out of memory while {loaded.backbone.name} answered: choose a "
                    f"smaller model, end other programs that use this GPU, or lower BATCH in "
                    f"vqa.py (now {batch}). The answers so far are kept"
                ) from error
            new = [_row(item, answer, identity) for item, answer in zip(group, made, strict=True)]
            tokens += sum(answer["tokens"] for answer in made)
            prompt_tokens += sum(answer["prompt_tokens"] for answer in made)
            _append(path, new)
            rows += new
            bar.update(len(group))
    seal(path)  # whole now; half of it is judged line by line
    seconds = time.time() - began
    fresh = bool(tokens)
    speed = {
        "questions": len(plan),
        "seconds": round(seconds, 1),
        "generated_tokens": tokens,
        "prompt_tokens": prompt_tokens,
        "tokens_per_second": round((tokens + prompt_tokens) / seconds, 1) if fresh else None,
        "memory_mib": round(loaded.memory_mib) if loaded.memory_mib == loaded.memory_mib else None,
        "load_seconds": round(loaded.load_seconds, 1),
        "captions_cut": sum(
            len(a.context) - len(b.context) for a, b in zip(plan, cut, strict=True)
        ),
    }
    return pd.DataFrame(rows), speed


def _batches(plan: Sequence[Item], size: int) -> list[list[Item]]:
    """Cut the plan into batches of one kind and protocol, in a fixed order."""
    groups: list[list[Item]] = []
    for item in plan:
        last = groups[-1] if groups else None
        same = last and (last[0].kind, last[0].protocol) == (item.kind, item.protocol)
        if same and last is not None and len(last) < size:
            last.append(item)
        else:
            groups.append([item])
    return groups


def _identity(loaded: Loaded) -> str:
    """Name what answers: model, origin, quantisation and a hash of an adapter's weights."""
    backbone = loaded.backbone
    text = f"{backbone.weights} ({loaded.source}) {backbone.quantisation}"
    if backbone.adapter:
        file = Path(backbone.adapter) / "adapter_model.safetensors"
        text += " lora-" + hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return text


def _row(item: Item, made: dict, identity: str) -> dict:
    options = QUESTIONS[item.kind].options
    likely = made["log_likelihood"]
    return {
        "case": item.case,
        "kind": item.kind,
        "protocol": item.protocol,
        "question": QUESTIONS[item.kind].text,
        "reference": item.reference,
        "answer": made["answer"],
        "parsed": parse_answer(made["answer"], options) if options else "",
        "constrained": max(likely, key=likely.get) if likely else "",
        "log_likelihood": likely,
        "tokens": made["tokens"],
        "cases_used": [case for case, _, _ in item.context],
        "prompt_sha": _sha(item.prompt),
        "model": identity,
        "note": NOTE,
    }


def cite(row: dict) -> str:
    """An answer as it may be shown: with the cases that it was given, and the warning."""
    used = ", ".join(str(case) for case in row["cases_used"]) or "none"
    return f"{row['answer'] or '(no answer)'} [cases {used}; {NOTE}]"


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _append(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unseal(path)
    with open(path, "a", encoding="utf-8") as handle:
        handle.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        handle.flush()
        os.fsync(handle.fileno())


def _resume(path: Path, groups: list[list[Item]], identity: str) -> list[dict]:
    """Read back the whole batches of an earlier call and cut the file there."""
    if not path.exists():
        return []
    verify(path, "delete it and run chapter 09 again")
    rows: list[dict] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the line at which the run was killed
            break
    kept = 0
    for group in groups:
        part = rows[kept : kept + len(group)]
        fits = len(part) == len(group) and all(
            (row["case"], row["kind"], row["protocol"], row["prompt_sha"], row["model"])
            == (item.case, item.kind, item.protocol, _sha(item.prompt), identity)
            for row, item in zip(part, group, strict=True)
        )
        if not fits:
            break
        kept += len(group)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:kept])
    return rows[:kept]


# ---------------------------------------------------------------- adaptation
def train_lora(
    backbone: Backbone,
    cohort: pd.DataFrame,
    captions: list[dict],
    folder: Path,
    *,
    examples: int = 360,
    batch: int = 8,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Backbone, list[float]]:
    """Adapt a base model to the train captions' questions with LoRA.

    Low-rank adapters (Hu et al. 2021, arXiv:2106.09685, through `peft`) on the
    upper half of the layers learn the answer tokens only; the lower half then
    needs no backward pass. A prompt holds one train case's blind caption. A
    finished adapter in `folder` is used again when it was made with the same
    settings and captions.

    Returns
    -------
    The backbone with its adapter, and the loss per step ([] where it was there).
    """
    from peft import LoraConfig, get_peft_model

    adapted = replace(backbone, adapter=str(folder))
    steps = _lora_batches(cohort, captions, examples, batch, seed)
    text = "".join(item.prompt + item.reference for part in steps for item in part)
    made_from = _sha(f"{batch} {lr} {seed} {text}")
    mark = folder / "made_from.txt"
    if mark.exists() and mark.read_text(encoding="utf-8") == made_from:
        return adapted, []
    loaded = load_backbone(replace(backbone, lora=False, adapter=""), device, torch.float32)
    torch.manual_seed(seed)
    layers = loaded.model.config.num_hidden_layers
    upper = "|".join(str(layer) for layer in range(layers // 2, layers))
    shape = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=rf".*layers\.({upper})\..*_proj",
        task_type="CAUSAL_LM",
    )
    # peft asks for names that transformers 5 renames; nothing here depends on them.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
    warnings.filterwarnings("ignore", message=".*is_activation_checkpointing")
    model = get_peft_model(loaded.model, shape)
    trained = [p for p in model.parameters() if p.requires_grad]
    precision = checked_half_type(
        device, model.eval(), lambda: _answer_loss(model, loaded, steps[0])
    )
    half = HALF.get(precision)
    model.train()
    optimiser = torch.optim.AdamW(trained, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=len(steps) + 1)
    losses = []
    for part in tqdm(steps, desc="LoRA", unit="step", mininterval=5):
        with torch.autocast(torch.device(device).type, half, enabled=half is not None):
            loss = _answer_loss(model, loaded, part)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    model.save_pretrained(str(folder))
    seal_weights(folder)
    with atomic_path(mark) as temporary:  # last: it says that the adapter is whole
        temporary.write_text(made_from, encoding="utf-8")
    return adapted, losses


def _lora_batches(
    cohort: pd.DataFrame, captions: list[dict], examples: int, batch: int, seed: int
) -> list[list[Item]]:
    """Draw train questions, half of them on the diagnosis, in batches of one kind.

    One kind per batch keeps the answers about equally long, so that the logits
    (262,144 columns in Gemma) are computed for few positions.
    """
    texts = {row["case"]: row["caption_blind"] for row in captions}
    answers = reference_answers(cohort)
    train = {int(case) for case in cohort[cohort.split == "train"].case}
    rng = np.random.default_rng(seed)
    others = [kind for kind in QUESTIONS if kind != "diagnosis"]
    steps = []
    for number in range(max(1, examples // batch)):
        kind = "diagnosis" if number % 2 == 0 else others[number // 2 % len(others)]
        able = sorted(train & answers[kind].keys())
        picks = [int(c) for c in rng.choice(able, size=min(batch, len(able)), replace=False)]
        steps.append([Item(c, kind, "blind", answers[kind][c], texts[c], ()) for c in picks])
    return steps


def _answer_loss(model, loaded: Loaded, items: Sequence[Item]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens (the prompt is not learned)."""
    tokenizer = loaded.tokenizer
    answers = [f" {item.reference}\n" for item in items]
    sizes = [len(tokenizer(a, add_special_tokens=False).input_ids) for a in answers]
    texts = [item.prompt + answer for item, answer in zip(items, answers, strict=True)]
    batch = tokenizer(texts, return_tensors="pt", padding=True).to(loaded.device)
    ids = batch["input_ids"]  # (B, L), left-padded: all answers end together
    learned = torch.arange(ids.shape[1]) >= ids.shape[1] - torch.tensor(sizes)[:, None]
    learned = learned.to(ids.device)[:, 1:]
    whole = model.get_base_model()
    hidden = whole.base_model(
        input_ids=ids, attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state[:, :-1]
    # Logits for the answers' positions only: each row has one column per word of the vocabulary.
    logits = whole.get_output_embeddings()(hidden[learned])  # (answer tokens, V)
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][learned])


# ---------------------------------------------------------------- scores
def majority_control(plan: Sequence[Item]) -> pd.DataFrame:
    """What the retrieved diagnoses alone say: no language model at all."""
    return pd.DataFrame(
        {
            "case": item.case,
            "kind": item.kind,
            "protocol": item.protocol,
            "reference": item.reference,
            "parsed": majority([answer for _, _, answer in item.context]),
        }
        for item in plan
        if item.kind == "diagnosis" and all(answer for _, _, answer in item.context)
        if item.context
    )


def failures(answers: pd.DataFrame, plan: Sequence[Item]) -> pd.DataFrame:
    """Sort the wrong diagnoses of one model by how they went wrong.

    Returns
    -------
    Rows of `answers` whose diagnosis is wrong, with the retrieved `majority` and `kind_of_error`:
    'unparsed', 'followed the majority' or 'left the majority' (which was right in the columns'
    `majority == reference`), 'no majority' where no labels were shown.
    """
    votes = majority_control(plan).set_index(["case", "protocol"])["parsed"]
    wrong = answers[(answers["kind"] == "diagnosis") & (answers["parsed"] != answers["reference"])]
    vote = [votes.get((row.case, row.protocol), "") for row in wrong.itertuples()]
    kinds = []
    for parsed, voted in zip(wrong["parsed"], vote, strict=True):
        if parsed == "unparsed":
            kinds.append("unparsed")
        elif not voted:
            kinds.append("no majority")
        else:
            kinds.append("followed the majority" if parsed == voted else "left the majority")
    return wrong.assign(majority=vote, kind_of_error=kinds)


def interval(values: Sequence[float], resamples: int, seed: int) -> tuple[float, float, float]:
    """Mean with a 95 % bootstrap percentile interval over questions."""
    data = np.asarray(values, dtype=float)
    if not len(data):
        return float("nan"), float("nan"), float("nan")
    picks = np.random.default_rng(seed).integers(0, len(data), (resamples, len(data)))
    low, high = np.percentile(data[picks].mean(1), [2.5, 97.5])
    return float(data.mean()), float(low), float(high)


def sbert_cosine(answers: Sequence[str], references: Sequence[str], device="cpu") -> np.ndarray:
    """Cosine of all-MiniLM-L6-v2 sentence embeddings (Reimers and Gurevych 2019); (n,)."""
    from sentence_transformers import SentenceTransformer

    with weights.quiet():
        encoder = SentenceTransformer(
            str(weights.find("minilm").path), device=device, trust_remote_code=False
        )
    a, b = (
        encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        for texts in (answers, references)
    )
    return (a * b).sum(1)


def bert_scores(answers: Sequence[str], references: Sequence[str], device="cpu") -> np.ndarray:
    """BERTScore F1 (Zhang et al. 2020, arXiv:1904.09675) with all-MiniLM-L6-v2; (n,).

    The model behind the published BERTScore is not named, so the levels of the two
    cannot be compared, only the order of the models within one table.
    """
    from bert_score import score

    filled = [text if text.strip() else "." for text in answers]  # bert-score fails on ''
    with weights.quiet():
        _, _, f1 = score(
            filled,
            list(references),
            model_type=str(weights.find("minilm").path),
            num_layers=6,
            device=device,
            verbose=False,
        )
    return f1.numpy()


_STATEMENT = re.compile(r"\b(CDR-SB|ADAS-1[13]|MMSE|MoCA)\W{0,3}(?:of|is|was|=)?\W{0,3}(\d+)")


def faithfulness(answer: str, texts: Sequence[str]) -> float:
    """Share of the answer's statements 'score and value' that a text of the prompt holds.

    NaN where the answer makes no such statement.
    """
    stated = _STATEMENT.findall(answer)
    if not stated:
        return float("nan")
    known = {pair for text in texts for pair in _STATEMENT.findall(text)}
    return sum(pair in known for pair in stated) / len(stated)


def score_answers(
    answers: pd.DataFrame, llm: str, *, resamples: int, seed: int, published: dict | None = None
) -> pd.DataFrame:
    """Score one model's answers, one row per protocol and metric.

    Columns: llm, protocol, metric, value, low, high, n, published, note. Accuracy
    counts 'unparsed' as wrong; `published` maps a metric to the published value.
    """
    rows = []
    for protocol, part in answers.groupby("protocol", sort=False):
        asked = part[part.kind == "diagnosis"]
        metrics = {"diagnosis_accuracy": asked.parsed == asked.reference}
        if "constrained" in part:
            closed = part[(part.parsed != "") & (part.kind != "diagnosis")]
            if (asked.constrained != "").any():  # a served model gives no likelihoods
                metrics |= {
                    "diagnosis_accuracy_constrained": asked.constrained == asked.reference,
                    "other_accuracy_constrained": closed.constrained == closed.reference,
                }
            metrics |= {
                "diagnosis_unparsed": asked.parsed == "unparsed",
                "other_accuracy": closed.parsed == closed.reference,
                "sbert_cosine": part.sbert_cosine,
                "bertscore": part.bertscore,
                "faithfulness": part.faithfulness.dropna(),
            }
        for metric, values in metrics.items():
            value, low, high = interval(list(values), resamples, seed)
            rows.append(
                {
                    "llm": llm,
                    "protocol": protocol,
                    "metric": metric,
                    "value": round(value, 4),
                    "low": round(low, 4),
                    "high": round(high, 4),
                    "n": len(values),
                    "published": (published or {}).get(metric, np.nan),
                    "note": NOTE,
                }
            )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- a whole model, start to end
PUBLISHED_METRICS = {  # name in published.json -> ours
    "vqa_diagnosis": "diagnosis_accuracy",
    "bertscore": "bertscore",
    "sbert_cosine": "sbert_cosine",
}


def run_backbone(
    backbone: Backbone,
    plan: Sequence[Item],
    cohort: pd.DataFrame,
    captions: list[dict],
    run: Run,
) -> tuple[pd.DataFrame, dict]:
    """Adapt (where it is a LoRA model), load, ask, and free the memory.

    Writes answers_<name>.jsonl in the run folder; see `answer_questions` for the result.
    """
    losses: list[float] = []
    if backbone.lora:
        folder = run.path("lora", backbone.name)
        backbone, losses = train_lora(
            backbone,
            cohort,
            captions,
            folder,
            examples=run.profile.lora_examples,
            seed=run.seed,
            device=run.device,
        )
    loaded = load_backbone(backbone, run.device)
    answers, speed = answer_questions(loaded, plan, run.path(f"answers_{backbone.name}.jsonl"))
    if losses:
        speed["lora_loss_first_last"] = f"{losses[0]:.2f} to {losses[-1]:.2f}"
    del loaded
    gc.collect()
    if run.device.startswith("cuda"):
        torch.cuda.empty_cache()
    return answers, speed


def score_backbone(
    answers: pd.DataFrame, backbone: Backbone, known: dict, captions: list[dict], run: Run
) -> pd.DataFrame:
    """Add the text measures to one model's answers and score them; see `score_answers`.

    Published values stand beside the own-caption protocol only, which is the nearest to
    what the publication describes.
    """
    texts = {row["case"]: row["caption"] for row in captions}
    blind = {row["case"]: row["caption_blind"] for row in captions}
    answers = answers.assign(
        sbert_cosine=sbert_cosine(list(answers.answer), list(answers.reference), run.device),
        bertscore=bert_scores(list(answers.answer), list(answers.reference), run.device),
        faithfulness=[
            faithfulness(
                row["answer"], [blind[row["case"]], *(texts[c] for c in row["cases_used"])]
            )
            for row in answers.to_dict("records")
        ],
    )
    found = known.get(backbone.published, {})
    published = {ours: found[name] for name, ours in PUBLISHED_METRICS.items() if name in found}
    table = score_answers(
        answers,
        backbone.title,
        resamples=run.profile.bootstrap,
        seed=run.seed,
        published=published,
    )
    table.loc[table["protocol"] != "own_caption", "published"] = np.nan
    return table


def nf4_levels() -> list[float]:
    """The 16 values that a 4-bit NormalFloat weight can take, from bitsandbytes."""
    from bitsandbytes.functional import get_4bit_type

    return [float(x) for x in get_4bit_type("nf4", device="cpu")]
