"""ADNI's tables and images, as LONI or Clinica leave them, made into a folder for the chapters.

It will hold ADNIMERGE.csv, images.csv, and in intake.json every choice and all that is left out.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from memoir_core.cohort import attach_images
from memoir_core.files import atomic_path, checksum, write_json
from memoir_core.tables import (
    OPTIONAL,
    PATHS,
    REQUIRED,
    CohortError,
    Problem,
    parse,
    read_images,
    read_text,
)

from .images import candidates, choose, walk
from .loni import DAYS, of_loni, read_collection, visit_of
from .tables import Said, find_tables, join, note, tidy


def add_arguments(parser) -> None:
    parser.add_argument("download", type=Path, help="folder with ADNI's tables, at any depth")
    parser.add_argument("out", type=Path, help="folder to write, which the chapters then read")
    parser.add_argument("--images", type=Path, help="folder with the images, if it is another")
    what = "copy the images to OUT; else images.csv names them where they are"
    parser.add_argument("--copy", action="store_true", help=what)


def run(options) -> int:
    """Write OUT, or say what must be mended first and write nothing (exit code 1)."""
    said: Said = {}
    try:
        visits, images = convert(options, said)
    except CohortError as error:
        tell(said)
        print(*error.problems, f"Nothing was written: {len(error.problems)} problems", sep="\n")
        return 1
    write(options.out, visits, images, said, options.copy)
    tell(said)
    scans = attach_images(visits, images)
    print(f"{options.out}: {len(visits)} visits of {visits['PTID'].nunique()} people,", end=" ")
    print(f"{scans['t1_path'].count()} of them with a T1, {scans['fa_path'].count()} with an FA.")
    print(f"Next: python -m memoir_book.check {options.out}")
    return 0


def tell(said: Said) -> None:
    """Print the report, with three examples each."""
    for what, which in said.items():
        more = ", ..." if len(which) > 3 else ""
        print(f"- {what}" + (f": {len(which)} ({', '.join(which[:3])}{more})" if which else ""))


def found(folder: Path) -> str:
    """Name what a folder holds that this command understands, and the command; '' if nothing."""
    files, names = walk(folder), []
    try:
        for file in (file for files in find_tables(files, {}).values() for file in files):
            plain = file == folder / "ADNIMERGE.csv"
            columns = {*read_text(file)} if plain else set()
            names += ["VISCODE2 in ADNIMERGE.csv"] * ("VISCODE2" in columns)
            names += ["DIAGNOSIS (1 = CN, 2 = MCI, 3 = Dementia)"] * ("DIAGNOSIS" in columns)
            names += [file.relative_to(folder).as_posix()] * (not plain)
        names += read_collection(files)["file"].unique().tolist()
    except CohortError as error:
        names.append(f"a table that must be mended ({error})")
    loni = candidates(folder, files)["description"].count()
    names += [f"ADNI/... as LONI unpacks it ({loni} images)"] * bool(loni)
    command = f"`python -m memoir_book.intake adni {folder} OUT` makes of it a folder to read"
    return f"{folder} holds {', '.join(names)}; {command}" if names else ""


def convert(options, said: Said) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the visits and the list of images; `said` gets every choice. Writes nothing.

    Raises CohortError with all that must be mended first.
    """
    download, out = options.download, options.out
    for bad, folder, what, mend in (
        (not download.is_dir(), download, "is no folder", "name the one with ADNI's tables"),
        (_same(download, out), out, "is the download itself", "name another folder"),
        (_foreign(out), out, "holds tables that this command did not write", "name another folder"),
    ):
        if bad:
            raise CohortError(Problem(str(folder), what, mend))
    files, problems = walk(download, out), []
    tables, rows = find_tables(files, said), []
    for table, paths in tables.items():
        for path in paths:
            rows.append(tidy(path, table, problems, said))
            said.setdefault(f"{path}: {len(rows[-1])} rows", [])
    if not {"ADNIMERGE", "DXSUM"} & {*tables}:
        what = "holds neither ADNIMERGE nor DXSUM, as CSV, dated or not"
        mend = "download ADNIMERGE, or for ADNI4 DXSUM, CDR, MMSE, MOCA, ADAS, APOERES and PTDEMOG"
        problems.append(Problem(str(download), what, mend))
    if problems:
        raise CohortError(*problems)
    visits, labels = join(pd.concat(rows, ignore_index=True), said)
    images = _images(options.images or download, visits, labels, read_collection(files), said)
    if problems := _problems(attach_images(visits, images)):
        raise CohortError(*problems)
    return visits, images


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _foreign(out: Path) -> bool:
    return (out / "ADNIMERGE.csv").exists() and not (out / "intake.json").exists()


