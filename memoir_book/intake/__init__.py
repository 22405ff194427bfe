"""Downloads as they are given out, turned into a folder that the chapters read."""

from ..dataset import lacks
from .adni import read_merged
from .images import find_images, list_images
from .text import read_text

__all__ = ["find_images", "lacks", "list_images", "read_merged", "read_text"]
