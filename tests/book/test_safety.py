"""No file that is read can run code; what is shown is tested in tests/book/test_viewers.py."""

import ast
import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from memoir_book import chapters

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


def must_say(found, name, value):
    """Check that all these calls, and at least one, give a keyword as this literal."""
    assert found
    wrong = [where for where, keywords in found if literal(keywords, name) is not value]
    assert not wrong, f"{name}={value} is not said in {wrong}"


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


def test_numpy_files_are_read_without_objects():
    must_say([(w, k) for w, n, k in calls() if n in ("np.load", "numpy.load")],
             "allow_pickle", False)  # fmt: skip


def test_torch_files_are_read_as_weights_only():
    must_say([(w, k) for w, n, k in calls() if n == "torch.load"], "weights_only", True)


def test_no_model_brings_its_own_code():
    loaders = ("SentenceTransformer", "CrossEncoder")
    found = [
        (where, keywords)
        for where, name, keywords in calls()
        if name in loaders or (name.endswith(".from_pretrained") and "Peft" not in name)
    ]
    must_say(found, "trust_remote_code", False)


def test_models_are_read_from_safetensors():
    """Where a GGUF file is named, that is read instead; it holds no code either."""
    found = [
        (where, keywords)
        for where, name, keywords in calls()
        if name.endswith(".from_pretrained") and "Tokenizer" not in name and "Peft" not in name
    ]
    must_say([item for item in found if "gguf_file" not in item[1]], "use_safetensors", True)


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


# --- notebooks --------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", chapters.CHAPTERS, ids=lambda c: c.name)
def test_notebooks_run_no_shell_command(chapter):
    """No `!command`, `%%bash` or the like: a parameter could end up in it."""
    for cell in nbformat.read(chapter.notebook, as_version=4).cells:
        if cell.cell_type == "code":
            for line in cell.source.splitlines():
                assert not re.match(r"\s*(!|%|.*=\s*!)", line), f"{cell.id}: {line}"
            assert "get_ipython" not in cell.source and "run_line_magic" not in cell.source
