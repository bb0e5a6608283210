"""How late handlers with a delay start on a loop that has nothing else to do, against ``call_later``.

A thousand per second, at times drawn at random, the same for all; due is the time of the post plus the delay. Negative
lateness is real: uvloop counts whole milliseconds from the beginning of its round.
"""

from __future__ import annotations

import random
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import atoll
from benchmarks.overheads import peers
from benchmarks.summary import quantile

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

PER_SECOND: Final = 1_000

_AFTER_ALL_OTHERS: Final = 0.005


def rounds(count: int, seconds: float) -> Iterator[dict[str, float]]:
    """Yield, by loop, ``.p50``, ``.p99`` and ``.earliest`` of the lateness in microseconds."""
    chance = random.Random(7)  # noqa: S311 -- when timers are due
    delays = [chance.uniform(0, seconds) for _ in range(round(PER_SECOND * seconds))]
    targets: dict[str, Callable[[], list[float]]] = {}
    for name, factory in peers.factories().items():
        targets[name] = partial(_call_later, factory, delays)
        targets[f"atoll_{name}"] = partial(_post, factory, delays)
    for number in range(count):
        figures: dict[str, float] = {}
        for name in peers.in_turn(list(targets), number):
            late = sorted(seconds * 1e6 for seconds in targets[name]())
            assert len(late) == len(delays)
            figures |= {
                f"{name}.p50": quantile(late, 0.5),
                f"{name}.p99": quantile(late, 0.99),
                f"{name}.earliest": late[0],
            }
        yield figures


def _post(factory: Callable[[], asyncio.AbstractEventLoop], delays: list[float]) -> list[float]:
    io_context = atoll.IoContext("lateness", loop_factory=factory)
    late: list[float] = []

    def start(due: float) -> None:
        late.append(time.monotonic() - due)

    def post_all() -> None:
        for delay in delays:
            io_context.post(start, time.monotonic() + delay, delay=delay)

    io_context.post(post_all)
    io_context.run()
    io_context.close()
    return late


def _call_later(factory: Callable[[], asyncio.AbstractEventLoop], delays: list[float]) -> list[float]:
    loop = factory()
    late: list[float] = []

    def start(due: float) -> None:
        late.append(time.monotonic() - due)

    def call_all() -> None:
        for delay in delays:
            loop.call_later(delay, start, time.monotonic() + delay)
        loop.call_later(max(delays) + _AFTER_ALL_OTHERS, loop.stop)

    loop.call_soon(call_all)
    loop.run_forever()
    loop.close()
    return late
