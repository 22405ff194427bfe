"""Run the book's notebooks in order with papermill: `python -m memoir_book.run --help`.

A chapter is skipped where nothing has changed that it depends on: notebook, imported code,
parameters, inputs, weights, what it left. A killed run goes on with the chapter it stopped in.
"""

import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from memoir_core.config import get_profile
from memoir_core.files import DamagedFileError, difference, read_json, sweep
from memoir_core.tables import CohortError

from . import chapters, kernels, manifest, packs, pages, store
from .chapters import CHAPTERS, Chapter
from .messages import say


def main(argv: list[str] | None = None) -> int:
    """Run chapters; exit code 0, 1 where one fails, 2 for wrong arguments."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["pack"], ["unpack"]):
        return packs.main(argv)
    about = "Run the book's notebooks in order. Chapters that are up to date are skipped."
    parser = chapters.parser_of("run", about)
    parser.epilog = f"Chapters: {', '.join(c.name for c in CHAPTERS)}. A number will do: --from 4."
    parser.epilog += " To hand a run on: `run pack --help`, `run unpack --help`."
    args = parser.parse_args(argv)
    try:
        chosen = choose_chapters(getattr(args, "from"), args.to, args.only)
        extra = read_parameters(args.param, chosen)
        name, settings = store.find_run(args.profile, args.run, args.data, args.seed)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    common = {"run": name, "data_dir": settings["data"], "device": args.device}
    common |= {key: settings[key] for key in ("profile", "seed")}
    try:
        folder = store.open_folder(name, settings)
        loaded = kernels.LIBRARIES if len(chosen) > 1 else ""  # the first kernel loads its own
        with FileLock(folder / ".lock", timeout=0), kernels.ready(loaded) as kernel:
            return run_chapters(chosen, common, extra, kernel, args.force, args.verbose)
    except Timeout:
        print(f"error: another process is running {name!r}", file=sys.stderr)
        return 1
    except (DamagedFileError, manifest.RunMismatchError, CohortError, OSError) as error:
        nameless = isinstance(error, OSError) and not error.filename
        print(f"error: {error}{', where this is printed (a log?)' * nameless}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on with this chapter.", file=sys.stderr)
        return 130


def choose_chapters(first: str, last: str, only: str) -> list[Chapter]:
    """Turn --from, --to and --only into chapters, in order; ValueError if they clash."""
    if only and (first or last):
        raise ValueError("--only cannot be combined with --from or --to")
    start = CHAPTERS.index(chapters.get_chapter(only or first or "01"))
    end = CHAPTERS.index(chapters.get_chapter(only or last or CHAPTERS[-1].name))
    if start > end:
        raise ValueError(f"--from {first} lies after --to {last}")
    return list(CHAPTERS[start : end + 1])


def read_parameters(given: list[str], chosen: list[Chapter]) -> dict[str, Any]:
    """Read NAME=VALUE pairs of the notebooks' own parameters; ValueError for what is none."""
    own = {c.name: chapters.parameters_of(c) for c in chosen}
    known = {name: spec for found in own.values() for name, spec in found.items()}
    values = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--param {pair!r} must look like NAME=VALUE")
        if name in store.COMMON:
            raise ValueError(say("own option", name=name, option=name.removesuffix("_dir")))
        if name not in known:
            lists = [f"  {c}: {', '.join([*p][5:]) or 'none of its own'}" for c, p in own.items()]
            raise ValueError(say("unknown parameter", name=name, lists="\n".join(lists)))
        values[name] = chapters.checked(name, text, *known[name])
    return values


def run_chapters(
    chosen: list[Chapter], common: dict, extra: dict, kernel: str, force: bool, verbose: bool
) -> int:
    """Execute the chapters; return 0, or 1 after the first that fails."""
    folder = chapters.runs_dir() / common["run"]
    sweep(folder)  # else a kill's leavings stay where nothing is left to be written
    begun, back = time.monotonic(), "\r" if sys.stdout.isatty() else ""  # a log: whole lines only
    for chapter in chosen:
        line = f"[{chapter.number}/{CHAPTERS[-1].number}] {chapter.name:<24}"
        declared = chapters.parameters_of(chapter)
        own = {name: value for name, value in extra.items() if name in declared}
        why = "--force" if force else out_of_date(chapter, common, own)
        if not why:
            print(f"{line} up to date", flush=True)
            continue
        found, data = manifest.read_manifest(folder), store.data_folder(common)
        manifest.check_inputs(folder, found, chapter, data)  # before a kernel starts
        said = "" if why == "new" else f" ({why})"
        print(f"{line} ...{said}", end="" if back else "\n")
        started = time.monotonic()
        error = execute(chapter, common | own, folder, kernel, verbose)
        taken = f"{time.monotonic() - started:6.1f} s"
        if error:
            print(f"{back}{line} FAILED after {taken}\n\n{error}", file=sys.stderr, flush=True)
            return 1
        peak = read_json(folder / "results" / f"{chapter.name}.json")["peak_memory_gib"]
        print(f"{back}{line} {taken}  {peak:4.1f} GiB", flush=True)
    print(f"Done in {time.monotonic() - begun:.0f} s: {folder}")
    return 0


