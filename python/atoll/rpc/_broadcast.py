"""`Broadcast`: one message to many open streams, serialised once."""

import asyncio
import weakref
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

from atoll._core import BroadcastCore, SlowSubscribersCore
from atoll.errors import MailboxFull
from atoll.loop import IoContext
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
        left: Slow subscribers that left, and whose streams go on.
    """

    subscribers: int
    sent: int
    missed: int
    ended: int
    left: int


class SlowSubscriber(NamedTuple):
    """Who left a broadcast because it was too slow.

    Attributes:
        tag: What `subscribe` was given.
        position: Through where it has got everything.
    """

    tag: int
    position: int


class SlowSubscribers(SlowSubscribersCore):
    """Has slow subscribers leave their broadcasts instead of losing their streams, and tells a loop of them::

        slow = rpc.SlowSubscribers(io_context, self.on_slow)
        changes = rpc.Broadcast(slow_subscribers=slow)
        changes.subscribe(context, tag=watch.number, position=through)
        changes.send(message, since=before, position=revision)

    One may serve many broadcasts. Whoever left has got everything through a position and nothing after it, so that the
    rest can be sent from elsewhere when there is room (`ServicerContext.wait_for_room`), before it subscribes again.

    Args:
        io_context: Where to be told.
        on_slow: Is called there with those who left, a list of `SlowSubscriber`; once for all who did meanwhile.
    """  # noqa: D415 - the colon leads to the example

    def __new__(cls, io_context: IoContext, on_slow: Callable[[list[SlowSubscriber]], object]) -> Self:
        """Begins to tell."""

        def tell(_: int) -> None:
            if (this := reference()) is not None and (left := this.take()):
                on_slow([SlowSubscriber(*it) for it in left])

        self = super().__new__(cls, io_context, tell)
        reference = weakref.ref(self)
        return self


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
            RESOURCE_EXHAUSTED, so that its client knows to begin anew; "miss" lets it miss messages, counted;
            `SlowSubscribers` has it leave, and tells.
        max_waiting: Bytes that may be on the way to one subscriber.

    Raises:
        ValueError: When `slow_subscribers` is neither, or `max_waiting` is below one.
    """

    def __init__(
        self,
        serializer: Callable[[T], bytes] | None = None,
        *,
        slow_subscribers: Literal["end", "miss"] | SlowSubscribers = "end",
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Creates a broadcast to nobody yet."""
        leaving = slow_subscribers if isinstance(slow_subscribers, SlowSubscribers) else None
        if leaving is None and slow_subscribers not in {"end", "miss"}:
            raise ValueError(f"slow_subscribers={slow_subscribers!r}: it is 'end' or 'miss', or SlowSubscribers(...)")
        if max_waiting < 1:
            raise ValueError(f"max_waiting={max_waiting!r}: it is a number of bytes, from 1")
        self._serializer: Callable[[Any], bytes] = serializer or _serialize
        self._core = BroadcastCore(max_waiting, slow_subscribers == "end", leaving)
        # It tells nobody any more when nobody holds it, and the core does not.
        self._leaving = leaving
        self._max_waiting = max_waiting

    def send(self, message: T, *, since: int = 0, position: int = 0) -> None:
        """Sends a message to all who are subscribed now. Returns at once. Any thread.

        Args:
            message: What they get.
            since: With `SlowSubscribers`: the message tells all there is after this position, from 0 to 2**64 - 1.
            position: And through this one.

        Raises:
            atoll.MailboxFull: When more than `max_waiting` bytes have not been passed on yet: send less, or wait.
        """
        if not self._core.send(self._serializer(message), since, position):
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

    def subscribe(self, context: ServicerContext, *, tag: int = 0, position: int = 0) -> "Subscription":
        """Subscribes a call until the subscription is left: `with broadcast.subscribe(context): ...`.

        Args:
            context: The call. It may subscribe more than once, and gets each message as often.
            tag: By what `SlowSubscribers` know it, from 0 to 2**64 - 1.
            position: Of what it has got already.

        Raises:
            RuntimeError: When the call does not stream its replies.
        """
        return Subscription(self._core, context, tag, position)

    def stats(self) -> BroadcastStats:
        """What it has counted. Any thread."""
        return BroadcastStats(*self._core.counts())


class Subscription:
    """One subscriber of a `Broadcast`, from its construction to `close()` or the end of the `with` block."""

    __slots__ = ("_context", "_core", "_number")

    def __init__(self, core: BroadcastCore, context: ServicerContext, tag: int, position: int) -> None:
        """Made by `Broadcast.subscribe`."""
        self._core = core
        self._context = context
        self._number = core.subscribe(context, tag, position)

    def close(self) -> int | None:
        """Ends the subscription, once; the call goes on, and gets no message that is still on its way to it.

        Returns:
            The position of the last message that it got; None when it was over already: closed, left for its slowness
            (which `SlowSubscribers` tell), or its call has ended.
        """
        return self._core.unsubscribe(self._number, self._context)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the subscription."""
        self.close()


def _serialize(message: Any) -> bytes:  # noqa: ANN401 - a protobuf message
    serialized: bytes = message.SerializeToString()
    return serialized
