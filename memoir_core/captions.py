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
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from memoir_book.privacy import check_groups
from memoir_book.store import Run

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


# ---------------------------------------------------------------- the grammar
# A sentence starts at `sentence`; {name} is replaced by one of the alternatives below or,
# for a name in NUMBERS, by a whole number of its range. Sentences about one stage keep
# scores, function and findings of that stage together, so that they stay plausible.
NUMBERS = {
    "age": (55, 90),
    "years": (2, 9),
    "months": (3, 18),
    "education": (8, 20),
    "dose": (1, 4),
    "cn_mmse": (27, 30),
    "mci_mmse": (24, 28),
    "ad_mmse": (10, 23),
    "cn_moca": (25, 30),
    "mci_moca": (18, 25),
    "ad_moca": (5, 17),
    "cn_adas": (3, 9),
    "mci_adas": (8, 18),
    "ad_adas": (17, 45),
    "mci_cdr": (1, 4),
    "ad_cdr": (5, 15),
    "words": (0, 9),
}
GRAMMAR: dict[str, tuple[str, ...]] = {
    "sentence": (
        "{cn_sentence}",
        "{mci_sentence}",
        "{ad_sentence}",
        "{cn_sentence}",
        "{mci_sentence}",
        "{ad_sentence}",
        "{history_sentence}",
        "{genetic_sentence}",
        "{method_sentence}",
        "{plan_sentence}",
    ),
    "cn_sentence": (
        "A {age}-year-old {person} {reports} {cn_complaint}; MMSE {cn_mmse}, {cn_word}.",
        "MRI of this {age}-year-old {person} shows {cn_finding} and {cn_finding_2}.",
        "{Opener} the MoCA was {cn_moca} and ADAS-11 {cn_adas}, with {cn_memory}.",
        "A {age}-year-old {person} with {education} years of education {cn_function}.",
        "FA of the {tract} is {cn_fa} in this cognitively normal {age}-year-old {person}.",
        "CDR-SB 0 with MMSE {cn_mmse} in a {age}-year-old {person}: cognitively normal (CN).",
    ),
    "mci_sentence": (
        "A {age}-year-old {person} {reports} {mci_complaint} for {months} months; "
        "MMSE {mci_mmse}, {mci_word}.",
        "MRI of this {age}-year-old {person} shows {mci_finding} of the {region}.",
        "{Opener} the MoCA was {mci_moca} and ADAS-13 {mci_adas}, with {mci_memory}.",
        "A {age}-year-old {person} with {education} years of education {mci_function}.",
        "FA of the {tract} is {mci_fa} in this {age}-year-old {person} with MCI.",
        "CDR-SB {mci_cdr} with MMSE {mci_mmse} in a {age}-year-old {person}: "
        "mild cognitive impairment (MCI).",
    ),
    "ad_sentence": (
        "A {age}-year-old {person} {reports} {ad_complaint} for {years} years; "
        "MMSE {ad_mmse}, {ad_word}.",
        "MRI of this {age}-year-old {person} shows {ad_finding} of the {region}.",
        "{Opener} the MoCA was {ad_moca} and ADAS-13 {ad_adas}, with {ad_memory}.",
        "A {age}-year-old {person} with {education} years of education {ad_function}.",
        "FA of the {tract} is {ad_fa} in this {age}-year-old {person} with dementia.",
        "CDR-SB {ad_cdr} with MMSE {ad_mmse} in a {age}-year-old {person}: dementia.",
    ),
    "history_sentence": (
        "Past history of the {age}-year-old {person} includes {illness} and {illness_2}.",
        "The {age}-year-old {person} takes {drug} for {illness} and sleeps {sleep}.",
        "The {relative} of the {age}-year-old {person} had dementia; {pronoun_free}.",
        "Neurological examination at {age} years of age: {sign} and {sign_2}.",
    ),
    "genetic_sentence": (
        "Genotyping of the {age}-year-old {person} found {apoe}, {apoe_note}.",
        "A {age}-year-old {person} with {apoe} {reports} {any_complaint}.",
        "Carrying {apoe}, the {age}-year-old {person} has {any_finding} of the {region}.",
    ),
    "method_sentence": (
        "The T1 scan was {t1_step} before {reader} measured the {region} at age {age}.",
        "Diffusion imaging at age {age} was {fa_quality}; FA was read in the {tract}.",
        "{Opener} {test} was given by {reader} and lasted {months} minutes.",
        "Of the word list, {words} words were recalled after {months} minutes by a "
        "{age}-year-old {person}.",
    ),
    "plan_sentence": (
        "The plan for the {age}-year-old {person} is {plan} in {months} months.",
        "{Reader} advises {plan} and {plan_2} at age {age}.",
        "Treatment with {ad_drug} was {drug_course} after {months} months.",
    ),
    "person": ("woman", "man"),
    "reports": (
        "reports",
        "describes",
        "mentions",
        "is seen for",
        "complains of",
        "notes",
        "was referred for",
    ),
    "Opener": (
        "At the baseline visit",
        "At follow-up after {months} months",
        "On repeat testing",
        "At the screening visit",
        "Compared with {years} years earlier,",
        "At age {age}",
        "In the memory clinic",
    ),
    "cn_complaint": (
        "no memory concern",
        "occasional word finding pauses",
        "worry about ageing",
        "misplacing keys once in a while",
        "a wish to take part in research",
        "normal sleep and mood",
        "good concentration at work",
    ),
    "cn_word": (
        "preserved",
        "within the usual range",
        "unchanged",
        "as expected for age",
        "well above the cut-off",
    ),
    "cn_finding": (
        "no atrophy",
        "age-appropriate sulci",
        "full hippocampal volume",
        "normal ventricles",
        "an intact cortical ribbon",
        "few white matter hyperintensities",
    ),
    "cn_finding_2": (
        "no infarct",
        "no microbleeds",
        "symmetrical temporal lobes",
        "a normal corpus callosum",
        "preserved grey matter",
        "clear basal cisterns",
    ),
    "cn_memory": (
        "intact delayed recall",
        "normal orientation",
        "fluent naming",
        "fast clock drawing",
        "good attention",
        "no intrusion errors",
    ),
    "cn_function": (
        "lives independently and drives",
        "manages finances without help",
        "volunteers twice a week",
        "travels alone and keeps a diary",
        "plays chess and reads daily",
        "works part-time as {job}",
    ),
    "cn_fa": ("high", "preserved", "typical for age", "symmetrical", "unremarkable"),
    "mci_complaint": (
        "forgetting appointments",
        "repeating questions",
        "mild memory complaints",
        "losing the thread of conversations",
        "slower word finding",
        "trouble learning new names",
        "difficulty with a new telephone",
    ),
    "mci_word": (
        "slightly low",
        "below the previous score",
        "at the cut-off",
        "reduced by delayed recall",
        "borderline",
    ),
    "mci_finding": (
        "subtle volume loss",
        "mild atrophy",
        "slight asymmetry",
        "early thinning",
        "borderline shrinkage",
        "questionable atrophy",
    ),
    "mci_memory": (
        "weak delayed recall",
        "some intrusion errors",
        "preserved orientation",
        "benefit from cues",
        "slow trail making",
        "reduced verbal fluency",
    ),
    "mci_function": (
        "lives alone but relies on lists",
        "needs more time for the tax form",
        "still drives on known roads",
        "gave up cards because of forgetfulness",
        "manages the household with reminders",
        "retired early from work as {job}",
    ),
    "mci_fa": ("slightly reduced", "at the lower limit", "mildly asymmetrical", "a little low"),
    "ad_complaint": (
        "getting lost near home",
        "progressive memory loss",
        "failing to recognise neighbours",
        "confusion in the evening",
        "wandering at night",
        "empty speech",
        "loss of daily skills",
    ),
    "ad_word": (
        "low",
        "very low",
        "clearly impaired",
        "lost on orientation and recall",
        "falling year by year",
    ),
    "ad_finding": (
        "marked atrophy",
        "severe volume loss",
        "moderate shrinkage",
        "widespread thinning",
        "advanced bilateral atrophy",
        "pronounced degeneration",
    ),
    "ad_memory": (
        "no delayed recall",
        "disorientation in time",
        "many errors in naming",
        "failed clock drawing",
        "apraxia on commands",
        "impaired comprehension",
    ),
    "ad_function": (
        "needs help with dressing and meals",
        "cannot handle money any more",
        "attends day care {dose} times a week",
        "depends on the spouse for medication",
        "stopped driving after getting lost",
        "forgot a career as {job}",
    ),
    "ad_fa": ("low", "clearly reduced", "markedly low", "diffusely decreased", "severely reduced"),
    "any_complaint": ("{cn_complaint}", "{mci_complaint}", "{ad_complaint}"),
    "any_finding": ("no atrophy", "{mci_finding}", "{ad_finding}"),
    "region": (
        "hippocampus",
        "left hippocampus",
        "right hippocampus",
        "entorhinal cortex",
        "amygdala",
        "medial temporal lobe",
        "parietal cortex",
        "precuneus",
        "posterior cingulate",
        "frontal lobe",
        "parahippocampal gyrus",
        "temporal pole",
        "insula",
        "lateral ventricles",
    ),
    "tract": (
        "fornix",
        "cingulum",
        "left cingulum",
        "uncinate fasciculus",
        "corpus callosum",
        "splenium",
        "genu",
        "corticospinal tract",
        "superior longitudinal fasciculus",
        "inferior longitudinal fasciculus",
        "internal capsule",
    ),
    "illness": (
        "hypertension",
        "type 2 diabetes",
        "high cholesterol",
        "atrial fibrillation",
        "hypothyroidism",
        "depression",
        "osteoarthritis",
        "asthma",
        "a treated cataract",
        "migraine",
    ),
    "illness_2": (
        "hearing loss",
        "a hip replacement",
        "gout",
        "sleep apnoea",
        "coronary heart disease",
        "a transient ischaemic attack",
        "anxiety",
        "chronic kidney disease",
        "glaucoma",
        "vitamin B12 deficiency",
    ),
    "drug": (
        "metformin",
        "atorvastatin",
        "lisinopril",
        "levothyroxine",
        "aspirin",
        "sertraline",
        "omeprazole",
        "amlodipine",
        "apixaban",
    ),
    "ad_drug": ("donepezil", "rivastigmine", "galantamine", "memantine"),
    "drug_course": ("well tolerated", "stopped because of nausea", "continued", "increased"),
    "sleep": ("well", "badly", "{education} minutes in the afternoon", "with an airway mask"),
    "relative": ("sister", "brother", "mother", "father", "cousin", "grandmother", "twin"),
    "pronoun_free": (
        "onset was at {age} years",
        "no autopsy was done",
        "the genotype is not known",
        "two siblings are healthy",
    ),
    "sign": (
        "normal gait",
        "a mild tremor",
        "brisk reflexes",
        "no focal deficit",
        "reduced arm swing",
        "intact cranial nerves",
    ),
    "sign_2": (
        "normal eye movements",
        "slow finger tapping",
        "no rigidity",
        "a positive palmomental reflex",
        "steady stance",
        "intact vibration sense",
    ),
    "apoe": ("no APOE e4 allele", "one APOE e4 allele", "two APOE e4 alleles"),
    "apoe_note": (
        "confirmed on a second sample",
        "a matter of risk and not of fate",
        "as in one sibling",
        "reported after counselling",
        "kept from the raters",
    ),
    "t1_step": (
        "registered to the template with nine degrees of freedom",
        "corrected for the bias field",
        "resampled to two millimetres",
        "checked for motion",
        "skull-stripped",
    ),
    "fa_quality": ("free of motion", "repeated once", "of good quality", "corrected for eddies"),
    "reader": (
        "a neurologist",
        "a radiologist",
        "a psychologist",
        "a trained rater",
        "the study nurse",
    ),
    "Reader": ("The neurologist", "The geriatrician", "The clinic", "The general practitioner"),
    "test": (
        "the word list",
        "trail making",
        "the clock drawing test",
        "the Boston naming test",
        "the category fluency test",
        "the digit span",
    ),
    "plan": (
        "a repeat MRI",
        "a visit to the memory clinic",
        "a lumbar puncture",
        "an amyloid scan",
        "neuropsychological testing",
        "a hearing test",
    ),
    "plan_2": (
        "regular exercise",
        "control of blood pressure",
        "support for the carer",
        "a driving assessment",
        "less evening alcohol",
    ),
    "job": ("a teacher", "a nurse", "a carpenter", "an accountant", "a farmer", "a librarian"),
}
_SLOT = re.compile(r"\{(\w+)\}")


