"""Figures that do more than draw: the slice viewers and the pipeline."""

import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from memoir_core import plots
from memoir_core.config import CHAPTERS


@pytest.fixture(autouse=True)
def no_window():
    mpl.use("Agg")


def test_the_slice_viewer_needs_no_kernel_and_escapes_its_text():
    rng = np.random.default_rng(0)
    volumes = {"<b>CN</b>": rng.random((8, 9, 7)), "MCI": rng.random((8, 9, 7))}
    page = plots.slice_viewer(volumes, "a <script> title").data
    assert len(set(re.findall(r"data:image/jpeg;base64,[\w+/=]+", page))) == 7
    assert 'max="6"' in page and 'value="3"' in page and 'alt="axial slices' in page
    assert "<b>CN" not in page and "a &lt;script&gt; title" in page


def test_the_live_viewer_shows_any_case_and_slice():
    cohort = pd.DataFrame({"DX": ["CN", "MCI"], "AGE": [70.0, 80.0]})
    case, z, *_ = plots.browse(np.zeros((2, 5, 6, 7), np.float16), cohort).children
    assert (case.max, z.max, z.value) == (1, 6, 3)


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
