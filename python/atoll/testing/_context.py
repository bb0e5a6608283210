"""Fakes of the contexts that handlers get, for calling a servicer's methods without a network.

The Python half, `atoll.rpc.ServicerContext`, is the real one; what the native half does with the transport is done here
on a few fields. A suite in tests/testing runs the same behaviours against a fake, Atoll's server and grpc.aio's.

A fake belongs to the thread that calls the handler.
"""

import sys
import time
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from atoll._core import ServerCall
from atoll.errors import AbortError
from atoll.loop import IoContext
from atoll.rpc import EOF, ServicerContext, SyncServicerContext
from atoll.rpc._kinds import BlockingRequestIterator, RequestIterator
from atoll.testing._connection import FakeConnection

MetadataPairs = Iterable[tuple[str, str | bytes]]
CancelReason = Literal["deadline", "client", "connection lost", "shutdown", "bad request", "slow client", "slow body"]


class _Clock(Protocol):
    """Whose time a deadline is measured by: an `IoContext`, or a `ManualClock`."""

    def now(self) -> float:
        """Seconds from an arbitrary origin."""


class _FakeCall(ServerCall):
    """The native half of a context, without a transport."""

    _fake_clock: _Clock | None
    _deadline: float | None
    _invocation: Sequence[tuple[str, str | bytes]]
    _arrival: float
    _message_arrivals: Iterator[float] | None
    _message_arrival: float | None
    _fake_connection: FakeConnection
    _initial: MetadataPairs | None
    _answered: bool
    _aborted_by_handler: bool
    _ended: bool
    _reason: CancelReason | None
    _callbacks: list[Callable[[], object]]
    _script: Iterator[Any]
    _replies: list[Any]

    def __new__(
        cls,
        *,
        timeout: float | None = None,
        metadata: MetadataPairs = (),
        peer: str = "ipv4:127.0.0.1:50051",
        clock: _Clock | None = None,
        requests: Iterable[Any] = (),
        arrival_time: float | None = None,
        message_arrival_times: Iterable[float] | None = None,
        connection: FakeConnection | None = None,
    ) -> Self:
        """Makes the context of a call that has just arrived."""
        self = super().__new__(cls)
        self._fake_clock = clock or IoContext.current_or_none()
        self._deadline = None if timeout is None else self._time() + timeout
        self._invocation = _checked(metadata)
        self._arrival = self._time() if arrival_time is None else arrival_time
        self._message_arrivals = None if message_arrival_times is None else iter(message_arrival_times)
        self._message_arrival = None if requests else self._arrival
        self._fake_connection = connection or FakeConnection(peer, last_received=self._arrival)
        self._initial = None
        self._answered = False
        self._aborted_by_handler = False
        self._ended = False
        self._reason = None
        self._callbacks = []
        self._script = iter(requests)
        self._replies = []
        return self

    # ------------------------------------------------------------------------------------------------ for the test

    @property
    def initial_metadata(self) -> MetadataPairs | None:
        """What the handler has sent before the reply; None when it sent nothing."""
        return self._initial

    @property
    def replies(self) -> list[Any]:
        """The messages that the handler has written, in order."""
        return self._replies

    def finish(self) -> None:
        """Tells that the handler has ended, as nobody else can: the call is done, and its callbacks run.

        A second call does nothing.

        Raises:
            ExceptionGroup: What callbacks raised, when all have run; a server logs it.
        """
        self._answered = self._ended = True
        callbacks, self._callbacks = self._callbacks, []
        problems: list[Exception] = []
        for callback in callbacks:
            try:
                callback()
            except Exception as problem:  # noqa: BLE001 - the others are to run, too
                problems.append(problem)
        if problems:
            raise ExceptionGroup("done callbacks of the call raised", problems)

    def cancel(self, reason: CancelReason = "client") -> None:
        """Ends the call before its handler: the client gave up, or what else `reason` says.

        A server cancels the task of the handler as well; here the task is the test's own. Raises what `finish` raises.
        """
        if not self.done():
            self._reason = reason
        self.finish()

    # ------------------------------------------------------------------------------------- what the native half says

    def peer(self) -> str:
        """The client's address in grpc's form, such as `ipv4:127.0.0.1:50051`."""
        return self._fake_connection.peer

    @property
    def connection(self) -> FakeConnection:
        """What was given, or one that lives and answers pings at once."""
        return self._fake_connection

    @property
    def arrival_time(self) -> float:
        """What was given, or when the fake was made."""
        return self._arrival

    @property
    def message_arrival_time(self) -> float | None:
        """What was given for the message that was read last, or when it was read; None before the first one.

        Without `requests` it is `arrival_time`.
        """
        return self._message_arrival

    def peer_identities(self) -> None:
        """None: the client is not authenticated."""

    def peer_identity_key(self) -> None:
        """None: the client is not authenticated."""

    def _auth_context(self) -> list[tuple[str, list[bytes]]]:
        return []

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, not below zero; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self._time())

    def done(self) -> bool:
        """Whether the call has been answered, by the handler or at its deadline."""
        self._look_at_the_clock()
        return self._answered

    def cancelled(self) -> bool:
        """Whether the call ended before its handler did."""
        self._look_at_the_clock()
        return self._reason is not None

    @property
    def _cancel_reason(self) -> CancelReason | None:
        self._look_at_the_clock()
        return self._reason

    def _metadata(self) -> list[tuple[str, str | bytes]]:
        return list(self._invocation)

    def _send_initial_metadata(self, pairs: MetadataPairs) -> bool:
        checked = _checked(pairs)
        if self._initial is not None or self._replies or self.done():
            return False
        self._initial = checked
        return True

    def _compress(self, _number: int) -> bool:
        return self._initial is None

    def _abort(self, number: int, details: str) -> bool:
        self._set_code(number)
        self.set_details(details)
        first = not self.done()
        self._answered = self._aborted_by_handler = True
        return first

    def _receive(self) -> Any:  # noqa: ANN401 - the request's class
        self._check_open()
        message = next(self._script, False)
        if message is not False:
            given = self._time() if self._message_arrivals is None else next(self._message_arrivals, None)
            self._message_arrival = self._time() if given is None else given
        return message

    def _receive_blocking(self) -> Any:  # noqa: ANN401 - the request's class
        return self._receive()

    def _send(self, message: object) -> bool:
        self._check_open()
        self._replies.append(message)
        return True

    def _check_open(self) -> None:
        """Raises what the real context raises when the call has ended."""
        if self.cancelled():
            raise CancelledError("the call has been cancelled")
        if self._aborted_by_handler:
            raise self._abort_error("the call has been aborted already: let what abort() raises end the handler")
        if self._answered:
            raise self._usage_error("the call has been answered already: read and write before the handler returns")

    def _add_callback(self, callback: Callable[[], object]) -> bool:
        # A handler that has aborted still runs: callbacks wait for its end.
        if not self._ended:
            self._callbacks.append(callback)
        return not self._ended

    @property
    def _abort_error(self) -> type[AbortError]:
        """What `abort` raises: grpcio's own error as well, where anybody can have grpcio's to catch it by."""
        if "grpc.aio" not in sys.modules:
            return AbortError
        from atoll.rpc._grpcio import GrpcAbortError  # noqa: PLC0415 - grpcio is an extra

        return GrpcAbortError

    @property
    def _usage_error(self) -> type[RuntimeError]:
        if "grpc.aio" not in sys.modules:
            return RuntimeError
        from atoll.rpc._grpcio import GrpcUsageError  # noqa: PLC0415 - grpcio is an extra

        return GrpcUsageError

    @property
    def _end_of_requests(self) -> object:
        """What `read` returns after the last message: grpcio's own, where anybody can have that to compare with."""
        grpc_aio: Any = sys.modules.get("grpc.aio")
        return EOF if grpc_aio is None else grpc_aio.EOF

    def _time(self) -> float:
        return time.monotonic() if self._fake_clock is None else self._fake_clock.now()

    def _look_at_the_clock(self) -> None:
        """A deadline that has passed has ended the call, as the transport would have."""
        if not self._answered and self.time_remaining() == 0:
            self._answered = True
            self._reason = "deadline"


