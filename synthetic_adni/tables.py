"""Tables of people who do not exist: ADNIMERGE, the list of images, and what lies behind.

The mechanism, in one paragraph. A subject of a diagnostic class has a severity at the time of
the diagnosis. The scores show a shifted one, since they come from another day and another rater
(`SCORE_DRIFT`); T1 shows atrophy and FA tract damage, which follow the severity as far as the
brain gives way (`BRAIN_DRIFT`; half of it is shared by the two). So each modality knows something
that the others do not. What is measured depends on phase and scanner, as in ADNI. Anatomy changes
are smooth invertible deformations of population templates; no label is painted anywhere. The
cohort is for teaching: no clinical claim follows from it.
"""

import json
import zlib
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SEED = 2026  # of the cohort; a run's own seed governs split and training
SHAPE = (91, 109, 91)  # of the volumes, on the 2 mm MNI grid
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])

# What is known of people and published, with its sources: see "about" there.
_KNOWN = json.loads(Path(__file__).with_name("people.json").read_text(encoding="utf-8"))
CLASS_COUNTS: dict[str, int] = _KNOWN["classes"]
DX = tuple(CLASS_COUNTS)
SCORE_GRID, SCORES, SCORE_MISSING = (_KNOWN[name] for name in ("grid", "scores", "missing"))
PHASES, ENROLLED, VENDORS = (_KNOWN[name] for name in ("phases", "enrolled", "vendors"))
AGE, FEMALE, APOE4 = (_KNOWN[name] for name in ("age", "female", "apoe4"))
NO_DTI_SITES = 8  # every eighth site measures none in ADNI 3 either

# Severity at the diagnosis: class means, spread within a class; then the shift to the day of
# the scores. With these, a logistic regression on the scores reaches a DX3 balanced accuracy
# near 0.70, as clinical scores alone do in the published table (benchmarks/calibration.py).
CLASS_SEVERITY = {"CN": 0.0, "MCI": 1.45, "Dementia": 3.1}
CLASS_SPREAD = 0.5
SCORE_DRIFT = 0.87
BRAIN_DRIFT = 0.8  # of atrophy and of tract damage: a correlation of 0.6 within a class
REVERSION = 0.035  # chance that an earlier visit is called CN or MCI the other way round

COLUMNS = [
    *("RID", "COLPROT", "ORIGPROT", "PTID", "SITE", "VISCODE", "EXAMDATE", "DX_bl", "AGE"),
    *("PTGENDER", "PTEDUCAT", "APOE4", *SCORES, "DX", "IMAGEUID"),
]
RECORD, T1_STREAM, FA_STREAM, ANATOMY, ENROLMENT = range(5)


def generator(ptid: str, stream: int) -> np.random.Generator:
    """Random numbers that depend on the subject and the purpose, not on order or process."""
    return np.random.Generator(
        np.random.Philox(key=np.array([SEED, zlib.crc32(ptid.encode()) * 8 + stream], np.uint64))
    )


def class_counts(n: int) -> dict[str, int]:
    """Share n subjects over the classes in the published proportion (largest remainder)."""
    total = sum(CLASS_COUNTS.values())
    exact = {dx: n * count / total for dx, count in CLASS_COUNTS.items()}
    counts = {dx: int(value) for dx, value in exact.items()}
    by_remainder = sorted(exact, key=lambda dx: counts[dx] - exact[dx])
    for dx in by_remainder[: n - sum(counts.values())]:
        counts[dx] += 1
    return counts


