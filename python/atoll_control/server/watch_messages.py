"""What the responses of watches are made of: rows and changes as clients see them, in messages of bounded size.

A place in the changes is a number, the *mark*: `revision << 20 | skip`. Everything through the revision has been sent,
and so many changes of the next one that concerns the watch: a revision too large for one message comes in several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from atoll_control.api.v1 import kv_pb2, node_pb2, watch_pb2
from atoll_control.server.kv_manager import address_of, after_prefix, entry_of, row_key
from atoll_control.server.node_records import node_of
from atoll_control.server.tables import KV, NODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from atoll.store import StoreChange, StoreRow

_SKIP_BITS: Final = 20


def mark_of(revision: int, skip: int = 0) -> int:
    """The place after a revision, and `skip` changes of the next one."""
    return revision << _SKIP_BITS | skip


def revision_of(mark: int) -> int:
    """The revision through which everything has been sent."""
    return mark >> _SKIP_BITS


def skip_of(mark: int) -> int:
    """How many changes of the next revision have been sent."""
    return mark & ((1 << _SKIP_BITS) - 1)


class Change(Protocol):
    """What is read of a change; one of several changes to a key can be made to stand for all."""

    @property
    def revision(self) -> int:
        """The revision."""
        ...

    @property
    def table(self) -> str:
        """The table."""
        ...

    @property
    def key(self) -> bytes:
        """The row's key."""
        ...

    @property
    def row(self) -> StoreRow | None:
        """What is there from then on."""
        ...

    @property
    def previous(self) -> StoreRow | None:
        """What was there."""
        ...


@dataclass(frozen=True, slots=True)
class Coalesced:
    """The last of several changes to a key, with what was there before the first."""

    last: StoreChange
    previous: StoreRow | None

    @property
    def revision(self) -> int:
        """Of the last change."""
        return self.last.revision

    @property
    def table(self) -> str:
        """The table."""
        return self.last.table

    @property
    def key(self) -> bytes:
        """The row's key."""
        return self.last.key

    @property
    def row(self) -> StoreRow | None:
        """What is there now."""
        return self.last.row


@dataclass(frozen=True, slots=True)
class Range:
    """The rows that a watch is about.

    Attributes:
        table: `KV` or `NODES`.
        namespace: of the keys; empty for nodes.
        start: the first row's key; for a prefix, the prefix.
        prefix: all rows whose keys begin with `start`, not the one row.
    """

    table: str
    namespace: str
    start: bytes
    prefix: bool

    @property
    def end(self) -> bytes | None:
        """The first key beyond; None where there is none."""
        return after_prefix(self.start) if self.prefix else self.start + b"\0"

    def has(self, table: str, key: bytes) -> bool:
        """Whether a row belongs to it."""
        return table == self.table and (key.startswith(self.start) if self.prefix else key == self.start)


def range_of(request: watch_pb2.OpenWatch) -> Range:
    """The rows that a watch of state asks for.

    Raises:
        RefusedError: the namespace can't be one.
    """
    if request.HasField("kv"):
        kv = request.kv
        return Range(KV, kv.namespace, row_key(kv.namespace, kv.key), kv.prefix)
    node_id = request.nodes.node_id.encode()
    return Range(NODES, "", node_id, not node_id)


