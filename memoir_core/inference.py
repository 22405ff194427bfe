"""Encode every subject once, fuse any subset of modalities, predict the five tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .config import DX, MODALITIES, SUBSETS
from .data import MemoirDataset, Scaler, workers
from .files import MissingArtefactError, atomic_path, read_json
from .model import HEADS, Memoir


@torch.no_grad()
def encode(model: Memoir, data: MemoirDataset, batch_size: int = 16) -> tuple[Tensor, Tensor]:
    """Encode everybody once, on the CPU: (n, 3, 512), zero where absent; present (n, 3) bool."""
    device = next(model.parameters()).device
    model.eval()
    embeddings, present = [], []
    for batch in DataLoader(data, batch_size, **workers(device.type)):
        embeddings.append(model.encode({k: v.to(device) for k, v in batch.items()}).float().cpu())
        present.append(batch["present"])
    return torch.cat(embeddings), torch.cat(present)


def restrict(present: Tensor, subset: Sequence[str]) -> Tensor:
    """Mask all modalities but `subset`: (n, 3) bool -> (n, 3) bool; ValueError for other names."""
    if not subset or not set(subset) <= set(MODALITIES):
        raise ValueError(f"subset={tuple(subset)!r}: choose one or more of {', '.join(MODALITIES)}")
    return present & torch.tensor([name in subset for name in MODALITIES])


@torch.no_grad()
def fuse(
    model: Memoir, embeddings: Tensor, present: Tensor, subset: Sequence[str] = MODALITIES
) -> dict[str, Tensor]:
    """Fuse ready embeddings (n, 3, 512) from a subset of modalities.

    Returns z_fused (n, 512), attention (n, 3) and a tensor per head; NaN for rows without any.
    """
    device = next(model.parameters()).device
    model.eval()
    present = restrict(present, subset)
    some = present.any(dim=1)
    out = model.fuse(embeddings[some].to(device), present[some].to(device))
    full = {}
    for name in ("z_fused", "attention", *HEADS):
        full[name] = torch.full((len(present), *out[name].shape[1:]), float("nan"))
        full[name][some] = out[name].float().cpu()
    return full


def predict(
    model: Memoir, embeddings: Tensor, present: Tensor, subjects: pd.DataFrame, scaler: Scaler,
    subset: Sequence[str] = MODALITIES,
) -> pd.DataFrame:  # fmt: skip
    """Predict all five tasks from `encode`'s embeddings of n subjects, in the same order.

    Returns a row per subject: truth (case, DX, PTGENDER, AGE, CDRSB) and prediction (p_CN, p_MCI,
    p_Dementia, p2_Dementia, p_Male, AGE_pred in years, CDRSB_pred in points). Subjects
    without any modality of `subset` are left out.
    """
    if len(subjects) != len(present):
        raise ValueError(f"{len(subjects)} subjects do not fit {len(present)} rows of embeddings")
    out = fuse(model, embeddings, present, subset)
    table = subjects[["case", "DX", "PTGENDER", "AGE", "CDRSB"]].reset_index(drop=True)
    table[[f"p_{name}" for name in DX]] = out["dx3"].softmax(dim=1).double().numpy()
    table["p2_Dementia"] = out["dx2"].softmax(dim=1)[:, 1].double().numpy()
    table["p_Male"] = out["sex"].softmax(dim=1)[:, 1].double().numpy()
    table["AGE_pred"] = out["age"].double().numpy() * scaler.age_std + scaler.age_mean
    table["CDRSB_pred"] = out["cdrsb"].double().numpy() * scaler.cdrsb_std + scaler.cdrsb_mean
    return table[table["p_CN"].notna()].reset_index(drop=True)


def predict_subsets(
    model: Memoir, embeddings: Tensor, present: Tensor, subjects: pd.DataFrame, scaler: Scaler,
    subsets: Sequence[Sequence[str]] = SUBSETS,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Predict from each of the seven subsets, or fewer: 't1+fa+clinical' -> table of `predict`."""
    return {"+".join(s): predict(model, embeddings, present, subjects, scaler, s) for s in subsets}


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights as safetensors; the file is whole or absent."""
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(path, durable=False) as temporary:
        save_file(weights, temporary)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into a model; MissingArtefactError, ValueError where it cannot."""
    if not Path(path).exists():
        raise MissingArtefactError(f"{path} is missing: run the chapter that trains it first")
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise several kinds
        what = f"{path} is damaged or of another model ({error}); delete it and train again"
        raise ValueError(what) from error


def load_trained(folder: Path, which: str = "best", device: str = "cpu") -> tuple[Memoir, Scaler]:
    """Load a model of stage 2 in evaluation mode, with the statistics of its train part."""
    with torch.device("meta"):  # first weights take a second to draw, and are written over
        model = Memoir()
    load_weights(model.to_empty(device=device), Path(folder) / f"{which}.safetensors")
    return model.eval(), Scaler(**read_json(Path(folder) / "scaler.json"))
