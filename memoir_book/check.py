"""Check a download before a run: `python -m memoir_book.check DATA`.

Lists every problem of the tables and images at once, with the mend of each, and writes the list
as CSV; then says what the book will leave out for want of data, and what of the machine would stop
the run. It names files, subjects and dates: it is for whoever holds the data.
"""

import os
import sys
from pathlib import Path

import pandas as pd
from tqdm.contrib.concurrent import thread_map

from memoir_core.cohort import build_cohort, counts, read_adnimerge
from memoir_core.config import DX, PROFILES, SCORES
from memoir_core.files import atomic_path
from memoir_core.tables import DATES, PATHS, CohortError, Problem, day_first

from . import chapters, doctor, privacy
from .dataset import LEAST, lacks, read_dataset
from .intake import content
from .intake.adni import read_merged
from .intake.images import list_images
from .messages import problem

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
        lost = {path: named.pop(path) for path in [*named] if not os.path.isfile(path)}  # noqa: PTH113
        problems += [problem("missing image", path) for path in lost]
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
            few = sizes[sizes < LEAST].items()
            problems += [problem("small class", dx=dx, n=n, least=LEAST) for dx, n in few]
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
    found = [("AGE differs", "AGE", grown.sum()), ("in the future", "EXAMDATE", late.sum())]
    found += [("below its part", "ADAS13", mean["ADAS13"] < mean["ADAS11"])]
    worse = (classes.reindex(["CN", "Dementia"]).diff().iloc[1] * [1, 1, 1, -1, -1]).items()
    found += [("worse in CN", str(name), difference < 0) for name, difference in worse]
    return [problem(key, file, "", column, n=n) for key, column, n in found if n]


def _image_problem(path: Path, kind: str) -> Problem | None:
    what, _, mend = content.fault(path, kind).rpartition("; ")
    return Problem(str(path), what, mend) if what else None


def main(arguments: list[str] | None = None) -> int:
    """Print one table of all problems; exit code 1 where there are any."""
    parser = chapters.parser_of("check", __doc__)
    options = parser.parse_args(arguments)
    privacy.keep_private()
    if not (data := options.data).is_dir():
        parser.error(f"{data} is not a folder")
    problems = check_download(data, not options.skip_images)
    listed = f"they are listed in {options.csv}"
    try:
        with atomic_path(options.csv) as temporary:
            pd.DataFrame(problems, columns=Problem._fields)[COLUMNS].to_csv(temporary, index=False)
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
    machine = [*doctor.versions(), *doctor.machine(PROFILES[options.profile], options.device)]
    for level, what, text in machine:
        if level != "ok":
            print(f"{options.profile} on this machine, {level}: {what}: {text}")
    print(f"No problem found; {found['has_fa'].sum()} of {len(found)} subjects have an FA volume.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
