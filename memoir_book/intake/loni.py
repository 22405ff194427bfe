"""The folder that LONI unpacks, `ADNI/PTID/Description/date/I123/*.nii`, and IDA's collections."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from memoir_core.tables import parse, read_text

from .tables import NAMES

PTID = r"\d{3}_S_\d{4,5}"
RULES = {  # in this order; the smaller number stays
    "native": "a file in MNI space, not one in native space",
    "other": "the image that ADNIMERGE names by IMAGEUID",
    "space": "MNI152NLin6Asym (the 2 mm grid), then another MNI space, then another template",
    "desc": "desc-brain, then an uncropped file, then desc-Crop",
    "grid": "a 2 mm grid (res-2)",
    "run": "the latest run, of LONI's files the highest image ID",
}
T1, FA = r"(?i)MP.?RAGE|\bMPR\b|SPGR|\bMT1\b|\bT1", r"(?i)\bFA\b|fractional.?anisotropy"
DONE = r"(?i)\bN3m?\b|Grad.?Warp|\bB1\b|Scaled|Normali[sz]ed|Mask|\bMNI|Regist|Linear"
DAYS = 90  # the longest way from a scan to the visit that it belongs to


def by_loni(name: PurePosixPath | Path) -> dict | None:
    """Understand `ADNI/PTID/Description/2013-01-10_09_00_00.0/I123/*.nii`; None if it is none."""
    folders = list(name.parts[:-1])
    at = next((n for n, part in enumerate(folders) if re.fullmatch(PTID, part)), None)
    if at is None or at + 1 == len(folders):
        return None
    image = re.search(r"(?:/|_)I(\d+)(?:\.nii(?:\.gz)?)?(?:/|$)", name.as_posix())
    day = re.search(r"/(\d{4}-\d\d-\d\d)_", name.as_posix())
    said = {"ID": image and image[1], "EXAMDATE": day and day[1], "VISCODE": None}
    ranks = dict.fromkeys(RULES, 0) | {"space": 2, "desc": 1, "run": -int(image[1] if image else 0)}
    described = folders[at + 1].replace("_", " ")
    return {"file": name.as_posix(), "PTID": folders[at], "description": described, **said, **ranks}


def read_collection(files: list[Path]) -> pd.DataFrame:
    """Read IDA's tables of images, known by their columns (adni.json)."""
    found = [pd.DataFrame(columns=[*NAMES["collection"], "file"], dtype="str")]
    for file in files:
        if file.suffix.lower() != ".csv":
            continue
        with open(file, "rb") as handle:
            head = handle.read(4096).replace(b"\0", b"").lower()
        if re.search(rb"image[ _](data )?id", head.splitlines()[0] if head else b""):
            text = read_text(file).rename(columns=str.lower)
            names = {
                k: next((n for n in v if n in text), None) for k, v in NAMES["collection"].items()
            }
            table = text[[n for n in names.values() if n]].copy()
            table.columns = [name for name, n in names.items() if n]
            if {"ID", "PTID"} <= {*table}:
                table["ID"] = table["ID"].str.upper().str.removeprefix("I")
                for name in table.columns.intersection(["PTID", "EXAMDATE", "MANUFACTURER"]):
                    table[name] = parse(table[name])
                found.append(table.assign(file=file.name))
    return pd.concat(found, ignore_index=True).drop_duplicates("ID")


def visit_of(table: pd.DataFrame, visits: pd.DataFrame) -> pd.Series:
    """Say to which visit each image belongs: PTID, ID, VISCODE (a label), EXAMDATE, (n,) each.

    By IMAGEUID, else the label where the person has such a visit, else the nearest exam date
    within `DAYS`; NaN where there is none.
    """
    rows = table.assign(at=range(len(table)), day=pd.to_datetime(table["EXAMDATE"]))
    pairs = rows.merge(visits, on="PTID", suffixes=("_said", ""))
    uid = pairs["ID"].eq(pairs["IMAGEUID"])
    days = (pairs["day"] - pairs["EXAMDATE"]).abs().dt.days
    label = pairs["VISCODE_said"].eq(pairs["VISCODE"])
    pairs = pairs.assign(way=days.fillna(DAYS + 1).mask(label, -1).mask(uid, -2))
    best = pairs[pairs["way"] <= DAYS].sort_values("way").drop_duplicates("at")
    return best.set_index("at")["VISCODE"].reindex(rows["at"]).set_axis(table.index)


def of_loni(rows: pd.DataFrame, folder: Path, collection: pd.DataFrame) -> pd.DataFrame:
    """Add to LONI's files what the collection says of their ID: label, date, kind, native or not.

    Without one, description and date are those of the folders. Native is what is not processed,
    and what does not have the size of an MNI grid: LONI's `MT1; GradWarp; N3m` is in native space.
    """
    told = collection.set_index("ID").reindex(rows["ID"]).set_index(rows.index)
    kind = told["description"].fillna(rows["description"])
    t1, fa = kind.str.contains(T1), kind.str.contains(FA)
    original = told["type"].str.lower().str.startswith("orig")
    raw = original.where(told["type"].notna(), t1 & ~kind.str.contains(DONE)).astype(bool)
    named = pd.Series("", rows.index).mask(t1, "t1_path").mask(fa, "fa_path")
    wanted = (rows["kind"] != "DICOM") & (t1 | fa) & ~raw
    small = rows["file"].where(wanted).map(lambda file: _mni_sized(folder / file), "ignore")
    days = told["EXAMDATE"].fillna(parse(rows["EXAMDATE"].astype("str")))
    rows = rows.assign(kind=named, EXAMDATE=days, VISCODE=told["VISCODE"])
    return rows.assign(native=~small.fillna(False).astype(bool), description=kind)


def _mni_sized(path: Path) -> bool:
    """Is the box of a file as large as an MNI grid's? Scanners' boxes hold the whole head."""
    import nibabel as nib

    try:
        header = nib.load(path).header
        box = [
            n * zoom for n, zoom in zip(header.get_data_shape(), header.get_zooms(), strict=True)
        ]
    except (OSError, ValueError, EOFError, nib.filebasedimages.ImageFileError):
        return True  # `check` says why it cannot be read
    return all(low <= size <= low + 50 for size, low in zip(box, (150, 185, 150), strict=False))
