"""How a watch comes from where it is to where its group is: a snapshot, the changes or events since, then it joins.

Only the loop of `WatchManager` enters. Each step ends with a message sent or little done, so that others have their
turn. A watch joins its group in the same step in which it sees that it has got everything its group has: nothing is
lost between and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Final, Protocol

from atoll.errors import CompactedError, SnapshotExpiredError
from atoll_control.api.v1 import watch_pb2
from atoll_control.server.tables import NODES
from atoll_control.server.watch_messages import Coalesced, mark_of, revision_of, skip_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atoll.store import StoreChange, StoreRow, StoreSnapshot
    from atoll_control.server.topics import Topic
    from atoll_control.server.watch_groups import Group, TopicKey
    from atoll_control.server.watch_manager import WatchManager
    from atoll_control.server.watch_messages import Range
    from atoll_control.server.watch_stream import Watch

# What a change counts beside its key and values, roughly.
_CHANGE_OVERHEAD_BYTES: Final = 100


class Next(enum.Enum):
    """What a watch is to do after a step."""

    # It has joined, ended, or will be told when to go on.
    NOTHING = enum.auto()
    # Another step, when its turn comes.
    STEP = enum.auto()
    # Begin to read a snapshot when no other of the stream is being read, or read on.
    READ_SNAPSHOT = enum.auto()


class CatchUp(Protocol):
    """Of a watch of state or of events."""

    async def step(self, watch: Watch) -> Next:
        """Takes a step.

        Raises:
            StoreError: the store has refused; the stream can't go on.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


def _ended(
    reason: watch_pb2.WatchEndReason.ValueType, message: str, oldest: watch_pb2.Position | None = None
) -> watch_pb2.WatchEnded:
    return watch_pb2.WatchEnded(reason=reason, message=message, oldest=oldest)


async def _join(watch: Watch, manager: WatchManager, published: int, bookmark: watch_pb2.WatchResponse) -> Next:
    """Has a watch join its group, which has been served through where the watch is."""
    group = watch.group
    if group.unsent:
        manager.wait_for_publishing(watch)
        return Next.NOTHING
    if watch.wants_bookmark:
        watch.wants_bookmark = False
        await watch.stream.write(bookmark)
        # There may have been changes meanwhile.
        return Next.STEP
    watch.was_slow = False
    watch.subscription = group.broadcast.subscribe(watch.stream.context, tag=watch.number, position=published)
    group.members.add(watch)
    return Next.NOTHING


