"""A loop that a policy gave to a module against the loop of a plain thread: one thread posts, the loop's own runs.

Where a module lives is looked up when it is created, so that no later post should notice that there was a policy. Each
round has loops of its own: how well two threads get on depends on where the system puts them, and that lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from itertools import repeat
from typing import TYPE_CHECKING, Final

import atoll
from benchmarks.overheads import peers
from benchmarks.overheads.pumped import Cost, nothing

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 50_000
"""Posts before the loop must have caught up: half of what it allows by default."""

WARM_UP: Final = 5_000
"""Posts before the first that count."""


class Module:
    """What is placed."""

    def __init__(self) -> None:
        """Have something to be read."""
        self.value = 0


class Placement(atoll.IoContextPolicy[Module]):
    """One module on a loop of its own."""

    placed_io_context = atoll.dedicated(Module)


def rounds(count: int, seconds: float) -> Iterator[dict[str, float]]:
    """Yield ``placed`` and ``plain``, each as ``.cpu`` and ``.wall``, in ns per post and run."""
    for number in range(count):
        with placed() as (placed_io_context, _), atoll.IoContextThread("plain") as plain:
            loops = {"placed": placed_io_context, "plain": plain.io_context}
            for io_context in loops.values():
                _post_and_wait(io_context, WARM_UP)
            costs = {name: _cost(loops[name], seconds) for name in peers.in_turn(list(loops), number)}
        yield {
            "placed.cpu": costs["placed"].cpu,
            "placed.wall": costs["placed"].wall,
            "plain.cpu": costs["plain"].cpu,
            "plain.wall": costs["plain"].wall,
        }


@contextlib.contextmanager
def placed() -> Iterator[tuple[atoll.IoContext, Module]]:
    """Within the block, a loop runs that has a module; the default loop of their provider does nothing."""
    with asyncio.Runner() as runner:
        provider = atoll.IoContextProvider(Placement)
        runner.run(provider.__aenter__())
        try:
            module = runner.run(provider.create(Module))
            yield provider.io_context(Module), module
        finally:
            runner.run(provider.__aexit__(None, None, None))


def _cost(io_context: atoll.IoContext, seconds: float) -> Cost:
    chunks = 0
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    end = wall + round(seconds * 1e9)
    while not chunks or time.perf_counter_ns() < end:
        _post_and_wait(io_context, CHUNK)
        chunks += 1
    wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
    return Cost(wall / (chunks * CHUNK), cpu / (chunks * CHUNK))


def _post_and_wait(io_context: atoll.IoContext, count: int) -> None:
    post = io_context.bind(nothing)
    all_ran = threading.Event()
    for _ in repeat(None, count - 1):
        post()
    io_context.post(all_ran.set)
    all_ran.wait()
