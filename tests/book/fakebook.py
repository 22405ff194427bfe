"""A book of two chapters in a folder of its own, for tests of the runner, manifest and pages.

Its notebooks import this module too, so that they see the same book as the test.
"""

import os
from pathlib import Path

import nbformat

from memoir_book import chapters, manifest, pages, run
from memoir_book.chapters import Chapter

COMMON = (
    'profile: str = ""\nrun: str = ""\ndata_dir: str = ""\nseed: int = None\ndevice: str = "auto"\n'
)
OWN = "epochs: int = 0  # passes\npretrained: bool = True\ndrop_fa: float = 0.3\n"
CHAPTERS = (
    Chapter("01_first", "First", (), ("first.txt",), "images", {"epochs": "stage1_epochs"}),
    Chapter("02_second", "Second", ("first.txt",), ("second.txt",)),
)
START = (
    "import fakebook; fakebook.open_here()\n"
    "from memoir_book import store\n"
    "common = dict(profile=profile, run=run, data_dir=data_dir, seed=seed, device=device)\n"
)
FIRST = START + (
    "from memoir_core import tool\n"
    "book = store.start_chapter('1', epochs=epochs, pretrained=pretrained, drop_fa=drop_fa,"
    " **common)\n"
    "book.path('first.txt').write_text(str(book.parameters['epochs']))\n"
    "store.save_results(book, {}); store.end_chapter(book)\n"
)
SECOND = START + (
    "book = store.start_chapter('2', **common)\n"
    "book.path('second.txt').write_text(str(book.seed))\n"
    "store.save_results(book, {}); store.end_chapter(book)\n"
)


def open_here(setattr=setattr, root=None):
    """Let the packages see this book; `root` None takes the folder that the test has named."""
    for room in (chapters, manifest, run, pages):
        setattr(room, "CHAPTERS", CHAPTERS)
    for room in (chapters, pages):
        setattr(room, "ROOT", Path(root or os.environ["FAKEBOOK"]))


def write_notebook(path, code, parameters=""):
    cell = nbformat.v4.new_code_cell(COMMON + parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata["language_info"] = {"name": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def write(root):
    """Write notebooks, a module and a download that looks real."""
    (root / "memoir_core").mkdir()
    (root / "memoir_core" / "__init__.py").touch()
    (root / "memoir_core" / "tool.py").write_text("value = 1\n")
    write_notebook(root / "notebooks" / "01_first.ipynb", FIRST, OWN)
    write_notebook(root / "notebooks" / "02_second.ipynb", SECOND)
    (root / "adni").mkdir()
    (root / "adni" / "ADNIMERGE.csv").write_text("PTID\n137_S_4101\n")
    (root / "adni" / "a.nii.gz").write_bytes(b"brain")
