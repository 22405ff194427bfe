"""OASIS-1 in nilearn's layout (made up here): read, refused where damaged, called by its names."""

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from oasis import oasis, sheet

from memoir_book import check, pages, plots, report
from memoir_book.dataset import Dataset, lacks, read_dataset
from memoir_book.intake import __main__ as command
from memoir_book.intake import content, images
from memoir_book.intake import oasis as intake_oasis
from memoir_core import captions, cohort, volumes
from memoir_core.tables import CohortError

SHEET = Path("oasis1") / "oasis_cross-sectional.csv"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return oasis(tmp_path_factory.mktemp("home ä"), subjects=9)


@pytest.fixture(scope="module")
def download(home, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "oasis"
    told = ["oasis", str(out), "--from", str(home), "--accept-agreement"]
    assert command.main(told) == 0
    return out


@pytest.fixture(scope="module")
def people(download):
    visits = cohort.read_adnimerge(download / "ADNIMERGE.csv")
    table, _ = cohort.build_cohort(visits, images.list_images(download), download, seed=0)
    return read_dataset(download).describe(table, download)


def test_who_and_what_is_kept(home, people):
    """By hand from the sheet: 60 and older, with a map; the CDR is the class, and no input."""
    asked = sheet().set_index("ID").loc[[path.name for path in (home / "oasis1").glob("OAS1_*")]]
    assert len(people) == len(asked) == 9 and asked["Age"].min() >= 60
    rows = people.set_index("PTID")
    for name, row in asked.iterrows():
        found = rows.loc[name[:9]]
        assert found["DX"] == {0: "CN", 0.5: "MCI", 1: "Dementia", 2: "Dementia"}[row["CDR"]]
        assert found["PTGENDER"][0] == row["M/F"] and found["AGE"] == row["Age"]
        assert found["MMSE"] == row["MMSE"] and found["nWBV"] == row["nWBV"]
    assert people[["CDRSB", "APOE4", "ADAS11", "ADAS13", "MOCA", "PTEDUCAT"]].isna().all(axis=None)
    assert people["EXAMDATE"].isna().all() and not people["has_fa"].any()


def test_everybody_left_out_is_counted(home, capsys):
    kept, maps = intake_oasis.choose(intake_oasis.read_sheet(home / SHEET), home / "oasis1")
    said = capsys.readouterr().out
    table = sheet()
    old = (table["Age"] >= 60) & table["CDR"].notna()
    assert "436 sessions, 9 maps" in said and "20 sessions of a second scan" in said
    assert f"{old.sum() - 9} sessions without a map" in said
    assert len(kept) == len(maps) == 9


def damage(home, folder, change):
    (folder / "oasis1").mkdir()
    table = pd.read_csv(home / SHEET, dtype=str, keep_default_na=False)
    (change(table)).to_csv(folder / SHEET, index=False)
    return folder


@pytest.mark.parametrize(
    ("change", "place", "says"),
    [
        (lambda t: t.assign(nWBV=t["nWBV"].str.replace("0.", "")), "line 2, nwbv", "0.5 to 1"),
        (lambda t: t.assign(CDR=t["CDR"].str.replace("0.5", "5")), "cdr", "0, 0.5, 1, 2 or 3"),
        (lambda t: t.assign(Age=t["Age"].where(t.index != 7, "1999")), "line 9, age", "'1999'"),
        (lambda t: t.assign(Age=t["Age"].where(t.index != 7, "")), "line 9, age", "''"),
        (lambda t: t.assign(MMSE=t["MMSE"].where(t.index != 3, "x")), "line 5, mmse", "'x'"),
        (lambda t: t.assign(eTIV=t["eTIV"].where(t.index != 3, "14.9")), "line 5, etiv", "2200"),
        (lambda t: t.assign(ID=t["ID"].where(t.index != 4, t["ID"][3])), "line 6, id", "once"),
        (lambda t: t.drop(columns="nWBV"), "lacks the column nwbv", "again"),
        (lambda t: t.drop(index=range(50)), "the whole sheet [135, 70, 28, 2]", "again"),
        (lambda t: t.assign(CDR=t["CDR"].replace("2.0", "1.0")), "[135, 70, 30, 0]", "again"),
    ],
)
def test_a_damaged_sheet_is_refused_with_its_place(home, tmp_path, change, place, says):
    folder = damage(home, tmp_path, change)
    with pytest.raises(CohortError) as error:
        intake_oasis.write(folder, tmp_path / "out", True)
    assert place in str(error.value) and says in str(error.value)
    assert SHEET.name in str(error.value) and "download the sheet again" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_extract_and_columns_as_nilearn_renames_them_are_read(home, tmp_path):
    names = {"M/F": "mf", "nWBV": "nwbv"}
    folder = damage(home, tmp_path, lambda t: t.head(100).rename(columns=names))
    assert len(intake_oasis.read_sheet(folder / SHEET)) == 100


def test_the_agreement_is_shown_and_must_be_accepted(home, tmp_path, capsys):
    told = ["oasis", str(tmp_path / "out"), "--from", str(home)]
    assert command.main(told) == 1
    said = capsys.readouterr()
    assert "be kind to those who took part" in said.out and "--accept-agreement" in said.err
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_replaced(home, tmp_path):
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(CohortError, match="is there already; name a new folder"):
        intake_oasis.write(home, tmp_path, True)
    assert (tmp_path / "mine").read_text() == "keep me"


@pytest.mark.parametrize("part", ["", "oasis1"])
def test_a_folder_in_nilearns_layout_is_taken_as_data(home, tmp_path, monkeypatch, part):
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CohortError, match="not accepted"):
        intake_oasis.as_download(str(home / part), False)
    made = intake_oasis.as_download(str(home / part), True)
    assert len(list(Path(made).glob("images/*.nii.gz"))) == 9
    assert intake_oasis.as_download(str(home / part), False) == made  # was accepted before
    assert intake_oasis.as_download(made, False) == made
    assert intake_oasis.as_download(str(tmp_path), False) == str(tmp_path)


