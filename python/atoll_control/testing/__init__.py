"""Fakes for tests of the control plane's modules: time that is set, and calls without a network.

    loop = ManualLoop()
    module = Module(io_context=loop)
    loop.advance(5.0)                                        # runs what falls due on the way
    reply = await answer(module.Get, GetRequest(key="a"))
    refused = await refusal(module.Get, GetRequest())
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT

A module that takes its `IoContext` from where it is made is tested on one with an `atoll.testing.ManualClock`.

Beside them, for tests with real processes: `server_process`, `etcd`, and `history`, a load whose outcome is checked.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import random  # noqa: TID251 - a loop's own numbers
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast

from atoll.errors import AbortError
from atoll.testing import FakeServicerContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    import grpc
    import grpc.aio

Ts = TypeVarTuple("Ts")
Request = TypeVar("Request")
Response = TypeVar("Response")


class ManualLoop:
    """Stands in for a module's `IoContext`: its time stands still until it is moved."""

    def __init__(self, *, now: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        """Sets both clocks, in seconds."""
        self._now = now
        self._wall_offset = wall - now
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Callable[[], object]]] = []
        self._coroutines: list[Coroutine[Any, Any, object]] = []
        self.random = random.Random(0)  # noqa: S311 - the same numbers in every run

    def now(self) -> float:
        """Seconds by the monotonic clock."""
        return self._now

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._now + self._wall_offset

    def post(
        self,
        handler: Callable[[*Ts], object],
        /,
        *args: *Ts,
        name: str | None = None,  # noqa: ARG002 - there are no statistics
        delay: float = 0.0,
    ) -> None:
        """Keeps the handler until its time comes."""
        heapq.heappush(self._waiting, (self._now + delay, next(self._order), lambda: handler(*args)))

    def advance(self, seconds: float) -> None:
        """Moves the clocks on and runs each handler at the very time it is due, or now if that has passed."""
        end = self._now + seconds
        while self._waiting and self._waiting[0][0] <= end:
            due, _, handler = heapq.heappop(self._waiting)
            self._now = max(self._now, due)
            if inspect.iscoroutine(coroutine := handler()):
                self._coroutines.append(coroutine)
        self._now = end

    async def settle(self) -> None:
        """Runs the coroutines of handlers that `advance` has started to their end."""
        coroutines, self._coroutines = self._coroutines, []
        await asyncio.gather(*coroutines)

    def stall(self, seconds: float) -> None:
        """Moves the clocks on while nothing runs, as a stuck loop does; `advance` runs what fell due, late."""
        self._now += seconds


class Refused(Exception):  # noqa: N818 - it is what a call ended with, not what went wrong in the test
    """A call ended with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        """Takes what the handler aborted with."""
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


async def answer(
    method: Callable[[Request, grpc.aio.ServicerContext[Request, Response]], Awaitable[Response]],
    request: Request,
    context: FakeServicerContext | None = None,
) -> Response:
    """Calls a handler without a network, with `context` if the call is to have a connection, metadata or a past.

    Raises:
        Refused: the handler aborted.
    """
    context = context or FakeServicerContext()
    try:
        return await method(request, cast("Any", context))
    except AbortError:
        raise Refused(cast("grpc.StatusCode", context.code()), context.details()) from None


async def refusal(
    method: Callable[[Request, grpc.aio.ServicerContext[Request, Response]], Awaitable[Response]],
    request: Request,
    context: FakeServicerContext | None = None,
) -> Refused:
    """Calls a handler without a network and returns what it aborted with.

    Raises:
        AssertionError: the handler answered.
    """
    try:
        response = await answer(method, request, context)
    except Refused as refused:
        return refused
    raise AssertionError(f"the call was answered: {response}")
