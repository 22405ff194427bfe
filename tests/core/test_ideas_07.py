"""Chapter 7's alignment step, written out, is the core's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ideas import idea
from people import people
from test_text import new_text_encoder

from memoir_book import weights
from memoir_core import text
from memoir_core.captions import caption_rows


def test_the_alignment_step_is_the_core_s():
    table = people(24)
    rows = caption_rows(table)
    found = weights.find("minilm")
    names = {
        "wordings": [(row["caption"], row["caption_blind"]) for row in rows],
        "part": {"train": np.arange(2, 8)},
        "z_fused": text.unit_rows(np.random.default_rng(0).normal(size=(24, 512))),
        **{"text": text, "quiet": weights.quiet, "np": np, "torch": torch, "F": F},
        **{"found": found, "mlm": text.load_mlm(found.path, seed=0)},
        "book": type("Book", (), {"device": "cpu", "seed": 0}),
    }
    names = idea("07", "log_scale", new_text_encoder=new_text_encoder, **names)

    encoder = new_text_encoder(found.path, "cpu", 0, names["mlm"])
    log_scale = torch.nn.Parameter(torch.tensor(np.log(1 / 0.07)).float())
    optimiser = torch.optim.AdamW([*encoder.parameters(), log_scale], lr=1e-4)
    losses = []
    own = [row["caption"] for row in rows[2:8]]
    for _ in range(3):
        loss = text.alignment_loss(encoder, own, torch.from_numpy(names["z_fused"][2:8]), log_scale)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert names["losses"] == pytest.approx(losses, rel=1e-4)
    assert losses[2] < losses[0]
    a, b = names["student"][-2].linear.weight, encoder[-2].linear.weight
    assert (torch.isclose(a, b, atol=1e-6).float().mean()) > 0.98  # Adam enlarges rounding
