"""What the tests of watches share: a server with a store, streams of a stock client, and what they have replayed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any, ParamSpec

import grpc
import grpc.aio

from atoll import IoContext, testing
from atoll.store import Store
from atoll_control.api.v1 import kv_pb2, node_pb2, watch_pb2, watch_pb2_grpc
from atoll_control.server.kv_manager import row_key
from atoll_control.server.tables import TABLES
from atoll_control.server.watch_manager import WatchManager, WatchStatistics
from atoll_control.server.watch_settings import TopicSettings, WatchSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from atoll.testing import ManualClock

Parameters = ParamSpec("Parameters")

TIMEOUT = 30.0
WALL = 1_700_000_000.25
# A client that takes no more than this before it reads.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]


def on_a_loop(test: Callable[Parameters, Coroutine[Any, Any, None]]) -> Callable[Parameters, None]:
    """Runs a test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        async def within_time() -> None:
            async with asyncio.timeout(3 * TIMEOUT):
                await test(*args, **kwargs)

        asyncio.run(within_time())

    return run


class SeenManager(WatchManager):
    """Tells the test of itself."""

    def __init__(self, seen: list[tuple[WatchManager, IoContext]], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        seen.append((self, IoContext.current()))


class Served:
    """A server, its store, and its client's channel."""

    def __init__(self, store: Store, channel: grpc.aio.Channel, manager: WatchManager, io_context: IoContext) -> None:
        self.store = store
        self.channel = channel
        self.manager = manager
        self.io_context = io_context
        self.topics = watch_pb2_grpc.TopicServiceStub(channel)

    def stream(self) -> Stream:
        """Opens a stream."""
        return Stream(watch_pb2_grpc.WatchServiceStub(self.channel).Watch())

    async def put(self, key: bytes, value: bytes = b"", *, namespace: str = "n", owner: bytes = b"") -> int:
        """Stores a key; the revision."""
        batch = self.store.batch().put("kv", row_key(namespace, key), value, owner)
        return (await self.store.commit(batch)).revision

    async def delete(self, key: bytes, *, namespace: str = "n") -> int:
        """Deletes a key; the revision."""
        return (await self.store.commit(self.store.batch().delete("kv", row_key(namespace, key)))).revision

    async def put_node(self, node_id: str, **fields: Any) -> int:
        """Stores a node; the revision."""
        node = node_pb2.Node(node_id=node_id, **fields)
        batch = self.store.batch().put("nodes", node_id.encode(), node.SerializeToString())
        return (await self.store.commit(batch)).revision

    async def publish(self, topic: str, payload: bytes = b"", key: bytes = b"") -> int:
        """Publishes an event; its number."""
        request = watch_pb2.PublishRequest(topic=topic, key=key, payload=payload)
        return (await self.topics.Publish(request, timeout=TIMEOUT)).sequence

    async def on_its_loop(self, function: Callable[..., Any], *args: object) -> Any:
        """Runs a function on the manager's loop."""
        return await asyncio.wrap_future(self.io_context.submit(function, *args))

    async def statistics(self) -> WatchStatistics:
        """What the manager has."""
        statistics: WatchStatistics = await self.on_its_loop(self.manager.statistics)
        return statistics

    async def until(self, condition: Callable[[WatchStatistics], object]) -> None:
        """Waits for what the manager will come to."""
        async with asyncio.timeout(TIMEOUT):
            while not condition(await self.statistics()):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.005)

    async def overtake_the_change_log(self) -> int:
        """Changes so much that the changes so far are not kept any more; the newest revision."""
        value = b"x" * (1 << 20)
        revision = 0
        for number in range(70):
            revision = await self.put(b"large", value, namespace="elsewhere")
            if number % 10 == 0:
                # Which is to overtake watchers, not the manager itself.
                await self.until(lambda it: it.published >= revision)  # noqa: B023 - at once
        await self.until(lambda it: it.published >= revision)
        return revision


@contextlib.asynccontextmanager
async def serving(
    settings: WatchSettings | None = None,
    topics: TopicSettings | None = None,
    *,
    clock: ManualClock | None = None,
    channel_options: Any = (),
    store: Store | None = None,
) -> AsyncIterator[Served]:
    """Serves watches of a store in memory."""
    store = store or Store.in_memory(TABLES, generation="0123456789abcdef")
    seen: list[tuple[WatchManager, IoContext]] = []
    manager = functools.partial(SeenManager, seen, store, settings, topics, wall_clock=lambda: WALL)
    try:
        async with testing.serve(
            manager, clock=clock, channel_options=channel_options, options=[("grpc.max_concurrent_streams", 2000)]
        ) as channel:
            yield Served(store, channel, *seen[0])
    finally:
        await store.close()


