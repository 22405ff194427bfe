"""Read a table as people have it: whatever separates its fields, however its letters are coded."""

import io
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from ..messages import refusal

MOST, ROWS = 250, 1_000_000  # MB, and rows of a table; ADNIMERGE has 15 and 16,000


def read_text(path: Path) -> pd.DataFrame:
    """Read any table as text, stripped; the index is the line in the file, '' a missing value.

    Commas, semicolons (with decimal commas) or tabs; UTF-8, UTF-16 or Windows' code page.
    Raises CohortError with file and mend where it is no table.
    """
    if not (path := Path(path)).is_file():
        raise refusal("table is no file" if path.exists() else "no such table", path)
    if path.stat().st_size > MOST * 1e6:
        raise refusal("table too large", path, most=MOST)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise refusal("closed", path, why=error.strerror) from error
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    if raw[:2] in (b"PK", b"\x1f\x8b") or raw.lstrip()[:1] == b"<" or (b"\0" in raw and not wide):
        raise refusal("no text table", path)
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")  # what Excel calls plain CSV
    separator = max(",;\t", key=text.partition("\n")[0].count)
    options: Any = {"sep": separator, "dtype": str, "skipinitialspace": True, "index_col": False}
    options |= {"keep_default_na": False, "skip_blank_lines": False}
    try:
        with warnings.catch_warnings():  # a row of more fields than the header would shift values
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(io.StringIO(text), nrows=ROWS + 1, **options)
    except (ValueError, pd.errors.ParserWarning) as error:
        raise refusal("unreadable table", path, why=str(error).splitlines()[0][:80]) from error
    if len(table) > ROWS:
        raise refusal("table too long", path, most=ROWS)
    table.columns = table.columns.str.strip()
    table = table.apply(lambda column: column.str.strip()).set_axis(table.index + 2)
    table = table[(table != "").any(axis=1)]  # blank lines
    if separator != ",":
        table = table.replace(r"^(-?\d+),(\d+)$", r"\1.\2", regex=True)
    for name in table.columns[table.columns.str.fullmatch(r".+\.\d+")]:  # pandas' name for a second
        first = name.rpartition(".")[0]
        if first in table and (table[first] != table[name]).any():
            raise refusal("two columns", path, name=first[:80])
    table.attrs["file"] = str(path)
    return table
