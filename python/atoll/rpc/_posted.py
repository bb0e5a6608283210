"""Handlers of other loops: an interceptor may choose one, and it runs where it lives.

An interceptor that returns one sends the whole call there: the handler reads and writes on its own loop, the loop of
the path only waits. One that wraps it gets a function of the same kind, whose messages cross from loop to loop one by
one; what the handler reads and writes through its context is read and written on its own loop there, too.

| what | on which loop |
|---|---|
| `run`, the functions for who wraps it, `Crossing.take` | that of the called path |
| `_live_there`, `_hand_over`, `Crossing.hand_over` | the handler's |
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

from atoll.errors import AbortError, LoopClosedError, MailboxFull
from atoll.loop import IoContext
from atoll.rpc._context import ServicerContext
from atoll.rpc._kinds import RequestIterator, Runner, only_request
from atoll.rpc._method import Resolved, RpcMethodHandler, behaviour
from atoll.rpc._status import StatusCode

_END: Final = object()


@dataclass(frozen=True)
class Located:
    """A registered handler, and how it runs where it lives.

    Attributes:
        handler: As it was registered.
        name: Its name in statistics.
        io_context: Its loop.
        made: How that runs it.
        on_loop: Whether plain functions run on it; otherwise on the thread pool.
        options: What has been set for it.
    """

    handler: RpcMethodHandler
    name: str
    io_context: IoContext
    made: Runner
    on_loop: bool
    options: Resolved


class PostedHandler:
    """A handler of another loop, for one call; it has the attributes of `grpc.RpcMethodHandler`.

    Args:
        located: The handler.
        context: The call's, whatever a wrapper passes on in its place.
        here: The loop of the called path.
        use: Makes the context one of a plain function's.
    """

    def __init__(
        self, located: Located, context: ServicerContext, here: IoContext, use: Callable[[ServicerContext], None]
    ) -> None:
        handler = located.handler
        self.request_streaming = handler.request_streaming
        self.response_streaming = handler.response_streaming
        self.request_deserializer = handler.request_deserializer
        self.response_serializer = handler.response_serializer
        self._located = located
        self._context = context
        self._here = here
        self._use = use
        function = self._replies if located.made.yields else self._answer
        kind = (handler.request_streaming, handler.response_streaming)
        self.unary_unary = function if kind == (False, False) else None
        self.unary_stream = function if kind == (False, True) else None
        self.stream_unary = function if kind == (True, False) else None
        self.stream_stream = function if kind == (True, True) else None

    async def run(self, request: bytes | None, context: ServicerContext) -> object:
        """Answers the call, there."""
        if self._located.made.takes_sync_context:
            self._use(context)
        handler = self._located.handler
        streams = (self.request_streaming, self.response_streaming)
        converters = (handler.request_deserializer, handler.response_serializer)
        message = context._found(self._here, *converters, streams, request)  # noqa: SLF001 - the native half's
        if request is None and not handler.request_streaming:
            message = await only_request(context)
        return await self._there(self._located.made.run, message, context, alone=True)

    # What wraps it calls one of these.

    async def _answer(self, request: object, context: ServicerContext) -> object:
        function, request = self._function_and_request(request)
        if self._located.made.takes_sync_context:
            self._use(self._context)
        return await self._there(function, request, context, alone=False)

    async def _replies(self, request: object, context: ServicerContext) -> AsyncIterator[Any]:
        function, request = self._function_and_request(request)
        crossing = Crossing(self._here)
        answer = asyncio.ensure_future(
            self._there(partial(crossing.hand_over, function), request, context, alone=False)
        )
        answer.add_done_callback(crossing.ended)
        try:
            while (message := await crossing.take()) is not _END:
                yield message
                crossing.go_on(self._located.io_context)
            await answer
        finally:
            answer.cancel()

    def _function_and_request(self, request: object) -> tuple[Callable[..., Any], object]:
        """What runs there: the function itself, where the wrapper may have messages of its own."""
        located = self._located
        if located.made.takes_sync_context:
            # Reads by itself, from its call.
            return located.made.run, request
        function = behaviour(located.handler) or _no_function
        if located.handler.request_streaming and not isinstance(request, RequestIterator):
            request = MessagesElsewhere(request, self._here, located.name)
        return function, request

    async def _there(
        self, function: Callable[..., Any], request: object, context: ServicerContext, *, alone: bool
    ) -> object:
        """Runs the function on the handler's loop; `alone` when nothing else reads and writes the call's messages."""
        io_context = self._located.io_context
        try:
            answer = io_context.submit(self._live_there, function, request, context, alone, name=self._located.name)
        except (LoopClosedError, MailboxFull):
            text = f"Loop {io_context.name} is closed or full, and has the handler"
            return await self._context.abort(StatusCode.RESOURCE_EXHAUSTED, text)
        result = await answer
        if isinstance(result, _Aborted):
            raise result.error
        return result

    async def _live_there(
        self,
        function: Callable[..., Any],
        request: object,
        context: ServicerContext,
        alone: bool,  # noqa: FBT001 - as it is posted
    ) -> object:
        io_context = self._located.io_context
        self._context._arrive(io_context, alone)  # noqa: SLF001 - the native half's
        try:
            reply = function(request, context)
            # What is no coroutine runs to its end at once; what a coroutine function returns is awaited.
            return await reply if asyncio.iscoroutine(reply) else reply
        except AbortError as error:
            # It has answered the call, and is no error of the handler's.
            return _Aborted(error)
        finally:
            self._context._depart(io_context)  # noqa: SLF001


@dataclass(frozen=True)
class _Aborted:
    """A handler has ended by `abort()`."""

    error: AbortError


class Crossing:
    """Messages on their way from one loop to another, one at a time.

    Args:
        here: The loop that takes them.
    """

    def __init__(self, here: IoContext) -> None:
        self._here = here
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._wanted = asyncio.Semaphore(0)

    async def hand_over(self, function: Callable[..., AsyncIterator[Any]], request: object, context: object) -> None:
        """Runs an async generator where this runs, and has each message taken before it goes on."""
        # A generator's end is in the task of its beginning.
        async with contextlib.aclosing(function(request, context)) as messages:  # type: ignore[type-var]
            async for message in messages:
                self._here._post_internal(partial(self._arrived.put_nowait, message))  # noqa: SLF001 - to itself
                await self._wanted.acquire()

    async def take(self) -> Any:  # noqa: ANN401 - the reply's class
        """The next message, or the end."""
        return await self._arrived.get()

    def go_on(self, there: IoContext) -> None:
        """Wants another one."""
        there._post_internal(self._wanted.release)  # noqa: SLF001 - the framework's message to itself

    def ended(self, _answer: object) -> None:
        """There are no more."""
        self._arrived.put_nowait(_END)


class MessagesElsewhere:
    """The messages of an iterator that belongs to another loop.

    Args:
        messages: An async iterator.
        home: Its loop.
        name: The handler's, in the statistics of that loop.
    """

    def __init__(self, messages: Any, home: IoContext, name: str) -> None:  # noqa: ANN401 - whatever a wrapper passes
        self._messages = aiter(messages)
        self._home = home
        self._name = name

    def __aiter__(self) -> AsyncIterator[Any]:
        """Itself."""
        return self

    async def __anext__(self) -> Any:  # noqa: ANN401 - the request's class
        """The next message."""
        message = await self._home.submit(_next, self._messages, name=f"{self._name} (requests)")
        if message is _END:
            raise StopAsyncIteration
        return message


async def _next(messages: AsyncIterator[Any]) -> object:
    return await anext(messages, _END)


def _no_function(_request: object, _context: object) -> NoReturn:
    raise TypeError("the method is registered without a function: register one for its kind of call")
