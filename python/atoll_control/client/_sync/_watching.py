"""`Watch`: the events of one watch, over as many streams as it takes. One thread iterates; any may close it."""

from __future__ import annotations

import random  # noqa: TID251 - a client lives outside any loop: its pauses are its own
import threading  # noqa: TID251 - another thread may close it
import time  # noqa: TID251 - the same
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc

from atoll_control.api.v1 import watch_pb2_grpc
from atoll_control.client._failure import Failure
from atoll_control.client._reconnecting import Reconnecting
from atoll_control.client._watch_session import OLDEST, WatchSession

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from atoll_control.api.v1 import watch_pb2
    from atoll_control.client._sync._channel import RoutedChannel
    from atoll_control.client.events import Position, TopicPosition

E = TypeVar("E")


class Watch(Generic[E]):
    """An iterator over the events of a watch, which goes on over reconnects and changes of the leader.

    Use it in a `with` block, or `close` it, where the loop over it may end before the watch does.

    Attributes:
        position: where to resume after the event that came last; None: with a snapshot.
    """

    def __init__(
        self, channel: RoutedChannel, template: watch_pb2.OpenWatch, after: Any, *, follow: bool, patience: float | None
    ) -> None:
        """`client.watch` makes them."""
        self._channel = channel
        self._session: WatchSession[E] = WatchSession(template, after, follow=follow)
        self._reconnecting = Reconnecting(
            channel.router,
            first_patience=channel.timeout,
            patience=patience,
            chance=random.random,
            wait_for_server=channel.wait_for_server,
        )
        self._pending: deque[Any] = deque()
        self._call: Any = None
        self._endpoint = ""
        self._pause = 0.0
        self._closed = threading.Event()
        self.position: Position | TopicPosition | None = None if after == OLDEST else after

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the watch; whoever iterates over it comes to its end."""
        self._closed.set()
        self._hang_up()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> E:
        """The next event.

        Raises:
            UnreachableError: no server has answered for as long as the watch has patience; it may be asked again.
            ClientError: the server refuses the watch.
            StopIteration: it is closed or, where it does not follow, has told everything.
        """
        while not self._pending or self._closed.is_set():
            if self._closed.is_set() or self._session.is_finished:
                self._hang_up()
                raise StopIteration
            self._read()
        event: E = self._pending.popleft()
        self._told(event)
        return event

    @property
    def was_opened(self) -> bool:
        """A server has answered it once: who is unreachable now may come back."""
        return self._session.was_opened

    def _told(self, event: Any) -> None:
        self.position = event.position if self._pending else self._session.after

    def _read(self) -> None:
        call = self._call
        if call is None:
            pause, self._pause = self._pause, 0.0
            if self._closed.wait(pause):
                return
            self._endpoint = self._channel.router.current
            stub = watch_pb2_grpc.WatchServiceStub(self._channel.channel_to(self._endpoint))
            call = self._call = stub.Watch(iter(self._session.requests()), metadata=self._channel.metadata)
            if self._closed.is_set():
                # Whoever closed it may not have seen the call.
                return
        try:
            response = next(call)
        except grpc.RpcError as error:
            self._failed(Failure.of(error))
            return
        except StopIteration:
            self._failed(Failure(grpc.StatusCode.UNAVAILABLE, "the stream has ended"))
            return
        self._reconnecting.answered(response)
        self._pending.extend(self._session.take(response))
        if not self._pending:
            self.position = self._session.after
        if self._session.must_reopen:
            self._hang_up()
            self._pause = self._reconnecting.reopened()

    def _failed(self, failure: Failure) -> None:
        self._hang_up()
        if self._closed.is_set():
            return
        self._pending.extend(self._session.interrupted())
        self._pause = self._reconnecting.failed(self._endpoint, failure, time.monotonic())

    def _hang_up(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
