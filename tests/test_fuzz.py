"""A slice of `python tests/fuzz_readers.py`, and that the fuzzer notices a crash."""

import fuzz_readers

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
    assert tuple(volumes.read_volume(str(path)).shape) == (1, 9, 11, 9)
