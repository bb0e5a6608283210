"""A loop that keeps itself busy: one thread both posts to it and runs it, and nothing else happens.

What two threads do to each other costs far more than what is to be measured here, and would drown it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import atoll

BATCH: Final = 1_000
"""Posts before they run."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds per post and run: on the clock, and of CPU time that all threads of the process took together."""

    wall: float
    cpu: float


def nothing() -> None:
    """Do nothing: the handler that is posted."""


class PumpedLoop:
    """A loop that runs for as long as it is measured. On one thread."""

    def __init__(self, name: str) -> None:
        """Make the loop."""
        self.io_context: Final = atoll.IoContext(name)
        self._nothing = self.io_context.bind(nothing)
        self._refill = self.io_context.bind(self._post_batch)
        self._batches = 0
        self._end = 0

    def cost(self, seconds: float) -> Cost:
        """Post and run through a bound handler for about ``seconds``."""
        self._batches = 0
        self.io_context.restart()
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        self._end = wall + round(seconds * 1e9)
        self._refill()
        self.io_context.run()  # ends when there is no further batch
        wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
        return Cost(wall / (self._batches * BATCH), cpu / (self._batches * BATCH))

    def close(self) -> None:
        """Close the loop."""
        self.io_context.close()

    def _post_batch(self) -> None:
        post = self._nothing
        for _ in repeat(None, BATCH):
            post()
        self._batches += 1
        if time.perf_counter_ns() < self._end:
            self._refill()
