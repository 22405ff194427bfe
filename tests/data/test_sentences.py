"""The grammar of synthetic sentences."""

import hashlib
import re

import pytest

from synthetic_adni import sentences


def test_the_published_number_of_distinct_sentences():
    drawn = sentences.synthetic_sentences(25000, seed=0)
    assert len(set(drawn)) == 25000
    assert drawn[:100] == sentences.synthetic_sentences(100, seed=0)
    assert drawn[:100] != sentences.synthetic_sentences(100, seed=1)
    assert len({word for s in drawn for word in s.split()}) > 700
    assert not any("{" in s or re.search(r"\b[Aa] 8", s) for s in drawn)


def test_the_sentences_stay_what_they_were():
    joined = "\n".join(sentences.synthetic_sentences(1000, seed=0)).encode()
    assert hashlib.sha256(joined).hexdigest().startswith("91b9a4ae4a35ccfe94fdd3eaf21fdc51")


def test_excluded_texts_are_not_drawn():
    first = sentences.synthetic_sentences(20, seed=0)
    rest = sentences.synthetic_sentences(15, seed=0, exclude=first[:5])
    assert rest == first[5:]


def test_every_slot_of_the_grammar_is_a_rule_or_a_range():
    grammar = sentences.GRAMMAR
    names = {*grammar["rules"], *grammar["numbers"]}
    used = {
        slot
        for rule in grammar["rules"].values()
        for s in rule
        for slot in re.findall(r"\{(\w+)\}", s)
    }
    assert used <= names and names <= used | {"sentence"}
    assert all(low < high for low, high in grammar["numbers"].values())


def test_impossible_numbers_of_sentences_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="n=-1"):
        sentences.synthetic_sentences(-1, seed=0)
    tiny = {"rules": {"sentence": ["{n}"]}, "numbers": {"n": [0, 2]}}
    monkeypatch.setattr(sentences, "GRAMMAR", tiny)
    with pytest.raises(ValueError, match="gave 3 distinct sentences, 4 were asked for"):
        sentences.synthetic_sentences(4, seed=0)
