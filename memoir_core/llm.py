"""Causal language models from a folder: 4-bit NF4, greedy answers, likelihoods of options.

Quantisation follows Dettmers et al. 2023 (QLoRA, arXiv:2305.14314). Every model reads the same
prompt; one tuned on instructions gets it in the chat template of its tokenizer.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

BASE_TOKENS, CLOSED_TOKENS = 24, 8  # a base model writes one line; fewer where options are given
CHAT_TOKENS = 256  # a tuned model may give its reasons first
SOLVED = re.compile(r"\nAnswer:(?: (.+))?(?:\n\n|$)")  # as `vqa.build_prompt` writes an answer


@dataclass(frozen=True)
class Loaded:
    """A language model in memory. `chat`: prompts are wrapped in its chat template."""

    model: Any
    tokenizer: Any
    device: str = "cpu"
    chat: bool = False
    load_seconds: float = 0.0

    @property
    def window(self) -> int:
        """Tokens that the model can read at once."""
        return int(self.model.config.get_text_config().max_position_embeddings)


def compute_dtype(device: str) -> torch.dtype:
    """bfloat16 on a GPU that has it, else float16; float32 on the CPU."""
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load_4bit(folder: str | Path, device: str = "cpu", **options: Any) -> Loaded:
    """Load a model with its weights in 4-bit NF4, double-quantised; options of `load`."""
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(device),
    )
    return load(folder, device, quantization=nf4, **options)


def load(
    folder: str | Path,
    device: str = "cpu",
    chat: bool = False,
    adapter: str | Path = "",
    dtype: torch.dtype | None = None,
    quantization: Any = None,
) -> Loaded:
    """Load a causal language model and its tokenizer from a folder of safetensors.

    `adapter` is the folder of a LoRA adapter (peft): merged into the weights, but put beside 4-bit
    ones, which would round it away. `dtype` of the arithmetic, if not `compute_dtype(device)`.
    """
    started = time.time()
    tokenizer = read_tokenizer(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=dtype or compute_dtype(device),
        device_map={"": device},
        quantization_config=quantization,
    )
    if adapter:
        from peft import PeftModel

        both = PeftModel.from_pretrained(model, str(adapter))
        model = both.get_base_model() if quantization else both.merge_and_unload()
    return Loaded(model.eval(), tokenizer, device, chat, time.time() - started)


def read_tokenizer(folder: str | Path) -> Any:
    """Read a folder's tokenizer, padding on the left; once, as Gemma's takes six seconds."""
    return _read_tokenizer(Path(folder), Path(folder).stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_tokenizer(folder: Path, changed: int) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def as_chat(loaded: Loaded, prompt: str, answer: str | None = None) -> str:
    """Wrap a prompt, and an answer, in the chat template; for a base model they stay plain.

    Solved cases in a prompt become earlier turns of the conversation, as a tuned model knows
    examples. Thinking is off where the template has a switch for it.
    """
    if not loaded.chat:
        return prompt if answer is None else f"{prompt} {answer}"
    parts = SOLVED.split(prompt)  # case, answer, case, answer, ..., case, None, ''
    turns = []
    for case, solved in zip_longest(parts[::2], parts[1::2]):
        turns += [{"role": "user", "content": case}] if case else []
        turns += [{"role": "assistant", "content": solved}] if solved else []
    turns += [] if answer is None else [{"role": "assistant", "content": answer}]
    told: dict = {"tokenize": False, "add_generation_prompt": answer is None}
    if "enable_thinking" in str(loaded.tokenizer.chat_template):
        told["enable_thinking"] = False
    return loaded.tokenizer.apply_chat_template(turns, **told)


@torch.inference_mode()
def answer_batch(
    loaded: Loaded, prompts: Sequence[str], options: Sequence[str] = (), most: int = 0
) -> list[dict]:
    """Answer prompts greedily and score the allowed answers; one dict per prompt.

    `answer` is the whole text, of a base model its first line; `truncated`: no end within `most`
    tokens (0: `new_tokens`). `tokens` and `prompt_tokens` count what was written and read, and
    `log_likelihood` is {option: mean log-probability of its tokens}; a ValueError names a NaN.
    The prompts are read once: their key-value cache serves the free answer and every option.
    """
    tokenizer, model = loaded.tokenizer, loaded.model
    texts = [as_chat(loaded, prompt) for prompt in prompts]
    # A chat template writes its own begin-of-sequence token.
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not loaded.chat)
    ids, mask = (batch[key].to(loaded.device) for key in ("input_ids", "attention_mask"))
    # (B, L), padded on the left: all prompts end together
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    prompt = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1]}
    # The decoder alone: the prompt's own logits are not needed.
    cache = model.base_model(**prompt, position_ids=places[:, :-1], use_cache=True).past_key_values
    scores = {}
    for option in options:
        extra = option_ids(loaded, prompts[0], option).to(ids.device)  # (T,)
        found = _log_likelihood(model, ids, mask, copy.deepcopy(cache), extra)
        if found.isnan().any():
            what = f"the likelihood of {option!r} is NaN: {model.dtype} has too small a range"
            raise ValueError(f"{what}, or the weights are damaged")
        scores[option] = found.tolist()
    stops = stop_ids(loaded)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        max_new_tokens=most or new_tokens(loaded, options),
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
    )[:, ids.shape[1] :]
    rows = []
    for place, tokens in enumerate(out.tolist()):
        count = next((i for i, t in enumerate(tokens) if t in stops), len(tokens))
        # The marks of a thought stay in a tuned model's text: they part it from the answer.
        text = tokenizer.decode(tokens[:count], skip_special_tokens=not loaded.chat).strip()
        text = text if loaded.chat else (text.splitlines() or [""])[0].strip()
        row = {"answer": text, "tokens": count, "truncated": count == len(tokens)}
        row["log_likelihood"] = {name: round(v[place], 4) for name, v in scores.items()}
        rows.append(row | {"prompt_tokens": int(mask[place].sum())})
    return rows


def new_tokens(loaded: Loaded, options: Sequence[str] = ()) -> int:
    """Tokens that an answer may have."""
    return CHAT_TOKENS if loaded.chat else CLOSED_TOKENS if options else BASE_TOKENS


def _log_likelihood(model: Any, ids: Tensor, mask: Tensor, cache: Any, extra: Tensor) -> Tensor:
    """Mean log-probability of tokens `extra` (T,) after each prompt (B, L): (B,)."""
    tail = torch.cat([ids[:, -1:], extra.expand(len(ids), -1)], 1)  # (B, 1+T)
    places = mask.sum(1, keepdim=True) - 1 + torch.arange(tail.shape[1], device=ids.device)
    logits = model(
        input_ids=tail,
        attention_mask=torch.cat([mask, mask.new_ones(len(ids), len(extra))], 1),
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
    ).logits[:, :-1]  # (B, T, V): what follows the prompt, token by token
    return logits.float().log_softmax(-1).gather(2, tail[:, 1:, None])[..., 0].mean(1)


def option_ids(loaded: Loaded, prompt: str, option: str) -> Tensor:
    """Token ids of an option (T,) as the template writes them after the prompt (Mistral: a space).

    Where a whole turn does not begin as the prompt does (an empty thought), it follows directly.
    """
    text, turn = as_chat(loaded, prompt), as_chat(loaded, prompt, option)
    start = turn.find(option, len(text)) if turn.startswith(text) else -1
    text_and_option = turn[: start + len(option)] if start >= 0 else text + option
    before, whole = loaded.tokenizer([text, text_and_option], add_special_tokens=False).input_ids
    if whole[: len(before)] != before:  # the option's first letters joined the prompt's last token
        whole = [*before, *loaded.tokenizer(option, add_special_tokens=False).input_ids]
    return torch.tensor(whole[len(before) :])


def stop_ids(loaded: Loaded) -> list[int]:
    """End tokens, the template's end of a turn among them; a plain answer ends with its line."""
    tokenizer = loaded.tokenizer
    end = loaded.model.generation_config.eos_token_id
    stops = [*(end if isinstance(end, (list, tuple)) else [end]), tokenizer.eos_token_id]
    if loaded.chat:
        ending = as_chat(loaded, "question", "answer").rpartition("answer")[2].strip()
        ids = tokenizer(ending, add_special_tokens=False).input_ids[:1]
        stops += [i for i in ids if i in tokenizer.added_tokens_decoder]
    for ending in () if loaded.chat else ("\n", "\n\n"):
        ids = tokenizer(ending, add_special_tokens=False).input_ids
        stops += ids if len(ids) == 1 else []
    return sorted({int(token) for token in stops if token is not None})
