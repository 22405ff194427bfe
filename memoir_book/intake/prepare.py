"""T1 and FA as they come from the scanner, put on the 2 mm MNI grid by nine degrees of freedom.

T1: brain extraction (deepbet), bias field (N4), registration to the MNI template by 3 shifts,
3 turns and 3 scales, and nothing else (ITK). FA: the same registration, to the template's white
matter, or the T1's own where the file's name says space-T1w. What is done is not done again.
"""

import importlib.util
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from memoir_core import files
from memoir_core.tables import PATHS, CohortError, read_images
from memoir_core.volumes import VolumeError

from .. import privacy, published
from ..messages import problem, refusal, say
from . import content, register
from .images import raw_images
from .text import read_text

PACKAGES = ("SimpleITK", "deepbet")
LEAST = 0.4  # correlation with the template inside its brain; 8 mm or 10 degrees off have less


def run(options: Any) -> int:
    """Prepare a folder; exit code 1 where an image failed, 130 where the user stopped it."""
    raw, out = options.raw.resolve(), options.out.resolve()
    if lacking := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise refusal("prepare lacks", names=" and ".join(lacking))
    if raw == out or options.workers < 1:
        raise refusal("OUT is RAW", out)
    table = list_raw(raw, out)
    privacy.keep_private(out)
    try:
        with FileLock(out / ".lock", timeout=0):
            done = _prepare_all(raw, out, table, options.workers, options.stripped)
            return _write_lists(raw, out, table, done)
    except Timeout:
        print(f"another process is writing {out}; wait for it", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130


def list_raw(raw: Path, out: Path | None = None) -> pd.DataFrame:
    """List the images of images.csv, of a BIDS tree or of LONI's folders, without those in OUT.

    One row a visit: PTID and VISCODE, or the T1's IMAGEUID; t1_path, fa_path below `raw`, or '';
    `name` of its folder in OUT. Raises CohortError where there is no T1, or two for one visit.
    """
    manifest = raw / "images.csv"
    table = read_images(read_text(manifest)) if manifest.exists() else raw_images(raw, out)
    table = table.fillna(dict.fromkeys(PATHS, ""))
    keys = [key for key in ("IMAGEUID", "PTID", "VISCODE") if key in table]
    if len(unknown := table[table[keys].isna().any(axis=1)]):
        named = unknown["t1_path"].where(unknown["t1_path"] != "", unknown["fa_path"])
        raise CohortError(*(problem("nameless folder", raw / path) for path in named))
    table["name"] = table[keys].agg("_".join, axis=1).str.replace(r"[^\w-]", "-", regex=True)
    if len(again := table["name"][table["name"].str.lower().duplicated()]):
        raise CohortError(*(problem("second raw image", raw, name=n[:60]) for n in again))
    return table


def _prepare_all(raw: Path, out: Path, table: pd.DataFrame, workers: int, stripped: bool) -> dict:
    """Prepare the visits of a table, each by itself; their records by name."""
    rows, done = table.to_dict("records"), {}
    workers = min(workers, len(rows))
    for name in ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS"):  # of each process
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // workers)))
    one = partial(_attempt, raw, out, stripped)
    spawn = multiprocessing.get_context("spawn")  # torch does not survive a fork
    with ProcessPoolExecutor(workers, spawn) as pool, suppress(BrokenProcessPool):
        made = (map if workers == 1 else pool.map)(one, rows)
        for name, record in tqdm(made, "preparing", len(rows)):
            done[name] = record
    return done  # without those that a killed process did not reach


def _attempt(raw: Path, out: Path, stripped: bool, row: dict) -> tuple[str, dict]:
    """Prepare a visit; a fault that is not its images' is not kept, but tried again."""
    try:
        return row["name"], prepare_visit(raw, out, row, stripped)
    except Exception as error:  # of one visit: the others go on
        words = {"kind": type(error).__name__, "why": str(error)[:200]}
        return row["name"], {"": {"fault": say("visit failed", **words)}}


def prepare_visit(raw: Path, out: Path, row: dict, stripped: bool = False) -> dict[str, dict]:
    """Prepare the images of one visit, a row of `list_raw`, into its folder, or find them done.

    Returns a record for 't1' and 'fa', where there is one: path, likeness, matrix and its parts,
    seconds; or fault, if the image cannot be used.
    """
    folder, record = out / row["name"], dict[str, dict]()
    sources = {kind: raw / path for kind in ("t1", "fa") if (path := row[f"{kind}_path"])}
    told: dict[str, Any] = {"method": register.METHOD, "stripped": stripped}
    told["packages"] = {package: version(package) for package in PACKAGES}
    told["images"] = {kind: [p.name, files.checksum(p)] for kind, p in sources.items()}
    if files.is_finished(folder, told):
        return files.read_json(folder / "record.json")
    for kind, path in sources.items():
        of_t1 = record.get("t1", {}).get("matrix") if "_space-T1w" in path.name else None
        target, started = folder / f"{kind}.nii.gz", time.time()
        try:
            volume, matrix = register.prepare_image(path, kind, stripped, of_t1)
            found = register.nine_dof(matrix) | {"likeness": register.likeness(volume, kind)}
            with files.atomic_path(target) as temporary:
                register.on_grid(volume).to_filename(temporary)
            alike = found["likeness"] >= LEAST
            unlike = "" if alike else say("unlike after registration", found=found["likeness"])
            if wrong := unlike or content.fault(target, kind):
                target.unlink()
                raise VolumeError(f"after registration {wrong}")
            with files.atomic_path(folder / f"{kind}.png") as temporary:
                register.draw(volume, temporary)
            found |= {"path": f"{folder.name}/{target.name}", "matrix": matrix}
            record[kind] = found | {"seconds": round(time.time() - started, 1)}
        except VolumeError as error:
            record[kind] = {"fault": str(error).removeprefix(f"{path} ")}
    files.write_json(folder / "record.json", record)
    files.finish(folder, told)
    return record


def _write_lists(raw: Path, out: Path, table: pd.DataFrame, done: dict[str, dict]) -> int:
    """Write images.csv, failures.csv and index.html; copy ADNIMERGE.csv; return the exit code."""
    failed, pictures, images = [], [], table.assign(**dict.fromkeys(PATHS, ""))
    for at, row in table.iterrows():
        for kind, found in done.get(row["name"], {"": {"fault": say("process killed")}}).items():
            if "fault" in found:
                what, _, mend = found["fault"].rpartition("; ")
                file = raw / row[f"{kind}_path"] if kind else ""
                failed.append((row["name"], file, what, mend))
            else:
                images.loc[at, f"{kind}_path"] = found["path"]
                pictures.append((found["likeness"], found["path"].replace(".nii.gz", ".png")))
    images = images[(images[[*PATHS]] != "").any(axis=1)].drop(columns="name")
    failures = pd.DataFrame(failed, columns=["name", "file", "what", "mend"])
    for name, list_ in (("images.csv", images), ("failures.csv", failures)):
        with files.atomic_path(out / name) as temporary:
            list_.to_csv(temporary, index=False)
    shown = {"banner": privacy.BANNER, "failures": failures.to_html(index=False)}
    with files.atomic_path(out / "index.html") as temporary:
        page = published.template("prepare.html.j2").render(shown, pictures=sorted(pictures))
        temporary.write_text(page, encoding="utf-8")
    if (raw / "ADNIMERGE.csv").exists():
        with files.atomic_path(out / "ADNIMERGE.csv") as temporary:
            shutil.copyfile(raw / "ADNIMERGE.csv", temporary)
    for name, file, what, mend in failed:
        print(f"{name}, {file}: {what}; {mend}", file=sys.stderr)
    print(f"{len(pictures)} images are registered, {len(failed)} failed: {out / 'index.html'}")
    return 1 if failed else 0
