"""The book's figures: one style, one palette, a function per figure.

Colours are Okabe and Ito's, told apart by readers with any common colour vision.
Figures have an opaque white background, so that they read on light and dark pages.
"""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from .config import CHAPTERS, SCORES, get_chapter

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


def cohort_flow(flow: list[dict], label: str) -> Figure:
    """Draw the filter steps as boxes, top to bottom, with what each one removes."""
    with plt.rc_context({"figure.constrained_layout.use": False}):
        figure, axes = plt.subplots(figsize=(6.4, 1.15 * len(flow)))
    axes.set(xlim=(0, 10), ylim=(-len(flow), 0))
    axes.axis("off")
    for place, step in enumerate(flow):
        y = -place - 0.5
        box = FancyBboxPatch(
            (0.2, y - 0.3), 5.6, 0.6, boxstyle="round,pad=0.02", fc="#F2F2F2", ec="#888888"
        )
        axes.add_patch(box)
        text = f"{step['step']}\n{step['rows']:,} rows, {step['subjects']:,} subjects"
        axes.text(3, y, text, ha="center", va="center", size=9)
        counts = ", ".join(f"{dx} {step[dx]:,}" for dx in DX_COLOURS)
        axes.text(6.1, y, counts, ha="left", va="center", size=8, color="#555555")
        if place:
            lost = flow[place - 1]["rows"] - step["rows"]
            axes.annotate(
                "",
                (3, y + 0.32),
                (3, y + 0.68),
                arrowprops={"arrowstyle": "-|>", "color": "#888888"},
            )
            axes.text(3.2, y + 0.5, f"{lost:,} rows removed", va="center", size=8, color="#B00000")
    axes.set_title(label, size=9, color="#555555")
    return figure


def score_distributions(cohort: pd.DataFrame, label: str) -> Figure:
    """Draw each score's distribution per class as violins with quartiles."""
    import seaborn as sns

    names = [*SCORES, "AGE"]
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.4))
    for ax, name in zip(axes.flat, names, strict=True):
        sns.violinplot(
            cohort, x="DX", y=name, hue="DX", order=list(DX_COLOURS), palette=DX_COLOURS,
            inner="quart", cut=0, linewidth=0.8, legend=False, ax=ax,
        )  # fmt: skip
        ax.set(xlabel="", ylabel="", title=name)
    figure.suptitle(label, size=9, color="#555555")
    return figure


def missingness(cohort: pd.DataFrame, label: str) -> Figure:
    """Draw which field is missing for how many subjects of each class, in percent."""
    import seaborn as sns

    fields = [*SCORES, "APOE4", "fa_path"]
    share = cohort[fields].isna().groupby(cohort["DX"]).mean().loc[list(DX_COLOURS)] * 100
    figure, ax = plt.subplots(figsize=(6.4, 2.2))
    sns.heatmap(share, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, ax=ax,
                cbar_kws={"label": "missing (%)"})  # fmt: skip
    ax.set(ylabel="", title=label)
    ax.title.set(size=9, color="#555555")
    return figure


def brain_rows(volumes: dict[str, np.ndarray], title: str) -> Figure:
    """Show volumes as rows of axial, coronal and sagittal middle slices.

    Parameters
    ----------
    volumes : name -> (X, Y, Z) array.
    """
    figure, axes = plt.subplots(
        len(volumes), 3, figsize=(6.4, 2.1 * len(volumes)), squeeze=False, gridspec_kw={"wspace": 0}
    )
    for row, (name, volume) in zip(axes, volumes.items(), strict=True):
        x, y, z = (n // 2 for n in volume.shape)
        slices = (volume[:, :, int(z * 0.95)], volume[:, y, :], volume[int(x * 0.7), :, :])
        top = np.percentile(volume, 99.7)
        for ax, image, view in zip(row, slices, ("axial", "coronal", "sagittal"), strict=True):
            ax.imshow(np.rot90(image.astype(np.float32)), vmin=min(0, volume.min()), vmax=top)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if row is axes[0]:
                ax.set_title(view, size=9)
        row[0].set_ylabel(name, size=9)
    figure.suptitle(title, size=9, color="#555555")
    return figure


def qc_mosaic(volumes: np.ndarray, names: list[str], flagged: list[bool], title: str) -> Figure:
    """Show a middle axial slice of many volumes; flagged ones get a red frame."""
    columns = 8
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7.2, 1.05 * rows + 0.4), squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, volume, name, bad in zip(axes.flat, volumes, names, flagged, strict=False):
        ax.imshow(np.rot90(volume[:, :, volume.shape[2] // 2].astype(np.float32)))
        ax.set_title(name, size=6, pad=2, color="#B00000" if bad else "#333333")
        if bad:
            ax.spines[:].set(visible=True, color="#B00000", linewidth=2)
    figure.suptitle(title, size=9, color="#555555")
    return figure


def attention_bars(weights: pd.DataFrame, title: str) -> Figure:
    """Draw mean attention on each modality; rows are subsets, columns modalities."""
    figure, ax = plt.subplots(figsize=(6.4, 0.45 * len(weights) + 1.0))
    left = np.zeros(len(weights))
    for name in weights:
        ax.barh(
            weights.index, weights[name], left=left, color=MODALITY_COLOURS[str(name)], label=name
        )
        left += weights[name].to_numpy()
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="attention of the pool query")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.suptitle(title, size=9, color="#555555")
    return figure


def similarity(before: np.ndarray, after: np.ndarray, names: tuple[str, str], title: str) -> Figure:
    """Show two (N, N) cosine-similarity matrices side by side; the diagonal is the match."""
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.4), sharey=True)
    for ax, matrix, when in zip(axes, (before, after), ("before", "after"), strict=True):
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set(xlabel=names[1], title=f"{when} stage 1")
    axes[0].set_ylabel(names[0])
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    figure.suptitle(title, size=9, color="#555555")
    return figure


