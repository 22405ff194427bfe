"""Write the page on faults from the tests' marks: `python tests/faults.py [--check]`.

A mark `@pytest.mark.fault(what, what happens)` on a test gives one row. Nothing is imported:
the marks are read from the source, so that the page can be made anywhere.
"""

import ast
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "book"
HEAD = """# Faults, and what happens then

A run of days on a shared machine meets kills, full disks and damaged files. Each row below is
the mark of a test that brings the fault about, for instance with a real `kill -9` before each file
operation in turn, and fails when the protection is taken away. The page is written from these
marks (`python tests/faults.py`); the tests are in `tests/`.

| fault | what happens | test |
|---|---|---|
"""
TAIL = """
How it works, in three habits:

- Files are written beside their place and renamed when they are whole
  (`memoir_core.files.atomic_path`). A reader sees the old file or the new one.
- Whatever was made is remembered with its checksum and with all that it was made from: of a chapter
  in `manifest.json`, of a training or of answers in `settings.json` beside them. What does not
  agree is named, or made anew.
- All randomness follows from seed and epoch, so that what is done again comes out the same.

What is not covered: damage in memory, an uncompressed NIfTI file with a flipped bit (the format
has no checksum), and machines whose shared file system does not keep locks.
"""


def marks(path: Path) -> list[tuple[str, str, str]]:
    """List (fault, what happens, test) of one test module, in order."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for mark in getattr(node, "decorator_list", ()):
            name = ast.unparse(mark.func) if isinstance(mark, ast.Call) else ""
            if name in ("fault", "pytest.mark.fault"):
                what, happens = (ast.literal_eval(argument) for argument in mark.args)
                found.append((what, happens, node.name))
    return found


def page() -> str:
    """Write the whole page."""
    rows = [
        f"| {what[0].upper()}{what[1:]} | {happens} | `{path.relative_to(BOOK.parent)}::{name}` |"
        for path in sorted((BOOK.parent / "tests").rglob("test_*.py"))
        for what, happens, name in marks(path)
    ]
    return HEAD + "\n".join(rows) + "\n" + TAIL


if __name__ == "__main__":
    target = BOOK / "faults.md"
    if "--check" in sys.argv[1:]:
        sys.exit(target.read_text(encoding="utf-8") != page())
    target.write_text(page(), encoding="utf-8")
