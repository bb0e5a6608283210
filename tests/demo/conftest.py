"""The marker of the tests that run the whole demo."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    config.addinivalue_line("markers", "demo: runs the whole demo, small, in processes of its own")
