"""Figures of the network: attention, trainings, heads, ablation, embeddings."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.decomposition import PCA
from sklearn.metrics import RocCurveDisplay

from . import style
from .style import BLUE, LIMIT, PUBLISHED, RED


def attention_bars(weights: pd.DataFrame, title: str) -> Figure:
    """Draw mean attention on each modality; rows are subsets, columns modalities."""
    figure, ax = plt.subplots(figsize=(6.4, 0.45 * len(weights) + 1.0))
    colours = [style.MODALITY_COLOURS[str(name)] for name in weights]
    style.stacked(ax, weights, "attention of the pool query", colours)
    ax.set_xlim(0, 1)
    style.above(ax, 3)
    words = f"Stacked bars: mean attention on each modality, per subset. {style.rows_of(weights)}."
    return style.finish(figure, title, words)


def similarity(before: np.ndarray, after: np.ndarray, names: tuple[str, str], title: str) -> Figure:
    """Show two (N, N) cosine-similarity matrices side by side; the diagonal is the match."""
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.4), sharey=True)
    for ax, matrix, when in zip(axes, (before, after), ("before", "after"), strict=True):
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set(xlabel=names[1], title=f"{when} stage 1")
    axes[0].set_ylabel(names[0])
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    words = f"Matrices of cosine similarity, {names[0]} by {names[1]}, before and after stage 1."
    return style.finish(figure, title, words)


def history_curves(
    history: pd.DataFrame, panels: dict[str, list[str]], title: str, best: int | None = None
) -> Figure:
    """Draw columns of a training history against the epoch.

    `panels`: panel title -> columns; `best`: the chosen epoch, drawn as a dashed line.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 2.9), squeeze=False)
    for ax, (name, columns) in zip(axes[0], panels.items(), strict=True):
        for column in columns:
            ax.plot(history["epoch"], history[column], marker="o", ms=3, label=column)
        if best is not None:
            ax.axvline(best, color="#888888", ls="--", lw=1, label=f"chosen: epoch {best}")
        ax.set(xlabel="epoch", title=name)
        style.whole_numbers(ax)
        ax.legend()
    drawn = [column for columns in panels.values() for column in columns]
    words = f"Curves against the epoch. At the last: {style.listed(history[drawn].iloc[-1])}"
    chosen = f"; epoch {best} was chosen." if best is not None else "."
    return style.finish(figure, title, words + chosen)


def checkpoint_curve(histories: dict[str, pd.DataFrame], published: dict, title: str) -> Figure:
    """Draw validation and test accuracy per epoch, and the epoch that each would choose.

    `histories`: panel title -> epoch, composite, dx3_balanced_accuracy (validation) and
    test_dx3_balanced_accuracy; `published`: epoch -> values, drawn in the first panel.
    """
    figure, axes = plt.subplots(1, len(histories), figsize=(7.2, 2.9), sharey=True, squeeze=False)
    test, known = "test_dx3_balanced_accuracy", [(e, v) for e in published for v in published[e]]
    choices = {"composite": ("validation", BLUE, "o"), test: ("test", RED, "s")}
    for ax, (name, history) in zip(axes[0], histories.items(), strict=True):
        epoch, seen = history["epoch"], history["dx3_balanced_accuracy"]
        ax.plot(epoch, seen, color="#BBBBBB", label="validation")
        ax.plot(epoch, history[test], color=BLUE, label="test")
        for by, (part, colour, marker) in choices.items():
            best = history.iloc[int(history[by].argmax())]
            ax.scatter(best["epoch"], best[test], s=45, c=colour, marker=marker, zorder=3,
                       label=f"chosen on {part}")  # fmt: skip
        ax.set(xlabel="epoch", title=name, ylim=(0.2, 1))
        style.whole_numbers(ax)
    axes[0, 0].scatter(*np.transpose(known), marker="D", s=28, zorder=3, **PUBLISHED)
    axes[0, 0].set_ylabel("dx3 balanced accuracy")
    style.below(axes[0, 0], 3)
    top = pd.Series({name: history[test].max() for name, history in histories.items()})
    return style.finish(figure, title, f"Accuracy per epoch. Best on test: {style.listed(top)}.")


