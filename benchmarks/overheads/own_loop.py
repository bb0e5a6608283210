"""What it costs that data checks its loop, on that loop: an attribute of a provider's module, and a ``LoopBound``.

Reading is all that is measured, in small samples of which the median counts. Each way has a function of its own,
because CPython adapts the code of a function to what it meets there.
"""

from __future__ import annotations

import time
from itertools import repeat
from typing import TYPE_CHECKING, Final

import atoll
from benchmarks.overheads import peers
from benchmarks.overheads.placement import Module, placed
from benchmarks.summary import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READS: Final = 10_000
"""Per sample."""


def rounds(count: int, seconds: float) -> Iterator[dict[str, float]]:
    """Yield the p50 of ``plain``, ``checked`` and ``loop_bound``, in ns per read."""
    with placed() as (io_context, checked):
        plain = Module()
        box = atoll.LoopBound(0, io_context=io_context)
        ways: dict[str, Callable[[], float]] = {
            "plain": lambda: _read_plain(plain),
            "checked": lambda: _read_checked(checked),
            "loop_bound": lambda: _read_box(box.get),
        }
        for number in range(count + 1):
            order = peers.in_turn(list(ways), number)
            figures = {name: io_context.submit(_p50_ns, ways[name], seconds).result() for name in order}
            if number:  # the first round warmed up
                yield figures


def _p50_ns(sample: Callable[[], float], seconds: float) -> float:
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not samples:
        samples.append(sample())
    return quantile(sorted(samples), 0.5)


def _read_plain(module: Module) -> float:
    started = time.perf_counter_ns()
    for _ in repeat(None, READS):
        _value = module.value
    return (time.perf_counter_ns() - started) / READS


def _read_checked(module: Module) -> float:
    started = time.perf_counter_ns()
    for _ in repeat(None, READS):
        _value = module.value
    return (time.perf_counter_ns() - started) / READS


def _read_box(get: Callable[[], int]) -> float:
    started = time.perf_counter_ns()
    for _ in repeat(None, READS):
        _value = get()
    return (time.perf_counter_ns() - started) / READS
