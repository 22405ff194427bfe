"""Chapter 1 writes out the filters and the split, which are those of the core, and Table 1."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
from ideas import idea
from sklearn.tree import DecisionTreeClassifier

from memoir_book import baselines
from memoir_core import cohort
from memoir_core.config import DX, SCORES
from synthetic_adni import tables, write

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01_cohort.ipynb"
TABLE = idea("01", "def table_one", np=np, pd=pd, DX=DX, SCORES=SCORES)


def cells():
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [("".join(c["source"]), c["metadata"].get("tags", [])) for c in found]


@pytest.fixture
def download(tmp_path):
    """Made-up visits of 60 people: 1 to 4 visits each, gaps in diagnoses and images."""
    rng = np.random.default_rng(5)
    visits, images = [], []
    for rid in rng.permutation(60):
        first = pd.Timestamp("2010-01-01") + pd.Timedelta(days=int(rng.integers(900)))
        ptid = f"{(7 * rid) % 100:03d}_S_{rid:04d}"
        for number in range(rng.integers(1, 5)):
            visit = f"m{12 * number}" if number else "bl"
            day = first + pd.Timedelta(days=366 * number)
            dx = rng.choice([*DX, ""], p=[0.3, 0.3, 0.3, 0.1])
            scores = dict.fromkeys(("CDRSB", "ADAS11", "ADAS13", "MMSE", "MOCA"), 5)
            known = {"RID": rid, "PTID": ptid, "VISCODE": visit, "EXAMDATE": day.date(), "DX": dx}
            visits.append({**known, "AGE": 70, "PTGENDER": "Male", "APOE4": 1, **scores})
            if rng.random() < 0.7:
                paths = {"t1_path": f"{rid}{visit}.nii", "fa_path": rng.choice(["", f"{rid}f.nii"])}
                images.append({"PTID": ptid, "VISCODE": visit, **paths})
    pd.DataFrame(visits).to_csv(tmp_path / "ADNIMERGE.csv", index=False)
    pd.DataFrame(images).to_csv(tmp_path / "images.csv", index=False)
    return tmp_path


def run(download, visit="latest", change=lambda visits: visits):
    """Run the idea cells and the call between them on the tables of a download."""
    visits = change(cohort.read_adnimerge(download / "ADNIMERGE.csv"))
    images = cohort.read_images(download / "images.csv")
    parameters = {"visit": visit, "val_fraction": 0.2}
    book = SimpleNamespace(parameters=parameters, seed=3, data_dir=None, label="made up")
    names = {"visits": visits, "images": images, "book": book}
    names |= {"pd": pd, "np": np, "DX": DX, "cohorts": cohort}
    ran = 0
    for source, tags in cells():
        if "idea" in tags or source.startswith("cohort, flow = "):
            exec(source, names)
            ran += 1
    assert ran == 5
    return names


@pytest.mark.parametrize("visit", ["latest", "earliest"])
def test_the_filters_written_out_are_those_of_the_core(download, visit):
    names = run(download, visit)
    table, by_hand = names["cohort"], names["by_hand"]
    assert 20 < len(table) < 60
    for column in ("RID", "PTID", "VISCODE", "AGE", "DX", "t1_path", "fa_path"):
        pd.testing.assert_series_equal(by_hand[column], table[column], check_dtype=False)
    assert names["part"].tolist() == table["split"].tolist()
    assert set(table["split"]) == {"train", "val", "test"}


def test_who_filters_visits_in_the_notebook_changes_the_cohort(download):
    whole = run(download)["cohort"]
    some = run(download, change=lambda visits: visits[visits["VISCODE"] == "bl"])["cohort"]
    assert set(some["VISCODE"]) == {"bl"} != set(whole["VISCODE"])


def test_the_chapter_reads_each_table_once():
    text = "\n".join(source for source, _ in cells())
    for reader in ("read_merged(book.data_dir", "list_images(book.data_dir"):
        assert text.count(reader) == 1


def test_smd_by_hand():
    smd = TABLE["smd"]
    a, b = pd.Series([1.0, 2, 3]), pd.Series([2.0, 3, 4])  # both of variance 1
    assert smd(a, b) == pytest.approx(-1)
    wide = pd.Series([0.0, 4])  # variance 8, against 2
    assert smd(pd.Series([0.0, 2]), wide) == pytest.approx(-1 / math.sqrt(5))
    assert smd(pd.Series([4.0, 4]), pd.Series([4.0, 4])) == 0


def test_table_one_by_hand():
    table = pd.DataFrame(
        {
            "DX": ["CN", "CN", "MCI", "Dementia", "Dementia"],
            "AGE": [70.0, 74, 80, 60, 62],
            "PTGENDER": ["Female", "Male", "Female", "Female", "Female"],
            "PTEDUCAT": [10.0] * 5,
            "APOE4": [0.0, 2, np.nan, 1, np.nan],
            "has_fa": [True, False, False, True, True],
            "split": ["train", "val", "train", "test", "test"],
            **{name: [1.0, 2, 3, 4, 5] for name in SCORES},
        }
    )
    found = TABLE["table_one"](table)
    assert found.loc["n", list(DX)].tolist() == ["2", "1", "2"]
    assert found.loc["age (years)", "CN"] == "72.0 (2.8)"
    assert found.loc["female (%)", list(DX)].tolist() == ["50", "100", "100"]
    assert found.loc["APOE4 carrier (%)", "CN"] == "50"
    assert found.loc["APOE4 carrier (%)", "Dementia"] == "100"  # of those who are known
    assert found.loc["with DTI-FA (%)", list(DX)].tolist() == ["50", "0", "100"]
    train, test = pd.Series([70.0, 74, 80]), pd.Series([60.0, 62])
    assert found.loc["age (years)", "SMD"] == f"{TABLE['smd'](train, test):.2f}"
    assert float(found.loc["age (years)", "SMD"]) > 0  # train minus test
    assert found.index[[1, 2, 4]].tolist() == ["age (years)", "female (%)", "APOE4 carrier (%)"]


def cell(start, **names):
    """Run the one cell that begins so, and return its names."""
    (source,) = (source for source, _ in cells() if source.startswith(start))
    exec(source, names)
    return names


def test_without_drift_cdrsb_gives_the_diagnosis_away_and_with_the_books_it_does_not():
    book = SimpleNamespace(seed=0)
    files = {"Path": Path, "TemporaryDirectory": TemporaryDirectory, "write": write}
    others = cell("def others", **files, cohorts=cohort, book=book)["others"]
    tree = {"DecisionTreeClassifier": DecisionTreeClassifier, "baselines": baselines}
    given_away = cell("def given_away", **tree)["given_away"]
    none, usual = (given_away(others(drift)) for drift in (0.0, tables.SCORE_DRIFT))
    assert none["CN at 0"] > 0.90 > 0.85 > usual["CN at 0"]  # ADNI: 0.93
    assert none["3 classes: logistic, all scores"] > 0.85 > usual["3 classes: logistic, all scores"]
    for found in (none, usual):
        assert found["CN at 0"] + found["CN at 0.5 or more"] == pytest.approx(1)
    people = pd.DataFrame({"DX": [*DX] * 20, "split": ["train"] * 45 + ["test"] * 15})
    people = people.assign(**dict.fromkeys(SCORES, 5.0), APOE4=0.0, AGE=70.0)
    people["CDRSB"] = people["DX"].map({"CN": 0.0, "MCI": 1.0, "Dementia": 5.0})
    assert given_away(people)["3 classes: tree on CDR-SB"] == 1
    people.loc[people["DX"] == "MCI", "CDRSB"] = 0.0  # told from CN no more
    assert given_away(people)["3 classes: tree on CDR-SB"] == pytest.approx(2 / 3)


def test_the_page_says_whether_scores_do_better_than_published(capsys):
    table = {"n (test)": [100, 100, 100, 4], "3 classes: a": [0.95, 0.7, 0.3, 0.9]}
    given = pd.DataFrame(table, index=["much", "equal", "worse", "few"])
    people = {"DX": ["CN", "CN", "MCI", "Dementia"], "CDRSB": [0.0, 0.5, 0.0, 1.0]}
    cell("best = ", given=given, known=0.7, np=np)
    cell("odd = ", cohort=pd.DataFrame(people))
    said = capsys.readouterr().out.splitlines()
    words = ("above", "not told apart from", "below", "not told apart from")
    assert [word in line for word, line in zip(words, said, strict=False)] == [True] * 4
    assert said[4:] == [
        "1 of 2 CN at CDR-SB 0.5 or more",
        "1 of 1 MCI at CDR-SB 0",
        "0 of 1 Dementia at CDR-SB below 1",
    ]


def test_people_who_revert_are_counted_by_hand(capsys):
    history = {"a": ["CN", "MCI", "CN"], "b": ["MCI", "MCI", "CN"], "c": ["MCI", "Dementia"]}
    rows = [(who, n, dx) for who, seen in history.items() for n, dx in enumerate(seen)]
    diagnosed = pd.DataFrame(rows[::-1], columns=["PTID", "EXAMDATE", "DX"])
    names = {"diagnosed": diagnosed, "pd": pd, "DX": DX, "book": SimpleNamespace(label="made up")}
    moves = cell("dated = ", **names)["moves"]
    assert moves.to_numpy().tolist() == [[0, 1, 0], [2, 1, 1], [0, 0, 0]]
    assert capsys.readouterr().out.startswith("2 of 4 visits with MCI are followed by CN: 2 people")


def test_what_was_measured_is_counted_by_phase_and_vendor_or_unknown():
    seen = []
    plots = SimpleNamespace(rows_of=lambda table, form: "", finish=lambda figure, label, words: 0)
    sns = SimpleNamespace(heatmap=lambda table, **_: seen.append(table))
    plt = SimpleNamespace(subplots=lambda **_: (None, MagicMock()))
    table = pd.DataFrame({"has_fa": [True, False, True], "MOCA": [20.0, np.nan, np.nan]})
    table = table.assign(COLPROT=["ADNI2", "ADNI2", "ADNI3"], MANUFACTURER=np.nan)
    names = {"pd": pd, "plt": plt, "sns": sns, "plots": plots, "book": SimpleNamespace(label="")}
    cell("known = pd.DataFrame", **names, cohort=table)
    assert list(seen[0]) == ["FA, unknown", "MoCA, unknown"]
    assert seen[0].to_numpy().tolist() == [[50, 50], [100, 0]]
    everybody = pd.concat([table.assign(COLPROT=name) for name in ("ADNI2", "ADNIGO", "ADNI1")])
    cell("known = pd.DataFrame", **names, cohort=everybody.reset_index(drop=True))
    in_time = ["ADNI1 (n = 3)", "ADNIGO (n = 3)", "ADNI2 (n = 3)"]
    assert list(seen[1].index) == in_time
