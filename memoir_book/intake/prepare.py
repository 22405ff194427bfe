"""T1 and FA as they come from the scanner, put on the 2 mm MNI grid by nine degrees of freedom.

T1: brain extraction (deepbet), bias field (N4), registration to the MNI template by 3 shifts,
3 turns and 3 scales, and nothing else (ITK). FA: the same registration, to the template's white
matter, or the T1's own where the file's name says space-T1w. What is done is not done again.
"""

from __future__ import annotations

import html
import importlib.util
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from memoir_core import files
from memoir_core.tables import PATHS, CohortError, Problem, parse, read_images
from memoir_core.volumes import VolumeError

from .. import privacy
from . import content, register

PACKAGES = ("SimpleITK", "deepbet")
LEAST = 0.4  # correlation with the template inside its brain; 8 mm or 10 degrees off have less
BIDS = re.compile(r"sub-([^/]+)/ses-([^/]+)/(?:anat|dwi)/(?:.*/)?[^/.]*_(T1w|FA)\.nii(?:\.gz)?$")
LONI = re.compile(r"([^/]+)/([^/]+)/(\d[^/]*)/I(\d+)/[^/.][^/]*\.nii(?:\.gz)?$")
IS_FA = re.compile(r"(?i)(^|[^a-z])FA($|[^a-z])|fractional")
IS_T1 = re.compile(r"(?i)MP-?RAGE|SPGR|(^|[^a-z])T1")


def add_arguments(parser: Any) -> None:
    parser.add_argument("raw", type=Path, help="folder with images.csv, or BIDS, or from LONI")
    parser.add_argument("out", type=Path, help="folder to write, for the chapters to read")
    parser.add_argument("--workers", type=int, default=1, help="processes, 2 GiB each (default: 1)")
    parser.add_argument("--stripped", action="store_true", help="the T1s hold no skull any more")


def run(options: Any) -> int:
    """Prepare a folder; exit code 1 where an image failed, 2 for wrong arguments, 130 stopped."""
    if lacking := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        what = f"prepare needs {' and '.join(lacking)}, which the book itself does not need"
        print(f"{what}: python -m pip install -r requirements-intake.txt", file=sys.stderr)
        return 1
    raw, out = options.raw.resolve(), options.out.resolve()
    if raw == out or options.workers < 1:
        print("OUT must be another folder than RAW, and --workers at least 1", file=sys.stderr)
        return 2
    table = list_raw(raw)
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


def list_raw(raw: Path) -> pd.DataFrame:
    """List the images of images.csv, of a BIDS tree or of LONI's folders.

    One row a visit: PTID and VISCODE, or the T1's IMAGEUID; t1_path, fa_path below `raw`; `name`
    of its folder in OUT. Raises CohortError where there is no T1, or two for one visit.
    """
    manifest = raw / "images.csv"
    table = read_images(manifest) if manifest.exists() else _list_tree(raw)
    keys = [key for key in ("IMAGEUID", "PTID", "VISCODE") if key in table]
    if len(unknown := table[table[keys].isna().any(axis=1)]):
        what, mend = "a folder names no PTID or visit", "name it like sub-ADNI999S9999/ses-M048"
        named = unknown["t1_path"].fillna(unknown["fa_path"])
        raise CohortError(*(Problem(str(raw / path), what, mend) for path in named))
    table["name"] = table[keys].agg("_".join, axis=1).str.replace(r"[^\w-]", "-", regex=True)
    again = table["name"][table["name"].str.lower().duplicated()]
    if len(again):
        what, mend = "a second T1 or FA of one visit", "keep one, or list them in images.csv"
        raise CohortError(*(Problem(str(raw), f"{what}, {name[:60]}", mend) for name in again))
    return table


def _list_tree(raw: Path) -> pd.DataFrame:
    rows = []
    for path in sorted(p.relative_to(raw).as_posix() for p in raw.rglob("*.nii*")):
        if (bids := BIDS.match(path)) and "_space-MNI" not in path:
            rows.append((*bids.group(1, 2), "", "fa" if bids[3] == "FA" else "t1", path))
        elif loni := LONI.search(path):
            kind = "fa" if IS_FA.search(loni[2]) else "t1" if IS_T1.search(loni[2]) else ""
            rows.append((loni[1], loni[3][:10], loni[4], kind, path))
    table = pd.DataFrame(rows, columns=["PTID", "VISCODE", "IMAGEUID", "kind", "path"], dtype=str)
    t1, fa = (table[table["kind"] == k].rename(columns={"path": f"{k}_path"}) for k in ("t1", "fa"))
    if t1.empty:
        mend = "write images.csv with the columns PTID, VISCODE, t1_path, fa_path"
        raise CohortError(Problem(str(raw), "holds no T1 in BIDS or in LONI's folders", mend))
    keys = ["PTID", "VISCODE"]
    if by_image := bool(t1["IMAGEUID"].all()):  # FA has an ID of its own: the day joins them
        fa = fa.drop_duplicates(keys)
    table = t1.merge(fa[[*keys, "fa_path"]], "left" if by_image else "outer", on=keys)
    return table[["IMAGEUID"] if by_image else keys].apply(parse).join(table[[*PATHS]])


