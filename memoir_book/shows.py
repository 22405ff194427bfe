"""Sentences that a run's numbers choose, and the box "What this run shows"."""

from collections.abc import Mapping, Sequence

import numpy as np
from IPython.display import DisplayObject

from . import published


def pick(
    found: Mapping, against: float, above: str, below: str, unclear: str, form: str = "{:.2f}"
) -> str:
    """Choose one of three sentences by where an interval lies beside a number; add the figures.

    found : 'value', 'low' and 'high', as `metrics.bootstrap` gives them, and 'n' where known.
    against : what the value is held against: chance, a constant, 0 for a difference.
    above, below, unclear : sentences without a full stop, for an interval above the number, below
        it, and for one that holds it. One without width holds everything: one class for all says
        nothing of other subjects. What is not known is said to be not measured, and of what.
    """
    value, low, high = np.array([found.get(k) for k in ("value", "low", "high")], float)
    if np.isnan(value + low + high):
        return f"Not measured in this run, and so not said: {above}."
    chosen = unclear if low <= against <= high or low == high else above if low > against else below
    ends = f"{form.format(low)} to {form.format(high)}" if low < high else "in every redraw"
    figures = [form.format(value), ends] + [f"n = {found['n']}"] * bool(found.get("n"))
    return f"{chosen} ({'; '.join(figures)})."


class Box(DisplayObject):
    """What this run shows, as an admonition in the pages and as text elsewhere."""

    def __init__(self, sentences: Sequence[str], label: str) -> None:
        self.sentences, self.label = list(sentences), label

    def _repr_html_(self) -> str:
        return published.template("viewers.html.j2").module.box(self.sentences, self.label).strip()

    def __repr__(self) -> str:
        return "\n- ".join([f"What this run shows ({self.label}):", *self.sentences])
