"""Watches of many, and of clients that do not read: what is shared, what is bounded, and how the slow ones catch up."""

from __future__ import annotations

import asyncio
import resource
import threading

import pytest
from tests.control.watching import SMALL_WINDOW, TIMEOUT, Served, Stream, on_a_loop, serving

from atoll_control.api.v1 import watch_pb2
from atoll_control.server.kv_manager import row_key
from atoll_control.server.watch_settings import WatchSettings

pytestmark = pytest.mark.whole_grpcio


@on_a_loop
async def test_a_thousand_watchers_of_a_key_get_a_change_by_one_serialisation() -> None:
    async with serving() as served:
        streams = [served.stream() for _ in range(1000)]
        await asyncio.gather(*(stream.opened(key=b"a", skip_snapshot=True) for stream in streams))
        await served.until(lambda it: it.members == 1000)
        statistics = await served.statistics()
        assert statistics.groups == 1
        await served.put(b"a", b"value")
        values = await asyncio.gather(*(stream.values(1) for stream in streams))
        assert values == [[(b"a", b"value")]] * 1000
        assert (await served.statistics()).messages == statistics.messages + 1


@on_a_loop
async def test_changes_of_other_keys_cost_nothing_for_any_number_of_watches() -> None:
    async with serving() as served:
        stream = served.stream()
        for number in range(1000):
            await stream.opened(key=b"%d" % number, skip_snapshot=True)
        await stream.opened(prefix=b"7", skip_snapshot=True)
        await served.until(lambda it: it.members == 1001)
        before = (await served.statistics()).messages
        await served.put(b"else")
        await served.put(b"7", namespace="other")
        await served.put(b"700")
        assert {(await stream.next()).changes.changes[0].entry.key for _ in range(2)} == {b"700"}
        assert (await served.statistics()).messages == before + 2


async def make_slow(served: Served, stream: Stream, key: bytes = b"busy", size: int = 50_000) -> int:
    """Changes a key until a client that does not read has left its group; how often."""
    await served.until(lambda it: it.members)
    count = 0
    async with asyncio.timeout(TIMEOUT):
        while not (await served.statistics()).slow:
            await served.put(key, b"%d " % count + b"x" * size)
            count += 1
    del stream
    return count


@on_a_loop
async def test_a_slow_subscriber_is_given_every_change_it_missed_when_it_reads_again() -> None:
    settings = WatchSettings(max_waiting_bytes=500_000)
    async with serving(settings, channel_options=SMALL_WINDOW) as served:
        stream = served.stream()
        await stream.opened(prefix=b"", skip_snapshot=True)
        count = await make_slow(served, stream)
        for number in range(3):
            await served.put(b"after", b"%d" % number)
        changes = await stream.changes(count + 3)
        assert [it.entry.value.split()[0] for it in changes[:count]] == [b"%d" % number for number in range(count)]
        assert [it.entry.value for it in changes[count:]] == [b"0", b"1", b"2"]
        await served.until(lambda it: it.members == 1)
        await served.put(b"live")
        assert (await stream.change()).entry.key == b"live"


@on_a_loop
async def test_a_slow_subscriber_with_a_large_backlog_is_given_the_last_change_of_each_key() -> None:
    settings = WatchSettings(max_waiting_bytes=300_000)
    async with serving(settings, channel_options=SMALL_WINDOW) as served:
        stream = served.stream()
        await stream.opened(prefix=b"", skip_snapshot=True, previous_values=True)
        await served.put(b"gone", b"was")
        await make_slow(served, stream)
        for number in range(50):
            for key in (b"a", b"b"):
                await served.put(key, b"%d " % number + b"y" * 10_000)
        await served.delete(b"gone")
        seen: list[tuple[int, bytes, bool]] = []
        coalesced: list[watch_pb2.Change] = []
        while not seen or seen[-1][1] != b"gone" or len(seen) == 1:
            changes = await stream.next_of("changes")
            seen.extend((it.revision, it.entry.key, it.deleted) for it in changes.changes)
            if changes.coalesced:
                coalesced.extend(changes.changes)
        assert seen == sorted(seen)
        assert seen[-1] == (served.store.revision, b"gone", True)
        by_key = {it.entry.key: it for it in coalesced}
        assert len(by_key) == len(coalesced)
        assert by_key[b"a"].entry.value.startswith(b"49 ")
        assert by_key[b"b"].entry.value.startswith(b"49 ")
        # What was there before the first of those that it stands for.
        assert not by_key[b"a"].HasField("previous")
        assert by_key[b"gone"].previous.value == b"was"


