"""A run on real data: pseudonyms for people, groups for pictures, no identifier published."""

import json
import os
import shutil
import stat
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from conftest import make_real

from memoir_book import artefacts, check, plots, privacy, run
from memoir_book.scan_site import find_in_text, read_identifiers, scan
from memoir_core import captions, cohort, config, retrieval, volumes
from synthetic_adni.write import ensure_download


@pytest.fixture(scope="module")
def real(tiny_folders, tmp_path_factory):
    """What looks like a real download of 24 subjects."""
    root, profile = tiny_folders
    source = root / "cache" / "synthetic" / f"{profile.name}-{profile.subjects}"
    return make_real(source, tmp_path_factory.mktemp("home") / "Doe_ADNI_2012-05-31")


@pytest.fixture(scope="module")
def ids(real):
    return read_identifiers(real)


@pytest.fixture
def book(tiny, real, tmp_path, monkeypatch):
    """The run of chapter 1 on it."""
    monkeypatch.setenv("MEMOIR_RUNS", str(tmp_path / "runs"))
    opened = artefacts.start_chapter("01", profile="tiny", data_dir=str(real), device="cpu")
    table, _ = cohort.build_cohort(real, seed=0)
    cohort.write_cohort(opened, table)
    return opened


def silent(text, ids):
    """No identifier stands in a text."""
    assert [kind for *_, kind in find_in_text(str(text), ids)] == [], text


# --- pseudonyms -------------------------------------------------------------------------


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path, monkeypatch):
    path = tmp_path / "cache" / "pseudonym.key"
    monkeypatch.setattr(privacy, "key_path", lambda: path)
    first = privacy.pseudonym("subject", "999_S_9999")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert privacy.pseudonym("subject", "999_S_9999") == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert privacy.pseudonym("folder", "999_S_9999") != first
    assert list(path.parent.iterdir()) == [path]
    path.write_text("short\n")
    with pytest.raises(ValueError, match="64 hexadecimal"):
        privacy.secret_key()
    path.unlink()
    assert privacy.pseudonym("subject", "999_S_9999") != first, "another key, another name"


def test_a_case_number_tells_nothing_of_a_rid_and_the_split_is_the_same(tiny, real):
    synthetic, _ = cohort.build_cohort(tiny.run.data_dir, seed=0)
    table, _ = cohort.build_cohort(real, seed=0)
    assert table["subject"].is_monotonic_increasing
    assert not table["RID"].is_monotonic_increasing
    by_rid = table.sort_values("RID")
    assert by_rid["split"].tolist() == synthetic["split"].tolist()
    again, _ = cohort.build_cohort(real, seed=0)
    pd.testing.assert_frame_equal(table, again)


# --- what is stored ---------------------------------------------------------------------


def test_identifiers_are_stored_apart_for_the_owner_only(book, ids):
    public = pd.read_parquet(book.path("cohort.parquet"))
    assert not set(cohort.PRIVATE[1:]) & set(public)
    silent(public.to_csv(), ids)
    private = book.path("private", "subjects.parquet")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert "PTID" not in cohort.load_cohort(book)
    whole = cohort.load_cohort(book, private=True)
    assert whole["PTID"].str.fullmatch(cohort.PTID).all()
    assert len(whole) == len(public)


def test_names_and_settings_of_a_run_hide_the_data_folder(book, real, ids):
    for text in (book.name, book.path("run.json").read_text(), book.label):
        silent(text, ids)
        assert "Doe" not in text
    with pytest.raises(artefacts.RunMismatchError) as error:
        artefacts.start_chapter("01", profile="tiny", run=book.name, device="cpu")
    silent(error.value, ids)
    assert "Doe" not in str(error.value)


def test_the_state_of_a_chapter_hides_the_data_folder(book, real):
    parameters = {"profile": "tiny", "data_dir": str(real)}
    print_ = run.fingerprint(config.get_chapter("01"), parameters, book.dir)
    assert "Doe" not in json.dumps(print_)


# --- errors -----------------------------------------------------------------------------


@pytest.fixture
def broken(real, tmp_path):
    folder = tmp_path / "Doe_ADNI_broken"
    shutil.copytree(real, folder, copy_function=os.link)
    for name in ("ADNIMERGE.csv", "images.csv"):  # links would change the other download
        text = (folder / name).read_text()
        (folder / name).unlink()
        (folder / name).write_text(text)
    return folder


