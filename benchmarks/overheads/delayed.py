"""CPU time of many posts with a delay, against ``call_later`` of asyncio's and uvloop's loops, on the loop's thread.

The loop is busy posting at first, and what is due meanwhile waits; CPU time does not care. Atoll's timers have a thread
of their own, which counts as well.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

import atoll
from benchmarks.overheads import peers
from benchmarks.overheads.pumped import nothing

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

POSTS: Final = 100_000

_AFTER_ALL_OTHERS: Final = 0.003
"""Seconds; uvloop counts in milliseconds."""


def rounds(count: int, seconds: float) -> Iterator[dict[str, float]]:
    """Yield nanoseconds of CPU time per post and run, by loop; the delays are spread over ``seconds``."""
    delays = [number * seconds / POSTS for number in range(POSTS)]
    targets: dict[str, Callable[[], float]] = {}
    for name, factory in peers.factories().items():
        targets[name] = partial(_call_later, factory, delays)
        targets[f"atoll_{name}"] = partial(_post, factory, delays)
    for number in range(count):
        yield {name: targets[name]() for name in peers.in_turn(list(targets), number)}


def _post(factory: Callable[[], asyncio.AbstractEventLoop], delays: list[float]) -> float:
    io_context = atoll.IoContext("delayed", loop_factory=factory)

    def post_all() -> None:
        post = io_context.post
        for delay in delays:
            post(nothing, delay=delay)

    _warm_up(io_context)
    io_context.post(post_all)
    cpu = time.process_time_ns()
    ran = io_context.run()
    cpu = time.process_time_ns() - cpu
    io_context.close()
    assert ran == len(delays) + 1
    return cpu / len(delays)


def _warm_up(io_context: atoll.IoContext) -> None:
    io_context.post(nothing, delay=0.0001)
    io_context.run()
    io_context.restart()


def _call_later(factory: Callable[[], asyncio.AbstractEventLoop], delays: list[float]) -> float:
    loop = factory()

    def call_all() -> None:
        call_later = loop.call_later
        for delay in delays:
            call_later(delay, nothing)
        call_later(delays[-1] + _AFTER_ALL_OTHERS, loop.stop)

    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.call_soon(call_all)
    cpu = time.process_time_ns()
    loop.run_forever()
    cpu = time.process_time_ns() - cpu
    loop.close()
    return cpu / len(delays)
