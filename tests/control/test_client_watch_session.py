"""What the client makes of what a watch is told, over several streams. Without a server."""

from __future__ import annotations

from typing import Any

import pytest

from atoll_control.api.v1 import kv_pb2, node_pb2, watch_pb2
from atoll_control.client import (
    Changed,
    Deleted,
    Position,
    Published,
    Reset,
    ResetReason,
    SnapshotComplete,
    SnapshotEntry,
    TopicPosition,
)
from atoll_control.client._watch_session import OLDEST, WatchSession

GENERATION = "0123456789abcdef"
KV = watch_pb2.OpenWatch(kv=watch_pb2.KvSource(prefix=True))
TOPIC = watch_pb2.OpenWatch(topic=watch_pb2.TopicSource(topic="t"))


def session(template: watch_pb2.OpenWatch = KV, after: Any = None, *, follow: bool = True) -> WatchSession[Any]:
    return WatchSession(template, after, follow=follow)


def place(revision: int) -> watch_pb2.Position:
    return watch_pb2.Position(generation=GENERATION, revision=revision)


def at(revision: int) -> Position:
    return Position(GENERATION, revision)


def opened(revision: int) -> watch_pb2.WatchResponse:
    return watch_pb2.WatchResponse(watch_id=1, opened=watch_pb2.WatchOpened(position=place(revision)))


def page(revision: int, *keys: bytes, last: bool = True) -> watch_pb2.WatchResponse:
    entries = [kv_pb2.KeyValue(key=key) for key in keys]
    told = watch_pb2.SnapshotPage(position=place(revision), entries=entries, last=last)
    return watch_pb2.WatchResponse(watch_id=1, page=told)


def changes(*changed: tuple[int, bytes], partial: bool = False, coalesced: bool = False) -> watch_pb2.WatchResponse:
    last = changed[-1][0]
    told = watch_pb2.Changes(position=place(last - 1 if partial else last), partial=partial, coalesced=coalesced)
    for revision, key in changed:
        told.changes.add(revision=revision, entry=kv_pb2.KeyValue(key=key))
    return watch_pb2.WatchResponse(watch_id=1, changes=told)


def ended(reason: watch_pb2.WatchEndReason.ValueType) -> watch_pb2.WatchResponse:
    return watch_pb2.WatchResponse(ended=watch_pb2.WatchEnded(reason=reason, message="why"))


def keys_of(events: list[Any]) -> list[tuple[int, bytes]]:
    return [(event.revision, event.item.key) for event in events]


def request_of(watch: WatchSession[Any]) -> watch_pb2.OpenWatch:
    return watch.requests()[0].open


def test_a_snapshot_comes_entry_by_entry_then_its_end_then_changes() -> None:
    watch = session()
    assert not request_of(watch).HasField("after")
    assert watch.take(opened(7)) == []
    events = watch.take(page(7, b"a", b"b", last=False)) + watch.take(page(7, b"c"))
    assert [event.item.key for event in events[:3]] == [b"a", b"b", b"c"]
    assert all(isinstance(event, SnapshotEntry) and event.position is None for event in events[:3])
    assert events[3] == SnapshotComplete(at(7))
    (change,) = watch.take(changes((9, b"a")))
    assert isinstance(change, Changed)
    assert (change.revision, change.position, change.coalesced) == (9, at(9), False)
    assert request_of(watch).after == place(9)


def test_within_a_revision_the_position_is_the_revision_before() -> None:
    watch = session(after=at(5))
    events = watch.take(changes((6, b"a"), (6, b"b"), (8, b"a"), (8, b"c"), partial=True))
    assert [event.position for event in events] == [at(5), at(6), at(6), at(6)]
    (last,) = watch.take(changes((8, b"d")))
    assert last.position == at(8)


