"""Find the images of a download: images.csv, BIDS, Clinica's CAPS, or the folder of LONI."""

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd

from memoir_core.files import read_json
from memoir_core.tables import PATHS, CohortError, parse, read_images

from ..messages import problem, refusal, say
from .text import read_text

NAMES = read_json(Path(__file__).parents[1] / "adni.json")
DAYS = 90  # the longest way from a scan to the visit that it belongs to
BOX = (150, 185, 150)  # mm; MNI grids are up to 50 mm larger, scanners' hold the whole head


def list_images(data_dir: Path) -> pd.DataFrame:
    """Read images.csv, or look for images without one; CohortError: '..', wrong after a move."""
    if not (manifest := Path(data_dir) / "images.csv").exists():
        return find_images(Path(data_dir))
    listed = read_images(read_text(manifest))
    names = [name for column in PATHS for name in listed[column].dropna()]
    if out := [name for name in names if ".." in Path(name).parts]:
        raise refusal("leads out", manifest, name=out[0][:80])
    return listed


def find_images(data_dir: Path) -> pd.DataFrame:
    """List the images of a BIDS or CAPS tree: PTID, VISCODE, t1_path, fa_path; errors of `choose`.

    `sub-ADNI999S9999/ses-M048` is PTID 999_S_9999 at m48. `attrs["notes"]`: rules of the choice.
    """
    table = candidates(data_dir, walk(data_dir))
    if len(table) and table["description"].notna().all():
        raise refusal("loni tree", data_dir, n=len(table), folder=data_dir)
    found, said = choose(table[table["description"].isna()], data_dir)
    found.attrs["notes"] = [f"{what}: {len(files)} files" for what, files in said.items()]
    return found


def raw_images(raw: Path, out: Path | None = None) -> pd.DataFrame:
    """List images in native space: those of a BIDS tree's raw part, or of LONI's folders.

    Returns PTID and VISCODE, or the T1's IMAGEUID; t1_path, fa_path. Raises CohortError: no T1.
    """
    files = walk(raw, out)
    table = candidates(raw, files)
    table = table[table["native"] & ~table["file"].str.endswith("/")]  # DICOM: to be converted
    bids = table[table["file"].str.startswith("sub-")]
    loni = table[table["description"].notna()]
    table = pd.concat([bids, of_loni(loni, raw, read_collection(files))])
    t1, fa = (table[table["kind"] == kind].rename(columns={"file": kind}) for kind in PATHS)
    if t1.empty:
        raise refusal("no raw T1", raw)
    keys, day = ["PTID", "VISCODE"], ["PTID", "EXAMDATE"]
    if t1["ID"].isna().any():
        return t1[[*keys, "t1_path"]].merge(fa[[*keys, "fa_path"]], "outer", on=keys)
    fa = fa.drop_duplicates(day)[[*day, "fa_path"]]  # it has an ID of its own, of the same day
    return t1.merge(fa, "left", on=day).rename(columns={"ID": "IMAGEUID"})[["IMAGEUID", *PATHS]]