class Stream:
    """A stream of watches, as a client sees it."""

    def __init__(self, call: grpc.aio.StreamStreamCall[watch_pb2.WatchRequest, watch_pb2.WatchResponse]) -> None:
        self.call = call
        # Changes that came along with others.
        self._changes: list[watch_pb2.Change] = []

    async def send(self, **fields: Any) -> None:
        """Sends a request."""
        await self.call.write(watch_pb2.WatchRequest(**fields))

    async def open(
        self, prefix: bytes | None = None, *, key: bytes | None = None, namespace: str = "n", **fields: Any
    ) -> None:
        """Asks for a watch: of a prefix or a key, unless the fields name another source."""
        if prefix is not None:
            fields["kv"] = watch_pb2.KvSource(namespace=namespace, key=prefix, prefix=True)
        elif key is not None:
            fields["kv"] = watch_pb2.KvSource(namespace=namespace, key=key)
        await self.send(open=watch_pb2.OpenWatch(**fields))

    async def open_topic(self, topic: str, key: bytes = b"", **fields: Any) -> None:
        """Asks for a watch of a topic."""
        await self.open(topic=watch_pb2.TopicSource(topic=topic, key=key), **fields)

    async def close_watch(self, watch_id: int) -> None:
        """Asks for the end of a watch."""
        await self.send(close=watch_pb2.CloseWatch(watch_id=watch_id))

    async def request_bookmarks(self) -> None:
        """Asks for bookmarks."""
        await self.send(bookmarks=watch_pb2.RequestBookmarks())

    async def next(self) -> watch_pb2.WatchResponse:
        """The next response."""
        response = await asyncio.wait_for(self.call.read(), TIMEOUT)
        assert isinstance(response, watch_pb2.WatchResponse), "the stream has ended"
        return response

    async def next_of(self, kind: str) -> Any:
        """What the next response says, which must be of this kind."""
        response = await self.next()
        assert response.WhichOneof("response") == kind, response
        return getattr(response, kind)

    async def opened(self, **fields: Any) -> watch_pb2.WatchResponse:
        """Opens a watch of state without anything in it; the response that says so."""
        await self.open(**fields)
        response = await self.next()
        assert response.HasField("opened"), response
        return response

    async def changes(self, count: int) -> list[watch_pb2.Change]:
        """The next changes, in however many messages."""
        while len(self._changes) < count:
            self._changes.extend((await self.next_of("changes")).changes)
        found, self._changes = self._changes[:count], self._changes[count:]
        return found

    async def change(self) -> watch_pb2.Change:
        """The next change."""
        return (await self.changes(1))[0]

    async def values(self, count: int) -> list[tuple[bytes, bytes | None]]:
        """Keys and values of the next changes."""
        return [(it.entry.key, None if it.deleted else it.entry.value) for it in await self.changes(count)]

    async def ended_with(self) -> tuple[str, str]:
        """How the stream ends: the status and its text."""
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while isinstance(await self.call.read(), watch_pb2.WatchResponse):
                    pass
            return (await self.call.code()).name, await self.call.details()


class Replayed:
    """The state that a client has by what a watch of keys told it, which must be in order."""

    def __init__(self) -> None:
        self.entries: dict[bytes, kv_pb2.KeyValue] = {}
        # Through where all is known, and where the snapshot was.
        self.revision = 0
        self.began: int | None = None
        # Revision and key of the changes since.
        self.seen: list[tuple[int, bytes]] = []
        self.has_snapshot = False
        self.coalesced = False

    def take(self, response: watch_pb2.WatchResponse) -> None:
        """Takes in what a response says."""
        kind = response.WhichOneof("response")
        if kind == "opened":
            self.revision = response.opened.position.revision
            if self.began is None:
                self.began = self.revision
        elif kind == "page":
            self._take_page(response.page)
        elif kind == "changes":
            self._take_changes(response.changes)
        elif kind == "bookmark":
            assert response.bookmark.revision >= self.revision
            self.revision = response.bookmark.revision

    def _take_page(self, page: watch_pb2.SnapshotPage) -> None:
        assert not self.has_snapshot
        assert page.position.revision == self.revision == self.began
        for entry in page.entries:
            assert entry.revision <= self.revision
            assert not self.entries or entry.key > max(self.entries)
            self.entries[entry.key] = entry
        self.has_snapshot = page.last

    def _take_changes(self, changes: watch_pb2.Changes) -> None:
        assert self.has_snapshot
        self.coalesced |= changes.coalesced
        for change in changes.changes:
            assert change.revision > self.revision
            assert not self.seen or change.revision >= self.seen[-1][0]
            self.seen.append((change.revision, change.entry.key))
            if change.deleted:
                self.entries.pop(change.entry.key, None)
            else:
                assert change.entry.revision == change.revision
                self.entries[change.entry.key] = change.entry
        last = changes.changes[-1].revision
        assert changes.position.revision == (last - 1 if changes.partial else last)
        self.revision = changes.position.revision

    def interrupt(self) -> None:
        """The stream has ended: what is known through the position is what counts."""
        if not self.has_snapshot:
            self.__init__()  # type: ignore[misc] # begins anew
        self.seen = [it for it in self.seen if it[0] <= self.revision]
