"""Profiles, which change sizes and step sizes only, and names: what is fixed before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DX = ("CN", "MCI", "Dementia")  # class order everywhere: 0, 1, 2
MODALITIES = ("t1", "fa", "clinical")  # order of every `present` mask
SUBSETS = (  # the published ablation's seven subsets, in its order
    ("t1", "fa", "clinical"),
    ("t1", "clinical"),
    ("fa", "clinical"),
    ("clinical",),
    ("t1", "fa"),
    ("t1",),
    ("fa",),
)
SCORES = ("CDRSB", "ADAS11", "ADAS13", "MMSE", "MOCA")  # order of the clinical input
EMBEDDING_DIM = 512


@dataclass(frozen=True)
class Profile:
    """The sizes of one run. `paper` holds the published values."""

    name: str
    subjects: int  # synthetic subjects after all filters
    fa_fraction: float  # share of them with a DTI-FA volume
    volume_shape: tuple[int, int, int]  # voxels that the encoders see
    voxel_mm: float
    stage1_epochs: int
    stage2_epochs: int
    batch_size: int
    lr_stage1: float
    lr_backbone: float
    lr_heads: float
    synthetic_sentences: int
    mlm_epochs: int
    align_epochs: int
    top_k: int
    rerank_k: int
    subset_top_k: int  # candidates of a query that has fewer modalities
    subset_queries: int  # test subjects asked with each subset of modalities; 0: all
    weights: str  # 'offline': packages only, the same everywhere; 'hub': its cache and it, too
    llms: tuple[str, ...]
    questions: int
    cases_shown: int  # of the reranked cases, in a prompt: its length is what an answer costs
    probe_every_llm: bool  # own captions, controls, fewer modalities: first stand-in or all
    lora_examples: int  # train questions for the stand-in that is adapted with LoRA
    occluded: int  # subjects per class in the occlusion maps
    bootstrap: int


GEMMA, SMOLLM = "gemma-3-270m", "smollm2-135m"  # a base model; one tuned on instructions
SMALL = (f"{GEMMA}-nf4", f"{SMOLLM}-nf4", f"{GEMMA}-lora-nf4")  # and one tuned on the task
PUBLISHED = ("mistral-7b", "gemma-4-26b", "medgemma-1.5-4b")
NAMES = ("smoke", "quick", "paper")
SIZES: dict[str, tuple[Any, Any, Any]] = {  # one column per name
    "subjects": (72, 360, 2363),
    "fa_fraction": (0.394, 0.394, 930 / 2363),
    "volume_shape": ((23, 28, 23), (31, 37, 31), (91, 109, 91)),
    "voxel_mm": (8.0, 6.0, 2.0),
    "stage1_epochs": (2, 5, 30),
    "stage2_epochs": (2, 4, 30),
    "batch_size": (16, 16, 16),
    "lr_stage1": (3e-4, 3e-4, 1e-4),
    "lr_backbone": (2e-5, 2e-5, 1e-5),
    "lr_heads": (1e-3, 1e-3, 5e-4),
    "synthetic_sentences": (64, 2500, 25000),
    "mlm_epochs": (1, 1, 3),
    "align_epochs": (2, 6, 30),
    "top_k": (10, 20, 50),
    "rerank_k": (5, 5, 5),
    "subset_top_k": (5, 10, 50),
    "subset_queries": (6, 24, 0),
    "weights": ("offline", "offline", "hub"),
    "llms": (SMALL[:1], (*SMALL, GEMMA), PUBLISHED),
    "questions": (6, 10, 300),  # half or more on the diagnosis: the published rates all fit n = 150
    "cases_shown": (2, 3, 5),
    "probe_every_llm": (False, False, True),
    "lora_examples": (240, 48, 240),
    "occluded": (1, 1, 4),
    "bootstrap": (100, 500, 1000),
}
PROFILES = {
    name: Profile(name, **{size: values[column] for size, values in SIZES.items()})
    for column, name in enumerate(NAMES)
}


def get_profile(name: str) -> Profile:
    if name not in PROFILES:
        raise ValueError(f"profile={name!r} is unknown; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
