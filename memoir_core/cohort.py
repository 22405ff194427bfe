"""From an ADNI download to one labelled scan per subject, split without leakage.

The rules are the published ones (project page, section 2): a valid diagnosis, an existing
T1, one scan per subject, 80/20 split stratified by diagnosis with floor(0.8 n) per class
in train. A validation part is taken from train only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pandas as pd

from .artefacts import Run, atomic_path
from .config import DX, SCORES

REQUIRED = ("RID", "PTID", "VISCODE", "EXAMDATE", "AGE", "PTGENDER", "APOE4", "DX", *SCORES)
OPTIONAL = ("SITE", "DX_bl", "PTEDUCAT", "IMAGEUID")
IMAGE_COLUMNS = ("PTID", "VISCODE", "t1_path", "fa_path")
MISSING = ("", "-4", "-4.0", "-1", "NA", "NaN", "nan", "N/A")
# ADNI data dictionary, DXSUM and ADNIMERGE: longitudinal spellings name the newer state.
DX_SPELLINGS = {
    "CN": "CN",
    "NL": "CN",
    "MCI": "MCI",
    "Dementia": "Dementia",
    "AD": "Dementia",
    "NL to MCI": "MCI",
    "NL to Dementia": "Dementia",
    "MCI to Dementia": "Dementia",
    "MCI to NL": "CN",
    "Dementia to MCI": "MCI",
    "Dementia to NL": "CN",
}
RANGES = {
    "AGE": (40, 110),
    "CDRSB": (0, 18),
    "ADAS11": (0, 70),
    "ADAS13": (0, 85),
    "MMSE": (0, 30),
    "MOCA": (0, 30),
    "APOE4": (0, 2),
}
COLUMNS = [
    *("case", "RID", "PTID", "VISCODE", "EXAMDATE", "DX", "AGE", "PTGENDER", "PTEDUCAT"),
    *("APOE4", *SCORES, "t1_path", "fa_path", "split"),
]


class CohortError(ValueError):
    """The download has something that must be mended; the message says where and how."""


class DataLeakageError(CohortError):
    """A subject, or a file of a subject, stands on both sides of the split."""


# --- reading ----------------------------------------------------------------------------


def read_adnimerge(path: Path) -> pd.DataFrame:
    """Read ADNIMERGE.csv as the ADNI site or the ADNIMERGE R package write it.

    A byte-order mark, quoted fields, blanks around headers, `-4`, `NA` and empty fields
    are understood; `M48`, `m48` and `m048` are one visit; dates may be ISO or US.

    Returns
    -------
    One row per visit with the columns of ADNIMERGE; other columns are dropped. Exact
    duplicates are dropped; `row` keeps the line number in the file.

    Raises
    ------
    CohortError
        Names file, line, column and mend: missing column, unknown diagnosis, a value out
        of the score's range, a date that cannot be read, two different rows for one visit.
    """
    table = _read_csv(path, REQUIRED)
    table["DX"] = [_diagnosis(value, path, row) for row, value in table["DX"].items()]
    table["VISCODE"] = [_viscode(value, path, row) for row, value in table["VISCODE"].items()]
    table["EXAMDATE"] = [_date(value, path, row) for row, value in table["EXAMDATE"].items()]
    for column in ("RID", "AGE", "APOE4", "PTEDUCAT", *SCORES):
        if column in table:
            table[column] = _numbers(table[column], path)
    for column, (low, high) in RANGES.items():
        wrong = table.index[(table[column] < low) | (table[column] > high)]
        if len(wrong):
            raise _problem(
                path,
                wrong[0],
                column,
                f"{table[column][wrong[0]]:g} lies outside {low} to {high}",
                "correct the value, or leave the field empty if it is unknown",
            )
    sexes = table["PTGENDER"].isin(["Male", "Female"])
    if not sexes.all():
        row = table.index[~sexes][0]
        raise _problem(
            path, row, "PTGENDER", f"{table['PTGENDER'][row]!r} is unknown", "use Male or Female"
        )
    table = table.drop_duplicates()
    repeated = table.index[table.duplicated(["PTID", "VISCODE"])]
    if len(repeated):
        row = repeated[0]
        raise _problem(
            path,
            row,
            "VISCODE",
            f"a second, different row for PTID {table['PTID'][row]}, visit {table['VISCODE'][row]}",
            "keep one of the two rows",
        )
    return table.reset_index(names="row")


def read_images(path: Path) -> pd.DataFrame:
    """Read the image manifest images.csv: PTID, VISCODE, t1_path, fa_path (paths may be empty).

    Raises
    ------
    CohortError
        A missing column, or two different rows for one visit.
    """
    table = _read_csv(path, IMAGE_COLUMNS)[list(IMAGE_COLUMNS)]
    table["VISCODE"] = [_viscode(value, path, row) for row, value in table["VISCODE"].items()]
    table = table.drop_duplicates()
    repeated = table.index[table.duplicated(["PTID", "VISCODE"])]
    if len(repeated):
        raise _problem(
            path,
            repeated[0],
            "VISCODE",
            f"a second row for PTID {table['PTID'][repeated[0]]} at this visit",
            "keep one row per visit",
        )
    return table.reset_index(drop=True)


def _read_csv(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    path = Path(path)
    if not path.exists():
        raise CohortError(f"{path} is missing; the data folder must hold it (see chapter 1)")
    try:
        table = pd.read_csv(
            path, dtype=str, encoding="utf-8-sig", keep_default_na=False, skipinitialspace=True
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise CohortError(f"{path} cannot be read as a UTF-8 CSV table: {error}") from error
    table.columns = table.columns.str.strip()
    absent = [name for name in required if name not in table]
    if absent:
        raise CohortError(
            f"{path} lacks the column {', '.join(absent)}; "
            f"it has {', '.join(table.columns[:12])} ... Download the full table again"
        )
    if not len(table):
        raise CohortError(f"{path} has a header but no rows; download it again")
    table = table[[name for name in (*required, *OPTIONAL) if name in table]]
    table = table.apply(lambda column: column.str.strip())
    table = table.mask(table.isin(MISSING))
    table.index = table.index + 2  # line numbers as an editor shows them
    for column in ("PTID", "VISCODE"):
        empty = table.index[table[column].isna()]
        if len(empty):
            raise _problem(path, empty[0], column, "the field is empty", "fill it or drop the row")
    return table


def _problem(path: Path, row: Hashable, column: str, what: str, mend: str) -> CohortError:
    return CohortError(f"{path}, line {row}, column {column}: {what}; {mend}")


def _diagnosis(value: object, path: Path, row: Hashable) -> str | None:
    if not isinstance(value, str):
        return None
    if value not in DX_SPELLINGS:
        raise _problem(
            path, row, "DX", f"{value!r} is unknown", f"use one of {', '.join(DX_SPELLINGS)}"
        )
    return DX_SPELLINGS[value]


def _viscode(value: object, path: Path, row: Hashable) -> str:
    text = str(value).lower()
    if text in ("bl", "sc", "scmri", "y1", "nv", "f", "uns1"):
        return "bl" if text in ("sc", "scmri") else text
    match = re.fullmatch(r"m(\d{1,3})", text)
    if not match:
        raise _problem(path, row, "VISCODE", f"{value!r} is no visit", "use bl, m06, m12, ...")
    month = int(match[1])
    return f"m{month:02d}" if month else "bl"


def _date(value: object, path: Path, row: Hashable) -> pd.Timestamp:
    for pattern in ("%Y-%m-%d", "%m/%d/%Y", "%m/%d/%y"):
        parsed = pd.to_datetime(str(value), format=pattern, errors="coerce")
        if not pd.isna(parsed):
            return parsed
    raise _problem(path, row, "EXAMDATE", f"{value!r} is no date", "write 2012-05-31 or 5/31/2012")


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = column.index[numbers.isna() & column.notna()]
    if len(wrong):
        raise _problem(
            path,
            wrong[0],
            str(column.name),
            f"{column[wrong[0]]!r} is no number",
            "write a number or leave the field empty",
        )
    return numbers.astype(float)


# --- filters and split ------------------------------------------------------------------


def build_cohort(
    data_dir: Path,
    seed: int,
    visit: str = "latest",
    val_fraction: float = 0.15,
    check_images: bool = True,
) -> tuple[pd.DataFrame, list[dict]]:
    """Apply the published filters and split.

    Parameters
    ----------
    data_dir : folder with ADNIMERGE.csv and images.csv.
    seed : of the split.
    visit : 'latest' visit with diagnosis and T1, or the 'earliest'.
    val_fraction : share of each class's train part that becomes the validation part.
    check_images : whether the listed image files must exist; False for a table only.

    Returns
    -------
    cohort : one row per subject in the columns `COLUMNS`, sorted by RID; `case` is the row
        number, which stands for the subject in every later plot and text.
    flow : the filter steps, each with rows, subjects and subjects per class.
    """
    if visit not in ("latest", "earliest"):
        raise ValueError(f"visit={visit!r} is unknown; use 'latest' or 'earliest'")
    data_dir = Path(data_dir)
    visits = read_adnimerge(data_dir / "ADNIMERGE.csv")
    images = read_images(data_dir / "images.csv")
    flow = [_step("visits in ADNIMERGE", visits)]
    first = visits.sort_values("EXAMDATE").groupby("PTID")["EXAMDATE"].transform("first")
    # AGE in ADNIMERGE is the age at baseline, on every row.
    visits["AGE"] += (visits["EXAMDATE"] - first).dt.days / 365.25
    table = visits[visits["DX"].notna()]
    flow.append(_step("with a valid diagnosis", table))
    table = table.merge(images, on=["PTID", "VISCODE"], how="left")
    table = table[table["t1_path"].notna()]
    flow.append(_step("with a T1 volume", table))
    table = table.sort_values(["PTID", "EXAMDATE"]).drop_duplicates(
        "PTID", keep="last" if visit == "latest" else "first"
    )
    flow.append(_step(f"one scan per subject ({visit})", table))
    if not len(table):
        raise CohortError(
            f"no visit of {data_dir / 'ADNIMERGE.csv'} has a diagnosis and a t1_path in images.csv;"
            " check that PTID and VISCODE are written alike in both files"
        )
    listed = [p for c in ("t1_path", "fa_path") for p in table[c].dropna()]
    absent = [path for path in listed if check_images and not (data_dir / path).exists()]
    if absent:
        raise CohortError(
            f"{data_dir / absent[0]} is missing ({len(absent)} of the listed images are); "
            "complete the download or empty the path in images.csv"
        )
    table = table.sort_values("RID", ignore_index=True)
    table["split"] = split(table["DX"], seed, val_fraction)
    table["case"] = np.arange(len(table))
    table["RID"] = table["RID"].astype(int)
    if "PTEDUCAT" not in table:
        table["PTEDUCAT"] = np.nan
    cohort = table[COLUMNS].copy()
    check_split(cohort)
    return cohort, flow


def _step(name: str, table: pd.DataFrame) -> dict:
    subjects = table.drop_duplicates("PTID", keep="last")
    counts = {dx: int((subjects["DX"] == dx).sum()) for dx in DX}
    return {"step": name, "rows": len(table), "subjects": len(subjects), **counts}


def split(dx: pd.Series, seed: int, val_fraction: float = 0.15) -> np.ndarray:
    """Split subjects 80/20 within each class; part of train becomes 'val'.

    Per class, test gets n - floor(0.8 n) subjects, which gives the published 168, 163 and
    143; 'train' and 'val' together are the published train part.

    Returns
    -------
    (n,) array of 'train', 'val' and 'test'.
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
    """Check that no subject and no image stands on both sides of the split.

    Raises
    ------
    DataLeakageError
        Names the subject or file.
    """
    for column in ("PTID", "RID", "t1_path", "fa_path"):
        known = cohort[cohort[column].notna()]
        sides = known.groupby(column)["split"].nunique()
        if (sides > 1).any():
            raise DataLeakageError(
                f"{column} {sides.index[sides > 1][0]!r} stands in more than one part of the split"
            )