@on_a_loop
async def test_the_end_of_an_owner_of_four_thousand_keys_reaches_each_watcher_whole_also_a_slow_one() -> None:
    settings = WatchSettings(max_waiting_bytes=300_000)
    async with serving(settings, channel_options=SMALL_WINDOW) as served:
        keys = [b"%04d" % number for number in range(4000)]
        for start in range(0, len(keys), 500):
            batch = served.store.batch()
            for key in keys[start : start + 500]:
                batch.put("kv", row_key("n", key), key + b"x" * 500, b"owner")
            await served.store.commit(batch)
        streams = [served.stream(), served.stream()]
        for stream in streams:
            await stream.opened(prefix=b"", skip_snapshot=True, previous_values=True)
        await served.until(lambda it: it.members == 2)
        ended = await served.store.commit(served.store.batch().delete_owned(b"owner"))
        assert ended.deleted == [4000]
        # The second one does not read meanwhile.
        for stream in streams:
            changes = await stream.changes(4000)
            assert {(it.revision, it.deleted) for it in changes} == {(ended.revision, True)}
            assert sorted(it.entry.key for it in changes) == keys
            assert all(it.previous.value[:4] == it.entry.key for it in changes)
        await served.put(b"after")
        assert [await stream.values(1) for stream in streams] == [[(b"after", b"")]] * 2


@on_a_loop
async def test_a_slow_subscriber_that_the_change_log_has_overtaken_is_told_so() -> None:
    settings = WatchSettings(max_waiting_bytes=300_000)
    async with serving(settings, channel_options=SMALL_WINDOW) as served:
        stream = served.stream()
        opened = await stream.opened(prefix=b"", skip_snapshot=True)
        await make_slow(served, stream)
        await served.overtake_the_change_log()
        while True:
            response = await stream.next()
            if not response.HasField("changes"):
                break
        assert (response.watch_id, response.ended.reason) == (
            opened.watch_id,
            watch_pb2.WATCH_END_REASON_COMPACTED,
        )
        assert response.ended.oldest.revision > 0


@on_a_loop
async def test_a_quiet_watch_of_a_slow_stream_has_missed_nothing_when_the_change_log_has_moved_on() -> None:
    settings = WatchSettings(max_waiting_bytes=300_000)
    async with serving(settings, channel_options=SMALL_WINDOW) as served:
        stream = served.stream()
        quiet = await stream.opened(key=b"quiet", skip_snapshot=True)
        await stream.opened(key=b"busy", skip_snapshot=True)
        await served.overtake_the_change_log()
        await stream.request_bookmarks()
        assert {(await stream.next_of("bookmark")).revision for _ in range(2)} == {served.store.revision}
        await served.overtake_the_change_log()
        await make_slow(served, stream)
        await served.put(b"quiet", b"x" * 300_000)
        while (response := await stream.next()).watch_id != quiet.watch_id:
            assert response.HasField("changes")
        assert response.changes.changes[0].entry.key == b"quiet"


@on_a_loop
async def test_a_client_that_opens_a_thousand_watches_and_reads_none_neither_grows_the_server_nor_delays_others() -> (
    None
):
    settings = WatchSettings(max_waiting_bytes=1 << 20)
    async with serving(settings, channel_options=SMALL_WINDOW) as served:
        batch = served.store.batch()
        for number in range(100):
            batch.put("kv", b"n\0%d" % number, b"v" * 10_000)
        await served.store.commit(batch)
        reader = served.stream()
        await reader.opened(key=b"watched", skip_snapshot=True)
        deaf = [served.stream() for _ in range(20)]
        # A snapshot of a megabyte for half of them, and every change for all.
        opening = [asyncio.ensure_future(open_many(stream, 25)) for stream in deaf]
        await served.until(lambda it: it.watches >= 500)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(500):
            await served.put(b"busy", b"x" * 100_000)
            if number % 10 == 0:
                await served.put(b"watched", b"%d" % number)
                assert await reader.values(1) == [(b"watched", b"%d" % number)]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        # The change log alone is 64 MiB; what 1,000 watches missed would be 50 GiB.
        assert grown < 400 * 1024, f"{grown:,} KiB"
        for task in opening:
            task.cancel()
        for stream in deaf:
            stream.call.cancel()
        await served.until(lambda it: it.watches == it.streams == 1)


