"""Sentences that tell what a run found are made by the run; what stands in the text holds for all.

A sentence that compares or counts is one of `prose/`, where somebody has read it and given a reason
why it holds for every run; else it must be chosen by a number (`memoir_book.shows`).
"""

import json
import re
from pathlib import Path

import pytest

from memoir_book import chapters

BOOK = chapters.ROOT / "book"
HELD = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))  # sentence -> reason
    for path in Path(__file__).with_name("prose").glob("*.json")
}
REASONS = {
    "definition": "true by what the words or the formula mean",
    "design": "how the code, the data or the book were made",
    "published": "a figure or statement of the publication",
    "literature": "a cited source, or what the field knows",
    "condition": "says what would follow if, and not that it is so",
    "arithmetic": "follows from numbers on the page that are the same in every run",
}
COUNTS = "one|two|three|four|five|six|seven|eight|nine|ten|a few|several|some|many|half|most"
COMPARES = re.compile(
    r"\b(?:better|worse|best|worst|higher|lower|highest|lowest|larger|smaller|largest|smallest"
    r"|more|less|fewer|stronger|weaker|nearer|beats?|outperforms?|wins?|loses?|improves?|improved"
    r"|helps?|hurts?|gains?|flatters?|by chance|than chance|near chance|close to|nearly|barely"
    r"|hardly|almost|mostly|twice|thirds?|quarters?|rises?|falls?|grows?|shrinks?|overfits?"
    r"|collapsed|clearly|slightly|as good as|at best|\d+(?:\.\d+)? ?%|0\.\d+"
    rf"|(?:{COUNTS}|one in \w+) (?:of|in) (?:\d+|the|all|{COUNTS})|\d+ of \d+)(?!\w)",
    re.IGNORECASE,
)
PAGES = ("intro", "how_to_read", "ten_minutes")  # what is read as the book's account of a run


def without_code(markdown):
    """A text without fenced code and marks of directives; what an admonition says stays."""
    kept, fence, code = [], "", False
    for line in markdown.splitlines():
        mark = re.match(r"(`{3,}|:{3,})(.*)", line)
        if mark and not fence:
            fence, code = mark[1], not mark[2].startswith("{admonition")
        elif mark and mark[1] == fence and not mark[2]:
            fence, code = "", False
        elif not code and not re.match(r":\w+:| {4}", line):
            kept.append(line)
            continue
        kept.append("")  # a paragraph ends here
    return "\n".join(kept)


def sentences(markdown):
    """The sentences of a text, without code, tables and the targets of links."""
    text = re.sub(r"\]\([^)]*\)", "]", without_code(markdown))
    for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-|#]|\d+\.) )", text):
        if not part.lstrip().startswith(("#", "|")):
            whole = re.sub(r"\s+", " ", part).strip()
            yield from re.split(r"(?<=[.!?])\s+(?=[A-Z*`$(\"])", whole)


def telling(markdown):
    """Those that compare or count."""
    return [s for s in sentences(markdown) if COMPARES.search(s)]


def text_of(name):
    if name in PAGES:
        path = BOOK / f"{name}.md"
        return path.read_text(encoding="utf-8") if path.exists() else ""
    (path,) = chapters.ROOT.glob(f"notebooks/{name}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    captions = [c["metadata"]["caption"] for c in cells if "caption" in c["metadata"]]
    texts = [*captions, *("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")]
    return re.sub("^> ?", "", "\n\n".join(texts), flags=re.MULTILINE)  # of the box at the top


@pytest.mark.parametrize("name", [*PAGES, *(chapter.number for chapter in chapters.CHAPTERS)])
def test_what_the_text_compares_holds_for_every_run(name):
    found, held = telling(text_of(name)), HELD.get(name, {})
    new = [sentence for sentence in found if sentence not in held]
    assert not new, "let a number choose it, or say in prose/ why it holds for every run"
    assert set(held) <= set(found), "no longer in the text"
    assert set(held.values()) <= set(REASONS)


@pytest.mark.parametrize(
    "said",
    [
        "A query of FA alone finds its diagnosis better than chance.",
        "Stage 1 helps where scores are missing.",
        "The regression is worse than the network.",
        "The total is pulled most of the way, by 30 %.",
        "Two of three heads are calibrated.",
        "The AUC is 0.93.",
    ],
)
def test_a_sentence_about_a_result_is_found(said):
    text = f"## A heading, lower\n\nIt begins.\n{said} Another.\n\n| lower | table |\n"
    assert telling(text) == [said]
    assert telling(f"```{{admonition}} Discussion\n:class: dropdown\n\n{said}\n```\n") == [said]
    two = f"```{{admonition}} Hint\n:class: dropdown\n\nIt is.\n```\n\n{said}\n\n```text\n1\n```\n"
    assert telling(two) == [said], "what stands between two fences is text"
    assert telling(f"```bash\n{said}\n```\n\n    {said}\n") == []


# --- quizzes ------------------------------------------------------------------------------

CHOICE = re.compile(r"^- \(([a-d])\) ", re.MULTILINE)


def questions(name):
    """The quiz of a chapter: question -> text, with its choices and its answer."""
    quiz = text_of(name).split("\n## Quiz\n")[1].split("\n## ")[0]
    _, *parts = re.split(r"^\*\*Question (\d+\.\d+)\.\*\* ", quiz, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("name", [chapter.number for chapter in chapters.CHAPTERS])
def test_a_quiz_gives_choices_and_a_reason_for_each(name):
    found = questions(name)
    assert list(found) == [f"{int(name)}.{k}" for k in range(1, len(found) + 1)]
    assert 2 <= len(found) <= 5
    assert any("figure" in text for text in found.values()), "one reads a figure"
    for text in found.values():
        asked, answer = text.split("```{admonition} Answer\n:class: dropdown\n")
        choices = CHOICE.findall(asked)
        assert choices == list("abcd"[: len(choices)]) and len(choices) >= 3
        right = re.match(r"\n*\*\*\(([a-d])\)\*\*", answer)
        assert right and right[1] in choices, "the answer begins with the right choice"
        assert all(f"({letter})" in answer for letter in choices), "each has its reason"