def history_curves(
    history: pd.DataFrame, panels: dict[str, list[str]], title: str, best: int | None = None
) -> Figure:
    """Draw columns of a training history against the epoch.

    Parameters
    ----------
    panels : panel title -> columns to draw in it.
    best : epoch of the chosen checkpoint, drawn as a dashed line.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 2.9), squeeze=False)
    for ax, (name, columns) in zip(axes[0], panels.items(), strict=True):
        for column in columns:
            ax.plot(history["epoch"], history[column], marker="o", ms=3, label=column)
        if best is not None:
            ax.axvline(best, color="#888888", ls="--", lw=1, label=f"chosen: epoch {best}")
        ax.set(xlabel="epoch", title=name)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(fontsize=7)
    figure.suptitle(title, size=9, color="#555555")
    return figure


def confusion_matrix(counts: np.ndarray, title: str, ax: plt.Axes | None = None) -> Figure:
    """Draw a confusion matrix with counts and row percentages; rows are the truth."""
    if ax is None:
        _, ax = plt.subplots(figsize=(3.4, 3.2))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(counts):
        colour = "white" if share[i, j] > 0.55 else "#222222"
        ax.text(j, i, f"{n}\n{share[i, j]:.0%}", ha="center", va="center", color=colour, size=9)
    names = list(DX_COLOURS)
    ax.set(xticks=range(3), yticks=range(3), xticklabels=names, yticklabels=names)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_title(title, size=9)
    ax.spines[:].set_visible(False)
    return ax.get_figure()  # type: ignore[return-value]


def roc_and_calibration(table: pd.DataFrame, title: str) -> Figure:
    """Draw ROC curves (each class against the rest, CN against Dementia) and reliability."""
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import RocCurveDisplay

    figure, axes = plt.subplots(1, 2, figsize=(7.0, 3.3))
    for name, colour in DX_COLOURS.items():
        RocCurveDisplay.from_predictions(
            table["DX"] == name, table[f"p_{name}"], name=f"{name} v rest", ax=axes[0],
            curve_kwargs={"color": colour},
        )  # fmt: skip
    ends = table[table["DX"] != "MCI"]
    truth = ends["DX"] == "Dementia"
    RocCurveDisplay.from_predictions(
        truth, ends["p2_Dementia"], name="CN v Dementia", ax=axes[0],
        curve_kwargs={"color": "#333333", "ls": "--"}, plot_chance_level=True,
    )  # fmt: skip
    axes[0].set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    axes[0].legend(fontsize=6, loc="lower right")
    share, predicted = calibration_curve(truth, ends["p2_Dementia"], n_bins=5, strategy="quantile")
    axes[1].plot([0, 1], [0, 1], color="#AAAAAA", ls="--", lw=1)
    axes[1].plot(predicted, share, marker="o", color="#333333")
    axes[1].set(xlabel="predicted probability of Dementia", ylabel="observed share",
                title="calibration, CN v Dementia", xlim=(0, 1), ylim=(0, 1))  # fmt: skip
    figure.suptitle(title, size=9, color="#555555")
    return figure


def ablation_bars(ablation: pd.DataFrame, task: str, chance: float | None, title: str) -> Figure:
    """Draw one task's value per modality subset with intervals, beside the published bars."""
    rows = ablation[ablation["task"] == task].reset_index(drop=True)
    figure, ax = plt.subplots(figsize=(6.4, 3.6))
    y = np.arange(len(rows))
    error = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
    ax.barh(y - 0.2, rows["value"], 0.38, xerr=error, color="#0072B2", label="this run",
            error_kw={"lw": 1, "capsize": 2})  # fmt: skip
    if rows["published"].notna().any():
        ax.barh(y + 0.2, rows["published"], 0.38, color=PUBLISHED_COLOUR, label="published (ADNI)")
    if chance is not None:
        ax.axvline(chance, color="#B00000", ls="--", lw=1, label="chance")
    ax.set(yticks=y, yticklabels=rows["subset"], xlabel=f"{task} {rows['metric'][0]}")
    ax.invert_yaxis()
    ax.legend(fontsize=8, loc="lower center", ncols=3, bbox_to_anchor=(0.5, 1.0))
    figure.suptitle(title, size=9, color="#555555")
    return figure
