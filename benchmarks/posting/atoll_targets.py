"""Atoll's loop as a target, by ``post`` and by ``bind``, and the cost of recording.

A file of its own, so that the peers can be measured where atoll can't be imported.
"""

from __future__ import annotations

import time
from itertools import repeat
from typing import TYPE_CHECKING, Final

import atoll
from benchmarks.posting.targets import Target, nothing, take

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDING_POSTS: Final = 20_000


class PostTarget(Target):
    """``IoContext.post`` to an ``IoContextThread``, recording."""

    def __init__(self, name: str = "atoll post") -> None:
        """Make the thread."""
        super().__init__(name)
        self._thread = atoll.IoContextThread(name.replace(" ", "-"))

    def start(self) -> None:
        """See ``Target``."""
        self._thread.start()

    def stop(self) -> None:
        """See ``Target``."""
        self._thread.stop()
        self._thread.join()

    def post_many(self, count: int, *, argument: bool) -> None:
        """See ``Target``."""
        post = self._thread.io_context.post
        if argument:
            for _ in repeat(None, count):
                post(take, 1)
        else:
            for _ in repeat(None, count):
                post(nothing)

    def post_one(self, handler: Callable[[], object]) -> None:
        """See ``Target``."""
        self._thread.io_context.post(handler)


class BindTarget(PostTarget):
    """What ``IoContext.bind`` returns, called; recording."""

    def __init__(self) -> None:
        """Make the thread."""
        super().__init__("atoll bind")

    def post_many(self, count: int, *, argument: bool) -> None:
        """See ``Target``."""
        if argument:
            bound_take = self._thread.io_context.bind(take)
            for _ in repeat(None, count):
                bound_take(1)
        else:
            bound_nothing = self._thread.io_context.bind(nothing)
            for _ in repeat(None, count):
                bound_nothing()


def recording_costs(pairs: int) -> list[float]:
    """Return ``pairs`` differences, in ns per handler, between a loop that records and one that does not.

    Both loops are filled and drained by this one thread: what two threads do to each other costs far more than
    recording, and would drown it. The two take turns, and turns at going first.
    """
    recording = _Drained(recording=True)
    silent = _Drained(recording=False)
    differences = []
    for pair in range(pairs + 1):
        if pair % 2:
            with_recording, without = recording.nanoseconds(), silent.nanoseconds()
        else:
            without, with_recording = silent.nanoseconds(), recording.nanoseconds()
        differences.append(with_recording - without)
    recording.close()
    silent.close()
    return differences[1:]  # the first pair warmed up


class _Drained:
    """A loop that this thread fills through a bound handler and drains by polling."""

    def __init__(self, *, recording: bool) -> None:
        self._io_context = atoll.IoContext(f"recording-{recording}".lower(), recording=recording)
        self._bound = self._io_context.bind(nothing)
        self._guard = self._io_context.work_guard()  # between two fillings it is out of work, but not done

    def nanoseconds(self) -> float:
        bound, poll = self._bound, self._io_context.poll
        started = time.perf_counter_ns()
        for _ in repeat(None, RECORDING_POSTS):
            bound()
        ran = 0
        while ran < RECORDING_POSTS:
            ran += poll()
        return (time.perf_counter_ns() - started) / RECORDING_POSTS

    def close(self) -> None:
        self._guard.reset()
        self._io_context.close()
