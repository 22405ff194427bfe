"""Downloads as they are given out: where the tables and images lie, and how they are named."""

from .trees import find_images, list_images

__all__ = ["find_images", "list_images"]
