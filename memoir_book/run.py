"""Run the book's notebooks in order with papermill: `python -m memoir_book.run --help`.

A chapter is skipped when its notebook, the code that it imports, its parameters, its
inputs and its outputs are what they were when it last finished. A killed run therefore
goes on with the chapter in which it stopped.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fcntl
import hashlib
import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memoir_core import config
from memoir_core.config import CHAPTERS, Chapter

from . import artefacts, pages
from .privacy import hide_folder
from .scan_site import Identifiers, read_identifiers, report, scan_file

PACKAGES = ("memoir_core", "memoir_book", "synthetic_adni")
FIXED = ("profile", "run", "data_dir", "seed", "device")  # set by options of their own


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        chapters = choose_chapters(args.first, args.last, args.only)
        extra = read_parameters(args.param, chapters)
        if args.data and not Path(args.data).expanduser().is_dir():
            raise ValueError(f"--data {args.data!r} is not a folder")
    except ValueError as error:
        parser.error(str(error))
    data_dir = str(Path(args.data).expanduser().resolve()) if args.data else ""
    parameters = {
        "profile": args.profile,
        "run": args.run or artefacts.default_run_name(args.profile, args.seed, data_dir),
        "data_dir": data_dir,
        "seed": args.seed,
        "device": args.device,
    }
    try:
        with run_lock(config.runs_dir() / parameters["run"]):
            return run_chapters(
                chapters, parameters, extra, args.force, args.verbose, not args.no_publish
            )
    except BlockingIOError:
        print(f"error: another process is running {parameters['run']!r}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on with this chapter.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m memoir_book.run",
        description="Run the book's notebooks in order. Chapters that are up to date are skipped.",
        epilog="Chapters: " + ", ".join(c.name for c in CHAPTERS) + ". A number will do: --from 4.",
    )
    parser.add_argument("--profile", default="smoke", choices=tuple(config.PROFILES))
    parser.add_argument("--run", default="", help="folder under runs/ (default: PROFILE-seedN)")
    parser.add_argument("--data", default="", help="ADNI download (default: synthetic cohort)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--from", dest="first", default="", metavar="CHAPTER")
    parser.add_argument("--to", dest="last", default="", metavar="CHAPTER")
    parser.add_argument("--only", default="", metavar="CHAPTER")
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a notebook parameter of the chosen chapters; may be given several times",
    )
    parser.add_argument("--force", action="store_true", help="run up-to-date chapters as well")
    parser.add_argument(
        "--no-publish", action="store_true", help="keep the executed notebooks out of the book"
    )
    parser.add_argument("--verbose", action="store_true", help="show what the notebooks print")
    return parser


def choose_chapters(first: str, last: str, only: str) -> list[Chapter]:
    """Turn --from, --to and --only into a list of chapters, in order.

    Raises
    ------
    ValueError
        An unknown chapter, --only together with a range, or a range that is empty.
    """
    if only:
        if first or last:
            raise ValueError("--only cannot be combined with --from or --to")
        return [config.get_chapter(only)]
    start = CHAPTERS.index(config.get_chapter(first)) if first else 0
    end = CHAPTERS.index(config.get_chapter(last)) if last else len(CHAPTERS) - 1
    if start > end:
        raise ValueError(f"--from {first} lies after --to {last}")
    return list(CHAPTERS[start : end + 1])


def read_parameters(given: list[str], chapters: list[Chapter]) -> dict[str, Any]:
    """Read NAME=VALUE pairs and check them against the notebooks' own parameters.

    Raises
    ------
    ValueError
        A malformed pair, a parameter that none of the chapters has (the message lists
        those they have), or a value of another type than the notebook's default.
    """
    if not given:
        return {}
    own = {chapter.name: own_parameters(chapter) for chapter in chapters}
    known = {name: value for found in own.values() for name, value in found.items()}
    listing = [f"  {name}: {', '.join(found) or 'none of its own'}" for name, found in own.items()]
    values = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--param {pair!r} must look like NAME=VALUE")
        if name in FIXED:
            option = {"data_dir": "data"}.get(name, name)
            raise ValueError(f"--param {name}: use the option --{option} instead")
        if name not in known:
            raise ValueError(
                f"--param {name}: no chosen notebook has this parameter. Parameters:\n"
                + "\n".join(listing)
            )
        values[name] = _as_type_of(known[name], name, text)
    return values


def own_parameters(chapter: Chapter) -> dict[str, Any]:
    """Read the parameters, with defaults, that a notebook has beside the five common ones."""
    from papermill import inspect_notebook

    found = inspect_notebook(str(chapter.notebook))
    return {name: ast.literal_eval(p["default"]) for name, p in found.items() if name not in FIXED}


def _as_type_of(default: Any, name: str, text: str) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = json.loads(text.lower() if isinstance(default, bool) else text)
    except json.JSONDecodeError:
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(
            f"--param {name}={text}: the notebook's default is {default!r}, "
            f"so a value of type {type(default).__name__} is expected"
        )
    return value


def run_chapters(
    chapters: list[Chapter],
    parameters: dict[str, Any],
    extra: dict[str, Any],
    force: bool = False,
    verbose: bool = False,
    publish: bool = True,
) -> int:
    """Execute the chapters; return 0, or 1 after the first that fails."""
    run_dir = config.runs_dir() / parameters["run"]
    guard = _guard(parameters["data_dir"])
    begun = time.time()
    live = sys.stdout.isatty()  # a log file gets finished lines only
    back = "\r" if live else ""
    for chapter in chapters:
        line = f"[{chapter.number}/{CHAPTERS[-1].number}] {chapter.name:<24}"
        executed = run_dir / "notebooks" / f"{chapter.name}.ipynb"
        known = own_parameters(chapter) if extra else {}
        own = {name: value for name, value in extra.items() if name in known}
        if not force and is_current(chapter, parameters | own, run_dir):
            if publish and (error := _publish(executed, guard)):
                print(f"{line} NOT PUBLISHED\n\n{error}", file=sys.stderr, flush=True)
                return 1
            print(f"{line} up to date", flush=True)
            continue
        if live:
            print(f"{line} ...", end="" if not verbose else "\n", flush=True)
        started = time.time()
        code = code_hash(chapter.notebook)  # now: someone may edit while it runs
        with peak_memory() as peak:
            error = execute(chapter, parameters | own, executed, verbose)
        taken = f"{time.time() - started:6.1f} s  {peak[0] / 2**30:4.1f} GiB"
        if error:
            print(f"{back}{line} FAILED after {taken}\n\n{error}", file=sys.stderr, flush=True)
            return 1
        missing = [name for name in chapter.writes if not (run_dir / name).exists()]
        if missing:
            print(
                f"{back}{line} FAILED: {executed} ran, but did not write {', '.join(missing)}",
                file=sys.stderr,
            )
            return 1
        artefacts.write_json(
            _state_path(chapter, run_dir),
            fingerprint(chapter, parameters | own, run_dir) | {"code": code},
        )
        if publish and (error := _publish(executed, guard)):
            print(f"{back}{line} NOT PUBLISHED\n\n{error}", file=sys.stderr, flush=True)
            return 1
        print(f"{back}{line} {taken}", flush=True)
    if publish:
        pages.write_pages(run_dir)
    print(f"Done in {time.time() - begun:.0f} s: {run_dir}")
    return 0


def execute(chapter: Chapter, parameters: dict, executed: Path, verbose: bool) -> str:
    """Run one notebook; return '' or a message that names notebook, cell and error."""
    import papermill

    executed.parent.mkdir(parents=True, exist_ok=True)
    partial = executed.with_name(f".{executed.name}")
    try:
        papermill.execute_notebook(
            str(chapter.notebook),
            str(partial),
            parameters=parameters,
            kernel_name="python3",
            progress_bar={"leave": False} if sys.stderr.isatty() else False,
            stdout_file=sys.stdout if verbose else None,
            stderr_file=sys.stderr if verbose else None,
            cwd=str(chapter.notebook.parent),
            # ipykernel warns about its own transport at each start
            extra_arguments=["--IPKernelApp.log_level=40"],
        )
    except papermill.PapermillExecutionError as error:
        failed = executed.with_name(f"{chapter.name}.failed.ipynb")
        partial.replace(failed)
        first = error.source.strip().splitlines()[0] if error.source.strip() else ""
        return (
            f"{chapter.notebook}\n"
            f"cell {error.cell_index} (In [{error.exec_count}]): {first}\n"
            f"{error.ename}: {_plain_text(error.evalue)}\n"
            f"The notebook up to the error: {failed}"
        )
    tidy(partial, parameters.get("data_dir", ""))
    partial.replace(executed)
    return ""


def tidy(notebook: Path, data_dir: str = "") -> None:
    """Make an executed notebook fit to be published.

    Of each progress bar only the last state is kept. Paths begin at the project, and DATA
    stands for the data folder, in outputs, in the cell of parameters and in the metadata.
    The metadata say whose data it shows, so that `scan_site` knows what to look for.
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        joined: list[dict] = []
        for output in cell.get("outputs", ()):
            text = "".join(output.get("text", ""))
            same = joined and joined[-1].get("name") == output.get("name") == "stderr"
            if same:  # a bar comes in many pieces
                joined[-1]["text"] += text
            else:
                joined.append(output | ({"text": text} if "text" in output else {}))
        for output in joined:
            if output.get("name") == "stderr":
                lines = output["text"].split("\n")
                output["text"] = "\n".join(line.rsplit("\r", 1)[-1] for line in lines)
        if "outputs" in cell:
            cell["outputs"] = joined
    # A warning may quote where a library lies: no path of this machine is published.
    folders = {data_dir: "DATA", str(notebook.parent): "notebooks"}
    content = _without_paths(content, folders)
    cohort = "synthetic" if artefacts.is_synthetic(data_dir) else "ADNI"
    content["metadata"]["memoir"] = {"cohort": cohort}
    artefacts.write_json(notebook, content)


