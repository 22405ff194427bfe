"""A table is read as people have it, or the message says how to save it."""

import os

import pandas as pd
import pytest

from memoir_book.intake import images
from memoir_book.intake.text import read_text
from memoir_core.tables import CohortError

TEXT = "PTID,VISCODE,AGE,SITENAME\n011_S_0002, bl ,74.3,Hôpital\n\n011_S_0003,m12,-4,\n"
ROWS = [["011_S_0002", "bl", "74.3", "Hôpital"], ["011_S_0003", "m12", "-4", ""]]


def read(folder, raw):
    path = folder / "t.csv"
    path.write_bytes(raw)
    return read_text(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_letters_of_every_code_are_read(tmp_path, encoding):
    table = read(tmp_path, TEXT.encode(encoding))
    assert list(table) == ["PTID", "VISCODE", "AGE", "SITENAME"]
    assert table.to_numpy().tolist() == ROWS
    assert table.index.tolist() == [2, 4], "the lines of the file, an empty one among them"
    assert table.attrs["file"].endswith("t.csv")


@pytest.mark.parametrize("sign", [";", "\t"])
def test_semicolons_come_with_decimal_commas(tmp_path, sign):
    rows = TEXT.replace(",", sign).replace("74.3", "74,3")
    assert read(tmp_path, rows.encode()).to_numpy().tolist() == ROWS
    assert read(tmp_path, b'A,B\n"1,067",2\n')["A"][2] == "1,067"  # thousands, perhaps: not judged


def test_two_columns_of_one_name_must_not_differ(tmp_path):
    assert read(tmp_path, b"A,A\n1,1\n")["A"].tolist() == ["1"]
    with pytest.raises(CohortError, match="two columns called A, which differ; delete"):
        read(tmp_path, b"A,A\n1,2\n")


def test_quotes_may_hold_what_separates(tmp_path):
    assert read(tmp_path, b'"A","B"\r\n"x, y","2"\r\n').to_numpy().tolist() == [["x, y", "2"]]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"PK\x03\x04 a workbook", "workbook.*; save it as CSV UTF-8"),
        (b"\x1f\x8b\x08 packed", "no text table; save it as CSV UTF-8"),
        (b"<html><body>Please log in</body></html>", "web page"),
        (b"A,B\n1,\0\n", "no text table"),
        (b"", "cannot be read as a CSV table"),
        (b"A,B\n1,2,3\n", "cannot be read as a CSV table"),
        (b'A,B\n"1,2\n', "cannot be read as a CSV table"),
    ],
)
def test_what_is_no_table_is_named_with_a_mend(tmp_path, raw, words):
    with pytest.raises(CohortError, match=words) as error:
        read(tmp_path, raw)
    assert str(tmp_path / "t.csv") in str(error.value) and len(str(error.value)) < 400


def test_a_table_of_too_many_rows_is_named(tmp_path):
    with pytest.raises(CohortError, match=r"has more than 1,000,000 rows; keep the rows that are"):
        read(tmp_path, b"A,B\n" + b"1,2\n" * 1_000_002)


def test_pipes_among_tables_and_images_are_passed_over(tmp_path):
    os.mkfifo(tmp_path / "ADNIMERGE.csv")
    os.mkfifo(tmp_path / "scan.nii.gz")
    (tmp_path / "lost.nii").symlink_to(tmp_path / "nowhere")  # a broken link is named later
    assert [path.name for path in images.walk(tmp_path)] == ["lost.nii"]


def test_a_folder_a_pipe_and_a_missing_table_are_named(tmp_path):
    with pytest.raises(CohortError, match="is missing"):
        read_text(tmp_path / "t.csv")
    with pytest.raises(CohortError, match="is no file"):
        read_text(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CohortError, match="is no file"):  # and does not wait for its other end
        read_text(tmp_path / "pipe")


def test_a_table_of_the_wrong_rights_is_named(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("A\n1\n")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(CohortError, match=r"cannot be opened \(Permission denied\); give yourself"):
        read_text(tmp_path / "t.csv")


def test_a_table_without_end_is_bounded(tmp_path):
    with (tmp_path / "t.csv").open("wb") as file:
        file.truncate(600_000_000)  # sparse
    with pytest.raises(CohortError, match="larger than 250 MB"):
        read_text(tmp_path / "t.csv")
    assert isinstance(read(tmp_path, b"A\n1\n"), pd.DataFrame)
