# Made of _aio/watch.py by scripts/make_sync_client.py: change that, and run it.
"""`client.watch`: what changes, as it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll_control.api.v1 import watch_pb2
from atoll_control.client._sync._watching import Watch
from atoll_control.client._values import as_bytes
from atoll_control.client._watch_session import OLDEST

if TYPE_CHECKING:
    from atoll_control.client._sync._channel import RoutedChannel
    from atoll_control.client.events import KvEvent, NodeEvent, Position, TopicEvent, TopicPosition


class Watches:
    """Makes watches: iterators that go on over reconnects and changes of the leader, without a gap or a repetition.

    What they have in common:

    - `after` is a stored `position`, to go on behind it; without it a watch of keys or nodes begins with a snapshot.
    - Where history was lost they say `Reset` and go on by themselves.
    - With `follow=False` they end when everything that is there by now has been told.
    - The first connection has the client's timeout. Later they wait for a server as long as it takes or, with
      `patience`, so many seconds before they raise `UnreachableError`, after which they may be asked again.
    """

    def __init__(self, channel: RoutedChannel) -> None:
        """`Client` makes it."""
        self._channel = channel

    def kv(
        self,
        namespace: str = "",
        *,
        key: bytes | str | None = None,
        prefix: bytes | str = b"",
        after: Position | None = None,
        snapshot: bool = True,
        previous_values: bool = False,
        follow: bool = True,
        patience: float | None = None,
    ) -> Watch[KvEvent]:
        """Watches one key, or all keys of a namespace that start with a prefix.

        Args:
            namespace: where the keys are.
            key: the one key.
            prefix: of the keys, where it is not one; empty: all.
            after: go on behind this place.
            snapshot: begin with what is there now; otherwise with the next change.
            previous_values: tell what was there before each change.
            follow: go on with changes to come.
            patience: in seconds.

        Raises:
            ValueError: a key and a prefix.
        """
        if key is not None and prefix:
            raise ValueError("a watch is of one key or of a prefix: give one of them")
        source = watch_pb2.KvSource(namespace=namespace, key=as_bytes(prefix if key is None else key))
        source.prefix = key is None
        template = watch_pb2.OpenWatch(kv=source, skip_snapshot=not snapshot, previous_values=previous_values)
        return Watch(self._channel, template, after, follow=follow, patience=patience)

    def nodes(
        self,
        node_id: str = "",
        *,
        after: Position | None = None,
        snapshot: bool = True,
        previous_values: bool = False,
        follow: bool = True,
        patience: float | None = None,
    ) -> Watch[NodeEvent]:
        """Watches one node, or all; see `kv`."""
        source = watch_pb2.NodesSource(node_id=node_id)
        template = watch_pb2.OpenWatch(nodes=source, skip_snapshot=not snapshot, previous_values=previous_values)
        return Watch(self._channel, template, after, follow=follow, patience=patience)

    def topic(
        self,
        topic: str,
        *,
        key: bytes | str = b"",
        after: TopicPosition | None = None,
        from_oldest: bool = False,
        follow: bool = True,
        patience: float | None = None,
    ) -> Watch[TopicEvent]:
        """Watches a topic: its events from now on.

        Args:
            topic: its name; it need not exist yet.
            key: only events with this key.
            after: go on behind this place.
            from_oldest: begin with the oldest event that is kept.
            follow: go on with events to come.
            patience: in seconds.

        Raises:
            ValueError: both `after` and `from_oldest`.
        """
        if after is not None and from_oldest:
            raise ValueError("a watch begins after a place or with the oldest event: give one of them")
        source = watch_pb2.TopicSource(topic=topic, key=as_bytes(key))
        template = watch_pb2.OpenWatch(topic=source)
        begin = OLDEST if from_oldest else after
        return Watch(self._channel, template, begin, follow=follow, patience=patience)
