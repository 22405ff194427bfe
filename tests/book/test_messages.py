"""Messages of messages.json, and options of commands.json: named in the code, and all there."""

import ast
import string

import pytest

from memoir_book import chapters, messages
from memoir_core.config import PROFILES
from memoir_core.tables import CohortError

BOOK = chapters.ROOT / "memoir_book"
SOURCES = {path: path.read_text(encoding="utf-8") for path in BOOK.rglob("*.py")}
SAYING = {"say": 0, "problem": 0, "refusal": 0, "note": 1}  # which argument is the key
OF_PLACE = {"problem": ("file", "line", "column"), "refusal": ("file",)}


def calls():
    """Each call that says a message by a literal name: (place, key, words, all words known?)."""
    for path, text in SOURCES.items():
        for node in ast.walk(ast.parse(text)):
            name = getattr(getattr(node, "func", None), "id", "")
            if name not in SAYING or len(node.args) <= SAYING[name]:
                continue
            key = node.args[SAYING[name]]
            words = {k.arg for k in node.keywords} - {*OF_PLACE.get(name, ())}
            if isinstance(key, ast.Constant):
                yield f"{path.name}:{node.lineno}", key.value, words


def fields(key):
    parts = "".join(messages.SAID[key])
    return {f.split(".")[0] for _, f, _, _ in string.Formatter().parse(parts) if f}


def test_every_message_that_is_said_exists_and_gets_its_words():
    said = list(calls())
    assert len(said) > 60
    for place, key, words in said:
        assert key in messages.SAID, f"{place} says {key!r}"
        spread = None in words  # **words: not known here
        assert spread or fields(key) <= words, f"{place}: {key!r} lacks {fields(key) - words}"
        assert words - {None} <= fields(key) | {"days", "n"}, f"{place}: {key!r} has no {words}"


def test_every_message_is_said_somewhere():
    literals = {
        node.value
        for text in SOURCES.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unsaid = messages.SAID.keys() - literals - {"no EXAMDATE", "no PTGENDER"}  # f"no {name}"
    assert not unsaid


@pytest.mark.parametrize("key", messages.SAID)
def test_a_message_says_one_thing_and_how_to_mend_it(key):
    assert len(messages.SAID[key]) in (1, 2)
    assert not any(part.endswith(("; ", ". ")) for part in messages.SAID[key])


def test_words_stand_as_they_are_and_the_place_is_named():
    error = messages.refusal("two columns", "a.csv", name="{x}; y")
    assert isinstance(error, CohortError)
    assert (
        str(error)
        == "a.csv: has two columns called {x}; y, which differ; delete or rename one of them"
    )
    found = messages.problem("no value", "a.csv", 7, "DX", value="z", expected="CN")
    assert str(found).startswith("a.csv, line 7, DX: 'z' is not CN; correct it")
    with pytest.raises(KeyError):
        messages.say("two columns")


def test_options_name_the_profiles_that_there_are():
    options = [row for rows in chapters._OPTIONS.values() for row in rows if row[0] == "--profile"]
    assert len(options) == 3
    for _, told in options:
        assert [name for name in told["choices"] if name] == list(PROFILES)
