"""Kill a piece of work before one of its file operations, and count them."""

import builtins
import io
import os
import traceback
from pathlib import Path

OPERATIONS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "truncate", "fsync")


def _arm(at, log):
    """Note this process's file operations; die before number `at`, as after kill -9."""

    def step(what):
        log.append(what)
        if len(log) == at:
            os._exit(137)  # no finally, no flush

    for name in OPERATIONS:
        real = getattr(os, name)

        def wrapped(*arguments, _real=real, _name=name, **options):
            step(f"{_name} {arguments[0]}")
            return _real(*arguments, **options)

        setattr(os, name, wrapped)
    for module in (builtins, io):
        real = module.open

        def opened(file, mode="r", *rest, _real=real, **options):
            writes = any(letter in mode for letter in "wax+") and not isinstance(file, int)
            if writes and not str(file).startswith("/dev/"):
                step(f"open {file} {mode}")
            return _real(file, mode, *rest, **options)

        module.open = opened


def run(work, at=0, note=None):
    """Do work in a forked process that dies before operation `at` (0: never); its exit code.

    `note`: a file for the list of operations of work that is not killed.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        log = []
        plain = Path.write_text
        _arm(at, log)
        work()
        if note:
            done = "\n".join(log)
            plain(note, done)
        os._exit(0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
