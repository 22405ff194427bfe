"""From an ADNI download to one labelled scan per subject, split without leakage.

The rules are the published ones (project page, section 2): a valid diagnosis, an existing
T1, one scan per subject, 80/20 split stratified by diagnosis with floor(0.8 n) per class
in train. A validation part is taken from train only.
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memoir_book.artefacts import Run, atomic_path, is_synthetic, verify
from memoir_book.privacy import CHECK, SYNTHETIC_KEY, pseudonym

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
# What later chapters need, and what says who a case is: the two are stored apart.
COLUMNS = [
    *("case", "subject", "VISCODE", "DX", "AGE", "PTGENDER", "PTEDUCAT", "APOE4"),
    *(*SCORES, "has_fa", "split"),
]
PRIVATE = ["case", "RID", "PTID", "EXAMDATE", "t1_path", "fa_path"]


@dataclass(frozen=True)
class Problem:
    """One thing to mend in a download: where, what, and how.

    `file` and `names` may say who a subject is: `check` shows them to whoever holds the data.
    As text, which can end in a notebook or a log, a problem names tables, lines and columns.
    """

    file: str
    line: str
    column: str
    what: str
    mend: str
    names: str = ""

    def __str__(self) -> str:
        table = self.file.endswith(".csv")
        place = Path(self.file).name if table else "an image or folder of the download"
        place += f", line {self.line}" if self.line else ""
        place += f", column {self.column}" if self.column else ""
        hint = "" if table and not self.names else f" ({CHECK})"
        return f"{place}: {self.what}; {self.mend}{hint}"


class CohortError(ValueError):
    """The download has something that must be mended; the message says where and how."""

    def __init__(self, problem: Problem | str) -> None:
        super().__init__(str(problem))
        self.problem = problem


class DataLeakageError(CohortError):
    """A subject, or a file of a subject, stands on both sides of the split."""


def stop(problem: Problem) -> None:
    """Report a problem by raising it; `check` collects them instead."""
    raise CohortError(problem)


Report = Callable[[Problem], None]


# --- reading ----------------------------------------------------------------------------


def read_adnimerge(path: Path, report: Report = stop) -> pd.DataFrame:
    """Read ADNIMERGE.csv as the ADNI site or the ADNIMERGE R package write it.

    A byte-order mark, quoted fields, blanks around headers, `-4`, `NA` and empty fields
    are understood; `M48`, `m48` and `m048` are one visit; dates may be ISO or US.

    Parameters
    ----------
    report : what to do with a problem; by default the first is raised. A reporter that
        returns makes the value missing, or drops the row that cannot be used.

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
    path = Path(path)
    table = _read_csv(path, REQUIRED, report)
    for column in ("RID", "EXAMDATE"):
        for row in table.index[table[column].isna()]:
            report(_problem(path, row, column, "the field is empty", "fill it or drop the row"))
    table["DX"] = _each(table["DX"], _diagnosis, path, report)
    table["VISCODE"] = _each(table["VISCODE"], _viscode, path, report)
    table["EXAMDATE"] = pd.to_datetime(_each(table["EXAMDATE"], _date, path, report))
    table["PTID"] = table["PTID"].map(_ptid)
    if "IMAGEUID" in table:
        table["IMAGEUID"] = table["IMAGEUID"].map(_image_id, na_action="ignore")
    for column in ("RID", "AGE", "APOE4", "PTEDUCAT", *SCORES):
        if column in table:
            table[column] = _each(table[column], _number, path, report).astype(float)
    for column, (low, high) in RANGES.items():
        for row in table.index[(table[column] < low) | (table[column] > high)]:
            what = f"{table[column][row]:g} lies outside {low} to {high}"
            mend = "correct the value, or leave the field empty if it is unknown"
            report(_problem(path, row, column, what, mend))
            table.loc[row, column] = np.nan
    for row in table.index[~table["PTGENDER"].isin(["Male", "Female"])]:
        found = table["PTGENDER"][row]
        report(_problem(path, row, "PTGENDER", f"{found!r} is unknown", "use Male or Female"))
    table = table.dropna(subset=["VISCODE", "EXAMDATE", "RID"]).drop_duplicates()
    for row in table.index[table.duplicated(["PTID", "VISCODE"])]:
        visit = f"PTID {table['PTID'][row]}, visit {table['VISCODE'][row]}"
        what = "a second, different row for one visit"
        report(_problem(path, row, "VISCODE", what, "keep one of the two rows", visit))
    return table.drop_duplicates(["PTID", "VISCODE"]).reset_index(names="row")


