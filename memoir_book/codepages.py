"""The core as pages, one for each module, and a table from published statement to code."""

import ast
from pathlib import Path

from memoir_core.files import atomic_path, read_json

from . import published

MARKDOWN = published.template("codepages.md.j2").module


def sections(module: Path) -> list[tuple[list[str], int, int]]:
    """Divide a module into its imports, paragraphs of constants, and definitions, in file order.

    Returns the names that each defines, its first and last line. Comments belong to what follows
    them, so that every line after the docstring is in one section.
    """
    text = module.read_text(encoding="utf-8")
    lines, body = text.splitlines(), ast.parse(text).body
    found: list[tuple[list[str], int, int]] = []
    end = body[0].end_lineno or 0
    for node in body[1:]:
        names = []  # none in an import, an `if` or an entry of a table
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [ast.unparse(t) for t in targets if not isinstance(t, ast.Subscript)]
        first = next(n for n, line in enumerate(lines[end:], end + 1) if line.strip())
        if found and (not names or "" not in lines[end : node.lineno - 1]):
            above, first, _ = found.pop()
            names = above + names
        end = node.end_lineno or first
        found.append((names, first, end))
    return found


def page(module: Path, statements: list[dict]) -> str:
    """Write one module as Markdown: its docstring, then each section with its lines."""
    parts = []
    for names, *lines in sections(module):
        codes = {f"{module.stem}.{name}" for name in names}
        parts.append((names, [s for s in statements if codes & set(s["code"])], *lines))
    says = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    return MARKDOWN.page(module.stem, says, parts)


def write_pages(source: Path) -> None:
    """Write `book/code/` below a source folder of Jupyter Book."""
    statements = read_json(source / "book/sentences.json")["statements"]
    with atomic_path(source / "book" / "code", durable=False) as folder:
        folder.mkdir()
        modules = sorted((source / "memoir_core").glob("*.py"))
        modules = [m for m in modules if m.stem not in ("__init__", "run", "check")]  # aliases
        trees = {module.stem: ast.parse(module.read_text("utf-8")).body for module in modules}
        made = {module.stem: page(module, statements) for module in modules}
        # All names; all statements, with the chapter and the code that build them
        made |= {"names": MARKDOWN.names(trees, ast), "statements": MARKDOWN.table(statements)}
        for name, text in made.items():
            (folder / f"{name}.md").write_text(text, encoding="utf-8")
