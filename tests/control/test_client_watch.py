"""Watches of the Python client over servers that are killed, connections that break, and history that is lost."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.control.between import proxy, standby
from tests.control.watching import TIMEOUT, on_a_loop

from atoll_control.client import (
    AsyncClient,
    Changed,
    Client,
    ClientError,
    Deleted,
    InvalidRequestError,
    Position,
    Published,
    Reset,
    ResetReason,
    SnapshotComplete,
    SnapshotEntry,
    TopicPosition,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.server_process

LARGE = b"x" * (1 << 20)
# So many large values, and the changes before them are not kept any more.
LARGE_VALUES = 70


@pytest.fixture(scope="module")
def address(serve: Callable[..., Any]) -> str:
    found: str = serve("--heartbeat-interval", "20", "--dead-after", "3600").address
    return found


class Mirror:
    """What a reader of events knows, and how it came to know it."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.seen: list[tuple[int, bytes]] = []
        self.resets: list[ResetReason] = []
        self.is_complete = False

    def take(self, event: Any) -> None:
        if isinstance(event, Reset):
            self.resets.append(event.reason)
            self.entries.clear()
            self.is_complete = False
        elif isinstance(event, SnapshotEntry):
            assert not self.is_complete
            assert event.item.key not in self.entries
            self.entries[event.item.key] = event.item.value
        elif isinstance(event, SnapshotComplete):
            self.is_complete = True
        else:
            assert isinstance(event, Changed | Deleted)
            assert not self.seen or (event.revision, event.item.key) > self.seen[-1], "in order, and once"
            self.seen.append((event.revision, event.item.key))
            if isinstance(event, Deleted):
                self.entries.pop(event.item.key, None)
            else:
                self.entries[event.item.key] = event.item.value


def follow(address: str, mirror: Mirror, last: bytes, **options: Any) -> threading.Thread:
    """Has a thread watch without asyncio until a key has come."""

    def run() -> None:
        with Client(address, timeout=TIMEOUT) as client, client.watch.kv(**options) as watch:
            for event in watch:
                mirror.take(event)
                if isinstance(event, Changed) and event.item.key == last:
                    return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


# -- over reconnects ---------------------------------------------------------------------------------------------------


def write_all(address: str, namespace: str, count: int, between: Callable[[int], None]) -> list[tuple[int, bytes]]:
    """Puts and deletes keys; every change that was made, in order."""
    made = []
    with Client(address, timeout=TIMEOUT) as client:
        for number in range(count):
            key = b"%d" % (number % 7)
            if number % 5 == 4 and (gone := client.kv.delete(key, namespace=namespace)).deleted:
                made.append((gone.revision, key))
            else:
                made.append((client.kv.put(key, b"%d" % number, namespace=namespace).revision, key))
            between(number)
        made.append((client.kv.put("last", "", namespace=namespace).revision, b"last"))
    return made


def test_no_change_is_lost_or_told_twice_while_connections_break(address: str) -> None:
    with proxy(address) as between:
        mirror = Mirror()
        thread = follow(between.address, mirror, b"last", namespace="breaks")
        give_up = time.monotonic() + TIMEOUT
        while not mirror.is_complete:
            assert time.monotonic() < give_up
            time.sleep(0.01)

        def cut(number: int) -> None:
            if number % 10 == 0:
                between.cut()

        made = write_all(address, "breaks", 300, cut)
        thread.join(TIMEOUT)
        assert mirror.seen == made
        assert mirror.resets == []
        assert between.connections > 2


