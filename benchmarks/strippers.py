"""Compare brain extraction, bias correction and registration on heads whose truth is known.

`python benchmarks/strippers.py --colin FOLDER`. Needs the group intake; brainextractor
and dipy are compared where they are installed. FOLDER may hold Colin27, ch2.nii.gz and
ch2bet.nii.gz (Debian: mricron-data), a real head.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import heads

from memoir_book.intake import register
from memoir_core.volumes import GRID, brain_mask

MOVES = [
    heads.movement((12, -5, 7), (1.06, 0.95, 1.02), (14, -15, 14)),
    heads.movement((-12, 3, -8), (0.94, 1.05, 1.03), (-20, 10, -12)),
]


def make(folder: Path, colin: Path | None) -> list[tuple]:
    """Write heads and the masks of their brains: name, head, mask."""
    from nilearn import datasets

    from synthetic_adni import render, tables

    people = tables.make_tables(len(MOVES), 1.0)[2].to_dict("records")
    drawn = [("synthetic, drawn head", volume, register.AFFINE, 1.0) for volume in
             render.render_t1(people)]  # fmt: skip
    template = register.template("t1")
    drawn += [("template, drawn head", template, register.AFFINE, mm) for mm in (1.0, 1.3)]
    listed = []
    for number, (name, brain, affine, mm) in enumerate(drawn):
        move = MOVES[number % len(MOVES)]
        head = heads.make_head(brain, affine, move, spacing=mm, bias=0.6, seed=number)
        paths = [folder / f"{kind}{number}.nii.gz" for kind in ("head", "mask")]
        nibabel.save(head.image, paths[0])
        nibabel.save(head.mask, paths[1])
        listed.append((f"{name}, {mm} mm", *paths))
    stripped, mask = folder / "template.nii.gz", folder / "template_mask.nii.gz"
    nibabel.save(datasets.load_mni152_template(resolution=1), stripped)
    nibabel.save(datasets.load_mni152_brain_mask(resolution=1), mask)
    listed.append(("template, no skull, 1 mm", stripped, mask))
    if colin:
        listed.append(("Colin27, real, 1 mm", colin / "ch2.nii.gz", colin / "ch2bet.nii.gz"))
    return listed


def deepbet(path: Path) -> np.ndarray:
    return register.find_brain(register.read_raw(path), False)


def brainextractor(path: Path) -> np.ndarray:
    from brainextractor import BrainExtractor

    with contextlib.redirect_stdout(io.StringIO()):
        tool = BrainExtractor(img=register.read_raw(path))
        tool.run()
        return tool.compute_mask() > 0


def score(job: tuple) -> dict:
    """Strip one head in a process of its own, so that its memory is its own."""
    import resource

    import torch

    tool, name, head, truth = job
    torch.set_num_threads(1)
    want = np.asarray(nibabel.as_closest_canonical(nibabel.load(truth)).dataobj) > 0
    want = ndimage.binary_fill_holes(want)
    started = time.process_time()
    found = {"deepbet": deepbet, "brainextractor": brainextractor}[tool](head)
    row = {"head": name, "tool": tool, "cpu_s": time.process_time() - started}
    row["dice"] = 2 * (found & want).sum() / (found.sum() + want.sum())
    row["size"] = found.sum() / want.sum()
    return row | {"GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def with_dipy(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    from dipy.align import affine_registration

    steps = ["center_of_mass", "translation", "rigid", "rigid_scaling"]
    how = {"moving_affine": affine, "static_affine": register.AFFINE, "pipeline": steps}
    return affine_registration(data, register.template("t1"), level_iters=[1000, 100, 10], **how)[1]


def score_registration() -> pd.DataFrame:
    """Register the template's own brain, moved; one thread; the truth is the movement."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    inside, rows = brain_mask(GRID), []
    at = register.AFFINE @ np.vstack([np.argwhere(inside).T, np.ones(inside.sum())])
    tools = {"ITK, one transform": lambda d, a: register.register(d, a, "t1")}
    if importlib.util.find_spec("dipy"):
        tools["dipy, stages"] = with_dipy
    for move in MOVES:
        head = heads.make_head(register.template("t1"), register.AFFINE, move, 2.0, bias=0.6)
        mask, affine = np.asarray(head.mask.dataobj) > 0, head.image.affine
        clean = heads.make_head(register.template("t1"), register.AFFINE, move, 2.0, bias=0)
        started = time.process_time()
        data = register.correct_bias(np.asarray(head.image.dataobj), affine, mask)
        row = {"what": "N4", "cpu_s": time.process_time() - started}
        for when, volume in (("before", np.asarray(head.image.dataobj)), ("after", data)):
            gain = np.log(volume[mask] / np.asarray(clean.image.dataobj)[mask].clip(1))
            row[f"gain_sd_{when}"] = gain[np.abs(gain - np.median(gain)) < 0.7].std()
        rows.append(row)
        for name, tool in tools.items():
            started = time.process_time()
            matrix = tool(data, affine)
            row = {"what": name, "cpu_s": time.process_time() - started}
            way = (np.linalg.inv(move) @ matrix @ at - at)[:3]
            product = matrix[:3, :3].T @ matrix[:3, :3]
            size = np.sqrt(np.diag(product))
            shear = np.abs(product / np.outer(size, size) - np.eye(3)).max()
            rows.append(row | {"mm": np.linalg.norm(way, axis=0).mean(), "shear": shear})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--colin", type=Path, help="folder with ch2.nii.gz and ch2bet.nii.gz")
    options = parser.parse_args()
    tools = [tool for tool in ("deepbet", "brainextractor") if importlib.util.find_spec(tool)]
    with tempfile.TemporaryDirectory() as scratch:
        listed = make(Path(scratch), options.colin)
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(1, maxtasksperchild=1) as pool:
            jobs = [(tool, *each) for each in listed for tool in tools]
            rows = list(pool.imap(score, jobs, chunksize=1))
    print(pd.DataFrame(rows).round(3).to_string(index=False), "\n")
    print(score_registration().round(4).to_string(index=False))


if __name__ == "__main__":
    main()
