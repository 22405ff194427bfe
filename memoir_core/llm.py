"""Causal language models from a folder: 4-bit NF4, greedy answers, likelihoods of options.

Quantisation follows Dettmers et al. 2023 (QLoRA, arXiv:2305.14314). Every model reads the same
prompt; one tuned on instructions gets it in the chat template of its tokenizer.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

MAX_NEW_TOKENS = 24  # answers are phrases; a longer text costs time and adds nothing
CLOSED_TOKENS = 12  # for a base model and a question with allowed answers


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

    `adapter` is the folder of a LoRA adapter (peft), which is merged into the weights: it costs no
    time in generation. `dtype` is the type of the arithmetic, if not `compute_dtype(device)`.
    """
    started = time.time()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
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

        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    for module in model.modules():
        # bitsandbytes' own CPU kernel is made for single tokens. Prompts of hundreds are faster
        # when each layer's weights are unpacked first and multiplied as usual.
        if device == "cpu" and isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return Loaded(model.eval(), tokenizer, device, chat, time.time() - started)


def as_chat(loaded: Loaded, prompt: str) -> str:
    """Wrap a prompt in the model's chat template; a base model's prompt stays plain."""
    turn = [{"role": "user", "content": prompt}]
    wrap = loaded.tokenizer.apply_chat_template
    return wrap(turn, tokenize=False, add_generation_prompt=True) if loaded.chat else prompt


def length(loaded: Loaded, prompt: str) -> int:
    """Tokens of a prompt as the model reads it."""
    return len(loaded.tokenizer(as_chat(loaded, prompt)).input_ids)


@torch.inference_mode()
def answer_batch(loaded: Loaded, prompts: Sequence[str], options: Sequence[str] = ()) -> list[dict]:
    """Answer prompts greedily and score the allowed answers; one dict per prompt.

    `answer` is the first line, `tokens` and `prompt_tokens` count what was written and read, and
    `log_likelihood` is {option: sum of the log-probabilities of its tokens}. The prompts are read
    once: their key-value cache serves the free answer and every option.
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
        extra = option_ids(loaded, texts[0], option).to(ids.device)  # (T,)
        scores[option] = _log_likelihood(model, ids, mask, copy.deepcopy(cache), extra).tolist()
    stops = stop_ids(loaded)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        max_new_tokens=CLOSED_TOKENS if options and not loaded.chat else MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
    )[:, ids.shape[1] :]
    rows = []
    for place, tokens in enumerate(out.tolist()):
        count = next((i for i, t in enumerate(tokens) if t in stops), len(tokens))
        text = tokenizer.decode(tokens[:count], skip_special_tokens=True)
        line = next((part.strip() for part in text.splitlines() if part.strip()), "")
        rows.append({"answer": line, "tokens": count, "prompt_tokens": int(mask[place].sum())})
        rows[-1]["log_likelihood"] = {name: round(v[place], 4) for name, v in scores.items()}
    return rows


def _log_likelihood(model: Any, ids: Tensor, mask: Tensor, cache: Any, extra: Tensor) -> Tensor:
    """Sum of the log-probabilities of tokens `extra` (T,) after each prompt (B, L): (B,)."""
    tail = torch.cat([ids[:, -1:], extra.expand(len(ids), -1)], 1)  # (B, 1+T)
    places = mask.sum(1, keepdim=True) - 1 + torch.arange(tail.shape[1], device=ids.device)
    logits = model(
        input_ids=tail,
        attention_mask=torch.cat([mask, mask.new_ones(len(ids), len(extra))], 1),
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
    ).logits[:, :-1]  # (B, T, V): what follows the prompt, token by token
    return logits.float().log_softmax(-1).gather(2, tail[:, 1:, None]).sum((1, 2))


def option_ids(loaded: Loaded, prompt: str, option: str) -> Tensor:
    """Token ids of an option (T,) as they follow the prompt."""
    text = option if loaded.chat else " " + option
    parts = [prompt, prompt + text, text]
    before, whole, alone = loaded.tokenizer(parts, add_special_tokens=False).input_ids
    return torch.tensor(whole[len(before) :] if whole[: len(before)] == before else alone)


def stop_ids(loaded: Loaded) -> list[int]:
    """End tokens; a plain prompt's answer also ends with its line."""
    end = loaded.model.generation_config.eos_token_id
    stops = [*(end if isinstance(end, (list, tuple)) else [end]), loaded.tokenizer.eos_token_id]
    if not loaded.chat:
        for ending in ("\n", "\n\n"):
            ids = loaded.tokenizer(ending, add_special_tokens=False).input_ids
            stops += ids if len(ids) == 1 else []
    return sorted({int(token) for token in stops if token is not None})
