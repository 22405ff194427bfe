"""The trained network of a synthetic run for the pages, where `try.js` computes with it."""

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import normalize

from memoir_core.cohort import load_cohort
from memoir_core.config import SCORES
from memoir_core.files import read_json, read_jsonl
from memoir_core.inference import load_trained, predict_subsets
from memoir_core.model import Memoir

from . import chapters, privacy, store
from .messages import say


@torch.no_grad()
def export(name: str, settings: Mapping[str, Any], path: Path) -> None:
    """Write clinical encoder, fusion, heads and 40 test cases of a finished run as a script, 3 MB.

    Raises PrivateDataError where the run holds real people: weights and embeddings tell of them.
    """
    if store.is_private(name, settings):
        raise privacy.PrivateDataError(say("no live model", name=name))
    run = chapters.runs_dir() / name
    (network, scaler), cohort = load_trained(run / "stage2"), load_cohort(run / "cohort.parquet")
    with np.load(run / "stage2" / "embeddings.npz", allow_pickle=False) as stored:
        z, present, z_fused = (torch.tensor(stored[k]) for k in ("z", "present", "z_fused"))
    asked = cohort[cohort["split"] == "test"].sort_values(["DX", "case"])  # some of each class
    asked = asked.iloc[np.unique(np.linspace(0, len(asked) - 1, 40).round().astype(int))]
    train = cohort.loc[cohort["split"] != "test", ["case", "DX"]]
    texts = {row["case"]: row["caption"] for row in read_jsonl(run / "captions.jsonl")}
    some, index = asked["case"].tolist(), normalize(z_fused[train["case"].tolist()])
    told = {
        "label": read_json(run / "results/05_stage2_multitask.json")["provenance"]["label"],
        "scaler": vars(scaler),
        "ends": cohort[[*SCORES]].agg(["min", "max"]),
        "cases": asked[["case", "DX", "AGE", "PTGENDER", "APOE4", *SCORES]],
        "train": train.assign(caption=train["case"].map(texts)),
        # What the weights as trained say of these cases, to be compared with
        "trained": predict_subsets(network, z[some], present[some], asked, scaler),
        "five": (normalize(z_fused[some]) @ index.T).topk(5).indices.tolist(),
    }
    round_rows(arrays := shrink(network), "index", index, torch.int8)
    round_rows(arrays, "z", z[some, :2].flatten(0, 1), torch.int16)
    text = json.dumps(told, default=lambda table: json.loads(table.to_json(orient="records")))
    parts = {"told": text.encode(), "arrays": save(arrays)}
    packed = {k: base64.b64encode(zlib.compress(part, 9)).decode() for k, part in parts.items()}
    path.write_text(f"globalThis.MEMOIR_MODEL = {json.dumps(packed)};\n", encoding="utf-8")


def shrink(network: Memoir) -> dict[str, Tensor]:
    """Round the large matrices of a network in place to 8 bits.

    Returns all that the pages need. Of the query, the same for everybody, and the keys eight
    vectors are left, with which a token is compared: 'look', (heads, 512). A bias of the keys
    would add the same to each token, which no softmax sees.
    """
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(("t1.", "fa."))}
    of_query, of_key, of_value = state.pop("fusion.attention.in_proj_weight").chunk(3)
    bias, _, state["value.bias"] = state.pop("fusion.attention.in_proj_bias").chunk(3)
    keys = of_key.view(network.fusion.attention.num_heads, -1, of_key.shape[1])  # (8, 64, 512)
    query = (of_query @ state.pop("fusion.query").flatten() + bias).view(len(keys), 1, -1)
    state |= {"look": (query @ keys)[:, 0] / keys.shape[1] ** 0.5, "value.weight": of_value}
    for name, values in [*state.items()]:
        if values.ndim == 2 and values.numel() > 5000:
            values.copy_(round_rows(state, name, values, torch.int8))
    return state


def round_rows(arrays: dict[str, Tensor], name: str, values: Tensor, kind: torch.dtype) -> Tensor:
    """Keep a matrix as whole numbers and a scale per row, `name`.scale; returns what these hold."""
    scale = values.abs().amax(dim=1, keepdim=True).clamp(min=1e-9) / torch.iinfo(kind).max
    arrays |= {name: (values / scale).round().to(kind), f"{name}.scale": scale}
    return arrays[name] * scale