def damage(folder, kind):
    visits = pd.read_csv(folder / "ADNIMERGE.csv", dtype=str, keep_default_na=False)
    images = pd.read_csv(folder / "images.csv", dtype=str, keep_default_na=False)
    listed = images.index[images["t1_path"] != ""]
    if kind == "visit twice":
        visits = pd.concat([visits, visits.head(1).assign(MMSE="11")])
    elif kind == "image row twice":
        images = pd.concat([images, images.loc[listed[:1]].assign(fa_path="x")])
    elif kind == "bad date":
        visits.loc[0, "EXAMDATE"] += " (first)"
    elif kind == "missing image":
        (folder / images["t1_path"][listed[0]]).unlink()
    elif kind == "copied image":
        table, _ = cohort.build_cohort(folder, seed=0)
        one, two = (table[table["split"] == part].iloc[0] for part in ("train", "test"))
        (folder / two["t1_path"]).unlink()
        os.link(folder / one["t1_path"], folder / two["t1_path"])
    visits.to_csv(folder / "ADNIMERGE.csv", index=False)
    images.to_csv(folder / "images.csv", index=False)


@pytest.mark.parametrize(
    "kind", ["visit twice", "image row twice", "bad date", "missing image", "copied image"]
)
def test_errors_name_lines_and_only_the_check_names_people(broken, ids, kind, capsys, tmp_path):
    damage(broken, kind)
    with pytest.raises(cohort.CohortError) as error:
        cohort.build_cohort(broken, seed=0)
    silent(error.value, ids)
    assert "Doe" not in str(error.value)
    assert "memoir_book.check" in str(error.value), "it says where the name can be had"
    table = tmp_path / "problems.csv"
    assert check.main([str(broken), "--csv", str(table), "--skip-images"]) == 1
    listed = capsys.readouterr().out + table.read_text()
    assert list(find_in_text(listed, ids)), "the check names it"


def test_a_bad_volume_is_named_by_the_check_only(book, broken, ids):
    from dataclasses import replace

    table = cohort.load_cohort(book, private=True)
    bad = broken / table["t1_path"][3]
    content = bad.read_bytes()
    bad.unlink()
    bad.write_bytes(content[:3000])
    with pytest.raises(volumes.VolumeError) as error:
        volumes.write_volumes(replace(book, data_dir=broken), table)
    silent(error.value, ids)
    assert "Doe" not in str(error.value) and error.value.__suppress_context__
    assert "a volume cannot be read" in str(error.value)


# --- groups in place of people ----------------------------------------------------------


def test_real_subjects_are_shown_only_if_asked(book, tiny):
    assert not book.individual and tiny.run.individual
    options = {"profile": "tiny", "run": book.name, "data_dir": str(book.data_dir)}
    asked = artefacts.start_chapter("01", **options, device="cpu", publish_individual=True)
    assert asked.individual


def test_groups_of_fewer_than_ten_are_refused(book, tiny, capsys):
    groups = {"many": range(10), "few": range(9)}
    assert list(privacy.large_enough(book, groups)) == ["many"]
    assert "few" in capsys.readouterr().out
    with pytest.raises(privacy.SmallGroupError, match="few has 9 people"):
        privacy.check_groups(book, groups)
    privacy.check_groups(tiny.run, groups)
    assert privacy.large_enough(tiny.run, groups) == groups


def test_a_picture_of_real_data_is_a_mean_of_at_least_ten(book):
    shown = volumes.examples(book, cohort.load_cohort(book), "t1")
    assert list(shown) == ["all classes, mean of 24"], "no class of this download has ten"
    some = cohort.load_cohort(book, private=True).head(9)
    cohort.write_cohort(book, some)
    with pytest.raises(privacy.SmallGroupError, match="9 subjects"):
        volumes.examples(book, some, "t1")


def test_a_picture_of_synthetic_data_is_that_of_a_subject(tiny):
    alone = volumes.examples(tiny.run, tiny.cohort, "t1")
    assert len(alone) == 3 and all("case" in name for name in alone)


def test_a_caption_of_real_data_is_that_of_a_group(book, tiny):
    table = cohort.load_cohort(book)
    name, record = captions.example(book, table)
    assert name == "medians of 24 subjects"
    assert record["MMSE"] == table["MMSE"].median()
    own = set(map(str, tiny.cohort["case"]))
    assert captions.caption(record) not in {captions.caption(r) for r in table.to_dict("records")}
    with pytest.raises(privacy.SmallGroupError):
        captions.example(book, table.head(9))
    assert captions.example(tiny.run, tiny.cohort)[0] == "case 0" and "0" in own


def test_figures_of_groups_hold_no_case(tiny):
    import matplotlib.pyplot as plt

    cases = tiny.cohort["case"].to_numpy()
    rows = [
        {"case": int(c), "protocol": p, "retrieved": list(range(6)), "scores": [0.5] * 6}
        | {"reranked": [0, 1, 2], "rerank_scores": [0.1] * 3}
        for c in cases[6:]
        for p in ("blind", "own_caption")
    ]
    groups = retrieval.query_groups(rows, tiny.cohort)
    assert sum(len(groups[name]) for name in groups if "queries" in name) == len(cases) - 6
    z = pd.DataFrame({"a": range(24), "b": range(24)})
    figures = [
        plots.mean_ranks(rows, tiny.cohort, "t"),
        plots.mean_slices(groups, tiny.volumes.t1, "t"),
        plots.mean_slices({}, tiny.volumes.t1, "t"),
        plots.robust_z(z, 3.5, "t"),
    ]
    for figure in figures:
        assert "case" not in " ".join(t.get_text() for t in figure.findobj(plt.Text))
    plt.close("all")


