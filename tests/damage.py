"""Damage a file as a bad disk or a broken copy does."""

from contextlib import contextmanager


def flip(path, share=0.6):
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@contextmanager
def damaged(path, damage):
    """Damage a file that other tests use, and put it back."""
    whole = path.read_bytes()
    try:
        damage(path)
        yield
    finally:
        path.write_bytes(whole)
