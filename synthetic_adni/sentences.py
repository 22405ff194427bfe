"""Clinical sentences about nobody, drawn from a grammar.

`grammar.json` holds `rules` (a name and its alternatives, in which {name} stands for another
rule or number) and `numbers` (a name and its range of whole numbers). Sentences about one
stage keep scores, function and findings of that stage together, so that they stay plausible.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_SLOT = re.compile(r"\{(\w+)\}")
GRAMMAR = json.loads(Path(__file__).with_name("grammar.json").read_text(encoding="utf-8"))


def _expand(symbol: str, rng: np.random.Generator) -> str:
    if symbol in GRAMMAR["numbers"]:
        low, high = GRAMMAR["numbers"][symbol]
        return str(rng.integers(low, high + 1))
    rules = GRAMMAR["rules"][symbol]
    chosen = rules[rng.integers(len(rules))]
    return _SLOT.sub(lambda slot: _expand(slot[1], rng), chosen)


def synthetic_sentences(n: int, seed: int, exclude: Iterable[str] = ()) -> list[str]:
    """Draw `n` distinct clinical sentences from the grammar.

    n : how many; the published work used 25,000 (project page, section 7).
    seed : the same seed gives the same sentences in the same order, and a longer list
        begins with the shorter one.
    exclude : texts that must not be drawn, such as every caption of the cohort.

    Raises ValueError where `n` is negative or more than the grammar's distinct sentences.
    """
    if n < 0:
        raise ValueError(f"n={n} must be at least 0")
    rng = np.random.default_rng([seed, 0x7E47])
    taken = set(exclude)
    sentences: list[str] = []
    for _ in range(20 * n + 1000):
        if len(sentences) == n:
            return sentences
        text = _expand("sentence", rng)
        text = re.sub(r"\b([Aa]) (?=(?:8\d?|11|18)\b)", r"\1n ", text)  # an 81-year-old
        if text not in taken:
            taken.add(text)
            sentences.append(text)
    raise ValueError(f"the grammar gave {len(sentences)} distinct sentences, {n} were asked for")
