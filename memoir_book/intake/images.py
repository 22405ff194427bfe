"""Find the images of a download: by images.csv, or in a BIDS tree or Clinica's CAPS."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from memoir_core.tables import CohortError, Problem, parse, read_images

from .text import read_text

GLOBS = {  # the first pattern that finds anything is used
    "t1_path": (
        "subjects/sub-*/ses-*/t1_linear/*_T1w.nii*",
        "sub-*/ses-*/t1_linear/*_T1w.nii*",
        "sub-*/ses-*/anat/*_T1w.nii*",
    ),
    "fa_path": ("subjects/sub-*/ses-*/dwi/**/*_FA*.nii*", "sub-*/ses-*/dwi/**/*_FA*.nii*"),
}


def list_images(data_dir: Path) -> pd.DataFrame:
    """Read a download's images.csv, or look for the images where there is none."""
    manifest = Path(data_dir) / "images.csv"
    return read_images(read_text(manifest)) if manifest.exists() else find_images(Path(data_dir))


def find_images(data_dir: Path) -> pd.DataFrame:
    """List the images of a BIDS or CAPS tree: PTID, VISCODE, t1_path, fa_path.

    Subject and visit come from the folders: `sub-ADNI999S9999/ses-M048` is PTID 999_S_9999
    at m48. Raises CohortError where a name holds neither, or a visit has two volumes.
    """
    problems: list[Problem] = []
    kinds = []
    for column, patterns in GLOBS.items():
        files = next((f for p in patterns if (f := sorted(data_dir.glob(p)))), [])
        table = pd.DataFrame({"file": files}, dtype=object)
        names = [file.relative_to(data_dir).parts for file in files]
        table["PTID"] = parse(_part(names, "sub-", "PTID"))
        table["VISCODE"] = parse(_part(names, "ses-", "VISCODE"))
        table[column] = pd.Series([str(Path(*parts)) for parts in names], dtype=str)
        named = table["PTID"].str.fullmatch(r"\d{3}_S_\d{4,5}").astype(bool)
        known = named & table["VISCODE"].notna()
        what = "no PTID or visit can be read from the names of its folders"
        mend = "name the folders like sub-ADNI999S9999/ses-M048, or write images.csv"
        problems += [Problem(str(file), what, mend) for file in table["file"][~known]]
        table = table[known]
        again = table["file"][table.duplicated(["PTID", "VISCODE"])]
        what = f"a second {column[:2].upper()} for one visit"
        problems += [Problem(str(f), what, "keep one, or write images.csv") for f in again]
        kinds.append(table.drop(columns="file"))
    if not len(kinds[0]) and not problems:
        what = f"there is neither images.csv nor a T1 volume at {', '.join(GLOBS['t1_path'])}"
        mend = "write images.csv with the columns PTID, VISCODE, t1_path, fa_path"
        raise CohortError(Problem(str(data_dir), what, mend))
    if problems:
        raise CohortError(*problems)
    return kinds[0].merge(kinds[1], on=["PTID", "VISCODE"], how="outer", sort=True)


def _part(names: list[tuple[str, ...]], prefix: str, column: str) -> pd.Series:
    """Take from each path the folder that begins with `prefix`, without it."""
    found = [next(part for part in parts if part.startswith(prefix)) for parts in names]
    return pd.Series([part.removeprefix(prefix) for part in found], name=column, dtype=str)
