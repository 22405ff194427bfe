"""Questions about a case, answered by a language model from retrieved captions.

The model never sees an image: it reads the captions of reranked training cases (five) and the
query's caption without diagnosis and CDR-SB (project page, 'Retrieval-Augmented VQA Extension').
Beside the free answer, the likelihood of each allowed answer is scored, which separates a model
that formats badly from one that reasons badly. How a free answer is read is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from .captions import BANDS, DX_NAMES, PROTOCOLS, SCORE_NAMES, SEX_NAMES, band
from .config import DX
from .files import digest
from .metrics import bootstrap

NOTE = "not for clinical use"
IN_PROMPT = "caption in prompt"  # blind cases, but the query's own caption with its diagnosis
# Each changes the blind protocol's context in one way: none at all; that of another query; the
# labels mixed among the same cases (Min et al. 2022, arXiv:2202.12837); the nearest case's label
# replaced. A label is changed in the caption's words as well.
CONTROLS = ("no context", "shuffled context", "shuffled labels", "swapped label")
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
_ROLE_MARKS = re.compile(r"</?[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
_TURN_WORDS = re.compile(r"\b(question|answer|case\s+\d+|system|user|assistant)\s*:", re.IGNORECASE)


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

    `protocol` is `IN_PROMPT`, of `PROTOCOLS` or `CONTROLS`, or names fewer modalities: 'blind, t1'.
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

    One in ten goes to each of the five other kinds, fewer where less than 24 would be left for the
    diagnosis; all in both protocols. The first sixth, diagnoses, is also asked in each control
    and with the query's own caption. Of a kind that too few can be asked, all are, or nobody.
    """
    if questions < 6:
        raise ValueError(f"questions={questions}: choose 6 at least, one of each kind")
    texts = {row["case"]: row for row in captions}
    hits = {(row["case"], row["protocol"]): row["reranked"] for row in retrieval}
    answers = reference_answers(cohort)
    order = np.random.default_rng(seed).permutation(sorted({c for c, _ in hits})).tolist()
    each = max(1, min(questions // 10, (questions - min(24, len(order))) // 5))
    wanted: list[tuple[str, int]] = []
    for kind in QUESTIONS:
        count = questions - 5 * each if kind == "diagnosis" else each
        able = [case for case in order if case in answers[kind]]
        wanted += [(kind, case) for case in able[:count]]
    few = [(kind, case) for kind, case in wanted if kind == "diagnosis"][: questions // 6]
    plan, by_class = [], cohort.drop_duplicates("DX").set_index("DX")
    names = DX_NAMES | dict(by_class.get("DX_NAME", {}))
    for protocol in (*PROTOCOLS, IN_PROMPT, *CONTROLS):
        for kind, case in wanted if protocol in PROTOCOLS else few:
            turn = order.index(case) + (protocol == "shuffled context")  # own cases or the next's
            ranking = "own_caption" if protocol == "own_caption" else "blind"
            found = hits[order[turn % len(order)], ranking]
            known = answers[kind]
            context = [(c, texts[c]["caption"], known[c]) for c in found if c in known]
            labels = [label for _, _, label in context]
            if protocol == "no context":
                context = []
            elif protocol in ("shuffled labels", "swapped label"):
                mixed = [DX[DX.index(labels[0]) - 1], *labels[1:]]
                if protocol == "shuffled labels":
                    mixed = np.random.default_rng([seed, case]).permutation(labels).tolist()
                context = [
                    (c, text.replace(names[old], names[new]), new)
                    for (c, text, old), new in zip(context, mixed, strict=True)
                ]
            shown = texts[case]["caption" if protocol == IN_PROMPT else "caption_blind"]
            plan.append(question(kind, case, protocol, shown, context, known[case]))
    return plan


def score_answers(answers: pd.DataFrame, llm: str, *, resamples: int, seed: int) -> pd.DataFrame:
    """Score one model's answers: a row per protocol and metric, with a 95 % interval and n.

    `answers` has kind, protocol, reference, and what is known of `parsed` (read fairly), `strict`,
    `constrained`, `calibrated`, `truncated`, `MEASURES` (NaN does not count). 'unparsed' is wrong,
    '' does not count. Shares have Wilson's interval, means of measures a bootstrap's.
    """
    asked = answers["kind"] == "diagnosis"
    shares: dict[str, pd.Series] = {}
    for reading in ("parsed", "strict", "constrained", "calibrated"):
        if reading in answers:
            right = (answers[reading] == answers["reference"]).where(answers[reading] != "")
            name = "accuracy" if reading == "parsed" else f"accuracy_{reading}"
            shares |= {
                f"diagnosis_{name}": right.where(asked),
                f"other_{name}": right.where(~asked),
            }
    if "constrained" in answers:  # a model's answers, not a vote
        shares["diagnosis_unparsed"] = (answers["parsed"] == "unparsed").where(asked)
    if "truncated" in answers:
        shares["truncated"] = answers["truncated"]
    measures = {name: answers[name] for name in MEASURES if name in answers}
    rows = []
    for protocol, part in answers.groupby("protocol", sort=False):
        for metric, column in (shares | measures).items():
            known = column[part.index].dropna().to_numpy(float)
            row = {"llm": llm, "protocol": protocol, "metric": metric, "n": len(known)}
            if len(known) and metric in shares:
                ends = binomtest(int(known.sum()), len(known)).proportion_ci(method="wilson")
                row |= {"value": known.mean(), "low": ends.low, "high": ends.high}
            elif len(known):
                row |= bootstrap(known, None, resamples, seed)
            rows += [row] if len(known) else []
    return pd.DataFrame(rows).round(4).assign(note=NOTE)
