"""The book's figures: one style, one palette, a function per figure.

Colours are Okabe and Ito's, told apart by readers with any common colour vision.
Figures have an opaque white background, so that they read on light and dark pages.
"""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from .config import CHAPTERS, get_chapter

DX_COLOURS = {"CN": "#0072B2", "MCI": "#E69F00", "Dementia": "#D55E00"}
MODALITY_COLOURS = {"t1": "#56B4E9", "fa": "#009E73", "clinical": "#CC79A7", "fused": "#555555"}
PUBLISHED_COLOUR = "#999999"  # published figures are always grey


def use_style() -> None:
    """Set the book's matplotlib style for this kernel."""
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "legend.frameon": False,
            "image.cmap": "gray",
            "axes.prop_cycle": cycler(
                color=["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
            ),
        }
    )


def pipeline(number: str) -> Figure:
    """Draw the chapters in the order in which data flow, with one highlighted.

    Parameters
    ----------
    number : the chapter to highlight, such as '04'.

    Returns
    -------
    Figure : two rows of boxes, read left to right, narrow enough for a phone.
    """
    current = get_chapter(number)
    per_row = 6
    with plt.rc_context({"figure.constrained_layout.use": False}):
        figure, axes = plt.subplots(figsize=(7.2, 1.9))
    axes.set(xlim=(0, per_row * 1.2), ylim=(0, 2), xticks=[], yticks=[])
    axes.axis("off")
    centres = []
    for place, chapter in enumerate(CHAPTERS):
        row, column = divmod(place, per_row)
        x, y = column * 1.2 + 0.6, 1.5 - row
        here = chapter == current
        axes.add_patch(
            FancyBboxPatch(
                (x - 0.46, y - 0.32),
                0.92,
                0.64,
                boxstyle="round,pad=0.02,rounding_size=0.08",
                facecolor="#0072B2" if here else "#F2F2F2",
                edgecolor="#0072B2" if here else "#BBBBBB",
            )
        )
        title = chapter.title.replace(": ", ":\n").replace(" and ", "\nand ")
        if "\n" not in title and " " in title:
            title = "\n".join(title.rsplit(" ", 1))
        colour = "white" if here else "#333333"
        axes.text(x, y + 0.18, chapter.number, ha="center", va="center", color=colour, size=8)
        axes.text(x, y - 0.1, title, ha="center", va="center", color=colour, size=7)
        centres.append((x, y))
    for (x0, y0), (x1, y1) in pairwise(centres):
        if y0 == y1:
            ends = ((x0 + 0.48, y0), (x1 - 0.48, y1))
            style = "arc3"
        else:  # from the end of the first row to the start of the second
            ends = ((x0, y0 - 0.34), (x1, y1 + 0.34))
            style = "bar,fraction=0"
        axes.add_patch(
            FancyArrowPatch(
                *ends,
                arrowstyle="-|>",
                mutation_scale=8,
                color="#999999",
                connectionstyle=style if style == "arc3" else "arc3,rad=0",
                linewidth=1,
            )
        )
    return figure
