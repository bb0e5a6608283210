"""`WatchManager`: who watches what, and the topics.

Owns the watches and the topics, in memory. Only its own loop enters it; of the store's tables it only reads.

How a change travels: the store tells the loop that something was committed, and is durable; the change log is read from
where it was, and every change handed to the groups that it concerns, each of which sends one message to all of its
members (`watch_groups.py`). A watch that has not caught up, or was too slow, is no member: its stream leads it there
(`watch_stream.py`, `watch_catch_up.py`).

What bounds it: `watch_settings.py`. A broadcast that can't pass on as fast as there are changes stops the reading of
the change log until it can: the groups are served in step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
import structlog

from atoll import IoContext, rpc
from atoll.errors import CompactedError, StoreError
from atoll_control.api.times import timestamp
from atoll_control.api.v1 import watch_pb2, watch_pb2_grpc
from atoll_control.server.calls import RefusedError, check
from atoll_control.server.pages import DEFAULT_PAGE
from atoll_control.server.store_status import status_of
from atoll_control.server.topics import Topics, TopicsFullError
from atoll_control.server.watch_catch_up import discontinuity, event_messages
from atoll_control.server.watch_groups import Groups
from atoll_control.server.watch_messages import Describer, mark_of
from atoll_control.server.watch_settings import TopicSettings, WatchSettings
from atoll_control.server.watch_stream import Watch, WatchStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from atoll.store import Store, StoreChange, StoreSubscription
    from atoll_control.server.tokens import Tokens
    from atoll_control.server.topics import Topic
    from atoll_control.server.watch_catch_up import CatchUp
    from atoll_control.server.watch_groups import Group
    from atoll_control.server.watch_messages import Change

_log = structlog.get_logger("atoll_control.watch_manager")

# A broadcast that had no room is tried again after this many seconds.
_RETRY_AFTER: Final = 0.001
# How many groups, or watches of streams that have ended, are looked at before others have their turn.
_AT_A_TIME: Final = 500
# How often streams are looked through for those whose token has ended, in seconds: it takes a millisecond for 10,000.
_REFUSED_INTERVAL: Final = 1.0
_REFUSED: Final = "the token that the stream was opened with has expired or was revoked: open another with a valid one"
# How often topics are looked through for idle ones, in seconds.
_IDLE_CHECK_INTERVAL: Final = 60.0


@dataclass(frozen=True, slots=True)
class WatchStatistics:
    """What there is and was.

    Attributes:
        streams: open ones.
        watches: open ones of all streams.
        members: watches that have caught up.
        groups: of watches that are the same.
        topics: with events or watchers.
        topic_bytes: what the events of all topics take.
        published: the revision through which groups have been served.
        messages: how many were serialised.
        slow: how often a watch was too slow for its group.
    """

    streams: int
    watches: int
    members: int
    groups: int
    topics: int
    topic_bytes: int
    published: int
    messages: int
    slow: int


class WatchManager(watch_pb2_grpc.WatchServiceServicer, watch_pb2_grpc.TopicServiceServicer):
    """The module behind `WatchService` and `TopicService`. See this file's first lines for its rules."""

    def __init__(
        self,
        store: Store,
        settings: WatchSettings | None = None,
        topics: TopicSettings | None = None,
        *,
        wall_clock: Callable[[], float],
        tokens: Tokens | None = None,
        io_context: IoContext | None = None,
    ) -> None:
        """Watches nothing yet.

        Args:
            store: with the tables `kv` and `nodes`.
            settings: what watches may take.
            topics: how much of topics is kept.
            wall_clock: seconds since 1970, for people to read.
            tokens: those that are valid; streams of others end. None where calls are not asked for any.
            io_context: the loop; the one that this is called on when None.
        """
        self.store = store
        self.settings = settings or WatchSettings()
        self.describer = Describer(store.generation)
        self.topics = Topics(store.epoch, topics or TopicSettings())
        self.groups = Groups(self._new_broadcast)
        self.watches: dict[int, Watch] = {}
        self.published = store.revision
        self._wall_clock = wall_clock
        self._tokens = tokens
        self._io_context = io_context or IoContext.current()
        self._slow = rpc.SlowSubscribers(self._io_context, self._on_slow)
        self._subscription: StoreSubscription | None = None
        self._streams: set[WatchStream] = set()
        self._numbers = 0
        # Those who have got more than was published.
        self._waiting: list[Watch] = []
        # Groups whose broadcasts had no room.
        self._blocked: set[Group] = set()
        self._unpublished: dict[Topic, None] = {}
        self._is_publishing_later = False
        self._is_retrying = False
        self._stopped = False
        # What new streams are told from now on.
        self._refusal: tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]] | None = None
        self._messages = 0
        self._was_slow = 0

    # -- life cycle ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begins to follow the store."""
        self._subscription = self.store.subscribe(self._io_context, self._on_commit)
        self._publish_changes()
        self._io_context.post(
            self._send_bookmarks, name="WatchManager.send_bookmarks", delay=self.settings.bookmark_interval
        )
        self._io_context.post(self._drop_idle_topics, name="WatchManager.drop_idle_topics", delay=_IDLE_CHECK_INTERVAL)
        if self._tokens is not None:
            self._end_refused(self._tokens)

    async def stop(self) -> None:
        """Ends all streams: their clients resume elsewhere."""
        self._stopped = True
        if self._subscription is not None:
            self._subscription.close()
        self._slow.close()
        self.refuse_streams(grpc.StatusCode.UNAVAILABLE, "the server stops: resume at another one, or when it is back")

    def refuse_streams(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()
    ) -> None:
        """Ends all streams as `end_streams` does, and those that come from now on, of clients that resume at once."""
        self._refusal = code, details, trailing_metadata
        self.end_streams(code, details, trailing_metadata)

    def end_streams(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()
    ) -> None:
        """Ends all streams with a status, and with where the leader is in the metadata, if that is known."""
        for stream in list(self._streams):
            stream.fail(code, details, trailing_metadata)

    def _end_refused(self, tokens: Tokens) -> None:
        """Ends the streams whose tokens are not valid any more."""
        if self._stopped:
            return
        for stream in list(self._streams):
            if stream.caller is not None and not tokens.is_valid(stream.caller):
                stream.fail(grpc.StatusCode.UNAUTHENTICATED, _REFUSED)
        self._io_context.post(self._end_refused, tokens, name="WatchManager.end_refused", delay=_REFUSED_INTERVAL)

    def statistics(self) -> WatchStatistics:
        """What there is and was."""
        return WatchStatistics(
            streams=len(self._streams),
            watches=len(self.watches),
            members=sum(len(group.members) for group in self.groups),
            groups=len(self.groups),
            topics=len(self.topics),
            topic_bytes=self.topics.bytes,
            published=self.published,
            messages=self._messages,
            slow=self._was_slow,
        )

    # -- for streams ---------------------------------------------------------------------------------------------------

    def _new_broadcast(self) -> rpc.Broadcast[bytes]:
        return rpc.Broadcast(bytes, slow_subscribers=self._slow, max_waiting=self.settings.max_waiting_bytes)

    def add_watch(self, stream: WatchStream, group: Group, catch_up: CatchUp) -> Watch:
        """Makes a watch and gives it a number."""
        self._numbers += 1
        watch = self.watches[self._numbers] = Watch(stream, self._numbers, group, catch_up)
        return watch

    def forget_watch(self, watch: Watch) -> None:
        """A watch has ended."""
        watch.leave_group(0)
        watch.catch_up.close()
        self.groups.release(watch.group, self._io_context.now())
        del self.watches[watch.number]

    def obtain_topic(self, name: str) -> Topic:
        """The topic of a watch.

        Raises:
            RefusedError: it would be one too many.
        """
        try:
            return self.topics.obtain(name, self._io_context.now())
        except TopicsFullError as full:
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"open.topic.topic: {full}") from None

    def published_to(self, group: Group) -> int:
        """The mark through which a group has been served."""
        return mark_of(self.published) if group.topic is None else group.topic.published

    def wait_for_publishing(self, watch: Watch) -> None:
        """Has a watch take a step when more has been published."""
        self._waiting.append(watch)

    def count_message(self) -> None:
        """A message is serialised."""
        self._messages += 1

    def _go_on(self) -> None:
        """More has been published."""
        waiting, self._waiting = self._waiting, []
        for watch in waiting:
            watch.stream.enqueue(watch)

    def _on_slow(self, slow: list[rpc.SlowSubscriber]) -> None:
        for tag, mark in slow:
            self._was_slow += 1
            if (watch := self.watches.get(tag)) is not None:
                watch.stream.left(watch, mark)

    # -- changes of the store ------------------------------------------------------------------------------------------

    def _on_commit(self, _revision: int) -> None:
        self._publish_changes()

    def _publish_changes(self) -> None:
        """Hands a part of the changes since the last time to the groups that they concern."""
        if self._blocked or self._stopped:
            return
        try:
            changes = self.store.changes(self.published, self.settings.max_page_rows)
        except CompactedError as compacted:
            _log.warning("change_log_overtook_publishing", published=self.published, oldest=compacted.oldest)
            self._publish_nothing_through(self.store.revision)
            return
        except StoreError as problem:
            _log.warning("changes_not_read", problem=str(problem))
            self.end_streams(status_of(problem), str(problem))
            return
        self._hand_on(changes.changes)
        self.published = changes.through
        if self._waiting:
            self._go_on()
        if changes.through < self.store.revision:
            # Others have their turn first.
            self._io_context.post(self._publish_changes, name="WatchManager.publish")

    def _hand_on(self, changes: list[StoreChange]) -> None:
        """Sends changes to the groups that they concern."""
        concerned: dict[Group, list[StoreChange]] = {}
        for change in changes:
            for group in self.groups.of_row(change.table, change.key):
                if group.members:
                    concerned.setdefault(group, []).append(change)
        # Described once, however many groups there are.
        plain: dict[Change, watch_pb2.Change] = {}
        with_previous: dict[Change, watch_pb2.Change] = {}
        for group, found in concerned.items():
            previous = group.key.previous_values
            messages = self.describer.messages(
                group.number,
                found,
                self.settings.max_page_bytes,
                previous=previous,
                cache=with_previous if previous else plain,
            )
            since = mark_of(self.published)
            for message, mark in messages:
                self._broadcast(group, message, since, mark)
                since = mark

    def _publish_nothing_through(self, revision: int) -> None:
        """Who was a member has missed changes, and each is told that they are not kept any more."""
        for group in self.groups:
            if group.topic is None:
                for watch in list(group.members):
                    watch.leave_group(mark_of(self.published))
                    watch.stream.enqueue(watch)
        self.published = revision
        self._go_on()

    def _broadcast(self, group: Group, message: watch_pb2.WatchResponse, since: int, mark: int) -> None:
        self._messages += 1
        if not group.send(message.SerializeToString(), since, mark):
            self._blocked.add(group)
            self._retry_later()

    def _retry_later(self) -> None:
        if not self._is_retrying:
            self._is_retrying = True
            self._io_context.post(self._retry, name="WatchManager.retry", delay=_RETRY_AFTER)

    def _retry(self) -> None:
        self._is_retrying = False
        self._blocked = {group for group in self._blocked if not group.send_rest()}
        if self._blocked:
            self._retry_later()
        else:
            self._go_on()
            self._publish_changes()
            self._publish_events()

    # -- bookmarks -----------------------------------------------------------------------------------------------------

    def _send_bookmarks(self, rest: Iterator[Group] | None = None) -> None:
        """Sends a bookmark to each group to which nothing was sent since the last time."""
        if self._stopped:
            return
        rest = iter(list(self.groups)) if rest is None else rest
        for _ in range(_AT_A_TIME):
            group = next(rest, None)
            if group is None:
                delay = self.settings.bookmark_interval
                self._io_context.post(self._send_bookmarks, name="WatchManager.send_bookmarks", delay=delay)
                return
            if group.quiet and group.members and not group.unsent:
                mark = self.published_to(group)
                self._broadcast(group, self._bookmark(group, mark), mark, mark)
            group.quiet = True
        self._io_context.post(self._send_bookmarks, rest, name="WatchManager.send_bookmarks")

    def _bookmark(self, group: Group, mark: int) -> watch_pb2.WatchResponse:
        if group.topic is None:
            return self.describer.bookmark(group.number, mark)
        position = watch_pb2.Position(epoch=self.topics.epoch, sequence=mark)
        return watch_pb2.WatchResponse(watch_id=group.number, bookmark=position)

    # -- topics --------------------------------------------------------------------------------------------------------

    def _publish_events(self) -> None:
        """Hands new events to their groups."""
        self._is_publishing_later = False
        topics, self._unpublished = self._unpublished, {}
        for topic in topics:
            if any(group.unsent for group in self.groups.of_topic(topic.name)):
                # Its events wait in its window.
                self._unpublished[topic] = None
                continue
            self._publish_events_of(topic)
            if topic.published < topic.newest:
                self._unpublished[topic] = None
        if self._unpublished and not self._blocked:
            self._publish_events_later()
        self._go_on()

    def _publish_events_of(self, topic: Topic) -> None:
        if not topic.watchers:
            topic.published = topic.newest
            return
        since = topic.published
        if since < topic.oldest - 1:
            lost, since = topic.oldest - 1 - since, topic.oldest - 1
            for group in self.groups.of_topic(topic.name):
                kind = watch_pb2.DISCONTINUITY_KIND_OVERFLOW
                message = discontinuity(group.number, self.topics.epoch, since, lost, kind)
                self._broadcast(group, message, topic.published, since)
        events, through = topic.some_after(since, topic.newest, self.settings.max_page_rows)
        concerned: dict[Group, list[watch_pb2.Event]] = {}
        for event in events:
            for group in self.groups.of_event(event, topic.name):
                if group.members:
                    concerned.setdefault(group, []).append(event)
        for group, found in concerned.items():
            before = since
            for message, mark in event_messages(group.number, topic.name, found, self.settings.max_page_bytes):
                self._broadcast(group, message, before, mark)
                before = mark
        topic.published = through

    def _publish_events_later(self) -> None:
        """What is published meanwhile goes along."""
        if not self._is_publishing_later:
            self._is_publishing_later = True
            self._io_context.post(self._publish_events, name="WatchManager.publish_events")

    def _drop_idle_topics(self) -> None:
        if not self._stopped:
            self.topics.drop_idle(self._io_context.now())
            self._io_context.post(
                self._drop_idle_topics, name="WatchManager.drop_idle_topics", delay=_IDLE_CHECK_INTERVAL
            )

    # -- WatchService --------------------------------------------------------------------------------------------------

    async def Watch(  # type: ignore[override] # the stub knows generators only
        self,
        request_iterator: AsyncIterator[watch_pb2.WatchRequest],
        context: grpc.aio.ServicerContext[watch_pb2.WatchRequest, watch_pb2.WatchResponse],
    ) -> None:
        """Serves the watches of a stream."""
        if self._refusal is not None:
            code, details, trailing_metadata = self._refusal
            await context.abort(code, details, trailing_metadata)
        stream = WatchStream(self, context)
        self._streams.add(stream)
        try:
            await stream.serve(request_iterator)
        finally:
            self._streams.discard(stream)
            self._clean_up(stream)

    def _clean_up(self, stream: WatchStream) -> None:
        """Forgets the watches of a stream that has ended, some at a time."""
        for watch in list(stream.watches.values())[:_AT_A_TIME]:
            stream.forget(watch)
        if stream.watches:
            self._io_context.post(self._clean_up, stream, name="WatchManager.clean_up")

    # -- TopicService --------------------------------------------------------------------------------------------------

    async def Publish(
        self,
        request: watch_pb2.PublishRequest,
        context: grpc.aio.ServicerContext[watch_pb2.PublishRequest, watch_pb2.PublishResponse],
    ) -> watch_pb2.PublishResponse:
        """Appends an event to a topic."""
        await check(request, context)
        now = self._io_context.now()
        try:
            topic = self.topics.obtain(request.topic, now)
        except TopicsFullError as full:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"topic: {full}")
        event = watch_pb2.Event(key=request.key, payload=request.payload, time=timestamp(self._wall_clock()))
        self.topics.append(topic, event, now)
        self._unpublished[topic] = None
        self._publish_events_later()
        return watch_pb2.PublishResponse(epoch=event.epoch, sequence=event.sequence)

    async def ListTopics(
        self,
        request: watch_pb2.ListTopicsRequest,
        context: grpc.aio.ServicerContext[watch_pb2.ListTopicsRequest, watch_pb2.ListTopicsResponse],
    ) -> watch_pb2.ListTopicsResponse:
        """Lists topics in the order of their names."""
        await check(request, context)
        limit = request.limit or DEFAULT_PAGE
        topics = self.topics.listed_after(request.start_after)
        response = watch_pb2.ListTopicsResponse(more=len(topics) > limit)
        for topic in topics[:limit]:
            response.topics.add(
                name=topic.name,
                epoch=self.topics.epoch,
                newest_sequence=topic.newest,
                oldest_sequence=topic.oldest,
                bytes=topic.bytes,
                watchers=topic.watchers,
            )
        return response
