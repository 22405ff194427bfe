"""What the published pages add to Jupyter Book: openings, alt texts, launch buttons, MathJax.

A local Sphinx extension, named in _config.yml. It reads notebooks, and writes HTML and copies.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.fileutil import copy_asset

from memoir_book.exercises import copy_of
from memoir_core.files import write_json

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = ROOT / "notebooks"
LOGGER = logging.getLogger(__name__)

# The part of MathJax that a page with TeX needs, fonts included; the whole package is 24 MB.
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2", "a11y")
BINDER_GIB = 1.8  # of the 2 GB that mybinder.org gives; JupyterLab takes the rest
FOLDED = {"injected-parameters", "hide-cell"}  # on the page: with a hidden cell that follows
WIDE = 500  # pixels; a wider figure keeps a legible size on a phone, and scrolls in its cell


def find_repository(app, config) -> None:
    """Say where the project is public, as 'owner/name': _config.yml, else GitHub Actions."""
    options, host = config.html_theme_options, "https://github.com/"
    name = options.get("repository_url") or host + os.environ.get("GITHUB_REPOSITORY", "")
    if name == host or config.memoir_private:  # pages of real people lead nowhere
        return
    if not re.fullmatch(host + r"[\w.-]+/[\w.-]+", name):
        raise ExtensionError(f"_config.yml, repository_url: {name!r} is not {host}OWNER/NAME")
    options |= config.memoir_links | {"repository_url": name}
    config.memoir_repository = name.removeprefix(host)


def name_repository(app, docname, text) -> None:
    """Say OWNER/NAME of the project, or leave the line out; and the time of a chapter that ran."""
    if took := re.search(r"\d took (\d+ s and at most [\d.]+ GiB) of memory", text[0]):
        text[0] = text[0].replace("printed by the last cell", f"{took[1]}, in this run")
    if name := app.config.memoir_repository:
        text[0] = text[0].replace("OWNER/NAME", name)
    text[0] = re.sub(r"^.*OWNER/NAME.*\n", "", text[0], flags=re.MULTILINE)


def read_figures(notebook: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Read what `memoir_book.plots` says of its figures: sha256 of the PNG -> words, width."""
    figures = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if text := "".join(output.get("data", {}).get("image/png", "")):
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


def begin_with_subject(app, doctree) -> None:
    """Show the figure of the cell that has a caption first; fold set-up, many cells, as one."""
    for cell in [*doctree.findall(nodes.container)]:
        after, told = cell.next_node(descend=False, siblings=True), cell.get("cell_metadata", {})
        if FOLDED & {*told.get("tags", ())} and (after or {}).get("hide_mode") == "all":
            after.insert(0, cell.children)
            cell.parent.remove(cell)
        for image in [*cell.findall(nodes.image)][: "caption" in told]:
            cell["ids"].append("made-here")
            link = nodes.reference("", "Where it is made", refid="made-here", internal=True)
            words = nodes.caption("", told["caption"] + " ", link)
            doctree[0].insert(2, nodes.figure("", image.deepcopy(), words, ids=["main-figure"]))


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
    for button in (button for group in buttons for button in group.get("buttons", ())):
        if button.get("url", "").startswith("https:"):  # chapters and code are copies
            url = re.sub(r"book/chapters/(\w+\.ipynb)", r"notebooks/\1", button["url"])
            button["url"] = re.sub(r"book/code/(\w+)\.md", r"memoir_core/\1.py", url)
        if button.get("text") == ".pdf":  # the theme names them by suffix only
            button["text"] = "print or .pdf"
    groups = [g["buttons"] for g in buttons if g.get("label") == "download-buttons"]
    name = pagename.rpartition("/")[2]
    if not (NOTEBOOKS / f"{name}.ipynb").exists() or not pagename.startswith("book/chapters/"):
        return
    for group in groups:
        for button in (b for b in group if b["label"] == "download-source-button"):
            button.update(text=".ipynb, as run here", tooltip="The executed notebook, with outputs")
        link = {"url": context["pathto"](f"notebooks/{name}.ipynb", 1), "text": ".ipynb, to edit"}
        link |= {"tooltip": "Without outputs and solutions", "label": "download-notebook-button"}
        group.insert(0, link | {"type": "link", "icon": "fas fa-code"})
    table = Path(app.srcdir, "book/chapters/times.md").read_text("utf-8")
    took = float(re.search(rf"/{name}\.ipynb\).* ([\d.]+) GiB", table)[1])
    for group in (g for g in buttons if g.get("label") == "launch-buttons"):
        offered = [b for b in group["buttons"] if b["text"] != "Binder" or took <= BINDER_GIB]
        for button in offered:  # students' copies: in Binder's image, and for Colab on a branch
            url = re.sub(r"blob/.+/notebooks/", "blob/student/", button["url"])
            button["url"] = url.replace("notebooks/", "student/")
        group["buttons"] = offered


def refuse_others(app) -> None:
    """Refuse to show what no synthetic run made: a chapter of real people, or one run by hand."""
    for path in Path(app.srcdir, "book").glob("[!_]*/*.ipynb"):
        notebook = json.loads(path.read_text("utf-8"))
        shown = any(cell.get("outputs") or cell.get("attachments") for cell in notebook["cells"])
        made = notebook["metadata"].get("memoir", {})
        if shown and made.get("synthetic") is not True and not app.config.memoir_private:
            mend = "delete it, and build with `python -m memoir_book.pages`"
            raise ExtensionError(f"{path} shows what no synthetic run made; {mend}")


def write_volumes(app) -> None:
    """Write the volumes of viewers as scripts: what a page from a disk may load."""
    shutil.rmtree(shelf := Path(app.outdir, "_static", "volumes"), ignore_errors=True)
    shelf.mkdir(parents=True)
    for path in Path(app.srcdir, "book", "chapters").glob("*.ipynb"):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            for name, packed in cell["metadata"].get("volumes", {}).items():
                text = f"memoirVolumes[{json.dumps(name)}] = {json.dumps(packed)};\n"
                (shelf / f"{Path(name).name}.js").write_text(text, "utf-8")


def copy_files(app, error) -> None:
    """Ship students' copies of the notebooks, and MathJax: nothing comes from elsewhere."""
    if error or app.builder.format != "html":
        return
    write_volumes(app)
    (shelf := Path(app.outdir) / "notebooks").mkdir(parents=True, exist_ok=True)
    wrapups = NOTEBOOKS.with_name("wrapups").glob("[0-9]*.ipynb")
    for path in (*NOTEBOOKS.glob("[0-9]*.ipynb"), *wrapups):
        write_json(shelf / path.name, copy_of(path))
    source = Path(str(files("sphinx-mathjax-offline"))) / "static" / "mathjax"
    for part in MATHJAX:
        target = Path(app.outdir) / "_static" / "mathjax" / part
        copy_asset(str(source / part), str(target if (source / part).is_dir() else target.parent))


def setup(app) -> dict[str, Any]:
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.add_config_value("memoir_repository", "", "env")
    app.add_config_value("memoir_links", {}, "html")
    app.add_config_value("memoir_private", False, "html")
    app.connect("config-inited", find_repository)
    app.connect("builder-inited", refuse_others)
    app.connect("source-read", name_repository)
    app.connect("doctree-read", describe_images)
    app.connect("doctree-read", begin_with_subject)
    app.connect("html-page-context", mend_page)
    app.connect("html-page-context", add_buttons, priority=600)  # after the theme's at 501
    app.connect("build-finished", copy_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
