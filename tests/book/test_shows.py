"""Sentences follow their numbers: in each chapter, a number that changes sides changes a sentence.

`shows/05.json` holds, for chapter 5, what a run may find and which of its numbers speak:
{"found": results as the chapter saves them, "turns": [{"path": "a/b/c", "against": 0.5, "says":
{"above": a sentence, "below": another, "unclear": a third}}, ...]}. A path leads to a mapping with
value, low and high. Somebody has read the sentences, so that two that are exchanged are refused.
"""

import copy
import json
from functools import reduce
from pathlib import Path

import pytest
import test_exercises

from memoir_book import shows

CASES = sorted(Path(__file__).with_name("shows").glob("*.json"))
SIDES = ("above", "below", "unclear")
ABOVE, BELOW, UNCLEAR = "It is above", "It is below", "It cannot be told"


def pick(value, low, high, against=0.5):
    row = {"value": value, "low": low, "high": high, "n": 62}
    return shows.pick(row, against, ABOVE, BELOW, UNCLEAR)


def test_the_interval_chooses_the_sentence():
    assert pick(0.7, 0.6, 0.8) == "It is above (0.70; 0.60 to 0.80; n = 62)."
    assert pick(0.3, 0.2, 0.4) == "It is below (0.30; 0.20 to 0.40; n = 62)."
    assert pick(0.6, 0.4, 0.8).startswith(UNCLEAR), "whatever side the value is on"
    assert pick(0.6, 0.5, 0.8).startswith(UNCLEAR), "an end that touches"
    assert pick(0.6, 0.6, 0.6) == "It cannot be told (0.60; in every redraw; n = 62)."


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_what_was_not_measured_is_not_said(missing):
    assert pick(0.7, missing, 0.8) == "Not measured in this run, and so not said: It is above."


def test_the_box_is_read_by_people_and_machines():
    box = shows.Box(["A < B.", "C."], "ADNI, n = 3")
    assert "A &lt; B." in box._repr_html_() and box._repr_html_().count("<li>") == 2
    assert repr(box) == "What this run shows (ADNI, n = 3):\n- A < B.\n- C."


def turned(found, path, against, side):
    """The same results, with one row on a side of what it is held against."""
    found = copy.deepcopy(found)
    *parents, last = path.split("/")
    parent = reduce(lambda at, k: at[int(k) if isinstance(at, list) else k], parents, found)
    last = int(last) if isinstance(parent, list) else last
    low, high = {"above": (0.04, 0.2), "below": (-0.2, -0.04), "unclear": (-0.06, 0.08)}[side]
    new = {"value": against + (low + high) / 2, "low": against + low, "high": against + high}
    parent[last] = parent[last] | new
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_number_that_changes_sides_changes_a_sentence(case):
    told = json.loads(case.read_text(encoding="utf-8"))
    says = test_exercises.namespace(test_exercises.CHAPTERS[case.stem])["shows_of"]
    usual = says(told["found"])
    assert usual and all(sentence.endswith((".", "?")) for sentence in usual)
    for turn in told["turns"]:
        path, against, wanted = turn["path"], turn["against"], turn["says"]
        assert len(set(wanted.values())) == len(SIDES), path
        for side in SIDES:
            said = says(turned(told["found"], path, against, side))
            bare = [sentence.split(" (")[0] for sentence in said]  # words, without figures
            assert wanted[side] in bare, (path, side)
            others = {wanted[other] for other in SIDES if other != side}
            assert not others & set(bare), (path, side)


def test_every_chapter_that_measures_says_what_its_run_shows():
    expected = {"04", "05", "06", "07", "08", "09", "10", "11"}
    assert {case.stem for case in CASES} == expected
