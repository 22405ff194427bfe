"""The published figures, from one data file, and tables that set a run beside them."""

import json
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader


@cache
def load(name: str = "published.json") -> dict[str, Any]:
    """Read published.json, every figure that the book compares with, or another file beside it."""
    return json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def template(name: str) -> Any:
    """Read a Jinja template beside this file: HTML, in which every word is escaped, or Markdown."""
    how: dict = {"trim_blocks": True, "lstrip_blocks": True, "autoescape": ".html." in name}
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), **how)
    page.filters["number"] = number
    return page.get_template(name)


def figure(path: str) -> Any:
    """Look one up, such as 'results_all_modalities/dx3/auc'; KeyError for a wrong path."""
    return reduce(lambda found, part: found[part], path.split("/"), load())


def compare(rows: list[dict[str, Any]], label: str) -> pd.DataFrame:
    """Set this run's figures beside the published ones, as text, narrow enough for a phone.

    `rows` hold 'figure' (a name), 'published' and 'this run' (numbers, or None), and optionally
    'low', 'high' (95 % interval) and 'n'; `label` says where they come from (`Run.label`).
    """
    table = []
    for row in rows:
        value, known = number(row.get("this run")), row.get("published")
        if row.get("low") is not None and value != "not measured":
            value += f" ({number(row['low'])} to {number(row['high'])})"
        cells = {"published": number(known, "none"), "this run (95 % interval)": value}
        table.append(cells | {key: row[key] for key in ("n",) if key in row})
    frame = pd.DataFrame(table, index=[row["figure"] for row in rows])
    return frame.rename_axis(columns=f"this run: {label}")


def markdown(table: pd.DataFrame) -> str:
    """Columns and rows of a table as Markdown."""
    lines: list[list] = [list(table), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def number(value: Any, missing: str = "not measured") -> str:
    """Write a figure as short as it can be read: 1,890, 0.707, 3e-05; NaN and None: `missing`."""
    if value is None or value != value:  # NaN is the only value unlike itself
        return missing
    if float(value).is_integer():
        return f"{value:,.0f}"
    if abs(value) < 0.002:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 2 else f"{value:,.2f}"