def read_images(path: Path, report: Report = stop) -> pd.DataFrame:
    """Read the image manifest images.csv; paths may be empty.

    Its columns are PTID, VISCODE, t1_path, fa_path; or IMAGEUID instead of the first two,
    with or without ADNI's leading I, which is matched with IMAGEUID of ADNIMERGE.

    Raises
    ------
    CohortError
        A missing column, or two different rows for one visit or image.
    """
    path = Path(path)
    table = _read_csv(path, ("t1_path", "fa_path"), report)
    if "IMAGEUID" in table and "VISCODE" not in table:
        keys = ["IMAGEUID"]
        table["IMAGEUID"] = table["IMAGEUID"].map(_image_id, na_action="ignore")
    else:
        keys = ["PTID", "VISCODE"]
        absent = [name for name in keys if name not in table]
        if absent:
            raise CohortError(
                Problem(
                    str(path),
                    "",
                    "",
                    f"lacks the column {', '.join(absent)}; it has {', '.join(table.columns)}",
                    "name each image's visit by PTID and VISCODE, or by IMAGEUID",
                )
            )
        table["PTID"] = table["PTID"].map(_ptid)
        table["VISCODE"] = _each(table["VISCODE"], _viscode, path, report)
    table = table[[*keys, "t1_path", "fa_path"]].dropna(subset=keys).drop_duplicates()
    for row in table.index[table.duplicated(keys)]:
        names = ", ".join(f"{k} {table[k][row]}" for k in keys)
        what = "a second, different row for one " + ("image" if len(keys) == 1 else "visit")
        report(_problem(path, row, keys[-1], what, "keep one row per visit", names))
    return table.drop_duplicates(keys).reset_index(drop=True)


# Where converted downloads keep their volumes: Clinica's CAPS (t1-linear, dwi) and BIDS.
T1_GLOBS = (
    "subjects/sub-*/ses-*/t1_linear/*_T1w.nii*",
    "sub-*/ses-*/t1_linear/*_T1w.nii*",
    "sub-*/ses-*/anat/*_T1w.nii*",
)
FA_GLOBS = (
    "subjects/sub-*/ses-*/dwi/**/*_FA*.nii*",
    "sub-*/ses-*/dwi/**/*_FA*.nii*",
)


def find_images(data_dir: Path, report: Report = stop) -> pd.DataFrame:
    """List the images of a BIDS or CAPS tree, for a download without images.csv.

    The first pattern of `T1_GLOBS` and of `FA_GLOBS` that finds anything is used. Subject
    and visit come from the folders: `sub-ADNI999S9999/ses-M048` is PTID 999_S_9999 at m48.

    Returns
    -------
    DataFrame like that of `read_images`.

    Raises
    ------
    CohortError
        No T1 is found, a folder's name holds no PTID or visit, or a visit has two volumes.
    """
    data_dir = Path(data_dir)
    found: dict[str, dict[tuple[str, str], Path]] = {"t1_path": {}, "fa_path": {}}
    for column, patterns in (("t1_path", T1_GLOBS), ("fa_path", FA_GLOBS)):
        files = next((f for p in patterns if (f := sorted(data_dir.glob(p)))), [])
        for file in files:
            parts = file.relative_to(data_dir).parts
            subject = next(part for part in parts if part.startswith("sub-"))
            session = next(part for part in parts if part.startswith("ses-"))
            ptid, visit = _ptid(subject), _viscode(session.removeprefix("ses-"))
            if not re.fullmatch(PTID, ptid) or not visit:
                report(
                    Problem(
                        str(file),
                        "",
                        "",
                        "no PTID or visit can be read from the names of its folders",
                        "name the folders like sub-ADNI999S9999/ses-M048, or write images.csv",
                    )
                )
                continue
            if (ptid, visit) in found[column]:
                report(
                    Problem(
                        str(file),
                        "",
                        "",
                        f"a second {column[:2].upper()} for one visit",
                        "keep one, or write images.csv",
                        f"besides {found[column][ptid, visit].name}",
                    )
                )
                continue
            found[column][ptid, visit] = file.relative_to(data_dir)
    if not found["t1_path"]:
        raise CohortError(
            Problem(
                str(data_dir),
                "",
                "",
                "there is neither images.csv nor a T1 volume at " + ", ".join(T1_GLOBS),
                "write images.csv with the columns " + ", ".join(IMAGE_COLUMNS),
            )
        )
    visits = sorted(found["t1_path"].keys() | found["fa_path"].keys())
    return pd.DataFrame(
        [
            (ptid, visit, *(_text(found[c].get((ptid, visit))) for c in ("t1_path", "fa_path")))
            for ptid, visit in visits
        ],
        columns=list(IMAGE_COLUMNS),
    )