async def open_many(stream: Stream, count: int) -> None:
    for _ in range(count):
        await stream.open(b"", skip_snapshot=True)
        await stream.open(b"")


@on_a_loop
async def test_requests_are_not_read_while_too_many_watches_of_their_stream_wait_and_are_when_they_do_not() -> None:
    settings = WatchSettings(max_waiting_requests=5)
    async with serving(settings, channel_options=SMALL_WINDOW) as served:
        await served.put(b"large", b"x" * 1_000_000)
        stream = served.stream()
        opening = asyncio.ensure_future(open_many(stream, 15))
        await served.until(lambda it: it.watches >= 6)
        assert (await served.statistics()).watches <= 8
        opened: set[int] = set()
        while len(opened) < 30:
            response = await stream.next()
            if response.HasField("opened"):
                opened.add(response.watch_id)
        await opening


@on_a_loop
async def test_a_page_of_one_watch_lets_another_of_the_same_stream_have_its_turn() -> None:
    async with serving(WatchSettings(max_page_rows=10), channel_options=SMALL_WINDOW) as served:
        batch = served.store.batch()
        for number in range(1000):
            batch.put("kv", b"n\0%03d" % number, b"v" * 1000)
        await served.store.commit(batch)
        stream = served.stream()
        await stream.open(b"", tag=1)
        await stream.open(b"", tag=2)
        await stream.open(key=b"001", tag=3)
        await served.until(lambda it: it.watches == 3)
        tags: dict[int, int] = {}
        order: list[tuple[int, str]] = []
        while len([1 for _, kind in order if kind == "last"]) < 3:
            response = await stream.next()
            if response.HasField("opened"):
                tags[response.watch_id] = response.opened.tag
            elif response.page.last:
                order.append((tags[response.watch_id], "last"))
        assert [tag for tag, _ in order] == [3, 1, 2]


@on_a_loop
async def test_a_closed_watch_of_a_stream_that_is_not_read_ends_when_it_is() -> None:
    settings = WatchSettings(max_waiting_bytes=300_000)
    async with serving(settings, channel_options=SMALL_WINDOW) as served:
        stream = served.stream()
        opened = await stream.opened(prefix=b"", skip_snapshot=True)
        await make_slow(served, stream)
        await stream.close_watch(opened.watch_id)
        while not (response := await stream.next()).HasField("ended"):
            assert response.HasField("changes")
        assert response.ended.reason == watch_pb2.WATCH_END_REASON_CLOSED
        await served.until(lambda it: it.watches == it.groups == 0)


@on_a_loop
async def test_when_the_change_log_overtakes_a_stuck_server_its_watches_are_told_and_can_begin_anew() -> None:
    async with serving() as served:
        stream = served.stream()
        await stream.opened(prefix=b"", skip_snapshot=True)
        await served.until(lambda it: it.members == 1)
        is_stuck, goes_on = threading.Event(), threading.Event()

        def stick() -> None:
            is_stuck.set()
            goes_on.wait(TIMEOUT)

        stuck = asyncio.ensure_future(served.on_its_loop(stick))
        assert await asyncio.to_thread(is_stuck.wait, TIMEOUT)
        for _ in range(70):
            await served.put(b"large", b"x" * (1 << 20), namespace="elsewhere")
        goes_on.set()
        await stuck
        ended = await stream.next_of("ended")
        assert ended.reason == watch_pb2.WATCH_END_REASON_COMPACTED
        opened = await stream.opened(prefix=b"")
        assert opened.opened.position.revision == served.store.revision
        assert (await stream.next_of("page")).last
        await served.put(b"a")
        assert await stream.values(1) == [(b"a", b"")]
