"""`Stop`: how the process is asked to stop, by a signal or by its parent; a second time, at once."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Final, Self

import structlog

if TYPE_CHECKING:
    from types import TracebackType

_log = structlog.get_logger("atoll_control.server")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """What the server waits for. On the main thread, whose loop it is used on.

    Attributes:
        asked: set when the server is to stop, giving its calls the grace.
        hurry: set when it is to stop at once.
    """

    def __init__(self, *, with_stdin: bool = False) -> None:
        """Takes whether the end of standard input asks, too."""
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        self._with_stdin = with_stdin

    async def __aenter__(self) -> Self:
        """Listens."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._ask, number.name)
        if self._with_stdin:
            await loop.connect_read_pipe(lambda: _Parent(self), sys.stdin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listens no more; a signal then has no effect: what is stopping already must not be cut short."""
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, _log.info, "already_stopping")

    def _ask(self, by: str) -> None:
        if self.asked.is_set():
            _log.info("stopping_at_once", by=by)
            self.hurry.set()
            return
        _log.info("stopping", by=by)
        self.asked.set()

    def closed(self) -> None:
        """Standard input has closed."""
        if not self.asked.is_set():
            self._ask("standard input")


class _Parent(asyncio.Protocol):
    """Sees that standard input closes."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self._stop.closed()
