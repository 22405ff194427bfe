"""A slice of `python tests/core/fuzz_readers.py`, and that the fuzzer notices a crash."""

import struct

import fuzz_readers
import pytest

from memoir_core import volumes


def test_damaged_inputs_are_read_or_named():
    outcomes = fuzz_readers.fuzz(300, seed=7)
    assert fuzz_readers.findings(outcomes) == []
    kinds = {kind for kind, _ in outcomes}
    assert kinds == {"table", "images", "header", "packed"}
    for kind in kinds:  # damage that nobody notices would test nothing
        assert any(k == kind and outcome != "read" for k, outcome in outcomes)


def test_a_crash_would_be_found(monkeypatch, tmp_path):
    def crash(path):
        raise IndexError("as an unguarded reader would")

    monkeypatch.setattr(volumes, "read_volume", crash)
    outcomes = fuzz_readers.fuzz(8, seed=7, keep=tmp_path)
    assert any("IndexError in crash" in found for found in fuzz_readers.findings(outcomes))
    assert len(list(tmp_path.iterdir())) == 4


def test_the_undamaged_volume_is_read(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(fuzz_readers.volume())
    assert volumes.read_volume(path)[0].shape == (9, 11, 9)


def test_axes_that_do_not_span_space_are_named(tmp_path):
    """Found by input 19018 of seed 0; MONAI's Orientation ended with another error."""
    data = bytearray(fuzz_readers.volume())
    for row, value in enumerate((-20.0, 0.0, 0.0)):  # srow_x, srow_y, srow_z of the NIfTI header:
        struct.pack_into("<f", data, 280 + 16 * row + 4, value)  # the second axis is the first
    path = tmp_path / "scan.nii"
    path.write_bytes(data)
    with pytest.raises(volumes.VolumeError, match=r"scan\.nii cannot be read as NIfTI"):
        volumes.read_volume(path)
