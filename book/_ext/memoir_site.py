"""What the published pages add to Jupyter Book: alt texts, launch buttons, MathJax from here.

A local Sphinx extension, named in _config.yml. It reads notebooks, and writes HTML and copies.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.fileutil import copy_asset

from memoir_book import student

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = ROOT / "notebooks"
LOGGER = logging.getLogger(__name__)

# The part of MathJax that a page with TeX needs, fonts included; the whole package is 24 MB.
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2", "a11y")
WIDE = 600  # pixels; a wider figure keeps a legible size on a phone, and scrolls in its cell


def find_repository() -> tuple[str, str] | None:
    """Say where the project is public, as ('owner/name', branch): GitHub Actions knows it."""
    name, branch = (os.environ.get(f"GITHUB_{key}", "") for key in ("REPOSITORY", "REF_NAME"))
    return (name, branch or "main") if name else None


def launch_link(notebook: str, repository: tuple[str, str]) -> str:
    """Give the address that opens a chapter, such as '01_cohort', on Binder."""
    name, branch = repository
    path = f"student/{notebook}.ipynb"
    return f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/{path}"


def read_figures(notebook: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Read what `memoir_book.plots` says of its figures: sha256 of the PNG -> words, width."""
    figures = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            text = "".join(output.get("data", {}).get("image/png", ""))
            if text:
                png = base64.b64decode(text)
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                width = int.from_bytes(png[16:20], "big")  # of the header chunk
                figures[hashlib.sha256(png).hexdigest()] = (alt, width)
    return figures


def describe_images(app, doctree) -> None:
    """Carry alt texts from outputs into the page; an image without one is a warning."""
    source = Path(app.env.doc2path(app.env.docname))
    known = read_figures(json.loads(source.read_text())) if source.suffix == ".ipynb" else {}
    for image in doctree.findall(nodes.image):
        # myst-nb names the file of an output by the hash of its content
        words, width = known.get(Path(image["uri"]).stem, ("", 0))
        image["alt"] = image.get("alt") or words
        if width > WIDE:
            image["classes"].append("wide")
        if not image["alt"]:
            LOGGER.warning("image %s has no alt text", image["uri"], location=image)


def mend_page(app, pagename, templatename, context, doctree) -> None:
    """Take out what the pages do not use, and a role that assistive software trips over."""
    # Thebe is not offered, and its constants, written twice, are an error in the console
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in f"{script.filename} {script.attributes.get('body', '')}".lower()
    ]
    if "body" in context:  # its children are entries of a bibliography, not list items
        context["body"] = context["body"].replace(
            'role="list" class="citation-list"', 'class="citation-list"'
        )


def add_buttons(app, pagename, templatename, context, doctree) -> None:
    """Offer the chapter itself to download, and to open elsewhere where that is possible."""
    buttons = context.get("header_buttons", [])
    groups = [g["buttons"] for g in buttons if g.get("label") == "download-buttons"]
    for button in (button for group in groups for button in group):
        if button["text"] == ".pdf":  # the theme names them by suffix only
            button["text"] = "print or .pdf"
    name = pagename.rpartition("/")[2]
    if not (NOTEBOOKS / f"{name}.ipynb").exists() or not pagename.startswith("book/chapters/"):
        return
    for group in groups:
        for button in group:
            if button["label"] == "download-source-button":
                button["text"] = ".ipynb, as run here"
                button["tooltip"] = "The executed notebook, with outputs"
        link = context["pathto"](f"notebooks/{name}.ipynb", 1)
        words = ".ipynb, to work in", "The notebook without outputs and solutions"
        group.insert(0, _link("download-notebook-button", "fa-code", link, *words))
    if app.config.memoir_repository:
        link = launch_link(name, app.config.memoir_repository)
        words = "Binder", "Open on Binder"
        buttons.append(_link("launch-binder-button", "fa-rocket", link, *words))


def _link(label: str, icon: str, url: str, text: str, tooltip: str) -> dict[str, str]:
    link = {"type": "link", "url": url, "text": text, "tooltip": tooltip}
    return link | {"icon": f"fas {icon}", "label": label}


def refuse_others(app) -> None:
    """Refuse to show what no synthetic run made: a chapter of real people, or one run by hand."""
    for path in Path(app.srcdir, "book").glob("[!_]*/*.ipynb"):
        notebook = json.loads(path.read_text("utf-8"))
        shown = any(cell.get("outputs") or cell.get("attachments") for cell in notebook["cells"])
        made = notebook["metadata"].get("memoir", {})
        if shown and made.get("synthetic") is not True and not app.config.memoir_private:
            mend = "delete it, and build with `python -m memoir_book.pages`"
            raise ExtensionError(f"{path} shows what no synthetic run made; {mend}")


def copy_files(app, error) -> None:
    """Ship students' copies of the notebooks, and MathJax: nothing comes from elsewhere."""
    if error or app.builder.format != "html":
        return
    (shelf := Path(app.outdir) / "notebooks").mkdir(parents=True, exist_ok=True)
    wrapups = NOTEBOOKS.with_name("wrapups").glob("[0-9]*.ipynb")
    for path in (*NOTEBOOKS.glob("[0-9]*.ipynb"), *wrapups):
        copy = student.copy_of(path)
        (shelf / path.name).write_text(json.dumps(copy, ensure_ascii=False, indent=1), "utf-8")
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise FileNotFoundError("sphinx-mathjax-offline is not installed: see requirements.txt")
    source = Path(package.origin).parent / "static" / "mathjax"
    for part in MATHJAX:
        target = Path(app.outdir) / "_static" / "mathjax" / part
        copy_asset(str(source / part), str(target if (source / part).is_dir() else target.parent))


def setup(app) -> dict[str, Any]:
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.add_config_value("memoir_repository", find_repository(), "html")
    app.add_config_value("memoir_private", False, "html")
    app.connect("builder-inited", refuse_others)
    app.connect("doctree-read", describe_images)
    app.connect("html-page-context", mend_page)
    app.connect("html-page-context", add_buttons, priority=600)  # after the theme's at 501
    app.connect("build-finished", copy_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
