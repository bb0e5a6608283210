"""`StatsLogger`: the statistics of loops in the log, every so many seconds.

It has a thread of its own, so that a loop that is stuck is reported like any other, and no loop is ever disturbed. The
thread is a daemon, so that it can't keep the interpreter from ending, and a hook at exit ends it in good time.

| state | written by | read by | under |
|---|---|---|---|
| `_thread`, `_ended` | threads that start and stop it | the same | `_starting` |
| the earlier snapshots | `start()`, then the logger's thread | the same | – (given to the thread at its start) |
"""

import atexit
import logging
import math
import os
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from atoll.loop import IoContext, LoopStats

_logger = logging.getLogger("atoll.observe")

_STOP_TIMEOUT = 5.0


class StatsLogger:
    """Logs what each loop did since the last time, every `interval` seconds, from a thread of its own.

    One entry per loop at level INFO of the logger `atoll.observe`: the report of the window, as `LoopStats.report()`
    gives it; the window itself is the record's attribute `atoll_window`. When it stops it logs what has happened since
    the last entry; so it does for a loop that is closed meanwhile, and then forgets that loop.

    Use it as a context manager, or call `start()` and `stop()`; it may be started again. It goes on until it is
    stopped or the interpreter ends, whether or not somebody keeps it. Any thread.

    Args:
        io_contexts: The loops.
        interval: Seconds between two entries of one loop.

    Raises:
        ValueError: When the interval is not a positive number of seconds.
    """

    def __init__(self, io_contexts: Iterable[IoContext], interval: float = 60.0) -> None:
        if not (math.isfinite(interval) and 0 < interval <= threading.TIMEOUT_MAX):
            raise ValueError(f"interval={interval!r} is not a positive number of seconds: for a minute, give 60.0")
        self._io_contexts = tuple(io_contexts)
        self._interval = interval
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._process = os.getpid()

    @property
    def interval(self) -> float:
        """Seconds between two entries of one loop."""
        return self._interval

    @property
    def is_running(self) -> bool:
        """Whether it has been started and neither stopped nor left without a loop that is open."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def start(self) -> None:
        """Starts the thread; the first entries come after one interval. While it runs, a second call does nothing."""
        with self._starting:
            if self.is_running:
                return
            self._ended = threading.Event()
            self._process = os.getpid()
            before = {io_context: io_context.stats() for io_context in self._io_contexts}
            self._thread = threading.Thread(
                target=_log_windows, args=(self._interval, before, self._ended), name="atoll-stats", daemon=True
            )
            self._thread.start()
            atexit.register(self.stop)

    def stop(self) -> None:
        """Has it log what is left to log and waits for that, five seconds at most; then it logs no more.

        A second call does nothing.
        """
        if os.getpid() != self._process:
            return  # a fork: the thread is the parent's, and the locks may be held for ever
        with self._starting:
            thread, self._thread = self._thread, None
            self._ended.set()
            atexit.unregister(self.stop)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_TIMEOUT)

    def __enter__(self) -> Self:
        """Starts it."""
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops it."""
        self.stop()


def _log_windows(interval: float, before: dict[IoContext, LoopStats], ended: threading.Event) -> None:
    """The thread's target. `before` has the latest snapshot of each loop that is not forgotten."""
    while before and not ended.wait(interval):
        _log_all(before)
    _log_all(before)


def _log_all(before: dict[IoContext, LoopStats]) -> None:
    for io_context in list(before):
        try:
            _log(io_context, before)
        except Exception:
            _logger.exception("the statistics of loop %s could not be logged", io_context.name)


def _log(io_context: IoContext, before: dict[IoContext, LoopStats]) -> None:
    # Looked at first: what a loop does before it is closed is in the last window.
    closed = io_context._closed  # noqa: SLF001 - a loop says so to the framework only
    earlier, now = before[io_context], io_context.stats()
    before[io_context] = now
    if closed:
        del before[io_context]
    window = now - earlier
    _logger.info("%s", window.report(), extra={"atoll_loop": io_context.name, "atoll_window": window})
