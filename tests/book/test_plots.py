"""Every figure draws, says in words what it shows, and keeps its words apart."""

import json
from itertools import combinations
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from matplotlib.patches import FancyBboxPatch
from sklearn.metrics import confusion_matrix as sk_confusion

from memoir_book import plots
from memoir_book.chapters import CHAPTERS, get_chapter
from memoir_book.dataset import CLINICAL
from memoir_core.config import DX, SCORES


@pytest.fixture(autouse=True)
def no_window():
    mpl.use("Agg")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
def test_the_pipeline_outlines_what_a_chapter_is_about(chapter, monkeypatch):
    shown = []
    monkeypatch.setattr(plots.data, "display", shown.append)
    plots.pipeline(chapter.number)
    picture = ElementTree.fromstring(shown[0].data)
    about = picture.get("aria-label")
    assert picture.get("data-chapter") == chapter.number
    assert f"what chapter {chapter.number} is about" in about and "CHAPTER" not in shown[0].data
    parts = [e for e in picture.iter() if f"c{chapter.number}" in e.get("class", "").split()]
    assert 1 <= len(parts) <= 4
    assert f'.flow[data-chapter="{chapter.number}"] .c{chapter.number} ' in shown[0].data


# --- what a figure says to who cannot see it --------------------------------------------


def gaps(cohort, label):
    """The figure of missing values, which chapter 1 draws itself."""
    names = {"plots": plots, "plt": plt, "sns": sns, "DX": DX, "SCORES": SCORES}
    names["CLINICAL"] = CLINICAL
    names |= {"cohort": cohort, "book": SimpleNamespace(label=label)}
    exec(cell_of("01", "Missing values in percent"), names)
    return names["figure"]


def cell_of(number, holds):
    cells = json.loads(get_chapter(number).notebook.read_text(encoding="utf-8"))["cells"]
    (cell,) = [text for c in cells if holds in (text := "".join(c["source"]))]
    return cell


def mosaic(*inputs):
    """The figure of slices, which chapter 2 draws itself."""
    names = {"plots": plots, "plt": plt, "np": np}
    exec(cell_of("02", "def mosaic("), names)
    names["mosaic"](*inputs)
    return plt.gcf()


def cohort_flow(*inputs):
    """The figure of filters, which chapter 1 draws itself."""
    names = {"plots": plots, "plt": plt, "DX": DX, "FancyBboxPatch": FancyBboxPatch}
    exec(cell_of("01", "def draw_flow("), names)
    names["draw_flow"](*inputs)
    return plt.gcf()


def confusion_matrix(counts, label):
    """The figure of chapter 5."""
    truth, said = (np.repeat(side.ravel(), counts.ravel()) for side in np.indices(counts.shape))
    heads = {"dx3": (truth, np.eye(len(counts))[said], DX)}
    names = {"plots": plots, "plt": plt, "np": np, "pd": pd, "sns": sns, "DX": DX, "table": truth}
    names |= {"metrics": SimpleNamespace(heads=lambda _: heads), "confusion_matrix": sk_confusion}
    names |= {"book": SimpleNamespace(label=label)}
    exec(cell_of("05", "Confusion matrix."), names)
    assert names["counts"].tolist() == counts.tolist()  # rows: what is true
    return plt.gcf()


DRAWN = {
    "gaps": gaps,
    "cohort_flow": cohort_flow,
    "mosaic": mosaic,
    "confusion_matrix": confusion_matrix,
}


def draw(name, *inputs):
    return (DRAWN.get(name) or getattr(plots, name))(*inputs)


