"""From a run to pages: `python -m memoir_book.pages` builds the HTML of one finished run.

Pages of the synthetic cohort go to `book/`, to be published. Pages of real data are built in
the run's own folder, which is its owner's only, and say so: they are never public.
"""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import yaml

from memoir_core import files
from memoir_core.files import DamagedFileError, MissingArtefactError, read_json, write_json

from . import chapters, codepages, manifest, privacy, published, seeds, store
from .chapters import CHAPTERS, ROOT, VOLUMES
from .dataset import read_dataset
from .messages import say

WIDGET = "application/vnd.jupyter.widget-view+json"  # a bar that only a live notebook can draw
WORDS_PER_MINUTE = 200  # of an unhurried reader; a cell of code counts as 40 words
WAYS = published.load("ways.json")  # paths through the book, and the cells whose figures show it


def main(argv: list[str] | None = None) -> int:
    args = chapters.parser_of("pages", __doc__).parse_args(argv)
    try:
        name, settings = store.find_run(args.profile, args.run, args.data, args.seed)
        source, out = lay_out(name, settings)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(source)]
    command += ["--path-output", str(out), "--quiet", "--builder", args.builder]
    command += ["--all", "-W", "--keep-going"] * args.strict
    code = subprocess.run(command, check=False).returncode
    built = out / "_build" / args.builder / "index.html"
    if code == 0:
        print(f"The book: {built}")
    elif not args.strict:  # where a warning is no error, half of the pages are missing
        built.unlink(missing_ok=True)
        print(f"error: {built.parent} is not whole; is there no space?", file=sys.stderr)
    return code


def lay_out(name: str, settings: dict[str, Any]) -> tuple[Path, Path]:
    """Put a run's executed chapters where the table of contents expects them.

    Returns source and output folder for Jupyter Book. Raises MissingArtefactError where a chapter
    has not run (a book of two runs is never built), DamagedFileError where a page was changed.
    """
    run_dir = chapters.runs_dir() / name
    known = manifest.current(manifest.read_manifest(run_dir))
    if absent := [c.number for c in CHAPTERS if f"notebooks/{c.name}.ipynb" not in known]:
        raise MissingArtefactError(say("no whole run", name=name, absent=", ".join(absent)))
    for file, (wanted, _) in known.items():  # all that is shown, before anything is written
        shown = file.startswith(("notebooks/", "results/", "stage2/", "cohort.", "captions."))
        if shown and manifest.checksum_now(run_dir / file) != wanted:
            raise DamagedFileError(f"{run_dir / file} is not what the run left; run it again")
    source, out = ROOT, ROOT / "book"
    dataset = read_dataset(store.data_folder(settings))
    if private := store.is_private(name, settings):
        source, out = run_dir / "book", run_dir / "book"
        privacy.keep_private(run_dir)
        with files.atomic_path(source, durable=False) as new:
            _copy_private(new, " ".join([privacy.BANNER, *dataset.notes]))
    codepages.write_pages(source)
    with files.atomic_path(source / "book" / "chapters", durable=False) as folder:
        folder.mkdir()
        for page in (f"{chapter.name}.ipynb" for chapter in CHAPTERS):
            shutil.copyfile(run_dir / "notebooks" / page, folder / page)
        (folder / "model.js").write_text("globalThis.MEMOIR_MODEL = null;\n")  # for try.js
        if "captions.jsonl" in known and not private:
            from .live import export  # here, so that the runner starts fast

            export(name, settings, folder / "model.js")
        parts = {"headline": headline(run_dir), "times": times(run_dir)}
        parts |= {part: told(run_dir, part) for part in ("findings", "model_card", "datasheet")}
        parts |= pictures(run_dir, folder)
        for part, text in parts.items():
            (folder / f"{part}.md").write_text(dataset.reword(text), encoding="utf-8")
    return source, out


