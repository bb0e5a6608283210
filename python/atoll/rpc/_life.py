"""A server's end: the stop, and those who wait for it."""

import asyncio
import contextlib
import logging
from typing import Final

from atoll._core import ServerCore
from atoll.errors import LoopClosedError, MailboxFull
from atoll.loop import IoContext

_logger = logging.getLogger("atoll.rpc")

# How long a stop waits for the handlers of calls that it has cancelled.
HANDLERS_TIMEOUT: Final = 1.0
# How long a stop waits before it asks a loop again whose mailbox was full.
FULL_MAILBOX_PAUSE: Final = 0.01


class Life:
    """The end of a server's life. Any thread with an asyncio loop may wait for it.

    Args:
        core: The native half of the server.
    """

    def __init__(self, core: ServerCore) -> None:
        self._core = core
        # Where handlers may run; set at the start.
        self.loops: set[IoContext] = set()
        self.stopping = False
        self._terminated = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._endings: set[asyncio.Task[None]] = set()

    async def stop(self, grace: float | None) -> None:
        """See `Server.stop`."""
        self.stopping = True
        if self._terminated:
            return
        loop = asyncio.get_running_loop()
        stopped = loop.create_future()

        def done() -> None:
            if not stopped.done():
                stopped.set_result(None)

        self._core.stop(grace, IoContext.current(), done)
        # Whoever asked may be cancelled: the stop goes on, and those who wait for the termination learn of it.
        ending = asyncio.ensure_future(self._end(stopped))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        await asyncio.shield(ending)

    async def _end(self, stopped: "asyncio.Future[None]") -> None:
        """Does what is left when the transport has stopped."""
        await stopped
        self._core.join()
        await self._wait_for_handlers()
        self._terminated = True
        while self._waiters:
            # Waiters of other loops come and go meanwhile: those that come now see that it has terminated.
            with contextlib.suppress(KeyError):
                waiter = self._waiters.pop()
                # Where the waiter's loop has been closed nobody waits any more.
                with contextlib.suppress(RuntimeError):
                    waiter.get_loop().call_soon_threadsafe(_resolve, waiter)

    async def _wait_for_handlers(self) -> None:
        """Waits until handlers whose calls were cancelled have ended, but not for a loop that is stuck."""
        waits = {asyncio.ensure_future(_handlers_have_ended(io_context)): io_context for io_context in self.loops}
        if not waits:
            return
        _, stuck = await asyncio.wait(waits, timeout=HANDLERS_TIMEOUT)
        for wait in stuck:
            wait.cancel()
            _logger.warning(
                "handlers of cancelled calls still run on loop %s %s s after the server's end",
                waits[wait].name,
                HANDLERS_TIMEOUT,
            )

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - grpc's signature
        """See `Server.wait_for_termination`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            if self._terminated:  # looked at only now: another loop may end the server meanwhile
                return False
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            return True
        finally:
            self._waiters.discard(waiter)
        return False


async def _handlers_have_ended(io_context: IoContext) -> None:
    """Waits, on any loop, for the calls that run on `io_context`."""
    while True:
        try:
            await io_context.submit(_end_of_calls, io_context, name="Server.stop", lane="control")
        except LoopClosedError:
            return
        except MailboxFull:
            # With the cancellations of many calls: it will have run them soon, unless it is stuck.
            await asyncio.sleep(FULL_MAILBOX_PAUSE)
        else:
            return


async def _end_of_calls(io_context: IoContext) -> None:
    """Waits for the calls that run on this loop."""
    if tasks := io_context._call_tasks():  # noqa: SLF001 - the native half's
        await asyncio.wait(tasks)


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
