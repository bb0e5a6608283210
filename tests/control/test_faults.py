"""What the demo relies on: kinds of slowness that are what they say, and statistics of the current phase only."""

from __future__ import annotations

import threading
import time

import pytest

from atoll import Distribution
from atoll_control.api.demo.v1 import fault_pb2
from atoll_control.server.faults import Slowness, _gil_enabled, _since

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


def test_what_was_added_to_a_distribution_leaves_out_what_was_there_before() -> None:
    before = Distribution(count=3, sum=0.003, min=0.001, max=0.001, buckets=((0.0009, 0.0011, 3),))
    now = Distribution(count=5, sum=0.403, min=0.001, max=0.2, buckets=((0.0009, 0.0011, 3), (0.19, 0.21, 2)))
    added = _since(now, before)
    assert (added.count, added.min, added.max) == (2, 0.19, 0.2)
    assert added.mean == pytest.approx(0.2)
    assert 0.19 <= added.p50 <= 0.2


def test_nothing_added_is_an_empty_distribution() -> None:
    before = Distribution(count=3, sum=0.003, min=0.001, max=0.001, buckets=((0.0009, 0.0011, 3),))
    assert _since(before, before) == Distribution()
    assert _since(before, None) == before
