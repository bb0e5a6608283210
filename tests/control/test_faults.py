"""What the demo relies on: kinds of slowness that are what they say, and statistics of the current phase only."""

from __future__ import annotations

import threading
import time

import pytest

from atoll_control.api.demo.v1 import fault_pb2
from atoll_control.server.faults import Slowness, _gil_enabled

BLOCK = 0.3


def longest_standstill_elsewhere(slowness: Slowness) -> tuple[float, float]:
    """How long the slowness took, and for how long another Python thread could not run meanwhile."""
    stop = threading.Event()
    longest = 0.0

    def watch() -> None:
        nonlocal longest
        last = time.monotonic()
        while not stop.is_set():
            time.sleep(0.001)
            now = time.monotonic()
            longest = max(longest, now - last)
            last = now

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.02)
    begin = time.monotonic()
    slowness()
    took = time.monotonic() - begin
    stop.set()
    watcher.join()
    return took, longest


@pytest.mark.parametrize("kind", [fault_pb2.SLOW_KIND_SLEEP, fault_pb2.SLOW_KIND_CPU])
def test_sleeping_and_computing_let_other_threads_run(kind: fault_pb2.SlowKind.ValueType) -> None:
    took, longest = longest_standstill_elsewhere(Slowness.calibrated(kind, BLOCK))
    assert took >= BLOCK
    assert longest < BLOCK / 2


def test_the_call_that_keeps_the_gil_keeps_it_to_its_end_and_takes_about_as_long_as_asked() -> None:
    took, longest = longest_standstill_elsewhere(Slowness.calibrated(fault_pb2.SLOW_KIND_GIL, BLOCK))
    assert BLOCK / 2 < took < BLOCK * 4
    if _gil_enabled():
        assert longest > took * 0.8
