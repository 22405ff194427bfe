"""The network that the pages run: equal to PyTorch's, stored small, and never of real people."""

import re
import shutil
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from test_browser import browser  # noqa: F401 - a fixture
from torch.nn.functional import normalize

from memoir_book import live, manifest
from memoir_book.chapters import ROOT
from memoir_book.privacy import PrivateDataError
from memoir_core import model
from memoir_core.config import DX, MODALITIES, SCORES
from memoir_core.data import APOE_MISSING, Scaler
from memoir_core.files import write_json, write_jsonl

SYNTHETIC = {"profile": "smoke", "seed": 0, "data": ""}
STATISTICS = Scaler((2.0, 11.6, 18.2, 26.4, 22.3), (2.4, 7.1, 11.1, 3.2, 4.6), 75, 7, 2, 2.4, 0, 1)
CLOSE = 1e-4


def network():
    """A network whose parts all matter: far from the zeros and ones with which it begins."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # no page has the image encoders
        patch.setattr(model, "ImageEncoder", torch.nn.Identity)
        made = model.Memoir().eval()
    with torch.no_grad():
        made.fusion.query.mul_(40)
        made.fusion.modality.mul_(20)
        made.fusion.attention.in_proj_bias.normal_()
        made.clinical.mlp[5].running_mean.normal_()
        made.clinical.mlp[5].running_var.uniform_(0.5, 2)
        for norm in (made.fusion.norm, made.fusion.out):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    return made


@torch.no_grad()
def write_run(folder, made=None):
    """What the export reads of a run: 60 people, every fourth without FA, some scores unknown."""
    rng = np.random.default_rng(0)
    n, case = 60, np.arange(60)
    cohort = pd.DataFrame({"case": case, "split": np.where(case % 4, "train", "test")})
    cohort["DX"], cohort["PTGENDER"] = (
        np.array(DX)[case % 3],
        np.array(["Male", "Female"])[case % 2],
    )
    cohort["AGE"], cohort["APOE4"] = (
        rng.uniform(60, 90, n),
        np.array([0, 1, 2, np.nan])[case // 4 % 4],
    )
    for score, mean, std in zip(SCORES, STATISTICS.score_mean, STATISTICS.score_std, strict=True):
        cohort[score] = np.where(rng.random(n) < 0.2, np.nan, rng.normal(mean, std, n).round(2))
    for name in ("PTID", "RID", "t1_path", "fa_path"):
        cohort[name] = [f"{name}{i}" for i in case]
    z = normalize(torch.randn(n, 3, 512, generator=torch.Generator().manual_seed(1)), dim=2)
    present = torch.ones(n, 3, dtype=torch.bool)
    present[::8, 1], z[::8, 1] = False, 0
    if made:  # the others are any unit vectors; the page computes these
        known = torch.from_numpy(cohort[[*SCORES]].notna().to_numpy()).float()
        raw = cohort[[*SCORES]].sub(STATISTICS.score_mean).div(STATISTICS.score_std).fillna(0)
        apoe = torch.tensor(cohort["APOE4"].fillna(APOE_MISSING).astype(int).tolist())
        z[:, 2] = made.clinical(torch.tensor(raw.to_numpy()).float(), known, apoe)
    fused = normalize(torch.randn(n, 512, generator=torch.Generator().manual_seed(2)))
    (folder / "stage2").mkdir(parents=True)
    cohort.to_parquet(folder / "cohort.parquet")
    np.savez(folder / "stage2" / "embeddings.npz", z=z, present=present, z_fused=fused)
    words = [
        {"case": i, "split": s, "caption": f"</script> {i}"}
        for i, s in zip(case.tolist(), cohort["split"], strict=True)
    ]
    write_jsonl(folder / "captions.jsonl", words)
    told = {"provenance": {"label": "a label"}}
    write_json(folder / "results" / "05_stage2_multitask.json", told)
    return cohort, z, present, fused


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a page that runs an exported network, and the network that it should be."""
    folder = tmp_path_factory.mktemp("live")
    rounded = network()  # `export` rounds it in place
    cohort, z, present, fused = write_run(folder / "r", rounded)
    state = rounded.state_dict().items()
    before = {k: v.clone() for k, v in state if not k.startswith(("t1.", "fa."))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMOIR_RUNS", str(folder))
        patch.setattr(live, "load_trained", lambda _: (rounded, STATISTICS))
        live.export("r", SYNTHETIC, folder / "model.js")
    for name in ("try.js", "try.css"):
        shutil.copy(ROOT / "book" / "_static" / name, folder)
    (folder / "page.html").write_text(
        '<!doctype html><html lang="en"><title>t</title><link rel="stylesheet" href="try.css">'
        '<script defer src="try.js"></script><main><div class="memoir-try"></div></main></html>'
    )
    return folder, rounded, cohort, z, present, fused, before


@pytest.fixture
def page(browser, exported):  # noqa: F811
    opened = browser.new_page()
    problems = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto((exported[0] / "page.html").as_uri())  # from the disk, where nothing can be fetched
    opened.wait_for_selector(".memoir-try[data-ready]")
    yield opened
    opened.close()
    assert not problems, problems


ASK = "asked => memoirTry.load().then(m => {})"
PREDICT = (
    "asked.map(one => { const r = memoirTry.predict(m, one); return r && { ...r, z: [...r.z] } })"
)
SUBSETS = [(1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1), (1, 1, 0), (1, 0, 0), (0, 1, 0)]
MOVED = [([0.0, 40.0, None, 12.0, 30.0], 2), ([None] * 5, 0), ([None] * 5, APOE_MISSING)]


def recorded(cohort, case):
    """Scores and genotype of a case, as a page asks for them."""
    known = [None if np.isnan(x) else float(x) for x in cohort.loc[case, [*SCORES]]]
    return known, int(cohort["APOE4"].fillna(APOE_MISSING)[case])


def pytorch(rounded, vectors, there, scores, apoe):
    """What the stored weights give in PyTorch, of vectors (3, 512); None without any input."""
    there = [*there[:2], there[2] and (apoe != APOE_MISSING or scores != [None] * 5)]
    if not any(there):
        return None
    known = torch.tensor([[score is not None for score in scores]]).float()
    raw = torch.tensor([[score or 0.0 for score in scores]])
    raw = (raw - torch.tensor(STATISTICS.score_mean)) / torch.tensor(STATISTICS.score_std)
    vectors = torch.stack([*vectors[:2], rounded.clinical(raw, known, torch.tensor([apoe]))[0]])
    out = rounded.fuse(vectors[None], torch.tensor([there]))
    found = {name: out[name].softmax(1)[0] for name in ("dx3", "dx2", "sex")}
    found |= {"z": out["z_fused"][0], "attention": out["attention"][0]}
    found["age"] = out["age"] * STATISTICS.age_std + STATISTICS.age_mean
    return found | {"cdrsb": out["cdrsb"] * STATISTICS.cdrsb_std + STATISTICS.cdrsb_mean}


@torch.no_grad()
def test_the_page_computes_what_pytorch_does(page, exported):
    """Cases with and without FA, all subsets, recorded, moved and unknown scores."""
    _, rounded, cohort, z, present, fused, _ = exported
    train = (cohort["split"] == "train").to_numpy()
    index = live.round_rows({}, "index", fused[torch.from_numpy(train.copy())], torch.int8)
    questions, wanted = [], []
    for at, case in enumerate(page.evaluate(ASK.replace("{}", "m.cases.map(c => c.case)"))):
        if at % 5:
            continue
        stored = live.round_rows({}, "z", z[case, :2], torch.int16)
        for subset, (scores, apoe) in product(SUBSETS, [recorded(cohort, case), *MOVED]):
            see = dict(zip(MODALITIES, map(bool, subset), strict=True))
            there = [bool(on and had) for on, had in zip(subset, present[case], strict=True)]
            questions.append({"at": at, "see": see, "scores": scores, "apoe": apoe})
            wanted.append(pytorch(rounded, stored, there, scores, apoe))
    said = page.evaluate(ASK.replace("{}", PREDICT), questions)
    assert len(said) > 80 and 5 < sum(one is None for one in wanted) < 50
    for one, other in zip(said, wanted, strict=True):
        assert (one is None) == (other is None)
        if other:
            for name, values in other.items():
                assert np.abs(np.atleast_1d(one[name]) - values.numpy()).max() < CLOSE, name
            heads = np.mean(one["weights"], axis=0)
            assert heads == pytest.approx(other["attention"].numpy(), abs=CLOSE)
            cosines = (index @ normalize(other["z"], dim=0)).numpy()
            for hit, best in zip(one["nearest"], np.sort(cosines)[::-1], strict=False):
                assert hit["cosine"] == pytest.approx(cosines[hit["row"]], abs=CLOSE)
                assert hit["cosine"] == pytest.approx(best, abs=CLOSE)


def test_stored_weights_are_near_the_trained_ones(exported):
    rounded, before = exported[1].state_dict(), exported[-1]
    for name, values in before.items():
        steps = values.abs().amax(dim=-1, keepdim=True) / 127 if values.ndim == 2 else 0
        assert (torch.as_tensor(rounded[name] - values).abs() <= steps / 2 + 1e-6).all(), name
    changed = {name for name in before if not torch.equal(before[name], rounded[name])}
    assert len(changed) == 11 and "fusion.query" not in changed  # five heads, and six more
    assert exported[0].joinpath("model.js").stat().st_size < 3.5e6


def test_the_page_says_how_far_it_is_from_the_weights_as_trained(page):
    page.locator(".try-exact").locator("text=another diagnosis").wait_for()
    told = page.locator(".try-exact p").inner_text()
    n, p, years = re.search(
        r"(\d+) predictions.* by ([\d.]+) at most, age by ([\d.]+)", told
    ).groups()
    assert int(n) > 80 and 0 < float(p) < 0.05 and float(years) < 1


def test_a_reader_without_a_mouse_moves_the_diagnosis(page):
    """T1 off and MMSE down, on a phone: all is redrawn at once, and said."""
    page.set_viewport_size({"width": 390, "height": 800})
    box = page.locator(".memoir-try")
    chosen = box.get_by_label("Test case").locator("option:checked").inner_text()
    case = re.match(r"case \d+", chosen)[0]
    assert f"Recorded of {case}:" in box.locator(".try-truth").inner_text()
    before = box.locator(".try-heads td").all_inner_texts(), box.locator("ol").inner_text()
    box.get_by_label("T1", exact=True).focus()
    page.keyboard.press("Space")
    box.get_by_label("MMSE", exact=True).focus()
    page.keyboard.press("Home")
    after = box.locator(".try-heads td").all_inner_texts(), box.locator("ol").inner_text()
    assert before[0] != after[0] and before[1] != after[1]
    assert box.locator("ol li").count() == 5 and "</script> " in after[1]
    assert box.locator(".try-attention tbody td").nth(1).inner_text() == "0.00"
    box.locator(".try-live:has-text('attention T1 0.00')").wait_for(state="attached")
    assert box.locator(".try-live").get_attribute("aria-live") == "polite"
    for name in ("FA", "clinical scores"):
        box.get_by_label(name, exact=True).uncheck()
    assert "Nothing is left to see" in box.locator(".try-summary").inner_text()
    box.get_by_role("button", name="Undo all changes").click()
    assert box.locator(".try-heads td").all_inner_texts() == before[0]
    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0


# --- never of real people ---------------------------------------------------------------


def real(runs, name):
    """A run that looks finished, of which one chapter was run on real data."""
    write_run(runs / name)
    made = {"05_stage2_multitask": {"cohort": "ADNI", "artefacts": {}, "reads": {}}}
    manifest.write_manifest(runs / name, SYNTHETIC | {"chapters": made})


def test_a_run_on_real_people_exports_nothing(runs, monkeypatch):
    real(runs, "own")
    monkeypatch.setattr(live, "load_trained", lambda _: pytest.fail("it was read"))
    with pytest.raises(PrivateDataError, match="run own holds real people"):
        live.export("own", SYNTHETIC, runs / "model.js")
    assert not (runs / "model.js").exists()


def test_nor_does_a_run_whose_download_is_real(runs, tmp_path, monkeypatch):
    (tmp_path / "ADNIMERGE.csv").write_text("PTID\n137_S_4101\n")
    (tmp_path / "SYNTHETIC.json").write_text("{}")  # a copied marker changes nothing
    write_run(runs / "own")
    with pytest.raises(PrivateDataError):
        live.export("own", SYNTHETIC | {"data": str(tmp_path)}, runs / "model.js")