def list_images(data_dir: Path, report: Report = stop) -> pd.DataFrame:
    """Read images.csv, or look for the images where there is none."""
    manifest = Path(data_dir) / "images.csv"
    return read_images(manifest, report) if manifest.exists() else find_images(data_dir, report)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _read_csv(path: Path, required: tuple[str, ...], report: Report) -> pd.DataFrame:
    def unusable(what: str, mend: str) -> CohortError:
        return CohortError(Problem(str(path), "", "", what, mend))

    if not path.exists():
        raise unusable("is missing", "the data folder must hold it (see chapter 1)")
    try:
        with warnings.catch_warnings():
            # Rows with more fields than the header would shift or lose values.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                dtype=str,
                encoding="utf-8-sig",
                keep_default_na=False,
                skipinitialspace=True,
                index_col=False,
            )
    except (
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
    ) as error:
        raise unusable(
            f"cannot be read as a UTF-8 CSV table ({error})", "download it again"
        ) from error
    table.columns = table.columns.str.strip()
    absent = [name for name in required if name not in table]
    if absent:
        raise unusable(
            f"lacks the column {', '.join(absent)}; it has {', '.join(table.columns[:12])} ...",
            "download the full table again",
        )
    if not len(table):
        raise unusable("has a header but no rows", "download it again")
    wanted = dict.fromkeys((*required, *OPTIONAL, "PTID", "VISCODE"))
    table = table[[name for name in wanted if name in table]]
    table = table.apply(lambda column: column.str.strip())
    table = table.mask(table.isin(MISSING))
    table.index = table.index + 2  # line numbers as an editor shows them
    for column in ("PTID", "VISCODE"):
        for row in table.index[table[column].isna()] if column in table else ():
            report(_problem(path, row, column, "the field is empty", "fill it or drop the row"))
    return table.dropna(subset=[c for c in ("PTID", "VISCODE") if c in table])


def _problem(
    path: Path, row: Hashable, column: str, what: str, mend: str, names: str = ""
) -> Problem:
    return Problem(str(path), str(row), column, what, mend, names)


def _each(
    column: pd.Series, convert: Callable[[str], Any], path: Path, report: Report
) -> pd.Series:
    """Convert every value that is there; None from `convert` means that it cannot."""
    values = []
    for row, value in column.items():
        converted = None if not isinstance(value, str) else convert(value)
        if isinstance(value, str) and converted is None:
            what, mend = _WRONG[convert]
            name, shown = str(column.name), repr(value)
            if name in ("EXAMDATE", "RID"):
                report(_problem(path, row, name, f"the value {what}", mend, shown))
            else:
                report(_problem(path, row, name, f"{shown} {what}", mend))
        values.append(converted)
    return pd.Series(values, index=column.index, dtype=object)


def _diagnosis(value: str) -> str | None:
    return DX_SPELLINGS.get(value)


