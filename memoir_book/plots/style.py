"""One style, one palette, and the pieces that several figures share.

Colours are Okabe and Ito's, told apart by readers with any common colour vision.
Figures have an opaque white background, so that they read on light and dark pages.
"""

import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from matplotlib.figure import Figure
from matplotlib.text import Text

from memoir_core.config import DX

from .. import published
from ..dataset import Dataset

BLUE, RED = "#0072B2", "#D55E00"
LIMIT = "#B00000"  # chance, flags, what is lost
PUBLISHED: dict[str, Any] = {"color": "#999999", "label": "published (ADNI)"}  # always grey
PICTURES: dict[str, Any] = {"subplot_kw": {"xticks": [], "yticks": [], "frame_on": False}}
PICTURES["subplot_kw"] |= {"anchor": "N"}  # titles of a row stand at one height
COLOURS: dict[Any, str] = published.load("colours.json")  # of classes, modalities, verdicts
DX_COLOURS = {name: COLOURS[name] for name in DX}

_reword: Callable[[str, bool], str] = Dataset().reword


def use_style(reword: Callable[[str, bool], str] = _reword) -> None:
    """Set the book's matplotlib style for this kernel, and let figures carry their alt text.

    reword : what a cohort calls its images and classes, see `Dataset.reword`.
    """
    global _reword
    _reword = reword
    if (shell := get_ipython()) is not None:
        shell.display_formatter.mimebundle_formatter.for_type(Figure, _alt_text)
    plt.style.use(Path(__file__).with_name("book.mplstyle"))


def _alt_text(figure: Figure) -> tuple[dict, dict]:
    """Give a figure's words, else its titles and axes' names, as metadata of IPython's PNG."""
    parts = [figure.get_suptitle()]
    parts += [t for ax in figure.axes for t in (ax.get_title(), ax.get_ylabel(), ax.get_xlabel())]
    words = str(figure.get_label()) or "Figure: " + "; ".join(dict.fromkeys(filter(None, parts)))
    return {}, {"image/png": {"alt": " ".join(words.split())}}


def describe(figure: Any, words: str) -> Figure:
    """Say in words what a figure shows; notebooks and pages use them as its alt text."""
    figure.set_label(words)
    if "synthetic" in words:  # is not of this cohort, or needs no other words
        return figure
    classes = "published" not in words  # which are ADNI's
    figure.set_label(_reword(words, classes))
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        names = [text.get_text() for text in axis.get_ticklabels()]
        if names != (new := [_reword(name, classes) for name in names]):
            axis.set_ticks(axis.get_ticklocs(), new)
    for text in figure.findobj(Text):
        text.set_text(_reword(text.get_text(), classes))
    return figure


def finish(figure: Figure, title: str, words: str) -> Figure:
    """Set the title, which says where the numbers come from, and the words for the ear."""
    figure.suptitle(title, size=9, color="#555555")
    return describe(figure, f"{words} {title}.")


def listed(values: pd.Series, form: str = ".2f") -> str:
    """Write a series as 'CN 0.71, MCI 0.65'."""
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def rows_of(table: pd.DataFrame, form: str = ".2f") -> str:
    """Write a table as 'smoke: CN 0.71, MCI 0.65; quick: CN 0.72, MCI 0.60'."""
    return "; ".join(f"{name}: {listed(row, form)}" for name, row in table.iterrows())


def above(ax: plt.Axes, columns: int) -> None:
    """Put the legend above the axes, where it covers no bar."""
    ax.legend(ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def below(ax: plt.Axes, columns: int) -> None:
    """Put one axis' legend below the whole figure."""
    handles = ax.get_legend_handles_labels()
    ax.figure.legend(*handles, ncols=columns, loc="outside lower center", columnspacing=1)


def name_rows(ax: plt.Axes, labels: Iterable[str], xlabel: str = "") -> None:
    """Name rows beside the axis, first on top; long names are broken, or no room is left."""
    space = "\N{NO-BREAK SPACE}"  # 'n = 30' stays on one line
    whole = (str(label).replace(" = ", f"{space}={space}") for label in labels)
    broken = [textwrap.fill(label, 36, break_on_hyphens=False) for label in whole]
    ax.set(yticks=range(len(broken)), yticklabels=broken, xlabel=xlabel, ylabel="")
    ax.set_ylim(max(1, len(broken)) - 0.5, -0.5)


def reach(rows: pd.DataFrame, value: str = "value", low: str = "low", high: str = "high") -> Any:
    """Distances (2, n) of an interval's ends from the value, as `errorbar` wants them."""
    return np.abs(rows[[low, high]].to_numpy(float).T - rows[value].to_numpy(float))
