"""Kill a piece of work before each of its file operations in turn, then do it again.

Each trial is a process of its own, forked from one that has the libraries loaded, and dies by a
real `kill -9`, or meets a disk that is full from there on (no file may grow). Python's audit
events say before each operation what it will be; they cannot be missed by a library that holds
its own reference to `open` or `os.replace`.
"""

import contextlib
import errno
import gc
import importlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import traceback
from pathlib import Path

from memoir_core.files import checksum

EVERY = int(os.environ.get("MEMOIR_KILL_EVERY", "20"))  # 1 tries every point, some minutes
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"}
CHANGES |= {"os.truncate", "os.chmod", "os.utime"}
FULL = 28  # exit code: the disk is full, and the message says which file
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    ["papermill", "peft", "memoir_core.training", "memoir_core.retrieval", "memoir_book.answers",
     "memoir_book.standins", "memoir_book.run", "memoir_book.intake.adni", "fakebook",
     "pandera.backends.pandas.builtin_checks", "pyarrow.parquet", "synthetic_adni.render"]
)  # fmt: skip


def explore(work, start, folder, kind="kill", every=EVERY):
    """Try the points of `work(folder)`.

    Parameters
    ----------
    work : a function of a module that a new process can import.
    start : likewise; makes what lies in the folder before.
    kind : 'kill', 'full', or 'two': no kill, but two processes at the same time.

    Returns
    -------
    dict: operations (all points there are), tried, and bad, a list of what ended otherwise.
    """
    process = server.Process(target=_explore, args=(work, start, str(folder), kind, every))
    process.start()
    process.join()
    return json.loads((folder / "found.json").read_text())


def _explore(work, start, folder, kind, every):
    import torch

    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    gc.freeze()  # a collection in a fork would copy and visit all that the libraries hold
    for handle in (1, 2):  # bars; a file of a log could not grow either
        os.dup2(os.open(os.devnull, os.O_WRONLY), handle)
    folder = Path(folder)
    whole, trial, before = folder / "whole", folder / "trial", folder / "before"
    trial.mkdir()  # what lies there before is made once, and copied for each trial
    if code := _wait(_child(start, trial)):
        raise RuntimeError(f"the start does not run: exit {code}")
    trial.rename(before)
    shutil.copytree(before, whole, symlinks=True)
    operations = folder / "operations"
    code = _wait(_child(work, whole, log=operations))
    names = operations.read_text().splitlines() if code == 0 else []
    for name in (folder / "modules").read_text().split() if code == 0 else ():
        with contextlib.suppress(ImportError):  # the trials, forks of this process, need not
            importlib.import_module(name)
    bad = [] if code == 0 else [f"it does not run at all: exit {code}"]
    wanted = content(whole)
    points = sorted({*range(1, len(names) + 1, every), len(names)}) if names else []
    points = points if kind != "two" else [1, 2, 3]
    for at in points:
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(before, trial, symlinks=True)
        if kind == "two":
            both = [_child(work, trial) for _ in range(2)]
            first = [_wait(pid) for pid in both] == [0, 0]
        else:
            code = _wait(_child(work, trial, at, kind))
            first = code == -signal.SIGKILL if kind == "kill" else code in (0, FULL)
        left = {name for name in content(trial) if kind != "kill" and name.endswith(".partial")}
        again = _wait(_child(work, trial))
        found = content(trial)
        other = {name for name in {**found, **wanted} if found.get(name) != wanted.get(name)}
        if not first or again != 0 or other or left:
            what = f"{code}, again {again}; other {sorted(other)}; left over {sorted(left)}"
            bad.append(f"{at} of {len(names)}, {names[at - 1]}: {what}")
    if bad and (folder / "errors").exists():
        bad.append((folder / "errors").read_text())
    found = {"operations": len(names), "tried": len(points), "bad": bad}
    (folder / "found.json").write_text(json.dumps(found))


def content(folder):
    """Content of every file, and every folder; locks aside, which stay."""
    paths = (p for p in sorted(folder.rglob("*")) if p.suffix != ".lock")
    return {str(p.relative_to(folder)): "" if p.is_dir() else _content(p) for p in paths}


def _content(path):
    if path.name == "manifest.json" or path.parent.name == "results":  # they tell the time
        return re.sub(r'"(made|checksum|results/\S+)": "\S+"', "", path.read_text())
    return checksum(path)


def _wait(pid):
    """Exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _child(work, folder, at=0, kind="kill", log=None):
    """Begin `work(folder)` in a fork, with a fault at an operation; give its process number."""
    pid = os.fork()
    if pid:
        return pid
    code, operations = 1, []
    try:
        sys.addaudithook(lambda event, args: _count(event, args, folder, operations, at, kind))
        work(folder)
        code = 0
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EFBIG) and str(folder) in str(error)
        code = FULL if full else _note(folder)
    except BaseException:
        code = _note(folder)
    finally:
        if log and not code:
            log.write_text("\n".join(operations))
            log.with_name("modules").write_text("\n".join(sys.modules))
        os._exit(code)


def _note(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    with open(folder.parent / "errors", "a") as handle:
        traceback.print_exc(file=handle)
    return 1


def _count(event, args, folder, operations, at, kind):
    """Note a file operation below `folder` that changes something; before one comes the fault."""
    if event == "open":
        if not isinstance(args[2], int) or not args[2] & WRITING:
            return
    elif event not in CHANGES:
        return
    if isinstance(args[0], int):
        return
    path = os.fsdecode(args[0])
    if path.startswith("/") and not path.startswith(f"{folder}/"):  # relative: inside rmtree
        return
    operations.append(f"{event.removeprefix('os.')} {Path(path).name}")
    if len(operations) == at and kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif len(operations) == at:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
