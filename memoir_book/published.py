"""The published figures, from one data file, and tables that set a run beside them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

FILE = Path(__file__).with_name("published.json")


@cache
def load() -> dict[str, Any]:
    """Read published.json: every figure of the project page that the book compares with."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def figure(path: str) -> Any:
    """Look one figure up, such as 'results_all_modalities/dx3/balanced_accuracy'.

    A wrong path: KeyError, which names what there is instead.
    """
    value: Any = load()
    for part in path.split("/"):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(value) if isinstance(value, dict) else "a plain value"
            raise KeyError(f"published.json has no {path!r}: {part!r} is not among {there}")
        value = value[part]
    return value


def compare(rows: list[dict[str, Any]], label: str) -> pd.DataFrame:
    """Set this run's figures beside the published ones, as text, narrow enough for a phone.

    Parameters
    ----------
    rows : one dict per figure: 'figure' (its name), 'published' and 'this run' (numbers or
        None where there is none), and optionally 'low', 'high' (95 % interval) and 'n'.
    label : where this run's figures come from (`Run.label`); the name of the columns.
    """
    table = []
    for row in rows:
        value, known = _text(row.get("this run")), row.get("published")
        if row.get("low") is not None and value != "not measured":
            value += f" ({_text(row['low'])} to {_text(row['high'])})"
        cells = {"figure": row["figure"], "published": "none" if known is None else _text(known)}
        cells["this run (95 % interval)"] = value
        table.append(cells | {key: row[key] for key in ("n",) if key in row})
    frame = pd.DataFrame(table).set_index("figure").rename_axis(None)
    return frame.rename_axis(columns=f"this run: {label}")


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN is the only value unlike itself
        return "not measured"
    if isinstance(value, int) or (value >= 100 and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"