def _viscode(value: str) -> str | None:
    text = value.lower()
    if text in ("bl", "sc", "scmri", "y1", "nv", "f", "uns1"):
        return "bl" if text in ("sc", "scmri") else text
    match = re.fullmatch(r"m(\d{1,3})", text)
    if not match:
        return None
    month = int(match[1])
    return f"m{month:02d}" if month else "bl"


def _date(value: str) -> pd.Timestamp | None:
    for pattern in ("%Y-%m-%d", "%m/%d/%Y", "%m/%d/%y"):
        parsed = pd.to_datetime(value, format=pattern, errors="coerce")
        if not pd.isna(parsed):
            return parsed
    return None


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


_WRONG: dict[Callable, tuple[str, str]] = {
    _diagnosis: ("is an unknown diagnosis", f"use one of {', '.join(DX_SPELLINGS)}"),
    _viscode: ("is no visit", "use bl, m06, m12, ..."),
    _date: ("is no date", "write 2012-05-31 or 5/31/2012"),
    _number: ("is no number", "write a number or leave the field empty"),
}
PTID = r"\d{3}_S_\d{4,5}"


def _ptid(value: str) -> str:
    """Bring sub-ADNI999S9999 and 999S9999 to ADNI's own form, 999_S_9999."""
    match = re.search(r"(\d{3})_?S_?(\d{4,5})$", value)
    return f"{match[1]}_S_{match[2]}" if match else value


def _image_id(value: str) -> str:
    """Image IDs come as 12345, I12345 and, after a trip through a spreadsheet, 12345.0."""
    return value.upper().removeprefix("I").removesuffix(".0")


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
    cohort : one row per subject with the columns `COLUMNS` and `PRIVATE`. `case` is the row
        number, which stands for the subject in every later plot and text. Synthetic rows
        are sorted by RID. Real ones are sorted by `subject`, a keyed pseudonym (see
        `privacy.pseudonym`), so that a case number tells nothing of a RID. The split is
        drawn in the order of RID in any case: a seed gives the same split everywhere.
    flow : the filter steps, each with rows, subjects and subjects per class.
    """
    if visit not in ("latest", "earliest"):
        raise ValueError(f"visit={visit!r} is unknown; use 'latest' or 'earliest'")
    data_dir = Path(data_dir)
    visits = read_adnimerge(data_dir / "ADNIMERGE.csv")
    images = list_images(data_dir)
    flow = [_step("visits in ADNIMERGE", visits)]
    first = visits.sort_values("EXAMDATE").groupby("PTID")["EXAMDATE"].transform("first")
    # AGE in ADNIMERGE is the age at baseline, on every row.
    visits["AGE"] += (visits["EXAMDATE"] - first).dt.days / 365.25
    table = visits[visits["DX"].notna()]
    flow.append(_step("with a valid diagnosis", table))
    keys = [name for name in images if name not in ("t1_path", "fa_path")]
    if keys == ["IMAGEUID"] and "IMAGEUID" not in visits:
        raise CohortError(
            Problem(
                str(data_dir / "images.csv"),
                "",
                "IMAGEUID",
                "ADNIMERGE.csv has no such column to match it with",
                "name each image's visit by PTID and VISCODE",
            )
        )
    table = table.merge(images, on=keys, how="left")
    table = table[table["t1_path"].notna()]
    flow.append(_step("with a T1 volume", table))
    table = table.sort_values(["PTID", "EXAMDATE"]).drop_duplicates(
        "PTID", keep="last" if visit == "latest" else "first"
    )
    flow.append(_step(f"one scan per subject ({visit})", table))
    if not len(table):
        raise CohortError(
            Problem(
                str(data_dir / "ADNIMERGE.csv"),
                "",
                "",
                "no visit has both a diagnosis and a T1 volume",
                "check that PTID and VISCODE are written alike here and in images.csv",
            )
        )
    listed = [p for c in ("t1_path", "fa_path") for p in table[c].dropna()]
    absent = [path for path in listed if check_images and not (data_dir / path).exists()]
    if absent:
        raise CohortError(
            Problem(
                str(data_dir / absent[0]),
                "",
                "",
                f"is missing ({len(absent)} of the listed images are)",
                "complete the download or empty the path in images.csv",
            )
        )
    table = table.sort_values("RID", ignore_index=True)
    table["split"] = split(table["DX"], seed, val_fraction)
    fake = is_synthetic(data_dir)
    key = SYNTHETIC_KEY if fake else None
    table["subject"] = [pseudonym("subject", ptid, key) for ptid in table["PTID"]]
    if not fake:
        table = table.sort_values("subject", ignore_index=True)
    table["case"] = np.arange(len(table))
    table["RID"] = table["RID"].astype(int)
    table["has_fa"] = table["fa_path"].notna()
    if "PTEDUCAT" not in table:
        table["PTEDUCAT"] = np.nan
    cohort = table[[*COLUMNS, *PRIVATE[1:]]].copy()
    check_split(cohort)
    if check_images:
        check_copies(cohort, data_dir)
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
        Names the column and the cases.
    """
    for column in ("subject", "PTID", "RID", "t1_path", "fa_path"):
        if column not in cohort:
            continue
        known = cohort[cohort[column].notna()]
        sides = known.groupby(column)["split"].nunique()
        if (sides > 1).any():
            cases = known.loc[known[column] == sides.index[sides > 1][0], "case"]
            raise DataLeakageError(
                f"one {column} stands in more than one part of the split: cases "
                + ", ".join(map(str, cases))
            )


