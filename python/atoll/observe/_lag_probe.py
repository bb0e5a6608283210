"""`LagProbe`: how long a handler that is posted to a loop now waits for its turn. Measured natively, on the loop."""

import math
from types import TracebackType
from typing import Self

from atoll._core import LagProbeCore
from atoll.loop import Distribution, IoContext
from atoll.loop._distribution import distribution

DEFAULT_INTERVAL = 0.25


class LagProbe:
    """Measures a loop from inside: posts a probe, and how long it waits for its turn is the loop's lag.

    The next probe follows after the rest of the interval, or at once when the lag has used it up, so that overload does
    not slow down what measures it. The first one is measured once the loop runs. A probe is no work: it does not keep
    `run()` from returning, and is in no statistics. Its metric is `io_context_event_loop_lag`.

    It measures from its construction to `stop()`, or for the length of a `with` block. Any thread.

    Args:
        io_context: The loop.
        interval: Seconds between two probes on an idle loop, of the loop's own clock.

    Raises:
        ValueError: When the interval is not a positive number of seconds.
    """

    def __init__(self, io_context: IoContext, interval: float = DEFAULT_INTERVAL) -> None:
        if not (math.isfinite(interval) and interval > 0):
            raise ValueError(f"interval={interval!r} is not a positive number of seconds")
        self._core = LagProbeCore(io_context, interval)

    @property
    def lag(self) -> float:
        """Seconds that the last probe waited, or that the one which waits now has waited, when that is longer."""
        return self._core.lag()

    @property
    def latencies(self) -> Distribution:
        """All lags so far, in seconds."""
        return distribution(self._core.latencies())

    def stop(self) -> None:
        """Measures no more; a second call does nothing."""
        self._core.stop()

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
