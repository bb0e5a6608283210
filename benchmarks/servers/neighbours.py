"""The three ways in which a module can be a bad neighbour, about 50 ms at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BLOCKED_SECONDS: Final = 0.050
GIL_SECONDS: Final = 0.043


def make_neighbours() -> Mapping[str, Callable[[], None]]:
    """Return the kinds of work by name; each call of one is one block of it. Takes about 0.1 s to calibrate."""
    length = _calibrated_length()

    def hold_gil() -> None:
        sum(range(length))

    return {"sleep": _sleep, "cpu": _burn, "gil": hold_gil}


def _sleep() -> None:
    time.sleep(BLOCKED_SECONDS)


def _burn() -> None:
    deadline = time.perf_counter() + BLOCKED_SECONDS
    while time.perf_counter() < deadline:
        pass


def _calibrated_length() -> int:
    # `sum` over a range is one C call without a chance for another thread to get the GIL.
    probe = 200_000
    fastest = min(_timed_sum(probe) for _ in range(5))
    return round(probe * GIL_SECONDS / fastest)


def _timed_sum(length: int) -> float:
    started = time.perf_counter()
    sum(range(length))
    return time.perf_counter() - started
