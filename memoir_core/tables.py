"""Read ADNIMERGE.csv and the list of images as people have them, or say what must be mended."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .config import SCORES

REQUIRED = ("RID", "PTID", "VISCODE", "EXAMDATE", "AGE", "PTGENDER", "APOE4", "DX", *SCORES)
# The last but one are phases; ADNIMERGE itself gives EXAMDATE_bl.
OPTIONAL = ("PTEDUCAT", "IMAGEUID", "SITE", "COLPROT", "ORIGPROT", "EXAMDATE_bl")
KEYS = ("PTID", "VISCODE", "IMAGEUID")  # what may name an image
FAILURE = ["index", "column", "failure_case", "check"]  # of pandera's table of them
NEEDED = ("RID", "PTID", "VISCODE", "PTGENDER")  # on every row
PATHS = ("t1_path", "fa_path")
MISSING = ("", "NA", "NaN", "nan", "N/A", "NULL", "None", ".")
MISSING_CODE = r"-[14](\.0*)?"  # ADNI's -4 and -1, also as another program writes numbers
SPELLINGS = {"CN": "CN", "NL": "CN", "MCI": "MCI", "Dementia": "Dementia", "AD": "Dementia"}
# ADNI data dictionary, DXSUM and ADNIMERGE: 'NL to MCI' names the newer state last.
SPELLINGS |= {f"{old} to {new}": SPELLINGS[new] for old in SPELLINGS for new in SPELLINGS}
SPELLINGS |= {"DEM": "Dementia", "1": "CN", "2": "MCI", "3": "Dementia"}  # ADNIMERGE2, DIAGNOSIS
SEXES = {"male": "Male", "m": "Male", "1": "Male", "female": "Female", "f": "Female", "2": "Female"}
RANGES = {"AGE": (40, 110), "CDRSB": (0, 18), "ADAS11": (0, 70), "ADAS13": (0, 85), "APOE4": (0, 2)}
RANGES |= {"MMSE": (0, 30), "MOCA": (0, 30), "RID": (0, 99999), "PTEDUCAT": (0, 99)}
EXPECTED = {name: f"a number from {low} to {high}" for name, (low, high) in RANGES.items()}
EXPECTED |= {"DX": "CN, MCI or Dementia (or 1, 2, 3)", "PTGENDER": "Male or Female"}
EXPECTED |= {"VISCODE": "a visit (bl, m06, m12, ...; where ADNI writes v03, VISCODE2 holds it)"}
DATES = ("EXAMDATE", "EXAMDATE_bl")
EXPECTED |= dict.fromkeys(DATES, "a date (2012-05-31, 5/31/2012)")
MOST = 100_000  # rows: six times as many as ADNI has visits
EMPTY = "the field is empty", "fill it or drop the row"
MIXED, AS_ISO = "some dates begin with the day, others with the month", "write all like 2012-05-31"


class Problem(NamedTuple):
    """One thing to mend in a download: where, what, and how."""

    file: str
    what: str
    mend: str
    line: str = ""
    column: str = ""

    def __str__(self) -> str:
        place = ", ".join(filter(None, (self.file, self.line and f"line {self.line}", self.column)))
        said = f"{place[:500]}{': ' if place else ''}{self.what[:400]}; {self.mend}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in said)  # of a terminal


class CohortError(ValueError):
    """The download has something that must be mended; `problems` holds all that was found."""

    def __init__(self, *problems: Problem) -> None:
        more = f"\n... and {len(problems) - 3} more problems" if len(problems) > 3 else ""
        super().__init__("\n".join(map(str, problems[:3])) + more)
        self.problems = problems


def read_adnimerge(source: Path | pd.DataFrame) -> pd.DataFrame:
    """Read ADNIMERGE.csv as the ADNI site or the ADNIMERGE R package write it; see `parse`.

    source : a CSV file in UTF-8, or a table of text, its index the line, `attrs["file"]` its name.

    Returns one row per visit: `REQUIRED`, `OPTIONAL` where given, `row` (the line in the file),
    `EXAMDATE_bl` (of the baseline). A person's only visit needs no date. Raises CohortError with
    file, line, column and mend of every value that is not as `EXPECTED`, of a second, different
    row for one visit, and of a person under two numbers.
    """
    visits, file = _read_table(source, REQUIRED, OPTIONAL)
    several = visits["PTID"].duplicated(keep=False)
    undated = visits.index[visits["EXAMDATE"].isna() & several]
    problems = [Problem(file, *EMPTY, str(row), "EXAMDATE") for row in undated]
    for key, other in (("PTID", "RID"), ("RID", "PTID")):
        pairs = visits.drop_duplicates([key, other])
        for row, value in pairs[key][pairs[key].duplicated()].items():
            what = f"one {key} ({value}) stands under two {other}s"
            problems.append(Problem(file, what, "correct one of them", str(row), key))
    if problems:
        raise CohortError(*problems)
    # Where the baseline is not among the rows, a visit's code says how many months lie before it.
    months = pd.to_numeric(visits["VISCODE"].str.extract(r"^m(\d+)$")[0]).fillna(0)
    first = visits["EXAMDATE"] - pd.to_timedelta((months * 30.4375).round(), unit="D")
    at_baseline = first.where(visits["VISCODE"] == "bl").groupby(visits["PTID"]).transform("min")
    known = at_baseline.fillna(first.groupby(visits["PTID"]).transform("min"))
    known = visits["EXAMDATE_bl"].fillna(known) if "EXAMDATE_bl" in visits else known
    return visits.assign(EXAMDATE_bl=known).reset_index(names="row")


def read_images(source: Path | pd.DataFrame) -> pd.DataFrame:
    """Read images.csv: PTID and VISCODE (or IMAGEUID), `PATHS` and, where given, MANUFACTURER.

    Raises CohortError as above.
    """
    return _read_table(source, PATHS, ("MANUFACTURER",))[0].reset_index(drop=True)


def _read_table(
    source: Path | pd.DataFrame, required: tuple, optional: tuple
) -> tuple[pd.DataFrame, str]:
    import pandera.pandas as pandera  # half a second, which only chapter 1 needs

    text = source if isinstance(source, pd.DataFrame) else _csv(source)
    file = str(text.attrs.get("file", "the table"))
    known = {name.lower(): name for name in (*KEYS, *required, *optional, "VISCODE2", "DIAGNOSIS")}
    text = text.rename(columns=lambda name: known.get(name.strip().lower(), name))
    if "VISCODE2" in text:  # ADNI2 and later, where VISCODE is the phase's own (v03, 4_bl)
        text = text.assign(
            VISCODE=text["VISCODE2"].mask(text["VISCODE2"] == "", text.get("VISCODE"))
        )
    if "DX" not in text:
        text = text.rename(columns={"DIAGNOSIS": "DX"})
    by_image = "IMAGEUID" in text and "VISCODE" not in text
    keys = ["IMAGEUID"] if by_image else ["PTID", "VISCODE"]
    wanted = dict.fromkeys((*keys, *required, *(name for name in optional if name in text)))
    if absent := [name for name in wanted if name not in text]:
        what = f"lacks the column {', '.join(absent)}"
        raise CohortError(Problem(file, what, "download the full table again"))
    if not 0 < len(text) <= MOST:
        what = f"has {len(text) or 'a header but no'} rows"
        raise CohortError(Problem(file, what, f"download it again; up to {MOST:,} are read"))
    text = text[[*wanted]].apply(lambda column: column.str.strip())
    text = text.mask(text.isin(MISSING) | text.apply(lambda c: c.str.fullmatch(MISSING_CODE)))
    columns = {}
    for column in text:
        right = pandera.Check(lambda values: parse(values).notna(), error=EXPECTED.get(column))
        alike = pandera.Check(lambda values: day_first(values) is not None, error=MIXED)
        checks = [right, alike] if column in DATES else [right]
        columns[column] = pandera.Column(checks=checks, nullable=column not in NEEDED)
    problems = []
    try:
        pandera.DataFrameSchema(columns).validate(text, lazy=True)
    except pandera.errors.SchemaErrors as error:
        failed = error.failure_cases.sort_values("index", kind="stable")
        for row, column, value, fails in failed[FAILURE].itertuples(index=False):
            mend = "correct it, or leave the field empty if it is unknown"
            said = (f"{value[:80]!r} is not {fails}", mend) if isinstance(value, str) else EMPTY
            said = (MIXED, AS_ISO) if fails == MIXED else said
            problems.append(Problem(file, *said, "" if fails == MIXED else str(row), column))
    table = text.apply(parse).dropna(subset=keys).drop_duplicates()
    for row in table.index[table.duplicated(keys)]:
        what = f"a second, different row for one visit or image ({', '.join(table[keys].loc[row])})"
        problems.append(Problem(file, what, "keep one of the two", str(row), keys[-1]))
    if problems:
        raise CohortError(*problems)
    return table, file


def _csv(path: Path) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():  # a row of more fields than the header would shift values
            warnings.simplefilter("error", pd.errors.ParserWarning)
            how: Any = {"dtype": str, "encoding": "utf-8-sig", "skipinitialspace": True}
            table = pd.read_csv(path, keep_default_na=False, index_col=False, nrows=MOST + 1, **how)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        what = f"cannot be read as a CSV table in UTF-8 ({str(error).splitlines()[0][:80]})"
        raise CohortError(Problem(str(path), what, "download the full table again")) from error
    table = table.set_axis(table.index + 2)
    table.attrs["file"] = path
    return table


def day_first(text: pd.Series) -> bool | None:
    """Say whether the dates of a column begin with the day; None where some do and some do not."""
    numbers = text.str.extract(r"^(\d{1,2})[/-](\d{1,2})[/-]\d{2,4}(?!\d)").astype(float)
    day, month = (numbers > 12).any()
    return None if day and month else bool(day)


def parse(text: pd.Series) -> pd.Series:
    """Parse a column of text by its name; NaN stands for what is not as `EXPECTED`."""
    name = str(text.name)
    if name in RANGES:
        number = pd.to_numeric(text, errors="coerce").astype(float)
        return number.where(number.between(*RANGES[name]))
    if name == "DX":
        return text.str.replace(r"\.0*$", "", regex=True).map(SPELLINGS)
    if name == "PTGENDER":
        return text.str.lower().str.replace(r"\.0*$", "", regex=True).map(SEXES)
    if name == "PTID":  # sub-ADNI999S9999 and 999S9999 are 999_S_9999
        return text.str.replace(r"(?i)^.*?(\d{3})_?S_?(\d{4,5})$", r"\1_S_\2", regex=True)
    if name in ("IMAGEUID", "SITE"):  # I12345 and, after a trip through a spreadsheet, 12345.0
        return text.str.upper().str.removeprefix("I").str.removesuffix(".0")
    if name == "MANUFACTURER":  # GE MEDICAL SYSTEMS
        return text.str.upper().str.extract(r"(\S+)")[0]
    if name in PATHS:  # as Windows writes them
        return text.str.replace("\\", "/")
    if name in DATES:
        day = text.str.replace(r"[T ]+\d{1,2}:\d\d.*$", "", regex=True).str.replace("-", "/")
        order = "%d/%m" if day_first(day) else "%m/%d"
        formats = ("%Y/%m/%d", f"{order}/%Y", f"{order}/%y", "%d.%m.%Y", "%d/%b/%Y", "%d/%b/%y")
        dates = pd.Series(pd.NaT, text.index, "datetime64[us]")  # [ns] ends in 2262
        for form in (*formats, "%d%b%Y", "%d.%m.%y"):
            dates = dates.fillna(pd.to_datetime(day, format=form, errors="coerce"))
        return dates.where(dates.dt.year.between(1990, 2050)).dt.as_unit("ns")
    if name == "VISCODE":  # M48 and m048 are m48; m0 and the screening are the baseline
        code = text.str.lower().replace({"sc": "bl", "scmri": "bl"})
        month = pd.to_numeric(code.str.extract(r"^m(\d{1,3})$")[0])
        code = code.mask(month > 0, month.map("m{:02.0f}".format)).mask(month == 0, "bl")
        return code.where((month >= 0) | code.isin(["bl", "y1", "nv", "f", "uns1"]))
    return text
