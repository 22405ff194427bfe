"""`python -m memoir_core.run` is `python -m memoir_book.run`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("memoir_book.run", run_name="__main__", alter_sys=True)
