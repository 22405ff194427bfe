"""Read what a language model answered: strictly, as a naive script would, and fairly.

The fair reading takes the final answer, in the usual words of the field (names.json), and knows
what is denied, doubted or said of others. A table of answers tests it against a physician's view.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from memoir_core.files import read_json

WORDS = read_json(Path(__file__).with_name("names.json"))
_MARKS = {name: re.compile(pattern) for name, pattern in WORDS["patterns"].items()}


def strip_thought(text: str) -> str:
    """Take away a thought before the answer ('' if it never ends), and the template's marks."""
    text = _MARKS["begin"].split(_MARKS["end"].split(text)[-1])[0]
    return re.sub(r"^\s*thought\s*\n", "", _MARKS["mark"].sub(" ", text)).strip()


def parse_strict(text: str, options: Sequence[str]) -> str:
    """Read as a naive script does: the first line is one of `options`, or 'unparsed'."""
    lines = [line.strip(" .") for line in _MARKS["mark"].sub("", text).splitlines() if line.strip()]
    same = [o for o in options if lines and o.casefold() == lines[0].casefold()]
    return same[0] if same else "unparsed"


def read_answer(text: str, kind: str, options: Sequence[str]) -> dict[str, str]:
    """Read it 'strict', 'parsed' as a physician would, 'unparsed_because'; '' without options."""
    if not options:
        return {"strict": "", "parsed": "", "unparsed_because": ""}
    parsed, why = _read(text, kind, tuple(options))
    return {"strict": parse_strict(text, options), "parsed": parsed, "unparsed_because": why}


def _read(raw: str, kind: str, options: tuple[str, ...]) -> tuple[str, str]:
    """The option and '', or 'unparsed' and the reason."""
    if not strip_thought(raw):
        return "unparsed", "no answer after the thought" if raw.strip() else "none named"
    text = _plain(strip_thought(raw))
    first, *rest = _MARKS["next case"].split(text)
    if rest and len({o for o, how in _mentions(first, kind, options) if how == "said"}) == 1:
        text = first  # a base model went on with a case of its own
    sentences = [part for part in _MARKS["sentence"].split(text) if part.strip(" ,.:-")]
    told = [text[cue.end() :].lstrip() for cue in _MARKS["cue"].finditer(text)]
    spans = [_MARKS["sentence"].split(part)[0] for part in reversed(told)]
    if sentences and _is_label(sentences[0], kind, options):
        spans.append(sentences[0])
    denied = set()
    for how in ("said", "weak"):
        for span in [*spans, *sentences[::-1]]:
            found = list(_mentions(span, kind, options))
            denied |= {option for option, said in found if said == "denied"}
            named = {option for option, said in found if said == how}
            if len(named) > 1:
                return "unparsed", "several named"
            if named:
                return named.pop(), ""
    left = [option for option in options if option not in denied]
    if len(left) == 1:  # 'neither MCI nor dementia'
        return left[0], ""
    return "unparsed", "only denied" if denied else "none named"


def _plain(text: str) -> str:
    """One kind of space, dash and letter; no apostrophes and marks; numbers in digits."""
    text, number = unicodedata.normalize("NFKC", text), WORDS["numbers"].get
    for pattern, plain in WORDS["plain"]:
        text = re.sub(pattern, plain, text)
    text = re.sub(r"[A-Za-z]+", lambda m: number(m[0].lower(), m[0]), text)
    text = re.sub(r"\b([2-9])0[- ]([1-9])\b", r"\1\2", text)  # seventy-five
    text = re.sub(r"\bbetween (\d+) and (\d+)", r"\1 to \2", text)
    return re.sub(r"[^\S\n]+", " ", text)


@cache
def _any(key: str, before: str, after: str) -> re.Pattern:
    """A pattern of one of the phrases of names.json, between two others."""
    words = "|".join(map(re.escape, sorted(WORDS[key], key=len, reverse=True)))
    return re.compile(rf"{before}(?:{words}){after}", re.IGNORECASE)


