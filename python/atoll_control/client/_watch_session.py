"""`WatchSession`: what one watch asks for, and what it is told comes to. No I/O.

It is fed the responses of one stream after another, and remembers where everything has been told, so that the next
stream goes on there. One thread at a time may enter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from atoll_control.api.v1 import watch_pb2
from atoll_control.client.events import (
    Changed,
    Deleted,
    Position,
    Published,
    Reset,
    ResetReason,
    SnapshotComplete,
    SnapshotEntry,
    TopicPosition,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

E = TypeVar("E")

# No server has this epoch: a watch after it is told every event that is kept.
OLDEST: Final = TopicPosition(0, 0)

_ENDS: Final = {
    watch_pb2.WATCH_END_REASON_COMPACTED: ResetReason.COMPACTED,
    watch_pb2.WATCH_END_REASON_OTHER_GENERATION: ResetReason.OTHER_GENERATION,
    watch_pb2.WATCH_END_REASON_FUTURE_POSITION: ResetReason.FUTURE_POSITION,
}


class WatchSession(Generic[E]):
    """One watch over all its streams.

    Attributes:
        after: everything through here has been told; None: begin with a snapshot, or of a topic with the next event.
        is_finished: it was to end when it had caught up, and has.
        must_reopen: the watch has ended, and goes on in another stream.
        was_opened: a server has opened it once.
    """

    def __init__(
        self, template: watch_pb2.OpenWatch, after: Position | TopicPosition | None, *, follow: bool = True
    ) -> None:
        """Begins.

        Args:
            template: what is watched and how, without where it begins.
            after: where to go on.
            follow: go on when everything that is there by now has been told.
        """
        self._template = template
        self._is_topic = template.HasField("topic")
        self._follow = follow
        self.after = after
        self.is_finished = False
        self.must_reopen = False
        self.was_opened = False
        # Entries of a snapshot have been told, and not its end.
        self._is_in_snapshot = False
        # Of a revision that came in part: its number, and the keys that have been told.
        self._partial = 0
        self._told: set[bytes] = set()

    # -- asking --------------------------------------------------------------------------------------------------------

    def requests(self) -> list[watch_pb2.WatchRequest]:
        """What to send first on a new stream; nothing follows."""
        self.must_reopen = False
        opening = watch_pb2.OpenWatch()
        opening.CopyFrom(self._template)
        if self.after is not None:
            opening.skip_snapshot = False
            opening.after.CopyFrom(_as_message(self.after))
        requests = [watch_pb2.WatchRequest(open=opening)]
        if not self._follow:
            requests.append(watch_pb2.WatchRequest(bookmarks=watch_pb2.RequestBookmarks()))
        return requests

    def interrupted(self) -> list[E]:
        """The stream has ended; what is to be told before the next one."""
        if not self._is_in_snapshot:
            return []
        self._is_in_snapshot = False
        return self._reset(ResetReason.SNAPSHOT_INTERRUPTED, "the connection was lost within the snapshot")

    # -- being told ----------------------------------------------------------------------------------------------------

    def take(self, response: watch_pb2.WatchResponse) -> list[E]:
        """The events that a response comes to."""
        kind = response.WhichOneof("response")
        events: list[Any] = []
        if kind == "opened":
            self._opened(response.opened)
        elif kind == "page":
            events = self._page(response.page)
        elif kind == "changes":
            events = list(self._changes(response.changes))
        elif kind == "events":
            events = [self._published(response.events.topic, event) for event in response.events.events]
        elif kind == "bookmark":
            self._bookmark(response.bookmark)
        elif kind == "ended":
            events = self._ended(response.ended)
        elif kind == "discontinuity":
            events = self._discontinuity(response.discontinuity)
        return events

    def _opened(self, opened: watch_pb2.WatchOpened) -> None:
        self.was_opened = True
        if self.after is None and (self._is_topic or self._template.skip_snapshot):
            self.after = self._place(opened.position)

    def _place(self, position: watch_pb2.Position) -> Position | TopicPosition:
        if self._is_topic:
            return TopicPosition(position.epoch, position.sequence)
        return Position(position.generation, position.revision)

    def _page(self, page: watch_pb2.SnapshotPage) -> list[Any]:
        events: list[Any] = [SnapshotEntry(entry) for entry in page.entries]
        events += [SnapshotEntry(node) for node in page.nodes]
        self._is_in_snapshot = not page.last
        if page.last:
            self.after = position = Position(page.position.generation, page.position.revision)
            events.append(SnapshotComplete(position))
        return events

    def _changes(self, changes: watch_pb2.Changes) -> Iterable[Any]:
        generation = changes.position.generation
        whole = self.after if isinstance(self.after, Position) else None
        last = len(changes.changes) - 1
        for number, change in enumerate(changes.changes):
            is_whole = not changes.partial if number == last else changes.changes[number + 1].revision > change.revision
            key = _key_of(change)
            if change.revision != self._partial:
                self._partial = change.revision
                self._told.clear()
            if is_whole:
                whole = Position(generation, change.revision)
            if key not in self._told:
                yield _event_of(change, whole, coalesced=changes.coalesced)
            if is_whole:
                self._told.clear()
            else:
                self._told.add(key)
        self.after = Position(generation, changes.position.revision)

    def _published(self, topic: str, event: watch_pb2.Event) -> Published:
        self.after = position = TopicPosition(event.epoch, event.sequence)
        return Published(topic, event, position)

    def _bookmark(self, bookmark: watch_pb2.Position) -> None:
        self.after = self._place(bookmark)
        self.is_finished = not self._follow

    def _ended(self, ended: watch_pb2.WatchEnded) -> list[E]:
        self.must_reopen = True
        reason = _ENDS.get(ended.reason)
        if reason is None:
            return self.interrupted()
        return self._reset(reason, ended.message)

    def _discontinuity(self, found: watch_pb2.Discontinuity) -> list[Any]:
        position = TopicPosition(found.position.epoch, found.position.sequence)
        is_overflow = found.kind == watch_pb2.DISCONTINUITY_KIND_OVERFLOW
        reason = ResetReason.OVERFLOW if is_overflow else ResetReason.NEW_EPOCH
        what = "events were not read in time" if is_overflow else "another server keeps the topic"
        is_expected = self.after == OLDEST
        self.after = position
        if is_expected:
            return []
        return [Reset(reason, f"{what}: {found.lost:,} are known to be lost", found.lost, position)]

    def _reset(self, reason: ResetReason, message: str) -> list[Any]:
        self.after = None
        self._is_in_snapshot = False
        self._partial = 0
        self._told.clear()
        return [Reset(reason, message)]


def _as_message(position: Position | TopicPosition) -> watch_pb2.Position:
    if isinstance(position, TopicPosition):
        return watch_pb2.Position(epoch=position.epoch, sequence=position.sequence)
    return watch_pb2.Position(generation=position.generation, revision=position.revision)


def _key_of(change: watch_pb2.Change) -> bytes:
    # A watch is of one namespace.
    return change.node.node_id.encode() if change.HasField("node") else change.entry.key


def _event_of(change: watch_pb2.Change, position: Position | None, *, coalesced: bool) -> Any:
    item: Any
    previous: Any
    if change.HasField("node"):
        item = change.node
        previous = change.previous_node if change.HasField("previous_node") else None
    else:
        item = change.entry
        previous = change.previous if change.HasField("previous") else None
    kind = Deleted if change.deleted else Changed
    return kind(item, previous, change.revision, coalesced, position)
