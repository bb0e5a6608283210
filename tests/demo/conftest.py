"""The marker of the tests that run the whole demo."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    config.addinivalue_line("markers", "demo: runs the whole demo, small, in processes of its own")


@pytest.fixture(autouse=True)
def logs_of_the_demo_go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo keeps the logs of servers with which something was wrong."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