@cache
def _names(kind: str, options: tuple[str, ...]) -> list[tuple[re.Pattern, str, bool]]:
    """Patterns of all names of the options, with the option and whether the name is weak."""
    lists, weak = (WORDS[key].get(kind, {}) for key in ("names", "weak"))
    names = [(option, n, False) for option in options for n in [option, *lists.get(option, ())]]
    names += [(option, n, True) for option in options for n in weak.get(option, ())]
    plain: dict[str, list[str]] = {}  # what '{MCI}' within a name stands for, the longest first
    for option, name, _ in sorted(names, key=lambda row: -len(row[1])):
        plain.setdefault(f"{{{option}}}", []).extend([] if "{" in name else [_pattern(name)])
    found = []
    for option, name, is_weak in names:
        parts = re.split(r"(\{\w+\})", name)
        pattern = "".join(f"(?:{'|'.join(plain.get(p) or [_pattern(p)])})" for p in parts)
        found.append((re.compile(rf"(?<!\w){pattern}(?!\w)", re.IGNORECASE), option, is_weak))
    return found


def _pattern(name: str) -> str:
    """A name as a pattern; an abbreviation of two letters is read in capitals only."""
    pattern = re.escape(name).replace(r"\ ", "[ -]+")
    return f"(?-i:{pattern})" if name.isupper() and len(name) < 3 and name != "CN" else pattern


def _spans(clause: str, kind: str, options: tuple[str, ...]) -> list[tuple[int, int, str, bool]]:
    """Where a clause names options: (start, end, option, weak), the longest of nested ones."""
    names = [] if kind == "age" else _names(kind, options)
    found = [(*m.span(), option, weak) for p, option, weak in names for m in p.finditer(clause)]
    for pattern, (low, high) in WORDS["ages"].items() if kind == "age" else ():
        for m in re.finditer(pattern, clause, re.IGNORECASE):
            reach = int(m[1]) + low, int(m[m.lastindex or 1]) + high
            ends = np.searchsorted([60, 70, 80], reach, "right")
            found += [(*m.span(), options[end], False) for end in ends]
    wide = lambda s: [f for f in found if f[0] <= s[0] and s[1] <= f[1] and f[:2] != s[:2]]  # noqa: E731
    return [span for span in found if not wide(span)]


def _mentions(text: str, kind: str, options: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each option that a text names, and how: 'said', 'weak' (in passing) or 'denied' (doubted)."""
    words = _any("clause_ends", r"\b", r"\b").pattern
    ends = rf"[,;!?\n]|:(?!\d)|\.(?=\s|$)|{words}"
    cuts = [m.span() for m in re.finditer(ends, text, re.IGNORECASE)]
    for start, end, option, weak in _spans(text, kind, options):
        before = text[max((b for _, b in cuts if b <= start), default=0) : start]
        after = text[end : min((a for a, _ in cuts if a >= end), default=len(text))]
        if (
            _any("in_doubt", r"\b", r"\b").search(before)
            or _any("denied_before", r"\b", r"(?:[ -]+\S+){0,6}[ -]*$").search(before)
            or _any("denied_after", r"^[ -]*(?:\S+ ){0,4}", r"\b").search(after)
        ):
            yield option, "denied"
        elif not _any("aside_before", r"\b", r"(?: \S+){0,3} *$").search(before):
            others = _any("aside_after", r"^ *", r"\b").search(after)  # 'CN controls'
            yield option, "weak" if weak or others or re.search(r"\d $", before) else "said"


def _is_label(sentence: str, kind: str, options: tuple[str, ...]) -> bool:
    """Tell whether a sentence is an option's name and nothing else."""
    for start, end, _, weak in sorted(_spans(sentence, kind, options), reverse=True):
        sentence = sentence if weak else sentence[:start] + sentence[end:]
    return not re.search(r"\w", _MARKS["filler"].sub(" ", sentence.lower()))
