"""Headlines of every chapter, bands that mean something, and runs side by side."""

import json
import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from memoir_book import chapters, published, seeds
from memoir_core.files import write_json

DX3, AUC = "diagnosis, three classes (balanced accuracy)", "CN v dementia (AUC)"


def finish(name, seed, dx3=0.5, profile="smoke", device="cpu", cohort="synthetic"):
    """Leave chapter 5's results in a run folder."""
    source = {"label": f"{cohort} cohort", "cohort": cohort, "run": name, "profile": profile}
    source |= {"seed": seed, "device": device, "versions": {"torch": "2"}, "system": "Linux"}
    value = {"value": dx3, "low": dx3 - 0.1, "high": dx3 + 0.1}
    results = {"metrics": {"dx3": {"balanced_accuracy": value}}, "n_test": 105}
    path = chapters.runs_dir() / name / "results" / "05_stage2_multitask.json"
    write_json(path, {"provenance": source, "seconds": 1.0, "results": results})
    return name


@pytest.fixture
def file(tmp_path, monkeypatch, runs):
    monkeypatch.setattr(seeds, "FILE", tmp_path / "bands.json")
    monkeypatch.delenv("MEMOIR_BANDS", raising=False)
    return tmp_path / "bands.json"


class Book:
    """As much of a run as `check` looks at."""

    def __init__(self, name, chapter="05_stage2_multitask", synthetic=True, device="cpu"):
        self.name, self.chapter, self.synthetic, self.device = name, chapter, synthetic, device
        self.label = f"run {name}"
        self.profile = type("Profile", (), {"name": "smoke"})

    def path(self, *parts):
        return chapters.runs_dir() / self.name / "/".join(parts)


def test_every_chapter_has_headlines_and_published_ones_are_published():
    assert list(seeds.HEADLINES) == [chapter.number for chapter in chapters.CHAPTERS]
    for headlines in seeds.HEADLINES.values():
        for kind, where, known in headlines.values():
            assert kind in ("share", "error", "count") and where
            assert not known or isinstance(published.figure(known), int | float)


def test_a_path_picks_one_number_with_what_stands_beside_it():
    rows = [{"llm": "a", "p": "x", "value": 1, "n": 3}, {"llm": "a", "p": "y", "value": 2, "n": 4}]
    results = {"scores": rows, "m": {"value": 0.5, "low": 0.4, "high": 0.6}, "nan": np.nan}
    assert seeds.pick(results, "scores/llm=a/p=y/value") == {"value": 2.0, "n": 4}
    assert seeds.pick(results, "m") == {"value": 0.5, "low": 0.4, "high": 0.6}
    for nowhere in ("scores/llm=b/value", "nothing/there", "m/low/x", "nan"):
        assert seeds.pick(results, nowhere) == {}


# --- bands ------------------------------------------------------------------------------


def test_a_band_by_hand():
    low, high = seeds.band("share", [0.5, 0.5, 0.5], 100)  # seeds agree: sampling error alone
    assert np.log(high / (1 - high)) == pytest.approx(2.5 * 0.2) and low == pytest.approx(1 - high)
    low, high = seeds.band("error", [1.0, np.e**2], 1e9)  # many people: the seeds' spread alone
    assert (np.log(low), np.log(high)) == pytest.approx((1 - 2.5 * 2**0.5, 1 + 2.5 * 2**0.5))
    assert seeds.band("count", [72.0, 72.0], 15) == (72.0, 72.0)


@pytest.mark.parametrize("n", [15, 105, 474])
@pytest.mark.parametrize(
    "values", [[0.64, 0.71, 0.69], [0.95, 0.99, 1.0], [1.0, 1.0], [0.0, 0.0, 0.1], [0.2, 0.8]]
)
def test_a_band_of_a_share_holds_its_seeds_and_stays_a_share(values, n):
    low, high = seeds.band("share", values, n)
    assert 0 <= low <= min(values) and max(values) <= high <= 1


def test_a_band_of_an_error_is_positive_and_holds_its_seeds():
    low, high = seeds.band("error", [0.31, 0.47, 0.58], 105)
    assert 0 < low < 0.31 and 0.58 < high < 1.2


def test_a_band_refuses_broken_values():
    low, high = seeds.band("share", [0.66, 0.69, 0.72], 105)
    assert low > 0.5 and high < 0.85, "a diagnosis at chance, 1/3, or too good to be true"
    low, high = seeds.band("share", [0.98, 0.99, 0.985], 70)
    assert low > 0.8, "an AUC at chance"
    low, high = seeds.band("error", [5.4, 5.6, 5.5], 105)
    assert low > 4 and high < 8, "an age predicted as 0, or read in months"


