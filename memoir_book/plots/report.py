"""Figures that set a run beside the publication, and honest values beside leaky ones."""

from __future__ import annotations

from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import style
from .style import BLUE, LIMIT, PUBLISHED, RED


def published_ladder(rows: pd.DataFrame, title: str) -> Figure:
    """Draw published values (grey) and this run's (blue, with intervals) on one line each.

    `rows`: columns figure, published, value, low, high; all between 0 and 1.
    """
    figure, ax = plt.subplots(figsize=(6.8, 0.3 * len(rows) + 1.2))
    y = np.arange(len(rows))
    ax.hlines(y, 0, 1, color="#EEEEEE", lw=1, zorder=0)
    error, label = style.reach(rows), "this run (95 % interval)"
    ax.errorbar(rows["value"], y, xerr=error, fmt="o", color=BLUE, label=label)
    ax.scatter(rows["published"], y, marker="D", s=28, zorder=3, **PUBLISHED)
    style.name_rows(ax, rows["figure"])
    ax.set_xlim(0, 1)
    style.above(ax, 2)
    each = (f"{r.figure}: {r.value:.2f}, published {r.published:.2f}" for r in rows.itertuples())
    words = f"Dots of this run beside published diamonds. {'; '.join(each)}."
    return style.finish(figure, title, words)


def verdict_bars(counts: pd.DataFrame, title: str) -> Figure:
    """Draw how many figures of each chapter (rows) got which verdict (columns)."""
    figure, ax = plt.subplots(figsize=(6.8, 0.36 * len(counts) + 1.2))
    style.stacked(ax, counts, "published figures", ["#009E73", BLUE, RED, "#CCCCCC"])
    for drawn, verdict in zip(cast(Any, ax.containers), counts, strict=True):
        ink = "#222222" if verdict == "not comparable" else "white"
        texts = [str(n) if n else "" for n in counts[verdict]]
        ax.bar_label(drawn, texts, label_type="center", size=8, color=ink)
    style.below(ax, 4)
    words = f"Stacked bars, verdicts per chapter. In all: {style.listed(counts.sum(), 'd')}."
    return style.finish(figure, title, words)


def leakage_bars(table: pd.DataFrame, title: str, axis: str = "(balanced) accuracy") -> Figure:
    """Draw rows of leakage.csv: each honest value and what the leak makes of it."""
    figure, ax = plt.subplots(figsize=(6.8, 0.5 * len(table) + 1.2))
    styles = {"honest": (BLUE, "o", -0.12, "honest"), "leaky": (RED, "s", 0.12, "with the leak")}
    for kind, (colour, marker, shift, label) in styles.items():
        error, y = style.reach(table, kind, f"{kind}_low", f"{kind}_high"), np.arange(len(table))
        ax.errorbar(table[kind], y + shift, xerr=error, fmt=marker, color=colour, label=label)
    style.name_rows(ax, [f"{r.experiment} (n = {r.n})" for r in table.itertuples()], axis)
    ax.tick_params(axis="y", labelsize=9)
    if "accuracy" in axis:
        ax.set_xlim(0, 1.02)
    style.above(ax, 2)
    shown = table.set_index("experiment")[["honest", "leaky"]]
    values = style.rows_of(shown.rename(columns={"leaky": "with the leak"}))
    return style.finish(figure, title, f"Pairs of dots with intervals, {axis}. {values}.")


def interval_bars(
    table: pd.DataFrame, label: str, value: str, axis: str, title: str, zero: float | None = None
) -> Figure:
    """Draw one dot with its interval per row: columns `label`, `value`, low, high and n.

    `zero`: where to draw a reference line.
    """
    figure, ax = plt.subplots(figsize=(6.4, 0.34 * len(table) + 1.0))
    error = style.reach(table, value)
    ax.errorbar(table[value], np.arange(len(table)), xerr=error, fmt="o", color=BLUE)
    if zero is not None:
        ax.axvline(zero, color="#888888", ls="--", lw=1)
    names = [f"{name} (n = {n})" for name, n in zip(table[label], table["n"], strict=True)]
    style.name_rows(ax, names, axis)
    values = style.listed(table.set_index(label)[value])
    return style.finish(figure, title, f"Dots with intervals, {axis}: {values}.")


def drift_curve(table: pd.DataFrame, title: str) -> Figure:
    """Draw accuracy of the scores against the drift between diagnosis and scores."""
    figure, ax = plt.subplots(figsize=(5.6, 2.9))
    ax.fill_between(table["drift"], table["low"], table["high"], color=BLUE, alpha=0.2)
    ax.plot(table["drift"], table["value"], marker="o", color=BLUE)
    ax.axhline(1 / 3, color=LIMIT, ls="--", lw=1, label="chance")
    ax.set(xlabel="drift of severity between diagnosis and scores (SD)",
           ylabel="balanced accuracy", ylim=(0.3, 1.02))  # fmt: skip
    ax.legend()
    points = ", ".join(f"{r.value:.2f} at {r.drift:g}" for r in table.itertuples())
    words = f"Falling curve: balanced accuracy against the drift. {points}."
    return style.finish(figure, title, words)
