"""The book's figures: one style, one palette, a function per figure.

Colours are Okabe and Ito's, told apart by readers with any common colour vision.
Figures have an opaque white background, so that they read on light and dark pages.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from memoir_core.config import CHAPTERS, SCORES, get_chapter

DX_COLOURS = {"CN": "#0072B2", "MCI": "#E69F00", "Dementia": "#D55E00"}
MODALITY_COLOURS = {"t1": "#56B4E9", "fa": "#009E73", "clinical": "#CC79A7", "fused": "#555555"}
PUBLISHED_COLOUR = "#999999"  # published figures are always grey


def use_style() -> None:
    """Set the book's matplotlib style for this kernel, and let figures carry their alt text."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.mimebundle_formatter.for_type(Figure, _alt_text)
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,  # keeps legends and titles apart
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "image.cmap": "gray",
            "axes.prop_cycle": cycler(
                color=["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
            ),
        }
    )


def _alt_text(figure: Figure) -> tuple[dict, dict]:
    """Give a figure's words as metadata of its PNG, which IPython makes by itself."""
    return {}, {"image/png": {"alt": " ".join(words_of(figure).split())}}


def describe(figure: Figure, words: str) -> Figure:
    """Say in words what a figure shows; notebooks and pages use them as its alt text."""
    figure.set_label(words)
    return figure


def words_of(figure: Figure) -> str:
    """What `describe` said of a figure, else its titles and the names of its axes."""
    if figure.get_label():
        return str(figure.get_label())
    parts = [figure.get_suptitle()]
    for ax in figure.axes:
        named = " against ".join(name for name in (ax.get_ylabel(), ax.get_xlabel()) if name)
        texts = [ax.get_title(), named, *(t.get_text() for t in ax.texts[:3])]
        parts += [text for text in texts if text]
    return "Figure: " + "; ".join(dict.fromkeys(part for part in parts if part))


def _finish(figure: Figure, title: str, words: str) -> Figure:
    """Set the title, which says where the numbers come from, and the words for the ear."""
    figure.suptitle(title, size=9, color="#555555")
    return describe(figure, f"{words} {title}.")


def _wrapped(labels: Iterable[str]) -> list[str]:
    """Break long labels beside an axis: a wide one would leave the axis no room."""
    space = "\N{NO-BREAK SPACE}"  # 'n = 30' stays on one line
    whole = (label.replace(" = ", f"{space}={space}") for label in labels)
    return [textwrap.fill(label, 36, break_on_hyphens=False) for label in whole]


def _list(values: pd.Series, form: str = ".2f") -> str:
    """Write a series as 'CN 0.71, MCI 0.65'."""
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def _rows(table: pd.DataFrame, form: str = ".2f") -> str:
    """Write a table as 'smoke: CN 0.71, MCI 0.65; quick: CN 0.72, MCI 0.60'."""
    return "; ".join(f"{name}: {_list(row, form)}" for name, row in table.iterrows())


def pipeline(number: str) -> Figure:
    """Draw the chapters in the order in which data flow, with one highlighted.

    Parameters
    ----------
    number : the chapter to highlight, such as '04'.

    Returns
    -------
    Figure : three rows of boxes, read left to right, legible on a phone.
    """
    current = get_chapter(number)
    per_row, step = 4, 1.3
    figure, axes = plt.subplots(figsize=(5.2, 2.7), layout="none")
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set(xlim=(0, per_row * step), ylim=(0, 2.7), xticks=[], yticks=[])
    axes.axis("off")
    centres = []
    for place, chapter in enumerate(CHAPTERS):
        row, column = divmod(place, per_row)
        x, y = column * step + step / 2, 2.3 - 0.92 * row
        here = chapter == current
        axes.add_patch(
            FancyBboxPatch(
                (x - 0.53, y - 0.3),
                1.06,
                0.6,
                boxstyle="round,pad=0.02,rounding_size=0.08",
                facecolor="#0072B2" if here else "#F2F2F2",
                edgecolor="#0072B2" if here else "#BBBBBB",
            )
        )
        title = chapter.title.replace(": ", ":\n").replace(" and ", "\nand ")
        if "\n" not in title and " " in title:
            title = "\n".join(title.rsplit(" ", 1))
        colour = "white" if here else "#222222"
        axes.text(x, y + 0.19, chapter.number, ha="center", va="center", color=colour, size=9)
        axes.text(x, y - 0.09, title, ha="center", va="center", color=colour, size=9)
        centres.append((x, y))
    arrow: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 8,
        "color": "#777777",
        "linewidth": 1,
    }
    for (x0, y0), (x1, y1) in pairwise(centres):
        if y0 == y1:
            axes.add_patch(FancyArrowPatch((x0 + 0.55, y0), (x1 - 0.55, y1), **arrow))
        else:  # from the end of a row to the start of the next, between the two
            between = (y0 + y1) / 2
            axes.plot([x0, x0, x1], [y0 - 0.32, between, between], color="#777777", lw=1)
            axes.add_patch(FancyArrowPatch((x1, between), (x1, y1 + 0.34), **arrow))
    order = ", ".join(f"{c.number} {c.title}" for c in CHAPTERS)
    return describe(figure, f"The chapters in order, {number} highlighted: {order}.")


def cohort_flow(flow: list[dict], label: str) -> Figure:
    """Draw the filter steps as boxes, top to bottom, with what each one removes."""
    figure, axes = plt.subplots(figsize=(6.4, 1.15 * len(flow)), layout="none")
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
    steps = "; ".join(f"{s['step']}: {s['rows']} rows, {s['subjects']} subjects" for s in flow)
    return describe(figure, f"Flow chart of the cohort's filters, {label}. {steps}.")


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
    return _finish(
        figure, label, "Violins of each clinical score and the age, for CN, MCI and Dementia."
    )


