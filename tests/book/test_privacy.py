"""The last look at what may leave a run: planted identifiers are found, figures are not."""

import pytest

from memoir_book import privacy, published

PLANTED = {
    "PTID": ["941_S_1234", "941S1234", "941-s-12345", "sub-ADNI941S1234", "941%5FS%5F1234",
             "941 S 1234", '"941_S_1234.t1"'],
    "RID": ["RID 4213", '"RID": 4213', "rid=0007", "subject 295", "Participant ID: 12",
            "<th>RID</th><td>4213</td>", "S_1234", "patient no. 7"],
    "image ID": ["I45108", "image uid 45108", '"IMAGEUID": "I451080"'],
    "date": ["2012-05-31", "2012/05/31", "20120531", "31.05.2012", "5/31/2012", "31/05/2012",
             "5/31/12", "31 May 2012", "May 31, 2012", "31-May-2012", "on 3rd June 2009"],
    "path": ["/home/doe/adni", "/data/x/y.csv", r"C:\\Users\\doe", "a_T1w.nii.gz", "scan.mgz",
             "see cohort.parquet", "(/mnt/share)"],
}  # fmt: skip
CLEAN = [
    "n = 295", "2,363 subjects", "0.707 (0.680–0.730)", "69,256,265", "torch 2.13.0+cpu",
    "python 3.11.7", "1e-05", "subjects, 474", "ADNI cohort, profile paper, seed 0, cpu",
    "91 x 109 x 91", "320 s", "T1 + DTI-FA", "heads, AUC", "grid 1234", "I = 3", "MAE, age, years",
    "the others of its group", "font: 6.6pt/1.22", "</td></tr>", "MedGemma 1.5 4B IT",
    "c0ffee00c0ffee00c0ffee00c0ffee0020120531", "share to 0.1 percentage point",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text"), [(k, text) for k, texts in PLANTED.items() for text in texts]
)
def test_an_identifier_is_found_in_usual_spellings(kind, text):
    assert kind in privacy.kinds(f"<p>before {text} after</p>"), text


def test_every_rule_finds_the_example_that_names_it():
    for kind, rules in published.load("privacy.json")["kinds"].items():
        for example, rule in zip(rules, privacy.PATTERNS[kind], strict=True):
            assert rule.search(example), example


@pytest.mark.parametrize("text", CLEAN)
def test_figures_and_names_are_none(text):
    assert privacy.kinds(f"<p>{text}</p>") == []


def test_what_the_download_holds_is_found_whatever_its_form():
    assert privacy.kinds("as in ABC-77, x", ["abc-77"]) == ["text of the download"]
    assert privacy.kinds("nothing here", ["abc-77", ""]) == []


def test_a_finding_names_file_and_kind_and_never_the_identifier(tmp_path):
    (tmp_path / "a.json").write_text('{"figure": "941_S_1234 of 2012-05-31"}')
    (tmp_path / "b.html").write_text("<p>n = 12</p>")
    with pytest.raises(privacy.PrivateDataError) as error:
        privacy.look(tmp_path.iterdir())
    said = str(error.value)
    assert "a.json: PTID" in said and "a.json: date" in said and "b.html" not in said
    assert "941" not in said and "2012" not in said
    privacy.look([tmp_path / "b.html"])
