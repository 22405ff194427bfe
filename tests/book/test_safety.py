"""No file that is read can run code; what is shown is tested in tests/book/test_viewers.py."""

import ast
import contextlib
import json
import re
import shutil
import subprocess

import nbformat
import numpy as np
import pandas as pd
import pytest

from memoir_book import chapters, published

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&'\""
PACKAGES = ("memoir_core", "memoir_book", "synthetic_adni")
MODULES = sorted(p for name in PACKAGES for p in (chapters.ROOT / name).rglob("*.py"))
MODULES += sorted((chapters.ROOT / "benchmarks").glob("*.py"))


def sources():
    """(where, syntax tree) of every module and of every notebook's code."""
    for path in MODULES:
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))
    for chapter in chapters.CHAPTERS:
        for cell in nbformat.read(chapter.notebook, as_version=4).cells:
            if cell.cell_type == "code":
                yield chapter.name, ast.parse(cell.source)


def calls():
    """(where, dotted name, keywords) of every call."""
    for where, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                keywords = {k.arg: k.value for k in node.keywords if k.arg}
                yield f"{where}:{node.lineno}", ast.unparse(node.func), keywords


def test_commands_are_lists_of_arguments():
    """Never one text that a shell would take apart."""
    for where, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "subprocess.run":
                first = node.args[0]
                assert isinstance(first, ast.List | ast.Name), f"{where}:{node.lineno}"


def literal(keywords, name):
    value = keywords.get(name)
    return value.value if isinstance(value, ast.Constant) else None


def test_nothing_that_can_run_code_is_imported():
    forbidden = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    for where, tree in sources():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in forbidden, f"{where}:{node.lineno} {name}"


def test_nothing_is_evaluated_or_given_to_a_shell():
    forbidden = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    for where, name, keywords in calls():
        assert name not in forbidden, f"{where} calls {name}"
        assert name.rpartition(".")[2] not in ("read_pickle", "to_pickle"), f"{where} {name}"
        assert "shell" not in keywords, f"{where} {name}"
        assert literal(keywords, "allow_pickle") is not True, f"{where} {name}"


def test_torch_files_are_read_as_weights_only():
    found = [keywords for _, name, keywords in calls() if name == "torch.load"]
    assert found and all(literal(keywords, "weights_only") is True for keywords in found)


def test_no_model_brings_its_own_code_or_pickles():
    """The libraries' default is to run no code; nothing here says otherwise."""
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"trust_remote_code\W+True|use_safetensors\W+False", text), path.name
        loads = re.findall(r"(\w+)\.from_pretrained\(", text)
        if any("Tokenizer" not in name and "Peft" not in name for name in loads):
            assert "trust_remote_code" in text and ("use_safetensors" in text or "gguf" in text)


def test_a_pickle_in_a_numpy_file_is_refused(tmp_path):
    from memoir_core.text import read_fused

    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "bad.npz", case=objects, z_fused=objects, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_fused(tmp_path / "bad.npz", pd.DataFrame({"case": [0]}))


def test_a_pickled_training_state_is_refused(tmp_path):
    import torch

    from memoir_core import files

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / files.STATE).mkdir()
    state = tmp_path / files.STATE / "state"
    torch.save({"settings": {}, "x": Evil()}, state)
    state.rename(state.with_name(f"epoch001.{files.checksum(state)}"))
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        files.newest_state(tmp_path, {})
    assert not (tmp_path / "ran").exists()


# --- what git never takes ---------------------------------------------------------------


def test_git_takes_no_table_image_or_record(tmp_path):
    """Every name under which the intake knows a table, and what images and runs are called."""
    tables = published.load("adni.json")
    names = []
    for table, known in tables["tables"].items():
        rule = rf"(?i)(?:all_subjects_)?(?:{known['file']}){tables['date in a name']}"
        some = [f"{before}{name}{day}" for before in ("", "All_Subjects_") for name in
                (table, table.lower(), *known["file"].split("|")) for day in
                ("", "_15Dec2025", "_2025-12-15", "_15Dec2025 (1)")]  # fmt: skip
        some = [f"{name}.{kind}" for name in some for kind in ("csv", "CSV", "tsv", "txt")]
        found = [name for name in some if re.fullmatch(rule, name)]
        assert len(found) >= 64, table
        names += found
    names += ["idaSearch_1_02_2025.csv", "ADNI_002_S_0295.xlsx", "adnimerge.rda", "problems.csv"]
    kinds = ["nii", "nii.gz", "NII.GZ", "mgz", "mgh", "img", "hdr", "dcm", "IMA", "par", "REC"]
    kinds += ["mnc", "nrrd", "mha", "mhd", "png", "jpg", "jpeg", "tif", "tiff", "zip", "tar.gz"]
    kinds += ["parquet", "npy", "npz", "jsonl", "faiss", "h5", "safetensors", "pt"]
    names += [f"002_S_0295.{kind}" for kind in kinds]
    names += ["intake.json", "report.json", "04_stage1_contrastive.failed.ipynb"]
    names += [f"adni/sub/{name}" for name in names] + [f"notebooks/{name}" for name in names]
    ours = subprocess.run(["git", "ls-files"], cwd=chapters.ROOT, capture_output=True, text=True)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_bytes((chapters.ROOT / ".gitignore").read_bytes())
    listed = "\n".join([*names, *ours.stdout.splitlines()])
    command = ["git", "-C", tmp_path, "check-ignore", "--stdin", "--no-index"]
    ignored = subprocess.run(command, input=listed, capture_output=True, text=True, check=True)
    assert sorted(line.strip('"') for line in ignored.stdout.splitlines()) == sorted(names)


