"""Check a download before a run: `python -m memoir_book.check DATA`.

Lists every problem of the tables and images at once, with the mend of each, and writes
the list as CSV. Nothing in the download is changed. The list names files, subjects and dates:
it is for whoever holds the data.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from memoir_core.cohort import build_cohort, counts, read_adnimerge
from memoir_core.files import atomic_path
from memoir_core.tables import PATHS, CohortError, Problem
from memoir_core.volumes import VolumeError, read_volume

from .intake import list_images

COLUMNS = ["file", "line", "column", "what", "mend"]


def check_download(data_dir: Path, images: bool = True, workers: int = 0) -> list[Problem]:
    """Find everything that must be mended in a folder with ADNIMERGE.csv and images.

    `images` also reads every listed volume (about 20 per second and core).
    """
    problems: list[Problem] = []
    tables = []
    for read, path in ((read_adnimerge, data_dir / "ADNIMERGE.csv"), (list_images, data_dir)):
        try:
            tables.append(read(path))
        except CohortError as error:
            problems += error.problems
    for listed in tables:
        names = [name for column in PATHS if column in listed for name in listed[column].dropna()]
        paths = [data_dir / name for name in dict.fromkeys(names)]
        there = [path for path in paths if path.exists()]
        mend = "download it, or empty its path in images.csv"
        problems += [Problem(str(p), "is missing", mend) for p in paths if p not in {*there}]
        problems += check_volumes(there, workers) if images else []
    if not problems:
        try:
            build_cohort(tables[0], tables[1], data_dir, seed=0)
        except CohortError as error:  # what only shows when the tables meet
            problems += error.problems
    return problems


def check_volumes(paths: list[Path], workers: int = 0) -> list[Problem]:
    """Read volumes, and list those that cannot be used."""
    bar = partial(tqdm, total=len(paths), desc="reading volumes", unit="file", mininterval=2)
    if workers == 1 or len(paths) < 100:  # a process takes longer to start than to read these
        return [problem for problem in bar(map(_volume_problem, paths)) if problem]
    with ProcessPoolExecutor(workers or None, get_context("spawn")) as pool:
        return [p for p in bar(pool.map(_volume_problem, paths, chunksize=8)) if p]


def _volume_problem(path: Path) -> Problem | None:
    try:
        read_volume(path)
    except VolumeError as error:
        what, _, mend = str(error).removeprefix(str(path)).strip().rpartition("; ")
        return Problem(str(path), what, mend)
    return None


def main(arguments: list[str] | None = None) -> int:
    """Print one table of all problems; exit code 1 where there are any."""
    parser = argparse.ArgumentParser(prog="python -m memoir_book.check", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with ADNIMERGE.csv and images")
    parser.add_argument("--csv", type=Path, default=Path("problems.csv"), help="write it here")
    parser.add_argument("--skip-images", action="store_true", help="check the tables only")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core")
    options = parser.parse_args(arguments)
    data = options.data
    if not data.is_dir():
        parser.error(f"{data} is not a folder")
    problems = check_download(data, not options.skip_images, options.workers)
    table = pd.DataFrame([problem._asdict() for problem in problems], columns=COLUMNS)
    with atomic_path(options.csv) as temporary:
        table.to_csv(temporary, index=False)
    for problem in problems:
        print(problem)
    if problems:
        print(f"{len(problems)} problems; they are listed in {options.csv}")
        return 1
    found, _ = build_cohort(read_adnimerge(data / "ADNIMERGE.csv"), list_images(data), None, seed=0)
    print(counts(found).to_string())
    with_fa = int(found["has_fa"].sum())
    print(f"No problem found; {with_fa} of {len(found)} subjects have an FA volume.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
