"""`WatchStream`: one stream of a client, with its watches.

Only the loop of `WatchManager` enters. A watch that has caught up is a member of its group, whose broadcast sends to
the stream without coming by here. Every other watch waits in the stream's queue for its turn, in which it takes one
step: a page of its snapshot, a part of the backlog, its end. All steps are taken by one task, which waits while the
client has no room: a client that reads nothing costs what is on its way to it, and no more.

A stream reads one snapshot at a time, and lets another watch take a step after each page.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from atoll.errors import StoreError
from atoll_control.api.v1 import watch_pb2
from atoll_control.server.calls import RefusedError, check_rules, native, refuse
from atoll_control.server.tokens import CALLER
from atoll_control.server.watch_catch_up import EventsCatchUp, Next, StateCatchUp
from atoll_control.server.watch_groups import GroupKey, Source, TopicKey
from atoll_control.server.watch_messages import range_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from atoll import rpc
    from atoll_control.server.watch_catch_up import CatchUp
    from atoll_control.server.watch_groups import Group
    from atoll_control.server.watch_manager import WatchManager

# After this many steps in a row that did not wait, others have their turn.
_STEPS_IN_A_ROW: Final = 4


class Watch:
    """One watch of one stream.

    Attributes:
        number: the server's own, in all streams.
        mark: through where everything has been sent; of no meaning while it is a member of its group.
        subscription: that of a member.
        closing: the client has closed it.
        wants_bookmark: one is due when it has caught up.
        was_slow: it left its group because the client did not read; its backlog may be coalesced.
        queued: it is in the stream's queue.
        reading: it has a snapshot to read, or is reading it.
    """

    __slots__ = (
        "catch_up",
        "closing",
        "group",
        "mark",
        "number",
        "queued",
        "reading",
        "stream",
        "subscription",
        "wants_bookmark",
        "was_slow",
    )

    def __init__(self, stream: WatchStream, number: int, group: Group, catch_up: CatchUp) -> None:
        """Is not open yet: its first step opens it."""
        self.stream = stream
        self.number = number
        self.group = group
        self.catch_up = catch_up
        self.mark = 0
        self.subscription: rpc.Subscription | None = None
        self.closing = False
        self.wants_bookmark = False
        self.was_slow = False
        self.queued = False
        self.reading = False

    def leave_group(self, published: int) -> bool:
        """It is no member any more, and has got everything through its mark.

        Args:
            published: through where its group has been served.

        Returns:
            Whether the mark is known: where it was about to be told of its slowness, that says it.
        """
        subscription, self.subscription = self.subscription, None
        if subscription is None:
            return True
        self.group.members.discard(self)
        position = subscription.close()
        if position is not None:
            self.mark = self.group.mark_of_leaver(position, published)
        return position is not None


class WatchStream:
    """The watches of one call of `Watch`."""

    def __init__(
        self,
        manager: WatchManager,
        context: grpc.aio.ServicerContext[watch_pb2.WatchRequest, watch_pb2.WatchResponse],
    ) -> None:
        """Has no watch yet."""
        self._manager = manager
        self._settings = manager.settings
        self.context = native(context)
        self._call = context
        self.caller = CALLER.get()
        # By the number in messages, which is the group's: no two watches of a stream are in the same group.
        self.watches: dict[int, Watch] = {}
        # Of watches that are the same: how many are open, and how many copies of the group were used.
        self._copies: dict[tuple[Source, bool], list[int]] = {}
        self._queue: deque[Watch] = deque()
        self._snapshots: deque[Watch] = deque()
        self._work: asyncio.Future[None] | None = None
        self._turn_taken: asyncio.Future[None] | None = None
        self._requests_ended = False
        self._must_wait_for_room = False
        self._failure: asyncio.Future[tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]] = (
            asyncio.get_running_loop().create_future()
        )

    # -- requests ------------------------------------------------------------------------------------------------------

    async def serve(self, requests: AsyncIterator[watch_pb2.WatchRequest]) -> None:
        """Serves the call to its end.

        Raises:
            AbortError: the call was answered with an error.
            asyncio.CancelledError: the call has ended.
        """
        loop = asyncio.get_running_loop()
        reader = loop.create_task(self._read(requests))
        worker = loop.create_task(self._take_steps())
        try:
            running: set[asyncio.Task[None]] = {reader, worker}
            while worker in running and not self._failure.done():
                waited: set[asyncio.Future[Any]] = {*running, self._failure}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                for task in [it for it in running if it.done()]:
                    running.remove(task)
                    task.result()
            if self._failure.done():
                code, details, trailing_metadata = self._failure.result()
                await self.context.abort(code, details, trailing_metadata)
        except (RefusedError, StoreError) as reason:
            await refuse(reason, self._call)
        finally:
            for task in (reader, worker):
                if not task.done():
                    task.cancel()
                elif not task.cancelled():
                    # The first of two that have failed is the reason.
                    task.exception()

    def fail(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()
    ) -> None:
        """Ends the call with a status."""
        if not self._failure.done():
            self._failure.set_result((code, details, trailing_metadata))

    async def _read(self, requests: AsyncIterator[watch_pb2.WatchRequest]) -> None:
        async for request in requests:
            self._accept(request)
            while len(self._queue) > self._settings.max_waiting_requests:
                self._turn_taken = asyncio.get_running_loop().create_future()
                await self._turn_taken
        self._requests_ended = True
        self._wake()

    def _turn_was_taken(self) -> None:
        if self._turn_taken is not None and not self._turn_taken.done():
            self._turn_taken.set_result(None)

    def _accept(self, request: watch_pb2.WatchRequest) -> None:
        check_rules(request)
        kind = request.WhichOneof("request")
        if kind == "open":
            self._open(request.open)
        elif kind == "close":
            watch = self.watches.get(request.close.watch_id)
            if watch is not None and not watch.closing:
                watch.closing = True
                self.enqueue(watch)
        else:
            for watch in self.watches.values():
                watch.wants_bookmark = True
                self.enqueue(watch)

    def _open(self, request: watch_pb2.OpenWatch) -> None:
        settings, manager = self._settings, self._manager
        if len(self.watches) >= settings.max_watches_per_stream:
            limit = (
                f"a stream has at most {settings.max_watches_per_stream:,} watches: close some, or open another stream"
            )
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, limit)
        if len(manager.watches) >= settings.max_watches:
            limit = f"the server has {len(manager.watches):,} watches, and may have no more: try again later"
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, limit)
        group, catch_up = self._place(request)
        watch = manager.add_watch(self, group, catch_up)
        self.watches[group.number] = watch
        self.enqueue(watch)

    def _place(self, request: watch_pb2.OpenWatch) -> tuple[Group, CatchUp]:
        manager = self._manager
        if request.HasField("topic"):
            events = TopicKey(request.topic.topic, request.topic.key)
            topic = manager.obtain_topic(request.topic.topic)
            # Events have no values before them: the option makes no difference.
            group = manager.groups.obtain(self._group_key(events, previous_values=False), topic)
            return group, EventsCatchUp(manager, request, group, topic, events)
        try:
            source = range_of(request)
        except RefusedError as refused:
            raise RefusedError(refused.code, f"open.kv.{refused}") from None
        group = manager.groups.obtain(self._group_key(source, previous_values=request.previous_values), None)
        return group, StateCatchUp(manager, request, group, source)

    def _group_key(self, source: Source, *, previous_values: bool) -> GroupKey:
        copies = self._copies.setdefault((source, previous_values), [0, 0])
        copy = copies[1]
        copies[0] += 1
        copies[1] += 1
        return GroupKey(source, previous_values, copy)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def enqueue(self, watch: Watch) -> None:
        """Has a watch take a step when its turn comes."""
        if not watch.queued:
            watch.queued = True
            self._queue.append(watch)
            self._wake()

    def left(self, watch: Watch, mark: int) -> None:
        """A watch was too slow for its group, and has got everything through `mark`."""
        watch.subscription = None
        watch.group.members.discard(watch)
        watch.mark = mark
        watch.was_slow = True
        self._must_wait_for_room = True
        self.enqueue(watch)

    def _wake(self) -> None:
        if self._work is not None and not self._work.done():
            self._work.set_result(None)

    async def _take_steps(self) -> None:
        while not (self._requests_ended and not self.watches):
            if self._queue or self._snapshots:
                await self._take_some_steps()
            else:
                self._work = asyncio.get_running_loop().create_future()
                await self._work

    async def _take_some_steps(self) -> None:
        if self._must_wait_for_room:
            self._must_wait_for_room = False
            await self.context.wait_for_room()
        for _ in range(_STEPS_IN_A_ROW):
            if self._queue:
                watch = self._queue.popleft()
                watch.queued = False
                if not watch.reading or watch.closing:
                    await self._take_step(watch)
                self._turn_was_taken()
            if self._snapshots:
                await self._take_step(self._snapshots.popleft())
                break
            if not self._queue and not self._snapshots:
                return
        await asyncio.sleep(0)

    async def _take_step(self, watch: Watch) -> None:
        if self.watches.get(watch.group.number) is not watch:
            return
        if watch.closing:
            await self.end(watch, watch_pb2.WatchEnded(reason=watch_pb2.WATCH_END_REASON_CLOSED), opened=True)
            return
        if watch.subscription is not None and not watch.wants_bookmark:
            return
        if not watch.leave_group(self._manager.published_to(watch.group)):
            return
        following = await watch.catch_up.step(watch)
        if following is Next.STEP:
            watch.reading = False
            self.enqueue(watch)
        elif following is Next.READ_SNAPSHOT:
            if watch.reading:
                self._snapshots.appendleft(watch)
            else:
                watch.reading = True
                self._snapshots.append(watch)

    async def write(self, response: watch_pb2.WatchResponse) -> None:
        """Sends a message, and waits until there is room for another."""
        self._manager.count_message()
        await self.context.write(response)

    async def end(self, watch: Watch, ended: watch_pb2.WatchEnded, *, opened: bool) -> None:
        """Ends a watch, and says so."""
        self.forget(watch)
        watch_id = watch.group.number if opened else 0
        await self.write(watch_pb2.WatchResponse(watch_id=watch_id, ended=ended))

    def forget(self, watch: Watch) -> None:
        """A watch has ended."""
        del self.watches[watch.group.number]
        key = watch.group.key
        copies = self._copies[key.source, key.previous_values]
        copies[0] -= 1
        if copies[0] == 0:
            del self._copies[key.source, key.previous_values]
        self._manager.forget_watch(watch)
