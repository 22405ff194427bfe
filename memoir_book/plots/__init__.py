"""The book's figures, a function each: `plots.pipeline("04")`."""

# ruff: noqa: F401, F403
from .data import *
from .results import *
from .style import DX_COLOURS, above, below, describe, finish, rows_of, use_style
from .training import *
