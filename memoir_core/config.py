"""Profiles and names: everything that is fixed before a run starts.

A profile changes sizes and step sizes only. The code that runs is the same in
all three, so that what a student sees in two minutes is what a researcher runs
for a day.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

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
    # Cohort
    subjects: int  # synthetic subjects after all filters
    fa_fraction: float  # share of them with a DTI-FA volume
    volume_shape: tuple[int, int, int]  # voxels that the encoders see
    voxel_mm: float
    # Training
    stage1_epochs: int
    stage2_epochs: int
    batch_size: int
    lr_stage1: float
    lr_backbone: float
    lr_heads: float
    # Text and retrieval
    synthetic_sentences: int
    mlm_epochs: int
    align_epochs: int
    top_k: int = 50
    rerank_k: int = 5
    subset_top_k: int = 10  # candidates of a query that has fewer modalities
    subset_queries: int = 0  # test subjects asked with each subset of modalities; 0: all
    rerank_pairs: int = 1200  # that a stand-in cross-encoder learns from
    # LLM comparison and intervals
    llms: tuple[str, ...] = ("gemma-3-270m-nf4",)
    questions: int = 8
    probe_every_llm: bool = False  # controls and queries of fewer modalities: first model or all
    lora_examples: int = 240  # train questions for the stand-in that is adapted with LoRA
    bootstrap: int = 500

    def as_dict(self) -> dict:
        return asdict(self)


PROFILES = {
    "smoke": Profile(
        name="smoke",
        subjects=72,
        fa_fraction=0.394,
        volume_shape=(31, 37, 31),
        voxel_mm=6.0,
        stage1_epochs=2,
        stage2_epochs=3,
        batch_size=12,
        lr_stage1=1e-3,
        lr_backbone=5e-4,
        lr_heads=1e-3,
        synthetic_sentences=240,
        mlm_epochs=1,
        align_epochs=2,
        top_k=10,
        subset_top_k=5,
        subset_queries=6,
        rerank_pairs=96,
        questions=8,
        bootstrap=200,
    ),
    "quick": Profile(
        name="quick",
        subjects=520,
        fa_fraction=0.394,
        volume_shape=(46, 55, 46),
        voxel_mm=4.0,
        stage1_epochs=8,
        stage2_epochs=6,
        batch_size=16,
        lr_stage1=1e-3,
        lr_backbone=2e-4,
        lr_heads=1e-3,
        synthetic_sentences=2500,
        mlm_epochs=1,
        align_epochs=6,
        top_k=20,
        subset_queries=24,
        llms=("gemma-3-270m-nf4", "gemma-3-270m", "gemma-3-270m-lora"),
        questions=60,
        lora_examples=160,
        bootstrap=1000,
    ),
    "paper": Profile(
        name="paper",
        subjects=2363,
        fa_fraction=930 / 2363,
        volume_shape=(91, 109, 91),
        voxel_mm=2.0,
        stage1_epochs=30,
        stage2_epochs=30,
        batch_size=16,
        lr_stage1=1e-4,
        lr_backbone=1e-5,
        lr_heads=5e-4,
        synthetic_sentences=25000,
        mlm_epochs=3,
        align_epochs=30,
        subset_top_k=50,
        rerank_pairs=40000,
        llms=("mistral-7b", "gemma-4-26b", "medgemma-1.5-4b"),
        probe_every_llm=True,
        questions=300,  # half of them on the diagnosis: the published rates all fit n = 150
        bootstrap=1000,
    ),
}


def get_profile(name: str) -> Profile:
    if name not in PROFILES:
        raise ValueError(f"profile={name!r} is unknown; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