def missingness(cohort: pd.DataFrame, label: str) -> Figure:
    """Draw which field is missing for how many subjects of each class, in percent."""
    import seaborn as sns

    absent = cohort[[*SCORES, "APOE4"]].isna().assign(FA=~cohort["has_fa"])
    share = absent.groupby(cohort["DX"]).mean().loc[list(DX_COLOURS)] * 100
    figure, ax = plt.subplots(figsize=(6.4, 2.2))
    sns.heatmap(share, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, ax=ax,
                cbar_kws={"label": "missing (%)"})  # fmt: skip
    ax.set(ylabel="", title=label)
    ax.title.set(size=9, color="#555555")
    words = _rows(share, ".0f")
    return describe(figure, f"Missing values in percent of a class, {label}. {words}.")


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
    return _finish(
        figure,
        title,
        f"Axial, coronal and sagittal middle slices, one row each: {', '.join(volumes)}.",
    )


def slice_viewer(volumes: dict[str, np.ndarray], title: str) -> Any:
    """Walk through axial slices of several volumes, side by side, with a slider.

    The slices are embedded, and the browser changes them itself: it works in a notebook
    and on a published page, where no kernel runs.

    Parameters
    ----------
    volumes : name -> (X, Y, Z) array, all of one shape.

    Returns
    -------
    IPython.display.HTML
    """
    import html

    from IPython.display import HTML

    stack = np.stack([np.asarray(v, np.float32) for v in volumes.values()])
    low, high = min(0.0, float(stack.min())), float(np.percentile(stack, 99.7))
    grey = (255 * np.clip((stack - low) / (high - low), 0, 1)).astype(np.uint8)
    grey = np.concatenate(np.rot90(grey, axes=(1, 2)), axis=1)  # (Y, names * X, Z)
    frames = [_data_url(grey[:, :, z], 660) for z in range(grey.shape[2])]
    middle = len(frames) // 2
    key = f"viewer{abs(hash((title, len(frames), frames[middle][:400]))) % 10**8}"
    labels = "".join(f"<span>{html.escape(name)}</span>" for name in volumes)
    return HTML(
        f"""<figure id="{key}" style="max-width:660px;margin:0">
<figcaption style="display:flex;justify-content:space-around;color:inherit">{labels}</figcaption>
<img src="{frames[middle]}" alt="axial slices of {html.escape(", ".join(volumes))}" width="660">
<label>slice <input type="range" min="0" max="{len(frames) - 1}" value="{middle}"
 style="width:60%"> <output>{middle}</output></label><br><small>{html.escape(title)}</small>
<script>(() => {{ const f = {frames}, box = document.getElementById("{key}");
box.querySelector("input").addEventListener("input", e => {{
box.querySelector("img").src = f[e.target.value];
box.querySelector("output").value = e.target.value; }}); }})();</script></figure>"""
    )


def titled_frame(view: Any, title: str) -> Any:
    """Show one of nilearn's interactive views, named for screen readers, as wide as the page.

    Parameters
    ----------
    view : what `nilearn.plotting.view_img` returns; all that it needs is inside.

    Returns
    -------
    IPython.display.HTML
    """
    import html
    import warnings

    from IPython.display import HTML

    frame = view.get_iframe()
    named = f'<iframe title="{html.escape(title)}" style="max-width:100%" '
    with warnings.catch_warnings():  # IPython would rather see its own IFrame, which needs a file
        warnings.filterwarnings("ignore", "Consider using IPython.display.IFrame")
        return HTML(frame.replace("<iframe ", named, 1))


