"""`GilGauge`: how long threads wait for the GIL.

| state | written by | read by | under |
|---|---|---|---|
| `_left_running` | who starts and stops | the exit hook | `_lock` |
"""

import atexit
import math
import threading
from types import TracebackType
from typing import Self

from atoll._core import GilGauge as NativeGauge
from atoll.loop import Distribution

DEFAULT_INTERVAL = 0.1

_lock = threading.Lock()
_left_running: set["GilGauge"] = set()
_exit_hook_installed = False


class GilGauge:
    """Measures how long a thread waits for the GIL, by a native thread that asks for it now and then.

    It measures from its construction to `stop()`, or for the length of a `with` block; at the interpreter's end it is
    stopped. On a free-threaded build there is next to nothing to wait for.

    Args:
        interval: Seconds between two measurements.

    Raises:
        ValueError: When the interval is not a positive number of seconds.
    """

    def __init__(self, interval: float = DEFAULT_INTERVAL) -> None:
        global _exit_hook_installed  # noqa: PLW0603 - once per process
        if not (math.isfinite(interval) and interval > 0):
            raise ValueError(f"interval={interval!r} is not a positive number of seconds")
        self._native = NativeGauge(interval)
        with _lock:
            if not _exit_hook_installed:
                atexit.register(_stop_what_is_left)
                _exit_hook_installed = True
            _left_running.add(self)

    @property
    def waits(self) -> Distribution:
        """All waits so far, in seconds."""
        count, total, shortest, longest, buckets = self._native.waits()
        return Distribution(count, total, shortest, longest, tuple(buckets))

    def stop(self) -> None:
        """Ends the thread and waits for it. Any thread; a second call does nothing."""
        with _lock:
            _left_running.discard(self)
        self._native.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops it."""
        self.stop()


def _stop_what_is_left() -> None:
    with _lock:
        gauges = list(_left_running)
    for gauge in gauges:
        gauge.stop()
