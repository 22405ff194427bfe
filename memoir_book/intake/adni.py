"""ADNI's tables and images, as LONI or Clinica leave them, made into a folder for the chapters.

It holds ADNIMERGE.csv, images.csv (which names the images where they are) and intake.json: every
choice, and all that was left out.
"""

from pathlib import Path

import pandas as pd

from memoir_core.cohort import attach_images, check_copies
from memoir_core.files import atomic_path, write_json
from memoir_core.tables import OPTIONAL, PATHS, REQUIRED, CohortError, parse, read_images

from .. import privacy
from ..messages import refusal, say
from . import oasis
from .images import DAYS, candidates, choose, of_loni, read_collection, visit_of, walk
from .tables import Said, find_tables, note, read_visits
from .text import read_text

KEYS = ["PTID", "VISCODE"]


def run(options) -> int:
    """Write OUT and print the report; or print what must be mended first, and write nothing."""
    said: Said = {}
    out, problems = options.out, []
    try:
        visits, images = convert(options.download, options.images or options.download, out, said)
    except CohortError as error:
        problems = [*error.problems]
    for what, which in said.items():
        few = ", ".join(name[-60:] for name in which[:2]) + ", ..." * (len(which) > 2)
        print(f"- {what}" + f": {len(which)} ({few})" * bool(which))
    if problems:
        print(*problems, f"{len(problems)} problems; nothing was written", sep="\n")
        return 1
    privacy.keep_private(out)
    report = [{"what": what, "count": len(which), "which": which} for what, which in said.items()]
    write_json(out / "intake.json", report)  # first: by it, `convert` knows its own tables again
    for name, table in (("ADNIMERGE.csv", visits), ("images.csv", images)):
        with atomic_path(out / name) as temporary:
            table.to_csv(temporary, index=False)
    scans = attach_images(visits, images)
    print(f"{out}: {len(visits)} visits of {visits['PTID'].nunique()} people,", end=" ")
    print(f"{scans['t1_path'].count()} with a T1, {scans['fa_path'].count()} with an FA.")
    print(f"Next: python -m memoir_book.check {out}")
    return 0


def found(folder: Path) -> str:
    """Name what this command would read in a folder, and the command; '' if there is nothing."""
    if oasis.sheet_in(folder):
        return say("holds OASIS", folder=folder)
    try:
        files = walk(folder)
        tables = [file for paths in find_tables(files, {}).values() for file in paths]
        names = [file.relative_to(folder).as_posix() for file in tables]
        names = [name for name in names if name != "ADNIMERGE.csv"]
        names += read_collection(files)["file"].unique().tolist()
    except (CohortError, OSError) as error:
        return say("mend a table", folder=folder, error=error)
    loni = candidates(folder, files)["description"].count()
    names += [f"ADNI/... as LONI unpacks it ({loni} images)"] * bool(loni)
    return say("holds ADNI", folder=folder, names=", ".join(names)) if names else ""


def read_merged(folder: Path) -> pd.DataFrame:
    """Read a folder's ADNIMERGE.csv as text; CohortError says what else lies there, and the way."""
    if not (path := folder / "ADNIMERGE.csv").exists() and (other := found(folder)):
        raise refusal("is missing", path, other=other)
    return read_text(path)


def convert(download: Path, folder: Path, out: Path, said: Said) -> tuple:
    """Make the visits and the list of images (in `folder`); `said` gets every choice.

    Raises CohortError with what must be mended first.
    """
    foreign = (out / "ADNIMERGE.csv").exists() and not (out / "intake.json").exists()
    if not download.is_dir() or out.resolve() == download.resolve() or foreign:
        raise refusal("bad folders", download, out=out)
    files = walk(download, out)
    tables = find_tables(files, said)
    if not {"ADNIMERGE", "DXSUM"} & {*tables}:
        raise refusal("no tables", download)
    visits, rows = read_visits(tables, said)
    labels = rows.dropna(subset="code").drop_duplicates(["PTID", "code"])
    collection = read_collection(files)
    said |= {say("collection", file=file): [] for file in collection["file"].unique()}
    both = collection.assign(code=collection["VISCODE"].str.lower())
    both = both.merge(labels[["PTID", "code", "VISCODE"]], on=["PTID", "code"], how="left")
    collection["VISCODE"] = both["VISCODE_y"].fillna(parse(both["code"].rename("VISCODE"))).array
    if (folder / "images.csv").exists():
        if "PTID" not in (images := read_images(read_text(folder / "images.csv"))):
            ids = [collection, candidates(download, files), visits.assign(ID=visits["IMAGEUID"])]
            images = by_id(images, pd.concat(ids), visits, said)
    else:
        images = by_name(candidates(folder, walk(folder, out)), folder, visits, collection, said)
    known = (images["PTID"] + " " + images["VISCODE"]).isin(visits["visit"])
    note(said, "visitless image", images["PTID"][~known])
    vendors = collection.assign(VISCODE=visit_of(collection, visits)).dropna(subset="MANUFACTURER")
    if "MANUFACTURER" not in images and len(vendors):
        vendors = vendors.drop_duplicates(KEYS)[[*KEYS, "MANUFACTURER"]]
        images = images.merge(vendors, on=KEYS, how="left")
    for column in PATHS:
        images[column] = images[column].map(lambda name: str((folder / name).absolute()), "ignore")
    check_copies(images, folder)
    filled = visits.dropna(axis=1, how="all").columns.intersection([*OPTIONAL])
    return visits.reindex(columns=[*REQUIRED, *filled]), images


def by_id(images: pd.DataFrame, known: pd.DataFrame, visits, said: Said) -> pd.DataFrame:
    """Give PTID and VISCODE to images that are listed by IMAGEUID, as `prepare` does."""
    rows = known.dropna(subset=["ID", "PTID"]).drop_duplicates("ID").set_index("ID")
    rows = rows.reindex(images["IMAGEUID"]).reset_index(names="ID")
    images = images.assign(PTID=rows["PTID"], VISCODE=visit_of(rows, visits))
    lost = images["VISCODE"].isna()
    note(said, "unnamed image", images["IMAGEUID"][lost], days=DAYS)
    images = images[~lost].sort_values("IMAGEUID", key=pd.to_numeric, kind="stable")
    again = images.duplicated(KEYS, keep="last")
    note(said, "images of a visit", images["IMAGEUID"][again])
    return images[~again].drop(columns="IMAGEUID")


def by_name(table: pd.DataFrame, folder: Path, visits, collection, said: Said) -> pd.DataFrame:
    """Choose the images of a tree of BIDS or CAPS, or of LONI, whose visits it looks up."""
    loni = of_loni(table[table["description"].notna()], folder, collection)
    loni["other"] = ~loni["ID"].isin(visits["IMAGEUID"].dropna())
    loni["VISCODE"] = visit_of(loni, visits)
    for key, column in (("no kind", "kind"), ("no visit near", "VISCODE")):
        note(said, key, loni["file"][loni[column].isna()], days=DAYS)
        loni = loni.dropna(subset=column)
    day = visits.set_index(KEYS)["EXAMDATE"].reindex(pd.MultiIndex.from_frame(loni[KEYS]))
    far = (loni["EXAMDATE"] - day.array).abs().dt.days > DAYS
    note(said, "image apart", loni["file"][far], days=DAYS)
    images, more = choose(pd.concat([table[table["description"].isna()], loni]), folder)
    said |= more
    return images
