"""Viewers work without a kernel, and every word stays text."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from memoir_book import viewers

HOSTILE = '</script><img src=x onerror=alert(1)><script>alert("&amp;")</script>'


def inert(page, scripts):
    """Only our own scripts, and nothing of the hostile text outside a string."""
    assert page.count("<script") == page.count("</script") == scripts
    assert "<img src=x" not in page and "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert ".innerHTML" not in page and "insertAdjacentHTML" not in page


def captions(cases):
    return [{"case": c, "caption": f"{HOSTILE} {c}", "caption_blind": HOSTILE} for c in cases]


def test_the_slice_viewer_holds_every_slice():
    rng = np.random.default_rng(0)
    volumes = {HOSTILE: rng.random((8, 9, 7)), "MCI": rng.random((8, 9, 7))}
    page = viewers.slice_viewer(volumes, HOSTILE).data
    assert len(set(re.findall(r"data:image/jpeg;base64,[\w+/=]+", page))) == 7
    assert 'max="6"' in page and 'value="3"' in page and 'alt="axial slices' in page
    inert(page, scripts=1)


def test_a_slider_of_figures_holds_each_and_what_it_says():
    def drawn():
        for number in range(5):
            assert len(plt.get_fignums()) == before, "the one before is closed"
            figure, ax = plt.subplots(figsize=(2, 1))
            ax.set_title(str(number))
            yield f"{number / 10:.1f}", figure

    before = len(plt.get_fignums())
    page = viewers.figure_slider(drawn(), "threshold", HOSTILE, "five numbers").data
    assert len(set(re.findall(r"data:image/png;base64,[\w+/=]+", page))) == 5
    assert 'max="4"' in page and ">0.2</output>" in page and "<label>threshold" in page
    assert '["0.0", "0.1", "0.2", "0.3", "0.4"]' in page and 'alt="five numbers"' in page
    inert(page, scripts=1)


def test_the_case_explorer_holds_the_cases_of_its_queries_and_no_others():
    row = {"case": 2, "protocol": "blind", "reranked": [0, 1], "rerank_scores": [0.9, 0.5]}
    cohort = pd.DataFrame({"DX": ["CN", "MCI", "Dementia", "CN"]})
    volumes = np.random.default_rng(0).random((4, 8, 9, 7))
    page = viewers.case_explorer([row], cohort, volumes, captions(range(4)), HOSTILE).data
    inert(page, scripts=1)
    cards, _ = json.JSONDecoder().raw_decode(page[page.index("const cards = ") + 14 :])
    assert {case: card["dx"] for case, card in cards.items()} == {
        "0": "CN", "1": "MCI", "2": "Dementia",
    }  # fmt: skip
    assert cards["1"]["caption"] == f"{HOSTILE} 1"  # what the browser sets as text
    assert cards["0"]["slice"] != cards["1"]["slice"]


def test_the_transcript_shows_the_case_asked_most_and_only_blind_answers():
    def row(case, kind, protocol, answer):
        said = {"case": case, "kind": kind, "protocol": protocol, "answer": answer}
        return said | {"question": f"{kind}?", "reference": HOSTILE, "cases_used": [1]}

    rows = [
        row(0, "sex", "blind", "other"), row(2, "sex", "blind", "Male"),
        row(2, "why", "blind", ""), row(2, "why", "own_caption", "SECRET"),
    ]  # fmt: skip
    answers = {HOSTILE: pd.DataFrame(rows), "second": pd.DataFrame(rows[1:])}
    page = viewers.transcript(answers, captions(range(3)), HOSTILE).data
    inert(page, scripts=0)
    assert "case 2</strong>" in page and page.count("<em>") == 2
    assert len(re.findall(r"Male\s\[cases 1; not for clinical use\]", page)) == 2
    assert page.count("(no answer)") == 2 and "SECRET" not in page and "other [" not in page


def test_a_frame_of_nilearn_gets_a_name():
    class View:
        def get_iframe(self):
            return '<iframe srcdoc="x" width="600"></iframe>'

    page = viewers.titled_frame(View(), 'a "map"').data
    assert page.startswith('<div><iframe title="a &quot;map&quot;" style="max-width:100%" srcdoc')