def _without_paths(value: Any, folders: dict[str, str]) -> Any:
    """Replace folders in every text of a notebook, however deep."""
    if isinstance(value, str):
        for folder, instead in folders.items():
            value = hide_folder(value, folder, instead)
        return value.replace(f"{config.ROOT}/", "")
    if isinstance(value, list):
        return [_without_paths(item, folders) for item in value]
    if isinstance(value, dict):
        return {key: _without_paths(item, folders) for key, item in value.items()}
    return value


def _plain_text(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _guard(data_dir: str) -> Identifiers | None:
    """What no published notebook may hold; None for the synthetic cohort."""
    return None if artefacts.is_synthetic(data_dir) else read_identifiers(Path(data_dir))


def _publish(executed: Path, guard: Identifiers | None) -> str:
    """Copy an executed notebook to where the book's table of contents expects it.

    Returns
    -------
    '' or, if it holds an identifier of the data, a message; then nothing is copied.
    """
    published = config.ROOT / "book" / "chapters" / executed.name
    if guard and (found := scan_file(executed, guard, executed.name)):
        published.unlink(missing_ok=True)
        return (
            "The executed notebook holds what must not be published, and was not copied to "
            f"book/chapters/:\n{report(found)}\n"
            f"Mend the cell that shows it. The notebook: {executed}"
        )
    with artefacts.atomic_path(published) as temporary:
        shutil.copyfile(executed, temporary)
    return ""


# --- what decides whether a chapter is up to date ---------------------------------------


def _state_path(chapter: Chapter, run_dir: Path) -> Path:
    return run_dir / "state" / f"{chapter.name}.json"


def is_current(chapter: Chapter, parameters: dict, run_dir: Path) -> bool:
    state = _state_path(chapter, run_dir)
    executed = run_dir / "notebooks" / f"{chapter.name}.ipynb"
    if not state.exists() or not executed.exists():
        return False
    return artefacts.read_json(state) == fingerprint(chapter, parameters, run_dir)


def fingerprint(chapter: Chapter, parameters: dict, run_dir: Path) -> dict[str, Any]:
    """Hash what a chapter's result depends on, and the result itself."""
    files = {name: run_dir / name for name in (*chapter.reads, *chapter.writes)}
    if not chapter.reads:  # the first chapter reads the download
        profile = config.get_profile(parameters["profile"])
        data = Path(parameters["data_dir"] or artefacts.synthetic_dir(profile))
        files |= {name: data / name for name in ("ADNIMERGE.csv", "images.csv")}
    folder = parameters["data_dir"]
    return {
        "parameters": parameters | {"data_dir": artefacts.folder_name(folder) if folder else ""},
        "code": code_hash(chapter.notebook),
        "files": {
            name: artefacts.checksum(path) if path.exists() else "missing"
            for name, path in files.items()
        },
    }


def code_hash(notebook: Path) -> str:
    """Hash a notebook's code and text, the modules of ours that it imports, and the versions."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = [f"{cell['cell_type']}:{''.join(cell['source'])}" for cell in cells]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    sources += [path.read_text(encoding="utf-8") for path in sorted(imported_modules(code))]
    for extra in ("requirements.txt", "memoir_book/published.json"):
        sources.append((config.ROOT / extra).read_text())
    return hashlib.blake2b("\0".join(sources).encode()).hexdigest()[:32]


def imported_modules(code: str, package: str = "", seen: set[Path] | None = None) -> set[Path]:
    """Find the files of ours that some code imports, directly or through others."""
    seen = set() if seen is None else seen
    names: set[str] = set()
    code = "\n".join("" if line.lstrip()[:1] in "%!" else line for line in code.splitlines())
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    for name in names:
        if name.split(".")[0] not in PACKAGES:
            continue
        base = config.ROOT.joinpath(*name.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.exists() and path not in seen:
                seen.add(path)
                inner = path.parent.relative_to(config.ROOT).as_posix().replace("/", ".")
                imported_modules(path.read_text(encoding="utf-8"), inner, seen)
    return seen


# --- the process around it --------------------------------------------------------------


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Keep a second runner out of the same run folder.

    Raises
    ------
    BlockingIOError
        Another runner holds the folder.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextlib.contextmanager
def peak_memory(interval: float = 0.25) -> Iterator[list[int]]:
    """Watch the resident memory of this process's children; the list holds the peak in bytes."""
    import psutil

    peak = [0]
    stop = threading.Event()

    def watch() -> None:
        this = psutil.Process()
        while not stop.wait(interval):
            total = 0
            for child in this.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed
                    total += child.memory_info().rss
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
