"""`python -m memoir_book.intake adni|prepare|oasis ...`: from what is given out to a download.

Each command is a module of its own, with `add_arguments` and `run`.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from memoir_core.tables import CohortError
from memoir_core.volumes import VolumeError

COMMANDS = {
    "adni": "ADNI's tables and images, as LONI or Clinica leave them",
    "prepare": "T1 and FA as they come from the scanner: strip and register",
    "oasis": "OASIS-1, open data, as nilearn fetches them",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; exit code 1 where something must be mended first."""
    parser = argparse.ArgumentParser(prog="python -m memoir_book.intake", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in COMMANDS.items():
        module = importlib.import_module(f".{name}", __package__)
        sub = commands.add_parser(name, help=what, description=module.__doc__)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (CohortError, VolumeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
