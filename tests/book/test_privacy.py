"""The last look at what may leave a run: planted identifiers are found, figures are not."""

import json
from pathlib import Path

import pytest

from memoir_book import privacy, published

TOLD = json.loads(Path(__file__).with_name("identifiers.json").read_text(encoding="utf-8"))
PLANTED = [(kind, text) for kind, texts in TOLD["planted"].items() for text in texts]


def test_the_lists_are_long_enough():
    assert len({text for _, text in PLANTED}) == len(PLANTED) >= 120
    assert len(set(TOLD["innocent"])) == len(TOLD["innocent"]) >= 40


@pytest.mark.parametrize(("kind", "text"), PLANTED)
def test_an_identifier_is_found_in_every_spelling(kind, text):
    for before, after in (("<p>before ", " after</p>"), ("", ""), ('{"a": "', '"}')):
        assert kind in privacy.kinds(f"{before}{text}{after}"), text


def test_every_rule_finds_the_example_that_names_it():
    for kind, rules in published.load("privacy.json")["kinds"].items():
        for example, rule in zip(rules, privacy.PATTERNS[kind], strict=True):
            assert rule.search(example), example


@pytest.mark.parametrize("text", TOLD["innocent"])
def test_figures_and_names_are_none(text):
    for around in ("<p>{}</p>", "{}", '{{"a": "{}"}}', "| {} |"):
        assert privacy.kinds(around.format(text)) == []


def test_the_projects_own_words_are_none():
    """What a report quotes: names of figures, rules, and the example in the README."""
    for name in ("report_rows.json", "published.json", "report.html.j2"):
        text = Path(privacy.__file__).with_name(name).read_text(encoding="utf-8")
        text = "".join(line for line in text.splitlines(True) if "http" not in line)
        assert privacy.kinds(text) == [], name
    readme = Path(privacy.__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    examples = [line for line in readme.splitlines() if "/data/" in line]
    assert len(examples) >= 5 and not privacy.kinds("\n".join(examples))
    assert privacy.kinds(f"{examples[0]} /data/adni", ["/data/adni"]) == ["text of the download"]


def test_what_the_download_holds_is_found_whatever_its_form():
    assert privacy.kinds("as in ABC-77, x", ["abc-77"]) == ["text of the download"]
    assert privacy.kinds("as in ABC\\u002d77, x", ["abc-77"]) == ["text of the download"]
    assert privacy.kinds("nothing here", ["abc-77", ""]) == []


def test_a_finding_names_file_and_kind_and_never_the_identifier(tmp_path):
    (tmp_path / "a.json").write_text('{"figure": "941_S_1234 of 2012-05-31"}')
    (tmp_path / "b.html").write_text("<p>n = 12</p>")
    with pytest.raises(privacy.PrivateDataError) as error:
        privacy.look(tmp_path.iterdir())
    said = str(error.value)
    assert "a.json: PTID" in said and "a.json: date" in said and "b.html" not in said
    assert "941" not in said and "2012" not in said
    privacy.look([tmp_path / "b.html"])
