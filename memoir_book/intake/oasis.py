"""OASIS-1, open data, from a folder in nilearn's layout, or fetched by nilearn.

It holds maps of grey-matter density (SPM8, DARTEL, modulated, 2 mm) and a sheet. The global CDR
becomes the class: a rule, no diagnosis. Under 60, age would be the diagnosis: they are left out.
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from memoir_core.files import atomic_path, checksum, digest
from memoir_core.tables import CohortError

from .. import chapters, privacy
from ..dataset import FILE
from ..messages import problem, refusal
from .text import read_text

AGREEMENT = "https://sites.wustl.edu/oasisbrains/"
SHEET, MAPS = "oasis_cross-sectional.csv", "OAS1_*_MR1/mwrc1OAS1_*_bet.nii*"
COUNTS = {0.0: 135, 0.5: 70, 1.0: 28, 2.0: 2}  # sessions by CDR, of the whole sheet
YOUNGEST = 60
RANGES: dict[str, tuple] = {"age": (18, 97), "educ": (1, 5), "ses": (1, 5), "mmse": (0, 30)}
RANGES |= {"cdr": (0, 3), "etiv": (900, 2200), "nwbv": (0.5, 1), "asf": (0.5, 2)}
EXPECTED = {name: f"a number from {low} to {high}" for name, (low, high) in RANGES.items()}
EXPECTED |= {"id": "the name of a session, once", "mf": "M or F", "cdr": "0, 0.5, 1, 2 or 3"}


def run(options: argparse.Namespace) -> int:
    """Write OUT, which all chapters and `python -m memoir_book.check` read."""
    source = options.source or _fetched(options.accept_agreement)
    print(len(write(source, options.out, options.accept_agreement)), "subjects:", options.out)
    return 0


def as_download(data: str, accepted: bool) -> str:
    """Turn 'oasis', or a folder in nilearn's layout, into a download in the cache; else `data`."""
    source = _fetched(accepted) if data == "oasis" else Path(data).expanduser()
    if (sheet := sheet_in(source)) is None or (source / "ADNIMERGE.csv").exists():
        return data
    maps = [(path.name, path.stat().st_size) for path in sorted(sheet.parent.glob(MAPS))]
    out = chapters.cache_dir() / f"oasis-{digest([checksum(sheet), maps])[:12]}"
    if not (out / FILE).exists():
        write(source, out, accepted)
    return str(out)


def write(source: Path, out: Path, accepted: bool) -> pd.DataFrame:
    """Write tables, maps and dataset.json; return the rows of ADNIMERGE.csv, or CohortError."""
    if (sheet := sheet_in(source)) is None:
        raise refusal("no sheet", source, sheet=SHEET)
    if out.exists() and not (out / FILE).exists():
        raise refusal("already there", out)
    _agree(sheet.with_name("data_usage_agreement.txt"), accepted)
    kept, maps = choose(read_sheet(sheet), sheet.parent)
    name, cdr, sex = kept["id"].str[:9], kept["cdr"], kept["mf"].map({"M": "Male", "F": "Female"})
    dx = cdr.map({0: "CN", 0.5: "MCI"}).fillna("Dementia")
    rows = pd.DataFrame({"RID": name.str[5:].astype(int), "PTID": name, "VISCODE": "bl", "DX": dx})
    rows = rows.assign(AGE=kept["age"], PTGENDER=sex, MMSE=kept["mmse"], nWBV=kept["nwbv"])
    rows[["EXAMDATE", "APOE4", "CDRSB", "ADAS11", "ADAS13", "MOCA"]] = ""
    images = rows[["PTID", "VISCODE"]].assign(fa_path="")
    images["t1_path"] = [f"images/{n}_gm{''.join(maps[n].suffixes)}" for n in name]
    privacy.keep_private()
    with atomic_path(out) as new:
        (new / "images").mkdir(parents=True)
        for person, target in zip(name, images["t1_path"], strict=True):
            shutil.copyfile(maps[person], new / target)
        rows.to_csv(new / "ADNIMERGE.csv", index=False)
        images.to_csv(new / "images.csv", index=False)
        shutil.copyfile(Path(chapters.__file__).with_name("oasis.json"), new / FILE)
    return rows