def _images(folder: Path, visits, labels, collection, said: Said) -> pd.DataFrame:
    """List the images, by images.csv or by their names, with whole paths."""
    keys = ["PTID", "VISCODE"]
    label = collection["VISCODE"].astype("str").str.lower().rename("VISCODE")
    told = labels.reindex(pd.MultiIndex.from_arrays([collection["PTID"], label]))
    collection["VISCODE"] = told.set_axis(collection.index).fillna(parse(label))
    if (folder / "images.csv").exists():
        images = read_images(folder / "images.csv")
    else:
        table = candidates(folder, walk(folder))
        loni = of_loni(table[table["description"].notna()], folder, collection)
        note(said, "neither a T1 nor an FA by its description", loni["file"][loni["kind"] == ""])
        loni = loni[loni["kind"] != ""]
        loni["VISCODE"] = visit_of(loni, visits)
        lost = loni["VISCODE"].isna()
        note(said, f"no visit of the person within {DAYS} days of the image", loni["file"][lost])
        loni["other"] = ~loni["ID"].isin(visits["IMAGEUID"].dropna())
        both = pd.concat([table[table["description"].isna()], loni[~lost]])
        images, more = choose(both, folder)
        said |= more
    if "PTID" in images:
        known = pd.MultiIndex.from_frame(images[keys]).isin(pd.MultiIndex.from_frame(visits[keys]))
        which = images.loc[~known, "PTID"] + " " + images.loc[~known, "VISCODE"]
        note(said, "images of a visit that is not in the tables", which)
    scanners = collection.assign(VISCODE=visit_of(collection, visits)).dropna(subset="MANUFACTURER")
    if len(scanners) and "MANUFACTURER" not in images and "PTID" in images:
        one = scanners.groupby(keys)["MANUFACTURER"].agg(
            lambda a: a.iloc[0] if len({*a}) == 1 else None
        )
        images = images.merge(one.reset_index(), on=keys, how="left")
    for column in PATHS:
        images[column] = images[column].map(lambda name: str((folder / name).absolute()), "ignore")
    return images


def _problems(scans: pd.DataFrame) -> list[Problem]:
    """Find images that are missing, and the same content under two people; by size first."""
    problems = []
    for column in PATHS:
        table = scans.dropna(subset=column).drop_duplicates(column)
        table = table.assign(path=table[column].map(Path))
        there = table["path"].map(Path.is_file)
        mend = "download it, or empty its path in images.csv"
        problems += [Problem(str(path), "is missing", mend) for path in table["path"][~there]]
        table = table[there]
        table = table[table["path"].map(lambda path: path.stat().st_size).duplicated(keep=False)]
        table["content"] = thread_map(checksum, table["path"], desc="comparing", mininterval=2)
        for _, same in table.groupby("content"):
            if same["PTID"].nunique() > 1:
                (one, other), (path, twin) = same["PTID"].unique()[:2], same["path"][:2]
                what = f"of {other} has the same content as {path} of {one}"
                problems.append(Problem(str(twin), what, "find out whose it is; drop the other's"))
    return problems


def write(out: Path, visits: pd.DataFrame, images: pd.DataFrame, said: Said, copy: bool) -> None:
    """Write the folder; `copy` puts the images beside the tables, with paths relative to OUT."""
    if copy:
        for column in PATHS:
            for row, path in tqdm(images[column].dropna().items(), desc=column, mininterval=2):
                name = f"images/{row:05d}_{column[:2].upper()}{''.join(Path(path).suffixes[-2:])}"
                with atomic_path(out / name) as temporary:
                    shutil.copyfile(path, temporary)
                images.loc[row, column] = name
    filled = visits.dropna(axis=1, how="all").columns.intersection(OPTIONAL)
    visits = visits.reindex(columns=[*REQUIRED, *filled])
    for name, table in (("ADNIMERGE.csv", visits), ("images.csv", images)):
        with atomic_path(out / name) as temporary:
            table.to_csv(temporary, index=False)
    report = [{"what": what, "count": len(which), "which": which} for what, which in said.items()]
    write_json(out / "intake.json", report)
