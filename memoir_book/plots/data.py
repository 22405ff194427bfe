"""Figures of the cohort, the volumes and the way through the book."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML, display
from matplotlib.figure import Figure

from ..chapters import ROOT, get_chapter
from . import style

DX = list(style.DX_COLOURS)


def pipeline(number: str) -> None:
    """Show the model in small, with what flows through it; chapter `number` ('04') is outlined.

    `tests/draw_pipeline.py` draws the picture, from one case of a synthetic run.
    """
    drawn = (ROOT / "book" / "_static" / "pipeline_small.svg").read_text(encoding="utf-8")
    display(HTML(drawn.replace("CHAPTER", get_chapter(number).number)))


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