def _prepare_all(raw: Path, out: Path, table: pd.DataFrame, workers: int, stripped: bool) -> dict:
    share = max(1, (os.cpu_count() or 1) // workers)
    one = partial(prepare_visit, raw, out, stripped=stripped, threads=share)
    text = table[["name", *PATHS]].astype(object).where(table.notna(), "")
    rows = [tuple(row) for row in text.to_numpy()]
    if workers == 1 or len(rows) == 1:
        calls = {row[0]: partial(one, *row) for row in rows}
        return {name: _outcome(call) for name, call in tqdm(calls.items(), "preparing")}
    spawn = multiprocessing.get_context("spawn")  # torch does not survive a fork
    with ProcessPoolExecutor(workers, spawn) as pool:
        futures = {pool.submit(one, *row): row[0] for row in rows}
        try:
            finished = tqdm(as_completed(futures), "preparing", len(rows))
            return {futures[future]: _outcome(future.result) for future in finished}
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def _outcome(call: Callable[[], dict]) -> dict:
    """What came of a visit: its record, or a fault that is not its images' and is tried again."""
    try:
        return call()
    except Exception as error:  # of one visit: the others go on
        mend = "run again, with fewer --workers if memory is short"
        return {"": {"fault": f"failed ({type(error).__name__}: {str(error)[:200]}); {mend}"}}


def prepare_visit(
    raw: Path, out: Path, name: str, t1: str, fa: str, stripped: bool = False, threads: int = 1
) -> dict[str, dict]:
    """Prepare the images of one visit into OUT/`name`, or find them done.

    Returns a record for 't1' and 'fa', where there is one: path, likeness, matrix and its parts,
    seconds; or fault, if the image cannot be used.
    """
    sources = {kind: raw / path for kind, path in (("t1", t1), ("fa", fa)) if path}
    told: dict[str, Any] = {"method": register.METHOD, "stripped": stripped}
    told["packages"] = {package: version(package) for package in PACKAGES}
    told["images"] = {kind: [p.name, files.checksum(p)] for kind, p in sources.items()}
    folder, record = out / name, dict[str, dict]()
    if files.is_finished(folder, told):
        return files.read_json(folder / "record.json")
    import SimpleITK
    import torch

    torch.set_num_threads(threads)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    for kind, path in sources.items():
        of_t1 = record.get("t1", {}).get("matrix") if "_space-T1w" in path.name else None
        target, started = folder / f"{kind}.nii.gz", time.time()
        try:
            volume, matrix = register.prepare_image(path, kind, stripped, of_t1)
            found = register.nine_dof(matrix) | {"likeness": register.likeness(volume, kind)}
            with files.atomic_path(target) as temporary:
                register.on_grid(volume).to_filename(temporary)
            what = f"does not look like the template (correlation {found['likeness']:.2f})"
            unlike = "" if found["likeness"] >= LEAST else f"{what}; look at it, leave it out"
            if wrong := unlike or content.fault(target, kind):
                target.unlink()
                raise VolumeError(f"after registration {wrong}")
            with files.atomic_path(folder / f"{kind}.png") as temporary:
                register.draw(volume, temporary)
            found |= {"path": f"{name}/{target.name}", "matrix": matrix}
            record[kind] = found | {"seconds": round(time.time() - started, 1)}
        except VolumeError as error:
            record[kind] = {"fault": str(error).removeprefix(f"{path} ")}
    files.write_json(folder / "record.json", record)
    files.finish(folder, told)
    return record


def _write_lists(raw: Path, out: Path, table: pd.DataFrame, done: dict[str, dict]) -> int:
    """Write images.csv, failures.csv and index.html; copy ADNIMERGE.csv; return the exit code."""
    faults, cards, rows = [], [], []
    for row in table.to_dict("records"):
        for kind, found in done[row["name"]].items():
            if "fault" in found:
                what, _, mend = found["fault"].rpartition("; ")
                file = str(raw / row[f"{kind}_path"]) if kind else ""
                faults.append({"name": row["name"], "file": file, "what": what, "mend": mend})
            else:
                picture = html.escape(found["path"].replace(".nii.gz", ".png"))
                said = html.escape(f"{row['name']} {kind}: {found['likeness']:.3f}")
                card = f'<img src="{picture}" loading="lazy"><figcaption>{said}</figcaption>'
                cards.append((found["likeness"], f"<figure>{card}</figure>"))
        made = {f"{k}_path": found.get("path", "") for k, found in done[row["name"]].items() if k}
        rows.append(row | dict.fromkeys(PATHS, "") | made)
    images = pd.DataFrame(rows).drop(columns="name")
    images = images[(images["t1_path"] + images["fa_path"]).ne("")]
    failed = pd.DataFrame(faults, columns=["name", "file", "what", "mend"])
    page = [f"<!doctype html><meta charset='utf-8'><h1>{len(cards)} registered</h1>"]
    page += [f"<p><b>{privacy.BANNER}</b></p>", failed.to_html(index=False)]
    page += ["<p>Correlation with the template, the lowest first.</p>"]
    page += [card for _, card in sorted(cards)]
    written = {"images.csv": images.to_csv(index=False), "index.html": "\n".join(page)}
    written["failures.csv"] = failed.to_csv(index=False)
    for name, text in written.items():
        with files.atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    if (raw / "ADNIMERGE.csv").exists():
        with files.atomic_path(out / "ADNIMERGE.csv") as temporary:
            shutil.copyfile(raw / "ADNIMERGE.csv", temporary)
    for fault in faults:
        print("{name}, {file}: {what}; {mend}".format(**fault), file=sys.stderr)
    print(f"{len(cards)} images are registered, {len(faults)} failed: {out / 'index.html'}")
    return 1 if faults else 0
