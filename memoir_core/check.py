"""`python -m memoir_core.check` is `python -m memoir_book.check`."""

import runpy

runpy.run_module("memoir_book.check", run_name=__name__, alter_sys=True)