# --- what is published ------------------------------------------------------------------


def executed(path, real, text="fine"):
    """An executed notebook, as papermill leaves it."""
    parameter = nbformat.v4.new_code_cell(f'data_dir = "{real}"\n')
    cell = nbformat.v4.new_code_cell("show()", execution_count=1)
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=text),
        nbformat.v4.new_output("stream", name="stderr", text=f"{real}/x: a warning"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[parameter, cell])
    notebook.metadata["papermill"] = {"parameters": {"data_dir": str(real)}, "output": str(path)}
    nbformat.write(notebook, path)
    return path


def test_the_data_folder_leaves_no_trace_in_an_executed_notebook(tmp_path, real, ids):
    path = executed(tmp_path / "01_cohort.ipynb", real)
    assert scan([path], ids) != []
    run.tidy(path, str(real))
    assert scan([path], ids) == []
    content = path.read_text()
    assert "Doe" not in content and 'data_dir = \\"DATA\\"' in content
    assert str(tmp_path) not in content
    assert json.loads(content)["metadata"]["memoir"] == {"cohort": "ADNI"}


def test_a_notebook_with_an_identifier_is_not_published(tmp_path, real, ids, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    ptid = sorted(ids.ptids)[0]
    ptid = f"{ptid[:3]}_S_{ptid[4:]}"
    published = tmp_path / "book" / "chapters" / "01_cohort.ipynb"
    path = executed(tmp_path / "01_cohort.ipynb", real)
    run.tidy(path, str(real))
    assert run._publish(path, ids) == "" and published.exists()
    executed(path, real, f"subject {ptid}")
    run.tidy(path, str(real))
    message = run._publish(path, ids)
    assert "PTID" in message and ptid not in message
    assert not published.exists(), "the old copy goes too"


def test_the_guard_is_for_real_data_only(tiny, real):
    assert run._guard("") is None and run._guard(str(tiny.run.data_dir)) is None
    assert run._guard(str(real)).ptids


CHAPTERS_WITH_PEOPLE = ("01", "02", "07", "08", "09")


@pytest.mark.parametrize("number", CHAPTERS_WITH_PEOPLE)
def test_chapters_that_show_people_ask_first(number):
    chapter = config.get_chapter(number)
    assert run.own_parameters(chapter)["publish_individual"] is False
    code = "".join(c.source for c in nbformat.read(chapter.notebook, as_version=4).cells)
    assert "publish_individual=publish_individual" in code


@pytest.mark.endtoend
def test_chapters_on_real_data_hold_no_identifier(tmp_path):
    """Chapters 1 and 2 by the runner, on the smoke profile's download made to look real."""
    profile = config.PROFILES["smoke"]
    source = ensure_download(
        artefacts.synthetic_dir(profile), profile.subjects, profile.fa_fraction
    )
    real = make_real(source, tmp_path / "Doe_ADNI")
    ids = read_identifiers(real)
    code = (
        "import sys, pathlib; from memoir_core import config; from memoir_book import run\n"
        "root, config.ROOT = config.ROOT, pathlib.Path(sys.argv[1])\n"
        "for name in ('notebooks', 'memoir_core', 'requirements.txt'):\n"
        "    (config.ROOT / name).symlink_to(root / name)\n"
        "sys.exit(run.main(sys.argv[2:]))"
    )
    (tmp_path / "root").mkdir()
    options = ["--profile", "smoke", "--device", "cpu", "--data", str(real), "--to", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "root"), *options],
        env=os.environ
        | {"MEMOIR_RUNS": str(tmp_path / "runs"), "MEMOIR_CACHE": str(tmp_path / "cache")}
        | {"PYTHONPATH": str(config.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    silent(done.stdout + done.stderr, ids)
    pages = sorted((tmp_path / "root" / "book" / "chapters").glob("*.ipynb"))
    assert [page.stem[:2] for page in pages] == ["01", "02"]
    assert scan(pages, ids) == []
    assert (tmp_path / "cache" / "pseudonym.key").exists()
    (folder,) = (tmp_path / "runs").iterdir()
    everywhere = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "private"]
    everywhere += [p for p in (tmp_path / "cache").rglob("*") if p.suffix != ".npy"]
    for path in everywhere:
        silent(path.relative_to(tmp_path), ids)
        if path.suffix in (".json", ".ipynb", ".csv"):
            assert scan([path], ids) == [], path.name
