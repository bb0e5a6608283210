"""Topics: events in memory, each topic within a window.

Only the loop of `WatchManager` enters. The events of a topic have rising numbers without gaps within one epoch. A topic
that was idle and dropped goes on with a number that none of its events had, should it come back: numbers begin behind
those of all topics that were ever dropped.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from atoll_control.api.v1 import watch_pb2
    from atoll_control.server.watch_settings import TopicSettings

# What an event costs beside the bytes of its key and payload, roughly.
EVENT_OVERHEAD_BYTES: Final = 512


@dataclass(slots=True, eq=False)
class Topic:
    """The window of one topic.

    Attributes:
        first: the number that its first event has had, or will have.
        newest: the number of the newest event, kept or not; where there was none, the number before the first one.
        published: through which event the groups of its watchers have been served.
        watchers: how many watches it has.
        active_at: when it last had an event, or a watcher came or left.
    """

    name: str
    first: int
    newest: int
    published: int
    active_at: float
    events: deque[watch_pb2.Event] = field(default_factory=deque)
    bytes: int = 0
    watchers: int = 0

    @property
    def oldest(self) -> int:
        """The number of the oldest event that is kept; one more than the newest when none is."""
        return self.newest - len(self.events) + 1

    def some_after(self, sequence: int, through: int, limit: int) -> tuple[list[watch_pb2.Event], int]:
        """Up to `limit` events after one, which must be none before the window, and the number of the last of them."""
        start = sequence - self.oldest + 1
        end = min(start + limit, through - self.oldest + 1)
        # From the end that is nearer: a deque is slow in its middle.
        if start > len(self.events) // 2:
            tail = list(islice(reversed(self.events), len(self.events) - end, len(self.events) - start))
            tail.reverse()
            return tail, self.oldest + end - 1
        return list(islice(self.events, start, end)), self.oldest + end - 1


class TopicsFullError(Exception):
    """There are as many topics as there may be."""


class Topics:
    """All topics, and the bounds for all of them together."""

    def __init__(self, epoch: int, settings: TopicSettings) -> None:
        """Has none yet.

        Args:
            epoch: of the server's reign.
            settings: how much is kept.
        """
        self.epoch = epoch
        self._settings = settings
        self._topics: dict[str, Topic] = {}
        # Those that have events, in the order in which they give way when all is full.
        self._in_turn: OrderedDict[Topic, None] = OrderedDict()
        self._dropped_through = 0
        self.bytes = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._topics)

    def obtain(self, name: str, now: float) -> Topic:
        """The topic of this name, made if need be.

        Raises:
            TopicsFullError: it would be one too many.
        """
        topic = self._topics.get(name)
        if topic is None:
            if len(self._topics) >= self._settings.max_topics:
                message = (
                    f"there are {len(self._topics):,} topics, and there may be no more; idle ones go by themselves"
                )
                raise TopicsFullError(message)
            before = self._dropped_through
            topic = Topic(name, before + 1, before, before, now)
            self._topics[name] = topic
        topic.active_at = now
        return topic

    def append(self, topic: Topic, event: watch_pb2.Event, now: float) -> None:
        """Numbers an event and keeps it; others may have to go."""
        settings = self._settings
        topic.newest += 1
        topic.active_at = now
        event.epoch, event.sequence = self.epoch, topic.newest
        size = size_of(event)
        topic.events.append(event)
        topic.bytes += size
        self.bytes += size
        self._in_turn.setdefault(topic)
        while len(topic.events) > settings.max_topic_events or topic.bytes > settings.max_topic_bytes:
            if len(topic.events) == 1:
                break
            self._drop_oldest(topic)
        while self.bytes > settings.max_total_bytes and (victim := self._victim(topic)) is not None:
            self._drop_oldest(victim)
            if not victim.events:
                del self._in_turn[victim]

    def _victim(self, topic: Topic) -> Topic | None:
        """Whose oldest event gives way to one of `topic`: its own beyond its share, or another's in turn."""
        share = self._settings.max_total_bytes // len(self._in_turn)
        if topic.bytes > share and len(topic.events) > 1:
            return topic
        for candidate in self._in_turn:
            if candidate is not topic:
                self._in_turn.move_to_end(candidate)
                return candidate
        return None

    def _drop_oldest(self, topic: Topic) -> None:
        size = size_of(topic.events.popleft())
        topic.bytes -= size
        self.bytes -= size

    def drop_idle(self, now: float) -> None:
        """Forgets topics that had neither events nor watchers for long."""
        end = now - self._settings.idle_after
        idle = [topic for topic in self._topics.values() if not topic.watchers and topic.active_at <= end]
        for topic in idle:
            self.bytes -= topic.bytes
            self._in_turn.pop(topic, None)
            self._dropped_through = max(self._dropped_through, topic.newest)
            del self._topics[topic.name]

    def listed_after(self, name: str) -> list[Topic]:
        """The topics whose names sort after one, in the order of their names."""
        return [self._topics[known] for known in sorted(known for known in self._topics if known > name)]


def size_of(event: watch_pb2.Event) -> int:
    """What an event takes of the bounds."""
    return len(event.key) + len(event.payload) + EVENT_OVERHEAD_BYTES
