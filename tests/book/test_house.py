"""The house keeps its shape: sizes of rooms and files, and imports that go one way."""

import ast
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Room -> most lines in all, and in one file.
ROOMS = {
    "memoir_core": (3000, 300),
    "memoir_book": (5428, 350),  # of these 1,370 are the intake's; the aim is 4,800
    "synthetic_adni": (801, 300),
}
ALL = 9391  # of these and of the extension that builds the pages; the aim is 8,800
ORDER = (  # a module of the core imports only from those before it
    *("config", "files", "tables", "cohort", "volumes", "data", "model", "losses"),
    *("precision", "inference", "metrics", "training", "captions", "text", "retrieval"),
    *("llm", "vqa"),
)
ALIASES = {"run", "check"}  # one line each, for the commands of earlier editions


def files(room):
    return sorted((ROOT / room).rglob("*.py"))


def length(path):
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_and_files_stay_small(room):
    most, one = ROOMS[room]
    sizes = {str(path.relative_to(ROOT)): length(path) for path in files(room)}
    assert sum(sizes.values()) <= most, sizes
    assert max(sizes.values()) <= one, max(sizes, key=sizes.get)


def test_all_rooms_together():
    counted = [path for room in (*ROOMS, "book/_ext") for path in files(room)]
    assert sum(map(length, counted)) <= ALL


def imports(path):
    """Names of our modules that a file imports, anywhere in it: 'memoir_core.losses'."""
    package = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) + 1 - node.level]
                base = ".".join([*above, *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in ROOMS}


def module(path):
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


MODULES = {module(path): path for room in ROOMS for path in files(room)}
GRAPH = {name: imports(path) & MODULES.keys() - {name} for name, path in MODULES.items()}


def test_the_core_and_the_data_import_no_other_room():
    for room in ("memoir_core", "synthetic_adni"):
        wrong = {n: g for n, g in GRAPH.items() if n.startswith(room)}
        wrong = {n: {m for m in g if not m.startswith(room)} for n, g in wrong.items()}
        assert not {n: g for n, g in wrong.items() if g}


def test_imports_of_the_core_go_one_way():
    for name, path in MODULES.items():
        short = name.removeprefix("memoir_core.")
        if not name.startswith("memoir_core.") or short in ALIASES:
            continue
        assert short in ORDER, f"{path.name} has no place in the order of imports"
        before = {f"memoir_core.{m}" for m in ORDER[: ORDER.index(short)]} | {"memoir_core"}
        assert GRAPH[name] <= before, f"{name} imports {GRAPH[name] - before}"


def test_there_is_no_circle():
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    TopologicalSorter({n: g - packages for n, g in GRAPH.items() if n not in packages}).prepare()


def test_chapters_import_on_windows():
    """No module asks for what only Unix has when it is imported."""
    for path in MODULES.values():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not names & {"fcntl", "resource", "pwd", "grp"}, path.name


def test_an_installed_copy_holds_all_packages_and_their_data():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    there = {path.parent for room in ROOMS for path in files(room) if path.name == "__init__.py"}
    names = {path.relative_to(ROOT).as_posix().replace("/", ".") for path in there}
    assert names == set(setup["setuptools"]["packages"])
    for room, patterns in setup["setuptools"]["package-data"].items():
        packed = {path for pattern in patterns for path in (ROOT / room).glob(pattern)}
        data = {p for p in (ROOT / room).rglob("*") if p.suffix in (".json", ".j2", ".mplstyle")}
        assert data == packed


def test_every_deliberate_fault_finds_its_place():
    """`make mutants` takes long and runs seldom: what it changes must not get lost meanwhile."""
    for module, faults in mutants.FAULTS.items():
        text = mutants.place(ROOT, module).read_text(encoding="utf-8")
        assert [old for old, new in faults if text.count(old) != 1 or old == new] == [], module
