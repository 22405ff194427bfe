"""Copies of the notebooks to work in, with stubs and without solutions: `make student`.

They lie in `student/`; a copy that is there is never written over.
"""

import json
import re
from itertools import chain
from pathlib import Path

from memoir_core.files import write_json

from . import chapters, published


def copy_of(path: Path) -> dict:
    """Make the copy of a notebook: no outputs, plain Markdown, and no solutions (student.json)."""
    found, cells, title = json.loads(path.read_text(encoding="utf-8")), [], ""
    for cell in found["cells"]:
        text = "".join(cell["source"])
        title = text.split("\n")[0] if text.startswith("## ") else title
        if title == "## Solutions" != text[: len(title)]:
            continue
        for myst, plain in published.load("student.json")["plain"]:
            text = re.sub(myst, plain, text) if cell["cell_type"] == "markdown" else text
        new = {key: cell[key] for key in ("cell_type", "id", "metadata")} | {"source": text}
        code: dict = {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
        cells.append(new | code)
    kept = {k: v for k, v in found["metadata"].items() if k in ("kernelspec", "language_info")}
    return found | {"cells": cells, "metadata": kept}


def main() -> int:
    masters = (chapters.ROOT.glob(f"{folder}/[0-9]*.ipynb") for folder in ("notebooks", "wrapups"))
    for path in sorted(chain(*masters)):
        there = (target := chapters.ROOT / "student" / path.name).exists()
        if not there:
            write_json(target, copy_of(path))
        said = "kept as it is; move it away to get a new copy" if there else "written"
        print(f"student/{path.name}: {said}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
