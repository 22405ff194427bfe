"""`python -m memoir_core.run` is `python -m memoir_book.run`."""

import runpy

runpy.run_module("memoir_book.run", run_name=__name__, alter_sys=True)
