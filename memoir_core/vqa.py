"""Questions about a case, answered by a language model from retrieved captions.

The model never sees an image: it reads the captions of the five reranked training cases and the
query's caption without diagnosis and CDR-SB (project page, 'Retrieval-Augmented VQA Extension').
Beside the free answer, the likelihood of each allowed answer is scored, which separates a model
that formats badly from one that reasons badly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from .captions import BANDS, PROTOCOLS, SCORE_NAMES, SEX_NAMES, band
from .config import DX
from .files import digest
from .metrics import bootstrap, majority

NOTE = "not for clinical use"
# Each changes the blind protocol's context in one way: none at all; that of another query;
# the same cases with blind captions and no answers.
CONTROLS = ("no context", "shuffled context", "label-masked")
MEASURES = ("sbert_cosine", "bertscore", "faithfulness")  # of free text, see `score_answers`
AGE_BANDS = ("under 60", "60 to 69", "70 to 79", "80 or older")
SEVERITY = BANDS["CDRSB"][1]  # the words that captions use for CDR-SB
QUESTIONS = {  # kind: the question, in the same words for every case, and its allowed answers
    "diagnosis": ("What is the diagnosis: CN, MCI or Dementia?", DX),
    "severity": (f"How severe is the impairment: {', '.join(SEVERITY)}?", SEVERITY),
    "sex": ("Is this a woman or a man?", ("woman", "man")),
    "age": ("Which age band: under 60, 60 to 69, 70 to 79, or 80 or older?", AGE_BANDS),
    "score": (
        "Which score is most abnormal: MMSE, MoCA, ADAS-11 or ADAS-13?",
        (*SCORE_NAMES.values(),),
    ),
    "why": ("What is the diagnosis, and why?", ()),  # free text
}
SYNONYMS = {
    "CN": ("cognitively normal", "normal cognition"),
    "MCI": ("mild cognitive impairment",),
    "Dementia": ("alzheimer's disease", "alzheimer's dementia"),
}
_ROLE_MARKS = re.compile(r"</?[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
_TURN_WORDS = re.compile(r"\b(question|answer|case\s+\d+|system|user|assistant)\s*:", re.IGNORECASE)
_STATEMENT = re.compile(r"\b(CDR-SB|ADAS-1[13]|MMSE|MoCA)\W{0,3}(?:of|is|was|=)?\W{0,3}(\d+)")


def abnormality(cohort: pd.DataFrame) -> pd.DataFrame:
    """Distance of each score from the CN mean of the train part, in its standard deviations.

    Positive is worse for all four: MMSE and MoCA fall with disease, so their sign turns.
    """
    normal = cohort[(cohort.split != "test") & (cohort.DX == "CN")][list(SCORE_NAMES)]
    spread = normal.std().fillna(0).clip(lower=0.5)  # ceiling scores: half a point at least
    z = (cohort[list(SCORE_NAMES)] - normal.mean()) / spread
    z[["MMSE", "MOCA"]] *= -1
    return z


def reference_answers(cohort: pd.DataFrame) -> dict[str, dict[int, str]]:
    """Answer every kind of question from the records: {kind: {case: answer}}.

    A case whose record lacks what a question needs (no score at all, say) is left out of it.
    """
    answers: dict[str, dict[int, str]] = {kind: {} for kind in QUESTIONS}
    deviations = abnormality(cohort).to_dict("records")
    for row, z in zip(cohort.to_dict("records"), deviations, strict=True):
        case = int(row["case"])
        answers["diagnosis"][case] = row["DX"]
        if row["PTGENDER"] in SEX_NAMES:
            answers["sex"][case] = SEX_NAMES[row["PTGENDER"]]
        if pd.notna(row["AGE"]):
            answers["age"][case] = AGE_BANDS[np.searchsorted([60, 70, 80], row["AGE"], "right")]
        if pd.notna(row["CDRSB"]):
            answers["severity"][case] = band("CDRSB", row["CDRSB"])
        known = [str(name) for name in z if pd.notna(z[name])]
        reasons = []
        for name in sorted(known, key=lambda name: -z[name])[:2]:  # ties keep their order
            how = "worse than" if z[name] > 1 else "within the range of"
            reasons.append(f"{SCORE_NAMES[name]} {row[name]:.0f} is {how} healthy cases")
            answers["score"].setdefault(case, SCORE_NAMES[name])
        if reasons:
            answers["why"][case] = f"{row['DX']}, because {' and '.join(reasons)}"
    return answers


def as_data(text: str) -> str:
    """Make a caption harmless as prompt text: one line, no role marks, no turn words.

    Text in it such as 'Answer: CN' or '<start_of_turn>' must not end a question or answer it.
    """
    text = _TURN_WORDS.sub(lambda match: match.group(1), _ROLE_MARKS.sub(" ", text))
    return " ".join(text.split())


def build_prompt(kind: str, case: int, caption: str, context: Sequence[Sequence] = ()) -> str:
    """Write the plain prompt that every model gets about a query, from its blind caption.

    `context` holds (case, caption, answer) of each retrieved train case, best first. The answer
    ('' for none) comes from the train record; it shows a base model the format.
    """
    blocks = [
        "Answer the question about each case in a few words, as in the cases before it.\n"
        f"Question: {QUESTIONS[kind][0]}"
    ]
    for other, text, answer in reversed(context):  # the nearest case stands last
        blocks.append(f"Case {other}: {as_data(text)}")
        blocks[-1] += f"\nAnswer: {as_data(answer)}" if answer else ""
    return "\n\n".join([*blocks, f"Case {case}: {as_data(caption)}\nAnswer:"])


def question(
    kind: str, case: int, protocol: str, caption: str, context: Sequence[Sequence], reference: str
) -> dict:
    """One question of the plan, as plan.jsonl holds it; its `id` changes with the prompt's text.

    `protocol` is of `PROTOCOLS` or `CONTROLS`, or names a query of fewer modalities: 'blind, t1'.
    """
    prompt = build_prompt(kind, case, caption, context)
    name = f"{protocol}/{kind}/{case}/{digest(prompt)[:8]}"
    row = {"id": name, "case": case, "protocol": protocol, "kind": kind, "prompt": prompt}
    row |= {"options": list(QUESTIONS[kind][1]), "reference": reference, "caption": caption}
    return row | {"context": [list(neighbour) for neighbour in context]}


def plan_questions(
    cohort: pd.DataFrame, captions: list[dict], retrieval: list[dict], questions: int, seed: int
) -> list[dict]:
    """Choose the questions, the same for every protocol and model.

    One in ten goes to each of the five other kinds, in the blind protocol only; the rest ask for
    the diagnosis of as many test cases in all protocols, a quarter of `questions` in each control.
    A ValueError names the kind for which the test part is too small.
    """
    texts = {row["case"]: row for row in captions}
    hits = {(row["case"], row["protocol"]): row["reranked"] for row in retrieval}
    answers = reference_answers(cohort)
    order = np.random.default_rng(seed).permutation(sorted({c for c, _ in hits})).tolist()
    each = max(1, questions // 10)
    wanted: list[tuple[str, int]] = []
    for kind in QUESTIONS:
        count = questions - 5 * each if kind == "diagnosis" else each
        able = [case for case in order if case in answers[kind]]
        if count < 1 or len(able) < count:
            raise ValueError(
                f"questions={questions} asks for {count} questions on {kind}, but {len(able)} of "
                f"{len(order)} test cases can be asked; choose fewer, but 6 at least"
            )
        wanted += [(kind, case) for case in able[:count]]
    plan = []
    for protocol in (*PROTOCOLS, *CONTROLS):
        for kind, case in wanted[: questions // 4] if protocol in CONTROLS else wanted:
            if kind != "diagnosis" and protocol != "blind":
                continue
            source = case  # whose neighbours: the next query's where contexts are shuffled
            if protocol == "shuffled context":
                source = order[(order.index(case) + 1) % len(order)]
            found = hits[source, "own_caption" if protocol == "own_caption" else "blind"]
            known = answers[kind]
            context = [(c, texts[c]["caption"], known[c]) for c in found if c in known]
            if protocol == "label-masked":
                context = [(c, texts[c]["caption_blind"], "") for c in found]
            elif protocol == "no context":
                context = []
            blind = texts[case]["caption_blind"]
            plan.append(question(kind, case, protocol, blind, context, known[case]))
    return plan


def parse_answer(text: str, options: Sequence[str]) -> str:
    """Map a free answer to the one of `options` that its first line names, else 'unparsed'.

    Whole words count, without regard to case; for the diagnosis, common synonyms, too.
    """
    line = next((part for part in text.splitlines() if part.strip()), "").lower()
    named = {
        option
        for option in options
        for name in (option.lower(), *SYNONYMS.get(option, ()))
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", line)
    }
    return named.pop() if len(named) == 1 else "unparsed"


def read_answer(row: dict, answer: str, log_likelihood: dict | None = None) -> dict:
    """Read what was answered to a row of the plan; '' where there are no options or likelihoods.

    `parsed` is the option that the free answer names, `constrained` the most likely one.
    """
    likely = log_likelihood or {}
    asked = {key: row[key] for key in ("id", "case", "kind", "protocol", "reference")}
    asked |= {"question": QUESTIONS[row["kind"]][0], "answer": answer}
    return asked | {
        "parsed": parse_answer(answer, row["options"]) if row["options"] else "",
        "constrained": max(likely, key=likely.__getitem__) if likely else "",
        "log_likelihood": likely,
        "cases_used": [case for case, _, _ in row["context"]],
        "note": NOTE,
    }


def faithfulness(answer: str, texts: Sequence[str]) -> float:
    """Share of the answer's statements 'score and value' that a text holds; NaN without any."""
    stated = _STATEMENT.findall(answer)
    known = {pair for text in texts for pair in _STATEMENT.findall(text)}
    return float(np.mean([pair in known for pair in stated])) if stated else float("nan")


