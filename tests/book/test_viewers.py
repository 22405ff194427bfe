"""Viewers work without a kernel, and every word stays text."""

import base64
import gzip
import html
import json
import re
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from ideas import cell
from nibabel import Nifti1Image

from memoir_book import pages, plots, viewers

HOSTILE = '</script><img src=x onerror=alert(1)><script>alert("&amp;")</script>'


def inert(page, scripts):
    """Only our own scripts, and nothing of the hostile text outside a string."""
    assert page.count("<script") == page.count("</script") == scripts
    assert "<img src=x" not in page and "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert ".innerHTML" not in page and "insertAdjacentHTML" not in page


def captions(cases):
    return [{"case": c, "caption": f"{HOSTILE} {c}", "caption_blind": HOSTILE} for c in cases]


AFFINE = np.diag([8.0, 8, 8, 1])


def image(seed, shape=(8, 9, 7)):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Nifti1Image(values, AFFINE)


@pytest.fixture
def shown(monkeypatch):
    """What `brain_viewer` displays: MIME type -> content."""
    bundles = []
    monkeypatch.setattr(viewers, "display", lambda data, raw: bundles.append(data))

    def show(*args, **how):
        viewers.brain_viewer(*args, **how)
        page = bundles[-1]["text/html"]
        told = json.loads(html.unescape(re.search("data-brain='([^']*)'", page)[1]))
        return bundles[-1], told

    return show


def unpacked(packed):
    return Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed)))


def test_the_brain_viewer_keeps_each_volume_once_as_nifti(shown):
    volumes = {HOSTILE: image(0), "MCI": image(1)}
    bundle, told = shown(volumes, HOSTILE, "SD")
    inert(bundle["text/html"], scripts=0)
    files = bundle[viewers.VOLUMES]
    assert told["files"] == [*files] and not told["base"] and told["unit"] == "SD"
    assert [layer["name"] for layer in told["layers"]] == [f"{HOSTILE}.nii.gz", "MCI.nii.gz"]
    for original, packed in zip(volumes.values(), files.values(), strict=True):
        assert packed not in bundle["text/html"]
        found, values = unpacked(packed), original.get_fdata()
        assert found.get_data_dtype() == np.uint8 and np.allclose(found.affine, AFFINE)
        assert np.abs(found.get_fdata() - values).max() <= np.ptp(values) / 255
    assert re.search(r'<img src="data:image/png;base64,[\w+/=]+" alt="Axial', bundle["text/html"])


def test_maps_lie_over_a_brain_with_their_sign(shown):
    maps, under = {"CN": image(0), "AD": image(1)}, image(2, (9, 10, 8))
    bundle, told = shown(maps, "fall", "p", under)
    first, *others = told["layers"]
    assert told["base"] and first == {"name": "under.nii.gz", "colormap": "gray"}
    top = max(np.abs(m.get_fdata()).max() for m in maps.values())
    for layer in others:
        assert layer["cal_max"] == pytest.approx(top) and layer["cal_min"] == pytest.approx(
            top / 10
        )
        assert layer["colormap"] != layer["colormap_negative"] != ""
    kept = [unpacked(packed).shape for packed in bundle[viewers.VOLUMES].values()]
    assert kept == [(9, 10, 8), (8, 9, 7), (8, 9, 7)]
    assert shown({"flat": Nifti1Image(np.zeros((8, 9, 7)), AFFINE)}, "t", "p", under)[1]


def test_a_live_notebook_gets_a_widget_and_a_page_does_not(shown, monkeypatch, tmp_path):
    bundle, _ = shown({"CN": image(0), "AD": image(1)}, "a title", "p", image(2))
    widget = bundle[pages.WIDGET]["model_id"]
    box, live = viewers_widget(widget).children
    assert [volume.name for volume in live.volumes] == ["under.nii.gz", "CN.nii.gz"]
    box.children[0].value = "AD.nii.gz"
    assert [volume.name for volume in live.volumes] == ["under.nii.gz", "AD.nii.gz"]
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", bundle)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "n.ipynb")
    pages.tidy(tmp_path / "n.ipynb", "run", "")
    (tidied,) = nbformat.read(tmp_path / "n.ipynb", 4).cells
    assert tidied.outputs[0].data.keys() == {"text/html", "text/plain"}
    assert tidied.metadata["volumes"] == bundle[viewers.VOLUMES]
    monkeypatch.setitem(sys.modules, "ipyniivue", None)  # not installed
    bundle, _ = shown({"CN": image(0)}, "a title")
    assert bundle.keys() == {"text/html", viewers.VOLUMES}


