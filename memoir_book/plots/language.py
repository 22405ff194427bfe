"""Figures of captions, retrieval and language models."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import norm
from sklearn.decomposition import PCA

from . import style
from .style import BLUE, LIMIT, PUBLISHED, RED


def text_curves(mlm: pd.DataFrame, alignment: pd.DataFrame, title: str) -> Figure:
    """Draw the MLM loss per step, and the alignment's loss and validation recall per epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.0, 2.9))
    left.plot(mlm["step"], mlm["loss"])
    left.set(xlabel="step", ylabel="loss", title="masked language modelling")
    right.plot(alignment["epoch"], alignment["loss"], marker="o", ms=3)
    right.set(xlabel="epoch", ylabel="train loss", title="alignment")
    style.whole_numbers(right)
    if "val_recall@10" in alignment:
        twin = right.twinx()
        twin.plot("epoch", "val_recall@10", data=alignment, color="#E69F00", marker="s", ms=3)
        twin.set_ylabel("validation recall@10", color="#B57A00")
        twin.set_ylim(0, 1)
        twin.spines["right"].set_visible(True)
    first, last = mlm["loss"].iloc[[0, -1]]
    words = f"Left, loss of masked language modelling, {first:.2f} to {last:.2f}. "
    return style.finish(figure, title, words + "Right, loss and recall of the alignment.")


def embedding_map(
    z_fused: np.ndarray, z_text: np.ndarray, cohort: pd.DataFrame, title: str
) -> Figure:
    """Draw both kinds of embedding (n, D) on the first two principal components of z_fused."""
    pca = PCA(2, random_state=0).fit(z_fused)
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 3.4), sharex=True, sharey=True)
    parts = {"fused embedding": z_fused, "captions": z_text}
    for ax, (name, vectors) in zip(axes, parts.items(), strict=True):
        style.by_class(ax, pca.transform(vectors).T, cohort["DX"], s=9, alpha=0.7)
        ax.set(xlabel="component 1", title=name)
    axes[0].set_ylabel("component 2")
    axes[0].legend()
    words = "Scatter plots on two principal components, coloured by diagnosis: left the fused "
    return style.finish(figure, title, words + "embedding, right the captions.")


def query_path(row: dict, cohort: pd.DataFrame, title: str) -> Figure:
    """Draw one query's candidates, a row of retrieval.jsonl: cosine against reranker's score."""
    figure, ax = plt.subplots(figsize=(6.8, 3.4))
    dx = cohort["DX"].to_numpy()
    points = np.array([row["scores"], row["candidate_scores"]])
    style.by_class(ax, points, dx[row["retrieved"]], s=26, alpha=0.8)
    kept = points[:, [row["retrieved"].index(case) for case in row["reranked"]]]
    ax.scatter(kept[0], kept[1], s=110, fc="none", ec="#222222", label="kept for the LLM")
    for place, point in enumerate(kept.T, 1):
        ax.annotate(f" {place}", point, xytext=(6, 4), textcoords="offset points", size=8)
    ax.set(xlabel="cosine with the query (FAISS)", ylabel="cross-encoder score")
    style.above(ax, 4)
    words = (
        f"Scatter plot of {points.shape[1]} candidates: cosine with the query against the "
        f"cross-encoder's score. Kept: {', '.join(dx[row['reranked']])}."
    )
    title = f"{title}, {row['protocol']}, true diagnosis {dx[row['case']]}"
    return style.finish(figure, title, words)


def subset_retrieval(table: pd.DataFrame, title: str) -> Figure:
    """Draw precision@5 and nDCG@5 of every modality subset, before and after reranking."""
    names = list(dict.fromkeys(table["subset"]))
    n = dict(zip(table["subset"], table["n"], strict=True))
    styles = {"z_fused": ("#56B4E9", "s"), "reranked, blind": (BLUE, "o")}
    styles["reranked, own_caption"] = (RED, "D")
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 0.36 * len(names) + 1.5), sharey=True)
    for ax, metric in zip(axes, ("precision@5", "ndcg@5"), strict=True):
        for method, (colour, marker) in styles.items():
            part = table[table["method"] == method]
            y = part["subset"].map(names.index)
            ax.scatter(part[metric], y, color=colour, marker=marker, s=30, label=method)
        ax.grid(axis="y", color="#DDDDDD", lw=0.6)
    style.name_rows(axes[0], [f"{name} (n = {n[name]})" for name in names])
    axes[0].set(xlabel="precision@5", xlim=(0, 1))
    axes[1].set(xlabel="ndcg@5", xlim=(0, 1))
    style.below(axes[0], 3)
    words = "Dots: precision@5 and nDCG@5 of each subset, for the embedding and after reranking."
    return style.finish(figure, title, words)