def confusion_matrix(counts: np.ndarray, title: str, ax: plt.Axes | None = None) -> Figure:
    """Draw a (3, 3) confusion matrix with counts and row percentages; rows are the truth."""
    ax = plt.subplots(figsize=(3.4, 3.2))[1] if ax is None else ax
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = [f"{n}\n{p:.0%}" for n, p in zip(counts.flat, share.flat, strict=True)]
    names = list(style.DX_COLOURS)
    sns.heatmap(share, annot=np.reshape(texts, (3, 3)), fmt="", cmap="Blues", vmin=0, vmax=1,
                cbar=False, square=True, xticklabels=names, yticklabels=names, ax=ax)  # fmt: skip
    ax.set(xlabel="predicted", ylabel="true")
    ax.tick_params(axis="y", rotation=0)
    ax.set_title(title, size=9)
    rows = style.rows_of(pd.DataFrame(counts, [f"true {n}" for n in names], names), "d")
    return style.describe(
        ax.get_figure(root=True), f"Confusion matrix, {title}. Predicted, {rows}."
    )


def roc_and_calibration(table: pd.DataFrame, title: str) -> Figure:
    """Draw ROC curves (each class against the rest, CN against Dementia) and reliability."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.3))
    ends = table[table["DX"] != "MCI"]
    dementia, p = ends["DX"] == "Dementia", ends["p2_Dementia"]
    curves = [(dementia, p, "CN v Dementia", "#333333", "--")]
    for name, colour in reversed(style.DX_COLOURS.items()):
        curves.insert(0, (table["DX"] == name, table[f"p_{name}"], f"{name} v rest", colour, "-"))
    for truth, score, name, colour, ls in curves:
        RocCurveDisplay.from_predictions(
            truth, score, name=name, ax=left, curve_kwargs={"color": colour, "ls": ls},
            plot_chance_level=ls == "--",
        )  # fmt: skip
    left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    names = ", ".join(left.get_legend_handles_labels()[1])
    left.get_legend().remove()
    style.below(left, 3)
    share, predicted = calibration_curve(dementia, p, n_bins=5, strategy="quantile")
    right.plot([0, 1], [0, 1], color="#AAAAAA", ls="--", lw=1)
    right.plot(predicted, share, marker="o", color="#333333")
    right.set(xlabel="predicted probability of Dementia", ylabel="observed share",
              title="calibration, CN v Dementia", xlim=(0, 1), ylim=(0, 1))  # fmt: skip
    words = "Right, observed share of Dementia against its predicted probability."
    return style.finish(figure, title, f"Left, ROC curves: {names}. {words}")


def ablation_bars(ablation: pd.DataFrame, task: str, chance: float | None, title: str) -> Figure:
    """Draw one task's value per modality subset with intervals, beside the published bars."""
    rows = ablation[ablation["task"] == task].set_index("subset")
    axis = f"{task} {rows['metric'].iloc[0]}"
    figure, ax = plt.subplots(figsize=(6.4, 3.6))
    y, error = np.arange(len(rows)), style.reach(rows)
    ax.barh(y - 0.2, rows["value"], 0.38, xerr=error, color=BLUE, label="this run")
    if rows["published"].notna().any():
        ax.barh(y + 0.2, rows["published"], 0.38, **PUBLISHED)
    if chance is not None:
        ax.axvline(chance, color=LIMIT, ls="--", lw=1, label="chance")
    style.name_rows(ax, rows.index, axis)
    style.above(ax, 3)
    known = style.listed(rows["published"].dropna()) or "none"
    words = f"Bars of {axis} per subset, this run: {style.listed(rows['value'])}. "
    return style.finish(figure, title, f"{words}Published: {known}.")


def embedding_panels(z_fused: np.ndarray, cohort: pd.DataFrame, title: str) -> Figure:
    """Draw z_fused (n, D) on two principal components, coloured by five properties."""
    points = PCA(2, random_state=0).fit_transform(z_fused).T
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.8), sharex=True, sharey=True)
    fa = cohort["has_fa"].map({True: "with FA", False: "without FA"})
    categories = {
        "diagnosis": (cohort["DX"], style.DX_COLOURS),
        "sex": (cohort["PTGENDER"], {"Female": "#CC79A7", "Male": "#56B4E9"}),
        "FA volume": (fa, {"with FA": "#009E73", "without FA": "#BBBBBB"}),
    }
    for ax, (name, (values, colours)) in zip(axes[0], categories.items(), strict=True):
        style.by_class(ax, points, values, colours, s=6)
        ax.set_title(name, size=9)
        ax.legend(markerscale=1.5)
    for ax, name in zip(axes[1], ("CDRSB", "AGE"), strict=False):
        shown = ax.scatter(*points, s=6, c=cohort[name], cmap="viridis", linewidths=0)
        figure.colorbar(shown, ax=ax, shrink=0.8)
        ax.set_title(name, size=9)
    axes[1, 2].axis("off")
    words = "Scatter plots of z_fused on two principal components, coloured by diagnosis, sex, "
    return style.finish(figure, title, words + "FA volume, CDR-SB and age.")