def _copy_private(source: Path, banner: str) -> None:
    """Copy what surrounds the chapters, with a banner, and closed to search engines."""
    shown = [*(ROOT / "book").glob("*.*"), ROOT / "_toc.yml"]
    for name in ("book/_ext", "book/_static", "memoir_core", "wrapups"):
        shown += (ROOT / name).rglob("*.*")
    for path in filter(Path.is_file, shown):  # without the modes of the originals
        (target := source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["sphinx"]["config"]["html_theme_options"]["announcement"] = banner
    config["sphinx"]["config"] |= {"memoir_private": True}
    config["sphinx"]["config"]["myst_html_meta"] = {"robots": "noindex, nofollow"}
    (source / "_config.yml").write_text(yaml.safe_dump(config, width=1000), encoding="utf-8")


def tidy(notebook: Path, run: str, data_dir: str, private: bool = False) -> None:
    """Make an executed notebook fit to be shown.

    Of each progress bar only the last state is kept; paths begin at the project, and DATA
    stands for the data folder; the metadata name the run. Warnings show no path. Where a run is
    `private`, no message shows an identifier, and no table a PTID or a file. Tables and prints
    call images by the cohort's names, and classes in tables of the run, but not beside published
    figures, nor where language models are asked (chapter 9).
    """
    from nbconvert.preprocessors import coalescestreams  # here, so that the runner starts fast

    content, joined = nbformat.read(notebook, 4), coalescestreams.CoalesceStreamsPreprocessor()
    dataset, asked = read_dataset(Path(data_dir or "none")), notebook.name.startswith(".09")
    for cell in content.cells:
        if "outputs" in cell:
            shown = {WIDGET, "text/html"}  # a live twin goes, and what is beside it stays
            cell.outputs = [o for o in cell.outputs if shown & {*o.get("data", ())} != {WIDGET}]
            joined.preprocess_cell(cell, {}, 0)  # a bar comes in many pieces
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                output.text = privacy.mask(output.text, ["path"])
            if private:
                _mask(output)
            data = output if "text" in output else output.get("data", {})
            data.pop(WIDGET, None)
            if VOLUMES in data:
                cell.metadata.setdefault("volumes", {}).update(data.pop(VOLUMES))
            for kind in {"text", "text/plain", "text/html", "text/markdown"} & data.keys():
                said = "".join(data[kind])
                if "base64" not in said and "synthetic" not in said:  # viewers; not this cohort
                    other = asked or "published" in said or "literature" in said
                    data[kind] = dataset.reword(said, dataset.name in said and not other)
    text = json.dumps(content, ensure_ascii=False)
    for folder, name in ((data_dir, "DATA"), (notebook.parent, "notebooks"), (f"{ROOT}/", "")):
        if folder:  # as it is written in JSON
            text = text.replace(json.dumps(str(folder), ensure_ascii=False)[1:-1], name)
    content = json.loads(text)
    content["metadata"].pop("widgets", None)
    content["metadata"]["memoir"] = {"run": run, "synthetic": not private}
    write_json(notebook, content)


def _mask(output: dict) -> None:
    """Take what names people out of an output of real data: all of a message, names of a table."""
    for key in {"text", "evalue", "traceback"} & output.keys():
        lines = [output[key]] if isinstance(output[key], str) else output[key]
        seen = r"\x1b\[[0-9;]*m|'[^'\n]{1,80}'(?= is not )"  # colours, a value of a table
        plain = [privacy.mask(re.sub(seen, "", line)) for line in lines]
        output[key] = plain if key == "traceback" else "".join(plain)
    for kind in {"text/plain", "text/html", "text/markdown"} & output.get("data", {}).keys():
        if "base64" not in (said := "".join(output["data"][kind])):  # a viewer
            output["data"][kind] = privacy.mask(said, ["PTID", "path"])


def results(run_dir: Path) -> dict[str, dict]:
    """Number of a chapter -> what it stored: provenance, results, and what they took."""
    return {c.number: read_json(run_dir / "results" / f"{c.name}.json") for c in CHAPTERS}


def headline(run_dir: Path) -> str:
    """Set headlines beside what is published, a baseline and the ceiling, as Markdown."""
    rows, beside, every = [], [], results(run_dir)
    for number, stored in every.items():
        for name, (_, where, known) in seeds.HEADLINES[number].items():
            found = seeds.pick(stored["results"], where)
            if known and found:
                row = {"figure": name, "published": published.figure(known)}
                ends = {end: found.get(end) for end in ("low", "high")}
                rows.append(row | ends | {"this run": found["value"]})
                beside.append(bounds(every["05"]["results"], where))
    label = every["01"]["provenance"]["label"]
    table = published.compare(rows, label).reset_index(names="measure")
    table["baseline"], table["ceiling"] = zip(*beside, strict=True) if beside else ((), ())
    return published.markdown(table) + f"\n*This run: {label}. Published: on ADNI.*\n"


def bounds(results: dict[str, Any], where: str) -> tuple[str, str]:
    """Say what a headline lies between: the score of a baseline, and of an oracle.

    results : of chapter 5. where : the headline's path, 'metrics/dx3/auc' or 'subsets/t1+fa/dx3'.
    The baseline is the regression of chapter 5, on scores where the headline's model sees them,
    else on measures of the images; where there is none, a constant. The ceiling is 'unknown' of
    data whose making nobody knows; a count has neither.
    """
    kind, *path = where.split("/")
    if kind not in ("metrics", "subsets"):
        return "none", "none"
    subset = "t1+fa+clinical" if kind == "metrics" else path.pop(0)
    task, metric = path if kind == "metrics" else (*path, "balanced_accuracy")
    known = results.get("baselines", {}).get(f"{task} constant", {})
    value = known.get(metric, None if metric == "mae" else 0.5)
    for row in results.get("rivals", ()) if metric == "balanced_accuracy" else ():
        inputs, _, model = row["baseline"].partition(", ")
        seen = inputs == "scores" if "clinical" in subset else inputs not in ("scores", "presence")
        if row["task"] == task and model == "regression" and seen and "presence" not in inputs:
            value = row["value"]
    best = seeds.pick(results, f"ceilings/{subset}/{task}/{metric}").get("value")
    return published.number(value), published.number(best, "unknown")


def pictures(run_dir: Path, folder: Path) -> dict[str, str]:
    """Set a figure of some chapters, written into `folder`, above what the chapter found.

    Returns 'ten_04' -> Markdown. Where a chapter names no finding, the figure's words are told.
    """
    told = {}
    for chapter in (c for c in CHAPTERS if c.number in WAYS["ten minutes"]):
        cells = read_json(run_dir / "notebooks" / f"{chapter.name}.ipynb")["cells"]
        drawn = [c["outputs"] for c in cells if c.get("id") == WAYS["ten minutes"][chapter.number]]
        figures = [o for outputs in drawn for o in outputs if "image/png" in o.get("data", ())]
        found = read_json(run_dir / "results" / f"{chapter.name}.json")["results"]
        name, link = f"ten_{chapter.number}", f"([](chapters/{chapter.name}.ipynb))"
        told[name] = f"This run drew no such figure {link}.\n"
        for figure in figures[:1]:
            png = base64.b64decode("".join(figure["data"]["image/png"]))
            (folder / f"{name}.png").write_bytes(png)
            alt, wide = figure["metadata"]["image/png"]["alt"], int.from_bytes(png[16:20], "big")
            words = (json.dumps(alt), (found.get("findings") or [alt])[0], link)
            told[name] = published.template("pages.md.j2").module.picture(name, wide, *words)
    return told


def told(run_dir: Path, part: str) -> str:
    """Write as Markdown 'findings', 'model_card' or 'datasheet': what a run measured or noted."""
    known: dict = {"chapters": CHAPTERS, "stored": results(run_dir), "seen": []}
    known["made"] = manifest.read_manifest(run_dir).get("chapters")
    return getattr(published.template("pages.md.j2").make_module(known), part)()


def times(run_dir: Path) -> str:
    """List what the paths and chapters take to read and took to run, as a Markdown table."""
    rows, every = [], results(run_dir)
    for chapter in CHAPTERS:
        read, asked = minutes(chapter.notebook)
        rows.append(every[chapter.number] | {"chapter": chapter, "read": read, "asked": asked})
    return published.template("pages.md.j2").module.times(rows, WAYS["paths"])


def minutes(notebook: Path) -> tuple[int, int]:
    """Estimate how long a chapter takes to read, and add up what its exercises say they take."""
    words, asked = 0, 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if re.search("^## Solutions$", text, re.MULTILINE):
            break
        if told := re.match(r"\*\*Exercise \S+\*\* \(\w+, (\d+) min", text):
            asked += int(told[1])
        elif not {"exercise", "self-check"} & {*cell["metadata"].get("tags", ())}:
            words += 40 if cell["cell_type"] == "code" else len(re.findall(r"\w+", text))
    return max(1, round(words / WORDS_PER_MINUTE)), asked


if __name__ == "__main__":
    sys.exit(main())
