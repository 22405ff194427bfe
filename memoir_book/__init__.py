"""The machinery of the book: runs, pages, figures, checks. Never needed to understand the model."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"The book needs Python 3.11, 3.12 or 3.13, not {sys.version.split()[0]}: make setup")
