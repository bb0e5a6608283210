"""Watches of keys and nodes over the wire: where they begin, what they tell, how they end."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tests.control.watching import TIMEOUT, on_a_loop, serving

from atoll.testing import ManualClock
from atoll_control.api.v1 import watch_pb2
from atoll_control.server.watch_settings import WatchSettings

pytestmark = pytest.mark.whole_grpcio

GENERATION = "0123456789abcdef"


def after(revision: int, generation: str = GENERATION) -> watch_pb2.Position:
    return watch_pb2.Position(generation=generation, revision=revision)


@on_a_loop
async def test_a_watch_begins_with_a_snapshot_and_goes_on_with_every_change_after_it() -> None:
    async with serving() as served:
        await served.put(b"b", b"2")
        first = await served.put(b"a", b"1")
        await served.put(b"a", b"elsewhere", namespace="other")
        stream = served.stream()
        opened = await stream.opened(prefix=b"", tag=7)
        revision = served.store.revision
        assert opened.watch_id > 0
        assert (opened.opened.tag, opened.opened.position) == (7, after(revision))
        page = await stream.next_of("page")
        assert (page.position, page.last) == (after(revision), True)
        assert [(it.namespace, it.key, it.value) for it in page.entries] == [("n", b"a", b"1"), ("n", b"b", b"2")]
        assert page.entries[0].revision == first
        changed = await served.put(b"a", b"3")
        changes = await stream.next_of("changes")
        assert (changes.position, changes.coalesced, changes.partial) == (after(changed), False, False)
        (change,) = changes.changes
        assert (change.revision, change.deleted, change.entry.value, change.entry.version) == (changed, False, b"3", 2)
        assert not change.HasField("previous")
        deleted = await served.delete(b"a")
        change = await stream.change()
        assert (change.revision, change.deleted) == (deleted, True)
        assert (change.entry.key, change.entry.value, change.entry.create_revision) == (b"a", b"", first)


@on_a_loop
async def test_the_watch_of_a_key_tells_of_that_key_and_that_of_a_prefix_of_all_that_begin_with_it() -> None:
    async with serving() as served:
        one, some = served.stream(), served.stream()
        await one.opened(key=b"job/1")
        await some.opened(prefix=b"job/1")
        assert (await one.next_of("page")).last
        assert (await some.next_of("page")).last
        for key in (b"job", b"job/2", b"job/1", b"job/11"):
            await served.put(key)
        assert (await one.change()).entry.key == b"job/1"
        assert [it.entry.key for it in await some.changes(2)] == [b"job/1", b"job/11"]
        await served.put(b"job/1", b"again")
        assert (await one.change()).entry.value == b"again"


@on_a_loop
async def test_a_watch_of_nodes_tells_of_all_or_of_one_with_the_revision_of_the_change() -> None:
    async with serving() as served:
        first = await served.put_node("one", address="a:1")
        everyone, two = served.stream(), served.stream()
        await everyone.opened(nodes=watch_pb2.NodesSource(), previous_values=True)
        await two.opened(nodes=watch_pb2.NodesSource(node_id="two"))
        page = await everyone.next_of("page")
        assert [(it.node_id, it.address, it.revision) for it in page.nodes] == [("one", "a:1", first)]
        assert not (await two.next_of("page")).nodes
        changed = await served.put_node("one", address="b:2")
        change = await everyone.change()
        assert (change.node.address, change.node.revision, change.revision) == ("b:2", changed, changed)
        assert (change.previous_node.address, change.previous_node.revision) == ("a:1", first)
        added = await served.put_node("two")
        assert (await two.change()).node.revision == added
        await served.store.commit(served.store.batch().delete("nodes", b"two"))
        change = await two.change()
        assert (change.deleted, change.node.node_id) == (True, "two")


@on_a_loop
async def test_a_watch_that_resumes_gets_what_came_after_its_position_and_no_snapshot() -> None:
    async with serving() as served:
        await served.put(b"a", b"1")
        seen = await served.put(b"a", b"2")
        await served.put(b"a", b"3")
        await served.delete(b"a")
        stream = served.stream()
        opened = await stream.opened(prefix=b"", after=after(seen))
        assert opened.opened.position == after(seen)
        assert await stream.values(2) == [(b"a", b"3"), (b"a", None)]
        await served.put(b"b")
        assert await stream.values(1) == [(b"b", b"")]
        same = served.stream()
        await same.opened(prefix=b"", after=after(served.store.revision))
        await served.put(b"c")
        assert await same.values(1) == [(b"c", b"")]


@on_a_loop
async def test_a_watch_can_begin_with_the_next_change() -> None:
    async with serving() as served:
        await served.put(b"a", b"1")
        stream = served.stream()
        opened = await stream.opened(prefix=b"", skip_snapshot=True)
        assert opened.opened.position.revision == served.store.revision
        await served.put(b"a", b"2")
        assert await stream.values(1) == [(b"a", b"2")]


@on_a_loop
async def test_a_position_that_is_not_kept_any_more_is_answered_with_the_oldest_that_is() -> None:
    async with serving() as served:
        seen = await served.put(b"a")
        await served.overtake_the_change_log()
        stream = served.stream()
        await stream.open(b"", after=after(seen), tag=3)
        response = await stream.next()
        assert (response.watch_id, response.ended.reason) == (0, watch_pb2.WATCH_END_REASON_COMPACTED)
        assert response.ended.tag == 3
        oldest = response.ended.oldest
        assert seen < oldest.revision < served.store.revision
        assert "begin with a snapshot" in response.ended.message
        await stream.opened(prefix=b"", after=oldest)
        await served.put(b"b")
        assert await stream.values(1) == [(b"b", b"")]


@on_a_loop
async def test_a_position_of_another_generation_or_ahead_of_the_store_is_answered_so() -> None:
    async with serving() as served:
        revision = await served.put(b"a")
        stream = served.stream()
        await stream.open(b"", after=after(revision, "fedcba9876543210"))
        ended = await stream.next_of("ended")
        assert ended.reason == watch_pb2.WATCH_END_REASON_OTHER_GENERATION
        assert ended.message.startswith("after.generation: ")
        await stream.open(b"", after=after(revision + 1), tag=1)
        ended = await stream.next_of("ended")
        assert (ended.reason, ended.tag) == (watch_pb2.WATCH_END_REASON_FUTURE_POSITION, 1)
        assert (await served.statistics()).watches == 0


@on_a_loop
async def test_changes_carry_what_was_there_before_where_that_was_asked_for() -> None:
    async with serving() as served:
        stream = served.stream()
        await stream.opened(prefix=b"", previous_values=True, skip_snapshot=True)
        await served.put(b"a", b"1")
        assert not (await stream.change()).HasField("previous")
        await served.put(b"a", b"2")
        change = await stream.change()
        assert (change.entry.value, change.previous.key, change.previous.value) == (b"2", b"a", b"1")
        await served.delete(b"a")
        change = await stream.change()
        assert (change.deleted, change.previous.value) == (True, b"2")


@on_a_loop
async def test_the_owner_of_a_key_is_told_unless_it_is_the_private_lease_of_a_time_to_live() -> None:
    async with serving() as served:
        stream = served.stream()
        await stream.opened(prefix=b"", skip_snapshot=True)
        await served.put(b"a", owner=b"lease/5")
        assert (await stream.change()).entry.lease_id == 5
        await served.put(b"a", owner=b"lease/6")
        assert (await stream.change()).entry.lease_id == 0
        await served.put(b"a", owner=b"node/box/3")
        change = await stream.change()
        assert (change.entry.node_id, change.entry.incarnation) == ("box", 3)


@on_a_loop
async def test_a_large_snapshot_comes_in_pages_of_one_revision_while_keys_change() -> None:
    async with serving(WatchSettings(max_page_rows=100)) as served:
        batch = served.store.batch()
        for number in range(2500):
            batch.put("kv", b"n\0%05d" % number, b"%d" % number)
        revision = (await served.store.commit(batch)).revision
        stream = served.stream()
        opened = await stream.opened(prefix=b"")
        assert opened.opened.position.revision == revision
        entries: list[tuple[bytes, bytes]] = []
        pages = 0
        while True:
            page = await stream.next_of("page")
            pages += 1
            assert page.position.revision == revision
            entries.extend((it.key, it.value) for it in page.entries)
            await served.put(b"%05d" % (2500 - pages), b"changed")
            if page.last:
                break
        assert pages == 25
        assert entries == [(b"%05d" % number, b"%d" % number) for number in range(2500)]
        assert await stream.values(pages) == [(b"%05d" % (2500 - number), b"changed") for number in range(1, 26)]


@on_a_loop
async def test_pages_and_messages_stay_below_their_size_and_a_split_revision_can_not_be_resumed_in_its_middle() -> None:
    settings = WatchSettings(max_page_bytes=10_000)
    async with serving(settings, channel_options=[("grpc.max_receive_message_length", 15_000)]) as served:

        async def put_three(value: bytes) -> int:
            batch = served.store.batch()
            for key in (b"a", b"b", b"c"):
                batch.put("kv", b"n\0" + key, value)
            return (await served.store.commit(batch)).revision

        before = await put_three(b"1" * 6000)
        stream = served.stream()
        await stream.opened(prefix=b"")
        pages = [await stream.next_of("page") for _ in range(3)]
        assert [(len(page.entries), page.last) for page in pages] == [(1, False), (1, False), (1, True)]
        revision = await put_three(b"2" * 6000)
        # Live, and from the change log.
        resumed = served.stream()
        await resumed.opened(prefix=b"", after=after(before))
        for source in (stream, resumed):
            changes = [await source.next_of("changes") for _ in range(3)]
            assert [(it.position.revision, it.partial) for it in changes] == [
                (before, True),
                (before, True),
                (revision, False),
            ]
            assert [it.changes[0].entry.key for it in changes] == [b"a", b"b", b"c"]


@on_a_loop
async def test_bookmarks_are_sent_when_they_are_asked_for_behind_what_was_sent_before() -> None:
    async with serving() as served:
        stream, other = served.stream(), served.stream()
        ids = set()
        for namespace in ("n", "other"):
            ids.add((await stream.opened(prefix=b"", namespace=namespace, skip_snapshot=True)).watch_id)
        await other.opened(prefix=b"", skip_snapshot=True)
        for _ in range(20):
            await served.put(b"a")
        revision = await served.put(b"quiet", namespace="third")
        await stream.request_bookmarks()
        bookmarks: dict[int, int] = {}
        changes = 0
        while len(bookmarks) < 2:
            response = await stream.next()
            if response.HasField("bookmark"):
                bookmarks[response.watch_id] = response.bookmark.revision
            else:
                changes += len(response.changes.changes)
                assert not bookmarks.get(response.watch_id)
        assert changes == 20
        assert bookmarks == dict.fromkeys(ids, revision)
        await served.put(b"b")
        assert (await stream.change()).entry.key == b"b"
        assert len(await other.changes(21)) == 21


@on_a_loop
async def test_where_nothing_was_sent_for_an_interval_a_bookmark_is() -> None:
    clock = ManualClock()
    async with serving(WatchSettings(bookmark_interval=10), clock=clock) as served:
        quiet, busy = served.stream(), served.stream()
        await quiet.opened(prefix=b"", namespace="quiet", skip_snapshot=True)
        await busy.opened(prefix=b"", skip_snapshot=True)
        await served.until(lambda it: it.members == 2)
        await asyncio.to_thread(clock.advance, 10)
        revision = await served.put(b"a")
        assert (await busy.change()).entry.key == b"a"
        await asyncio.to_thread(clock.advance, 10)
        assert (await quiet.next_of("bookmark")).revision == revision
        await served.put(b"b")
        assert (await busy.change()).entry.key == b"b"


@on_a_loop
async def test_the_end_of_one_watch_leaves_the_others_of_its_stream() -> None:
    async with serving() as served:
        stream = served.stream()
        first = await stream.opened(key=b"a", skip_snapshot=True)
        second = await stream.opened(key=b"b", skip_snapshot=True)
        await stream.close_watch(first.watch_id)
        response = await stream.next()
        assert (response.watch_id, response.ended.reason) == (first.watch_id, watch_pb2.WATCH_END_REASON_CLOSED)
        await stream.close_watch(first.watch_id)
        await stream.close_watch(999)
        await served.put(b"a")
        await served.put(b"b")
        response = await stream.next()
        assert (response.watch_id, response.changes.changes[0].entry.key) == (second.watch_id, b"b")
        statistics = await served.statistics()
        assert (statistics.watches, statistics.groups, statistics.members) == (1, 1, 1)


@on_a_loop
async def test_the_same_watch_twice_in_a_stream_has_two_numbers_and_shares_them_with_other_streams() -> None:
    async with serving() as served:
        one, other = served.stream(), served.stream()
        numbers = [(await stream.opened(key=b"a", skip_snapshot=True)).watch_id for stream in (one, one, other, other)]
        assert numbers[:2] == numbers[2:]
        assert numbers[0] != numbers[1]
        await served.put(b"a")
        for stream in (one, other):
            assert {(await stream.next()).watch_id for _ in range(2)} == set(numbers)
        await one.close_watch(numbers[0])
        assert (await one.next_of("ended")).reason == watch_pb2.WATCH_END_REASON_CLOSED
        assert (await one.opened(key=b"a", skip_snapshot=True)).watch_id not in numbers
        await served.put(b"a")
        assert {(await other.next()).watch_id for _ in range(2)} == set(numbers)


@on_a_loop
async def test_a_stream_whose_requests_have_ended_goes_on_as_long_as_it_has_watches() -> None:
    async with serving() as served:
        stream = served.stream()
        opened = await stream.opened(key=b"a", skip_snapshot=True)
        await stream.call.done_writing()
        await served.put(b"a")
        assert (await stream.next()).watch_id == opened.watch_id
        none = served.stream()
        await none.call.done_writing()
        assert await none.ended_with() == ("OK", "")
        refused = served.stream()
        await refused.open(b"", after=after(1, "other"))
        await refused.call.done_writing()
        assert await refused.ended_with() == ("OK", "")


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (watch_pb2.WatchRequest(), "request: one of open, close, bookmarks is required"),
        (watch_pb2.WatchRequest(open=watch_pb2.OpenWatch()), "open.source: one of kv, nodes, topic is required"),
        (
            watch_pb2.WatchRequest(open=watch_pb2.OpenWatch(kv=watch_pb2.KvSource(key=b"x" * 1025))),
            "open.kv.key: must be at most 1,024 bytes",
        ),
        (
            watch_pb2.WatchRequest(open=watch_pb2.OpenWatch(kv=watch_pb2.KvSource(namespace="a\0b"))),
            "open.kv.namespace: must not have a zero byte",
        ),
        (watch_pb2.WatchRequest(close=watch_pb2.CloseWatch()), "close.watch_id: is required"),
    ],
)
@on_a_loop
async def test_a_request_that_breaks_its_rules_ends_the_stream_and_names_the_field(
    request_: watch_pb2.WatchRequest, text: str
) -> None:
    async with serving() as served:
        stream = served.stream()
        await stream.opened(key=b"a", skip_snapshot=True)
        await stream.call.write(request_)
        code, details = await stream.ended_with()
        assert code == "INVALID_ARGUMENT"
        assert details.startswith(text)
        await served.until(lambda it: it.watches == it.groups == it.streams == 0)


@on_a_loop
async def test_a_stream_and_the_server_have_so_many_watches_and_no_more() -> None:
    async with serving(WatchSettings(max_watches_per_stream=2, max_watches=3)) as served:
        first, second, third = (served.stream() for _ in range(3))
        for stream in (first, first, second):
            await stream.opened(key=b"a", skip_snapshot=True)
        await second.open(key=b"a")
        code, details = await second.ended_with()
        assert (code, details.split(",")[0]) == ("RESOURCE_EXHAUSTED", "the server has 3 watches")
        await served.until(lambda it: it.watches == 2)
        await first.open(key=b"a")
        code, details = await first.ended_with()
        assert (code, details.split(":")[0]) == ("RESOURCE_EXHAUSTED", "a stream has at most 2 watches")
        await served.until(lambda it: it.watches == 0)
        await third.opened(key=b"a")


@on_a_loop
async def test_streams_end_with_a_status_and_the_leader_when_the_server_may_serve_no_more() -> None:
    async with serving() as served:
        idle, watching = served.stream(), served.stream()
        await watching.opened(key=b"a", skip_snapshot=True)
        await idle.call.wait_for_connection()
        await served.until(lambda it: it.streams == 2)
        await served.on_its_loop(
            served.manager.end_streams, grpc.StatusCode.UNAVAILABLE, "ask the leader", (("atoll-leader", "b:2"),)
        )
        for stream in (idle, watching):
            assert await stream.ended_with() == ("UNAVAILABLE", "ask the leader")
            trailing = dict(await asyncio.wait_for(stream.call.trailing_metadata(), TIMEOUT) or ())
            assert trailing["atoll-leader"] == "b:2"
        await served.until(lambda it: it.streams == it.watches == 0)


@on_a_loop
async def test_a_client_that_resumes_while_the_server_stops_is_refused_and_holds_nothing_up() -> None:
    async with serving() as served:
        stream = served.stream()
        await stream.opened(key=b"a")
        await served.on_its_loop(served.manager.refuse_streams, grpc.StatusCode.UNAVAILABLE, "the server stops")
        assert await stream.ended_with() == ("UNAVAILABLE", "the server stops")
        assert await served.stream().ended_with() == ("UNAVAILABLE", "the server stops")
        await served.until(lambda it: it.streams == it.watches == 0)


@on_a_loop
async def test_a_store_that_is_closed_ends_the_streams() -> None:
    async with serving() as served:
        stream = served.stream()
        await stream.opened(key=b"a", skip_snapshot=True)
        await served.store.close()
        await stream.open(key=b"b")
        assert (await stream.ended_with())[0] == "UNAVAILABLE"
