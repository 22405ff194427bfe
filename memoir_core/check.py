"""`python -m memoir_core.check` is `python -m memoir_book.check`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("memoir_book.check", run_name="__main__", alter_sys=True)
