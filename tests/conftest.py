"""Shared fixtures. Tests never touch the user's runs/ or cache/ unless they are end-to-end."""

import pytest


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "endtoend: runs the whole book through papermill and builds its HTML (minutes)"
    )


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Send run folders to a temporary place."""
    monkeypatch.setenv("MEMOIR_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
