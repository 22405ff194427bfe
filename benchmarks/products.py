"""oneDNN against torch's own fp32 product on a CPU: `python benchmarks/products.py`.

The sizes are those of Gemma 3 270M in chapter 9: a layer's matrices for the tokens of four prompts,
and the logits of one token of each (262,144 columns). Repeats alternate; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import pandas as pd
import torch
from torch import nn

from memoir_book import onednn

SIZES = {
    "a prompt, into the MLP": (2000, 640, 2048),
    "a prompt, out of the MLP": (2000, 2048, 640),
    "logits of one token": (4, 640, 262144),
}


@torch.inference_mode()
def measure(rows: int, width: int, columns: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of both for (rows, width) times (width, columns)."""
    usual = nn.Linear(width, columns, bias=False).requires_grad_(False)
    faster = nn.Linear(width, columns, bias=False).requires_grad_(False)
    onednn.use(faster)
    x, spent = torch.randn(rows, width), dict[str, list[float]](torch=[], onednn=[])
    for _ in range(repeats + 1):  # the first warms up
        for name, layer in (("torch", usual), ("onednn", faster)):
            began = time.perf_counter()
            layer(x)
            spent[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(each[1:]) for name, each in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    table = pd.DataFrame({name: measure(*size, repeats) for name, size in SIZES.items()}).T
    table["times faster"] = table["torch"] / table["onednn"]
    print(table.round(2).to_string())
    print(f"milliseconds, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
