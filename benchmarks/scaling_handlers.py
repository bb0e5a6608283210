"""A module with handlers that keep its loop busy: each posts the next, so that no poster takes a core.

What the handlers touch is their module's own. Compiled to a file before it is imported, see ``scaling_loops``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import atoll


def compute(rounds: int) -> int:
    """Return what a loop over local variables makes of them."""
    value = 1
    for number in range(rounds):
        value = (value * 31 + number) % 65_521
    return value


def compute_on_threads(count: int, seconds: float) -> float:
    """Return how often per second ``count`` plain threads compute: what the machine can give."""
    computed = [0] * count
    stopping = threading.Event()

    def run(index: int) -> None:
        compute(700)
        done = 1
        while not stopping.is_set():
            compute(700)
            done += 1
        computed[index] = done

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stopping.set()
    for thread in threads:
        thread.join()
    return sum(computed) / (time.perf_counter() - started)


class Record:
    """One of a module's objects."""

    __slots__ = ("beats", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.beats = 0


class Module:
    """A module whose handlers keep its loop busy until told to stop."""

    def __init__(self, io_context: atoll.IoContext) -> None:
        """To be used on ``io_context`` from then on."""
        self.io_context = io_context
        self.handled = 0
        self.stopping = False
        self.stopped = threading.Event()
        self.records: dict[str, Record] = {}
        self.again: Callable[[], None] = io_context.bind(self.short)

    def start(self, kind: str) -> None:
        """Make the handlers of a kind follow one another."""
        self.handled, self.stopping = 0, False
        self.stopped.clear()
        self.again = self.io_context.bind(getattr(self, kind))
        self.again()

    def _next(self) -> None:
        self.handled += 1
        if self.stopping:
            self.stopped.set()
        else:
            self.again()

    def short(self) -> None:
        """Do next to nothing."""
        self._next()

    def arithmetic(self) -> None:
        """Compute with local variables."""
        compute(700)
        self._next()

    def state(self) -> None:
        """Register, look up and count, as a membership table does."""
        records = self.records
        for number in range(60):
            name = f"node-{number}"
            record = records.get(name)
            if record is None:
                record = records[name] = Record(name)
            record.beats += 1
            if record.beats % 50 == 0:
                del records[name]
        self._next()

    async def coroutine(self) -> None:
        """Compute before and after an await."""
        compute(350)
        await asyncio.sleep(0)
        compute(350)
        self._next()
