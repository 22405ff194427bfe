"""Find the images of a download: images.csv, BIDS, Clinica's CAPS, or the folder of LONI."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import pandas as pd

from memoir_core.tables import PATHS, CohortError, Problem, parse, read_images

from .loni import PTID, RULES, by_loni
from .text import read_text

PATTERNS = "subjects/sub-*/ses-*/t1_linear/*_T1w.nii.gz or sub-*/ses-*/anat/*_space-MNI*_T1w.nii.gz"
REGISTER = "run `python -m memoir_book.intake prepare RAW OUT`, which registers it"
REGISTER += ", or list it in images.csv if it is in MNI space although its name does not say so"


def list_images(data_dir: Path) -> pd.DataFrame:
    """Read a download's images.csv, or look for the images where there is none."""
    manifest = Path(data_dir) / "images.csv"
    return read_images(read_text(manifest)) if manifest.exists() else find_images(Path(data_dir))


def find_images(data_dir: Path) -> pd.DataFrame:
    """List the images of a BIDS or CAPS tree: PTID, VISCODE, t1_path, fa_path.

    Subject and visit come from the folders: `sub-ADNI999S9999/ses-M048` is PTID 999_S_9999
    at m48. Of several files the one that `RULES` names is taken; `attrs["notes"]` says of how
    many. Raises CohortError where no T1 in MNI space is left, and as `choose`.
    """
    table = candidates(Path(data_dir), walk(Path(data_dir)))
    if len(table) and table["description"].notna().all():
        what = f"there is no images.csv, but ADNI/.../ as LONI unpacks it ({len(table)} files)"
        mend = f"run `python -m memoir_book.intake adni {data_dir} OUT` and use OUT"
        raise CohortError(Problem(str(data_dir), what, mend))
    found, said = choose(table[table["description"].isna()], Path(data_dir))
    found.attrs["notes"] = [f"{what}: {len(which)} files" for what, which in said.items()]
    return found


def walk(folder: Path, without: Path | None = None) -> list[Path]:
    """List the files of a tree, through links, without hidden ones and without one folder."""
    seen, found = {os.path.realpath(without)} if without else set(), []
    for root, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root) / name for name in sorted(names) if not name.startswith(".")]
    return found


def candidates(folder: Path, files: list[Path]) -> pd.DataFrame:
    """List what may be an image, one row per file: whose it is and what its name says of it.

    Rows of LONI's folder have a `description`, those of BIDS and CAPS have none.
    """
    names = [PurePosixPath(file.relative_to(folder).as_posix()) for file in files]
    slices = {str(name.parent) for name in names if name.suffix.lower() in (".dcm", ".ima")}
    names = [name for name in names if re.search(r"(?i)\.nii(\.gz)?$", name.name)]
    rows = [row for name in names if (row := _bids(name) or by_loni(name))]
    rows += [
        row | {"kind": "DICOM"} for name in sorted(slices) if (row := by_loni(Path(name, "-")))
    ]
    columns = ["file", "PTID", "VISCODE", "kind", "description", "ID", "EXAMDATE", *RULES]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(VISCODE=parse(table["VISCODE"].astype(str).rename("VISCODE")))


def _bids(name: PurePosixPath) -> dict | None:
    """Understand `sub-X/ses-Y/.../sub-X_ses-Y_space-Z_desc-W_T1w.nii.gz`; None if it is none."""
    words = [*re.sub(r"(?i)\.nii(\.gz)?$", "", name.name).split("_")]
    said = {key: value for word in words for key, _, value in [word.partition("-")] if value}
    said |= {k: v for part in name.parts[:-1] for k, _, v in [part.partition("-")] if v}
    fa = words[-1] == "FA" or said.get("param", "").upper() == "FA"
    if "sub" not in said or not (fa or words[-1] == "T1w"):
        return None
    space, run = said.get("space", ""), re.sub(r"\D", "", said.get("run", ""))
    clinica = not space and {"t1_linear", "normalized_space"} & {*name.parts}
    mni = bool(re.match(r"(?i)MNI|ICBM|Ixi549", space)) or bool(clinica)
    ranks = {"native": not mni, "other": 0, "run": -int(run or 0)}
    ranks |= {"space": 2 - space.startswith("MNI") - (space == "MNI152NLin6Asym")}
    ranks |= {"desc": {"brain": 0, "Crop": 2}.get(said.get("desc", ""), 1)}
    ranks |= {"grid": said.get("res", "") not in ("2", "02", "2x2x2")}
    whose = {"PTID": said["sub"], "VISCODE": said.get("ses")}
    return {"file": str(name), "kind": PATHS[fa], **whose, **ranks}


def choose(table: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Keep one T1 and one FA file per visit by `RULES`; say which are left out, and why.

    Raises CohortError where the names hold no PTID and visit, where no rule tells two files
    apart, and where no T1 in MNI space is left.
    """
    table, said = table.assign(PTID=parse(table["PTID"].astype(str))), {}
    known = table["PTID"].str.fullmatch(PTID).astype(bool) & table["VISCODE"].notna()
    what = "no PTID or visit can be read from the names of its folders"
    mend = "name the folders like sub-ADNI999S9999/ses-M048, or write images.csv"
    problems = [Problem(str(folder / file), what, mend) for file in table["file"][~known]]
    keys, table = ["PTID", "VISCODE", "kind"], table[known]
    for rank, rule in RULES.items():
        worse = table[rank] > table.groupby(keys)[rank].transform("min")
        if worse.any():
            said[f"several files for one visit; taken: {rule}; left out"] = [*table["file"][worse]]
        table = table[~worse]
    if (native := table["native"].astype(bool)).any():
        said[f"in native space, to use it: {REGISTER}; left out"] = [*table["file"][native]]
    table = table[~native]
    what, mend = (
        "a second file for one visit, and no rule to choose",
        "keep one, or write images.csv",
    )
    again = table["file"][table.duplicated(keys)]
    problems += [Problem(str(folder / file), what, mend) for file in again]
    if not problems and not (table["kind"] == "t1_path").any():
        what = f"there is neither images.csv nor a T1 volume at {PATTERNS}"
        mend = "write images.csv with the columns PTID, VISCODE, t1_path, fa_path"
        if native.any():
            what, mend = f"all {native.sum()} files are in native space", REGISTER
        problems = [Problem(str(folder), what, mend)]
    if problems:
        raise CohortError(*problems)
    wide = table.pivot(index=keys[:2], columns="kind", values="file").reindex(columns=[*PATHS])
    return wide.reset_index().rename_axis(columns=None), said
