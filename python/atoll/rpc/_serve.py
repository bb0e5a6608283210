"""`serve`: a server's life from its start to the signal that ends it."""

import asyncio
import logging
import signal
from collections.abc import Callable

from atoll.rpc._server import Server

_logger = logging.getLogger("atoll.rpc")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Who is told of signals, by loop: several servers may be served on one. On the main thread only.
_listeners: dict[asyncio.AbstractEventLoop, list[Callable[[signal.Signals], None]]] = {}


async def serve(server: Server, grace: float | None = 20.0) -> None:
    """Starts `server`, serves until SIGTERM or Ctrl-C, then stops it. A second signal stops it at once.

    Several servers may be served on one loop; a signal is for all of them. Whatever else stops the server, such as a
    handler of another signal that calls `server.stop()`, ends the serving, too.

    Args:
        server: The server, with its services and ports.
        grace: Seconds that calls in flight may take to finish; None cancels them.

    Raises:
        RuntimeError: Outside the main thread, where signals can't be received.
        ServerStateError: When the server has been started before.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if asked.is_set():
            hurry.set()
        _logger.info("%s: stopping %s", number.name, "at once" if hurry.is_set() else f"within {grace} s")
        asked.set()

    _listen(loop, on_signal)
    try:
        await server.start()
        stopped_elsewhere = asyncio.ensure_future(server.wait_for_termination())
        waiting = asyncio.ensure_future(asked.wait())
        try:
            await asyncio.wait({stopped_elsewhere, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            stopped_elsewhere.cancel()
            await _stop(server, grace, hurry)
    finally:
        _listeners[loop].remove(on_signal)
        if not _listeners[loop]:
            del _listeners[loop]
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


def _listen(loop: asyncio.AbstractEventLoop, on_signal: Callable[[signal.Signals], None]) -> None:
    if loop not in _listeners:
        try:
            for number in _SIGNALS:
                loop.add_signal_handler(number, _tell, loop, number)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(
                "serve() receives signals, which only the main thread can: call server.start() and server.stop() here "
                "instead"
            ) from error
    _listeners.setdefault(loop, []).append(on_signal)


def _tell(loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
    for on_signal in tuple(_listeners.get(loop, ())):
        on_signal(number)


async def _stop(server: Server, grace: float | None, hurry: asyncio.Event) -> None:
    stopping = asyncio.ensure_future(server.stop(grace))
    hurrying = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not stopping.done():
        await server.stop(None)
    await stopping