def small_inputs():
    """One call per figure, on numbers made up for the purpose: name -> arguments."""
    rng = np.random.default_rng(0)
    dx = list(plots.DX_COLOURS)
    cohort = pd.DataFrame(
        rng.uniform(1, 9, (12, 7)),
        columns=["CDRSB", "ADAS11", "ADAS13", "MMSE", "MOCA", "AGE", "APOE4"],
    ).assign(DX=dx * 4, PTGENDER=["Female", "Male"] * 6, has_fa=[False, True] * 6)
    cohort["VENTRICLES"], cohort["FORNIX_FA"] = range(12), range(12)
    flow = [{"step": "all", "rows": 9, "subjects": 3} | dict.fromkeys(dx, 1)] * 2
    bounds = {"value": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.7]}
    ablation = pd.DataFrame(bounds | {"subset": ["t1", "fa"], "published": [0.5, np.nan], "n": 12})
    scores = pd.DataFrame(bounds | {"protocol": ["blind", "own_caption"], "llm": "a model"})
    volume = rng.random((9, 10, 11)).astype(np.float32)
    curve = pd.DataFrame({"epoch": [0, 1], "loss": [2.0, 1.0], "val_recall@10": [0.1, 0.2]})
    words = ("reproduced", "pattern reproduced", "not reproduced", "not comparable")
    verdicts = pd.DataFrame([range(4)], index=["05"], columns=words)
    return {
        "cohort_flow": (flow, "run"),
        "distributions": (cohort, {"MMSE": "MMSE", "AGE": "age"}, "run"),
        "gaps": (cohort, "run"),
        "brain_rows": ({"CN": volume}, "run", volume[::2, ::2, ::2], "a map"),
        "mosaic": (volume[None], ["case 0"], [True], "run"),
        "stacked_bars": (verdicts, "published figures", "run"),
        "history_curves": (curve, {"loss": ["loss"]}, "run", 1),
        "confusion_matrix": (np.array([[5, 1, 0], [2, 7, 3], [0, 4, 6]]), "run"),
        "embedding_map": (
            {
                name: (rng.random((12, 4)), cohort[name])
                for name in ("DX", "PTGENDER", "AGE", "MMSE")
            },
            "run",
        ),
        "grouped_bars": (
            scores.assign(published=[np.nan, 0.9]),
            "llm",
            "protocol",
            "accuracy",
            "run",
            0.3,
        ),
        "interval_bars": (ablation, "subset", "accuracy", "run", ["value"], 0.5),
    }


def test_every_figure_is_among_those_that_are_drawn_here():
    found = {n for n, f in vars(plots).items() if "Figure" in str(_returns(f))}
    assert found - {"describe", "finish"} == set(small_inputs()) - set(DRAWN)


def _returns(function):
    return getattr(function, "__annotations__", {}).get("return", "")


@pytest.mark.parametrize("name", sorted(small_inputs()))
def test_a_figure_says_what_it_shows(name):
    figure = draw(name, *small_inputs()[name])
    words = str(figure.get_label())
    assert len(words.split()) >= 5 and words.endswith("."), words
    assert "nan" not in words.split() and ".." not in words and "run" in words, words
    plt.close(figure)


@pytest.mark.parametrize("name", sorted(small_inputs()))
def test_titles_legends_and_labels_stay_apart(name):
    plots.use_style()
    label = "free answers, synthetic cohort, profile quick, seed 0, cpu"
    inputs = [label if isinstance(v, str) and v == "run" else v for v in small_inputs()[name]]
    figure = draw(name, *inputs)
    figure.canvas.draw()
    words = [figure._suptitle] if figure._suptitle else []
    words += [text for ax in figure.axes for text in (ax.title, ax.xaxis.label)]
    boxes = [text.get_window_extent() for text in words if text.get_text()]
    legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()] + figure.legends
    boxes += [legend.get_window_extent() for legend in legends]
    for one, other in combinations(boxes, 2):
        shared = mpl.transforms.Bbox.intersection(one, other)
        assert shared is None or min(shared.width, shared.height) < 1, (one, other)
    plt.close(figure)


def test_long_labels_leave_an_axis_its_room():
    plots.use_style()
    name = "own caption reranks, a language model with a long name, un-quantised (stand-in)"
    figure = plots.interval_bars(leaks().assign(experiment=name), "experiment", "accuracy", "run")
    figure.canvas.draw()
    assert figure.axes[0].get_position().width > 0.5
    plt.close(figure)


def leaks():
    honest = {"experiment": "a leak", "n": [12], "honest": 0.5, "honest_low": 0.4}
    leaky = {"honest_high": 0.6, "leaky": 0.7, "leaky_low": 0.6, "leaky_high": 0.9}
    return pd.DataFrame(honest | leaky).assign(value=0.5, low=0.4, high=0.6)