def test_of_a_revision_that_comes_again_only_the_rest_is_told() -> None:
    watch = session(after=at(5))
    assert keys_of(watch.take(changes((8, b"a"), (8, b"b"), partial=True))) == [(8, b"a"), (8, b"b")]
    assert watch.interrupted() == []
    assert request_of(watch).after == place(7)
    watch.take(opened(7))
    assert keys_of(watch.take(changes((8, b"a"), (8, b"b"), (8, b"c"), (9, b"a")))) == [(8, b"c"), (9, b"a")]
    assert watch.after == at(9)


def test_a_revision_in_parts_that_is_interrupted_twice_is_told_once() -> None:
    watch = session(after=at(5))
    told = keys_of(watch.take(changes((8, b"a"), partial=True)))
    told += keys_of(watch.take(changes((8, b"a"), (8, b"b"), partial=True)))
    told += keys_of(watch.take(changes((8, b"a"), (8, b"b"), (8, b"c"))))
    assert told == [(8, b"a"), (8, b"b"), (8, b"c")]


def test_what_was_left_out_by_a_coalesced_part_is_told_when_the_revision_comes_whole() -> None:
    watch = session(after=at(5))
    (first,) = watch.take(changes((8, b"b"), partial=True, coalesced=True))
    assert first.coalesced
    assert keys_of(watch.take(changes((8, b"a"), (8, b"b"), (9, b"a")))) == [(8, b"a"), (9, b"a")]


def test_deletions_and_what_was_there_before_are_told() -> None:
    told = watch_pb2.Changes(position=place(3))
    told.changes.add(revision=3, entry=kv_pb2.KeyValue(key=b"k"), deleted=True, previous=kv_pb2.KeyValue(value=b"v"))
    (event,) = session(after=at(2)).take(watch_pb2.WatchResponse(changes=told))
    assert isinstance(event, Deleted)
    assert event.previous is not None
    assert event.previous.value == b"v"


def test_nodes_are_told_as_nodes() -> None:
    watch = session(watch_pb2.OpenWatch(nodes=watch_pb2.NodesSource()))
    snapshot = watch_pb2.SnapshotPage(position=place(3), nodes=[node_pb2.Node(node_id="n")], last=True)
    entry, _ = watch.take(watch_pb2.WatchResponse(page=snapshot))
    assert entry.item.node_id == "n"
    told = watch_pb2.Changes(position=place(4))
    told.changes.add(revision=4, node=node_pb2.Node(node_id="n"), previous_node=node_pb2.Node(address="a:1"))
    (event,) = watch.take(watch_pb2.WatchResponse(changes=told))
    assert (event.item.node_id, event.previous.address, event.position) == ("n", "a:1", at(4))