# --- notebooks --------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", chapters.CHAPTERS, ids=lambda c: c.name)
def test_notebooks_run_no_shell_command(chapter):
    """No `!command`, `%%bash` or the like: a parameter could end up in it."""
    for cell in nbformat.read(chapter.notebook, as_version=4).cells:
        if cell.cell_type == "code":
            for line in cell.source.splitlines():
                assert not re.match(r"\s*(!|%|.*=\s*!)", line), f"{cell.id}: {line}"
            assert "get_ipython" not in cell.source and "run_line_magic" not in cell.source


# --- folders of models ------------------------------------------------------------------


def own_class(folder, outside):
    """modules.json names a class of the folder, or of a module on the path."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[0]["type"] = "elsewhere.Own" if outside else "own.Own"
    path.write_text(json.dumps(modules))


def auto_map(folder, outside):
    path = folder / "config.json"
    told = json.loads(path.read_text()) | {"model_type": "own"}
    told["auto_map"] = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    path.write_text(json.dumps(told))


@pytest.mark.parametrize("outside", [False, True], ids=["of the folder", "on the path"])
@pytest.mark.parametrize("change", [own_class, auto_map])
def test_a_folder_of_weights_runs_no_code(tmp_path, monkeypatch, change, outside):
    """Somebody gives the parameter `minilm`, `cross_encoder`, or a text encoder of a run."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from memoir_book import weights

    folder = tmp_path / "model"
    shutil.copytree(weights.find("minilm", use="offline").path, folder)
    change(folder, outside)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n"
    (folder / "own.py").write_text(code)
    (tmp_path / "elsewhere.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = weights.find("minilm", folder).path
    for make in (SentenceTransformer, CrossEncoder):  # the latter takes no modules of the former
        with contextlib.suppress(ValueError):
            make(str(found), device="cpu")
            assert make is CrossEncoder and change is own_class
    assert not (tmp_path / "ran").exists()


# --- words that are shown ---------------------------------------------------------------


def test_nothing_but_our_templates_makes_html():
    """Tables are escaped by pandas; a Styler, HTML(...) and escape=False would not be."""
    for where, name, keywords in calls():
        if name.rpartition(".")[2] in ("HTML", "Markdown", "SVG", "Javascript"):
            # plots/data.py shows the picture of the model, which is a file of ours
            assert where.startswith(("viewers", "04_stage1", "data.py")), where
        if name.rpartition(".")[2] in ("from_string", "Environment", "Template"):
            assert where.startswith("published"), where  # `template` escapes what is HTML
        assert literal(keywords, "escape") is not False, where
        assert not name.endswith(("style.format", "to_html")) or where.startswith(
            ("01_cohort", "prepare")  # numbers of ours; and what `html.escape` has seen
        ), where


def test_words_of_a_download_stay_words_in_its_tables_and_report():
    from memoir_book import report

    table = pd.DataFrame({"PTID": [HOSTILE], HOSTILE: [1]}, index=[HOSTILE])
    assert "<script" not in table._repr_html_() and "<img" not in table._repr_html_()
    row = dict.fromkeys(report.COLUMNS, 0.5) | {"kind": "level", "n": 20, "chapter": "05"}
    row |= {"group": HOSTILE, "figure": HOSTILE, "verdict": "reproduced", "why": HOSTILE}
    where = {"label": HOSTILE, "notes": [HOSTILE], "code": HOSTILE, "data": {HOSTILE: HOSTILE}}
    page = report.render(pd.DataFrame([row]), where | {"versions": {HOSTILE: HOSTILE}})
    assert "&lt;script&gt;" in page and "<script" not in page and "<img" not in page


@pytest.mark.parametrize("name", ["name", "t1", "classes", "notes"])
@pytest.mark.parametrize("word", [HOSTILE, "[a](javascript:alert(1))", "a\\1", "`a`"])
def test_a_downloads_own_words_are_no_markup(tmp_path, name, word):
    """dataset.json: its notes become the banner of each page, its names stand in tables."""
    from memoir_book.dataset import read_dataset
    from memoir_core.tables import CohortError

    told = json.loads((chapters.ROOT / "memoir_book" / "oasis.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    assert read_dataset(tmp_path).name == "OASIS-1"
    told[name] = {"name": word, "t1": word, "classes": {"MCI": word}, "notes": [word]}[name]
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    with pytest.raises(CohortError, match=r"dataset\.json: is damaged"):
        read_dataset(tmp_path)
