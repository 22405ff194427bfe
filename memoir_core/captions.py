"""Write a subject's record as text, and clinical sentences from a grammar.

A caption says what the record holds and nothing else: a value that is missing is
called missing, and a field that is withheld is not mentioned in any way. The words
beside a number only repeat the number's band, so a caption is a function of the
fields that it may show. That is what makes the blind protocol of chapters 08 and 09
blind: withholding diagnosis and CDR-SB gives the same text whatever they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from memoir_book.artefacts import Run
from memoir_book.privacy import check_groups

# VENTRICLES and FORNIX_FA come from the images, see `add_image_fields`.
FIELDS = (
    *("AGE", "PTGENDER", "APOE4", "MMSE", "MOCA", "ADAS11", "ADAS13"),
    *("VENTRICLES", "FORNIX_FA", "CDRSB", "DX"),
)
IMAGE_FIELDS = {"VENTRICLES", "FORNIX_FA"}
BLIND = frozenset({"DX", "CDRSB"})  # the query's own answer, kept from the query text
PROTOCOLS = ("blind", "own_caption")  # which text of a query the reranker reads
# What a query of fewer modalities does not know. Age and sex are known of everybody.
FIELDS_OF = {
    "t1": {"VENTRICLES"},
    "fa": {"FORNIX_FA"},
    "clinical": {"APOE4", "MMSE", "MOCA", "ADAS11", "ADAS13"},
}

SCORE_NAMES = {"MMSE": "MMSE", "MOCA": "MoCA", "ADAS11": "ADAS-11", "ADAS13": "ADAS-13"}
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
BANDS: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "MMSE": ((18, 24, 27), _HIGH_IS_GOOD),
    "MOCA": ((10, 18, 26), _HIGH_IS_GOOD),
    "ADAS11": ((8, 15, 25), _HIGH_IS_BAD),
    "ADAS13": ((13, 23, 37), _HIGH_IS_BAD),
    # Staging by the sum of boxes: O'Bryant et al. 2008 (doi:10.1001/archneur.65.8.1091).
    "CDRSB": (
        (0.5, 4.5, 9.5, 16),
        (
            "no impairment",
            "questionable impairment",
            "mild impairment",
            "moderate impairment",
            "severe impairment",
        ),
    ),
    # Percentiles among train subjects, age taken out; the words name size, not disease.
    "VENTRICLES": ((25, 75, 90), ("small", "of usual size", "large", "very large")),
    "FORNIX_FA": ((10, 25, 75), ("very low", "low", "usual", "high")),
}
_APOE = ("no APOE e4 allele", "one APOE e4 allele", "two APOE e4 alleles")
_SEX = {"Female": "woman", "Male": "man"}

# Paraphrases; a hash of the case chooses one of each, so a case keeps its wording.
_OPENINGS = (
    "A {person} with {apoe}.",
    "The subject is a {person} with {apoe}.",
    "A {person}, carrying {apoe}.",
    "Record of a {person}; genotyping found {apoe}.",
)
_OPENING_UNKNOWN_APOE = "A {person}; the APOE genotype was not recorded."
_OPENING_NO_APOE = "A {person}."
_SCORES = (
    "{items}.",
    "Cognitive tests: {items}.",
    "Testing gave {items}.",
    "Scores at this visit: {items}.",
)
_IMAGES = (
    "{items}.",
    "Imaging: {items}.",
    "The scans show {items}.",
    "On imaging, {items}.",
)
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
    """Add to each record what a caption says of the images, as percentiles for the age.

    A line over age is fitted to the train subjects' measures; a subject's percentile is the
    share of train subjects, whatever their diagnosis, that lie further below that line. So
    neither field knows anything of a diagnosis or of a test subject.

    Parameters
    ----------
    cohort : rows of cohort.parquet.
    measures : `Volumes.measures`, one row per case: ventricle_share, fornix_fa.

    Returns
    -------
    a copy with VENTRICLES and FORNIX_FA, 0 to 100, NaN where there is no image or no age.

    Raises
    ------
    ValueError
        Not one row per case.
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
    """Describe one subject in two to five sentences.

    Parameters
    ----------
    record : a row of cohort.parquet: `case` and the columns in `FIELDS`; NaN or None
        where a value is missing. The two image fields may be left out, see
        `add_image_fields`.
    withhold : fields that the text must not reveal. They are left out, which is not
        the same as missing: a missing value is said to be missing.

    Returns
    -------
    str : the same for the same record on every machine. Sources: the project page
        names captions of train subjects, not their wording, which is the book's own.

    Raises
    ------
    ValueError
        `withhold` names no field, or the record holds a value outside its codes.
    """
    if unknown := sorted(set(withhold) - set(FIELDS)):
        raise ValueError(f"withhold={unknown} is unknown; choose from {', '.join(FIELDS)}")
    case = int(record["case"])
    style = hashlib.sha256(f"case {case}".encode()).digest()
    hidden = {*withhold, *(IMAGE_FIELDS - set(record))}
    shown = {name: _value(record, name) for name in FIELDS if name not in hidden}
    parts = [_opening(shown, style[0], case), _scores(shown, style[1])]
    parts += [_images(shown, style[3]), _closing(shown, style[2], case)]
    return _articles(" ".join(part for part in parts if part))


