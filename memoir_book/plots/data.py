"""Figures of the cohort, the volumes and the way through the book."""

from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ..chapters import CHAPTERS, get_chapter
from . import style

DX = list(style.DX_COLOURS)


def pipeline(number: str) -> Figure:
    """Draw the chapters in three rows, as data flow, the one of `number` ('04') highlighted."""
    figure, ax = plt.subplots(figsize=(5.2, 2.7), layout="none")
    ax.set(xlim=(0, 5.2), ylim=(0, 2.7))
    ax.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    centres = [(i % 4 * 1.3 + 0.65, 2.3 - i // 4 * 0.92) for i in range(len(CHAPTERS))]
    for (x, y), chapter in zip(centres, CHAPTERS, strict=True):
        here = chapter == get_chapter(number)
        face, edge, ink = (style.BLUE,) * 2 + ("white",) if here else ("#F2F2F2", "#BBB", "#222")
        form = "round,pad=0.02,rounding_size=0.08"
        ax.add_patch(FancyBboxPatch((x - 0.53, y - 0.3), 1.06, 0.6, form, fc=face, ec=edge))
        title = chapter.title.replace(": ", ":\n").replace(" and ", "\nand ")
        title = title if "\n" in title else "\n".join(title.rsplit(" ", 1))
        for text, height in ((chapter.number, 0.19), (title, -0.09)):
            ax.text(x, y + height, text, ha="center", va="center", color=ink, size=8.4)
    for (x0, y0), (x1, y1) in pairwise(centres):
        start, end = (x0 + 0.55, y0), (x1 - 0.55, y1)
        if y0 != y1:  # from the end of a row to the start of the next, between the two
            start, end = (x1, (y0 + y1) / 2), (x1, y1 + 0.34)
            ax.plot([x0, x0, x1], [y0 - 0.32, start[1], start[1]], color="#777777", lw=1)
        arrow: Any = {"arrowstyle": "-|>", "mutation_scale": 8, "color": "#777777"}
        ax.add_patch(FancyArrowPatch(start, end, lw=1, **arrow))
    order = ", ".join(f"{c.number} {c.title}" for c in CHAPTERS)
    return style.describe(figure, f"The chapters in order, {number} highlighted: {order}.")


def distributions(cohort: pd.DataFrame, fields: dict[str, str], title: str) -> Figure:
    """Draw columns (name -> what it is called) per class as violins with quartiles."""
    columns, rows = min(3, len(fields)), -(-len(fields) // 3)
    figure, axes = plt.subplots(rows, columns, figsize=(7.2, 2.2 * rows + 0.4), squeeze=False)
    for ax, (name, called) in zip(axes.flat, fields.items(), strict=False):
        sns.violinplot(
            cohort, x="DX", y=name, hue="DX", order=DX, palette=style.DX_COLOURS,
            inner="quart", cut=0, linewidth=0.8, legend=False, ax=ax,
        )  # fmt: skip
        ax.set(xlabel="", ylabel="", title=called)
    medians = cohort.groupby("DX")[[*fields]].median().loc[DX].rename(columns=fields)
    words = f"Violins per diagnosis. Medians, {style.rows_of(medians.T, '.3g')}."
    return style.finish(figure, title, words)


def brain_rows(volumes: dict, title: str, under: np.ndarray | None = None, bar: str = "") -> Figure:
    """Show volumes (X, Y, Z) as rows of axial, coronal and sagittal slices.

    Over a brain `under`, of the same field of view, they are maps with a sign, and `bar` names it.
    """
    size: Any = {"figsize": (6.4, 2.1 * len(volumes)), "gridspec_kw": {"wspace": 0}}
    figure, axes = plt.subplots(len(volumes), 3, squeeze=False, **size, **style.PICTURES)
    top = max(float(np.abs(v).max()) for v in volumes.values()) or 1.0
    for row, (name, volume) in zip(axes, volumes.items(), strict=True):
        how: Any = {"vmin": min(0, volume.min()), "vmax": np.percentile(volume, 99.7)}
        if under is not None:
            how = {"cmap": "RdBu_r", "vmin": -top, "vmax": top, "alpha": 0.55}
        for values, look in [(under, {})] * (under is not None) + [(volume, how)]:
            x, y, z = (np.array(values.shape) * (0.35, 0.5, 0.47)).astype(int)
            for ax, image in zip(row, (values[:, :, z], values[:, y], values[x]), strict=True):
                ends = (0, 1, 0, image.shape[1] / image.shape[0])  # grids of any step fit
                shown = ax.imshow(np.rot90(image.astype(np.float32)), extent=ends, **look)
        row[0].set_ylabel(name, size=9)
    if under is not None:
        figure.colorbar(shown, ax=axes, shrink=0.6, label=bar)
    for ax, view in zip(axes[0], ("axial", "coronal", "sagittal"), strict=True):
        ax.set_title(view, size=9)
    words = f"Axial, coronal and sagittal slices, one row each: {', '.join(volumes)}."
    return style.finish(figure, title, words)