def test_a_snapshot_that_is_interrupted_is_told_anew_and_says_so() -> None:
    watch = session()
    watch.take(opened(7))
    assert watch.interrupted() == [], "nothing has been told"
    watch.take(page(7, b"a", last=False))
    (reset,) = watch.interrupted()
    assert (reset.reason, reset.position) == (ResetReason.SNAPSHOT_INTERRUPTED, None)
    assert not request_of(watch).HasField("after")
    assert watch.interrupted() == []


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (watch_pb2.WATCH_END_REASON_COMPACTED, ResetReason.COMPACTED),
        (watch_pb2.WATCH_END_REASON_OTHER_GENERATION, ResetReason.OTHER_GENERATION),
        (watch_pb2.WATCH_END_REASON_FUTURE_POSITION, ResetReason.FUTURE_POSITION),
    ],
)
@pytest.mark.parametrize("skip_snapshot", [False, True])
def test_lost_history_is_said_and_the_watch_begins_anew(
    reason: watch_pb2.WatchEndReason.ValueType,
    told: ResetReason,
    skip_snapshot: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    template = watch_pb2.OpenWatch(kv=watch_pb2.KvSource(prefix=True), skip_snapshot=skip_snapshot)
    watch = session(template, after=at(5))
    opening = request_of(watch)
    assert (opening.after, opening.skip_snapshot) == (place(5), False)
    assert watch.take(ended(reason)) == [Reset(told, "why")]
    assert watch.must_reopen
    opening = request_of(watch)
    assert (opening.HasField("after"), opening.skip_snapshot) == (False, skip_snapshot)
    assert not watch.must_reopen


def test_a_watch_without_a_snapshot_goes_on_from_where_it_was_opened() -> None:
    template = watch_pb2.OpenWatch(kv=watch_pb2.KvSource(prefix=True), skip_snapshot=True)
    watch = session(template)
    assert request_of(watch).skip_snapshot
    watch.take(opened(11))
    assert watch.interrupted() == []
    assert request_of(watch).after == place(11)


def test_bookmarks_move_the_place_and_end_a_watch_that_does_not_follow() -> None:
    bookmark = watch_pb2.WatchResponse(bookmark=place(20))
    following, other = session(after=at(5)), session(after=at(5), follow=False)
    assert [len(it.requests()) for it in (following, other)] == [1, 2]
    for watch in (following, other):
        assert watch.take(bookmark) == []
        assert watch.after == at(20)
    assert (following.is_finished, other.is_finished) == (False, True)


def test_what_is_not_known_is_skipped() -> None:
    assert session().take(watch_pb2.WatchResponse(watch_id=1)) == []


def events(epoch: int, *sequences: int) -> watch_pb2.WatchResponse:
    told = watch_pb2.Events(topic="t")
    for sequence in sequences:
        told.events.add(epoch=epoch, sequence=sequence)
    return watch_pb2.WatchResponse(events=told)


def discontinuity(kind: str, epoch: int, sequence: int, lost: int) -> watch_pb2.WatchResponse:
    told = watch_pb2.Discontinuity(
        kind=watch_pb2.DiscontinuityKind.Value(f"DISCONTINUITY_KIND_{kind}"),
        position=watch_pb2.Position(epoch=epoch, sequence=sequence),
        lost=lost,
    )
    return watch_pb2.WatchResponse(discontinuity=told)


def test_events_of_a_topic_have_their_places() -> None:
    watch = session(TOPIC)
    place = watch_pb2.Position(epoch=2, sequence=4)
    watch.take(watch_pb2.WatchResponse(opened=watch_pb2.WatchOpened(position=place)))
    assert watch.after == TopicPosition(2, 4), "what comes while the connection is lost is told later"
    told = watch.take(events(2, 5, 6))
    assert all(isinstance(event, Published) and event.topic == "t" for event in told)
    assert [event.position for event in told] == [TopicPosition(2, 5), TopicPosition(2, 6)]
    after = request_of(watch).after
    assert (after.epoch, after.sequence) == (2, 6)


@pytest.mark.parametrize(("kind", "reason"), [("RESET", ResetReason.NEW_EPOCH), ("OVERFLOW", ResetReason.OVERFLOW)])
def test_lost_events_are_told_with_their_number(kind: str, reason: ResetReason) -> None:
    watch = session(TOPIC, TopicPosition(2, 4))
    (reset,) = watch.take(discontinuity(kind, 3, 9, 17))
    assert (reset.reason, reset.lost, reset.position) == (reason, 17, TopicPosition(3, 9))
    assert watch.after == TopicPosition(3, 9)


def test_a_watch_from_the_oldest_event_on_has_lost_nothing() -> None:
    watch = session(TOPIC, OLDEST)
    assert request_of(watch).HasField("after")
    assert watch.take(discontinuity("RESET", 3, 9, 9)) == []
    assert len(watch.take(discontinuity("OVERFLOW", 3, 12, 2))) == 1


@pytest.mark.parametrize("position", [at(5), Position("a:b", 0), TopicPosition(3, 17)])
def test_a_position_is_read_back_from_its_text(position: Any) -> None:
    assert type(position).parse(str(position)) == position


@pytest.mark.parametrize("text", ["", ":", "5", "a:", ":5", "a:-1", "a:b"])
def test_a_text_that_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"GENERATION:REVISION, got"):
        Position.parse(text)
    with pytest.raises(ValueError, match=r"EPOCH:SEQUENCE, got"):
        TopicPosition.parse(text)
