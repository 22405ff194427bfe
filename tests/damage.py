"""Damage a file as a bad disk or a broken copy does."""


def flip(path, share=0.6):
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 4
    path.write_bytes(data)
