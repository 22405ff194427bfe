"""Downloads as they are given out, turned into a folder that the chapters read."""

from .images import find_images, list_images

__all__ = ["find_images", "list_images"]