def majority_control(plan: Sequence[dict]) -> pd.DataFrame:
    """What the retrieved diagnoses alone say, where they are shown: no language model at all."""
    rows = []
    for row in plan:
        labels = [answer for _, _, answer in row["context"]]
        if row["kind"] == "diagnosis" and labels and all(labels):
            asked = {key: row[key] for key in ("case", "kind", "protocol", "reference")}
            rows.append(asked | {"parsed": majority(labels)})
    return pd.DataFrame(rows)


def score_answers(answers: pd.DataFrame, llm: str, *, resamples: int, seed: int) -> pd.DataFrame:
    """Score one model's answers: a row per protocol and metric, with a bootstrap interval.

    `answers` has the columns of `read_answer` or `majority_control`, and those of `MEASURES` that
    are known, where NaN does not count. Accuracy counts 'unparsed' as wrong.
    """
    asked, right = answers["kind"] == "diagnosis", answers["parsed"] == answers["reference"]
    values = {"diagnosis_accuracy": right.where(asked)}
    if "constrained" in answers:
        closed, likely = ~asked & (answers["parsed"] != ""), answers["constrained"]
        likely = (likely == answers["reference"]).where(likely != "")
        values |= {
            "diagnosis_accuracy_constrained": likely.where(asked),
            "other_accuracy_constrained": likely.where(closed),
            "diagnosis_unparsed": (answers["parsed"] == "unparsed").where(asked),
            "other_accuracy": right.where(closed),
        }
    values |= {name: answers[name] for name in MEASURES if name in answers}
    rows = []
    for protocol, part in answers.groupby("protocol", sort=False):
        for metric, column in values.items():
            known = column[part.index].dropna().to_numpy(float)
            if len(known):
                found = bootstrap(known, None, resamples, seed)
                row = {"llm": llm, "protocol": protocol, "metric": metric, "n": len(known)}
                rows.append(row | {key: round(found[key], 4) for key in ("value", "low", "high")})
    return pd.DataFrame(rows).assign(note=NOTE)
