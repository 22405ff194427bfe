"""Figures of results: values with intervals, retrieval, verdicts."""

from collections.abc import Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from . import style
from .style import BLUE, LIMIT, PUBLISHED, RED


def stacked_bars(table: pd.DataFrame, axis: str, title: str) -> Figure:
    """Stack a table's columns as bars, one row of the table each: counts, or shares of one."""
    figure, ax = plt.subplots(figsize=(6.8, 0.4 * len(table) + 1.3))
    colours: Any = [style.COLOURS[name] for name in table if name in style.COLOURS]
    if len(table):  # of no rows, pandas draws nothing
        table.plot.barh(stacked=True, ax=ax, width=0.75, legend=False, color=colours or None)
    style.name_rows(ax, table.index, axis)
    if "f" in {dtype.kind for dtype in table.dtypes}:
        ax.set_xlim(0, 1)
        words = style.rows_of(table)
    else:
        ax.locator_params("x", integer=True)
        words = style.rows_of(table, "d")
        for drawn in cast(Any, ax.containers):
            texts = [f"{n:.0f}" if n else "" for n in drawn.datavalues]
            box = {"fc": "white", "ec": "none", "pad": 1, "alpha": 0.8}
            ax.bar_label(drawn, texts, label_type="center", size=8, bbox=box)
    style.below(ax, 4)
    return style.finish(figure, title, f"Stacked bars, {axis}. {words}.")


def interval_bars(
    table: pd.DataFrame, label: str, axis: str, title: str,
    values: Sequence[str] = ("value",), zero: float | None = None,
) -> Figure:  # fmt: skip
    """Draw a dot with its interval per row and value, named by the columns `label` and n.

    The ends are in columns such as value_low and value_high, or low and high. `zero`: where to
    draw a reference line. Values in a column 'published' are drawn in grey, of 'ceiling' in black.
    """
    figure, ax = plt.subplots(figsize=(6.7, (0.2 + 0.14 * len(values)) * len(table) + 1.1))
    y, drawn = np.arange(len(table)), table.set_index(label)
    for place, value in enumerate(values):
        own = f"{value}_" if f"{value}_low" in table else ""
        error = style.reach(table, value, f"{own}low", f"{own}high")
        how: dict = {"fmt": "os"[place], "color": (BLUE, RED)[place]}
        how["label"] = value if own else "this run (95 % interval)"
        ax.errorbar(table[value], y + 0.24 * place - 0.12 * (len(values) - 1), xerr=error, **how)
    if zero is not None:
        ax.axvline(zero, color="#888888", ls="--", lw=1)
    elif table[[*values]].to_numpy(float).max() <= 1:
        ax.set_xlim(0, 1.02)
    known = drawn["published"].dropna() if "published" in table else table["n"][:0]
    if len(known):
        ax.scatter(table["published"], y, marker="D", s=28, zorder=3, **PUBLISHED)
    if top := "ceiling" in table:
        ax.scatter(table["ceiling"], y, marker="|", s=260, c="black", zorder=4, label="ceiling")
    if len(known) or len(values) > 1 or top:
        ax.grid(axis="y", color="#EEEEEE", lw=1)
        style.above(ax, 2 + top)
    names = [f"{name} (n = {n:.0f})" for name, n in zip(table[label], table["n"], strict=True)]
    style.name_rows(ax, names, axis)
    ax.tick_params(axis="y", labelsize=9)
    words = f"Dots with intervals, {axis}. {style.rows_of(drawn[[*values]])}"
    words += f"; ceiling: {style.listed(drawn['ceiling'].dropna())}" if top else ""
    words += f"; published: {style.listed(known)}." if len(known) else "."
    return style.finish(figure, title, words)


def grouped_bars(
    rows: pd.DataFrame, label: str, by: str, axis: str, title: str, chance: float | None = None
) -> Figure:
    """Draw values as bars with intervals, named by a column, coloured by another.

    `rows`: also with columns value, low, high, and published, which is drawn in grey; and
    one_class, where there is such: the class that everybody was given, written into the bar.
    """
    rows = rows if "one_class" in rows else rows.assign(one_class="")
    names, groups = (rows[column].unique().tolist() for column in (label, by))
    figure, ax = plt.subplots(figsize=(6.8, (0.18 + 0.22 * len(groups)) * len(names) + 1.4))
    height, parts, light = 0.8 / len(groups), [], 0.12 * max(1, rows["value"].max())
    for place, group in enumerate(groups):
        part, colour = rows[rows[by] == group], sns.color_palette("colorblind")[place]
        y, error = part[label].map(names.index) - 0.4 + (place + 0.5) * height, style.reach(part)
        ax.barh(y, part["value"], height * 0.9, xerr=error, color=colour, label=group)
        for at, value, said in zip(y, part["value"], part["one_class"], strict=True):
            ink = "white" if value > light else "black"  # a bar of 0 cannot be seen
            text = f"{value:.2f}, all {said}" if said else f"{value:.2f}"
            ax.text(0.08 * light, at, text, va="center", fontsize=7, color=ink)
        parts.append(f"{group}: {style.listed(part.set_index(label)['value'])}")
        same = part[part["one_class"] != ""].set_index(label)["one_class"]
        parts += [f"one class for all, {group}: {style.listed(same, '')}"] if len(same) else []
    known = rows.dropna(subset=["published"]).set_index(label)["published"]
    if len(known):
        ax.scatter(known, known.index.map(names.index), marker="D", s=24, zorder=3, **PUBLISHED)
        parts.append(f"published: {style.listed(known)}")
    if chance is not None:
        ax.axvline(chance, color=LIMIT, ls="--", lw=1, label="chance")
        ax.set_xlim(0, 1)
    style.name_rows(ax, names, axis)
    style.below(ax, 3)
    return style.finish(figure, title, f"Bars of {axis}. {'; '.join(parts)}.")
