"""What tests need of grpcio; see `tests/interpreters.py`."""

from __future__ import annotations

import gc
import importlib.util
import signal

import pytest
from tests.interpreters import HAS_WHOLE_GRPCIO

if importlib.util.find_spec("grpc") is None:
    # A free-threaded build, and no second interpreter to borrow from.
    collect_ignore = ["control", "demo"]


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers; has the tests' processes take Ctrl-C, also where pytest runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if importlib.util.find_spec("hypothesis") is not None:
        from hypothesis import HealthCheck, settings  # noqa: PLC0415 - not everywhere

        # How long an example takes depends on what else the machine does.
        settings.register_profile("atoll", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("atoll")
    config.addinivalue_line("markers", "alone: measures time, so that a run of the whole suite has nothing beside it")
    config.addinivalue_line("markers", "once: tests whole processes or our own scripts: for the newest CPython only")
    config.addinivalue_line("markers", "smoke: of a file that is marked `once`, and for every CPython even so")
    config.addinivalue_line("markers", "server_process: calls a server in another process from this one, by grpcio")
    config.addinivalue_line("markers", "whole_grpcio: needs grpcio's client and more within one interpreter")


def pytest_collection_finish() -> None:
    """Takes what exists by now out of the collections' sight: hundreds of tests collect garbage, their own."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what the Python half of grpcio can't do."""
    if HAS_WHOLE_GRPCIO:
        return
    for item in items:
        if item.get_closest_marker("server_process"):
            item.add_marker(pytest.mark.skip("its client runs in the second interpreter, which runs this test"))
        elif item.get_closest_marker("whole_grpcio"):
            item.add_marker(pytest.mark.skip("needs a grpcio client and server in one free-threaded interpreter"))