def test_seeds_that_part_make_a_wider_band():
    close, apart = (seeds.band("share", v, 105) for v in ([0.69, 0.7, 0.71], [0.6, 0.7, 0.8]))
    assert apart[0] < close[0] and close[1] < apart[1]


def test_bands_are_made_from_runs_and_keep_what_they_came_from(file, capsys):
    names = [finish(f"s-seed{seed}", seed, v) for seed, v in enumerate((0.5, 0.6))]
    assert seeds.main(["bands", *names]) == 0
    stored = json.loads(file.read_text())["smoke"]["cpu"]
    assert stored["seeds"] == [0, 1] and stored["runs"][0]["versions"] == {"torch": "2"}
    entry = stored["chapters"]["05"][DX3]
    assert entry["values"] == {"0": 0.5, "1": 0.6} and entry["n"] == 105
    assert (entry["low"], entry["high"]) == pytest.approx(
        seeds.band("share", [0.5, 0.6], 105), abs=1e-5
    )
    seeds.main(
        ["bands", finish("g0", 0, 0.5, device="cuda:0"), finish("g1", 1, 0.5, device="cuda")]
    )
    assert set(json.loads(file.read_text())["smoke"]) == {"cpu", "cuda"}


def test_in_is_in_and_out_is_out(file, monkeypatch, capsys):
    seeds.main(["bands", finish("a-seed0", 0, 0.5), finish("a-seed1", 1, 0.6)])
    monkeypatch.setenv("MEMOIR_BANDS", "strict")
    for value, word in ((0.5, "in "), (0.6, "in "), (0.99, "OUT"), (0.2, "OUT")):
        book = Book(finish("new", 9, value))
        if word == "OUT":
            with pytest.raises(AssertionError, match=r"three classes.*make the bands anew"):
                seeds.check(book)
        else:
            seeds.check(book)
        assert f"{word}  {DX3}: {value:.3g}" in capsys.readouterr().out
    monkeypatch.delenv("MEMOIR_BANDS")
    seeds.check(book)  # a reader is only told


def test_a_chapter_without_a_band_fails_where_it_must(file, monkeypatch, capsys):
    book = Book(finish("new", 9))
    seeds.check(book)
    assert "none for profile smoke on cpu" in capsys.readouterr().out
    monkeypatch.setenv("MEMOIR_BANDS", "strict")
    with pytest.raises(AssertionError, match="chapter 05: every headline without"):
        seeds.check(book)
    seeds.main(["bands", finish("a-seed0", 0), finish("a-seed1", 1)])
    with pytest.raises(AssertionError):
        seeds.check(Book("new", device="cuda:0"))  # bands of another kind of device
    path = book.path("results", "05_stage2_multitask.json")
    write_json(path, json.loads(path.read_text()) | {"results": {}})
    with pytest.raises(AssertionError, match="three classes"):  # the headline has gone
        seeds.check(book)
    seeds.check(Book("new", synthetic=False))
    assert "none for real data" in capsys.readouterr().out


def test_runs_that_do_not_belong_together_are_refused(file, capsys):
    for names, message in (
        ([finish("a", 0)], "at least two runs"),
        ([finish("a", 0), finish("again", 0)], "of different seeds"),
        ([finish("a", 0), finish("q", 1, profile="quick")], "one profile"),
        ([finish("a", 0), finish("r", 1, cohort="ADNI")], "synthetic"),
        ([finish("a", 0), "absent"], "runs with results: a,"),
    ):
        with pytest.raises(SystemExit):
            seeds.main(["bands", *names])
        assert message in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize("profile", ["smoke", "quick"])
def test_the_stored_bands_know_every_chapter(profile):
    """`make notebooks` holds smoke against them; a reader's quick run is told."""
    stored = json.loads(seeds.FILE.read_text())[profile]["cpu"]
    assert len(set(stored["seeds"])) >= 3
    for number, headlines in seeds.HEADLINES.items():
        assert set(stored["chapters"][number]) == set(headlines), number
    for found in stored["chapters"].values():
        for entry in found.values():
            assert all(entry["low"] <= v <= entry["high"] for v in entry["values"].values())
            assert entry["kind"] != "share" or 0 <= entry["low"] <= entry["high"] <= 1


# --- a rerun that is sent in ------------------------------------------------------------


@pytest.fixture
def mine(file, tmp_path):
    """Bands of chapter 5, and a function that exports a run of a given result."""
    seeds.main(["bands", finish("a-seed0", 0, 0.5), finish("a-seed1", 1, 0.6)])

    def export(value, **where):
        name, path = finish("new", 9, value, **where), tmp_path / "mine.json"
        seeds.main(["export", name, "--out", str(path)])
        return path

    return export


