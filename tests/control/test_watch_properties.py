"""Watchers that open, stop reading, go and resume while keys change: what each has replayed is what is stored."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.control.watching import SMALL_WINDOW, TIMEOUT, Replayed, Served, Stream, serving

from atoll_control.api.v1 import kv_pb2, watch_pb2
from atoll_control.server.watch_settings import WatchSettings

pytestmark = pytest.mark.whole_grpcio

KEYS = [b"a", b"aa", b"ab", b"b", b"ba", b"c", b"ca", b"cb"]
PREFIXES = [b"", b"a", b"b", b"ca"]
# Falls behind, and splits pages, messages and revisions, as soon as can be.
SMALL = WatchSettings(max_waiting_bytes=60_000, max_page_rows=3, max_page_bytes=15_000)


class Watcher:
    """A client with one watch, which resumes by itself."""

    def __init__(self, served: Served, prefix: bytes, *, previous_values: bool) -> None:
        self.served = served
        self.prefix = prefix
        self.previous_values = previous_values
        self.replayed = Replayed()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.stream: Stream | None = None
        self.reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Opens the watch, from where it ended the last time."""
        if self.stream is None:
            self.stream = self.served.stream()
            position = None
            if self.replayed.has_snapshot:
                position = watch_pb2.Position(generation=self.served.store.generation, revision=self.replayed.revision)
            await self.stream.open(self.prefix, previous_values=self.previous_values, after=position)
            self.reader = asyncio.ensure_future(self.read(self.stream))

    async def read(self, stream: Stream) -> None:
        """Reads while it may."""
        while True:
            await self.may_read.wait()
            self.replayed.take(await stream.next())

    async def go(self) -> None:
        """Breaks the stream off."""
        if self.stream is not None and self.reader is not None:
            stream, self.stream = self.stream, None
            self.reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.reader
            stream.call.cancel()
            self.replayed.interrupt()

    async def catch_up(self) -> None:
        """Reads until it knows that it has got everything."""
        await self.open()
        self.may_read.set()
        assert self.stream is not None
        assert self.reader is not None
        await self.stream.request_bookmarks()
        async with asyncio.timeout(TIMEOUT):
            while not (self.replayed.has_snapshot and self.replayed.revision >= self.served.store.revision):
                if self.reader.done():
                    self.reader.result()
                await asyncio.sleep(0.002)


operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("commit"),
            st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from([None, 0, 100, 6_000])), min_size=1, max_size=4),
            st.sampled_from([1, 1, 1, 10]),
        ),
        st.tuples(st.just("open"), st.integers(0, 3), st.none()),
        st.tuples(st.just("go"), st.integers(0, 3), st.none()),
        st.tuples(st.just("stop_reading"), st.integers(0, 3), st.none()),
        st.tuples(st.just("read"), st.integers(0, 3), st.none()),
        st.tuples(st.just("bookmark"), st.integers(0, 3), st.none()),
        st.tuples(st.just("wait"), st.none(), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=operations)
def test_every_watcher_has_replayed_what_is_stored_in_order_and_without_gaps(operations: list[Any]) -> None:
    asyncio.run(replay(operations))


def test_watchers_that_do_not_read_a_flood_have_replayed_what_is_stored() -> None:
    flood = [("commit", [(key, 6_000) for key in KEYS], 10)] * 4
    opening = [("open", number, None) for number in range(4)]
    stopping = [("stop_reading", number, None) for number in range(4)]
    reading = [("read", number, None) for number in range(4)]
    wait = ("wait", None, None)
    operations = [*opening, wait, *stopping, *flood, wait, *reading, *flood, wait, *stopping, *flood]
    slow, coalesced = asyncio.run(replay([*operations, ("go", 1, None), *flood]))
    assert slow > 0
    assert coalesced


async def replay(operations: list[Any]) -> tuple[int, bool]:
    """Does the operations, and compares what each watcher has replayed with the store.

    Returns how often a watch was too slow, and whether what it missed was coalesced.
    """
    async with serving(SMALL, channel_options=SMALL_WINDOW) as served:
        watchers = [Watcher(served, prefix, previous_values=number % 2 == 1) for number, prefix in enumerate(PREFIXES)]
        log: list[tuple[int, bytes]] = []
        stored: dict[bytes, bytes] = {}
        for kind, subject, times in operations:
            if kind == "commit":
                for number in range(times):
                    await commit(served, subject, number, stored, log)
            elif kind == "wait":
                await asyncio.sleep(0.01)
            else:
                await act(watchers[subject], kind)
        for watcher in watchers:
            await watcher.catch_up()
            compare(watcher, stored, log)
        for watcher in watchers:
            await watcher.go()
        return (await served.statistics()).slow, any(watcher.replayed.coalesced for watcher in watchers)


async def act(watcher: Watcher, kind: str) -> None:
    """Has a watcher do what an operation says."""
    if kind == "open":
        await watcher.open()
    elif kind == "go":
        await watcher.go()
    elif kind == "stop_reading":
        watcher.may_read.clear()
    elif kind == "read":
        watcher.may_read.set()
    elif watcher.stream is not None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await watcher.stream.request_bookmarks()


async def commit(
    served: Served, changes: list[tuple[bytes, int | None]], number: int, stored: dict[bytes, bytes], log: list[Any]
) -> None:
    """Changes keys in one revision; a size of None deletes."""
    batch = served.store.batch()
    concerned: list[bytes] = []
    for key, size in dict(changes).items():
        if size is not None:
            stored[key] = b"%d " % number + b"x" * size
            batch.put("kv", b"n\0" + key, stored[key])
            concerned.append(key)
        elif stored.pop(key, None) is not None:
            batch.delete("kv", b"n\0" + key)
            concerned.append(key)
    committed = await served.store.commit(batch)
    log.extend((committed.revision, key) for key in concerned)


def compare(watcher: Watcher, stored: dict[bytes, bytes], log: list[tuple[int, bytes]]) -> None:
    """What a watcher has replayed is what is stored, and it has seen every change once."""
    replayed, prefix = watcher.replayed, watcher.prefix
    entries: dict[bytes, kv_pb2.KeyValue] = replayed.entries
    assert {key: it.value for key, it in entries.items()} == {
        key: value for key, value in stored.items() if key.startswith(prefix)
    }
    assert replayed.began is not None
    expected = [it for it in log if it[0] > replayed.began and it[1].startswith(prefix)]
    if not replayed.coalesced:
        assert replayed.seen == expected
    else:
        assert len(set(replayed.seen)) == len(replayed.seen)
        assert set(replayed.seen) <= set(expected)
