"""Shared fixtures. Tests never touch the user's runs/ or cache/ unless they are end-to-end."""

import gc
import os
import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from memoir_core import config


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "endtoend: runs the whole book through papermill and builds its HTML (minutes)"
    )
    config.addinivalue_line("markers", "continues: goes on from the run of `make notebooks`")
    config.addinivalue_line(
        "markers", "fault(what, happens): a row of book/faults.md, see tests/faults.py"
    )


def pytest_collection_finish():
    gc.freeze()  # a collection, as after each training, need not visit the libraries again


def tables_of(folder):
    """Read the visits and the list of images of a download."""
    from memoir_core import cohort

    return cohort.read_adnimerge(folder / "ADNIMERGE.csv"), cohort.read_images(
        folder / "images.csv"
    )


@pytest.fixture(autouse=True)
def umask():
    """What holds real people is written for its owner only; the next test begins as usual."""
    mask = os.umask(0o022)
    yield
    os.umask(mask)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Send run folders to a temporary place."""
    monkeypatch.setenv("MEMOIR_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@dataclass(frozen=True)
class Tiny:
    """Chapters 1 and 2 on 24 synthetic subjects at 8 mm."""

    run: object
    cohort: pd.DataFrame
    volumes: object


def once(factory, name, make):
    """Give a folder that `make(folder)` filled, once for all workers of a session; change none."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once_{name}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            begun = Path(f"{folder}.begun")
            shutil.rmtree(begun, ignore_errors=True)  # of a worker that failed
            begun.mkdir()
            make(begun)
            begun.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory):
    tiny = replace(
        config.PROFILES["smoke"], name="tiny", subjects=24, fa_fraction=0.5, batch_size=6
    )

    def make(root):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MEMOIR_RUNS", str(root / "runs"))
            patch.setenv("MEMOIR_CACHE", str(root / "cache"))
            patch.setitem(config.PROFILES, "tiny", tiny)
            make_tiny(tiny)

    root = tmp_path_factory.mktemp("tiny")
    shutil.copytree(once(tmp_path_factory, "tiny", make), root, dirs_exist_ok=True)
    return root, tiny


def make_tiny(tiny):
    """Run what chapters 1 and 2 call."""
    from memoir_book import chapters, store
    from memoir_core import cohort, files, volumes
    from synthetic_adni.write import ensure_download

    run = store.start_chapter("01", profile="tiny", run="t", device="cpu")
    ensure_download(run.data_dir, tiny.subjects, tiny.fa_fraction, workers=1)
    table, flow = cohort.build_cohort(*tables_of(run.data_dir), run.data_dir, run.seed)
    cohort.write_cohort(run.path("cohort.parquet"), table)
    files.write_json(run.path("cohort_flow.json"), flow)
    store.save_results(run, {})
    store.end_chapter(run)
    run = store.start_chapter("02", run="t", device="cpu")
    told = run.data_dir, tiny.volume_shape, chapters.cache_dir()
    index = volumes.build_volumes(table, *told)
    files.write_json(run.path("volumes.json"), index)
    store.save_results(run, {})
    store.end_chapter(run)


@pytest.fixture
def tiny(tiny_folders, monkeypatch):
    """A run folder with cohort and volumes; tests may add to it."""
    root, profile = tiny_folders
    monkeypatch.setenv("MEMOIR_RUNS", str(root / "runs"))
    monkeypatch.setenv("MEMOIR_CACHE", str(root / "cache"))
    monkeypatch.setitem(config.PROFILES, "tiny", profile)
    from memoir_book import chapters, store
    from memoir_core import cohort, volumes

    run = store.start_chapter("02", run="t", device="cpu")
    table = cohort.load_cohort(run.path("cohort.parquet"))
    return Tiny(run, table, volumes.load_volumes(run.path("volumes.json"), chapters.cache_dir()))


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """A cohort table at the published size, 2,363 synthetic subjects, without images."""
    from memoir_core import cohort
    from synthetic_adni.write import write_tables

    def make(folder):
        paper = config.PROFILES["paper"]
        write_tables(folder, paper.subjects, paper.fa_fraction)
        made = cohort.build_cohort(*tables_of(folder), None, seed=0)
        (folder / "records.pickle").write_bytes(pickle.dumps(made))

    return pickle.loads((once(tmp_path_factory, "records", make) / "records.pickle").read_bytes())


@pytest.fixture(scope="session")
def finished():
    """The run folder of the whole book, killed on the way."""
    import bookrun

    return bookrun.run_killed_on_the_way()


@pytest.fixture(scope="session")
def site(request):
    """The built HTML, made once from `finished`; MEMOIR_SITE names one that is already built."""
    import bookrun

    if os.environ.get("MEMOIR_SITE"):
        return Path(os.environ["MEMOIR_SITE"])
    request.getfixturevalue("finished")
    return bookrun.build()


def make_real(source, folder):
    """Turn a synthetic download into what looks like a real one, with planted identifiers.

    Images are linked under names that hold PTID, image ID and date, as ADNI's own do.
    """
    folder.mkdir(parents=True)
    visits = pd.read_csv(source / "ADNIMERGE.csv", dtype=str, keep_default_na=False)
    images = pd.read_csv(source / "images.csv", dtype=str, keep_default_na=False)
    rids = {ptid: str(4100 + n) for n, ptid in enumerate(dict.fromkeys(visits["PTID"]))}
    ptids = {ptid: f"{137 + n % 5}_S_{rid}" for n, (ptid, rid) in enumerate(rids.items())}
    visits["RID"] = visits["PTID"].map(rids)
    for table in (visits, images):
        table["PTID"] = table["PTID"].map(ptids)
    dates = visits.set_index(["PTID", "VISCODE"])["EXAMDATE"].groupby(level=[0, 1]).first()
    for row in images.index:
        ptid, visit = images["PTID"][row], images["VISCODE"][row]
        for column, kind in (("t1_path", "MPRAGE"), ("fa_path", "FA")):
            if old := images[column][row]:
                day = dates[ptid, visit].replace("-", "")
                new = (
                    f"ADNI/{ptid}/ADNI_{ptid}_MR_{kind}_{day}_S{21000 + row}_I{61000 + row}.nii.gz"
                )
                (folder / new).parent.mkdir(parents=True, exist_ok=True)
                (folder / new).hardlink_to((source / old).resolve())
                images.loc[row, column] = new
    visits.to_csv(folder / "ADNIMERGE.csv", index=False)
    images.to_csv(folder / "images.csv", index=False)
    return folder
