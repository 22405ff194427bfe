"""A language model of two layers with random weights, and a few subjects to ask about."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.gemma4.configuration_gemma4 import Gemma4VisionConfig

from memoir_core.captions import caption_rows

CHAT = (
    "{% for m in messages %}<user>{{ m['content'] }}</user>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
N = 60

# What the templates of the published models write around the turns of a conversation
ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}" + ALTERNATE + "{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + '[/INST]' }}{% else %}"
    "{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
GEMMA_3 = (
    "{{ bos_token }}" + ALTERNATE + "{{ '<start_of_turn>' + "
    "('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
GEMMA_4 = (
    "{{ bos_token }}" + ALTERNATE + "{{ '<|turn>' + "
    "('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{{ m['content'] | trim + '<turn|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\\n' }}"
    "{% if not enable_thinking | default(true) %}{{ '<|channel>thought\\n<channel|>' }}"
    "{% endif %}{% endif %}"
)
SHAPE = {
    "vocab_size": 700, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 8192, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2, "initializer_range": 0.05,
}  # fmt: skip
EYES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def _mistral():
    return MistralForCausalLM(MistralConfig(**SHAPE, num_hidden_layers=2, sliding_window=None))


def _medgemma():
    text = Gemma3TextConfig(**SHAPE, num_hidden_layers=6, sliding_window=64)
    vision = SiglipVisionConfig(**EYES, image_size=32, patch_size=8)
    whole = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(whole)


def _gemma_4():
    """Eight experts, two of them used for a token."""
    text = Gemma4TextConfig(
        **SHAPE, num_hidden_layers=6, sliding_window=64, global_head_dim=32, num_experts=8,
        num_global_key_value_heads=1, attention_k_eq_v=True, enable_moe_block=True,
        top_k_experts=2, moe_intermediate_size=64, hidden_size_per_layer_input=0,
    )  # fmt: skip
    vision = Gemma4VisionConfig(**EYES, num_key_value_heads=2, head_dim=16)
    return Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=vision))


# Key of the weights: the class, what its template writes, the marks, of which the last ends a turn
PUBLISHED = {
    "mistral-7b": (_mistral, MISTRAL, ("[INST]", "[/INST]", "<eos>")),
    "gemma-4-26b": (_gemma_4, GEMMA_4, ("<|channel>", "<channel|>", "<|turn>", "<turn|>")),
    "medgemma-1.5-4b": (_medgemma, GEMMA_3, ("<unused94>", "<start_of_turn>", "<end_of_turn>")),
}


def save_published(folder: Path, key: str, soon: bool = False) -> Path:
    """Write a random model of a published one's class; `soon`: one in two tokens ends an answer."""
    make, template, marks = PUBLISHED[key]
    words = tokenizer(template, *(mark for mark in marks if mark != "<eos>"))
    words.save_pretrained(folder)
    torch.manual_seed(0)
    model = make()
    ends = [1, words.convert_tokens_to_ids(marks[-1]), *range(350, 700 if soon else 350)]
    model.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=ends, pad_token_id=0)
    model.save_pretrained(folder)
    return folder


def cohort() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    code = np.arange(N) % 3
    return pd.DataFrame(
        {
            "case": np.arange(N),
            "DX": np.array(["CN", "MCI", "Dementia"])[code],
            "AGE": 60.0 + rng.integers(0, 30, N),
            "PTGENDER": np.where(rng.random(N) < 0.5, "Female", "Male"),
            "APOE4": rng.integers(0, 3, N).astype(float),
            "CDRSB": np.array([0.0, 1.5, 6.0])[code],
            "ADAS11": np.array([5.0, 10.0, 20.0])[code] + rng.integers(0, 4, N),
            "ADAS13": np.array([8.0, 16.0, 30.0])[code] + rng.integers(0, 4, N),
            "MMSE": np.array([29.0, 27.0, 21.0])[code] - rng.integers(0, 2, N),
            "MOCA": np.array([27.0, 23.0, 16.0])[code] - rng.integers(0, 3, N),
            "split": np.where(np.arange(N) % 5 == 0, "test", "train"),
        }
    )


def retrieval(table: pd.DataFrame) -> list[dict]:
    rng = np.random.default_rng(1)
    train = table[table.split == "train"].case
    return [
        {"case": int(case), "protocol": protocol, "reranked": rng.choice(train, 5, False).tolist()}
        for case in table[table.split == "test"].case
        for protocol in ("blind", "own_caption")
    ]


def tokenizer(template: str, *marks: str) -> PreTrainedTokenizerFast:
    """A tokenizer of 700 pieces, learned from captions, with marks of its own."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", *marks]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator([row["caption"] for row in caption_rows(cohort())], trainer)
    found = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", bos_token="<bos>", pad_token="<pad>"
    )
    found.add_special_tokens({"additional_special_tokens": [*marks]})
    found.chat_template = template
    return found


def save(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """Write a random model of the llama or gemma class."""
    words = tokenizer(CHAT)
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "gemma": (GemmaConfig, GemmaForCausalLM),
    }[family]
    model(
        config(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=2048,
            bos_token_id=2,
            eos_token_id=1,
            pad_token_id=0,
            initializer_range=0.5,  # answers that differ from prompt to prompt
        )
    ).save_pretrained(folder)
    return folder
