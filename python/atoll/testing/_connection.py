"""`FakeConnection`: a connection that a test ends, delays and cuts off."""

import asyncio
import itertools
import math

from atoll.errors import ConnectionClosedError, PingTimeoutError
from atoll.loop import IoContext
from atoll.rpc import Connection

_ids = itertools.count(1)


class FakeConnection(Connection):
    """The connection of a client that there is not; `FakeServicerContext(connection=...)` hands it to a handler.

    Everything may be set at any time; whoever waits for a ping goes by what is set when it begins. It belongs to the
    thread of the test, and waits on the loop that pings it, so in a `ManualClock`'s time where the loop has one.

    Args:
        peer: The client's address in grpc's form.
        round_trip: Seconds that a ping takes; None for a client that answers none.
        last_received: When bytes last came from the client, in seconds.

    Attributes:
        round_trip: As given.
        pings: How often it has been pinged.
    """

    __slots__ = ("_closed", "_id", "_last_received", "_peer", "_waiting", "pings", "round_trip")

    def __init__(
        self, peer: str = "ipv4:127.0.0.1:50051", *, round_trip: float | None = 0.0, last_received: float = 0.0
    ) -> None:
        """Makes an open connection."""
        self._id = next(_ids)
        self._peer = peer
        self._closed = False
        self._last_received = last_received
        self._waiting: set[asyncio.Future[None]] = set()
        self.round_trip = round_trip
        self.pings = 0

    @property
    def id(self) -> int:
        """Its number; fakes count for themselves."""
        return self._id

    @property
    def peer(self) -> str:
        """As given."""
        return self._peer

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def last_received(self) -> float:
        """What was set, or when a ping was last answered."""
        return self._last_received

    @last_received.setter
    def last_received(self, seconds: float) -> None:
        self._last_received = seconds

    def close(self) -> None:
        """Ends it, and the pings that wait. On their loop."""
        self._closed = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def ping(self, timeout: float = 5.0) -> float:  # noqa: ASYNC109 - as the real one
        """Takes `round_trip` seconds, or `timeout`. Returns and raises what the real one does."""
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout={timeout!r} is not a number of seconds above 0")
        self.pings += 1
        round_trip = self.round_trip
        answers = round_trip is not None and round_trip <= timeout
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(ended)
        try:
            if not self._closed:
                await asyncio.wait([ended], timeout=round_trip if answers else timeout)
        finally:
            self._waiting.discard(ended)
        if self._closed:
            raise ConnectionClosedError(f"the connection of the client {self._peer} has ended")
        if round_trip is None or not answers:
            raise PingTimeoutError(f"the client {self._peer} has not answered a ping for {timeout} s")
        io_context = IoContext.current_or_none()
        self._last_received = asyncio.get_running_loop().time() if io_context is None else io_context.now()
        return round_trip
