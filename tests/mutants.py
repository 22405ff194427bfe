"""Plant deliberate faults in the core and see that unit tests notice: `python tests/mutants.py`.

Each fault is one changed piece of text in a temporary copy of the checkout; the unit tests of
that module must fail. Exit code 1 where fewer than 95 % are caught. `--only losses` tries the
faults of one module.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300  # for the tests of one module; a fault may make them run forever
LEAST = 0.95


# The unit tests that must notice a fault in a file: test_<file>.py, if not these.
TESTS = {"tables": ["tables", "cohort"], "08_retrieval": ["rankings"], "09_llm_comparison": ["vqa"]}
# Module -> faults: text that stands there once, and what it becomes.
FAULTS: dict[str, list[tuple[str, str]]] = {
    "config": [
        ('DX = ("CN", "MCI", "Dementia")', 'DX = ("MCI", "CN", "Dementia")'),
        ('MODALITIES = ("t1", "fa", "clinical")', 'MODALITIES = ("fa", "t1", "clinical")'),
        ('"ADAS13", "MMSE", "MOCA")', '"ADAS13", "MOCA", "MMSE")'),
        ('    ("t1", "fa"),\n', ""),
        ("EMBEDDING_DIM = 512", "EMBEDDING_DIM = 256"),
        ('"lr_backbone": (2e-5, 2e-5, 1e-5)', '"lr_backbone": (2e-5, 2e-5, 5e-4)'),
        ('"stage2_epochs": (2, 4, 30)', '"stage2_epochs": (2, 4, 3)'),
        ("(64, 2500, 25000)", "(64, 2500, 2500)"),
        ('"top_k": (10, 20, 50)', '"top_k": (10, 20, 5)'),
        ('"rerank_k": (5, 5, 5)', '"rerank_k": (10, 10, 10)'),
        ('"cases_shown": (2, 3, 5)', '"cases_shown": (2, 3, 3)'),
    ],
    "tables": [
        ("SPELLINGS[new] for old in", "SPELLINGS[old] for old in"),
        (r"-[14](\.0*)?", r"-[4](\.0*)?"),
        ('first.groupby(visits["PTID"])', 'visits["EXAMDATE"].groupby(visits["PTID"])'),
        ('visits["EXAMDATE_bl"].fillna(known)', 'known.fillna(visits["EXAMDATE_bl"])'),
        ('"%d/%m" if day_first(day) else "%m/%d"', '"%m/%d"'),
        ("(numbers > 12).any()", "(numbers > 12).all()"),
        ('text["VISCODE2"].mask(', 'text["VISCODE"].mask('),
        ("pairs[key].duplicated()", "pairs[other].duplicated()"),
        ('"2": "MCI", "3": "Dementia"', '"3": "MCI", "2": "Dementia"'),
        ('"MMSE": (0, 30), "MOCA"', '"MMSE": (0, 300), "MOCA"'),
        ("set_axis(table.index + 2)", "set_axis(table.index + 1)"),
        ("table.duplicated(keys)", "table.duplicated()"),
        ('"AD": "Dementia"', '"AD": "MCI"'),
    ],
    "cohort": [
        (
            'visits["EXAMDATE"] - visits["EXAMDATE_bl"]',
            'visits["EXAMDATE_bl"] - visits["EXAMDATE"]',
        ),
        ("/ 365.25", "/ 12"),
        ('visits[visits["DX"].notna()]', "visits"),
        ('visits[visits["t1_path"].notna()]', "visits"),
        ('"last" if visit == "latest" else "first"', '"first" if visit == "latest" else "last"'),
        ("math.floor(0.8 * len(rows))", "math.ceil(0.8 * len(rows))"),
        ("rng.permutation(np.flatnonzero(", "(np.flatnonzero("),
        ("rows[train:]] = ", "rows[:train]] = "),
        ("rows[: round(val_fraction * train)]", "rows[-round(val_fraction * train) :]"),
        ('for column in ("PTID", "RID", *PATHS)', "for column in PATHS"),
        ("parts.index[parts > 1]", "parts.index[parts > 2]"),
        ("content[content.duplicated()]", "content[content.duplicated(keep=False)][2:]"),
        ("sizes.duplicated(keep=False)", "sizes.duplicated()"),
        ('cohort["split"] == "test", "case"]', 'cohort["split"] == "val", "case"]'),
        ('sort_values("RID", ignore_index', 'sort_values("PTID", ignore_index'),
        ('replace("val", "train")', 'replace("val", "test")'),
    ],
    "volumes": [
        (
            "nibabel.as_closest_canonical(nibabel.Nifti1Image(data, loaded.affine))",
            "nibabel.Nifti1Image(data, loaded.affine)",
        ),
        ("{*shape[3:]} - {1}", "{*shape[4:]} - {1}"),
        ("stream.read(SPARE + 1)", "stream.read(0)"),
        ("if not seen > 0.95", "if not seen > 0.05"),
        ("data.shape == GRID and np.allclose(affine, AFFINE, atol=1e-3)", "data.shape == GRID"),
        ("image.resample_img(smooth, AFFINE, GRID", "image.resample_img(smooth, affine, GRID"),
        ("affine[:3, :3] ** 2).sum(axis=0), 0)) / 2", "affine[:3, :3] ** 2).sum(axis=0), 0)) * 9"),
        ("if outside - low < 0.1 * (high - outside)", "if True"),
        ("rest[rest <= high + 3 * (high - low)].max()", "rest.max()"),
        ("torch.tensor([0.01, 0.99])", "torch.tensor([0.5, 0.99])"),
        ("torch.tensor([0.01, 0.99])", "torch.tensor([0.0, 1.0])"),
        ("NormalizeIntensity(nonzero=True)", "NormalizeIntensity()"),
        ("np.float32(1e-3), 0)", "np.float32(1e-3), 0.5)"),
        ("AdaptiveAvgPool3d(shape)(values)", "AdaptiveMaxPool3d(shape)(values)"),
        ("part < 0.45 * np", "part > 0.45 * np"),
        ("part[part > 0.2].mean()", "part.mean()"),
        ("np.s_[30:61, 38:81, 32:54]", "np.s_[30:61, 45:88, 32:54]"),
        ("np.s_[41:50, 48:69, 31:49]", "np.s_[41:50, 42:63, 31:49]"),
        ("np.cumsum(has_fa) - 1", "np.cumsum(has_fa)"),
        ('"images": content, "fa_row"', '"images": [*map(str, t1)], "fa_row"'),
        ("TURN, ZOOM, SHIFT = 1.0, 0.01, 0.005", "TURN, ZOOM, SHIFT = 4.0, 0.04, 0.04"),
        ("2 * SHIFT * uniform", "SHIFT * uniform"),
        ("1 + brighten * uniform[:, 9]", "1 + 0.1 * uniform[:, 9]"),
        ("small[0].numpy() * brain_mask(shape)", "small[0].numpy()"),
        ('volume if kind == "fa" else clip_brain(volume)', "clip_brain(volume)"),
        ("small - small.transpose(1, 2)", "small + small.transpose(1, 2)"),
        ("[first : first + n]", "[:n]"),
        ('!= index["digest"]', '== ""'),
        ("reindex(fa_row)", "reindex(-fa_row)"),
    ],
    "data": [
        ('train = cohort[cohort["split"] == "train"]', "train = cohort"),
        ("np.where(self.volumes.inside, raw, 0)", "raw"),
        (" - np.float32(self.fa_mean)) / np.float32(self.fa_std)", ")"),
        ("noise = RETEST *", "noise = 0 *"),
        ('"t1": 0.1, "fa": 0.0', '"t1": 0.1, "fa": 0.1'),
        (
            "(self.has_fa.nonzero()[:, 0], (~self.has_fa).nonzero()[:, 0])",
            "(torch.arange(len(self)),)",
        ),
        ("replace(0.0, 1.0)", "replace(0.0, 0.0)"),
        (
            "[SCORES.index(name) for name in hide]] = False",
            "[SCORES.index(n) for n in hide]] = True",
        ),
        ("np.where(known, (raw - mean) / std, 0)", "np.where(known, raw, 0)"),
        ("fillna(APOE_MISSING)", "fillna(0)"),
        ("[self.rows] >= 0", "[self.rows] > 0"),
        ("known.any(axis=1) | ", "known.all(axis=1) | "),
        ("[0, 1], IGNORE)", "[0, 1], 0)"),
        ('== "Male")', '== "Female")'),
        ('(kept["AGE"] - scaler.age_mean) / scaler.age_std', 'kept["AGE"] / scaler.age_std'),
        ("self.volumes.fa[fa_row]", "self.volumes.fa[row % len(self.volumes.fa)]"),
        ("len(volumes.t1) != len(cohort)", "False"),
    ],
    "model": [
        ("[scores * known, known,", "[known, scores * known,"),
        ("key_padding_mask=~present", "key_padding_mask=present"),
        (", key_padding_mask=~present", ""),
        ("embeddings * EMBEDDING_DIM**0.5, 0)", "embeddings * EMBEDDING_DIM**0.5, embeddings)"),
        ("tokens = tokens + self.modality", "tokens = tokens"),
        (
            "encoder = getattr(self, name)",
            'encoder = self.clinical if name == "clinical" else self.t1',
        ),
        ("self.centre(self.backbone(volume))", "self.backbone(volume)"),
        ("draw >= torch.tensor", "draw < torch.tensor"),
        ("keep[empty, spare[empty]] = True", "keep[empty] = True"),
        ("(keep & there)", "keep"),
        ("self.out(pooled + self.mlp(pooled))", "self.out(self.mlp(pooled))"),
        (
            "F.normalize(self.norm(self.project(features)), dim=-1)",
            "self.norm(self.project(features))",
        ),
        ('batch["present"] if keep is None else batch["present"] & keep', 'batch["present"]'),
        ("conv1_t_stride=2", "conv1_t_stride=1"),
        ('"fa": 0.30, "clinical": 0.05', '"fa": 0.05, "clinical": 0.30'),
    ],
    "losses": [
        ("math.log(1 / 0.07)", "math.log(0.07)"),
        ("clamp(max=100)", "clamp(max=1000)"),
        ("embeddings[both, b], scale[pair]", "embeddings[both, a], scale[pair]"),
        ("embeddings[both, b], scale[pair]", "embeddings[both, b], scale[0]"),
        ("present[:, a] & present[:, b]", "present[:, a] | present[:, b]"),
        ("F.cross_entropy(logits.T, target)", "F.cross_entropy(logits, target)"),
        ("logits = scale * z_a", "logits = z_a"),
        ("gamma: float = 2.0", "gamma: float = 0.0"),
        ("(1 - p_true).clamp", "p_true.clamp"),
        ("counted = target != IGNORE", "counted = target >= IGNORE"),
        ('"sex": 0.2, "age": 0.2, "cdrsb": 0.5', '"sex": 0.5, "age": 0.2, "cdrsb": 0.2'),
        ("LOSS_WEIGHTS[name] * loss for", "loss for"),
        ("known = ~torch.isnan", "known = torch.isnan"),
        ("F.smooth_l1_loss(", "F.mse_loss("),
    ],
    "precision": [
        ("enabled=enabled", "enabled=False"),
        ("0.5 < ratio < 2", "0.5 < ratio"),
        ("cosine > 0.7", "cosine > -0.7"),
        ("module.eval()", "module.train()"),
        ("copy.deepcopy(model)", "model"),
    ],
    "inference": [
        ("name in subset for name in MODALITIES", "name not in subset for name in MODALITIES"),
        ("return present & torch", "return present | torch"),
        ('out["dx2"].softmax(dim=1)[:, 1]', 'out["dx2"].softmax(dim=1)[:, 0]'),
        ('out["sex"].softmax(dim=1)[:, 1]', 'out["sex"].softmax(dim=1)[:, 0]'),
        ("* scaler.age_std + scaler.age_mean", "* scaler.cdrsb_std + scaler.cdrsb_mean"),
        ("full[name][some] = ", "full[name][: int(some.sum())] = "),
        ("    model.eval()\n    embeddings, present", "    embeddings, present"),
        ('which: str = "best"', 'which: str = "last"'),
        ("subjects, scaler, s) for s", "subjects, scaler) for s"),
    ],
    "metrics": [
        ('ends["DX"] == "Dementia"', 'ends["DX"] == "CN"'),
        ("diagnosis - 0.1", "diagnosis + 0.1"),
        ("right[true > 0] / true[true > 0]", "right[predicted > 0] / predicted[predicted > 0]"),
        ("own = np.flatnonzero(groups == group)", "own = np.flatnonzero(groups != '')"),
        ("[2.5, 97.5]", "[5, 95]"),
        ("cosine >= own[:, None] - 1e-6", "cosine >= own[None] - 1e-6"),
        ("own[:, None] - 1e-6", "own[:, None] + 1e-6"),
        ("& own.isfinite()", ""),
        ("z.double().mean(dim=0)", "z.double().mean()"),
        ("if cosine <= COLLAPSED", "if cosine <= 1"),
        ("(better < k)", "(better <= k)"),
        ("majority = statistics.mode", "majority = max"),
        ("rankdata(p, axis=-2)", "rankdata(p, axis=-1)"),
        ("(2.5, 97.5)", "(5, 95)"),
        ("len(np.unique(said)) == 1", "len(np.unique(said)) > 1"),
        ("p[redraw(groups, samples, seed)]", "p[redraw(groups == groups, samples, seed)]"),
        ("np.abs(error).mean()", "error.mean()"),
        ("(sizes[where] * len(sizes))", "len(values)"),
    ],
    "training": [
        ("parameter_groups(encoders, how.lr_backbone)", "parameter_groups(encoders, how.lr_heads)"),
        ('"lr": lr, "weight_decay": 0.0}', '"lr": lr, "weight_decay": WEIGHT_DECAY}'),
        ('row["composite"] > r["composite"]', 'row["composite"] < r["composite"]'),
        ("WARM_UP = 0.1", "WARM_UP = 0.9"),
        ("0.5 * (1 + math.cos", "0.5 * (1 - math.cos"),
        ('scaler, "train", how.hide)', 'scaler, "train")'),
        ('scaler, "train", how.hide)', 'scaler, "all", how.hide)'),
        (
            'val = MemoirDataset(cohort, volumes, scaler, "val"',
            'val = MemoirDataset(cohort, volumes, scaler, "test"',
        ),
        ('cohort["split"] != "test", list(RECORD)', 'cohort["split"] == "train", list(RECORD)'),
        ("CLIP_NORM = 1.0", "CLIP_NORM = 100.0"),
        ('keep = masking_gate(batch["present"], noise, how.drop)', 'keep = batch["present"]'),
        ("varied = vary(batch, noise)", "varied = batch"),
        ("            optimizer.zero_grad()\n", ""),
        (
            'if how.start != "random":\n        load_weights',
            'if how.start == "?":\n        load_weights',
        ),
        ("SeedSequence((how.seed, how.stage, epoch))", "SeedSequence((how.seed, how.stage))"),
        ("z[both, a], z[both, b]", "z[both, a], z[both, a]"),
        ("spread(z[present[:, column], column])", "spread(z[:, column])"),
        ("& (how.stage == 1)", "& True"),
        ("update_bn((", "(lambda *_: None)(("),
        ("any_order[train.present[any_order, 1]]", "any_order"),
        ('identity["volumes"] = volumes.digest', 'identity["volumes"] = ""'),
    ],
    "captions": [
        ('BLIND = frozenset({"DX", "CDRSB"})', 'BLIND = frozenset({"DX"})'),
        ('side="right")', 'side="left")'),
        ('"MMSE": ((18, 24, 27)', '"MMSE": ((18, 22, 27)'),
        ('(cohort["split"] != "test").to_numpy()', "np.ones(len(cohort), bool)"),
        ("above = value - (slope * age + level)", "above = value"),
        ('"caption_blind": BLIND}', '"caption_blind": ()}'),
        ("n not in withhold and", "n in FIELDS and"),
        (
            '"t1": {"VENTRICLES"},\n    "fa": {"FORNIX_FA"}',
            '"t1": {"FORNIX_FA"},\n    "fa": {"VENTRICLES"}',
        ),
        ('_HIGH_IS_GOOD),\n    "ADAS11"', '_HIGH_IS_BAD),\n    "ADAS11"'),
        ("np.round(100 * below)", "np.round(100 * (1 - below))"),
        ("f\"case {int(record['case'])}\"", '"case"'),
    ],
    "text": [
        ("MASKED = 0.15", "MASKED = 0.5"),
        ("chosen = labels != -100", "chosen = labels == -100"),
        ('row["split"] != "test"]', 'row["split"] != "train"]'),
        ("if sentence in seen:", "if not sentence:"),
        ("[*synthetic[:n], *own]", "[*synthetic, *own]"),
        ("info_nce(z_text, z_fused,", "info_nce(z_text, z_text,"),
        ("targets[rows], log_scale", "targets[sorted(rows)], log_scale"),
        ("layer[-2:]", "layer[:2]"),
        ("values / norms", "values"),
        ("zip((encoder, head), MLM", "zip((head, encoder), MLM"),
        ("optimiser, [*ALIGN_RATES]", "optimiser, [*ALIGN_RATES][::-1]"),
        ('np.array_equal(case, cohort["case"])', "len(case) == len(cohort)"),
    ],
    "retrieval": [
        ("faiss.IndexFlatIP(EMBEDDING_DIM)", "faiss.IndexFlatL2(EMBEDDING_DIM)"),
        ('    check_training_cases(cohort, cases, "the retrieval index")\n', ""),
        ("< 1e-3)", "< 10)"),
        ("return cases, scores", "return scores, cases"),
        (
            '"caption_blind" if protocol == "blind" else "caption"',
            '"caption" if protocol == "blind" else "caption_blind"',
        ),
        ("best = [int(cases[", "best = [int(sorted(cases)["),
        ("best[:rerank_k]", "best[-rerank_k:]"),
        ("min(k, index.ntotal)", "k"),
    ],
    "08_retrieval": [
        ("0.6 * (a", "0.06 * (a"),
        (".abs() / 2).fillna(0)", ".abs() / 2).fillna(1)"),
        ("name not in subset]", "name in subset]"),
        ("np.arange(len(best), 0, -1)", "np.arange(1, len(best) + 1)"),
        ("others[:5]]", "others[:1]]"),
        ("z[asked]), torch", "z[: len(asked)]), torch"),
    ],
    "09_llm_comparison": [("and labels:", "or labels:")],
    "baselines": [
        (
            'cohort[cohort["split"] != "test"], cohort[cohort["split"] == "test"]',
            'cohort[cohort["split"] == "test"], cohort[cohort["split"] != "test"]',
        ),
        ("- train[column].mean()", "- test[column].mean()"),
    ],
    "experts": [
        ("numel() * (1 + packed)", "numel()"),
        ("return ready or expert", "return ready"),
    ],
    "llm": [
        ('bnb_4bit_quant_type="nf4"', 'bnb_4bit_quant_type="fp4"'),
        ("bnb_4bit_use_double_quant=True", "bnb_4bit_use_double_quant=False"),
        ("do_sample=False", "do_sample=True, temperature=5.0"),
        ("eos_token_id=stops", "eos_token_id=tokenizer.eos_token_id"),
        ("gather(2, tail[:, 1:, None])", "gather(2, tail[:, :-1, None])"),
        ("copy.deepcopy(cache)", "cache"),
        ('padding_side="left"', 'padding_side="right"'),
        ("(mask.cumsum(-1) - 1)", "(mask.cumsum(-1) + 1)"),
        ("add_special_tokens=not loaded.chat", "add_special_tokens=True"),
        ('else f"{prompt} {answer}"', 'else f"{prompt}{answer}"'),
        ("text_and_option = turn[", "text_and_option = text + option or turn["),
        ("[..., 0].mean(1)", "[..., 0].sum(1)"),
        ("if found.isnan().any()", "if False"),
        ('told["enable_thinking"] = False', 'told["enable_thinking"] = True'),
        ("skip_special_tokens=not loaded.chat", "skip_special_tokens=True"),
        ('"truncated": count == len(tokens)', '"truncated": count >= 24'),
        ("log_softmax(-1)", "softmax(-1)"),
        ('"add_generation_prompt": answer is None', '"add_generation_prompt": False'),
        ("zip_longest(parts[::2], parts[1::2])", "[(prompt, None)]"),
    ],
    "vqa": [
        ('row["AGE"], "right")', 'row["AGE"], "left")'),
        ('(cohort.split != "test") & (cohort.DX == "CN")', '(cohort.DX == "CN")'),
        ("lambda name: -z[name]", "lambda name: z[name]"),
        ("reversed(context)", "context"),
        ('order.index(case) + (protocol == "shuffled context")', "order.index(case)"),
        ("text.replace(names[old], names[new])", "text"),
        ('if protocol == "no context":', 'if protocol == "":'),
        ('"caption" if protocol == IN_PROMPT else', '"caption" if protocol else'),
        ("DX[DX.index(labels[0]) - 1]", "labels[0]"),
        (".permutation(labels).tolist()", ".choice(labels, 5).tolist()"),
        ('"own_caption" if protocol == "own_caption" else "blind"', '"blind"'),
        ('method="wilson"', 'method="exact"'),
        ("_TURN_WORDS.sub(lambda match: match.group(1), ", "("),
        ('answers[reading] == answers["reference"]', 'answers[reading] != answers["reference"]'),
        ('.where(answers[reading] != "")', ""),
        ("[:count]]", "[-count:]]"),
        ("(questions - min(24, len(order))) // 5", "questions // 5"),
    ],
    "files": [
        ("        temporary.replace(path)\n", "        shutil.copy(temporary, path)\n"),
        ("os.fsync(handle.fileno())", "pass"),
        ("sort_keys=True", "sort_keys=False"),
        ("elif a != b:", "elif key not in old:"),
        ("!= wanted[name]]", "== '']"),
        (".items() if name != SETTINGS}", ".items()}"),
        ("if checksum(path) != path.suffix[1:]:", "if not path.exists():"),
        ("weights_only=True", "weights_only=False"),
        ('(folder / STATE).glob("epoch*"), reverse=True)', '(folder / STATE).glob("epoch*"))'),
        ("and not psutil.pid_exists(int(pid))", "and psutil.pid_exists(int(pid))"),
    ],
}
# Faults that no unit test notices, by their old text, with the reason.
SURVIVORS: dict[str, str] = {"[:count]]": "either end of a random order is a random draw"}


LIBRARIES = ("torch", "monai.transforms", "transformers", "sentence_transformers", "faiss", "peft")
LIBRARIES += ("sklearn.pipeline", "scipy.stats", "accelerate", "nibabel", "pyarrow.parquet")


def is_of_book(module: str) -> bool:
    return (ROOT / "memoir_book" / f"{module}.py").exists()


def place(root: Path, module: str) -> Path:
    if module[0].isdigit():
        return root / "notebooks" / f"{module}.ipynb"
    return root / ("memoir_book" if is_of_book(module) else "memoir_core") / f"{module}.py"


def begin(copy: Path, module: str) -> int:
    """Run the unit tests of a module in a copy of the checkout; give the process's number.

    The process is forked from this one, which has the libraries loaded but none of our modules.
    """
    if pid := os.fork():
        return pid
    code = 70
    try:
        log = os.open(copy / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(copy)
        sys.path[0] = str(copy)  # before an installed checkout
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONPATH": str(copy), "MEMOIR_RUNS": str(copy / "runs")}
        signal.alarm(SECONDS)
        room = "book" if is_of_book(module) else "core"
        tests = [f"tests/{room}/test_{name}.py" for name in TESTS.get(module, [module])]
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={copy}/tmp"]
        code = int(pytest.main([*options, *tests]))
        if not importlib.import_module("memoir_core").__file__.startswith(str(copy)):
            code = 70
    finally:
        os._exit(code)


def outcome(copy: Path, status: int) -> str:
    """Say which test noticed the fault; '' where none did."""
    code = os.waitstatus_to_exitcode(status)
    said = (copy / "log").read_text(encoding="utf-8", errors="replace").splitlines()
    if code == 70:
        raise RuntimeError("\n".join(said[-30:]))
    if code == 0:
        return ""
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"exit {code} " + " ".join(said[-3:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(FAULTS), choices=FAULTS, metavar="MODULE")
    options = parser.parse_args()
    faults = [(module, *fault) for module in options.only for fault in FAULTS[module]]
    for module, old, _ in faults:
        text = place(ROOT, module).read_text(encoding="utf-8")
        if text.count(old) != 1:
            parser.error(f"{old!r} stands {text.count(old)} times in {module}, not once")
    os.environ.setdefault("MEMOIR_CACHE", str(ROOT / "cache"))  # the converted language model
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    for library in LIBRARIES:
        importlib.import_module(library)
    todo = [(module, "", "") for module in options.only] + faults  # first without any fault
    caught, began = 0, time.time()
    with tempfile.TemporaryDirectory() as scratch:
        copies = [Path(scratch) / str(number) for number in range(options.jobs)]
        for copy in copies:
            skip = shutil.ignore_patterns(".*", "runs", "cache", "_build")
            shutil.copytree(ROOT, copy, ignore=skip)
        running: dict[int, tuple] = {}
        while todo or running:
            while todo and copies:
                module, old, new = todo.pop(0)
                copy, started = copies.pop(), time.time()
                path = place(copy, module)
                whole = path.read_text(encoding="utf-8")
                path.write_text(whole.replace(old, new) if old else whole, encoding="utf-8")
                running[begin(copy, module)] = copy, path, whole, module, old, new, started
            pid, status = os.wait()
            copy, path, whole, module, old, new, started = running.pop(pid)
            path.write_text(whole, encoding="utf-8")
            copies.append(copy)
            said, seconds = outcome(copy, status), time.time() - started
            if not old:
                if said:
                    parser.error(f"without any fault, {said}")
                continue
            caught += bool(said)
            change = f"{module}: {' '.join(old.split())} -> {' '.join(new.split())}"
            word, why = ("caught", said) if said else ("SURVIVES", SURVIVORS.get(old, ""))
            print(f"{word:8} {seconds:4.0f} s  {change[:110]}  {why[:150]}", flush=True)
    minutes = (time.time() - began) / 60
    share = caught / len(faults)
    print(f"{caught} of {len(faults)} faults are caught ({share:.0%}), in {minutes:.0f} minutes")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
