"""`SystemdNotifier`: tells systemd that the service is ready, what it does, and that it lives.

The watchdog is fed by a native thread, which needs neither the loops nor the GIL: a feeder that needs the GIL would let
one long call into C end the process before the threshold that is set for that.

| state | written by | read by | under |
|---|---|---|---|
| `_core` | who starts and stops | any | single operations |
"""

import logging
import math
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from atoll._core import SystemdCore

_logger = logging.getLogger("atoll.observe")


class SystemdNotifier:
    """Tells systemd how the service is, by its `sd_notify` protocol; for units with `Type=notify`.

        with SystemdNotifier() as notifier:
            await server.start()
            notifier.ready()
            await server.wait_for_termination()

    Where the unit has `WatchdogSec=`, the watchdog is fed three times in that time, as long as no loop whose health
    counts has been without progress for longer than the liveness threshold; which loops those are, a `LoopMonitor`
    knows, and a provider has one. A process whose loop is stuck is so restarted by systemd after at most the threshold
    and `WatchdogSec` together; its status then says which loop and handler it was.

    Where systemd has not started the process (there is no `NOTIFY_SOCKET`), nothing here does anything. What can't be
    told is logged, and never raised. Any thread.

    Args:
        liveness_threshold: Seconds that a loop may be without progress; None for half of `WatchdogSec`, and `math.inf`
            for a watchdog that only asks whether the process lives.

    Raises:
        ValueError: When the threshold is not positive.
    """

    def __init__(self, *, liveness_threshold: float | None = None) -> None:
        if liveness_threshold is not None and not liveness_threshold > 0:
            raise ValueError(f"liveness_threshold={liveness_threshold!r} is not a positive number of seconds")
        self._liveness_threshold = liveness_threshold
        self._core: SystemdCore | None = None

    @property
    def is_supervised(self) -> bool:
        """Whether it has been started and there is a systemd to tell."""
        return self._core is not None

    def start(self) -> None:
        """Finds systemd and feeds its watchdog from now on; while it does, a second call does nothing."""
        socket = os.environ.get("NOTIFY_SOCKET", "")
        if not socket or self._core is not None:
            return
        watchdog = _watchdog_seconds()
        threshold = self._liveness_threshold
        if threshold is None and watchdog is not None:
            threshold = watchdog / 2
        if threshold is not None and not math.isfinite(threshold):
            threshold = None
        try:
            self._core = SystemdCore(socket, watchdog, threshold)
        except OSError as error:
            _logger.warning("NOTIFY_SOCKET=%s: systemd is told nothing: %s", socket, error)

    def ready(self, status: str | None = None) -> bool:
        """The service is ready for work (`READY=1`), and what it does, if that is given.

        Returns:
            Whether systemd has been told.
        """
        told = self._tell(lambda core: core.ready())
        return told and (status is None or self.status(status))

    def status(self, text: str) -> bool:
        """What the service does, in a line that `systemctl status` shows (`STATUS=`). Returns as `ready`."""
        return self._tell(lambda core: core.status(text))

    def stopping(self) -> bool:
        """The service is about to end (`STOPPING=1`); systemd then goes by `TimeoutStopSec=`. Returns as `ready`."""
        return self._tell(lambda core: core.stopping())

    def stop(self) -> None:
        """Says that the service ends, and feeds the watchdog no more. A second call does nothing."""
        self.stopping()
        core, self._core = self._core, None
        if core is not None:
            core.stop()

    def _tell(self, what: Callable[[SystemdCore], None]) -> bool:
        core = self._core
        if core is None:
            return False
        try:
            what(core)
        except OSError as error:
            _logger.warning("systemd could not be told: %s", error)
            return False
        return True

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


def _watchdog_seconds() -> float | None:
    """How long systemd waits for a sign of life; None when it does not, or waits for another process."""
    value, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if process and process != str(os.getpid()):
        return None
    try:
        microseconds = int(value or 0)
    except ValueError:
        _logger.warning("WATCHDOG_USEC=%s is no whole number: the watchdog is not fed", value)
        return None
    return microseconds / 1e6 if microseconds > 0 else None
