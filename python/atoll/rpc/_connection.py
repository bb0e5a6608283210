"""`Connection`: the connection that a call came on, for as long as somebody wants to know of it."""

import asyncio

from atoll._core import ConnectionCore
from atoll.loop import IoContext

PING_TIMEOUT = 5.0


class Connection:
    """A client's connection, as `context.connection` gives it; keep it to know later whether the client still lives::

        self.connections[request.node_id] = context.connection  # in a handler
        ...
        round_trip = await self.connections[node_id].ping()  # whenever, on any loop

    It may be kept after the call has ended, used on any thread, and passed between loops; it does not keep the
    connection open. Two are equal when they are of the same connection, whichever calls they come from. To a forked
    child all connections of its parent are closed.
    """  # noqa: D415 - the colon leads to the example

    __slots__ = ("_core",)

    def __init__(self, core: ConnectionCore) -> None:
        """Made by `context.connection`."""
        self._core = core

    @property
    def id(self) -> int:
        """Its number, which no other connection of this process has, or has had."""
        return self._core.id

    @property
    def peer(self) -> str:
        """The client's address, as `context.peer()` tells it."""
        return self._core.peer

    @property
    def closed(self) -> bool:
        """Whether it has ended: at once when the client closes it, and when keepalive gives up a lost client."""
        return self._core.closed

    @property
    def last_received(self) -> float:
        """When bytes last came from the client: calls, messages, answers to pings; when it connected, if none have.

        In seconds of `IoContext.now()` of the loop on which the call ran. Stamped by the network thread when it reads
        them, whatever the loops do.
        """
        return self._core.last_received

    async def ping(self, timeout: float = PING_TIMEOUT) -> float:  # noqa: ASYNC109 - the network thread sees to it
        """Sends the client an HTTP/2 PING and waits for its answer. On any loop; many may wait at once.

        The client's transport answers, also while its application does nothing. The network thread sends the ping,
        takes the answer's time and keeps the time-out, so that a loop which is late changes no outcome. Those who ask
        while a ping is under way share the next one. Don't ask more often than you must: every ping wakes the client.

        Args:
            timeout: Seconds from now, of real time, whatever clock the loop has.

        Returns:
            The seconds from the ping to its answer.

        Raises:
            ConnectionClosedError: When the connection has ended, or ends meanwhile.
            NotOnLoopError: When no loop runs on this thread.
            PingTimeoutError: When no answer has come in time, which is a `TimeoutError`; the connection stays as it is.
            ValueError: When `timeout` is not a number of seconds above zero.
        """
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._core.ping(IoContext.current(), future, timeout)
        return await future

    def __eq__(self, other: object) -> bool:
        """Whether both are the same connection."""
        return self.id == other.id if isinstance(other, Connection) else NotImplemented

    def __hash__(self) -> int:
        """As equality asks for."""
        return hash(self.id)

    def __repr__(self) -> str:
        """Number, client, and whether it has ended."""
        closed = ", closed" if self.closed else ""
        return f"<{type(self).__name__} {self.id} of {self.peer}{closed}>"