def viewers_widget(model):
    from ipywidgets import widgets

    return widgets.widget._instances[model]


def test_a_slider_of_figures_holds_each_and_what_it_says():
    before, frames = len(plt.get_fignums()), {}
    for number in range(5):
        figure, ax = plt.subplots(figsize=(2, 1))
        ax.set_title(str(number))
        frames[f"{number / 10:.1f}"] = viewers.png(figure)
        assert len(plt.get_fignums()) == before, "it is closed"
    words = {"moved": "threshold", "title": HOSTILE, "alt": "five numbers", "labels": [*frames]}
    page = viewers.show("slider", frames=[*frames.values()], **words).data
    assert len(set(re.findall(r"data:image/png;base64,[\w+/=]+", page))) == 5
    assert 'max="4"' in page and ">0.2</output>" in page and "<label>threshold" in page
    assert '["0.0", "0.1", "0.2", "0.3", "0.4"]' in page and 'alt="five numbers"' in page
    inert(page, scripts=1)


def test_the_case_explorer_holds_the_cases_of_its_queries_and_no_others():
    row = {"case": 2, "protocol": "blind", "reranked": [0, 1], "rerank_scores": [0.9, 0.5]}
    rows = [row | {"query": "SECRET"}, row | {"case": 3}]
    dx = np.array(["CN", "MCI", "Dementia", "CN"], object)
    volumes = np.random.default_rng(0).random((4, 8, 9, 7))
    pages = []
    show = lambda *a, **words: pages.append(viewers.show(*a, **words).data)  # noqa: E731
    names = {"rows": rows, "dx": dx, "captions": captions(range(4)), "ordinary": [2]}
    names |= {"volumes": SimpleNamespace(t1=volumes), "plots": plots}
    names["book"] = SimpleNamespace(dataset=SimpleNamespace(t1="T1"), label=HOSTILE)
    tools = SimpleNamespace(show=show, axial=viewers.axial)
    cell("08", 'viewers.show("explorer"', viewers=tools, **names)
    inert(page := pages[0], scripts=1)
    assert "SECRET" not in page  # of a query, only what is drawn
    cards, _ = json.JSONDecoder().raw_decode(page[page.index("const cards = ") + 14 :])
    assert {case: card["dx"] for case, card in cards.items()} == {
        "0": "CN", "1": "MCI", "2": "Dementia",
    }  # fmt: skip
    assert cards["1"]["caption"] == f"{HOSTILE} 1"  # what the browser sets as text
    assert cards["0"]["slice"] != cards["1"]["slice"]


def test_the_transcript_shows_one_case_and_only_blind_answers():
    def row(case, kind, protocol, answer):
        said = {"case": case, "kind": kind, "protocol": protocol, "answer": answer}
        return said | {"question": f"{kind}?", "reference": HOSTILE, "cases_used": [1]}

    rows = [
        row(0, "sex", "blind", "other"), row(2, "sex", "blind", "Male"),
        row(2, "why", "blind", ""), row(2, "why", "own_caption", "SECRET"),
    ]  # fmt: skip
    answers = {HOSTILE: pd.DataFrame(rows), "second": pd.DataFrame(rows[1:])}
    pages = []
    show = SimpleNamespace(show=lambda *a, **words: pages.append(viewers.show(*a, **words).data))
    names = {"answers": answers, "captions": captions(range(3)), "shown_case": 2, "pd": pd}
    label = SimpleNamespace(label=HOSTILE)
    cell("09", 'viewers.show("transcript"', viewers=show, book=label, **names)
    inert(page := pages[0], scripts=0)
    assert "case 2</strong>" in page and page.count("<em>") == 2
    assert len(re.findall(r"Male\s\[cases 1; not for clinical use\]", page)) == 2
    assert page.count("(no answer)") == 2 and "SECRET" not in page and "other [" not in page
