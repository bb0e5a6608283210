"""What a handler sees of its call: grpc.aio's `ServicerContext`, on the native `ServerCall`.

Any thread may use a context, also after the call has ended; what comes too late for the client is ignored.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple, NoReturn

from atoll._core import ServerCall
from atoll.errors import AbortError
from atoll.rpc._connection import Connection
from atoll.rpc._status import Code, code_number

MetadataValue = str | bytes
Metadata = Iterable[tuple[str, MetadataValue]]


class _EndOfFile:
    """The class of `EOF`."""

    def __bool__(self) -> bool:
        """False, as in grpc.aio."""
        return False

    def __repr__(self) -> str:
        """`EOF`."""
        return "EOF"


EOF: Final = _EndOfFile()
"""What `ServicerContext.read` returns after the last message."""


class Metadatum(NamedTuple):
    """One entry of a call's metadata; a value is bytes where the key ends in `-bin`."""

    key: str
    value: MetadataValue


_new_tuple = tuple.__new__


class _CallContext(ServerCall):
    """What contexts of `def` and `async def` handlers share."""

    __slots__ = ("_code_given", "_trailing")

    _abort_error: ClassVar[type[AbortError]] = AbortError
    _usage_error: ClassVar[type[RuntimeError]] = RuntimeError
    _code_given: Code
    _trailing: Metadata

    async def _wait_for_progress(self) -> None:
        """Waits until a message may have come, or room for one. On the call's loop."""
        future = asyncio.get_running_loop().create_future()
        if self._wait(future):
            await future
        else:
            await asyncio.sleep(0)  # others have their turn

    async def _wait_for_room(self) -> None:
        """Waits until there is room for another reply message, at least until others have had their turn."""
        if self._has_room():
            await asyncio.sleep(0)
            return
        while not self._has_room():
            await self._wait_for_progress()

    @property
    def connection(self) -> Connection:
        """The connection that the call came on, to be kept: it tells whether the client lives, also after the call."""
        return Connection(self._connection())

    def invocation_metadata(self) -> Sequence[Metadatum]:
        """The client's metadata, without what belongs to the protocol."""
        # What `Metadatum(key, value)` does in the end: interceptors ask for every call.
        return tuple([_new_tuple(Metadatum, pair) for pair in self._metadata()])

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Sets the metadata that is sent with the status; a later call replaces it.

        Raises:
            TypeError: When it is no sequence of pairs.
            ValueError: When a key or value can't be sent; the message says which.
        """
        pairs = tuple(trailing_metadata)
        self._set_trailing(pairs)
        self._trailing = pairs

    def trailing_metadata(self) -> Metadata:
        """What `set_trailing_metadata` has set."""
        return getattr(self, "_trailing", ())

    def set_code(self, code: Code) -> None:
        """Sets the status that the client gets; with any but OK it gets no message."""
        self._set_code(code_number(code))
        self._code_given = code

    def code(self) -> Code | None:
        """The status set so far, as it was given; None when there is none."""
        return getattr(self, "_code_given", None)

    def set_compression(self, compression: int) -> None:
        """Has the reply's messages compressed, where the client understands that. Before anything is sent.

        Args:
            compression: A member of `Compression`, or of `grpc.Compression`.

        Raises:
            RuntimeError: When the initial metadata has been sent, which says how messages are compressed.
            ValueError: When it is no compression.
        """
        if not self._compress(int(compression)) and not self.done():
            raise self._usage_error("set_compression() comes before the initial metadata and the first message")

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What is known of the client: how the connection is secured, and what its certificate says, if it has one."""
        return dict(self._auth_context())

    def _aborted(self, code: Code, details: str, trailing_metadata: Metadata) -> AbortError:
        number = code_number(code)
        if number == 0:
            raise ValueError("abort() ends a call with an error: return the reply for StatusCode.OK")
        if pairs := tuple(trailing_metadata):
            self.set_trailing_metadata(pairs)
        self._abort(number, details or self.details())
        self._code_given = code
        return self._abort_error(f"the call was aborted with status {number}: {details}")


class ServicerContext(_CallContext):
    """What an `async def` handler sees of its call: `grpc.aio.ServicerContext`."""

    __slots__ = ()

    _end_of_requests: ClassVar[object] = EOF

    async def read(self) -> Any:  # noqa: ANN401 - the request's class
        """The next message of a streaming request; `EOF` after the last one (grpcio's own, where grpcio is used).

        Raises:
            asyncio.CancelledError: When the call has been cancelled.
            NotOnLoopError: On another loop than the call's.
            RuntimeError: When the call has been answered.
        """
        message = self._receive()
        while message is None:
            await self._wait_for_progress()
            message = self._receive()
        return self._end_of_requests if message is False else message

    async def write(self, message: Any) -> None:  # noqa: ANN401 - the reply's class
        """Sends a message of a streaming reply; waits while the client has no room for more.

        Raises:
            asyncio.CancelledError: When the call has been cancelled.
            NotOnLoopError: On another loop than the call's.
            RuntimeError: When the call has been answered, or answers with one message.
        """
        if not self._send(message):
            await self._wait_for_room()

    async def wait_for_room(self) -> None:
        """Waits while the client has no room for more, for a handler that decides only then what to write.

        Raises:
            asyncio.CancelledError: When the call has been cancelled.
            NotOnLoopError: On another loop than the call's.
            RuntimeError: When the call has been answered, or answers with one message.
        """
        await self._wait_for_room()

    async def abort(self, code: Code, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call at once with an error, and the handler by raising.

        Raises:
            AbortError: Always; let it pass.
            ValueError: When the code is OK.
        """
        raise self._aborted(code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> NoReturn:  # noqa: ANN401 - grpc.Status is any object of this shape
        """Ends the call at once with `status`'s code, details and metadata. Raises what `abort` raises."""
        raise self._aborted(status.code, status.details, status.trailing_metadata or ())

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Sends the headers now, before the reply.

        Raises:
            RuntimeError: When they have been sent already.
            TypeError: When it is no sequence of pairs.
            ValueError: When a key or value can't be sent; the message says which.
        """
        if not self._send_initial_metadata(tuple(initial_metadata)) and not self.done():
            raise self._usage_error("the initial metadata has been sent already: send it once, before the reply")

    def add_done_callback(self, callback: Callable[["ServicerContext"], object]) -> None:
        """Has `callback(context)` run on the loop when the call has ended; at once if it has."""
        if not self._add_callback(lambda: callback(self)):
            callback(self)


class SyncServicerContext(_CallContext):
    """What a plain `def` handler sees of its call: `grpc.ServicerContext`, as grpc.aio passes it."""

    __slots__ = ()

    def abort(self, code: Code, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call at once with an error, and the handler by raising.

        Raises:
            AbortError: Always; let it pass.
            ValueError: When the code is OK.
        """
        raise self._aborted(code, details, trailing_metadata)

    def abort_with_status(self, status: Any) -> NoReturn:  # noqa: ANN401 - grpc.Status is any object of this shape
        """Ends the call at once with `status`'s code, details and metadata. Raises what `abort` raises."""
        raise self._aborted(status.code, status.details, status.trailing_metadata or ())

    def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Sends the headers now, before the reply. Raises what `ServicerContext.send_initial_metadata` raises."""
        if not self._send_initial_metadata(tuple(initial_metadata)) and not self.done():
            raise self._usage_error("the initial metadata has been sent already: send it once, before the reply")

    def is_active(self) -> bool:
        """Whether the client still waits for the reply."""
        return not self.done()

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Has `callback()` run on the loop when the call has ended. Returns False when it has already."""
        return self._add_callback(callback)