def _checked(pairs: MetadataPairs) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata as it could be sent. Raises what the real context raises."""
    kept = tuple(pairs)
    ServerCall()._set_trailing(kept)  # noqa: SLF001 - the native half knows what can be sent
    return kept


if TYPE_CHECKING:
    import grpc.aio

    # To a type checker a fake is what handlers are annotated with; nothing of grpcio is imported for it.
    class _AsyncBase(_FakeCall, ServicerContext, grpc.aio.ServicerContext[Any, Any]):  # type: ignore[misc, override]
        pass

    class _SyncBase(_FakeCall, SyncServicerContext, grpc.ServicerContext):  # type: ignore[misc, override]
        pass
else:

    class _AsyncBase(_FakeCall, ServicerContext):
        pass

    class _SyncBase(_FakeCall, SyncServicerContext):
        pass


class FakeServicerContext(_AsyncBase):
    """The context of a call that nobody made: a `grpc.aio.ServicerContext` to hand to an `async def` handler::

        context = FakeServicerContext(timeout=5)
        with pytest.raises(atoll.errors.AbortError):
            await counter.Add(counter_pb2.Amount(amount=-1), context)
        assert context.code() is grpc.StatusCode.INVALID_ARGUMENT

    What the handler says of the reply can be read from it: `code()`, `details()`, `trailing_metadata()`,
    `initial_metadata`. `abort()` raises as the real one does.

    Args:
        timeout: Seconds until the call's deadline, as a client gives them; None for none. When they are over the call
            is done and cancelled.
        metadata: The client's metadata, as pairs.
        peer: The client's address in grpc's form.
        clock: By whose `now()` the deadline is measured; the running loop's unless given.
        requests: The messages of a streaming request, which `read()` returns before the end. What the handler writes is
            in `replies`.
        arrival_time: When the call arrived, in seconds of the clock; now unless given.
        message_arrival_times: When each of `requests` arrived; for those that are left out, when it is read.
        connection: The connection that it came on, in place of one with `peer`; see `FakeConnection`.

    Raises:
        ValueError: When no client could send the metadata.
    """  # noqa: D415 - the colon leads to the example

    @property
    def requests(self) -> AsyncIterator[Any]:
        """An iterator of the messages that `read()` would return, for handlers that take one."""
        return RequestIterator(self)


class FakeSyncServicerContext(_SyncBase):
    """`FakeServicerContext` for a plain `def` handler: `abort`, `send_initial_metadata` and `requests` are plain."""

    @property
    def requests(self) -> Iterator[Any]:
        """An iterator of the request's messages."""
        return BlockingRequestIterator(self)