def walk(folder: Path, without: Path | None = None) -> list[Path]:
    """List the files of a tree, through links, without hidden ones and without one folder."""

    def closed(error: OSError) -> None:
        raise refusal("closed", error.filename, why=error.strerror)

    seen, found = {os.path.realpath(without)} if without else set(), []
    for root, folders, names in os.walk(folder, onerror=closed, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(f for f in folders if f[0] != ".")
        there = [] if real in seen else [Path(root, n) for n in sorted(names) if n[0] != "."]
        found += [file for file in there if file.is_file() or not file.exists()]  # no pipes
        seen.add(real)
    return found


def candidates(folder: Path, files: list[Path]) -> pd.DataFrame:
    """List what may be an image, a row each: whose it is, and ranks by what its name says.

    LONI's files have a `description`; a series of DICOM is one row, whose `file` ends with /.
    """
    names = pd.Series([file.relative_to(folder).as_posix() for file in files], dtype="str")
    slices = names[names.str.contains(r"(?i)\.(?:dcm|ima)$")].str.replace(r"[^/]*$", "", regex=True)
    names = names[names.str.contains(r"(?i)\.nii(?:\.gz)?$")]
    names = pd.concat([names, slices.drop_duplicates()], ignore_index=True)
    part = pd.DataFrame({n: names.str.extract(p)[0] for n, p in NAMES["parts of a path"].items()})
    bids, fa = part["sub"].notna(), names.str.contains(NAMES["FA by its name"])
    loni, space = ~bids & part["PTID"].notna(), part["space"].fillna("")
    space = space.mask(space.eq("") & names.str.contains("/(?:t1_linear|normalized_space)/"), "MNI")
    part["PTID"] = part.pop("sub").fillna(part["PTID"])
    table = part.assign(
        **{name: parse(part[name]) for name in ("PTID", "VISCODE", "EXAMDATE")},
        file=names,
        kind=part["kind"].mask(fa, "fa_path").replace("T1w", "t1_path"),
        description=part["description"].where(loni).str.replace("_", " "),
        native=~space.str.match("(?i)MNI|ICBM|Ixi549"),
        other=~bids,
        space=2 - space.str.match("MNI") - space.eq("MNI152NLin6Asym"),
        desc=part["desc"].map({"brain": 0, "Crop": 2}).fillna(1),
        run=-pd.to_numeric(part["run"].where(bids, part["ID"])).fillna(0),
    )
    return table[(bids & table["kind"].notna()) | loni]


def read_collection(files: list[Path]) -> pd.DataFrame:
    """Read IDA's tables of images, known by their columns: one row per image ID."""
    found = [pd.DataFrame(columns=[*NAMES["collection"], "file"], dtype="str")]
    for file in (file for file in files if file.suffix.lower() == ".csv"):
        with open(file, "rb") as handle:
            head = handle.readline(4096).replace(b"\0", b"").lower()
        if re.search(rb"image[ _](data )?id|imageuid.*orig/proc", head):
            text = read_text(file).rename(columns=str.lower).replace("", None)
            table = pd.DataFrame(index=text.index, columns=found[0].columns, dtype="str")
            for name, columns in NAMES["collection"].items():
                for column in text.columns.intersection(columns, sort=False)[:1]:
                    kind = "IMAGEUID" if name == "ID" else "" if name == "VISCODE" else name
                    table[name] = parse(text[column].rename(kind))
            found.append(table.assign(file=file.name))
    return pd.concat(found, ignore_index=True).dropna(subset=["ID", "PTID"]).drop_duplicates("ID")


def of_loni(rows: pd.DataFrame, folder: Path, collection: pd.DataFrame) -> pd.DataFrame:
    """Add to LONI's files what the collection says of their ID: label, date, kind, native or not.

    Native is what is not processed, or larger than an MNI grid: LONI's `MT1; GradWarp; N3m` is.
    """
    told, known = collection.set_index("ID").reindex(rows["ID"]), NAMES["descriptions"]
    told = told.set_axis(rows.index)
    words = told["description"].fillna(rows["description"])
    t1, fa = words.str.contains(known["t1_path"]), words.str.contains(known["fa_path"])
    kind = words.mask(t1, "t1_path").mask(fa, "fa_path").where(t1 | fa)
    raw = t1 & ~words.str.contains(known["processed"])
    raw = raw.where(told["type"].isna(), told["type"].str.match("(?i)orig"))
    raw |= kind.isna() | rows["file"].str.endswith("/")
    native = [r or not _mni_sized(folder / f) for r, f in zip(raw, rows["file"], strict=True)]
    date = pd.to_datetime(told["EXAMDATE"]).fillna(rows["EXAMDATE"])
    return rows.assign(kind=kind, native=native, EXAMDATE=date, VISCODE=told["VISCODE"])


def _mni_sized(path: Path) -> bool:
    import nibabel as nib

    try:
        header: Any = nib.load(path).header
        sizes = zip(header.get_data_shape(), header.get_zooms(), BOX, strict=False)
        return all(low <= n * zoom <= low + 50 for n, zoom, low in sizes)
    except (OSError, ValueError, EOFError, nib.filebasedimages.ImageFileError):
        return True  # `check` says why it cannot be read


def visit_of(table: pd.DataFrame, visits: pd.DataFrame) -> pd.Series:
    """Say to which visit each image belongs, (n,): PTID, ID, VISCODE (a label) and EXAMDATE.

    By IMAGEUID, else by a label that the person has, else the nearest day within `DAYS`, else NaN.
    """
    rows = table.assign(at=range(len(table)), day=pd.to_datetime(table["EXAMDATE"]))
    pairs = rows.merge(visits, on="PTID", suffixes=("_said", ""))
    days = (pairs["day"] - pairs["EXAMDATE"]).abs().dt.days.fillna(DAYS + 1)
    days = days.mask(pairs["VISCODE_said"].eq(pairs["VISCODE"]), -1)
    pairs["days"] = days.mask(pairs["ID"].eq(pairs["IMAGEUID"]), -2)
    best = pairs[pairs["days"] <= DAYS].sort_values("days").drop_duplicates("at")
    return best.set_index("at")["VISCODE"].reindex(rows["at"]).set_axis(table.index)


def choose(table: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Keep one T1 and one FA per visit, in MNI space; say what is left out, and why.

    Raises CohortError where folders name no PTID and visit, where no rule tells two files
    apart, and where no T1 in MNI space is left.
    """
    said, keys = {}, ["PTID", "VISCODE", "kind"]
    known = table["PTID"].str.fullmatch(r"\d{3}_S_\d{4,5}").astype(bool) & table["VISCODE"].notna()
    problems = [problem("no visit in a path", folder / file) for file in table["file"][~known]]
    table = table[known]
    for rank, rule in NAMES["choice of an image"].items():
        if (worse := table[rank] > table.groupby(keys)[rank].transform("min")).any():
            said[say("several files", rule=rule)] = [*table["file"][worse]]
        table = table[~worse]
    native, table = table[table["native"].astype(bool)], table[~table["native"].astype(bool)]
    if len(native):
        said[say("native", folder=folder)] = [*native["file"]]
    problems += [problem("no rule", folder / f) for f in table["file"][table.duplicated(keys)]]
    if not problems and "t1_path" not in {*table["kind"]}:
        key = "all native" if len(native) else "no T1"
        problems = [problem(key, folder, n=len(native), folder=folder)]
    if problems:
        raise CohortError(*problems)
    wide = table.set_index(keys)["file"].unstack().reindex(columns=[*PATHS])  # noqa: PD010
    return wide.reset_index().rename_axis(columns=None), said
