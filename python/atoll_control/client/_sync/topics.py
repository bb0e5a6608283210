# Made of _aio/topics.py by scripts/make_sync_client.py: change that, and run it.
"""`client.topics`: events for whoever watches."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from atoll_control.api.v1 import watch_pb2, watch_pb2_grpc
from atoll_control.client._values import PAGE, as_bytes, goes_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from atoll_control.client._sync._channel import RoutedChannel


class Topics:
    """Topics. `timeout` is in seconds, for all attempts of a call together, and the client's when None."""

    def __init__(self, channel: RoutedChannel) -> None:
        """`Client` makes it."""
        self._stub: watch_pb2_grpc.TopicServiceStub = watch_pb2_grpc.TopicServiceStub(cast("grpc.Channel", channel))

    def publish(
        self, topic: str, payload: bytes | str, *, key: bytes | str = b"", timeout: float | None = None
    ) -> watch_pb2.PublishResponse:
        """Appends an event to a topic, which is made by its first one. It is kept in memory, within a window.

        Raises:
            ExhaustedError: there are as many topics as there may be.
            UnknownOutcomeError: it may have been published.
        """
        request = watch_pb2.PublishRequest(topic=topic, key=as_bytes(key), payload=as_bytes(payload))
        return self._stub.Publish(request, timeout=timeout)

    def list(self, *, page_size: int = PAGE, timeout: float | None = None) -> Iterator[watch_pb2.Topic]:
        """Topics in the order of their names, read page by page as they are asked for."""
        request = watch_pb2.ListTopicsRequest(limit=page_size)
        more = True
        while more:
            page = self._stub.ListTopics(request, timeout=timeout)
            for topic in page.topics:
                yield topic
            if more := goes_on("ListTopics", more=page.more, page=page.topics):
                request.start_after = page.topics[-1].name
