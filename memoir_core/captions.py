"""Write a subject's record as text.

A missing value is called missing; a field that is withheld is not mentioned in any way. The words
beside a number only repeat its band, so a caption depends on nothing but the fields that it shows:
that makes the blind protocol of chapters 08 and 09 blind. Published (project page, section 7):
that there are captions, not their wording, which is the book's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

BLIND = frozenset({"DX", "CDRSB"})  # the query's own answer, kept from the query text
PROTOCOLS = ("blind", "own_caption")  # which text of a query the reranker reads
# What a query of fewer modalities does not know. Age and sex are known of everybody.
FIELDS_OF = {
    "t1": {"VENTRICLES"},
    "fa": {"FORNIX_FA"},
    "clinical": {"APOE4", "MMSE", "MOCA", "ADAS11", "ADAS13"},
}
SCORE_NAMES = {"MMSE": "MMSE", "MOCA": "MoCA", "ADAS11": "ADAS-11", "ADAS13": "ADAS-13"}
IMAGE_NAMES = {"VENTRICLES": "ventricles", "FORNIX_FA": "fornix FA"}  # see `add_image_fields`
FIELDS = ("AGE", "PTGENDER", "APOE4", *SCORE_NAMES, *IMAGE_NAMES, "CDRSB", "DX")
SEX_NAMES = {"Female": "woman", "Male": "man"}
DX_NAMES = {
    "CN": "cognitively normal (CN)",
    "MCI": "mild cognitive impairment (MCI)",
    "Dementia": "dementia",
}
# Bands that choose the word beside a number; the upper limit of each but the last.
# MMSE 24 and 27: Folstein 1975, O'Bryant 2008 (doi:10.1001/archneur.65.7.963); MoCA 26,
# 18, 10: the test's own manual. ADAS-Cog has no agreed limits: these part the ADNI
# classes' means. The words name performance, never a diagnosis or its severity.
_HIGH_IS_GOOD = ("very low", "low", "slightly low", "preserved")
_HIGH_IS_BAD = ("few errors", "some errors", "many errors", "very many errors")
_STAGES = ("no", "questionable", "mild", "moderate", "severe")
BANDS: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "MMSE": ((18, 24, 27), _HIGH_IS_GOOD),
    "MOCA": ((10, 18, 26), _HIGH_IS_GOOD),
    "ADAS11": ((8, 15, 25), _HIGH_IS_BAD),
    "ADAS13": ((13, 23, 37), _HIGH_IS_BAD),
    # Staging by the sum of boxes: O'Bryant et al. 2008 (doi:10.1001/archneur.65.8.1091).
    "CDRSB": ((0.5, 4.5, 9.5, 16), tuple(f"{stage} impairment" for stage in _STAGES)),
    # Percentiles among train subjects, age taken out; the words name size, not disease.
    "VENTRICLES": ((25, 75, 90), ("small", "of usual size", "large", "very large")),
    "FORNIX_FA": ((10, 25, 75), ("very low", "low", "usual", "high")),
}
_APOE = {0: "no APOE e4 allele", 1: "one APOE e4 allele", 2: "two APOE e4 alleles"}

# Paraphrases; a hash of the case chooses one of each, so a case keeps its wording.
_OPENINGS = (
    "A {person} with {apoe}.",
    "The subject is a {person} with {apoe}.",
    "A {person}, carrying {apoe}.",
    "Record of a {person}; genotyping found {apoe}.",
)
_SCORES = ("{}.", "Cognitive tests: {}.", "Testing gave {}.", "Scores at this visit: {}.")
_IMAGES = ("{}.", "Imaging: {}.", "The scans show {}.", "On imaging, {}.")
_CLOSINGS = (
    "{cdr}. Diagnosis: {dx}.",
    "{cdr}; diagnosed as {dx}.",
    "{cdr}. The clinical diagnosis is {dx}.",
    "With {cdr}, the diagnosis given was {dx}.",
)


def band(field: str, value: float) -> str:
    """Name the band of a score in words, such as 'slightly low' for MMSE 25."""
    limits, words = BANDS[field]
    return words[int(np.searchsorted(limits, value, side="right"))]


def add_image_fields(cohort: pd.DataFrame, measures: pd.DataFrame) -> pd.DataFrame:
    """Add VENTRICLES and FORNIX_FA, 0 to 100: percentiles of `Volumes.measures` for the age.

    A line over age is fitted to the train subjects' measures; a percentile is the share of train
    subjects, whatever their diagnosis, that lie further below that line. So neither field knows
    anything of a diagnosis or of a test subject. NaN where there is no image or no age. Raises
    ValueError where `measures` has not one row per case.
    """
    if len(measures) != len(cohort):
        raise ValueError(f"{len(measures)} measures for {len(cohort)} cases; run chapter 02 again")
    cohort = cohort.copy()
    train = (cohort["split"] != "test").to_numpy()
    age = cohort["AGE"].to_numpy(float)
    for field, column in (("VENTRICLES", "ventricle_share"), ("FORNIX_FA", "fornix_fa")):
        value = measures[column].to_numpy(float)
        known = np.isfinite(value) & np.isfinite(age)
        percent = np.full(len(value), np.nan)
        if (known & train).sum() >= 3:  # fewer draw no line
            slope, level = np.polyfit(age[known & train], value[known & train], 1)
            above = value - (slope * age + level)
            order = np.sort(above[known & train])
            below = np.searchsorted(order, above[known]) / len(order)
            percent[known] = np.round(100 * below)
        cohort[field] = percent
    return cohort


def caption(record: Mapping[Any, Any], *, withhold: Collection[str] = frozenset()) -> str:
    """Describe one subject in two to five sentences, the same on every machine.

    `record` (see `records`) holds `case` and columns in `FIELDS`, NaN or None where a value is
    missing; it may hold DX_NAME, what the diagnosis is called. What it lacks, or `withhold` names,
    is left out of the text. Raises ValueError where that names no field, or a value is no code.
    """
    if unknown := sorted(set(withhold) - set(FIELDS)):
        raise ValueError(f"withhold={unknown} is unknown; choose from {', '.join(FIELDS)}")
    told = {n: record[n] for n in FIELDS if n not in withhold and n in record}
    shown = {n: None if pd.isna(v) or v == "" else v for n, v in told.items()}  # None: missing
    codes: dict[str, dict] = {"PTGENDER": SEX_NAMES, "APOE4": _APOE, "DX": DX_NAMES}
    for name, known in codes.items():
        if shown.get(name) is not None and shown[name] not in known:
            said = f"case {record['case']}: {name}={shown[name]!r} is not one of "
            raise ValueError(f"{said}{', '.join(map(str, known))}; mend the record")
    if (dx := shown.get("DX")) is not None:
        shown["DX"] = record.get("DX_NAME") or DX_NAMES[dx]
    style = hashlib.sha256(f"case {int(record['case'])}".encode()).digest()
    scores = "{name} {value:.0f} ({band})"  # thirds of an ADAS point carry no clinical meaning
    images = "{name} {band} for the age (percentile {value:.0f})"
    parts = [
        _opening(shown, style[0]),
        _measures(shown, SCORE_NAMES, scores, "not recorded", _SCORES, style[1]),
        _measures(shown, IMAGE_NAMES, images, "not available", _IMAGES, style[3]),
        _closing(shown, style[2]),
    ]
    text = " ".join(part for part in parts if part)
    return re.sub(r"\b([Aa]) (?=(?:8\d?|11|18)\b)", r"\1n ", text)  # an 81-year-old


def _opening(shown: dict, style: int) -> str:
    sex = SEX_NAMES.get(shown.get("PTGENDER") or "", "person")
    names = {"PTGENDER": "unrecorded sex", "AGE": "unrecorded age"}
    unknown = [words for name, words in names.items() if shown.get(name, 0) is None]
    person = f"{sex} of {' and '.join(unknown)}" if unknown else sex
    if shown.get("AGE") is not None:
        person = f"{int(shown['AGE'])}-year-old {person}"
    if "APOE4" not in shown:
        return f"A {person}."
    if shown["APOE4"] is None:
        return f"A {person}; the APOE genotype was not recorded."
    return _OPENINGS[style % len(_OPENINGS)].format(person=person, apoe=_APOE[shown["APOE4"]])


def _measures(shown: dict, names: dict, form: str, missing: str, wordings: tuple, style: int):
    items = []
    for field, name in ((field, name) for field, name in names.items() if field in shown):
        known = (value := shown[field]) is not None
        item = form.format(name=name, value=value, band=band(field, value)) if known else ""
        items.append(item or f"{name} {missing}")
    text = wordings[style % len(wordings)].format(", ".join(items)) if items else ""
    return text[:1].upper() + text[1:]


def _closing(shown: dict, style: int) -> str:
    cdr, dx = "CDR-SB not recorded (severity not known)", shown.get("DX") or "not recorded"
    if (value := shown.get("CDRSB")) is not None:
        cdr = f"CDR-SB {value:g} ({band('CDRSB', value)})"
    if "CDRSB" in shown and "DX" in shown:
        return _CLOSINGS[style % len(_CLOSINGS)].format(cdr=cdr, dx=dx)
    return f"Diagnosis: {dx}." if "DX" in shown else f"{cdr}." if "CDRSB" in shown else ""


def records(cohort: pd.DataFrame) -> list[dict]:
    """Subjects for `caption`, without the fields that are known of nobody."""
    return cohort.dropna(axis=1, how="all").to_dict("records")


def caption_rows(cohort: pd.DataFrame) -> list[dict]:
    """Make the rows of captions.jsonl: case, split, caption, caption_blind."""
    rows = [({"case": int(r["case"]), "split": r["split"]}, r) for r in records(cohort)]
    hidden: dict[str, Collection] = {"caption": (), "caption_blind": BLIND}
    return [row | {k: caption(r, withhold=h) for k, h in hidden.items()} for row, r in rows]
