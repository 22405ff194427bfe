"""Run the cells of a chapter that are tagged `idea`, with a test's own variables."""

import json
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def idea(chapter, holds, **names):
    """Execute the one idea cell of a chapter that contains `holds`; return its variables."""
    (path,) = NOTEBOOKS.glob(f"{chapter}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(c["source"]) for c in cells if "idea" in c["metadata"].get("tags", ())]
    (source,) = [text for text in tagged if holds in text]
    exec(compile(source, f"{path.name}, idea", "exec"), names)
    return names
