"""`Leases`: until when each session may live without a word from its client.

It has a loop of its own: renewals come in all the time, and must not wait for anything else.
"""

import logging
from collections.abc import Callable

from atoll import IoContext

_logger = logging.getLogger(__name__)

Listener = Callable[[str, int], object]


class Leases:
    """The leases, by client and session number. Lives on the loop `leases`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[tuple[str, int], float] = {}
        self._tell: Listener | None = None

    def tell(self, listener: Listener) -> None:
        """Has `listener(client, number)` called when a lease has run out."""
        self._tell = listener

    def grant(self, client: str, number: int) -> None:
        """Starts a lease."""
        _logger.info("%s: lease of session %d starts", _now(), number)
        self._ends[client, number] = IoContext.current().now() + self._seconds
        IoContext.current().post(self._look, client, number, delay=self._seconds)

    def renew(self, client: str, number: int) -> bool:
        """Starts it anew; False when there is none any more."""
        if (client, number) not in self._ends:
            return False
        self._ends[client, number] = IoContext.current().now() + self._seconds
        return True

    def release(self, client: str, number: int) -> None:
        """Ends a lease, about which nobody is told."""
        _logger.info("%s: lease of session %d is released", _now(), number)
        self._ends.pop((client, number), None)

    def _look(self, client: str, number: int) -> None:
        end = self._ends.get((client, number))
        if end is None:
            return
        left = end - IoContext.current().now()
        if left > 0:
            IoContext.current().post(self._look, client, number, delay=left)
            return
        del self._ends[client, number]
        _logger.info("%s: lease of session %d has run out, tell Sessions", _now(), number)
        if self._tell is not None:
            self._tell(client, number)


def _now() -> str:
    return f"{IoContext.current().now() * 1000:9.3f} ms"