def _data_url(grey: np.ndarray, width: int) -> str:
    """Encode an 8-bit picture (rows, columns) as a JPEG that a page can hold."""
    import base64
    import io

    from PIL import Image

    picture = Image.fromarray(grey).resize((width, width * len(grey) // grey.shape[1]))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def browse(volumes: np.ndarray, cohort: pd.DataFrame) -> Any:
    """Choose a case and a slice with ipywidgets, in a live notebook.

    Parameters
    ----------
    volumes : (n, X, Y, Z); row i is case i.
    """
    import ipywidgets

    def show(case: int, z: int) -> None:
        _, ax = plt.subplots(figsize=(3.4, 3.8))
        ax.imshow(np.rot90(volumes[case][:, :, z].astype(np.float32)))
        record = cohort.iloc[case]
        ax.set(xticks=[], yticks=[], title=f"case {case}: {record['DX']}, {record['AGE']:.0f} y")
        plt.show()

    depth = volumes.shape[3]
    return ipywidgets.interactive(
        show,
        case=ipywidgets.BoundedIntText(0, 0, len(volumes) - 1),
        z=ipywidgets.IntSlider(depth // 2, 0, depth - 1, description="slice"),
    )


def qc_mosaic(volumes: np.ndarray, names: list[str], flagged: list[bool], title: str) -> Figure:
    """Show a middle axial slice of many volumes; flagged ones get a red frame."""
    columns = 6  # a caption stays legible on a phone
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7.2, 1.45 * rows + 0.4), squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, volume, name, bad in zip(axes.flat, volumes, names, flagged, strict=False):
        ax.imshow(np.rot90(volume[:, :, volume.shape[2] // 2].astype(np.float32)))
        ax.set_title(name, size=8, pad=2, color="#B00000" if bad else "#333333")
        if bad:
            ax.spines[:].set(visible=True, color="#B00000", linewidth=2)
    return _finish(
        figure,
        title,
        f"Middle axial slices of {len(names)} volumes; {sum(flagged)} flagged, in a red frame.",
    )


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
    return _finish(
        figure,
        title,
        f"Stacked bars: mean attention on each modality, per subset. {_rows(weights)}.",
    )


def similarity(before: np.ndarray, after: np.ndarray, names: tuple[str, str], title: str) -> Figure:
    """Show two (N, N) cosine-similarity matrices side by side; the diagonal is the match."""
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.4), sharey=True)
    for ax, matrix, when in zip(axes, (before, after), ("before", "after"), strict=True):
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set(xlabel=names[1], title=f"{when} stage 1")
    axes[0].set_ylabel(names[0])
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return _finish(
        figure,
        title,
        f"Matrices of cosine similarity, {names[0]} by {names[1]}, before and after stage 1.",
    )


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
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        ax.legend(fontsize=8)
    return _finish(
        figure,
        title,
        "Curves against the epoch. At the last: "
        + _list(history[[c for columns in panels.values() for c in columns]].iloc[-1])
        + (f"; epoch {best} was chosen." if best is not None else "."),
    )


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
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    rows = "; ".join(
        f"true {n}: {_list(pd.Series(r, names), 'd')}" for n, r in zip(names, counts, strict=True)
    )
    return describe(figure, f"Confusion matrix, {title}. Predicted, {rows}.")


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
    handles, names = axes[0].get_legend_handles_labels()
    axes[0].get_legend().remove()
    figure.legend(handles, names, fontsize=8, ncols=3, loc="outside lower center")
    share, predicted = calibration_curve(truth, ends["p2_Dementia"], n_bins=5, strategy="quantile")
    axes[1].plot([0, 1], [0, 1], color="#AAAAAA", ls="--", lw=1)
    axes[1].plot(predicted, share, marker="o", color="#333333")
    axes[1].set(xlabel="predicted probability of Dementia", ylabel="observed share",
                title="calibration, CN v Dementia", xlim=(0, 1), ylim=(0, 1))  # fmt: skip
    return _finish(
        figure,
        title,
        "Left, ROC curves: "
        + ", ".join(names)
        + ". Right, observed share of Dementia against its predicted probability.",
    )


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
    return _finish(
        figure,
        title,
        f"Bars of {task} {rows['metric'][0]} per subset, this run: "
        + _list(rows.set_index("subset")["value"])
        + ". Published: "
        + (_list(rows.set_index("subset")["published"].dropna()) or "none")
        + ".",
    )


def text_curves(mlm: pd.DataFrame, alignment: pd.DataFrame, title: str) -> Figure:
    """Draw the MLM loss per step, and the alignment's loss and validation recall per epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 2.9))
    axes[0].plot(mlm["step"], mlm["loss"])
    axes[0].set(xlabel="step", ylabel="loss", title="masked language modelling")
    axes[1].plot(alignment["epoch"], alignment["loss"], marker="o", ms=3)
    axes[1].set(xlabel="epoch", ylabel="train loss", title="alignment")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    if "val_recall@10" in alignment:
        right = axes[1].twinx()
        right.plot(
            alignment["epoch"], alignment["val_recall@10"], color="#E69F00", marker="s", ms=3
        )
        right.set_ylabel("validation recall@10", color="#B57A00")
        right.set_ylim(0, 1)
        right.spines["right"].set_visible(True)
    return _finish(
        figure,
        title,
        f"Left, loss of masked language modelling, {mlm['loss'].iloc[0]:.2f} to "
        f"{mlm['loss'].iloc[-1]:.2f}. Right, loss and validation recall of the alignment.",
    )


def embedding_map(
    z_fused: np.ndarray, z_text: np.ndarray, cohort: pd.DataFrame, title: str
) -> Figure:
    """Draw both kinds of embedding on the first two principal components of z_fused."""
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=0).fit(z_fused)
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 3.4), sharex=True, sharey=True)
    parts = ((z_fused, "fused embedding"), (z_text, "captions"))
    for ax, (vectors, name) in zip(axes, parts, strict=True):
        points = pca.transform(vectors)
        for dx, colour in DX_COLOURS.items():
            rows = (cohort["DX"] == dx).to_numpy()
            ax.scatter(*points[rows].T, s=9, color=colour, alpha=0.7, label=dx, linewidths=0)
        ax.set(xlabel="component 1", title=name)
    axes[0].set_ylabel("component 2")
    axes[0].legend(fontsize=8)
    return _finish(
        figure,
        title,
        "Scatter plots on two principal components, coloured by diagnosis: left the fused "
        "embedding, right the captions.",
    )


def query_path(row: dict, cohort: pd.DataFrame, title: str) -> Figure:
    """Draw one query's candidates: cosine of the embedding against the reranker's score.

    Parameters
    ----------
    row : a row of retrieval.jsonl with `candidate_scores`.
    """
    figure, ax = plt.subplots(figsize=(6.8, 3.4))
    dx = cohort["DX"].to_numpy()[row["retrieved"]]
    for name, colour in DX_COLOURS.items():
        chosen = dx == name
        ax.scatter(
            np.array(row["scores"])[chosen], np.array(row["candidate_scores"])[chosen],
            s=26, color=colour, label=name, alpha=0.8, linewidths=0,
        )  # fmt: skip
    kept = [row["retrieved"].index(case) for case in row["reranked"]]
    x, y = np.array(row["scores"])[kept], np.array(row["candidate_scores"])[kept]
    ax.scatter(x, y, s=110, facecolors="none", edgecolors="#222222", label="kept for the LLM")
    for place, (x0, y0) in enumerate(zip(x, y, strict=True), 1):
        ax.annotate(f" {place}", (x0, y0), xytext=(6, 4), textcoords="offset points", size=8)
    ax.set(xlabel="cosine with the query (FAISS)", ylabel="cross-encoder score")
    ax.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    truth = cohort["DX"].to_numpy()[row["case"]]
    return _finish(
        figure,
        f"{title}, {row['protocol']}, true diagnosis {truth}",
        f"Scatter plot of {len(row['scores'])} candidates: cosine with the query against the "
        f"cross-encoder's score. Kept: {', '.join(dx[kept])}.",
    )


def case_explorer(
    rows: list[dict], cohort: pd.DataFrame, volumes: np.ndarray, captions: list[dict], title: str
) -> Any:
    """Choose a query and a protocol; see its slice beside those of its five cases.

    Slices, captions and scores of the given rows are embedded, and the browser changes them
    itself: it works in a notebook and on a published page, where no kernel runs.

    Parameters
    ----------
    rows : rows of retrieval.jsonl to choose among; a page holds about eight with ease.
    volumes : (n, X, Y, Z) T1; row i is case i.
    captions : rows of captions.jsonl.

    Returns
    -------
    IPython.display.HTML
    """
    import html
    import json

    from IPython.display import HTML

    texts = {row["case"]: row for row in captions}
    shown = sorted({case for row in rows for case in (row["case"], *row["reranked"])})
    slices, cards = {}, {}
    for case in shown:
        volume = np.asarray(volumes[case], np.float32)
        middle = np.rot90(volume[:, :, int(volume.shape[2] * 0.48)])
        low, high = min(0.0, float(middle.min())), float(np.percentile(middle, 99.7))
        grey = (255 * np.clip((middle - low) / (high - low), 0, 1)).astype(np.uint8)
        slices[case] = _data_url(grey, 150)
        dx = cohort["DX"].iloc[case]
        cards[case] = {"dx": dx, "colour": DX_COLOURS[dx]}
        cards[case] |= {"caption": texts[case]["caption"], "blind": texts[case]["caption_blind"]}
    queries = [
        {"case": r["case"], "protocol": r["protocol"]}
        | {"found": r["reranked"], "scores": r["rerank_scores"]}
        for r in rows
    ]
    stored = {"slices": slices, "cards": cards, "queries": queries}
    # '</' would end the script; the browser sets captions as text, never as HTML.
    data = json.dumps(stored).replace("</", "<\\/")
    key = f"explorer{abs(hash(data)) % 10**8}"
    options = "".join(
        f'<option value="{i}">case {q["case"]}, {html.escape(q["protocol"])}</option>'
        for i, q in enumerate(queries)
    )
    return HTML(
        f"""<section id="{key}" style="max-width:720px"><label>query
<select>{options}</select></label> <small>{html.escape(title)}</small><div></div>
<script>(() => {{ const d = {data}, box = document.getElementById("{key}");
const out = box.querySelector("div"), pick = box.querySelector("select");
const card = (c, head, words) => {{ const f = document.createElement("figure");
f.style.cssText = "display:flex;gap:.7em;margin:.4em 0;align-items:flex-start";
const i = new Image(110); i.src = d.slices[c]; i.alt = "axial T1 slice of case " + c;
i.style.border = "3px solid " + d.cards[c].colour; i.style.flex = "none";
const t = document.createElement("figcaption"), b = document.createElement("strong");
t.style.color = "inherit";
b.textContent = head + ", " + d.cards[c].dx; t.append(b, document.createElement("br"), words);
f.append(i, t); out.append(f); }};
const show = () => {{ const q = d.queries[pick.value]; out.replaceChildren();
const own = d.cards[q.case];
card(q.case, "query, case " + q.case, q.protocol == "blind" ? own.blind : own.caption);
q.found.forEach((c, n) => card(c, `${{n + 1}}. case ${{c}} (score ${{q.scores[n].toFixed(2)}})`,
d.cards[c].caption)); }};
pick.addEventListener("change", show); show(); }})();</script></section>"""
    )


def browse_cases(
    rows: list[dict], cohort: pd.DataFrame, volumes: np.ndarray, captions: list[dict]
) -> Any:
    """Choose any query with ipywidgets, in a live notebook; see `case_explorer`."""
    import ipywidgets
    from IPython.display import display

    by_query = {(row["case"], row["protocol"]): row for row in rows}

    def show(case: int, protocol: str) -> None:
        row = by_query[case, protocol]
        display(case_explorer([row], cohort, volumes, captions, ""))

    return ipywidgets.interactive(
        show,
        case=sorted({row["case"] for row in rows}),
        protocol=list(dict.fromkeys(row["protocol"] for row in rows)),
    )


def subset_retrieval(table: pd.DataFrame, title: str) -> Figure:
    """Draw precision@5 and nDCG@5 of every modality subset, before and after reranking.

    Parameters
    ----------
    table : `retrieval.retrieve_subsets`.
    """
    metrics = ("precision@5", "ndcg@5")
    names = list(dict.fromkeys(table["subset"]))
    n = table.drop_duplicates("subset").set_index("subset")["n"]
    styles = {"z_fused": ("#56B4E9", "s"), "reranked, blind": ("#0072B2", "o")}
    styles["reranked, own_caption"] = ("#D55E00", "D")
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 0.36 * len(names) + 1.5), sharey=True)
    for ax, metric in zip(axes, metrics, strict=True):
        for method, (colour, marker) in styles.items():
            part = table[table["method"] == method]
            y = [names.index(name) for name in part["subset"]]
            ax.scatter(part[metric], y, color=colour, marker=marker, s=30, label=method)
        ax.set(xlabel=metric, xlim=(0, 1), yticks=range(len(names)))
        ax.grid(axis="y", color="#DDDDDD", lw=0.6)
    axes[0].set_yticklabels([f"{name} (n = {n[name]})" for name in names])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=3, fontsize=8,
                  loc="outside lower center")  # fmt: skip
    return _finish(
        figure,
        title,
        "Dots: precision@5 and nDCG@5 of each subset, for the embedding and after reranking.",
    )


def image_fields(cohort: pd.DataFrame, title: str) -> Figure:
    """Draw the percentiles that captions say of the images, per diagnosis."""
    import seaborn as sns

    figure, axes = plt.subplots(1, 2, figsize=(6.8, 2.9), sharey=True)
    for ax, (field, name) in zip(
        axes, (("VENTRICLES", "ventricles"), ("FORNIX_FA", "fornix FA")), strict=True
    ):
        sns.boxplot(
            cohort, x="DX", y=field, hue="DX", order=list(DX_COLOURS), palette=DX_COLOURS,
            ax=ax, width=0.55, showfliers=False, linewidth=1,
        )  # fmt: skip
        sns.stripplot(
            cohort, x="DX", y=field, order=list(DX_COLOURS), ax=ax, size=2, color="#333333"
        )
        ax.set(xlabel="", title=f"{name} (n = {cohort[field].notna().sum()})")
    axes[0].set_ylabel("percentile for the age")
    return _finish(
        figure,
        title,
        "Box plots of the percentiles of ventricles and fornix FA, for CN, MCI and Dementia.",
    )


def retrieval_bars(table: pd.DataFrame, title: str) -> Figure:
    """Draw precision@5, nDCG@5 and kNN accuracy of every retrieval method."""
    metrics = ("precision@5", "ndcg@5", "knn_accuracy")
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), sharey=True)
    colours = ["#BBBBBB", "#CC79A7", "#56B4E9", "#0072B2", "#D55E00"]
    for ax, metric in zip(axes, metrics, strict=True):
        ax.barh(table["method"], table[metric], color=colours[: len(table)])
        for y, value in enumerate(table[metric]):
            ax.text(value, y, f" {value:.2f}", va="center", size=8)
        ax.set(title=metric, xlim=(0, 1.15))
    axes[0].invert_yaxis()
    return _finish(
        figure,
        title,
        "Bars per method. "
        + "; ".join(f"{m}: {_list(table.set_index('method')[m])}" for m in metrics)
        + ".",
    )


def llm_bars(
    scores: pd.DataFrame,
    metric: str,
    chance: float | None,
    title: str,
    protocols: Sequence[str] = ("blind", "own_caption"),
) -> Figure:
    """Draw one metric of every language model and protocol with intervals, published in grey."""
    import seaborn as sns

    rows = scores[(scores["metric"] == metric) & scores["protocol"].isin(protocols)]
    llms = list(dict.fromkeys(rows["llm"]))
    protocols = [name for name in protocols if name in set(rows["protocol"])]
    colours = sns.color_palette("colorblind", len(protocols))
    figure, ax = plt.subplots(figsize=(6.8, 0.62 * len(llms) + 1.4))
    height = 0.8 / len(protocols)
    for place, protocol in enumerate(protocols):
        part = rows[rows["protocol"] == protocol]
        y = np.array([llms.index(llm) for llm in part["llm"]]) - 0.4 + (place + 0.5) * height
        error = np.abs(part[["low", "high"]].to_numpy().T - part["value"].to_numpy())
        ax.barh(y, part["value"], height * 0.9, xerr=error, color=colours[place], label=protocol,
                error_kw={"lw": 1, "capsize": 2})  # fmt: skip
        for place_y, value in zip(y, part["value"], strict=True):  # a bar of 0 cannot be seen
            ax.text(0.01, place_y, f"{value:.2f}", va="center", fontsize=7,
                    color="white" if value > 0.12 else "black")  # fmt: skip
        known = part["published"].notna().to_numpy()
        if known.any():
            ax.scatter(part["published"][known], y[known], marker="D", s=24,
                       color=PUBLISHED_COLOUR, zorder=3, label="published (ADNI)")  # fmt: skip
    if chance is not None:
        ax.axvline(chance, color="#B00000", ls="--", lw=1, label="chance")
    ax.set(yticks=range(len(llms)), yticklabels=_wrapped(llms), xlabel=metric, xlim=(0, 1))
    ax.invert_yaxis()
    ax.legend(fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return _finish(
        figure,
        title,
        f"Bars of {metric} per model and protocol. "
        + "; ".join(
            f"{name}: {_list(rows[rows['protocol'] == name].set_index('llm')['value'])}"
            for name in protocols
        )
        + ".",
    )


def failure_bars(failures: pd.DataFrame, title: str) -> Figure:
    """Draw how many diagnoses went wrong in which way, per model.

    Parameters
    ----------
    failures : rows of `vqa.failures`, with a column `llm`.
    """
    counts = pd.crosstab(failures["llm"], failures["kind_of_error"])
    counts = counts.loc[list(dict.fromkeys(failures["llm"]))]
    figure, ax = plt.subplots(figsize=(6.8, 0.5 * len(counts) + 1.3))
    if len(counts):  # else every answer was right
        counts.plot.barh(stacked=True, ax=ax, width=0.7, legend=False)
        ax.set_yticklabels(_wrapped(counts.index))
    ax.invert_yaxis()
    ax.set(xlabel="wrong diagnoses", ylabel="")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    figure.legend(*ax.get_legend_handles_labels(), ncols=3, fontsize=8, loc="outside lower center")
    return _finish(
        figure,
        title,
        f"Stacked bars: wrong diagnoses by kind. {_rows(counts, 'd')}.",
    )


def published_ladder(rows: pd.DataFrame, title: str) -> Figure:
    """Draw published values (grey) and this run's (blue, with intervals) on one line each.

    Parameters
    ----------
    rows : columns figure, published, value, low, high; all between 0 and 1.
    """
    figure, ax = plt.subplots(figsize=(6.8, 0.3 * len(rows) + 1.2))
    y = np.arange(len(rows))
    ax.hlines(y, 0, 1, color="#EEEEEE", lw=1, zorder=0)
    error = np.abs(rows[["low", "high"]].to_numpy(float).T - rows["value"].to_numpy(float))
    ax.errorbar(rows["value"], y, xerr=error, fmt="o", color="#0072B2", capsize=2, ms=5,
                lw=1, label="this run (95 % interval)")  # fmt: skip
    ax.scatter(rows["published"], y, marker="D", color=PUBLISHED_COLOUR, s=28,
               label="published (ADNI)", zorder=3)  # fmt: skip
    ax.set(yticks=y, yticklabels=_wrapped(rows["figure"]), xlim=(0, 1))
    ax.invert_yaxis()
    ax.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _finish(
        figure,
        title,
        "Dots of this run beside published diamonds. "
        + "; ".join(
            f"{r.figure}: {r.value:.2f}, published {r.published:.2f}" for r in rows.itertuples()
        )
        + ".",
    )


def verdict_bars(counts: pd.DataFrame, title: str) -> Figure:
    """Draw how many figures of each chapter got which verdict.

    Parameters
    ----------
    counts : of `report.counted`: one row per chapter, one column per verdict.
    """
    colours = ["#009E73", "#0072B2", "#D55E00", "#CCCCCC"]
    figure, ax = plt.subplots(figsize=(6.8, 0.36 * len(counts) + 1.2))
    left = np.zeros(len(counts))
    for (verdict, found), colour in zip(counts.items(), colours, strict=True):
        ax.barh(counts.index, found, left=left, color=colour, label=str(verdict))
        for place, n in enumerate(found):
            if n:
                ax.text(left[place] + n / 2, place, str(n), ha="center", va="center", size=8,
                        color="#222222" if verdict == "not comparable" else "white")  # fmt: skip
        left += found.to_numpy()
    ax.invert_yaxis()
    ax.set(xlabel="published figures")
    figure.legend(*ax.get_legend_handles_labels(), fontsize=8, ncols=4, loc="outside lower center")
    sums = ", ".join(f"{verdict} {n}" for verdict, n in counts.sum().items())
    return _finish(figure, title, f"Stacked bars, verdicts per chapter. In all: {sums}.")


def leakage_bars(table: pd.DataFrame, title: str, axis: str = "(balanced) accuracy") -> Figure:
    """Draw each experiment's honest value and what the leak makes of it, with intervals.

    Parameters
    ----------
    table : rows of leakage.csv whose values share an axis.
    """
    figure, ax = plt.subplots(figsize=(6.8, 0.5 * len(table) + 1.2))
    y = np.arange(len(table))
    styles = {"honest": ("#0072B2", "o", -0.12), "leaky": ("#D55E00", "s", 0.12)}
    for kind, (colour, marker, shift) in styles.items():
        ends = table[[f"{kind}_low", f"{kind}_high"]].to_numpy(float).T
        error = np.abs(ends - table[kind].to_numpy(float))
        label = {"honest": "honest", "leaky": "with the leak"}[kind]
        ax.errorbar(table[kind], y + shift, xerr=error, fmt=marker, color=colour, label=label,
                    capsize=2, lw=1, ms=5)  # fmt: skip
    names = [f"{r.experiment} (n = {r.n})" for r in table.itertuples()]
    ax.set(yticks=y, yticklabels=_wrapped(names), xlabel=axis)
    ax.tick_params(axis="y", labelsize=9)
    if "accuracy" in axis:
        ax.set_xlim(0, 1.02)
    ax.invert_yaxis()
    ax.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _finish(
        figure,
        title,
        f"Pairs of dots with intervals, {axis}. "
        + "; ".join(
            f"{r.experiment}: honest {r.honest:.2f}, with the leak {r.leaky:.2f}"
            for r in table.itertuples()
        )
        + ".",
    )


def checkpoint_curve(histories: dict[str, pd.DataFrame], published: dict, title: str) -> Figure:
    """Draw validation and test accuracy per epoch, and the epoch that each would choose.

    Parameters
    ----------
    histories : panel title -> epoch, composite, dx3_balanced_accuracy (validation) and
        test_dx3_balanced_accuracy.
    published : epoch -> published values, drawn in grey in the first panel.
    """
    figure, axes = plt.subplots(1, len(histories), figsize=(7.2, 2.9), sharey=True)
    test = "test_dx3_balanced_accuracy"
    for ax, (name, history) in zip(np.atleast_1d(axes), histories.items(), strict=True):
        ax.plot(history["epoch"], history["dx3_balanced_accuracy"], color="#BBBBBB",
                label="validation")  # fmt: skip
        ax.plot(history["epoch"], history[test], color="#0072B2", label="test")
        for by, colour, marker in (("composite", "#0072B2", "o"), (test, "#D55E00", "s")):
            row = history.iloc[int(history[by].to_numpy().argmax())]
            label = "chosen on validation" if by == "composite" else "chosen on test"
            ax.scatter(row["epoch"], row[test], color=colour, marker=marker, s=45, zorder=3,
                       label=label)  # fmt: skip
        if ax is np.atleast_1d(axes)[0]:
            x = [epoch for epoch, values in published.items() for _ in values]
            y = [value for values in published.values() for value in values]
            ax.scatter(x, y, color=PUBLISHED_COLOUR, marker="D", s=28, zorder=3,
                       label="published (ADNI)")  # fmt: skip
        ax.set(xlabel="epoch", title=name, ylim=(0.2, 1))
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    np.atleast_1d(axes)[0].set_ylabel("dx3 balanced accuracy")
    handles = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=7, ncols=5, loc="outside lower center")
    best = "; ".join(
        f"{name}: at best {history[test].max():.2f} on test" for name, history in histories.items()
    )
    return _finish(figure, title, f"Curves of accuracy per epoch. {best}.")


def nf4(levels: list[float]) -> Figure:
    """Draw the NF4 levels on the normal density whose quantiles they follow."""
    from scipy.stats import norm

    figure, ax = plt.subplots(figsize=(6.4, 2.0))
    x = np.linspace(-1.15, 1.15, 300)
    scale = 1 / norm.ppf(0.9677)  # the outermost levels stand for the outermost quantiles
    density = norm.pdf(x, scale=scale)
    ax.fill_between(x, density, color="#DDE8F3", label="weights, scaled to [-1, 1]")
    ax.vlines(levels, 0, norm.pdf(levels, scale=scale), color="#0072B2", lw=1.5)
    ax.scatter(levels, np.zeros(len(levels)), color="#0072B2", s=14, zorder=3, label="NF4 levels")
    ax.set(yticks=[], xlabel="weight / largest weight of its block")
    ax.legend(fontsize=8, loc="upper left")
    words = f"Normal density with the 16 NF4 levels: {', '.join(f'{v:.2f}' for v in levels)}."
    return describe(figure, words)


def protocol_gap(answers: pd.DataFrame, title: str) -> Figure:
    """Draw accuracy per true class and protocol, from rows with reference and parsed."""
    import seaborn as sns

    rows = answers.assign(accuracy=answers["parsed"] == answers["reference"])
    figure, ax = plt.subplots(figsize=(6.4, 2.8))
    sns.barplot(rows, x="reference", y="accuracy", hue="protocol", order=list(DX_COLOURS),
                palette="colorblind", errorbar=None, ax=ax)  # fmt: skip
    ax.set(xlabel="true diagnosis", ylim=(0, 1))
    ax.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _finish(
        figure,
        title,
        "Bars: accuracy per true diagnosis. "
        + "; ".join(
            f"{name}: {_list(part.groupby('reference')['accuracy'].mean())}"
            for name, part in rows.groupby("protocol", sort=False)
        )
        + ".",
    )


def drift_curve(table: pd.DataFrame, title: str) -> Figure:
    """Draw accuracy of the scores against the drift between diagnosis and scores."""
    figure, ax = plt.subplots(figsize=(5.6, 2.9))
    ax.fill_between(table["drift"], table["low"], table["high"], color="#0072B2", alpha=0.2)
    ax.plot(table["drift"], table["value"], marker="o", color="#0072B2")
    ax.axhline(1 / 3, color="#B00000", ls="--", lw=1, label="chance")
    ax.set(xlabel="drift of severity between diagnosis and scores (SD)",
           ylabel="balanced accuracy", ylim=(0.3, 1.02))  # fmt: skip
    ax.legend(fontsize=8)
    return _finish(
        figure,
        title,
        "Falling curve: balanced accuracy against the drift. "
        + ", ".join(f"{r.value:.2f} at {r.drift:g}" for r in table.itertuples())
        + ".",
    )


def interval_bars(
    table: pd.DataFrame, label: str, value: str, axis: str, title: str, zero: float | None = None
) -> Figure:
    """Draw one dot with its interval per row.

    Parameters
    ----------
    table : columns `label`, `value`, low, high and n.
    zero : where to draw a reference line.
    """
    figure, ax = plt.subplots(figsize=(6.4, 0.34 * len(table) + 1.0))
    y = np.arange(len(table))
    error = np.abs(table[["low", "high"]].to_numpy(float).T - table[value].to_numpy(float))
    ax.errorbar(table[value], y, xerr=error, fmt="o", color="#0072B2", capsize=2, lw=1)
    if zero is not None:
        ax.axvline(zero, color="#888888", ls="--", lw=1)
    names = [f"{name} (n = {n})" for name, n in zip(table[label], table["n"], strict=True)]
    ax.set(yticks=y, yticklabels=_wrapped(names), xlabel=axis)
    ax.invert_yaxis()
    return _finish(
        figure, title, f"Dots with intervals, {axis}: {_list(table.set_index(label)[value])}."
    )


def embedding_panels(z_fused: np.ndarray, cohort: pd.DataFrame, title: str) -> Figure:
    """Draw z_fused on two principal components, coloured by five properties of the subject."""
    from sklearn.decomposition import PCA

    points = PCA(2, random_state=0).fit_transform(z_fused)
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.8), sharex=True, sharey=True)
    fa = np.where(cohort["has_fa"], "with FA", "without FA")
    categories = {
        "diagnosis": (cohort["DX"].to_numpy(), DX_COLOURS),
        "sex": (cohort["PTGENDER"].to_numpy(), {"Female": "#CC79A7", "Male": "#56B4E9"}),
        "FA volume": (fa, {"with FA": "#009E73", "without FA": "#BBBBBB"}),
    }
    for ax, (name, (values, colours)) in zip(axes[0], categories.items(), strict=True):
        for value, colour in colours.items():
            ax.scatter(*points[values == value].T, s=6, color=colour, label=value, linewidths=0)
        ax.set_title(name, size=9)
        ax.legend(fontsize=8, markerscale=1.5)
    for ax, name in zip(axes[1], ("CDRSB", "AGE"), strict=False):
        shown = ax.scatter(*points.T, s=6, c=cohort[name], cmap="viridis", linewidths=0)
        figure.colorbar(shown, ax=ax, shrink=0.8)
        ax.set_title(name, size=9)
    axes[1, 2].axis("off")
    return _finish(
        figure,
        title,
        "Scatter plots of z_fused on two principal components, coloured by diagnosis, sex, "
        "FA volume, CDR-SB and age.",
    )


def occlusion(maps: dict[str, np.ndarray], background: np.ndarray, title: str) -> Figure:
    """Lay each class's occlusion map over a brain: axial, coronal, sagittal."""
    figure, axes = plt.subplots(len(maps), 3, figsize=(6.4, 2.1 * len(maps)), squeeze=False)
    top = max(float(np.abs(m).max()) for m in maps.values()) or 1.0
    x, y, z = (int(n * f) for n, f in zip(background.shape, (0.35, 0.45, 0.42), strict=True))
    for row, (name, values) in zip(axes, maps.items(), strict=True):
        cuts: tuple[Any, ...] = (np.s_[:, :, z], np.s_[:, y, :], np.s_[x, :, :])
        for ax, cut in zip(row, cuts, strict=True):
            ax.imshow(np.rot90(background[cut].astype(np.float32)))
            shown = ax.imshow(np.rot90(values[cut]), cmap="RdBu_r", vmin=-top, vmax=top, alpha=0.55)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        row[0].set_ylabel(name, size=9)
    figure.colorbar(shown, ax=axes, shrink=0.6, label="fall of the class's probability")
    return _finish(
        figure,
        title,
        f"Occlusion maps over the template in three views, one row each: {', '.join(maps)}.",
    )


def robust_z(z: pd.DataFrame, limit: float, title: str) -> Figure:
    """Draw the spread of quality measures over all volumes, without saying whose is whose.

    Parameters
    ----------
    z : robust z values, one row per volume, one column per measure.
    limit : beyond which a volume is flagged.
    """
    figure, ax = plt.subplots(figsize=(6.4, 0.6 * z.shape[1] + 1.2))
    ax.boxplot([z[name].dropna() for name in z], orientation="horizontal", widths=0.6,
               flierprops={"marker": ".", "markersize": 3})  # fmt: skip
    ax.set_yticklabels([f"{name} ({int((z[name].abs() > limit).sum())} flagged)" for name in z])
    for edge in (-limit, limit):
        ax.axvline(edge, color="#B00000", ls="--", lw=1)
    ax.set(xlabel=f"robust z (n = {len(z)})")
    names = ", ".join(map(str, z))
    return _finish(figure, title, f"Boxes of the robust z of {names}; dashed: the limit.")


def mean_ranks(rows: list[dict], cohort: pd.DataFrame, title: str) -> Figure:
    """Draw what the first, second, ... candidate is like, as a mean over all queries.

    Parameters
    ----------
    rows : rows of retrieval.jsonl; the blind protocol is drawn.
    """
    blind = [row for row in rows if row["protocol"] == "blind"]
    dx = cohort["DX"].to_numpy()
    same = np.array([dx[row["retrieved"]] == dx[row["case"]] for row in blind])
    cosine = np.array([row["scores"] for row in blind])
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 2.9))
    ranks = np.arange(1, same.shape[1] + 1)
    axes[0].plot(ranks, cosine.mean(axis=0), marker="o", ms=3)
    axes[0].set(xlabel="rank (FAISS)", ylabel="mean cosine with the query")
    axes[1].plot(ranks, same.mean(axis=0), marker="o", ms=3, color="#D55E00")
    axes[1].set(xlabel="rank (FAISS)", ylabel="share with the query's diagnosis", ylim=(0, 1))
    return _finish(
        figure,
        f"{title}, n = {len(blind)}",
        "Mean cosine and share of the query's diagnosis by rank: "
        f"first {same[:, 0].mean():.2f}, last {same[:, -1].mean():.2f}.",
    )


def mean_slices(groups: dict[str, list[int]], volumes: np.ndarray, title: str) -> Figure:
    """Show the mean axial slice of groups of cases, with their sizes.

    Parameters
    ----------
    groups : name -> cases; none of them may be so small that it shows a person.
    volumes : (n, X, Y, Z); row i is case i.
    """
    figure, axes = plt.subplots(1, max(1, len(groups)), figsize=(7.2, 2.2), squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    z = int(volumes.shape[3] * 0.48)
    for ax, (name, cases) in zip(axes.flat, groups.items(), strict=False):
        ax.imshow(np.rot90(volumes[cases, :, :, z].astype(np.float32).mean(axis=0)))
        ax.set_title(f"{name}\n(n = {len(cases)})", size=7)
    return _finish(figure, title, f"Mean axial slices: {', '.join(groups) or 'none'}.")
