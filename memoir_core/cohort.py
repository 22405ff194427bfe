"""From an ADNI download to one labelled scan per subject, split without leakage.

The rules are those of the project page, section 2; a validation part is taken from train only.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .config import DX, SCORES
from .files import atomic_path, checksum
from .tables import KEYS, PATHS, CohortError, Problem, read_adnimerge, read_images  # noqa: F401

ACQUIRED = ("SITE", "COLPROT", "MANUFACTURER")  # text; empty where a download does not say
COLUMNS = ["case", "RID", "PTID", "VISCODE", "EXAMDATE", "DX", "AGE", "PTGENDER", "PTEDUCAT"]
COLUMNS += ["APOE4", *SCORES, *ACQUIRED, "has_fa", "split", *PATHS]


class DataLeakageError(CohortError):
    """A subject, or a file of a subject, stands on both sides of the split."""


def age_at_scan(visits: pd.DataFrame) -> pd.DataFrame:
    """Turn AGE, in ADNIMERGE the age at baseline on every row, into the age at the visit."""
    years = (visits["EXAMDATE"] - visits["EXAMDATE_bl"]).dt.days / 365.25
    return visits.assign(AGE=visits["AGE"] + years.fillna(0))  # without a date: the only visit


def valid_diagnosis(visits: pd.DataFrame) -> pd.DataFrame:
    """Keep the visits at which a diagnosis was made."""
    return visits[visits["DX"].notna()]


def attach_images(visits: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Add the images, found by PTID and VISCODE or by IMAGEUID; NaN where none is."""
    keys = [name for name in KEYS if name in images]
    if not {*keys} <= {*visits}:
        mend = "name each image's visit by PTID and VISCODE"
        raise CohortError(Problem("images.csv", "ADNIMERGE.csv has no IMAGEUID to match", mend))
    return visits.merge(images, on=keys, how="left")


def with_t1(visits: pd.DataFrame) -> pd.DataFrame:
    """Keep the visits that have a T1 volume."""
    return visits[visits["t1_path"].notna()]


def one_scan_per_subject(visits: pd.DataFrame, visit: str = "latest") -> pd.DataFrame:
    """Keep each subject's latest (or earliest) visit; the published page says not which."""
    if visit not in ("latest", "earliest"):
        raise ValueError(f"visit={visit!r} is unknown; use 'latest' or 'earliest'")
    keep: Any = "last" if visit == "latest" else "first"
    return visits.sort_values(["PTID", "EXAMDATE"]).drop_duplicates("PTID", keep=keep)


def build_cohort(
    visits: pd.DataFrame,
    images: pd.DataFrame,
    data_dir: Path | None,
    seed: int,
    visit: str = "latest",
    val_fraction: float = 0.15,
) -> tuple[pd.DataFrame, list[dict]]:
    """Apply the published filters to tables of `read_adnimerge` and `read_images`, and split.

    Returns the cohort, one row per subject ordered by RID with the columns `COLUMNS` (`case`
    is the row number), and the steps, each with rows, subjects, subjects per class. The images
    must exist in `data_dir`, unless it is None.
    """
    ages = age_at_scan(visits)
    diagnosed = valid_diagnosis(ages)
    scans = with_t1(attach_images(diagnosed, images))
    table = one_scan_per_subject(scans, visit)
    flow = {"visits in ADNIMERGE": ages, "with a valid diagnosis": diagnosed}
    flow |= {"with a T1 volume": scans, f"one scan per subject ({visit})": table}
    if not len(table):
        mend = "check that PTID and VISCODE are written alike in ADNIMERGE.csv and images.csv"
        raise CohortError(Problem("", "no visit has both a diagnosis and a T1 volume", mend))
    table = table.sort_values("RID", ignore_index=True)
    parts = split(table["DX"], seed, val_fraction)
    table = table.assign(case=table.index, RID=table["RID"].astype(int), split=parts)
    cohort = table.assign(has_fa=table["fa_path"].notna()).reindex(columns=COLUMNS)
    check_split(cohort)
    if data_dir is not None:
        check_copies(cohort, data_dir)
    return cohort, [_flow_step(*step) for step in flow.items()]


