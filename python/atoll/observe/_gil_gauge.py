"""`GilGauge`: how long threads wait for the GIL.

| state | written by | read by | under |
|---|---|---|---|
| `_left_running`, `_hooks_installed` | who starts and stops | the hooks at exit and after a fork | `_lock` |
| `_shared`, `_holders` | who starts and stops observers | the same, and the hook after a fork | `_sharing` |
"""

import atexit
import math
import os
import threading
from types import TracebackType
from typing import Self

from atoll._core import GilGauge as NativeGauge
from atoll._core import gil_waits as native_waits
from atoll.loop import Distribution, gil_is_enabled
from atoll.loop._distribution import distribution

DEFAULT_INTERVAL = 0.1

_lock = threading.Lock()
_left_running: set["GilGauge"] = set()
_hooks_installed = False

# Before `_lock` where both are taken.
_sharing = threading.Lock()
_shared: "GilGauge | None" = None
_holders: set[object] = set()


class GilGauge:
    """Measures how long a thread waits for the GIL, by a native thread that asks for it now and then.

    It measures from its construction to `stop()`, or for the length of a `with` block; at the interpreter's end it is
    stopped. On a free-threaded build there is next to nothing to wait for. Those who observe, a `LoopMonitor` and an
    `ObserveEndpoint`, share one. What all of them measure is exported as `atoll_gil_wait_seconds`.

    Args:
        interval: Seconds between two measurements.

    Raises:
        ValueError: When the interval is not a positive number of seconds.
    """

    def __init__(self, interval: float = DEFAULT_INTERVAL) -> None:
        if not (math.isfinite(interval) and interval > 0):
            raise ValueError(f"interval={interval!r} is not a positive number of seconds")
        self._native = NativeGauge(interval)
        with _lock:
            _install_hooks()
            _left_running.add(self)

    @property
    def waits(self) -> Distribution:
        """All waits so far, in seconds."""
        return distribution(self._native.waits())

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


def gil_waits() -> tuple[float, Distribution]:
    """When, in seconds from an arbitrary origin, and all waits until then of all gauges of the process. Any thread."""
    at, waits = native_waits()
    return at, distribution(waits)


def hold_shared_gauge(holder: object) -> None:
    """Has the gauge that observers share run until `holder`, and all others that hold it, let it go. Any thread.

    Where there is no GIL there is nothing to measure, and so no gauge.
    """
    global _shared  # noqa: PLW0603 - one per process
    if not gil_is_enabled():
        return
    with _sharing:
        if _shared is None:
            _shared = GilGauge()
        _holders.add(holder)


def let_go_shared_gauge(holder: object) -> None:
    """Ends what `hold_shared_gauge` began; does nothing for who does not hold it. Any thread."""
    global _shared
    with _sharing:
        _holders.discard(holder)
        if _holders or _shared is None:
            return
        gauge, _shared = _shared, None
    gauge.stop()


def _install_hooks() -> None:
    """Has the interpreter stop what runs at its end, and a forked child forget it. Under `_lock`."""
    global _hooks_installed  # noqa: PLW0603 - once per process
    if not _hooks_installed:
        atexit.register(_stop_what_is_left)
        os.register_at_fork(after_in_child=_forget_what_runs)
        _hooks_installed = True


def _forget_what_runs() -> None:
    """In a forked child: the threads are the parent's, and the locks may be held for ever."""
    global _lock, _sharing, _shared  # noqa: PLW0603 - they are another process's
    _lock, _sharing = threading.Lock(), threading.Lock()
    _shared = None
    _holders.clear()
    _left_running.clear()


def _stop_what_is_left() -> None:
    with _lock:
        gauges = list(_left_running)
    for gauge in gauges:
        gauge.stop()
