"""A language model of two layers with random weights, and a few subjects to ask about."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from memoir_core.captions import caption_rows

CHAT = (
    "{% for m in messages %}<user>{{ m['content'] }}</user>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
N = 60


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


def save(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """Write a random model of the llama or gemma class with a tokenizer of 700 pieces."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator([row["caption"] for row in caption_rows(cohort())], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", bos_token="<bos>", pad_token="<pad>"
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "gemma": (GemmaConfig, GemmaForCausalLM),
    }[family]
    model(
        config(
            vocab_size=len(tokenizer),
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