def test_two_values_of_a_row_stand_beside_each_other_each_with_its_own_interval():
    figure = plots.interval_bars(leaks(), "experiment", "accuracy", "run", ["honest", "leaky"])
    (one, two) = figure.axes[0].containers
    assert (one.lines[0].get_xydata()[0][0], two.lines[0].get_xydata()[0][0]) == (0.5, 0.7)
    ends = [bars.get_segments()[0][:, 0].tolist() for bars in (one.lines[2][0], two.lines[2][0])]
    assert np.allclose(ends, [[0.4, 0.6], [0.6, 0.9]])
    assert "a leak: honest 0.50, leaky 0.70" in figure.get_label()
    plt.close(figure)


def test_gaps_are_counted_in_percent_of_a_class():
    cohort = small_inputs()["gaps"][0]
    cohort.loc[cohort["DX"] == "MCI", "MMSE"] = [np.nan, 1.0, 1.0, np.nan]
    words = gaps(cohort, "run").get_label()
    whole = "CDR-SB 0, ADAS-11 0, ADAS-13 0, MMSE 0, MoCA 0, APOE4 0, FA 50"
    rows = f"CN: {whole}; MCI: {whole.replace('MMSE 0', 'MMSE 50')}; Dementia: {whole}. run."
    assert words == f"Missing values in percent of a class: {rows}"
    plt.close("all")


def test_a_bar_stands_in_the_row_of_its_name():
    rows = pd.DataFrame({"of": ["a", "b", "a"], "llm": ["x", "x", "y"], "value": [0.2, 0.4, 0.6]})
    rows = rows.assign(
        low=rows["value"] - 0.1, high=rows["value"] + 0.1, published=[np.nan, 0.5, 1]
    )
    figure = plots.grouped_bars(rows, "llm", "of", "accuracy", "run", 0.5)
    ax = figure.axes[0]
    found = [(bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in ax.patches]
    assert np.allclose(found, [(0.2, -0.2), (0.6, 0.8), (0.4, 0.2)])
    assert np.allclose(ax.collections[-1].get_offsets(), [(0.5, 0), (1, 1)])
    words = figure.get_label()
    assert "a: x 0.20, y 0.60; b: x 0.40; published: x 0.50, y 1.00" in words
    plt.close(figure)
    constant = rows.assign(one_class=["", "Male", ""])
    constant.loc[1, ["low", "high"]] = np.nan
    figure = plots.grouped_bars(constant, "llm", "of", "accuracy", "run", 0.5)
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.20", "0.60", "0.40, all Male"]
    assert "b: x 0.40; one class for all, b: x Male; published" in figure.get_label()
    reach = [bars.lines[2][0].get_segments() for bars in _errors(figure.axes[0])]
    assert len(reach[0]) == 2 and not len(reach[1][0])
    plt.close(figure)


def _errors(ax):
    return [c for c in ax.containers if isinstance(c, mpl.container.ErrorbarContainer)]


def test_stacked_counts_are_written_in_the_bars_and_shares_are_not():
    counts = pd.DataFrame({"reproduced": [2, 0], "not comparable": [1, 3]}, ["05", "06"])
    for table, texts in ((counts, ["2", "", "1", "3"]), (counts / 3, [])):
        figure = plots.stacked_bars(table, "figures", "run")
        assert [text.get_text() for text in figure.axes[0].texts] == texts
        plt.close(figure)
    empty = plots.stacked_bars(counts[:0], "figures", "run")
    plt.close(empty)


def test_an_embedding_map_uses_the_axes_of_its_first_panel():
    rng = np.random.default_rng(0)
    z, dx = rng.normal(size=(9, 4)), pd.Series(["CN", "MCI", "Dementia"] * 3)
    figure = plots.embedding_map({"z": (z, dx), "half": (z / 2 + z.mean(axis=0) / 2, dx)}, "run")
    (one,), (two,) = (ax.collections for ax in figure.axes[:2])
    assert len(one.get_offsets()) == 9
    assert np.allclose(one.get_offsets() / 2, two.get_offsets())
    drawn = [mpl.colors.to_hex(colour).upper() for colour in one.get_facecolors()]
    assert drawn == [plots.DX_COLOURS[name] for name in dx]
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["CN", "MCI", "Dementia"]
    plt.close(figure)
