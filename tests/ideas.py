"""Run the cells of a chapter that are tagged `idea`, with a test's own variables."""

import json
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def idea(chapter, holds, **names):
    """Execute the one idea cell of a chapter that contains `holds`; return its variables."""
    return cell(chapter, holds, "idea", **names)


def cell(chapter, holds, tag=None, **names):
    """Execute the one code cell, of a tag, that contains `holds`; return its variables."""
    (path,) = NOTEBOOKS.glob(f"{chapter}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    cells = [c for c in cells if c["cell_type"] == "code"]
    tagged = [c for c in cells if tag is None or tag in c["metadata"].get("tags", ())]
    (source,) = [text for c in tagged if holds in (text := "".join(c["source"]))]
    exec(compile(source, f"{path.name}, {holds}", "exec"), names)
    return names
