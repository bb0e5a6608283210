"""`NodeHistory`: the ends of nodes, numbered in the order in which they came, and bounded. `NodeManager`'s part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from atoll_control.api.v1 import node_pb2
from atoll_control.server.node_records import ending_key
from atoll_control.server.tables import ENDINGS

if TYPE_CHECKING:
    from atoll.store import Store, StoreBatch

# How many of the oldest endings go with a new one at most, so that they fit the batch of an end: the store leaves room
# there for 32 changes (docs/store.md).
MOST_DROPPED: Final = 16


class NodeHistory:
    """The table `endings`. On the loop of `NodeManager`."""

    def __init__(self, store: Store, max_endings: int) -> None:
        """Knows nothing yet.

        Args:
            store: with the table `endings`.
            max_endings: how many are kept. Where there are more, some go with each new one.
        """
        self._store = store
        self._max_endings = max_endings
        self._last = 0

    def start(self) -> None:
        """Takes over what the store holds."""
        newest = self._store.scan(ENDINGS, limit=1, reverse=True).rows
        self._last = int.from_bytes(newest[0].key[:8], "big") if newest else 0

    def add(self, batch: StoreBatch, node: node_pb2.Node) -> None:
        """Has a batch record that an incarnation has ended, as `node` tells."""
        # Numbers are given in the order in which batches are submitted, and so rise with the revisions.
        self._last += 1
        ending = node_pb2.NodeEnding(node=node, time=node.state_since)
        ending.node.ClearField("revision")
        batch.put(ENDINGS, ending_key(self._last, node.node_id), ending.SerializeToString())
        first_kept = self._last - self._max_endings + 1
        if first_kept > 1:
            oldest = self._store.scan(ENDINGS, b"", ending_key(first_kept, ""), MOST_DROPPED).rows
            if oldest:
                batch.delete_range(ENDINGS, b"", oldest[-1].key + b"\0")