def _expand(symbol: str, rng: np.random.Generator) -> str:
    if symbol in NUMBERS:
        low, high = NUMBERS[symbol]
        return str(rng.integers(low, high + 1))
    chosen = GRAMMAR[symbol][rng.integers(len(GRAMMAR[symbol]))]
    return _SLOT.sub(lambda slot: _expand(slot[1], rng), chosen)


def synthetic_sentences(n: int, seed: int, exclude: Iterable[str] = ()) -> list[str]:
    """Draw `n` distinct clinical sentences from `GRAMMAR`.

    Parameters
    ----------
    n : how many; the published work used 25,000 (project page, section 7).
    seed : the same seed gives the same sentences in the same order, and a longer list
        begins with the shorter one.
    exclude : texts that must not be drawn, such as every caption of the cohort.

    Raises
    ------
    ValueError
        `n` is negative, or the grammar does not give so many distinct sentences.
    """
    if n < 0:
        raise ValueError(f"n={n} must be at least 0")
    rng = np.random.default_rng([seed, 0x7E47])
    taken = set(exclude)
    sentences: list[str] = []
    for _ in range(20 * n + 1000):
        if len(sentences) == n:
            return sentences
        text = _articles(_expand("sentence", rng))
        if text not in taken:
            taken.add(text)
            sentences.append(text)
    raise ValueError(f"the grammar gave {len(sentences)} distinct sentences, {n} were asked for")
