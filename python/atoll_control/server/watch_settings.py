"""Every limit of watches and topics, by name."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """How much watches may take. Sizes in bytes, times in seconds.

    Attributes:
        max_watches_per_stream: open watches of one stream; one more ends the stream.
        max_watches: open watches of all streams; one more ends its stream. One that is not shared takes about 2 KB.
        max_waiting_requests: watches of one stream that wait for their turn to send; beyond that its requests are not
            read.
        max_waiting_bytes: what may be on its way to one stream before its watches leave their groups, and how large a
            backlog may be before it is coalesced by key.
        max_page_rows: rows of one page of a snapshot, and changes that are read from the store at a time.
        max_page_bytes: of one page or one message of changes or events; one row, change or event always fits.
        bookmark_interval: where nothing was sent for this long, a bookmark is; it comes at most as late again.
    """

    max_watches_per_stream: int = 10_000
    max_watches: int = 1_000_000
    max_waiting_requests: int = 1_000
    max_waiting_bytes: int = 4 << 20
    max_page_rows: int = 1_000
    max_page_bytes: int = 2 << 20
    bookmark_interval: float = 10.0

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True, kw_only=True)
class TopicSettings:
    """How much of topics is kept. Sizes in bytes with an estimate of each event's overhead, times in seconds.

    Attributes:
        max_topics: topics, those that are only watched included; an event for one more is refused.
        max_topic_events: events of one topic; the oldest go.
        max_topic_bytes: events of one topic.
        max_total_bytes: events of all topics. Beyond that, the oldest of the topic that gets an event go where it has
            more than an equal share, and otherwise the oldest of the others, one topic after another.
        idle_after: how long a topic is kept to which nothing is published and which nobody watches. The events that it
            still has go with it.
    """

    max_topics: int = 10_000
    max_topic_events: int = 10_000
    max_topic_bytes: int = 8 << 20
    max_total_bytes: int = 128 << 20
    idle_after: float = 3600.0

    def __post_init__(self) -> None:
        _check_positive(self)


def _check_positive(settings: WatchSettings | TopicSettings) -> None:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if not 0 < value < float("inf"):
            message = f"{field.name}: must be positive, got {value:,}"
            raise ValueError(message)