class StateCatchUp:
    """A watch of keys or nodes."""

    def __init__(self, manager: WatchManager, request: watch_pb2.OpenWatch, group: Group, wanted: Range) -> None:
        """Begins with the opening."""
        self._manager = manager
        self._store = manager.store
        self._describe = manager.describer
        self._settings = manager.settings
        self._request: watch_pb2.OpenWatch | None = request
        self._group = group
        self._range = wanted
        self._snapshot: StoreSnapshot | None = None
        self._cursor = wanted.start

    def close(self) -> None:
        """Lets the snapshot go."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            snapshot.close()

    async def step(self, watch: Watch) -> Next:
        """Opens the watch, reads a page, or follows the changes."""
        if watch.reading:
            return await self._read_page(watch)
        if self._request is not None:
            return await self._open(watch, self._request)
        return await self._follow(watch)

    # -- opening -------------------------------------------------------------------------------------------------------

    async def _open(self, watch: Watch, request: watch_pb2.OpenWatch) -> Next:
        if request.HasField("after"):
            if (ended := self._refusal(request.after)) is not None:
                ended.tag = request.tag
                await watch.stream.end(watch, ended, opened=False)
                return Next.NOTHING
            watch.mark = mark_of(request.after.revision)
        elif request.skip_snapshot:
            watch.mark = mark_of(self._store.revision)
        else:
            wanted = self._range
            page = self._store.scan(wanted.table, wanted.start, wanted.end, self._settings.max_page_rows)
            if page.more:
                return Next.READ_SNAPSHOT
            watch.mark = mark_of(page.revision)
            await self._say_opened(watch)
            await self._send_rows(watch, page.rows, page.revision, last=True)
            return Next.STEP
        await self._say_opened(watch)
        return Next.STEP

    def _refusal(self, after: watch_pb2.Position) -> watch_pb2.WatchEnded | None:
        """Why changes can't be told from this place on."""
        store = self._store
        if after.generation != store.generation:
            text = (
                f"after.generation: the store is {store.generation!r} and the position is of {after.generation!r}: "
                "begin with a snapshot"
            )
            return _ended(watch_pb2.WATCH_END_REASON_OTHER_GENERATION, text)
        if after.revision > (revision := store.revision):
            text = f"after.revision: {after.revision:,} is ahead of the store, which is at {revision:,}"
            return _ended(watch_pb2.WATCH_END_REASON_FUTURE_POSITION, text)
        try:
            store.changes(after.revision, 1, 1)
        except CompactedError as compacted:
            return self._compacted(compacted.oldest)
        return None

    def _compacted(self, oldest: int) -> watch_pb2.WatchEnded:
        text = f"the changes through revision {oldest:,} are not kept any more: begin with a snapshot"
        return _ended(watch_pb2.WATCH_END_REASON_COMPACTED, text, self._describe.position(mark_of(oldest)))

    async def _say_opened(self, watch: Watch) -> None:
        request, self._request = self._request, None
        tag = 0 if request is None else request.tag
        opened = watch_pb2.WatchOpened(tag=tag, position=self._describe.position(watch.mark))
        await watch.stream.write(watch_pb2.WatchResponse(watch_id=self._group.number, opened=opened))

    # -- the snapshot --------------------------------------------------------------------------------------------------

    async def _send_rows(self, watch: Watch, rows: Sequence[StoreRow], revision: int, *, last: bool) -> None:
        nodes = self._range.table == NODES
        limit = self._settings.max_page_bytes
        for message in self._describe.pages(self._group.number, rows, revision, limit, nodes=nodes, last=last):
            await watch.stream.write(message)

    async def _read_page(self, watch: Watch) -> Next:
        if self._snapshot is None:
            self._snapshot = self._store.snapshot()
            watch.mark = mark_of(self._snapshot.revision)
            await self._say_opened(watch)
        snapshot, wanted = self._snapshot, self._range
        try:
            page = snapshot.scan(wanted.table, self._cursor, wanted.end, self._settings.max_page_rows)
        except SnapshotExpiredError:
            # What has been sent of it is of no use; the changes since its revision alone are not either.
            ended = self._compacted(self._store.statistics().oldest)
            ended.message = "too much has changed while the snapshot was sent: begin with another, and read it faster"
            await watch.stream.end(watch, ended, opened=True)
            return Next.NOTHING
        await self._send_rows(watch, page.rows, snapshot.revision, last=not page.more)
        if page.more:
            self._cursor = page.rows[-1].key + b"\0"
            return Next.READ_SNAPSHOT
        self.close()
        return Next.STEP

    # -- changes -------------------------------------------------------------------------------------------------------

    async def _follow(self, watch: Watch) -> Next:
        published = self._manager.published
        revision = revision_of(watch.mark)
        if revision > published:
            self._manager.wait_for_publishing(watch)
            return Next.NOTHING
        if revision == published:
            mark = mark_of(published)
            return await _join(watch, self._manager, mark, self._describe.bookmark(self._group.number, mark))
        try:
            if watch.was_slow:
                await self._catch_up_with_backlog(watch, published)
            else:
                await self._send_some_changes(watch, published)
        except CompactedError as compacted:
            await watch.stream.end(watch, self._compacted(compacted.oldest), opened=True)
            return Next.NOTHING
        return Next.STEP

    async def _send_some_changes(self, watch: Watch, published: int) -> None:
        changes = self._store.changes(revision_of(watch.mark), self._settings.max_page_rows)
        found = self._concerned(changes.changes, published)
        await self._send_changes(watch, found, min(changes.through, published), skip_of(watch.mark))

    def _concerned(self, changes: Sequence[StoreChange], published: int) -> list[StoreChange]:
        has = self._range.has
        return [it for it in changes if has(it.table, it.key) and it.revision <= published]

    async def _send_changes(
        self,
        watch: Watch,
        changes: Sequence[StoreChange | Coalesced],
        through: int,
        sent: int,
        *,
        coalesced: bool = False,
    ) -> None:
        messages = self._describe.messages(
            self._group.number,
            changes,
            self._settings.max_page_bytes,
            previous=self._group.key.previous_values,
            sent=sent,
            coalesced=coalesced,
        )
        for message, mark in messages:
            await watch.stream.write(message)
            watch.mark = mark
        watch.mark = mark_of(through)

    async def _catch_up_with_backlog(self, watch: Watch, published: int) -> None:
        """Sends all changes of a watch that was too slow or, where they are too many bytes, the last ones by key."""
        limit = self._settings.max_waiting_bytes
        revision, skip = revision_of(watch.mark), skip_of(watch.mark)
        seen, size = 0, 0
        every: list[StoreChange] = []
        last: dict[bytes, Coalesced] = {}
        while revision < published:
            changes = self._store.changes(revision, self._settings.max_page_rows)
            for change in self._concerned(changes.changes, published):
                seen += 1
                size += _size_of(change)
                if size <= limit:
                    every.append(change)
                if seen > skip:
                    # To the end, for that is the order of the revisions.
                    known = last.pop(change.key, None)
                    last[change.key] = Coalesced(change, change.previous if known is None else known.previous)
            revision = min(changes.through, published)
            await asyncio.sleep(0)
        if size <= limit:
            await self._send_changes(watch, every, published, skip)
        else:
            every.clear()
            await self._send_changes(watch, list(last.values()), published, 0, coalesced=True)


