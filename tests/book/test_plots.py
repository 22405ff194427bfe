"""Every figure draws, says in words what it shows, and keeps its words apart."""

from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from memoir_book import plots
from memoir_book.chapters import CHAPTERS


@pytest.fixture(autouse=True)
def no_window():
    mpl.use("Agg")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
def test_the_pipeline_names_every_chapter_inside_its_box(chapter):
    plots.use_style()
    figure = plots.pipeline(chapter.number)
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [p.get_window_extent() for p in axes.patches if hasattr(p, "get_boxstyle")]
    texts = [t.get_window_extent() for t in axes.texts]
    assert len(boxes) == len(CHAPTERS) and len(texts) == 2 * len(CHAPTERS)
    for text in texts:
        assert any(b.x0 <= text.x0 and text.x1 <= b.x1 for b in boxes), "a label is too wide"


# --- what a figure says to who cannot see it --------------------------------------------


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
    p = np.full((12, 3), 1 / 3)
    predictions = pd.DataFrame(p, columns=[f"p_{n}" for n in dx]).assign(
        DX=dx * 4, p2_Dementia=rng.random(12)
    )
    bounds = {"value": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.7]}
    ablation = pd.DataFrame(
        bounds | {"task": "dx3", "metric": "accuracy", "subset": ["t1", "fa"]}
    ).assign(published=[0.5, np.nan], n=12)
    found = {"case": 0, "protocol": "blind", "retrieved": [1, 2], "scores": [0.9, 0.8]}
    found |= {"candidate_scores": [0.1, 0.2], "reranked": [2], "rerank_scores": [0.2]}
    answers = pd.DataFrame(
        {"protocol": ["blind", "own_caption"] * 3, "reference": dx * 2, "parsed": dx * 2}
    )
    scores = pd.DataFrame(bounds | {"metric": "accuracy", "protocol": ["blind", "own_caption"]})
    ranked = {"precision@5": [0.5], "ndcg@5": [0.4], "knn_accuracy": [0.3], "n": [3]}
    volume = rng.random((9, 10, 11)).astype(np.float32)
    curve = pd.DataFrame({"epoch": [0, 1], "loss": [2.0, 1.0], "val_recall@10": [0.1, 0.2]})
    names = ("composite", "dx3_balanced_accuracy", "test_dx3_balanced_accuracy")
    epochs = pd.DataFrame({name: [0.4, 0.6, 0.5] for name in names}).assign(epoch=[1, 2, 3])
    words = ("reproduced", "pattern reproduced", "not reproduced", "not comparable")
    verdicts = pd.DataFrame([range(4)], index=["05"], columns=words)
    return {
        "pipeline": ("04",),
        "cohort_flow": (flow, "run"),
        "score_distributions": (cohort, "run"),
        "missingness": (cohort, "run"),
        "brain_rows": ({"CN": volume}, "run"),
        "qc_mosaic": (volume[None], ["case 0"], [True], "run"),
        "attention_bars": (pd.DataFrame({"t1": [0.4], "fa": [0.6]}, index=["t1+fa"]), "run"),
        "similarity": (np.eye(3), np.eye(3), ("T1", "clinical"), "run"),
        "history_curves": (curve, {"loss": ["loss"]}, "run", 1),
        "confusion_matrix": (np.eye(3, dtype=int), "run"),
        "roc_and_calibration": (predictions, "run"),
        "ablation_bars": (ablation, "dx3", 1 / 3, "run"),
        "text_curves": (pd.DataFrame({"step": [0, 1], "loss": [3.0, 2.0]}), curve, "run"),
        "embedding_map": (rng.random((12, 4)), rng.random((12, 4)), cohort, "run"),
        "query_path": (found, cohort, "run"),
        "subset_retrieval": (pd.DataFrame(ranked | {"subset": "t1", "method": "z_fused"}), "run"),
        "image_fields": (cohort, "run"),
        "retrieval_bars": (pd.DataFrame(ranked | {"method": "random"}), "run"),
        "llm_bars": (scores.assign(llm="a model", published=[np.nan, 0.9]), "accuracy", 0.3, "run"),
        "failure_bars": (pd.DataFrame({"llm": ["m"], "kind_of_error": ["unparsed"]}), "run"),
        "published_ladder": (ablation.assign(figure=["a", "b"]), "run"),
        "leakage_bars": (
            pd.DataFrame(
                {"experiment": "a leak", "honest": [0.5], "honest_low": 0.4, "honest_high": 0.6}
                | {"leaky": 0.7, "leaky_low": 0.6, "leaky_high": 0.8, "n": 12}
            ),
            "run",
        ),
        "checkpoint_curve": ({"stage 2": epochs}, {5: [0.66, 0.707]}, "run"),
        "verdict_bars": (verdicts, "run"),
        "nf4": ([-1.0, 0.0, 1.0],),
        "protocol_gap": (answers, "run"),
        "drift_curve": (pd.DataFrame(bounds | {"drift": [0.0, 1.0]}), "run"),
        "interval_bars": (ablation, "subset", "value", "accuracy", "run", 0.5),
        "embedding_panels": (rng.random((12, 4)), cohort, "run"),
        "occlusion": ({"CN": volume}, volume, "run"),
    }


def test_every_figure_is_among_those_that_are_drawn_here():
    found = {n for n, f in vars(plots).items() if "Figure" in str(_returns(f))}
    assert found - {"describe"} == set(small_inputs())


def _returns(function):
    return getattr(function, "__annotations__", {}).get("return", "")


@pytest.mark.parametrize("name", sorted(small_inputs()))
def test_a_figure_says_what_it_shows(name):
    figure = getattr(plots, name)(*small_inputs()[name])
    words = str(figure.get_label())
    assert len(words.split()) >= 5 and words.endswith("."), words
    assert ("nan" not in words.split() and ".." not in words and "run" in words) or name in (
        "pipeline",
        "nf4",
    ), words
    plt.close(figure)


@pytest.mark.parametrize("name", sorted(small_inputs()))
def test_titles_legends_and_labels_stay_apart(name):
    plots.use_style()
    label = "free answers, synthetic cohort, profile quick, seed 0, cpu"
    inputs = [label if isinstance(v, str) and v == "run" else v for v in small_inputs()[name]]
    figure = getattr(plots, name)(*inputs)
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
    table = small_inputs()["leakage_bars"][0].assign(experiment=name)
    figure = plots.leakage_bars(table, "run")
    figure.canvas.draw()
    assert figure.axes[0].get_position().width > 0.5
    plt.close(figure)