def read_sheet(path: Path) -> pd.DataFrame:
    """Read the sheet, columns as nilearn names them. CohortError: points or rows have got lost."""
    text = read_text(path)
    text.columns = text.columns.str.lower().str.replace("/", "")  # M/F is mf
    if lost := [name for name in EXPECTED if name not in text]:
        raise refusal("no sheet column", path, names=", ".join(lost))
    sheet = text.assign(**{n: pd.to_numeric(text[n], errors="coerce") for n in RANGES})
    good = {n: sheet[n].between(*ends) | (text[n] == "") for n, ends in RANGES.items()}
    good |= {n: good[n] & (text[n] != "") for n in ("age", "nwbv")}
    good["id"] = text["id"].str.fullmatch(r"OAS1_\d{4}_MR[12]") & ~text["id"].duplicated()
    good["mf"] = text["mf"].isin(["M", "F"])
    good["cdr"] = sheet["cdr"].isin([*COUNTS, 3]) | (text["cdr"] == "")
    problems = []
    for at in sorted((line, name) for name, fits in good.items() for line in fits.index[~fits]):
        words = {"value": text.loc[at][:40], "expected": EXPECTED[at[1]]}
        problems.append(problem("no sheet value", path, *at, **words))
    if problems:
        raise CohortError(*problems)
    found, whole = [int((sheet["cdr"] == cdr).sum()) for cdr in COUNTS], [*COUNTS.values()]
    if len(sheet) >= sum(whole) and found != whole:  # a shorter one is an extract
        raise refusal("lost sessions", path, found=found, cdr=[*COUNTS], whole=whole)
    return sheet


def choose(sheet: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, dict[str, Path]]:
    """Say and leave out whom the book cannot use; return the rest, and the map of each subject."""
    maps = {path.parent.name[:9]: path for path in sorted(folder.glob(MAPS)) if path.is_file()}
    print(f"{SHEET}: {len(sheet)} sessions, {len(maps)} maps")
    for what, out in {
        "of a second scan": sheet["id"].str.endswith("_MR2"),
        f"of people younger than {YOUNGEST}": sheet["age"] < YOUNGEST,
        "without CDR or MMSE": sheet[["cdr", "mmse"]].isna().any(axis=1),
        "without a map (mwrc1..., DARTEL)": ~sheet["id"].str[:9].isin(maps),
    }.items():
        print(f"  left out: {out[sheet.index].sum()} sessions {what}")
        sheet = sheet[~out[sheet.index]]
    if len(sheet):
        return sheet, maps
    raise refusal("nobody left", folder)


def sheet_in(folder: Path) -> Path | None:
    """Find the sheet of a folder in nilearn's layout."""
    return next((p for p in (folder / "oasis1" / SHEET, folder / SHEET) if p.is_file()), None)


def _agree(text: Path, accepted: bool) -> None:
    """Show the agreement; CohortError where it is not accepted."""
    print(f"Who uses OASIS has to accept its data use agreement: {AGREEMENT}")
    print(text.read_text(encoding="utf-8", errors="replace") if text.exists() else "")
    if not accepted:
        raise refusal("not accepted")


def _fetched(accepted: bool) -> Path:
    if sheet_in(folder := chapters.cache_dir() / "nilearn") is None:
        _agree(folder / "none", accepted)
        try:
            from nilearn import datasets

            datasets.fetch_oasis_vbm(data_dir=folder)
        except (OSError, ValueError) as error:
            raise refusal("not fetched", "OASIS-1", why=f"no download: {error}"[:80]) from error
    return folder
