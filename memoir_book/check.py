"""Check a download before a run: `python -m memoir_book.check DATA`.

Lists every problem of the tables and images at once, with the mend of each, and writes the list
as CSV; then says what the book will leave out for want of data, and what of the machine would stop
the run. It names files, subjects and dates: it is for whoever holds the data.
"""

import argparse
import os
import sys
from pathlib import Path

import pandas as pd
from tqdm.contrib.concurrent import thread_map

from memoir_core.cohort import build_cohort, counts, read_adnimerge
from memoir_core.config import DX, PROFILES, SCORES
from memoir_core.files import atomic_path
from memoir_core.tables import DATES, PATHS, CohortError, Problem, day_first

from . import doctor, privacy
from .dataset import read_dataset
from .intake import content, lacks, list_images, read_merged
from .intake.needs import LEAST

COLUMNS = ["file", "line", "column", "what", "mend"]


def check_download(data_dir: Path, images: bool = True) -> list[Problem]:
    """Find everything that must be mended in a folder with ADNIMERGE.csv and images.

    `images` also reads every listed volume and looks at it (about 10 per second and core).
    """
    problems: list[Problem] = []
    tables = []
    for read in (read_visits, list_images):
        try:
            tables.append(read(data_dir))
        except CohortError as error:
            problems += error.problems
    for listed in tables:
        kinds = dict(zip(PATHS, (read_dataset(data_dir).kind, "fa"), strict=True))
        pairs = [(n, k) for c, k in kinds.items() if c in listed for n in listed[c].dropna()]
        named = {data_dir / name: kind for name, kind in pairs}
        mend = "download it, or empty its path in images.csv"
        lost = {path: named.pop(path) for path in [*named] if not os.path.isfile(path)}  # noqa: PTH113
        problems += [Problem(str(p), "is missing, or no regular file", mend) for p in lost]
        if images:
            for name in ("template", "brain_mask", *content.LIKE.values()):
                content.template(name)  # once, and not in every thread
            bar = {"desc": "looking at images", "mininterval": 2}
            problems += filter(None, thread_map(_image_problem, named, named.values(), **bar))
    try:
        if not problems:  # what only shows when the tables meet
            problems += doubts(tables[0], str(data_dir / "ADNIMERGE.csv"))
            cohort, _ = build_cohort(tables[0], tables[1], data_dir, seed=0)
            sizes = cohort["DX"].value_counts().reindex(DX, fill_value=0)
            mend = f"training needs {LEAST} at least: take more people into the download"
            few = sizes[sizes < LEAST].items()
            problems += [Problem("", f"class {dx} has {n} subjects", mend) for dx, n in few]
    except CohortError as error:
        problems += error.problems
    return problems


def read_visits(data_dir: Path) -> pd.DataFrame:
    """Read a download's ADNIMERGE.csv, and say how dates were understood where that was judged."""
    text = read_merged(data_dir)
    for column in text.columns.intersection([*DATES]):
        if day_first(text[column]):
            print(f"ADNIMERGE.csv, {column}: read with the day first, as numbers above 12 show")
    return read_adnimerge(text)


def doubts(visits: pd.DataFrame, file: str) -> list[Problem]:
    """Find what is well formed and yet wrong, by what the columns of ADNIMERGE say together."""
    grown = (visits.groupby("PTID")["AGE"].transform("max") - visits["AGE"]) > 0.5
    late = visits["EXAMDATE"] > pd.Timestamp.now() + pd.Timedelta("1D")
    mean, classes = visits[list(SCORES)].mean(), visits.groupby("DX")[list(SCORES)].mean()
    reckon = "it must be that at baseline; `python -m memoir_book.intake adni` reckons it back"
    exchanged = "look whether columns, or the numbers of the classes, are exchanged"
    found = [
        (grown.any(), "AGE", f"differs between the rows of a person ({grown.sum()} rows)", reckon),
        (late.any(), "EXAMDATE", f"lies in the future ({late.sum()} rows)", "look how it is told"),
        (mean["ADAS13"] < mean["ADAS11"], "ADAS13", "is below ADAS11, a part of it", exchanged),
    ]
    worse = (classes.reindex(["CN", "Dementia"]).diff().iloc[1] * [1, 1, 1, -1, -1]).items()
    found += [(d < 0, str(name), "is worse in CN than in Dementia", exchanged) for name, d in worse]
    return [Problem(file, what, mend, "", column) for wrong, column, what, mend in found if wrong]


def _image_problem(path: Path, kind: str) -> Problem | None:
    what, _, mend = content.fault(path, kind).rpartition("; ")
    return Problem(str(path), what, mend) if what else None


def main(arguments: list[str] | None = None) -> int:
    """Print one table of all problems; exit code 1 where there are any."""
    parser = argparse.ArgumentParser(prog="python -m memoir_book.check", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with ADNIMERGE.csv and images")
    parser.add_argument("--csv", type=Path, default=Path("problems.csv"), help="write it here")
    parser.add_argument("--skip-images", action="store_true", help="check the tables only")
    parser.add_argument("--profile", default="quick", choices=tuple(PROFILES), help="of the run")
    parser.add_argument("--device", default="auto", help="of the run: auto, cpu or cuda")
    options = parser.parse_args(arguments)
    privacy.keep_private()
    data = options.data
    if not data.is_dir():
        parser.error(f"{data} is not a folder")
    problems = check_download(data, not options.skip_images)
    listed = f"they are listed in {options.csv}"
    try:
        with atomic_path(options.csv) as temporary:
            table = pd.DataFrame(problems, columns=Problem._fields)
            table[COLUMNS].to_csv(temporary, index=False)
    except OSError as error:
        listed = f"{options.csv} could not be written ({error.strerror}); name another with --csv"
    if problems:
        print(*problems, sep="\n")
        print(f"{len(problems)} problems; {listed}")
        return 1
    images = list_images(data)
    found, _ = build_cohort(read_adnimerge(read_merged(data)), images, None, seed=0)
    print(counts(found).to_string())
    print(*images.attrs.get("notes", ()), *lacks(found), sep="\n")
    with_fa = found["has_fa"].sum()
    machine = [*doctor.versions(), *doctor.machine(PROFILES[options.profile], options.device)]
    for level, what, text in machine:
        if level != "ok":
            print(f"{options.profile} on this machine, {level}: {what}: {text}")
    print(f"No problem found; {with_fa} of {len(found)} subjects have an FA volume.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
