"""MEMOIR-VLM, rebuilt as a notebook book: the code that the chapters call."""

import logging

__version__ = "0.1.0"

# bitsandbytes says at import that an optional CPU kernel is not installed; nothing here needs it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