def retrieval_bars(table: pd.DataFrame, title: str) -> Figure:
    """Draw precision@5, nDCG@5 and kNN accuracy of every retrieval method."""
    rows = table.set_index("method")[["precision@5", "ndcg@5", "knn_accuracy"]]
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), sharey=True)
    colours = ["#BBBBBB", "#CC79A7", "#56B4E9", BLUE, RED]
    for ax, (metric, values) in zip(axes, rows.items(), strict=True):
        drawn = ax.barh(range(len(rows)), values, color=colours[: len(rows)])
        ax.bar_label(drawn, fmt=" %.2f", size=8)
        ax.set(title=metric, xlim=(0, 1.15))
    style.name_rows(axes[0], rows.index)
    return style.finish(figure, title, f"Bars per method. {style.rows_of(rows.T)}.")


def llm_bars(
    scores: pd.DataFrame,
    metric: str,
    chance: float | None,
    title: str,
    protocols: Sequence[str] = ("blind", "own_caption"),
) -> Figure:
    """Draw one metric of every language model and protocol with intervals, published in grey."""
    rows = scores[(scores["metric"] == metric) & scores["protocol"].isin(protocols)]
    llms = list(dict.fromkeys(rows["llm"]))
    protocols = [name for name in protocols if name in set(rows["protocol"])]
    figure, ax = plt.subplots(figsize=(6.8, 0.62 * len(llms) + 1.4))
    height, parts = 0.8 / len(protocols), []
    for place, protocol in enumerate(protocols):
        part = rows[rows["protocol"] == protocol]
        y = part["llm"].map(llms.index) - 0.4 + (place + 0.5) * height
        colour = sns.color_palette("colorblind")[place]
        error = style.reach(part)
        ax.barh(y, part["value"], height * 0.9, xerr=error, color=colour, label=protocol)
        for at, value in zip(y, part["value"], strict=True):  # a bar of 0 cannot be seen
            ink = "white" if value > 0.12 else "black"
            ax.text(0.01, at, f"{value:.2f}", va="center", fontsize=7, color=ink)
        if part["published"].notna().any():
            ax.scatter(part["published"], y, marker="D", s=24, zorder=3, **PUBLISHED)
        parts.append(f"{protocol}: {style.listed(part.set_index('llm')['value'])}")
    if chance is not None:
        ax.axvline(chance, color=LIMIT, ls="--", lw=1, label="chance")
    style.name_rows(ax, llms, metric)
    ax.set_xlim(0, 1)
    style.below(ax, 3)
    words = f"Bars of {metric} per model and protocol. {'; '.join(parts)}."
    return style.finish(figure, title, words)


def failure_bars(failures: pd.DataFrame, title: str) -> Figure:
    """Draw how many diagnoses went wrong in which way, from rows with llm and kind_of_error."""
    counts = pd.crosstab(failures["llm"], failures["kind_of_error"])
    counts = counts.loc[list(dict.fromkeys(failures["llm"]))]
    figure, ax = plt.subplots(figsize=(6.8, 0.5 * len(counts) + 1.3))
    style.stacked(ax, counts, "wrong diagnoses")
    style.whole_numbers(ax)
    style.below(ax, 3)
    words = f"Stacked bars: wrong diagnoses by kind. {style.rows_of(counts, 'd')}."
    return style.finish(figure, title, words)


def protocol_gap(answers: pd.DataFrame, title: str) -> Figure:
    """Draw accuracy per true class and protocol, from rows with reference and parsed."""
    rows = answers.assign(right=answers["parsed"] == answers["reference"])
    table = rows.pivot_table("right", "protocol", "reference", sort=False)
    table = table[[name for name in style.DX_COLOURS if name in table]]
    figure, ax = plt.subplots(figsize=(6.4, 2.8))
    table.T.plot.bar(ax=ax, rot=0, width=0.8, xlabel="true diagnosis", ylabel="accuracy")
    ax.set_ylim(0, 1)
    style.above(ax, 3)
    words = f"Bars: accuracy per true diagnosis. {style.rows_of(table)}."
    return style.finish(figure, title, words)


def nf4(levels: list[float]) -> Figure:
    """Draw the NF4 levels on the normal density whose quantiles they follow."""
    figure, ax = plt.subplots(figsize=(6.4, 2.0))
    x = np.linspace(-1.15, 1.15, 300)
    scale = 1 / norm.ppf(0.9677)  # the outermost levels stand for the outermost quantiles
    density = norm.pdf(x, scale=scale)
    ax.fill_between(x, density, color="#DDE8F3", label="weights, scaled to [-1, 1]")
    ax.vlines(levels, 0, norm.pdf(levels, scale=scale), color=BLUE, lw=1.5)
    ax.scatter(levels, np.zeros(len(levels)), color=BLUE, s=14, zorder=3, label="NF4 levels")
    ax.set(yticks=[], xlabel="weight / largest weight of its block")
    ax.legend(loc="upper left")
    words = f"Normal density with the 16 NF4 levels: {', '.join(f'{v:.2f}' for v in levels)}."
    return style.describe(figure, words)
