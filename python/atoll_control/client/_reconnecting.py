"""`Reconnecting`: when a watch whose stream has ended opens another one, and when it gives up. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc

from atoll_control.client._attempts import MAX_HOPS, pause, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll_control.api.v1 import watch_pb2
    from atoll_control.client._attempts import Router
    from atoll_control.client._failure import Failure

# So many times in a row a server is asked again at once whose answer got lost. grpc.aio loses it when a stream is
# refused while its requests are being sent: measured in up to a third of all cases.
MAX_LOST_ANSWERS: Final = 8

# What a stream that was open may end with for reasons that pass: the server or something before it was restarted.
_PASSING: Final = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)


class Reconnecting:
    """What one watch knows of its streams."""

    def __init__(
        self,
        router: Router,
        *,
        first_patience: float,
        patience: float | None,
        chance: Callable[[], float],
        wait_for_server: bool = True,
    ) -> None:
        """Begins.

        Args:
            router: of the client.
            first_patience: seconds without an answer before the first stream is given up.
            patience: the same later; None: never.
            chance: gives numbers from 0 to 1.
            wait_for_server: be patient for the first stream also when no endpoint can be connected to.
        """
        self._router = router
        self._patience: float | None = first_patience
        self._later_patience = patience
        self._chance = chance
        self._wait_for_server = wait_for_server
        self._not_connected: set[str] = set()
        self._was_open = False
        self._down_since: float | None = None
        self._number = 0
        self._hops = 0
        self._lost_answers = 0

    def answered(self, response: watch_pb2.WatchResponse) -> None:
        """A server has said something of the watch."""
        self._was_open = True
        self._patience = self._later_patience
        self._down_since = None
        self._hops = 0
        self._lost_answers = 0
        if response.WhichOneof("response") in {"changes", "events", "bookmark"} or response.page.last:
            # A snapshot that is given up again and again is no progress.
            self._number = 0

    def reopened(self) -> float:
        """The watch has ended, and not its stream; the seconds to wait before it is opened again."""
        self._number += 1
        return 0.0 if self._number == 1 else pause(self._number, self._chance())

    def failed(self, endpoint: str, failure: Failure, now: float) -> float:
        """A stream has failed; the seconds to wait before the next one.

        Raises:
            ClientError: it can't go on. After an `UnreachableError` it may be tried again.
        """
        is_passing = failure.status in _PASSING if self._was_open else failure.status is grpc.StatusCode.UNAVAILABLE
        if not is_passing:
            raise failure.error()
        if self._down_since is None:
            self._down_since = now
        if failure.answer_is_lost and self._lost_answers < MAX_LOST_ANSWERS:
            self._lost_answers += 1
            return 0.0
        self._lost_answers = 0
        if self._router.failed(endpoint, failure) and self._hops < MAX_HOPS:
            self._hops += 1
            return 0.0
        self._number += 1
        delay = pause(self._number, self._chance())
        if failure.was_not_sent:
            self._not_connected.add(endpoint)
        nobody_there = not self._wait_for_server and self._not_connected.issuperset(self._router.endpoints)
        is_over = self._patience is not None and now + delay - self._down_since >= self._patience
        if is_over or (nobody_there and not self._was_open):
            self._down_since = None
            self._not_connected.clear()
            raise unreachable(self._router, endpoint, failure)
        return delay