def check_training_cases(cohort: pd.DataFrame, cases: np.ndarray, where: str) -> None:
    """Check that what is indexed or trained on holds no test subject.

    Raises
    ------
    DataLeakageError
        Names `where` and the first such case.
    """
    test = set(cohort.loc[cohort["split"] == "test", "case"])
    leaked = sorted(test & {int(case) for case in cases})
    if leaked:
        raise DataLeakageError(f"{where} holds test case {leaked[0]} ({len(leaked)} in all)")


# --- storing and summarising ------------------------------------------------------------


def write_cohort(run: Run, cohort: pd.DataFrame) -> Path:
    path = run.path("cohort.parquet")
    with atomic_path(path) as temporary:
        cohort.to_parquet(temporary, index=False)
    return path


def load_cohort(run: Run) -> pd.DataFrame:
    """Read the cohort that chapter 1 wrote; one row per subject, row number = case."""
    cohort = pd.read_parquet(run.path("cohort.parquet"))
    check_split(cohort)
    return cohort


def counts(cohort: pd.DataFrame) -> pd.DataFrame:
    """Count subjects per class and published part (train holds train and val)."""
    part = cohort["split"].replace("val", "train")
    table = pd.crosstab(cohort["DX"], part).reindex(index=list(DX), columns=["train", "test"])
    table["total"] = table.sum(axis=1)
    table.loc["Total"] = table.sum()
    return table.rename_axis(columns=None)