def check_copies(cohort: pd.DataFrame, data_dir: Path) -> None:
    """Check that no image's content stands in two parts of the split under two names.

    Only files of equal size can be equal, so only those are read and hashed.

    Raises
    ------
    DataLeakageError
        Names the two files, to `check` only.
    """
    for column in ("t1_path", "fa_path"):
        listed = cohort.loc[cohort[column].notna(), [column, "split"]]
        sizes = listed[column].map(lambda name: (Path(data_dir) / name).stat().st_size)
        seen: dict[str, tuple[str, str]] = {}
        for name, part in listed[sizes.duplicated(keep=False)].itertuples(index=False):
            with open(Path(data_dir) / name, "rb") as handle:
                content = hashlib.file_digest(handle, "sha256").hexdigest()
            other, other_part = seen.setdefault(content, (name, part))
            if other_part != part:
                raise DataLeakageError(
                    Problem(
                        str(Path(data_dir) / name),
                        "",
                        "",
                        f"has the same content as another, and the two stand in {part} and "
                        f"{other_part}",
                        "drop one of the two subjects from the tables",
                        f"the other is {other}",
                    )
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
    """Write cohort.parquet, and beside it, for its owner only, who the cases are.

    Later chapters read cohort.parquet, which holds pseudonyms. PTID, RID, exam dates and
    paths go to private/subjects.parquet; only chapter 2 reads it, to find the images.
    """
    private = run.path("private", "subjects.parquet")
    private.parent.mkdir(parents=True, exist_ok=True)
    private.parent.chmod(0o700)
    with atomic_path(private) as temporary:
        cohort[PRIVATE].to_parquet(temporary, index=False)
        temporary.chmod(0o600)
    path = run.path("cohort.parquet")
    with atomic_path(path) as temporary:
        cohort[COLUMNS].to_parquet(temporary, index=False)
    return path


def load_cohort(run: Run, private: bool = False) -> pd.DataFrame:
    """Read the cohort that chapter 1 wrote; one row per subject, row number = case.

    Parameters
    ----------
    private : add PTID, RID, exam dates and image paths. Do not show such a table.
    """
    path = run.path("cohort.parquet")
    verify(path, "run chapter 01 again")
    cohort = pd.read_parquet(path)
    if private:
        path = run.path("private", "subjects.parquet")
        verify(path, "run chapter 01 again")
        cohort = cohort.merge(pd.read_parquet(path), on="case")
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
            "with DTI-FA (%)": 100.0 * cohort["has_fa"],
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
