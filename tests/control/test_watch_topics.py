"""Topics: events in memory within a window, published, watched, resumed and lost with a word."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from tests.control.watching import SMALL_WINDOW, TIMEOUT, WALL, Served, Stream, on_a_loop, serving

from atoll.testing import ManualClock
from atoll_control.api.v1 import watch_pb2
from atoll_control.server.topics import EVENT_OVERHEAD_BYTES, Topics, TopicsFullError
from atoll_control.server.watch_settings import TopicSettings, WatchSettings

pytestmark = pytest.mark.whole_grpcio

RESET = watch_pb2.DISCONTINUITY_KIND_RESET
OVERFLOW = watch_pb2.DISCONTINUITY_KIND_OVERFLOW


def after(sequence: int, epoch: int = 1) -> watch_pb2.Position:
    return watch_pb2.Position(epoch=epoch, sequence=sequence)


async def events(stream: Stream, count: int) -> list[int]:
    """The numbers of the next events, in however many messages."""
    found: list[int] = []
    while len(found) < count:
        found.extend(it.sequence for it in (await stream.next_of("events")).events)
    assert len(found) == count
    return found


async def listed(served: Served, **fields: Any) -> watch_pb2.ListTopicsResponse:
    response: watch_pb2.ListTopicsResponse = await served.topics.ListTopics(
        watch_pb2.ListTopicsRequest(**fields), timeout=TIMEOUT
    )
    return response


@on_a_loop
async def test_a_watch_of_a_topic_begins_with_the_next_event() -> None:
    async with serving() as served:
        await served.publish("logs", b"before")
        stream = served.stream()
        await stream.open_topic("logs", tag=4)
        opened = await stream.next_of("opened")
        assert (opened.tag, opened.position) == (4, after(1))
        assert await served.publish("logs", b"line", key=b"box") == 2
        told = await stream.next_of("events")
        (event,) = told.events
        assert (told.topic, event.epoch, event.sequence, event.key, event.payload) == ("logs", 1, 2, b"box", b"line")
        assert event.time.seconds + event.time.nanos / 1e9 == WALL
        await served.publish("other", b"elsewhere")
        await served.publish("logs")
        assert await events(stream, 1) == [3]


@on_a_loop
async def test_a_watch_with_a_key_tells_of_events_with_that_key_also_when_it_resumes() -> None:
    async with serving() as served:
        stream = served.stream()
        await stream.open_topic("logs", b"a")
        await stream.next_of("opened")
        for key in (b"a", b"b", b"", b"a"):
            await served.publish("logs", key=key)
        assert await events(stream, 2) == [1, 4]
        resumed = served.stream()
        await resumed.open_topic("logs", b"a", after=after(1))
        await resumed.next_of("opened")
        await served.publish("logs", key=b"a")
        assert await events(resumed, 2) == [4, 5]
        await resumed.request_bookmarks()
        await served.publish("logs", key=b"b")
        assert (await resumed.next_of("bookmark")).sequence in {5, 6}


@on_a_loop
async def test_a_topic_can_be_watched_before_its_first_event_and_resumed_from_its_beginning() -> None:
    async with serving() as served:
        early = served.stream()
        await early.open_topic("t")
        assert (await early.next_of("opened")).position == after(0)
        for _ in range(3):
            await served.publish("t")
        assert await events(early, 3) == [1, 2, 3]
        resumed = served.stream()
        await resumed.open_topic("t", after=after(0))
        await resumed.next_of("opened")
        assert await events(resumed, 3) == [1, 2, 3]


@on_a_loop
async def test_a_position_of_another_epoch_is_reset_and_goes_on_with_all_that_is_kept() -> None:
    async with serving() as served:
        await served.publish("t")
        stream = served.stream()
        await stream.open_topic("t", after=after(77, epoch=3))
        assert (await stream.next_of("opened")).position == after(0)
        reset = await stream.next_of("discontinuity")
        assert (reset.kind, reset.position, reset.lost) == (RESET, after(0), 0)
        assert await events(stream, 1) == [1]


@on_a_loop
async def test_a_position_ahead_of_the_topic_is_answered_so() -> None:
    async with serving() as served:
        stream = served.stream()
        await stream.open_topic("t", after=after(1), tag=2)
        ended = await stream.next_of("ended")
        assert (ended.reason, ended.tag) == (watch_pb2.WATCH_END_REASON_FUTURE_POSITION, 2)
        await served.until(lambda it: it.watches == 0)


@on_a_loop
async def test_a_position_before_the_window_is_told_how_many_events_are_lost_and_goes_on() -> None:
    async with serving(topics=TopicSettings(max_topic_events=10)) as served:
        for _ in range(25):
            await served.publish("t")
        stream = served.stream()
        await stream.open_topic("t", after=after(4))
        await stream.next_of("opened")
        lost = await stream.next_of("discontinuity")
        assert (lost.kind, lost.position, lost.lost) == (OVERFLOW, after(15), 11)
        assert await events(stream, 10) == list(range(16, 26))


@on_a_loop
async def test_a_slow_subscriber_of_a_topic_is_told_what_it_lost_and_a_quick_one_loses_nothing() -> None:
    settings = WatchSettings(max_waiting_bytes=200_000)
    topics = TopicSettings(max_topic_events=20)
    async with serving(settings, topics, channel_options=SMALL_WINDOW) as served:
        slow, quick = served.stream(), served.stream()
        for stream in (slow, quick):
            await stream.open_topic("t")
            await stream.next_of("opened")
        sent = 0
        while not (await served.statistics()).slow or sent < 60:
            sent = await served.publish("t", b"x" * 20_000)
            assert await events(quick, 1) == [sent]
        found: list[int] = []
        lost = 0
        while not found or found[-1] < sent:
            response = await slow.next()
            if response.HasField("discontinuity"):
                assert response.discontinuity.kind == OVERFLOW
                lost += response.discontinuity.lost
                assert response.discontinuity.position.sequence == found[-1] + lost
            else:
                found.extend(it.sequence for it in response.events.events)
        assert lost > 0
        assert found == sorted(set(found))
        assert len(found) + lost == sent
        # Back in its group.
        await served.until(lambda it: it.members == 2)
        assert await served.publish("t") == sent + 1
        assert await events(slow, 1) == [sent + 1]


@on_a_loop
async def test_topics_are_listed_in_the_order_of_their_names_in_pages() -> None:
    async with serving(topics=TopicSettings(max_topic_events=2)) as served:
        for name in ("c", "a", "b", "a", "a"):
            await served.publish(name, b"12345")
        stream = served.stream()
        await stream.open_topic("b")
        await stream.next_of("opened")
        page = await listed(served, limit=2)
        assert page.more
        first, second = page.topics
        assert (first.name, first.epoch, first.oldest_sequence, first.newest_sequence) == ("a", 1, 2, 3)
        assert first.bytes == 2 * (5 + EVENT_OVERHEAD_BYTES)
        assert (second.name, second.watchers) == ("b", 1)
        page = await listed(served, limit=2, start_after="b")
        assert [it.name for it in page.topics] == ["c"]
        assert not page.more


@on_a_loop
async def test_no_event_makes_one_topic_too_many() -> None:
    async with serving(topics=TopicSettings(max_topics=1)) as served:
        await served.publish("one")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await served.publish("two")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (refused.value.details() or "").startswith("topic: there are 1 topics")
        stream = served.stream()
        await stream.open_topic("two")
        code, details = await stream.ended_with()
        assert (code, details.split(":")[0]) == ("RESOURCE_EXHAUSTED", "open.topic.topic")
        assert await served.publish("one") == 2


@on_a_loop
async def test_an_idle_topic_goes_and_comes_back_with_numbers_that_none_of_its_events_had() -> None:
    clock = ManualClock()
    async with serving(topics=TopicSettings(idle_after=100), clock=clock) as served:
        for _ in range(3):
            await served.publish("idle")
        stream = served.stream()
        await stream.open_topic("watched")
        await stream.next_of("opened")
        await asyncio.to_thread(clock.advance, 200)
        assert [it.name for it in (await listed(served)).topics] == ["watched"]
        assert await served.publish("idle") == 4
        resumed = served.stream()
        await resumed.open_topic("idle", after=after(2))
        await resumed.next_of("opened")
        lost = await resumed.next_of("discontinuity")
        assert (lost.kind, lost.position, lost.lost) == (OVERFLOW, after(3), 0)
        assert await events(resumed, 1) == [4]


@on_a_loop
async def test_a_topic_stays_for_its_whole_time_after_its_last_watcher_has_left() -> None:
    clock = ManualClock()
    # Idle ones are looked for once a minute.
    async with serving(topics=TopicSettings(idle_after=100), clock=clock) as served:
        stream = served.stream()
        await stream.open_topic("t")
        watch_id = (await stream.next()).watch_id
        await asyncio.to_thread(clock.advance, 1079)
        await stream.close_watch(watch_id)
        await served.until(lambda it: it.watches == 0)
        await asyncio.to_thread(clock.advance, 62)
        assert [it.name for it in (await listed(served)).topics] == ["t"]
        await asyncio.to_thread(clock.advance, 60)
        assert (await listed(served)).topics == []


@on_a_loop
async def test_a_request_that_breaks_its_rules_names_the_field() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError, match="topic: is required"):
            await served.publish("")
        with pytest.raises(grpc.aio.AioRpcError, match="limit: must be at most 10,000"):
            await listed(served, limit=10_001)


# -- the window, without a network -------------------------------------------------------------------------------------


def fill(topics: Topics, name: str, count: int, payload: bytes = b"") -> None:
    for _ in range(count):
        topics.append(topics.obtain(name, 0.0), watch_pb2.Event(payload=payload), 0.0)


def kept(topics: Topics, name: str) -> tuple[int, int]:
    topic = topics.obtain(name, 0.0)
    return topic.oldest, topic.newest


def test_a_topic_keeps_so_many_events_and_so_many_bytes() -> None:
    topics = Topics(1, TopicSettings(max_topic_events=5, max_topic_bytes=5 * EVENT_OVERHEAD_BYTES))
    fill(topics, "many", 8)
    assert kept(topics, "many") == (4, 8)
    fill(topics, "large", 8, b"x" * EVENT_OVERHEAD_BYTES)
    assert kept(topics, "large") == (7, 8)
    fill(topics, "huge", 2, b"x" * 5000)
    assert kept(topics, "huge") == (2, 2)


def test_all_topics_together_keep_so_many_bytes_and_a_noisy_one_takes_no_more_than_its_share() -> None:
    event = 100 + EVENT_OVERHEAD_BYTES
    topics = Topics(1, TopicSettings(max_total_bytes=20 * event))
    fill(topics, "quiet", 5, b"x" * 100)
    fill(topics, "noisy", 100, b"x" * 100)
    assert topics.bytes <= 20 * event
    assert kept(topics, "quiet") == (1, 5)
    assert kept(topics, "noisy") == (86, 100)
    for number in range(10):
        fill(topics, f"another {number}", 10, b"x" * 100)
    assert topics.bytes <= 20 * event
    assert topics.bytes == sum(topic.bytes for topic in topics.listed_after(""))


def test_some_events_are_found_from_either_end_of_the_window() -> None:
    topics = Topics(1, TopicSettings())
    fill(topics, "t", 100)
    topic = topics.obtain("t", 0.0)
    for start in range(100):
        found, through = topic.some_after(start, 95, 10)
        assert [it.sequence for it in found] == list(range(start + 1, min(start + 10, 95) + 1))
        assert through == max(start, min(start + 10, 95)) or start >= 95


def test_one_topic_too_many_is_refused() -> None:
    topics = Topics(1, TopicSettings(max_topics=1))
    topics.obtain("one", 0.0)
    topics.obtain("one", 0.0)
    with pytest.raises(TopicsFullError, match="there are 1 topics"):
        topics.obtain("two", 0.0)


@pytest.mark.parametrize("name", ["max_topics", "max_topic_bytes", "idle_after"])
def test_a_limit_is_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: must be positive"):
        TopicSettings(**{name: 0})
    with pytest.raises(ValueError, match="bookmark_interval: must be positive"):
        WatchSettings(bookmark_interval=float("inf"))
