"""Groups: watches of the same source with the same options, which share a number, their messages and a broadcast.

Only the loop of `WatchManager` enters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from atoll.errors import MailboxFull
from atoll_control.server.tables import KV

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from atoll import rpc
    from atoll_control.api.v1 import watch_pb2
    from atoll_control.server.topics import Topic
    from atoll_control.server.watch_messages import Range
    from atoll_control.server.watch_stream import Watch

# Of how many messages a group remembers between which marks they were.
_REMEMBERED_MESSAGES: Final = 16


@dataclass(frozen=True, slots=True)
class TopicKey:
    """The events that a watch is about.

    Attributes:
        topic: the name.
        key: only events with this key; empty for all.
    """

    topic: str
    key: bytes


Source: TypeAlias = "Range | TopicKey"


@dataclass(frozen=True, slots=True)
class GroupKey:
    """What watches of one group have in common.

    Attributes:
        source: what they watch.
        previous_values: whether changes carry what was there before.
        copy: counts from 0 for watches of one stream that are the same otherwise.
    """

    source: Source
    previous_values: bool
    copy: int


class Group:
    """A number, a broadcast, and who is in."""

    __slots__ = ("_sent", "broadcast", "key", "members", "number", "quiet", "topic", "unsent", "watches")

    def __init__(self, key: GroupKey, number: int, broadcast: rpc.Broadcast[bytes], topic: Topic | None) -> None:
        """Has nobody yet.

        Args:
            key: what its watches have in common.
            number: its watches' in messages.
            broadcast: to those who have caught up.
            topic: of a group for events.
        """
        self.key = key
        self.number = number
        self.broadcast = broadcast
        self.topic = topic
        # Those who have caught up and get what the broadcast sends.
        self.members: set[Watch] = set()
        # How many watches there are, members or not yet.
        self.watches = 0
        # Nothing was sent since the last look.
        self.quiet = False
        # Messages that the broadcast has not taken yet, each with the marks between which it tells all.
        self.unsent: list[tuple[bytes, int, int]] = []
        # Those marks of the last messages sent.
        self._sent: list[tuple[int, int]] = []

    def send(self, message: bytes, since: int, mark: int) -> bool:
        """Sends a message to all members; whether the broadcast has taken it. If not, call `send_rest` later.

        Args:
            message: a serialised response.
            since: the message tells all there is after this mark,
            mark: and through this one.
        """
        self.quiet = False
        self.unsent.append((message, since, mark))
        return self.send_rest()

    def send_rest(self) -> bool:
        """Sends what the broadcast had no room for; whether that is all."""
        while self.unsent:
            message, since, mark = self.unsent[0]
            try:
                self.broadcast.send(message, since=since, position=mark)
            except MailboxFull:
                return False
            del self.unsent[0]
            self._sent.append((since, mark))
            del self._sent[:-_REMEMBERED_MESSAGES]
        return True

    def mark_of_leaver(self, position: int, published: int) -> int:
        """Through where a member has got everything that leaves and whose last message ended at `position`.

        Args:
            position: what closing its subscription said.
            published: through where the group has been served.
        """
        later = [since for since, mark in self._sent if mark > position]
        if not later:
            return self.unsent[0][1] if self.unsent else max(position, published)
        # When even the first message that is remembered is a later one, there may be others before it.
        return max(position, later[0]) if len(later) < _REMEMBERED_MESSAGES else position


class _Namespace:
    """The groups of one namespace of a table."""

    __slots__ = ("exact", "prefixes")

    def __init__(self) -> None:
        self.exact: dict[bytes, list[Group]] = {}
        # By the length of the prefix, then by the prefix.
        self.prefixes: dict[int, dict[bytes, list[Group]]] = {}

    def __bool__(self) -> bool:
        return bool(self.exact or self.prefixes)


class Groups:
    """All groups: by what their watches ask for, and by what a change or an event concerns.

    Finding the groups of a change takes one look for its key and one per length that prefixes in its namespace have,
    however many groups there are.
    """

    def __init__(self, new_broadcast: Callable[[], rpc.Broadcast[bytes]]) -> None:
        """Has none yet."""
        self._new_broadcast = new_broadcast
        self._numbers = 0
        self._groups: dict[GroupKey, Group] = {}
        self._namespaces: dict[tuple[str, str], _Namespace] = {}
        self._topics: dict[str, dict[bytes, list[Group]]] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        """All of them, in the order in which they came to be."""
        return iter(self._groups.values())

    def obtain(self, key: GroupKey, topic: Topic | None) -> Group:
        """The group of a further watch, made if need be."""
        group = self._groups.get(key)
        if group is None:
            self._numbers += 1
            group = self._groups[key] = Group(key, self._numbers, self._new_broadcast(), topic)
            self._shelf(key.source).append(group)
        group.watches += 1
        if topic is not None:
            topic.watchers += 1
        return group

    def release(self, group: Group, now: float) -> None:
        """A watch of the group, which is no member any more, has ended."""
        group.watches -= 1
        if group.topic is not None:
            group.topic.watchers -= 1
            group.topic.active_at = now
        if group.watches == 0:
            del self._groups[group.key]
            self._shelf(group.key.source).remove(group)
            self._tidy(group.key.source)

    def _shelf(self, source: Source) -> list[Group]:
        if isinstance(source, TopicKey):
            return self._topics.setdefault(source.topic, {}).setdefault(source.key, [])
        namespace = self._namespaces.setdefault((source.table, source.namespace), _Namespace())
        if source.prefix:
            return namespace.prefixes.setdefault(len(source.start), {}).setdefault(source.start, [])
        return namespace.exact.setdefault(source.start, [])

    def _tidy(self, source: Source) -> None:
        """Takes out what has become empty."""
        if isinstance(source, TopicKey):
            by_key = self._topics[source.topic]
            if not by_key[source.key]:
                del by_key[source.key]
            if not by_key:
                del self._topics[source.topic]
            return
        place = (source.table, source.namespace)
        namespace = self._namespaces[place]
        if source.prefix:
            by_prefix = namespace.prefixes[len(source.start)]
            if not by_prefix[source.start]:
                del by_prefix[source.start]
            if not by_prefix:
                del namespace.prefixes[len(source.start)]
        elif not namespace.exact[source.start]:
            del namespace.exact[source.start]
        if not namespace:
            del self._namespaces[place]

    def of_row(self, table: str, key: bytes) -> Iterable[Group]:
        """The groups that a change to a row concerns."""
        name = key.partition(b"\0")[0].decode() if table == KV else ""
        namespace = self._namespaces.get((table, name))
        if namespace is None:
            return ()
        found = list(namespace.exact.get(key, ()))
        for length, by_prefix in namespace.prefixes.items():
            found.extend(by_prefix.get(key[:length], ()))
        return found

    def of_event(self, event: watch_pb2.Event, topic: str) -> Iterable[Group]:
        """The groups that an event concerns."""
        by_key = self._topics.get(topic)
        if by_key is None:
            return ()
        if not event.key:
            return by_key.get(b"", ())
        return [*by_key.get(b"", ()), *by_key.get(event.key, ())]

    def of_topic(self, topic: str) -> Iterable[Group]:
        """All groups of a topic."""
        return [group for groups in self._topics.get(topic, {}).values() for group in groups]
