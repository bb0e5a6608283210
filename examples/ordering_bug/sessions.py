"""`Sessions`: which client has which session. With a bug, and without."""

import itertools
import logging

from examples.ordering_bug.leases import Leases

from atoll import IoContext, ModuleRef

_logger = logging.getLogger(__name__)


class Sessions:
    """The open sessions: each client has one at most. Lives on the loop `sessions`."""

    def __init__(self, leases: ModuleRef[Leases]) -> None:
        self._leases = leases
        self._numbers = itertools.count(1)
        self._open: dict[str, int] = {}

    def open(self, client: str) -> int:
        """Opens a session, in place of the one that the client has, and returns its number."""
        old = self._open.get(client)
        if old is not None:
            self._leases.post(Leases.release, client, old)
        number = self._open[client] = next(self._numbers)
        instead = "" if old is None else f" in place of session {old}"
        _logger.info("%s: session %d is opened%s", _now(), number, instead)
        self._leases.post(Leases.grant, client, number)
        return number

    def is_open(self, client: str, number: int) -> bool:
        """Whether this is the client's session."""
        return self._open.get(client) == number

    def expire(self, client: str, number: int) -> None:
        """Its lease has run out: closes the session.

        The lease of a session that was replaced has been released. So this is the client's session. (Is it?)
        """
        closed = self._open.pop(client, None)
        _logger.info("%s: session %d has expired: session %s is closed", _now(), number, closed)


class FixedSessions(Sessions):
    """What was decided on another loop may be out of date when it arrives here: look again."""

    def expire(self, client: str, number: int) -> None:
        """Its lease has run out: closes the session, unless the client has another one by now."""
        if self._open.get(client) != number:
            _logger.info("%s: session %d has expired, and has been replaced: nothing to close", _now(), number)
            return
        super().expire(client, number)


def _now() -> str:
    return f"{IoContext.current().now() * 1000:9.3f} ms"