def out_of_date(chapter: Chapter, common: dict[str, Any], own: dict[str, Any]) -> str:
    """Say why a chapter must run, '' where the manifest shows that it need not."""
    folder = chapters.runs_dir() / common["run"]
    found = manifest.read_manifest(folder)
    if not (record := found.get("chapters", {}).get(chapter.name)):
        return "new"
    from .weights import fingerprint  # here, so that --help is fast

    declared = chapters.parameters_of(chapter).items()
    values = {n: own.get(n, d) for n, (_, d) in declared if n not in store.COMMON}
    now = {
        "parameters": chapters.resolved(chapter, values, asdict(get_profile(common["profile"]))),
        "device": record["device"] if common["device"] == "auto" else common["device"],
        "reads": manifest.reads_now(found, chapter, store.data_folder(common)),
        "code": manifest.code_of(chapter),
        "weights": {
            n: was | {"fingerprint": fingerprint(n, was.get("path", ""), was.get("use", "hub"))}
            for n, was in record["weights"].items()
        },
        "artefacts": {n: manifest.checksum_now(folder / n) for n in record["artefacts"]},
    }
    if f"notebooks/{chapter.name}.ipynb" not in record["artefacts"]:
        return "its page is missing: it was run by hand"
    return difference({key: record[key] for key in now}, now)


def execute(chapter: Chapter, parameters: dict, folder: Path, kernel: str, verbose: bool) -> str:
    """Run one notebook; return '' or a message that names notebook, cell and error."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    executed = folder / "notebooks" / f"{chapter.name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    partial, why = executed.with_name(f".{executed.name}"), ""
    before = manifest.read_manifest(folder)["chapters"].get(chapter.name)
    data, profile = parameters["data_dir"], parameters["profile"]
    private = store.is_private(folder.name, {"profile": profile, "data": data})
    try:
        # ipykernel warns of its own transport, and calls it an error to be ended
        how: dict = {"kernel_name": kernel, "extra_arguments": ["--IPKernelApp.log_level=50"]}
        how |= {"stdout_file": sys.stdout, "stderr_file": sys.stderr} if verbose else {}
        how["progress_bar"] = {"leave": False} if sys.stderr.isatty() else False
        how |= {"engine_name": kernels.engine(), "cwd": str(chapter.notebook.parent)}
        papermill.execute_notebook(str(chapter.notebook), str(partial), parameters, **how)
    except papermill.PapermillExecutionError as error:
        first = error.source.strip().partition("\n")[0]
        plain = re.sub(r"\x1b\[[0-9;]*m", "", error.evalue)
        why = say("cell failed", e=error, first=first, why=plain)  # for the screen
    except DeadKernelError:
        why = say("kernel killed", less=less(chapter, parameters))
    except OSError as error:
        partial.unlink(missing_ok=True)
        where = error.filename or str(partial)  # papermill's own writing names no file
        raise OSError(error.errno, f"{error.strerror}; make room, run again", where) from error
    if not why and manifest.read_manifest(folder)["chapters"].get(chapter.name) == before:
        return f"{chapter.notebook} ran, but did not call end_chapter; see {partial}"
    pages.tidy(partial, folder.name, data, private)
    if why:
        failed = partial.replace(executed.with_name(f"{chapter.name}.failed.ipynb"))
        return f"{chapter.notebook}\n{why}: {failed}"
    partial.replace(executed)
    manifest.add_artefact(folder, chapter.name, f"notebooks/{executed.name}")
    return ""


def less(chapter: Chapter, parameters: dict[str, Any]) -> str:
    """Say what to lower where a chapter needs more memory than there is."""
    size = parameters.get("batch_size") or get_profile(parameters["profile"]).batch_size
    fewer = {"batch_size": f"batch_size={max(2, size // 2)}", "llms": "llms=NAME (a smaller one)"}
    mend = [f"--param {fewer[name]}" for name in chapters.parameters_of(chapter) if name in fewer]
    mend += ["--profile smoke --run NEW"] * (parameters["profile"] != "smoke")
    return " or ".join(["end other programs", *mend])


if __name__ == "__main__":
    sys.exit(main())
