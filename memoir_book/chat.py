"""Put one's own question about a case to a language model, or read what was asked.

A question and the captions are data: they are made harmless in the prompt (`vqa.as_data`)
and escaped on the page. Every answer shows the cases it was given and that it is not for
clinical use.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from memoir_core.vqa import NOTE, QUESTIONS, Loaded, answer_batch, as_data, cite

LONGEST = 300  # characters of a question


def ask(
    loaded: Loaded, question: str, query: tuple[int, str], cases: Sequence[tuple[int, str]]
) -> dict:
    """Ask anything about one case.

    Parameters
    ----------
    query : case and caption of the subject in question.
    cases : case and caption of each retrieved train case, best first.

    Returns
    -------
    {'answer', 'cases_used', 'note'}; `vqa.cite` writes it as one line.

    Raises
    ------
    ValueError
        An empty question, or one of more than 300 characters.
    """
    question = as_data(question)
    if not question or len(question) > LONGEST:
        raise ValueError(f"the question has {len(question)} characters; write 1 to {LONGEST}")
    blocks = ["Answer the question about the last case in a few words."]
    blocks += [f"Case {case}: {as_data(text)}" for case, text in reversed(cases)]
    blocks.append(f"Case {query[0]}: {as_data(query[1])}")
    prompt = "\n\n".join(blocks) + f"\nQuestion: {question}\nAnswer:"
    made = answer_batch(loaded, [prompt])
    return {
        "answer": made[0]["answer"],
        "cases_used": [case for case, _ in cases],
        "note": NOTE,
    }


def widget(loaded: Loaded, rows: list[dict], captions: list[dict]) -> Any:
    """Choose a test case, write a question, read the answer (ipywidgets, live notebooks only).

    Parameters
    ----------
    rows : rows of retrieval.jsonl; the blind protocol's cases are shown and used.
    captions : rows of captions.jsonl.
    """
    import ipywidgets

    texts = {row["case"]: row for row in captions}
    found = {row["case"]: row["reranked"] for row in rows if row["protocol"] == "blind"}
    case = ipywidgets.Dropdown(options=sorted(found), description="case")
    question = ipywidgets.Text(QUESTIONS["why"].text, description="question")
    button = ipywidgets.Button(description="ask")
    shown, log = ipywidgets.HTML(), ipywidgets.HTML()

    def show(_: Any = None) -> None:
        shown.value = _cases_html(case.value, found[case.value], texts)

    def answer(_: Any) -> None:
        button.disabled = True
        try:
            context = [(other, texts[other]["caption"]) for other in found[case.value]]
            query = case.value, texts[case.value]["caption_blind"]
            reply = cite(ask(loaded, question.value, query, context))
        except (ValueError, RuntimeError) as error:
            reply = str(error)
        finally:
            button.disabled = False
        log.value += _bubble(f"case {case.value}: {question.value}", [("answer", reply)])

    case.observe(show, names="value")
    button.on_click(answer)
    show()
    return ipywidgets.VBox([ipywidgets.HBox([case, question, button]), log, shown])


def transcript(answers: dict[str, pd.DataFrame], captions: list[dict], title: str) -> Any:
    """Show what every model was asked about one case, blind, and what it said.

    Parameters
    ----------
    answers : model -> its answers (`vqa.answer_questions`).

    Returns
    -------
    IPython.display.HTML; plain markup, so that it reads without any script.
    """
    from IPython.display import HTML

    texts = {row["case"]: row for row in captions}
    blind = {
        name: table[table["protocol"] == "blind"].to_dict("records")
        for name, table in answers.items()
    }
    first = next(iter(blind.values()))
    counts = Counter(row["case"] for row in first)
    case = counts.most_common(1)[0][0]  # the case that was asked most kinds of question
    parts = [_cases_html(case, _used(first, case), texts)]
    for row in first:
        if row["case"] != case:
            continue
        lines = [
            (name, cite(other))
            for name, table in blind.items()
            for other in table
            if (other["case"], other["kind"]) == (case, row["kind"])
        ]
        parts.append(_bubble(row["question"], [*lines, ("record", str(row["reference"]))]))
    return HTML(
        f'<section style="max-width:720px"><small>{html.escape(title)}</small>'
        + "".join(parts)
        + "</section>"
    )


def _used(rows: list[dict], case: int) -> list[int]:
    return next(row["cases_used"] for row in rows if row["case"] == case)


def _cases_html(case: int, found: Sequence[int], texts: dict[int, dict]) -> str:
    items = "".join(
        f"<li>case {other}: {html.escape(texts[other]['caption'])}</li>" for other in found
    )
    return (
        f"<p><strong>case {case}</strong>: {html.escape(texts[case]['caption_blind'])}</p>"
        f"<details><summary>the {len(found)} retrieved cases</summary><ol>{items}</ol></details>"
    )


def _bubble(question: str, lines: Sequence[tuple[str, str]]) -> str:
    """A question and its answers; colours are left to the page, dark or light."""
    said = "".join(
        f'<p style="margin:.2em 0 .2em 1.5em"><strong>{html.escape(name)}</strong>: '
        f"{html.escape(text)}</p>"
        for name, text in lines
    )
    return (
        '<div style="border:1px solid currentColor;border-radius:.6em;padding:.4em .8em;'
        f'margin:.5em 0"><p style="margin:.2em 0"><em>{html.escape(question)}</em></p>{said}</div>'
    )
