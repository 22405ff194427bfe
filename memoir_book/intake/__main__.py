"""`python -m memoir_book.intake adni|prepare|oasis ...`: from what is given out to a download."""

import argparse
import sys

from memoir_core.tables import CohortError
from memoir_core.volumes import VolumeError

from ..chapters import parser_of
from . import adni, oasis, prepare


def main(arguments: list[str] | None = None) -> int:
    """Run one command; exit code 1 where something must be mended first."""
    parser = argparse.ArgumentParser(prog="python -m memoir_book.intake", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (adni, prepare, oasis):
        name, what = module.__name__.rpartition(".")[2], str(module.__doc__)
        sub = commands.add_parser(name, help=what.splitlines()[0], description=what)
        parser_of(f"intake {name}", what, sub).set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (CohortError, VolumeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
