"""Time the tables, the rendering and the volume cache: `python benchmarks/data.py`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import pandas as pd

from memoir_core import config
from memoir_core.cohort import build_cohort, counts, read_adnimerge, read_images
from memoir_core.volumes import build_volumes
from synthetic_adni import render, tables, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=300)
    parser.add_argument("--profile", default="quick", help="grid of the cache")
    options = parser.parse_args()
    profile = dataclasses.replace(config.PROFILES[options.profile], subjects=options.subjects)
    rows = []

    def timed(what, job):
        started = time.perf_counter()
        result = job()
        rows.append({"what": what, "seconds": round(time.perf_counter() - started, 1)})
        return result

    def cohort_of(folder, images):
        visits, listed = (
            read_adnimerge(folder / "ADNIMERGE.csv"),
            read_images(folder / "images.csv"),
        )
        return build_cohort(visits, listed, folder if images else None, seed=0)

    with tempfile.TemporaryDirectory() as scratch:
        paper = config.PROFILES["paper"]
        folder = Path(scratch) / "paper"

        def published_table():
            write.write_tables(folder, paper.subjects, paper.fa_fraction)
            return cohort_of(folder, images=False)

        cohort, _ = timed("published cohort table, 2,363 subjects, no images", published_table)
        print(counts(cohort).to_string(), "\n")
        latents = tables.make_tables(4, 1.0)[2].to_dict("records")
        render.render_t1(latents[:1])  # set-up of the templates
        render.render_fa(latents[:1])
        timed("one T1 volume, one core", lambda: render.render_t1(latents[1:2]))
        timed("one FA volume, one core", lambda: render.render_fa(latents[1:2]))
        data = Path(scratch) / "download"
        n = options.subjects
        timed(f"render {n} subjects", lambda: write.ensure_download(data, n, profile.fa_fraction))
        table, _ = timed("tables, filters, split", lambda: cohort_of(data, images=True))
        told = table, data, profile.volume_shape, Path(scratch)
        timed(f"cache {n} subjects", lambda: build_volumes(*told))
        timed(f"find {n} subjects again", lambda: build_volumes(*told))
    print(pd.DataFrame(rows).to_string(index=False))
    print(f"{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
