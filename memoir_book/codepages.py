"""The core as pages, one for each module, and a table from published statement to code."""

from __future__ import annotations

import ast
import json
from pathlib import Path


def sections(module: Path) -> list[tuple[list[str], int, int]]:
    """Divide a module into its imports, paragraphs of constants, and definitions, in file order.

    Returns the names that each defines, its first and last line. Comments belong to what follows
    them, so that every line after the docstring is in one section.
    """
    text = module.read_text(encoding="utf-8")
    lines, body = text.splitlines(), ast.parse(text).body
    found: list[tuple[list[str], int, int]] = []
    end, before = body[0].end_lineno or 0, ""
    for node in body[1:]:
        names, kind = [], before  # such as an `if`: it belongs to what it follows
        if isinstance(node, ast.Import | ast.ImportFrom):
            kind = "imports"
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names, kind = [node.name], node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [ast.unparse(t) for t in targets if not isinstance(t, ast.Subscript)]
            kind = "constants" if names else before  # an entry of a table names nothing
        first = next(n for n, line in enumerate(lines[end:], end + 1) if line.strip())
        if kind == before and (kind != "constants" or "" not in lines[end : node.lineno - 1]):
            above, first, _ = found.pop()
            names = above + names
        end, before = node.end_lineno or first, kind
        found.append((names, first, end))
    return found


def page(module: Path, statements: list[dict]) -> str:
    """Write one module as Markdown: its docstring, then each section with its lines."""
    name, text = module.stem, module.read_text(encoding="utf-8")
    text = f"# {name}\n\n{ast.get_docstring(ast.parse(text))}\n"
    for names, first, last in sections(module):
        said = [s for s in statements if {f"{name}.{n}" for n in names} & set(s["code"])]
        links = [f"[{s['section']} {s['number']}](../how_to_read.md#{slug(s)})" for s in said]
        # labels know no case: _SCORES would clash with _scores
        labels = [n for n in names if not (n.startswith("_") and n.isupper())]
        text += "\n" + "".join(f"(code-{name}-{n})=\n" for n in labels)
        text += f"## {', '.join(f'`{n}`' for n in names) or 'Imports'}\n\n"
        text += f"Published statements: {', '.join(links)}.\n\n" if links else ""
        text += f"```{{literalinclude}} ../../memoir_core/{module.name}\n:language: python\n"
        text += f":lines: {first}-{last}\n:lineno-match:\n```\n"
    return text


def slug(statement: dict) -> str:
    return statement["section"].lower().replace(" ", "-")


def table(statements: list[dict]) -> str:
    """Every published statement with the chapter and the code that build it."""
    text = ""
    for s in statements:
        if s["number"] == 1:
            text += (
                f"\n### {s['section']}\n\n| No. | Published | Chapter and code |\n|---|---|---|\n"
            )
        chapter, heading = s["chapter"].split("#")
        code = ", ".join(f"[`{c}`](#code-{c.replace('.', '-').lower()})" for c in s["code"])
        place = f"{int(chapter[:2])}, [](chapters/{chapter}.ipynb#{heading})"
        text += f"| {s['number']} | {s['says']} | {place}: {code} |\n"
    return text


def write_pages(source: Path) -> None:
    """Write `book/code/` below a source folder of Jupyter Book."""
    statements = json.loads((source / "book/sentences.json").read_text("utf-8"))["statements"]
    (folder := source / "book" / "code").mkdir(parents=True, exist_ok=True)
    for module in (source / "memoir_core").glob("*.py"):
        if module.stem not in ("__init__", "run", "check"):  # aliases, no part of the model
            (folder / f"{module.stem}.md").write_text(page(module, statements), encoding="utf-8")
    (folder / "statements.md").write_text(table(statements), encoding="utf-8")