def _flow_step(name: str, table: pd.DataFrame) -> dict:
    """Count rows, subjects, and subjects by the last diagnosis that is left, after one filter."""
    last = table.sort_values("EXAMDATE").groupby("PTID")["DX"].last()  # of those that are known
    counts = {dx: int((last == dx).sum()) for dx in DX}
    return {"step": name, "rows": len(table), "subjects": len(last), **counts}


def split(dx: pd.Series, seed: int, val_fraction: float = 0.15) -> np.ndarray:
    """Name each subject's part, (n,): 'train', 'val' (both are the published train) or 'test'.

    Test gets n - floor(0.8 n) subjects of each class: the published 168, 163 and 143.
    """
    rng = np.random.default_rng([seed, 1])
    parts = np.full(len(dx), "train", dtype=object)
    for name in DX:
        rows = rng.permutation(np.flatnonzero(dx.to_numpy() == name))
        train = math.floor(0.8 * len(rows))
        parts[rows[train:]] = "test"
        parts[rows[: round(val_fraction * train)]] = "val"
    return parts


def check_split(cohort: pd.DataFrame) -> None:
    """Raise DataLeakageError if a subject or an image path stands in two parts of the split."""
    for column in ("PTID", "RID", *PATHS):
        parts = cohort.groupby(column, sort=False)["split"].nunique()
        for one in parts.index[parts > 1][:1]:
            cases = ", ".join(map(str, cohort.loc[cohort[column] == one, "case"]))
            what = f"one {column} ({one}) stands in more than one part of the split: cases {cases}"
            raise DataLeakageError(Problem("", what, "drop all but one from the tables"))


def check_copies(cohort: pd.DataFrame, data_dir: Path) -> None:
    """Raise DataLeakageError if two listed files have equal content, CohortError if one lacks."""
    listed = pd.concat([cohort[column] for column in PATHS], ignore_index=True).dropna()
    paths = listed.map(lambda name: data_dir / name)
    if absent := [path for path in paths if not os.path.isfile(path)]:  # noqa: PTH113 - any name
        what = f"is missing, or no regular file ({len(absent)} of the listed images are)"
        mend = "complete the download or empty the path in images.csv"
        raise CohortError(Problem(str(absent[0]), what, mend))
    sizes = paths.map(lambda path: path.stat().st_size)  # files of other sizes differ
    content = paths[sizes.duplicated(keep=False)].map(checksum)
    if len(again := content[content.duplicated()]):
        first = paths[content[content == again.iloc[0]].index[0]]
        what = f"has the same content as {first}, so that a split may put it on both sides"
        mend = "drop one of the two from images.csv"
        raise DataLeakageError(Problem(str(paths[again.index[0]]), what, mend))


def check_training_cases(cohort: pd.DataFrame, cases: np.ndarray, where: str) -> None:
    """Raise DataLeakageError if what is indexed or trained on holds a test subject."""
    test = set(cohort.loc[cohort["split"] == "test", "case"])
    if leaked := sorted(test & {int(case) for case in cases}):
        what = f"{where} holds test case {leaked[0]} ({len(leaked)} in all)"
        raise DataLeakageError(Problem("", what, "make it from the train part only"))


def write_cohort(path: Path, cohort: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        cohort.to_parquet(temporary, index=False)


def load_cohort(path: Path) -> pd.DataFrame:
    """Read the cohort.parquet that chapter 1 wrote; one row per subject, row number = case."""
    cohort = pd.read_parquet(path)
    check_split(cohort)
    return cohort


def counts(cohort: pd.DataFrame) -> pd.DataFrame:
    """Count subjects per class and published part (train holds train and val)."""
    parts = cohort["split"].replace("val", "train")
    table = pd.crosstab(cohort["DX"], parts, margins=True, margins_name="Total")
    table = table.reindex(index=[*DX, "Total"], columns=["train", "test", "Total"], fill_value=0)
    return table.rename(columns={"Total": "total"}).rename_axis(columns=None)