class Describer:
    """Makes rows and changes into what clients see."""

    def __init__(self, generation: str) -> None:
        """Of the store of this generation."""
        self._generation = generation

    def position(self, mark: int) -> watch_pb2.Position:
        """Where to resume."""
        return watch_pb2.Position(generation=self._generation, revision=revision_of(mark))

    @staticmethod
    def _entry(row: StoreRow, key: bytes) -> kv_pb2.KeyValue:
        # The row of a change before it may have no key of its own.
        namespace, name = address_of(key)
        return entry_of(namespace, name, row)

    def _gone(self, row: StoreRow | None, key: bytes) -> kv_pb2.KeyValue:
        if row is None:
            namespace, name = address_of(key)
            return kv_pb2.KeyValue(namespace=namespace, key=name)
        entry = self._entry(row, key)
        entry.ClearField("value")
        return entry

    def change(self, change: Change, *, previous: bool) -> watch_pb2.Change:
        """A change, with what was there before if that is wanted."""
        described = watch_pb2.Change(revision=change.revision, deleted=change.row is None)
        key, row, before = change.key, change.row, change.previous
        if change.table == NODES:
            if row is not None:
                described.node.CopyFrom(node_of(row))
            else:
                described.node.node_id = key.decode()
            if previous and before is not None:
                described.previous_node.CopyFrom(node_of(before))
            return described
        described.entry.CopyFrom(self._gone(before, key) if row is None else self._entry(row, key))
        if previous and before is not None:
            described.previous.CopyFrom(self._entry(before, key))
        return described

    def pages(
        self, watch_id: int, rows: Sequence[StoreRow], revision: int, max_bytes: int, *, nodes: bool, last: bool
    ) -> Iterator[watch_pb2.WatchResponse]:
        """Rows in messages; at least one message."""
        position = watch_pb2.Position(generation=self._generation, revision=revision)
        page = watch_pb2.SnapshotPage(position=position)
        size = 0
        for row in rows:
            item = node_of(row) if nodes else self._entry(row, row.key)
            item_size = item.ByteSize()
            if size and size + item_size > max_bytes:
                yield watch_pb2.WatchResponse(watch_id=watch_id, page=page)
                page = watch_pb2.SnapshotPage(position=position)
                size = 0
            if isinstance(item, node_pb2.Node):
                page.nodes.append(item)
            else:
                page.entries.append(item)
            size += item_size
        page.last = last
        yield watch_pb2.WatchResponse(watch_id=watch_id, page=page)

    def messages(
        self,
        watch_id: int,
        changes: Sequence[Change],
        max_bytes: int,
        *,
        previous: bool,
        sent: int = 0,
        coalesced: bool = False,
        cache: dict[Change, watch_pb2.Change] | None = None,
    ) -> Iterator[tuple[watch_pb2.WatchResponse, int]]:
        """Changes in messages, each with the mark of where it ends.

        Args:
            watch_id: the number in the messages.
            changes: in the order of their revisions; the last revision is whole.
            max_bytes: of a message; one change always fits.
            previous: add what was there before.
            sent: how many changes of the first revision have been sent, which are left out here.
            coalesced: they stand for others.
            cache: described changes by change, shared by groups with the same options.
        """
        message = watch_pb2.Changes(coalesced=coalesced)
        size = 0
        of_revision, revision = sent, changes[sent].revision if sent < len(changes) else 0
        for number in range(sent, len(changes)):
            change = changes[number]
            described = None if cache is None else cache.get(change)
            if described is None:
                described = self.change(change, previous=previous)
                if cache is not None:
                    cache[change] = described
            item_size = described.ByteSize()
            if size and size + item_size > max_bytes:
                same = change.revision == revision
                mark = mark_of(revision - 1, of_revision) if same else mark_of(revision)
                yield self._finished(watch_id, message, mark, partial=same), mark
                message = watch_pb2.Changes(coalesced=coalesced)
                size = 0
            of_revision = of_revision + 1 if change.revision == revision else 1
            revision = change.revision
            message.changes.append(described)
            size += item_size
        if size:
            mark = mark_of(revision)
            yield self._finished(watch_id, message, mark, partial=False), mark

    def _finished(
        self, watch_id: int, message: watch_pb2.Changes, mark: int, *, partial: bool
    ) -> watch_pb2.WatchResponse:
        message.position.CopyFrom(self.position(mark))
        message.partial = partial
        return watch_pb2.WatchResponse(watch_id=watch_id, changes=message)

    def bookmark(self, watch_id: int, mark: int) -> watch_pb2.WatchResponse:
        """That everything through a place has been sent."""
        return watch_pb2.WatchResponse(watch_id=watch_id, bookmark=self.position(mark))
