"""Figures of the network: trainings, heads, embeddings."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.special import betaincinv

from . import style


def interval_of(share: Any, n: Any) -> np.ndarray:
    """95 % interval (2, ...) of a share of n people, Jeffreys'; it has a width at 0 and at 1."""
    right = np.asarray(share) * n
    return np.array([betaincinv(right + 0.5, n - right + 0.5, end) for end in (0.025, 0.975)])


def history_curves(
    history: pd.DataFrame, panels: dict[str, list[str]], title: str,
    best: int | None = None, x: str = "epoch", names: dict[str, str] | None = None,
) -> Figure:  # fmt: skip
    """Draw columns of a training history against the epoch, or another column `x`.

    `panels`: panel title -> columns, in the legend by their `names`; `best`: the chosen epoch,
    a dashed line. Where there are columns loss_low and loss_high, a band lies around loss.
    """
    width, lines = 5.6 if len(panels) < 2 else 7.2, max(map(len, panels.values())) + bool(best)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 2.7 + 0.2 * lines), squeeze=False)
    how: Any = {"ms": 3, "marker": "o" if len(history) <= 50 else ""}
    for ax, (name, columns) in zip(axes[0], panels.items(), strict=True):
        for column in columns:
            how["color"] = style.COLOURS.get(column.rpartition("_")[2])  # of a modality
            ax.plot(history[x], history[column], label=(names or {}).get(column, column), **how)
            if f"{column}_low" in history:
                band = (history[f"{column}_{end}"] for end in ("low", "high"))
                ax.fill_between(history[x], *band, color=ax.lines[-1].get_color(), alpha=0.15, lw=0)
        if best is not None:
            ax.axvline(best, color="#888888", ls="--", lw=1, label=f"chosen: epoch {best}")
        ax.set(xlabel=x, title=name)
        ax.locator_params("x", integer=history[x].dtype.kind == "i")
        if len(columns) > 1 or best is not None or name != columns[0]:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.23))  # covers no curve
    drawn = [c for columns in panels.values() for c in columns if history[c].notna().any()]
    ends = (f"{c} {history[c].iloc[0]:.2f} to {history[c].iloc[-1]:.2f}" for c in drawn)
    chosen = f"; epoch {best} was chosen." if best is not None else "."
    return style.finish(figure, title, f"Curves against the {x}: {', '.join(ends)}{chosen}")


def embedding_map(panels: dict[str, tuple[np.ndarray, pd.Series]], title: str) -> Figure:
    """Draw embeddings on the first two principal components of those of the first panel.

    `panels`: panel title -> vectors (n, D) and what colours them, (n,) names or numbers.
    """
    columns, rows = min(3, len(panels)), -(-len(panels) // 3)
    size: Any = {"figsize": (7.2, 2 * rows + 1.2), "sharex": True, "sharey": True}
    figure, axes = plt.subplots(rows, columns, squeeze=False, **size)
    from sklearn.decomposition import PCA  # here: other chapters start sooner without

    pca = PCA(2, random_state=0).fit(next(iter(panels.values()))[0])
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (name, (vectors, values)) in zip(axes.flat, panels.items(), strict=False):
        points = pca.transform(vectors).T
        ax.set_title(name, size=9)
        if pd.api.types.is_numeric_dtype(values):
            shown = ax.scatter(*points, s=6, c=values, cmap="viridis", linewidths=0)
            figure.colorbar(shown, ax=ax, shrink=0.8)
        else:
            colours = {key: style.COLOURS[key] for key in style.COLOURS if key in set(values)}
            how: Any = {"hue": values, "palette": colours, "hue_order": [*colours], "linewidth": 0}
            sns.scatterplot(x=points[0], y=points[1], s=6, ax=ax, **how)
            ax.legend(ncols=3, columnspacing=1, markerscale=2, loc=9, bbox_to_anchor=(0.5, -0.14))
    figure.supxlabel("first principal direction", size=9)
    figure.supylabel("second principal direction", size=9)
    return style.finish(figure, title, f"Embeddings on two directions: {', '.join(panels)}.")