def table_one(cohort: pd.DataFrame) -> pd.DataFrame:
    """Summarise the cohort per class and split part, with standardised mean differences.

    Returns
    -------
    One row per variable; columns for each class (mean and SD, or percent) and 'SMD', the
    difference between train and test in units of the pooled SD (below 0.1 is negligible).
    """
    data = pd.DataFrame(
        {
            "age (years)": cohort["AGE"],
            "female (%)": 100.0 * (cohort["PTGENDER"] == "Female"),
            "education (years)": cohort["PTEDUCAT"],
            "APOE4 carrier (%)": 100.0 * (cohort["APOE4"] > 0).where(cohort["APOE4"].notna()),
            "CDR-SB": cohort["CDRSB"],
            "ADAS-11": cohort["ADAS11"],
            "ADAS-13": cohort["ADAS13"],
            "MMSE": cohort["MMSE"],
            "MoCA": cohort["MOCA"],
            "with DTI-FA (%)": 100.0 * cohort["fa_path"].notna(),
        }
    )
    test = cohort["split"] == "test"
    rows = {"n": {dx: str((cohort["DX"] == dx).sum()) for dx in DX} | {"SMD": ""}}
    for name, values in data.items():
        row = {}
        for dx in DX:
            part = values[cohort["DX"] == dx].astype(float)
            row[dx] = (
                f"{part.mean():.0f}"
                if "%" in str(name)
                else (f"{part.mean():.1f} ({part.std():.1f})")
            )
        row["SMD"] = f"{_smd(values[~test].astype(float), values[test].astype(float)):.2f}"
        rows[str(name)] = row
    return pd.DataFrame(rows).T


def _smd(a: pd.Series, b: pd.Series) -> float:
    pooled = math.sqrt((a.var() + b.var()) / 2)
    return (a.mean() - b.mean()) / pooled if pooled else 0.0
