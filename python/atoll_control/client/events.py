"""What watches tell: events, and the places between them where a watch can be resumed.

Every event has a `position`: who has handled the event may store it, and a watch that is opened `after` it goes on with
the next event. It is None where nothing but a new snapshot will do: within the first snapshot, and after a `Reset`.

A revision of the store may have several changes. Until the last of them the position is that of the revision before, so
a watch that is resumed in between tells the revision from its beginning.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from atoll_control.api.v1 import kv_pb2, node_pb2, watch_pb2

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "Changed",
    "Deleted",
    "KvEvent",
    "NodeEvent",
    "Position",
    "Published",
    "Reset",
    "ResetReason",
    "SnapshotComplete",
    "SnapshotEntry",
    "TopicEvent",
    "TopicPosition",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the changes of the store: everything through the revision has been told.

    Attributes:
        generation: names the history; a restored backup begins another.
        revision: of that history.
    """

    generation: str
    revision: int

    def __str__(self) -> str:
        return f"{self.generation}:{self.revision}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` has written.

        Raises:
            ValueError: it is not a position.
        """
        generation, separator, revision = text.rpartition(":")
        if not separator or not generation or not (revision.isascii() and revision.isdigit()):
            raise ValueError(f"a position of keys or nodes is GENERATION:REVISION, got {text!r}")
        return cls(generation, int(revision))


@dataclass(frozen=True, slots=True)
class TopicPosition:
    """A place in a topic: every event through this one has been told.

    Attributes:
        epoch: of the server that numbered the events.
        sequence: the number.
    """

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` has written.

        Raises:
            ValueError: it is not a position.
        """
        parts = text.split(":")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):  # noqa: PLR2004 - a pair
            raise ValueError(f"a position of a topic is EPOCH:SEQUENCE, got {text!r}")
        return cls(int(parts[0]), int(parts[1]))


@dataclass(frozen=True, slots=True)
class SnapshotEntry(Generic[T]):
    """Something that was there when the snapshot was taken. Entries come in the order of their keys.

    Attributes:
        item: the key with its value, or the node.
    """

    item: T

    @property
    def position(self) -> None:
        """A snapshot can't be resumed within: None."""
        return


@dataclass(frozen=True, slots=True)
class SnapshotComplete:
    """The snapshot is complete; every change after it follows."""

    position: Position


@dataclass(frozen=True, slots=True)
class Changed(Generic[T]):
    """Something was stored, or has changed.

    Attributes:
        item: what is there now.
        previous: what was there before, where that was asked for.
        revision: of the change.
        coalesced: the reader was slow, and changes to the same key before this one were left out.
        position: where to resume after this event.
    """

    item: T
    previous: T | None
    revision: int
    coalesced: bool
    position: Position | None


@dataclass(frozen=True, slots=True)
class Deleted(Generic[T]):
    """Something is no longer there.

    Attributes:
        item: what it was: of a key everything but the value, of a node its id.
        previous: what was there before, where that was asked for.
        revision: of the change.
        coalesced: as in `Changed`.
        position: where to resume after this event.
    """

    item: T
    previous: T | None
    revision: int
    coalesced: bool
    position: Position | None


@dataclass(frozen=True, slots=True)
class Published:
    """An event of a topic, as it was published."""

    topic: str
    item: watch_pb2.Event
    position: TopicPosition


class ResetReason(enum.Enum):
    """Why a watch could not go on where it was."""

    COMPACTED = "compacted"
    """The changes since then are not kept any more."""
    OTHER_GENERATION = "other_generation"
    """The store was restored, or is another."""
    FUTURE_POSITION = "future_position"
    """The server knows less than the watch: its data is older."""
    SNAPSHOT_INTERRUPTED = "snapshot_interrupted"
    """The connection was lost within a snapshot, and another one follows."""
    NEW_EPOCH = "new_epoch"
    """Another server keeps the topic, and its numbers begin anew."""
    OVERFLOW = "overflow"
    """Events of the topic fell out of its window before they were read."""


@dataclass(frozen=True, slots=True)
class Reset:
    """History was lost, and the watch goes on by itself.

    Of keys and nodes a new snapshot follows: forget what you know, it will be told again (of a watch without snapshots,
    the changes from now on follow). Of a topic the next events that are kept follow.

    Attributes:
        reason: why.
        message: the same for people.
        lost: how many events of a topic are known to be lost.
        position: None for keys and nodes.
    """

    reason: ResetReason
    message: str
    lost: int = 0
    position: TopicPosition | None = None


KvEvent: TypeAlias = (
    SnapshotEntry[kv_pb2.KeyValue] | SnapshotComplete | Changed[kv_pb2.KeyValue] | Deleted[kv_pb2.KeyValue] | Reset
)
NodeEvent: TypeAlias = (
    SnapshotEntry[node_pb2.Node] | SnapshotComplete | Changed[node_pb2.Node] | Deleted[node_pb2.Node] | Reset
)
TopicEvent: TypeAlias = Published | Reset