def test_check_names_the_way_to_a_folder_that_it_can_look_at(home, tmp_path, capsys):
    assert check.main([str(home), "--csv", str(tmp_path / "problems.csv")]) == 1
    said = capsys.readouterr().out
    assert f"`python -m memoir_book.intake oasis OUT --from {home}`" in said


def test_oasis_is_fetched_by_nilearn_into_the_cache(home, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMOIR_CACHE", str(tmp_path / "cache"))
    from nilearn import datasets

    def offline(**told):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "fetch_oasis_vbm", offline)
    with pytest.raises(CohortError, match=r"no route to host; .* a folder that holds oasis1/"):
        intake_oasis.as_download("oasis", True)
    fetch = lambda data_dir: shutil.copytree(home / "oasis1", data_dir / "oasis1")  # noqa: E731
    monkeypatch.setattr(datasets, "fetch_oasis_vbm", fetch)
    with pytest.raises(CohortError, match="not accepted"):
        intake_oasis.as_download("oasis", False)
    assert len(list(Path(intake_oasis.as_download("oasis", True)).glob("images/*"))) == 9


def test_the_made_up_maps_lie_on_the_mni_grid(download):
    path = next(download.glob("images/*.nii.gz"))
    one, _ = volumes.preprocess(path, "t1", (46, 55, 46))
    assert one.shape == (46, 55, 46) and np.isfinite(one).all() and (one != 0).mean() > 0.1


# ---------------------------------------------------------------- names
def test_stored_maps_fit_the_template(people, download, tmp_path):
    index = volumes.build_volumes(people.head(3), download, (23, 28, 23), tmp_path)
    stored = np.load(tmp_path / index["folder"] / "t1.npy")
    assert stored.min() < 0  # standardised, as the network reads them
    assert [content.judge(content.numbers(v, "gm"), "gm") for v in stored] == ["", "", ""]


def test_images_and_classes_are_called_by_their_names(download):
    found = read_dataset(download)
    said = found.reword("T1 of t1+clinical, t1_fa; MCI. t1_path, T1w, T12, XT1\n" + found.notes[0])
    first, second = said.split("\n")
    assert first == (
        "GM density of gm+clinical, gm_fa; very mild (CDR 0.5). t1_path, T1w, T12, XT1"
    )
    assert second == found.notes[0]
    assert found.reword("MCI", classes=False) == "MCI"
    assert Dataset().reword("T1, t1, MCI") == "T1, t1, MCI"


def test_a_download_cannot_call_itself_synthetic(download, tmp_path):
    shutil.copy(download / "dataset.json", tmp_path)
    told = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(told | {"name": "synthetic"}))
    with pytest.raises(CohortError, match=r"dataset\.json"):
        read_dataset(tmp_path)


def test_a_damaged_dataset_json_is_named(download, tmp_path):
    assert read_dataset(tmp_path) == Dataset()
    (tmp_path / "dataset.json").write_text('{"name": "X"}')
    with pytest.raises(CohortError, match=r"dataset.json: is damaged; run the intake again"):
        read_dataset(tmp_path)


