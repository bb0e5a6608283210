"""`Broadcast`: one message to many open streams, serialised once."""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

from atoll._core import BroadcastCore
from atoll.errors import MailboxFull
from atoll.rpc._context import ServicerContext

T = TypeVar("T")

MAX_WAITING = 256 * 1024


class BroadcastStats(NamedTuple):
    """What a broadcast has counted.

    Attributes:
        subscribers: Open streams.
        sent: Messages sent.
        missed: Messages that slow subscribers missed, each counted once per subscriber.
        ended: Slow subscribers whose streams were ended.
    """

    subscribers: int
    sent: int
    missed: int
    ended: int


class Broadcast(Generic[T]):
    """A set of server streams that get the same messages: `broadcast.send(message)` costs the same for any number.

    A handler serves its subscriber until the client goes::

        async def Watch(self, request, context):
            await self.changes.serve(context)

    A message is serialised once and passed on by a native thread, in order. Any thread may send; a subscriber is served
    on its call's loop.

    Args:
        serializer: From a message to its bytes; None for `message.SerializeToString()`.
        slow_subscribers: What becomes of a stream that has more than `max_waiting` bytes on the way: "end" ends it with
            RESOURCE_EXHAUSTED, so that its client knows to begin anew; "miss" lets it miss messages, counted.
        max_waiting: Bytes that may be on the way to one subscriber.

    Raises:
        ValueError: When `slow_subscribers` is neither, or `max_waiting` is below one.
    """

    def __init__(
        self,
        serializer: Callable[[T], bytes] | None = None,
        *,
        slow_subscribers: Literal["end", "miss"] = "end",
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Creates a broadcast to nobody yet."""
        if slow_subscribers not in {"end", "miss"}:
            raise ValueError(f"slow_subscribers={slow_subscribers!r}: it is 'end' or 'miss'")
        if max_waiting < 1:
            raise ValueError(f"max_waiting={max_waiting!r}: it is a number of bytes, from 1")
        self._serializer: Callable[[Any], bytes] = serializer or _serialize
        self._core = BroadcastCore(max_waiting, slow_subscribers == "end")
        self._max_waiting = max_waiting

    def send(self, message: T) -> None:
        """Sends a message to all who are subscribed now. Returns at once. Any thread.

        Raises:
            atoll.MailboxFull: When more than `max_waiting` bytes have not been passed on yet: send less, or wait.
        """
        if not self._core.send(self._serializer(message)):
            raise MailboxFull(
                f"more than max_waiting={self._max_waiting} bytes of this broadcast have not been passed on: send "
                "less, wait, or construct it with a larger max_waiting"
            )

    async def serve(self, context: ServicerContext) -> None:
        """Subscribes a call, and waits until it ends: by its client, its deadline, its slowness, or the server's stop.

        What has been sent before is not received: write a snapshot after `subscribe`, or before, as the protocol wants.

        Raises:
            asyncio.CancelledError: At the call's end; let it pass.
            RuntimeError: When the call does not stream its replies.
        """
        with self.subscribe(context):
            await asyncio.get_running_loop().create_future()

    def subscribe(self, context: ServicerContext) -> "Subscription":
        """Subscribes a call until the subscription is left: `with broadcast.subscribe(context): ...`.

        Raises:
            RuntimeError: When the call does not stream its replies.
        """
        return Subscription(self._core, context)

    def stats(self) -> BroadcastStats:
        """What it has counted. Any thread."""
        return BroadcastStats(*self._core.counts())


class Subscription:
    """One subscriber of a `Broadcast`, from its construction to `close()` or the end of the `with` block."""

    def __init__(self, core: BroadcastCore, context: ServicerContext) -> None:
        """Made by `Broadcast.subscribe`."""
        self._core = core
        self._context = context
        self._number = core.subscribe(context)

    def close(self) -> None:
        """Ends the subscription; the call goes on. A second call does nothing."""
        self._core.unsubscribe(self._number, self._context)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the subscription."""
        self.close()


def _serialize(message: Any) -> bytes:  # noqa: ANN401 - a protobuf message
    serialized: bytes = message.SerializeToString()
    return serialized
