"""`intake adni` makes of what is given out the cohort that the merged table would have given."""

import json

import downloads
import pandas as pd
import pytest

from memoir_book import intake
from memoir_book.intake import __main__ as command
from memoir_book.intake import adni
from memoir_core import cohort
from memoir_core.tables import CohortError
from synthetic_adni.write import write_tables


@pytest.fixture(scope="session")
def merged(tmp_path_factory):
    """Synthetic tables, and for each image a file of its own content."""
    folder = tmp_path_factory.mktemp("merged")
    write_tables(folder, 24, 0.5)
    images = downloads.read(folder / "images.csv")
    for name in [*images["t1_path"], *images["fa_path"]]:
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
    return folder


def convert(download, out, *more):
    return command.main(["adni", str(download), str(out), *more])


def build(folder):
    visits = cohort.read_adnimerge(folder / "ADNIMERGE.csv")
    return cohort.build_cohort(visits, intake.list_images(folder), folder, seed=0)[0]


def test_seven_dated_tables_and_clinicas_tree_give_the_same_cohort(merged, tmp_path, capsys):
    download, out = downloads.loni(tmp_path / "download", merged), tmp_path / "out"
    assert convert(download, out) == 0, capsys.readouterr()
    wanted, got = build(merged), build(out)
    paths = ["t1_path", "fa_path"]
    pd.testing.assert_frame_equal(
        got.drop(columns=paths), wanted.drop(columns=paths), atol=0.06, rtol=0
    )
    for row, other in zip(got.itertuples(), wanted.itertuples(), strict=True):
        assert open(row.t1_path).read() == other.t1_path and "Crop" not in row.t1_path
        assert not row.has_fa or open(row.fa_path).read() == other.fa_path
        assert not row.has_fa or "normalized_space" in row.fa_path