def test_no_ventricle_is_measured_in_grey_matter(people, download):
    found = read_dataset(download)
    told = pd.DataFrame({"ventricle_share": np.ones(9), "fornix_fa": np.full(9, np.nan)})
    ours = found.measures(told, people)
    assert ours["ventricle_share"].isna().all() and (ours["nWBV"] == people["nWBV"]).all()
    assert found.measured(ours) == "nWBV alone"
    assert (
        Dataset().measures(told, people) is told and Dataset().measured(told) == "ventricle alone"
    )
    assert Dataset().measured(told.fillna(0.4)) == "ventricle and fornix"


def test_captions_say_what_is_known_and_call_the_class_by_its_rule(people):
    rows = captions.caption_rows(people)
    for row, dx in zip(rows, people["DX"], strict=True):
        assert not any(word in row["caption"] for word in ("CDR-SB", "APOE", "MoCA", "ADAS", "FA"))
        assert ("very mild (CDR 0.5)" in row["caption"]) == (dx == "MCI")
        assert "MMSE" in row["caption"] and "mild cognitive" not in row["caption"]
        assert "CDR" not in row["caption_blind"]


def test_what_is_absent_is_said(people):
    said = " ".join(lacks(people))
    for word in ("no FA", "no CDR-SB", "no APOE4", "no MoCA", "no exam date", "fewer than 15"):
        assert word in said
    assert "MMSE" not in said


def test_figures_are_renamed_to_the_last_tick(download):
    plots.use_style(read_dataset(download).reword)
    try:
        figure, ax = plt.subplots()
        ax.bar(["CN", "MCI"], [1, 2], label="T1")
        ax.legend()
        plots.finish(figure, "T1, OASIS-1 cohort", "Bars of T1 for MCI.")
        figure.canvas.draw()
        ticks = [text.get_text() for text in ax.get_xticklabels()]
        assert ticks == ["CN", "very mild (CDR 0.5)"]
        assert figure.get_suptitle() == "GM density, OASIS-1 cohort"
        assert ax.get_legend().get_texts()[0].get_text() == "GM density"
        assert "T1" not in figure.get_label() and "GM density" in figure.get_label()
    finally:
        plots.use_style()


@pytest.mark.parametrize(
    ("chapter", "source", "says"),
    [
        ("06_ablation", "OASIS-1 cohort", "very mild (CDR 0.5)"),
        ("06_ablation", "OASIS-1 cohort, published", "MCI"),  # ADNI's
        ("09_llm", "OASIS-1 cohort", "MCI"),  # the word that models were asked with
        ("06_ablation", "synthetic cohort", "MCI"),
    ],
)
def test_tables_and_prints_of_a_page_are_renamed(download, tmp_path, chapter, source, says):
    """Classes in tables of the run; images in all but synthetic ones; base64 holds any letters."""
    output = nbformat.v4.new_output
    page = "<img src='data:image/png;base64,/T1+MCI/'>"
    told = [
        output("stream", text=f"T1 and MCI: {source}\n"),
        output("display_data", {"text/html": "<td>t1+clinical</td>", "text/plain": "T1 MCI"}),
        output("display_data", {"text/html": page}),
    ]
    cell = nbformat.v4.new_code_cell("T1 = 1", outputs=told)
    path = tmp_path / f".{chapter}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    pages.tidy(path, "r", str(download))
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    first, table, picture = stored["outputs"]
    image = "T1" if "synthetic" in source else "GM density"
    assert "".join(first["text"]) == f"{image} and {says}: {source}\n"
    assert "".join(table["data"]["text/html"]) == "<td>gm+clinical</td>"
    assert "".join(table["data"]["text/plain"]).startswith("GM density ")
    assert "".join(picture["data"]["text/html"]) == page
    assert "".join(stored["source"]) == "T1 = 1"


def test_no_figure_of_another_cohort_gets_a_verdict():
    row = {"chapter": "05", "group": "g", "figure": "f", "kind": "setting"}
    table = pd.DataFrame([row | {"published": 1.0, "value": value} for value in (1.0, 2.0)])
    ours = report.judge(table, "paper", False)
    assert ours["verdict"].tolist() == ["reproduced", "not reproduced"]
    theirs = report.judge(table, "paper", False, comparable=False)
    assert theirs["verdict"].tolist() == ["not comparable"] * 2
    assert theirs["why"].str.contains("another cohort").all()
