"""Read ADNIMERGE.csv and the list of images as they come, or say what must be mended."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .config import SCORES

REQUIRED = ("RID", "PTID", "VISCODE", "EXAMDATE", "AGE", "PTGENDER", "APOE4", "DX", *SCORES)
OPTIONAL = ("PTEDUCAT", "IMAGEUID", "SITE", "COLPROT", "ORIGPROT")  # the last two are phases
KEYS = ("PTID", "VISCODE", "IMAGEUID")  # what may name an image
NEEDED = ("RID", "PTID", "VISCODE", "EXAMDATE", "PTGENDER")  # on every row
PATHS = ("t1_path", "fa_path")
MISSING = ("", "-4", "-4.0", "-1", "NA", "NaN", "nan", "N/A")
SPELLINGS = {"CN": "CN", "NL": "CN", "MCI": "MCI", "Dementia": "Dementia", "AD": "Dementia"}
# ADNI data dictionary, DXSUM and ADNIMERGE: 'NL to MCI' names the newer state last.
SPELLINGS |= {f"{old} to {new}": SPELLINGS[new] for old in SPELLINGS for new in SPELLINGS}
RANGES = {"AGE": (40, 110), "CDRSB": (0, 18), "ADAS11": (0, 70), "ADAS13": (0, 85), "APOE4": (0, 2)}
RANGES |= {"MMSE": (0, 30), "MOCA": (0, 30), "RID": (0, 99999), "PTEDUCAT": (0, 99)}
EXPECTED = {name: f"a number from {low} to {high}" for name, (low, high) in RANGES.items()}
EXPECTED |= {"DX": "CN, MCI or Dementia", "PTGENDER": "Male or Female"}
EXPECTED |= {"VISCODE": "a visit (bl, m06, m12, ...)", "EXAMDATE": "a date (2012-05-31, 5/31/2012)"}


class Problem(NamedTuple):
    """One thing to mend in a download: where, what, and how."""

    file: str
    what: str
    mend: str
    line: str = ""
    column: str = ""

    def __str__(self) -> str:
        place = ", ".join(filter(None, (self.file, self.line and f"line {self.line}", self.column)))
        return f"{place}{': ' if place else ''}{self.what}; {self.mend}"


class CohortError(ValueError):
    """The download has something that must be mended; `problems` holds all that was found."""

    def __init__(self, *problems: Problem) -> None:
        more = f"\n... and {len(problems) - 3} more problems" if len(problems) > 3 else ""
        super().__init__("\n".join(map(str, problems[:3])) + more)
        self.problems = problems


def read_adnimerge(path: Path) -> pd.DataFrame:
    """Read ADNIMERGE.csv as the ADNI site or the ADNIMERGE R package write it; see `parse`.

    Returns one row per visit: columns `REQUIRED`, `OPTIONAL`, `row` (the line in the file),
    `EXAMDATE_bl` (of the subject's first visit). Raises CohortError with file, line, column and
    mend of every value that is not as `EXPECTED`, and of a second, different row for one visit.
    """
    visits = _read_table(Path(path), REQUIRED, OPTIONAL)
    first = visits.groupby("PTID")["EXAMDATE"].transform("min")
    return visits.assign(EXAMDATE_bl=first).reset_index(names="row")


def read_images(path: Path) -> pd.DataFrame:
    """Read images.csv: PTID and VISCODE (or IMAGEUID), `PATHS` and, where given, MANUFACTURER.

    Raises CohortError as above.
    """
    return _read_table(Path(path), PATHS, ("MANUFACTURER",)).reset_index(drop=True)


def _read_table(path: Path, required: tuple, optional: tuple = ()) -> pd.DataFrame:
    def unusable(what: str) -> CohortError:
        return CohortError(Problem(str(path), what, "download the full table again"))

    if not path.exists():
        raise unusable("is missing")
    options: Any = {"dtype": str, "encoding": "utf-8-sig", "skipinitialspace": True}
    try:
        with warnings.catch_warnings():  # a row of more fields than the header would shift values
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, keep_default_na=False, index_col=False, **options)
    except (ValueError, pd.errors.ParserWarning) as error:  # of the parser, of the encoding
        raise unusable(f"cannot be read as a UTF-8 CSV table ({error})") from error
    table.columns = table.columns.str.strip()
    by_image = "IMAGEUID" in table and "VISCODE" not in table
    keys = ["IMAGEUID"] if by_image else ["PTID", "VISCODE"]
    wanted = dict.fromkeys((*keys, *required, *(name for name in optional if name in table)))
    if absent := [name for name in wanted if name not in table]:
        raise unusable(f"lacks the column {', '.join(absent)}")
    if not len(table):
        raise unusable("has a header but no rows")
    text = table[[*wanted]].apply(lambda column: column.str.strip()).set_axis(table.index + 2)
    text = text.mask(text.isin(MISSING))
    table = text.apply(parse)
    problems = []
    for column in table:
        empty = text[column].isna()
        for row in text.index[table[column].isna() & (~empty | (column in NEEDED))]:
            what = f"{text[column][row]!r} is not {EXPECTED.get(column)}"
            said = what, "correct it, or leave the field empty if it is unknown"
            said = ("the field is empty", "fill it or drop the row") if empty[row] else said
            problems.append(Problem(str(path), *said, str(row), column))
    table = table.dropna(subset=keys).drop_duplicates()
    for row in table.index[table.duplicated(keys)]:
        what = f"a second, different row for one visit or image ({', '.join(table[keys].loc[row])})"
        problems.append(Problem(str(path), what, "keep one of the two", str(row), keys[-1]))
    if problems:
        raise CohortError(*problems)
    return table


def parse(text: pd.Series) -> pd.Series:
    """Parse a column of text by its name; NaN stands for what is not as `EXPECTED`."""
    name = str(text.name)
    if name in RANGES:
        number = pd.to_numeric(text, errors="coerce").astype(float)
        return number.where(number.between(*RANGES[name]))
    if name == "DX":
        return text.map(SPELLINGS)
    if name == "PTGENDER":
        return text.where(text.isin(["Male", "Female"]))
    if name == "PTID":  # sub-ADNI999S9999 and 999S9999 are 999_S_9999
        return text.str.replace(r"^.*?(\d{3})_?S_?(\d{4,5})$", r"\1_S_\2", regex=True)
    if name in ("IMAGEUID", "SITE"):  # I12345 and, after a trip through a spreadsheet, 12345.0
        return text.str.upper().str.removeprefix("I").str.removesuffix(".0")
    if name == "MANUFACTURER":  # GE MEDICAL SYSTEMS
        return text.str.upper().str.split().str[0]
    if name == "EXAMDATE":
        formats = ("%Y-%m-%d", "%m/%d/%Y", "%m/%d/%y")
        iso, us, short = (pd.to_datetime(text, format=form, errors="coerce") for form in formats)
        return iso.fillna(us).fillna(short)
    if name == "VISCODE":  # M48 and m048 are m48; m0 and the screening are the baseline
        code = text.str.lower().replace({"sc": "bl", "scmri": "bl"})
        month = pd.to_numeric(code.str.extract(r"^m(\d{1,3})$")[0])
        code = code.mask(month > 0, month.map("m{:02.0f}".format)).mask(month == 0, "bl")
        return code.where((month >= 0) | code.isin(["bl", "y1", "nv", "f", "uns1"]))
    return text
