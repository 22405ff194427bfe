"""MEMOIR-VLM, rebuilt as a notebook book: the code that the chapters call.

Importing the package does no work: import the module that you need.
"""

__version__ = "0.1.0"
