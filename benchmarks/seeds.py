"""Put several finished runs side by side: `python benchmarks/seeds.py q0 q1 q2`.

Reads the results of chapters 4 to 6 only. `--json FILE` also stores them with device and
versions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from memoir_core import config
from memoir_core.artefacts import read_json, write_json

ROWS = (
    ("t1+fa+clinical", "dx3"),
    ("clinical", "dx3"),
    ("t1+fa", "dx3"),
    ("t1", "dx3"),
    ("fa", "dx3"),
    ("t1+fa+clinical", "dx2"),
    ("t1", "dx2"),
)


def one(name: str) -> dict:
    """Collect one run's headline figures."""
    folder = config.runs_dir() / name
    results = {n: read_json(folder / "results" / f"{config.get_chapter(n).name}.json")
               for n in ("04", "05", "06")}  # fmt: skip
    table = pd.read_csv(folder / "ablation.csv").set_index(["subset", "task"])
    found = table[["value", "low", "high"]].T.to_dict()
    figures = {f"{task} {subset}": found[subset, task] for subset, task in ROWS}
    gain = results["06"]["results"]["stage1_gain_dx3"]
    return {
        "run": name,
        "provenance": results["05"]["provenance"],
        "seconds": {n: results[n]["seconds"] for n in results},
        "figures": figures,
        "gain of stage 1, dx3": {k: gain[k] for k in ("t1+fa+clinical", "t1+fa", "t1")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    found = [one(name) for name in options.runs]
    rows = {}
    for run in found:
        column = {k: f"{v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})"
                  for k, v in run["figures"].items()}  # fmt: skip
        column |= {
            f"stage 1 adds, {k}": f"{v:+.3f}" for k, v in run["gain of stage 1, dx3"].items()
        }
        column |= {f"seconds, chapter {k}": f"{v:.0f}" for k, v in run["seconds"].items()}
        rows[run["run"]] = column
    print(pd.DataFrame(rows).to_string())
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