@pytest.mark.once
@on_a_loop
async def test_a_server_that_is_killed_and_started_again_is_gone_on_with(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve("--data-dir", str(tmp_path))
    address = server.address
    mirror = Mirror()
    acknowledged: list[tuple[int, bytes]] = []

    async def write() -> None:
        async with AsyncClient(address, timeout=TIMEOUT) as client:
            number = 0
            while True:
                number += 1
                key = b"%d" % (number % 7)
                try:
                    done = await client.kv.put(key, b"%d" % number)
                except ClientError:
                    continue
                acknowledged.append((done.revision, key))
                await asyncio.sleep(0)

    writer = asyncio.create_task(write())
    async with AsyncClient(address, timeout=TIMEOUT) as client, client.watch.kv() as watch:
        kills = 0
        async for event in watch:
            mirror.take(event)
            if len(mirror.seen) > 200 * (kills + 1):
                if kills == 3:
                    break
                kills += 1
                await asyncio.to_thread(server.kill)
                server = await asyncio.to_thread(serve, "--data-dir", str(tmp_path), "--listen", address)
        writer.cancel()
        last = acknowledged[-1]
        while mirror.seen[-1] < last:
            mirror.take(await anext(watch))
    revisions = [revision for revision, _ in mirror.seen]
    assert revisions == list(range(revisions[0], revisions[0] + len(revisions))), "nothing else changes here"
    assert set(acknowledged) - {it for it in acknowledged if it[0] < revisions[0]} <= set(mirror.seen)
    assert mirror.resets == []


@on_a_loop
async def test_a_store_that_begins_anew_is_told_anew(serve: Callable[..., Any]) -> None:
    server = serve()
    address = server.address
    async with AsyncClient(address, timeout=TIMEOUT) as client, client.watch.kv() as watch:
        await client.kv.put("old", "1")
        mirror = Mirror()
        while b"old" not in mirror.entries:
            mirror.take(await anext(watch))
        await client.topics.publish("t", "1")
        topic = client.watch.topic("t", from_oldest=True)
        first = await anext(topic)
        assert isinstance(first, Published)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(serve, "--listen", address)
        await client.kv.put("new", "2")
        while b"new" not in mirror.entries:
            mirror.take(await anext(watch))
        assert mirror.entries == {b"new": b"2"}
        assert mirror.resets == [ResetReason.OTHER_GENERATION]
        await topic.close()


def test_a_position_is_stored_and_gone_on_from_by_another_client(address: str) -> None:
    with Client(address, timeout=TIMEOUT) as client:
        client.kv.put("a", "1", namespace="stored")
        with client.watch.kv("stored") as watch:
            assert isinstance(next(watch), SnapshotEntry)
            assert watch.position is None, "the snapshot is not complete"
            next(watch)
            stored = str(watch.position)
        made = [
            client.kv.put("b", "2", namespace="stored").revision,
            client.kv.delete("a", namespace="stored").revision,
        ]
    with Client(address, timeout=TIMEOUT) as client:
        watch = client.watch.kv("stored", after=Position.parse(stored), follow=False, previous_values=True)
        changed, deleted = list(watch)
        assert [changed.position.revision, deleted.position.revision] == made  # type: ignore[union-attr]
        assert isinstance(deleted, Deleted)
        assert deleted.previous is not None
        assert deleted.previous.value == b"1"


@pytest.mark.parametrize("snapshot", [False, True])
def test_history_that_is_not_kept_any_more_is_said_and_the_watch_goes_on(address: str, snapshot: bool) -> None:  # noqa: FBT001
    namespace = f"compacted-{snapshot}"
    with proxy(address) as between, Client(address, timeout=TIMEOUT) as direct:
        direct.kv.put("stays", "1", namespace=namespace)
        direct.kv.put("goes", "1", namespace=namespace)
        mirror = Mirror()
        with Client(between.address, timeout=TIMEOUT) as client:
            watch = client.watch.kv(namespace, snapshot=snapshot)
            if snapshot:
                while not mirror.is_complete:
                    mirror.take(next(watch))
            else:
                opened = threading.Thread(target=lambda: mirror.take(next(watch)))
                opened.start()
                while not watch.was_opened:
                    time.sleep(0.01)
                direct.kv.put("first", "1", namespace=namespace)
                opened.join()
            between.refuses = True
            between.cut()
            direct.kv.delete("goes", namespace=namespace)
            for _ in range(LARGE_VALUES):
                direct.kv.put("large", LARGE, namespace="elsewhere")
            between.refuses = False
            mirror.take(next(watch))
            assert mirror.resets == [ResetReason.COMPACTED]
            if snapshot:
                while not mirror.is_complete:
                    mirror.take(next(watch))
                assert mirror.entries == {b"stays": b"1"}
            later = threading.Thread(target=lambda: mirror.take(next(watch)))
            later.start()
            if not snapshot:
                give_up = time.monotonic() + TIMEOUT
                while watch._session.after is None:
                    assert time.monotonic() < give_up
                    time.sleep(0.01)
            direct.kv.put("later", "2", namespace=namespace)
            later.join(TIMEOUT)
            assert mirror.entries[b"later"] == b"2"
            watch.close()


# -- topics and nodes --------------------------------------------------------------------------------------------------


@on_a_loop
async def test_events_of_a_topic_go_on_over_reconnects(address: str) -> None:
    with proxy(address) as between:
        async with AsyncClient(between.address, timeout=TIMEOUT) as client, AsyncClient(address) as direct:
            await direct.topics.publish("breaks", "0")
            got = []
            async for event in client.watch.topic("breaks", from_oldest=True):
                assert isinstance(event, Published)
                got.append(int(event.item.payload))
                if len(got) == 30:
                    break
                if len(got) % 5 == 0:
                    between.cut()
                await direct.topics.publish("breaks", str(len(got)))
            assert got == list(range(30))
            position = event.position
            assert TopicPosition.parse(str(position)) == position
            await direct.topics.publish("breaks", "other", key="k")
            rest = [it async for it in direct.watch.topic("breaks", after=position, follow=False)]
            assert [it.item.key for it in rest if isinstance(it, Published)] == [b"k"]
            keyed = direct.watch.topic("breaks", key="k", from_oldest=True, follow=False)
            assert len([it async for it in keyed]) == 1


@on_a_loop
async def test_a_topic_that_another_server_keeps_is_told_so(serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve("--data-dir", str(tmp_path))
    async with AsyncClient(server.address, timeout=TIMEOUT) as client:
        await client.topics.publish("t", "1")
        async with client.watch.topic("t", from_oldest=True) as watch:
            assert isinstance(await anext(watch), Published)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(serve, "--data-dir", str(tmp_path), "--listen", server.address)
            reset = await anext(watch)
            assert isinstance(reset, Reset)
            assert reset.reason is ResetReason.NEW_EPOCH
            assert watch.position == reset.position
            await client.topics.publish("t", "2")
            event = await anext(watch)
            assert isinstance(event, Published)
            assert event.item.payload == b"2"


@on_a_loop
async def test_nodes_are_watched(address: str) -> None:
    async with AsyncClient(address, timeout=TIMEOUT) as client:
        await client.nodes.register("watched", 1)
        async with client.watch.nodes("watched") as watch:
            entry, complete = await anext(watch), await anext(watch)
            assert isinstance(entry, SnapshotEntry)
            assert isinstance(complete, SnapshotComplete)
            await client.nodes.drain("watched", reason="kernel")
            changed = await anext(watch)
            assert isinstance(changed, Changed)
            assert changed.item.drain_reason == "kernel"


# -- waiting, leaving, failing -----------------------------------------------------------------------------------------


@on_a_loop
async def test_a_reader_that_is_cancelled_while_it_waits_goes_on_where_it_was(address: str) -> None:
    async with AsyncClient(address, timeout=TIMEOUT) as client, client.watch.kv("cancelled") as watch:
        assert isinstance(await anext(watch), SnapshotComplete)
        seen = []
        for number in range(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await anext(watch)
            made = await client.kv.put("k", str(number), namespace="cancelled")
            event = await anext(watch)
            assert isinstance(event, Changed)
            assert event.revision == made.revision
            seen.append(int(event.item.value))
        assert seen == list(range(10))


@on_a_loop
async def test_closing_a_watch_ends_the_loop_over_it(address: str) -> None:
    async with AsyncClient(address, timeout=TIMEOUT) as client:
        watch = client.watch.kv("closed")
        got = []

        async def read() -> None:
            async for event in watch:
                got.append(event)  # noqa: PERF401 - it stays when the loop ends

        reader = asyncio.create_task(read())
        while not got:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
        await watch.close()
        await asyncio.wait_for(reader, TIMEOUT)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


def test_closing_a_watch_from_another_thread_ends_the_loop_over_it(address: str) -> None:
    with Client(address, timeout=TIMEOUT) as client:
        watch = client.watch.kv("closed")
        got: list[Any] = []
        reader = threading.Thread(target=lambda: got.extend(watch), daemon=True)
        reader.start()
        while not watch.was_opened:
            time.sleep(0.01)
        watch.close()
        reader.join(TIMEOUT)
        assert not reader.is_alive()
        with pytest.raises(StopIteration):
            next(watch)


@on_a_loop
async def test_a_watch_that_is_closed_while_it_pauses_opens_no_other_stream() -> None:
    with standby() as other:
        async with AsyncClient(other.address, timeout=TIMEOUT) as client:
            watch = client.watch.kv()
            watch._pause = 0.1
            reader = asyncio.create_task(anext(watch, None))
            await asyncio.sleep(0)
            await watch.close()
            assert await asyncio.wait_for(reader, TIMEOUT) is None
        assert other.calls == []


def test_a_watch_that_another_thread_closes_while_it_pauses_opens_no_other_stream() -> None:
    with standby() as other:
        with Client(other.address, timeout=TIMEOUT) as client:
            watch = client.watch.kv()
            watch._pause = 60.0
            # The reader has to be told: the pause is longer than anybody waits here.
            reader = threading.Thread(target=lambda: next(watch, None), daemon=True)
            reader.start()
            watch.close()
            reader.join(TIMEOUT)
            assert not reader.is_alive()
        assert other.calls == []


def test_a_watch_with_patience_says_when_nobody_answers_and_may_be_asked_again(address: str) -> None:
    with proxy(address) as between, Client(between.address, timeout=TIMEOUT) as client:
        watch = client.watch.kv("patience", patience=0.3)
        assert isinstance(next(watch), SnapshotComplete)
        between.refuses = True
        between.cut()
        for _ in range(2):
            with pytest.raises(UnreachableError):
                next(watch)
        between.refuses = False
        with Client(address) as direct:
            direct.kv.put("k", "v", namespace="patience")
        give_up = time.monotonic() + TIMEOUT
        event: Any = None
        while event is None and time.monotonic() < give_up:
            # grpc itself pauses between its attempts to connect, too.
            with contextlib.suppress(UnreachableError):
                event = next(watch)
        assert isinstance(event, Changed)
        watch.close()


def test_a_watch_that_is_refused_says_why(address: str) -> None:
    with Client(address, timeout=TIMEOUT) as client:
        with pytest.raises(InvalidRequestError, match="topic"):
            next(client.watch.topic(""))
        with pytest.raises(ValueError, match="give one of them"):
            client.watch.kv(key="a", prefix="b")
        with pytest.raises(ValueError, match="give one of them"):
            client.watch.topic("t", after=TopicPosition(1, 1), from_oldest=True)


def test_a_watch_goes_to_the_leader_when_the_server_that_it_was_at_has_become_a_standby(address: str) -> None:
    with standby(address) as other, proxy(address) as between, Client(between.address, timeout=TIMEOUT) as client:
        watch = client.watch.kv("moves")
        assert isinstance(next(watch), SnapshotComplete)
        between.upstream = other.address
        between.cut()
        with Client(address) as direct:
            direct.kv.put("k", "v", namespace="moves")
        assert isinstance(next(watch), Changed)
        assert client.endpoint == address
        assert other.calls == ["/atoll.v1.WatchService/Watch"]
        watch.close()


@pytest.mark.once
def test_a_server_that_answers_nothing_is_left_for_another_one(address: str) -> None:
    with proxy(address) as between, Client([between.address, address], timeout=TIMEOUT) as client:
        watch = client.watch.kv("frozen")
        assert isinstance(next(watch), SnapshotComplete)
        between.is_frozen = True
        with Client(address) as direct:
            direct.kv.put("k", "v", namespace="frozen")
        began = time.monotonic()
        assert isinstance(next(watch), Changed)
        # grpc's own keepalive would take 70 s and more: see CHANNEL_OPTIONS.
        assert time.monotonic() - began < TIMEOUT
        assert client.endpoint == address
        watch.close()