def test_a_rerun_is_judged_by_machine(mine, capsys):
    path = mine(0.55)
    capsys.readouterr()
    assert seeds.main(["compare", str(path)]) == 0
    said = capsys.readouterr().out
    assert said == "1 of 1 headlines in band\nAs another seed may have it (p = 1)\n"
    told = json.loads(path.read_text())
    assert told["headlines"] == {"05": {DX3: 0.55}} and told["seed"] == 9
    assert set(told) == {"profile", "seed", "device", "versions", "system", "headlines"}
    assert seeds.judge(mine(0.99)) == [f"chapter 05, {DX3}: 0.990 (band 0.374 to 0.715)"]
    said = capsys.readouterr().out
    assert said.startswith(f"0 of 1 headlines in band, out:\n  chapter 05, {DX3}: 0.990 (band")


def test_many_out_of_band_are_more_than_another_seed(mine, file, capsys):
    stored = json.loads(file.read_text())
    bands = stored["smoke"]["cpu"]["chapters"]["05"]
    bands |= {f"headline {k}": bands[DX3] for k in range(27)}
    file.write_text(json.dumps(stored))
    path = mine(0.55)
    for out, words in ((1, "As another seed may have it"), (5, "More than another seed explains")):
        told = json.loads(path.read_text())
        given = {f"headline {k}": 0.55 if k >= out else 0.99 for k in range(27)}
        told["headlines"]["05"] |= given
        path.write_text(json.dumps(told))
        assert len(seeds.judge(path)) == out
        p = stats.binom.sf(out - 1, 28, 1 / 30)
        assert f"{28 - out} of 28" in (said := capsys.readouterr().out)
        assert f"{words} (p = {p:.2g})" in said


def test_a_headline_that_is_not_sent_is_not_in_band(mine):
    path = mine(0.55)
    for value in (None, float("nan"), float("inf"), "gone"):
        told = json.loads(path.read_text())
        told["headlines"]["05"] = {} if value == "gone" else {DX3: value if value else "nan"}
        path.write_text(json.dumps(told))
        assert len(seeds.judge(path)) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda told: told.pop("profile"), "profile"),
        (lambda told: told.pop("headlines"), "headlines"),
        (lambda told: told.update(profile="paper"), "paper"),
        (lambda told: told.update(device="cuda:0"), "cuda"),
        (lambda told: told.update(device=None), "NoneType"),
        (lambda told: told.update(headlines=[1]), "list"),
        (lambda told: told["headlines"].update({"05": {DX3: "good"}}), "good"),
        (lambda told: told["headlines"].update({"05": {DX3: [0.5]}}), "list"),
    ],
)
def test_what_is_no_export_is_refused(mine, capsys, change, why):
    told = json.loads((path := mine(0.55)).read_text())
    change(told)
    path.write_text(json.dumps(told))
    with pytest.raises(SystemExit):
        seeds.main(["compare", str(path)])
    said = capsys.readouterr().err
    assert "mine.json is not what `seeds export` writes" in said and why in said
    path.write_text("{")
    with pytest.raises(SystemExit):
        seeds.main(["compare", str(path)])
    assert "mine.json is damaged" in capsys.readouterr().err


def test_nothing_on_real_people_is_exported(mine, tmp_path, capsys):
    with pytest.raises(SystemExit):
        mine(0.55, cohort="ADNI")
    assert "not of the synthetic cohort" in capsys.readouterr().err
    assert not (tmp_path / "mine.json").exists()


# --- runs side by side ------------------------------------------------------------------


def test_a_comparison_of_real_people_is_its_owners(runs):
    for cohort, mode in (("synthetic", 0o755), ("ADNI", 0o700)):
        folder = seeds.compare([finish(f"{cohort}-seed0", 0, cohort=cohort)], cohort)
        assert folder.stat().st_mode & 0o777 == mode
    assert (folder / "table.md").stat().st_mode & 0o777 == 0o600


def test_seeds_are_averaged_with_an_interval_over_runs(runs, capsys):
    names = [finish(f"base-seed{k}", k, v) for k, v in enumerate((0.5, 0.6, 0.7))]
    folder = seeds.compare([*names, finish("other-seed0", 0, 0.4)], "c")
    # Student's t with two degrees of freedom; the test parts overlap
    half = 4.302652729911275 * 0.1 * np.sqrt(1 / 3 + 0.2 / 0.68)
    cells = cells_of(folder)
    assert cells[0] == f"0.600 ({0.6 - half:.3f} to {published.number(0.6 + half)}), 3 seeds"
    assert cells[1] == "0.400 (0.300 to 0.500)"  # a single run: its own interval
    assert cells[2] == "no test of 1 common seeds: three of one cohort and profile are needed"
    table = pd.read_csv(folder / "figures.csv")
    assert table["group"].tolist() == ["base"] * 3 + ["other"] and len(table) == 4
    assert "synthetic cohort" in capsys.readouterr().out


