"""Check a download before a run: `python -m memoir_book.check DATA`.

Lists every problem of the tables and images at once, with the mend of each, and writes
the list as CSV. Nothing in the download is changed. The list names files, subjects and dates:
it is for whoever holds the data.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from memoir_core import cohort
from memoir_core.cohort import CohortError, Problem

from .artefacts import atomic_path

COLUMNS = ["file", "line", "column", "what", "mend", "names"]


def check_download(data_dir: Path, images: bool = True, workers: int = 0) -> list[Problem]:
    """Find everything in a download that must be mended.

    Parameters
    ----------
    data_dir : folder with ADNIMERGE.csv and images.csv, or a BIDS or CAPS tree.
    images : also read every listed volume (about 20 per second and core).
    workers : processes that read; 0 takes one per core.
    """
    problems: list[Problem] = []
    visits = _collect(cohort.read_adnimerge, data_dir / "ADNIMERGE.csv", problems)
    listed = _collect(cohort.list_images, data_dir, problems)
    if listed is not None:
        problems += _check_paths(data_dir, listed)
        if images:
            problems += _check_volumes(data_dir, listed, workers)
    if visits is not None and listed is not None and not problems:
        try:
            cohort.build_cohort(data_dir, seed=0)
        except CohortError as error:  # what only shows when the tables meet
            problems.append(_as_problem(error, data_dir))
    return problems


def _collect(read, path: Path, problems: list[Problem]) -> pd.DataFrame | None:
    try:
        return read(path, problems.append)
    except CohortError as error:  # nothing of this table can be read
        problems.append(_as_problem(error, path))
        return None


def _as_problem(error: CohortError, path: Path) -> Problem:
    if isinstance(error.problem, Problem):
        return error.problem
    return Problem(str(path), "", "", str(error), "drop one of the two")


def _files(data_dir: Path, listed: pd.DataFrame) -> list[Path]:
    names = [name for column in ("t1_path", "fa_path") for name in listed[column].dropna()]
    return [data_dir / name for name in dict.fromkeys(names)]


def _check_paths(data_dir: Path, listed: pd.DataFrame) -> list[Problem]:
    return [
        Problem(str(path), "", "", "is missing", "download it, or empty its path in images.csv")
        for path in _files(data_dir, listed)
        if not path.exists()
    ]


def _check_volumes(data_dir: Path, listed: pd.DataFrame, workers: int) -> list[Problem]:
    from tqdm import tqdm

    paths = [str(path) for path in _files(data_dir, listed) if path.exists()]
    bar = partial(tqdm, total=len(paths), desc="reading volumes", unit="file", mininterval=2)
    if workers == 1 or len(paths) < 100:  # a process takes longer to start than to read these
        return [problem for problem in bar(map(_volume_problem, paths)) if problem is not None]
    with ProcessPoolExecutor(workers or None, get_context("spawn")) as pool:
        found = pool.map(_volume_problem, paths, chunksize=8)
        return [problem for problem in bar(found) if problem is not None]


def _volume_problem(path: str) -> Problem | None:
    from memoir_core.volumes import VolumeError, read_volume

    try:
        read_volume(path)
    except VolumeError as error:
        what, _, mend = str(error).removeprefix(path).strip().rpartition("; ")
        return Problem(path, "", "", what, mend)
    return None


def _place(problem: Problem) -> str:
    parts = [Path(problem.file).name]
    parts += [f"line {problem.line}"] * bool(problem.line)
    return ", ".join([*parts, problem.column] if problem.column else parts)


def main(arguments: list[str] | None = None) -> int:
    """Print one table of all problems; exit code 1 where there are any."""
    parser = argparse.ArgumentParser(
        prog="python -m memoir_book.check",
        description="Check an ADNI download: tables, images, and the cohort that follows.",
    )
    parser.add_argument("data", type=Path, help="folder with ADNIMERGE.csv and images")
    parser.add_argument(
        "--csv", type=Path, default=Path("problems.csv"), help="where to write the list"
    )
    parser.add_argument("--skip-images", action="store_true", help="check the tables only")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"{options.data} is not a folder")
    problems = check_download(options.data, not options.skip_images, options.workers)
    table = pd.DataFrame([asdict(problem) for problem in problems], columns=COLUMNS)
    with atomic_path(options.csv) as temporary:
        table.to_csv(temporary, index=False)
    if problems:
        places = [_place(problem) for problem in problems]
        width = max(map(len, places))
        for place, problem in zip(places, problems, strict=True):
            names = f" ({problem.names})" if problem.names else ""
            print(f"{place:<{width}}  {problem.what}{names}; {problem.mend}")
        print(f"{len(problems)} problems; the list with full paths is in {options.csv}")
        return 1
    found, _ = cohort.build_cohort(options.data, seed=0, check_images=not options.skip_images)
    print(cohort.counts(found).to_string())
    with_fa = int(found["has_fa"].sum())
    print(f"No problem found; {with_fa} of {len(found)} subjects have an FA volume.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