def make_tables(
    subjects: int, fa_fraction: float, drift: float = SCORE_DRIFT
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Make ADNIMERGE, the image manifest, and the latent variables behind them.

    subjects : how many shall remain after the published filters; about a quarter more
        are written that the filters remove.
    fa_fraction : share of the remaining subjects with an FA volume.
    drift : standard deviation between the severity that was diagnosed and the one that the
        scores show; 0 makes the scores nearly define the diagnosis.

    Returns adnimerge, images and latents: one row per visit, per image, and per rendered subject.
    """
    counts = class_counts(subjects)
    shuffle = np.random.Generator(np.random.Philox(key=SEED))
    classes = shuffle.permutation([dx for dx in DX for _ in range(counts[dx])])
    # Subjects that the filters remove: without a valid diagnosis, without a T1.
    removed = round(0.06 * subjects), round(0.18 * subjects)
    kinds = ["kept"] * subjects + ["no_dx"] * removed[0] + ["no_t1"] * removed[1]
    diagnoses = [*classes, *shuffle.choice(list(DX), sum(removed))]
    people = [
        _enrol(90001 + place, str(diagnoses[index])) | {"kind": kinds[index]}
        for place, index in enumerate(shuffle.permutation(len(kinds)))
    ]
    kept = [person for person in people if person["kind"] == "kept"]
    shuffle.shuffle(kept)
    kept.sort(key=lambda person: not person["dti"])
    for person in kept[: round(fa_fraction * subjects)]:
        if not person["dti"]:  # more FA than phases and vendors allow: enrolled later
            person |= _enrol(person["rid"], person["dx"], later=True)
        person["fa"] = True
    found: tuple[list[dict], list[dict], list[dict]] = [], [], []
    for person in people:
        for table, new in zip(found, _subject(person, drift), strict=True):
            table += new
    adnimerge = pd.DataFrame(found[0], columns=COLUMNS)
    repeated = adnimerge.iloc[:: max(1, len(adnimerge) // 20)]  # some rows come twice
    adnimerge = pd.concat([adnimerge, repeated], ignore_index=True)
    return adnimerge, pd.DataFrame(found[1]), pd.DataFrame(found[2])


def phase_of(day: date) -> str:
    """Name the phase of ADNI that runs on a day."""
    return [name for name, (first, *_) in PHASES.items() if day.isoformat() >= first][-1]


def _enrol(rid: int, dx: str, later: bool = False) -> dict[str, Any]:
    """Draw a subject's site and dates, and say whether DTI is measured at the scan."""
    rng = generator(str(rid), ENROLMENT)
    phase = str(rng.choice(list(PHASES), p=ENROLLED[dx]))
    first, last = map(date.fromisoformat, PHASES["ADNI3" if later else phase][1:])
    start = first + timedelta(int(rng.integers((last - first).days)))
    months = [0, 6, 12, 24, 36, 48][: int(rng.integers(2, 7))]
    days = [round(month * 30.44 + (month > 0) * rng.normal(0, 10)) for month in months]
    dates = [start + timedelta(day) for day in days]
    scanned = int(rng.integers(1, len(months)))  # the visit with the latest T1
    site = 901 + rid % 57  # no ADNI site has such a number
    site += later and site % NO_DTI_SITES == 0
    vendor, phase = VENDORS[site % len(VENDORS)], phase_of(dates[scanned])
    dti = {"ADNI1": False, "ADNI3": site % NO_DTI_SITES > 0}.get(phase, vendor == "GE")
    known = {"rid": rid, "dx": dx, "site": site, "vendor": vendor, "dti": dti, "fa": False}
    return known | {"months": months, "dates": dates, "scanned": scanned}


def _subject(person: dict[str, Any], drift: float) -> tuple[list[dict], list[dict], list[dict]]:
    """Make one subject's visits, images and latent variables."""
    rows: list[dict] = []
    images: list[dict] = []
    latents: list[dict] = []
    rid, dx, kind, scanned = (person[name] for name in ("rid", "dx", "kind", "scanned"))
    months, dates = person["months"], person["dates"]
    ptid = f"{person['site']}_S_{rid}"
    rng = generator(ptid, RECORD)
    diagnosed = CLASS_SEVERITY[dx] + CLASS_SPREAD * rng.standard_normal()
    rated, reserve, *own = rng.standard_normal(4)
    severity = diagnosed + drift * rated
    atrophy, tracts = (diagnosed + BRAIN_DRIFT * np.sqrt(0.5) * (reserve + z) for z in own)
    age_bl = float(np.clip(rng.normal(*AGE[dx]), 55, 91))
    female = rng.random() < FEMALE[dx]
    apoe4 = int(rng.choice(3, p=APOE4[dx]))
    education = int(np.clip(round(rng.normal(16, 2.7)), 6, 20))
    pace = abs(rng.normal(0.12, 0.10)) * (1 + CLASS_SEVERITY[dx] / 2)  # severity per year
    for number, (month, day) in enumerate(zip(months, dates, strict=True)):
        if kind == "kept" and number > scanned and rng.random() < 0.5:
            continue  # a visit that was missed
        more = pace * (month - months[scanned]) / 12
        row = {"RID": rid, "PTID": ptid, "SITE": person["site"], "EXAMDATE": day.isoformat()}
        row |= {"COLPROT": phase_of(day), "ORIGPROT": phase_of(dates[0])}
        row |= {"VISCODE": "bl" if month == 0 else f"m{month:02d}", "AGE": round(age_bl, 1)}
        row |= {"PTGENDER": "Female" if female else "Male", "PTEDUCAT": education, "APOE4": apoe4}
        known = kind != "no_dx"
        row["DX"] = _diagnosis(dx, diagnosed + more, number, scanned, rng) if known else ""
        row |= {name: score(name, severity + more, rng) for name in SCORES}
        if row["COLPROT"] == "ADNI1":
            row["MOCA"] = np.nan
        earlier = kind == "kept" and number < scanned and rng.random() < 0.08
        image = {"PTID": ptid, "VISCODE": row["VISCODE"], "t1_path": "", "fa_path": ""}
        if kind == "kept" and (number == scanned or earlier):
            row["IMAGEUID"] = 9_000_000 + rid * 10 + number
            stem = f"images/{ptid}/{ptid}_{row['VISCODE']}"
            image["t1_path"] = f"{stem}_T1w_9DOF.nii.gz"
            image["fa_path"] = f"{stem}_FA.nii.gz" if person["fa"] and not earlier else ""
            shown = {"atrophy": atrophy + more, "tracts": tracts + more, "apoe4": apoe4}
            age = age_bl + (day - dates[0]).days / 365.25
            shown |= {"AGE": age, "female": female, "vendor": person["vendor"]}
            latents.append({**image, "severity": severity + more, **shown})
        if image["t1_path"] or rng.random() < 0.1:  # some are listed, but never downloaded
            images.append({**image, "MANUFACTURER": person["vendor"]})
        rows.append(row)
    first = {"CN": "CN", "MCI": "LMCI", "Dementia": "AD", "": ""}
    for row in rows:
        row["DX_bl"] = first[rows[0]["DX"]]
    return rows, images, latents


def _diagnosis(
    dx: str, diagnosed: float, number: int, scanned: int, rng: np.random.Generator
) -> str:
    """The class at the scan; before it, milder where the severity was clearly lower.

    Now and then an earlier visit is called CN instead of MCI or MCI instead of CN, so that
    some people revert.
    """
    if number > scanned:
        return ""  # later visits without a consensus diagnosis yet
    limits = {"CN": -np.inf, "MCI": 0.3, "Dementia": 1.9}
    reached = [name for name in DX[: DX.index(dx) + 1] if diagnosed >= limits[name]]
    if number == scanned:
        return dx
    other = {"CN": "MCI", "MCI": "CN"} if rng.random() < REVERSION else {}
    return other.get(reached[-1], reached[-1])


def score(name: str, severity: float, rng: np.random.Generator) -> float:
    spec = SCORES[name]
    value = np.interp(severity, SCORE_GRID, spec["at"]) + spec["noise"] * rng.standard_normal()
    missing = rng.random() < SCORE_MISSING[name]
    low, high = spec["range"]
    value = float(min(max(round(value / spec["step"]) * spec["step"], low), high))
    return np.nan if missing else round(value, 2)