def _size_of(change: StoreChange) -> int:
    row = change.row
    return len(change.key) + (0 if row is None else len(row.value)) + _CHANGE_OVERHEAD_BYTES


class EventsCatchUp:
    """A watch of a topic. Its marks are the numbers of events."""

    def __init__(
        self, manager: WatchManager, request: watch_pb2.OpenWatch, group: Group, topic: Topic, wanted: TopicKey
    ) -> None:
        """Begins with the opening."""
        self._manager = manager
        self._settings = manager.settings
        self._request: watch_pb2.OpenWatch | None = request
        self._group = group
        self._topic = topic
        self._key = wanted.key
        self._epoch = manager.topics.epoch

    def close(self) -> None:
        """There is nothing to give back."""

    async def step(self, watch: Watch) -> Next:
        """Opens the watch, or sends events."""
        if self._request is not None:
            return await self._open(watch, self._request)
        return await self._follow(watch)

    async def _open(self, watch: Watch, request: watch_pb2.OpenWatch) -> Next:
        topic = self._topic
        is_reset = False
        watch.mark = topic.newest
        if request.HasField("after"):
            after = request.after
            is_reset = after.epoch != self._epoch
            if not is_reset and after.sequence > topic.newest:
                text = f"after.sequence: {after.sequence:,} is ahead of the topic, which is at {topic.newest:,}"
                ended = _ended(watch_pb2.WATCH_END_REASON_FUTURE_POSITION, text)
                ended.tag = request.tag
                await watch.stream.end(watch, ended, opened=False)
                return Next.NOTHING
            watch.mark = topic.oldest - 1 if is_reset else after.sequence
        self._request = None
        opened = watch_pb2.WatchOpened(tag=request.tag, position=self._position(watch.mark))
        await watch.stream.write(watch_pb2.WatchResponse(watch_id=self._group.number, opened=opened))
        if is_reset:
            # How many events there were of the other epoch, nobody knows; of this one some may be gone.
            lost = watch.mark - topic.first + 1
            await watch.stream.write(
                discontinuity(self._group.number, self._epoch, watch.mark, lost, watch_pb2.DISCONTINUITY_KIND_RESET)
            )
        return Next.STEP

    def _position(self, mark: int) -> watch_pb2.Position:
        return watch_pb2.Position(epoch=self._epoch, sequence=mark)

    async def _follow(self, watch: Watch) -> Next:
        topic, number = self._topic, self._group.number
        if watch.mark > topic.published:
            self._manager.wait_for_publishing(watch)
            return Next.NOTHING
        if watch.mark == topic.published:
            bookmark = watch_pb2.WatchResponse(watch_id=number, bookmark=self._position(watch.mark))
            return await _join(watch, self._manager, watch.mark, bookmark)
        if watch.mark < topic.oldest - 1:
            lost = topic.oldest - max(watch.mark + 1, topic.first)
            watch.mark = topic.oldest - 1
            await watch.stream.write(
                discontinuity(number, self._epoch, watch.mark, lost, watch_pb2.DISCONTINUITY_KIND_OVERFLOW)
            )
            return Next.STEP
        events, through = topic.some_after(watch.mark, topic.published, self._settings.max_page_rows)
        if self._key:
            events = [event for event in events if event.key == self._key]
        for message, mark in event_messages(number, topic.name, events, self._settings.max_page_bytes):
            await watch.stream.write(message)
            watch.mark = mark
        watch.mark = through
        return Next.STEP


def discontinuity(
    watch_id: int, epoch: int, sequence: int, lost: int, kind: watch_pb2.DiscontinuityKind.ValueType
) -> watch_pb2.WatchResponse:
    """That events were lost, or their numbers begin anew."""
    position = watch_pb2.Position(epoch=epoch, sequence=sequence)
    found = watch_pb2.Discontinuity(kind=kind, position=position, lost=max(0, lost))
    return watch_pb2.WatchResponse(watch_id=watch_id, discontinuity=found)


def event_messages(
    watch_id: int, topic: str, events: Sequence[watch_pb2.Event], max_bytes: int
) -> list[tuple[watch_pb2.WatchResponse, int]]:
    """Events in messages, each with the number of its last event. One event always fits."""
    messages: list[tuple[watch_pb2.WatchResponse, int]] = []
    some: list[watch_pb2.Event] = []
    size = 0
    for event in events:
        item_size = event.ByteSize()
        if some and size + item_size > max_bytes:
            response = watch_pb2.WatchResponse(watch_id=watch_id, events=watch_pb2.Events(topic=topic, events=some))
            messages.append((response, some[-1].sequence))
            some, size = [], 0
        some.append(event)
        size += item_size
    if some:
        response = watch_pb2.WatchResponse(watch_id=watch_id, events=watch_pb2.Events(topic=topic, events=some))
        messages.append((response, some[-1].sequence))
    return messages