def cells_of(folder):
    row = next(x for x in (folder / "table.md").read_text().splitlines() if DX3 in x)
    return [cell.strip() for cell in row.split("|")[2:-1]]


def test_the_corrected_t_is_the_naive_one_with_a_larger_variance():
    values, ratio = [0.02, 0.05, 0.01, 0.04, 0.06], 0.25
    naive = stats.ttest_1samp(values, 0)
    found = seeds.corrected_t(values, ratio)
    t = naive.statistic / np.sqrt((1 / 5 + ratio) / (1 / 5))
    assert found["p"] == pytest.approx(2 * stats.t.sf(t, 4)) and found["value"] == 0.036
    assert found["low"] < 0 < found["high"] and naive.pvalue < 0.05 < found["p"]
    assert found["high"] - found["low"] == pytest.approx(
        1.5 * np.diff(naive.confidence_interval(0.95))[0]
    )
    # Ten repetitions of 90 and 10 %: mean 1, SD 1, so t = 1 / sqrt(1/10 + 1/9)
    ten = stats.zscore(np.arange(10.0), ddof=1) + 1
    assert seeds.corrected_t(ten, 1 / 9)["p"] == pytest.approx(2 * stats.t.sf(2.176429, 9))
    for some, why in ((values[:2], "needed"), ([0.1] * 5, "alike")):
        with pytest.raises(ValueError, match=why):
            seeds.corrected_t(some)


def test_seeds_of_one_pool_find_no_difference_where_none_is():
    """Ten splits of 500 people of whom nobody gains: the naive t says so far too seldom."""
    rng, wrong = np.random.default_rng(0), {"naive": 0, "corrected": 0}
    for _ in range(400):
        gains = rng.normal(size=500)
        means = [rng.permutation(gains)[:100].mean() for _ in range(10)]
        wrong["naive"] += stats.ttest_1samp(means, 0).pvalue < 0.05
        wrong["corrected"] += seeds.corrected_t(means)["p"] < 0.05
    assert wrong["naive"] > 0.15 * 400 and wrong["corrected"] < 0.08 * 400


def test_a_difference_is_taken_within_a_seed(runs):
    gains = (0.03, 0.05, 0.04, 0.05)
    base = [finish(f"base-seed{k}", k, 0.4 + 0.1 * k) for k in range(4)]
    half = [finish(f"half-seed{k}", k, 0.4 + 0.1 * k + gain) for k, gain in enumerate(gains)]
    found = seeds.corrected_t(gains)
    low, high = (published.number(found[end]) for end in ("low", "high"))
    said = cells_of(seeds.compare([*base, *half[::-1]], "d"))[2]  # in any order
    assert said == f"0.043 ({low} to {high}), p = {found['p']:.3f}, 4 seeds" and found["low"] > 0
    cells = cells_of(seeds.compare([*base[:3], *half[1:]], "d"))
    assert cells[2].startswith("no test of 2 common seeds")
    other = [finish(f"q-seed{k}", k, 0.5 + 0.1 * k, profile="quick") for k in range(4)]
    assert cells_of(seeds.compare([*base, *other], "d"))[2].startswith("no test of 0 common")
    again = [*base, finish("base", 0, 0.5)]  # two runs of one seed are no pair
    assert cells_of(seeds.compare([*half, *again], "d"))[2] == "no test: a seed comes twice"


def test_snakemake_plans_a_sweep(runs):
    """Every chapter of every run once, in order; needs requirements-sweep.txt."""
    program = shutil.which(
        "snakemake", path=f"{chapters.ROOT}/.venv/sweep/bin:{os.environ['PATH']}"
    )
    if program is None:
        pytest.skip("Snakemake is optional: see requirements-sweep.txt")
    command = [program, "-n", "--quiet", "rules", "--config", "seeds=[0,1]"]
    done = subprocess.run(
        [*command, 'sweep={"base":{},"half":{"drop_fa":0.5}}'],
        cwd=chapters.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for chapter in chapters.CHAPTERS:
        assert f"chapter_{chapter.number} " in done.stdout, done.stdout
    assert "compare" in done.stdout
