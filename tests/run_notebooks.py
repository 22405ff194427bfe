"""Run nbval with the runner's kernels: `python tests/run_notebooks.py [arguments of pytest]`."""

import sys

import pytest

from memoir_book import kernels

if __name__ == "__main__":
    with kernels.ready() as name:
        sys.exit(pytest.main([f"--nbval-kernel-name={name}", *sys.argv[1:]]))