def _value(record: Mapping[Any, Any], name: str) -> Any:
    value = record[name]
    return None if value is None or value is pd.NA or value != value or value == "" else value


def _look_up(table: Mapping, value: Any, name: str, case: int) -> str:
    if value not in table:
        known = ", ".join(map(str, table))
        raise ValueError(f"case {case}: {name}={value!r} is not one of {known}; mend the record")
    return table[value]


def _opening(shown: dict, style: int, case: int) -> str:
    person = "person"
    if shown.get("PTGENDER"):
        person = _look_up(_SEX, shown["PTGENDER"], "PTGENDER", case)
    elif "PTGENDER" in shown:
        person = "person of unrecorded sex"
    if shown.get("AGE") is not None:
        person = f"{int(shown['AGE'])}-year-old {person}"
    elif "AGE" in shown:
        person += " and unrecorded age" if "unrecorded" in person else " of unrecorded age"
    if "APOE4" not in shown:
        return _OPENING_NO_APOE.format(person=person)
    if shown["APOE4"] is None:
        return _OPENING_UNKNOWN_APOE.format(person=person)
    apoe = _look_up(dict(enumerate(_APOE)), shown["APOE4"], "APOE4", case)
    return _OPENINGS[style % len(_OPENINGS)].format(person=person, apoe=apoe)


def _scores(shown: dict, style: int) -> str:
    items = []
    for name, title in SCORE_NAMES.items():
        if name not in shown:
            continue
        value = shown[name]
        if value is None:
            items.append(f"{title} not recorded")
        else:  # whole points: thirds of an ADAS point carry no clinical meaning
            items.append(f"{title} {value:.0f} ({band(name, value)})")
    return _SCORES[style % len(_SCORES)].format(items=", ".join(items)) if items else ""


def _images(shown: dict, style: int) -> str:
    items = []
    for name, words in (("VENTRICLES", "ventricles"), ("FORNIX_FA", "fornix FA")):
        if name not in shown:
            continue
        value = shown[name]
        if value is None:
            items.append(f"{words} not available")
        else:
            items.append(f"{words} {band(name, value)} for the age (percentile {value:.0f})")
    return _sentence(_IMAGES[style % len(_IMAGES)].format(items=", ".join(items))) if items else ""


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _closing(shown: dict, style: int, case: int) -> str:
    cdr = dx = ""
    if "CDRSB" in shown:
        value = shown["CDRSB"]
        cdr = "CDR-SB not recorded (severity not known)"
        if value is not None:
            cdr = f"CDR-SB {value:g} ({band('CDRSB', value)})"
    if "DX" in shown:
        dx = "not recorded"
        if shown["DX"] is not None:
            dx = _look_up(DX_NAMES, shown["DX"], "DX", case)
    if cdr and dx:
        return _CLOSINGS[style % len(_CLOSINGS)].format(cdr=cdr, dx=dx)
    if dx:
        return f"Diagnosis: {dx}."
    return f"{cdr}." if cdr else ""


def _articles(text: str) -> str:
    """Turn 'a 81-year-old' into 'an 81-year-old' (also 8, 11 and 18)."""
    return re.sub(r"\b([Aa]) (?=(?:8\d?|11|18)\b)", r"\1n ", text)


def example(run: Run, rows: pd.DataFrame) -> tuple[str, dict]:
    """A record to show: the first of some subjects, or, if none may be shown, their medians.

    Returns
    -------
    what it is, such as 'case 3' or 'medians of 240 subjects', and the record.

    Raises
    ------
    SmallGroupError
        The medians of fewer than ten people are asked for.
    """
    if run.individual:
        record: dict = rows.iloc[0].to_dict()
        return f"case {record['case']}", record
    check_groups(run, {"the group of the example": rows})
    record = {"case": 0}
    for name in FIELDS:
        if name in rows and name in ("PTGENDER", "DX"):
            record[name] = rows[name].mode().iloc[0]
        elif name in rows:
            middle = rows[name].median()
            record[name] = round(middle) if name == "APOE4" and middle == middle else middle
    return f"medians of {len(rows)} subjects", record


def caption_rows(cohort: pd.DataFrame) -> list[dict]:
    """Make the rows of captions.jsonl: case, split, caption, caption_blind.

    Parameters
    ----------
    cohort : with the columns of `add_image_fields`, if the captions shall speak of images.
    """
    return [
        {
            "case": int(record["case"]),
            "split": record["split"],
            "caption": caption(record),
            "caption_blind": caption(record, withhold=BLIND),
        }
        for record in cohort.to_dict("records")
    ]
