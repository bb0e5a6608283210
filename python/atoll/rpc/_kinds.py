"""How handlers of each kind of call are run: unary or streaming either way, coroutine, generator or plain function.

Each is brought into one form, which is what a loop runs: `run(request, context)`. A streaming request is None there;
its messages are read from the context. What a streaming reply consists of is written to the context.
"""

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

from atoll.errors import PlacementError
from atoll.rpc._context import ServicerContext, SyncServicerContext
from atoll.rpc._method import RpcMethodHandler, behaviour, is_coroutine_function
from atoll.rpc._status import StatusCode

Run = Callable[[Any, Any], Any]


class Runner(NamedTuple):
    """A handler as a loop runs it; `yields` is for async generators."""

    run: Run
    is_coroutine: bool
    takes_sync_context: bool
    yields: bool = False


class RequestIterator:
    """The messages of a streaming request: `async for request in request_iterator`. On the call's loop."""

    __slots__ = ("_context",)

    def __init__(self, context: ServicerContext) -> None:
        """Made for a handler."""
        self._context = context

    def __aiter__(self) -> AsyncIterator[Any]:
        """Itself."""
        return self

    async def __anext__(self) -> Any:  # noqa: ANN401 - the request's class
        """The next message."""
        message = self._context._receive()  # noqa: SLF001 - the native half's
        while message is None:
            await self._context._wait_for_progress()  # noqa: SLF001
            message = self._context._receive()  # noqa: SLF001
        if message is False:
            raise StopAsyncIteration
        return message


class BlockingRequestIterator:
    """The messages of a streaming request, for a plain function on a thread of its own."""

    __slots__ = ("_context",)

    def __init__(self, context: SyncServicerContext) -> None:
        """Made for a handler."""
        self._context = context

    def __iter__(self) -> Iterator[Any]:
        """Itself."""
        return self

    def __next__(self) -> Any:  # noqa: ANN401 - the request's class
        """The next message; blocks until it has come."""
        message = self._context._receive_blocking()  # noqa: SLF001 - the native half's
        if message is False:
            raise StopIteration
        return message


def runner(path: str, handler: RpcMethodHandler, *, on_loop: bool, pool: Executor | None) -> Runner:
    """Brings a handler into the form that a loop runs.

    Args:
        path: The method's, for errors.
        handler: As it was registered.
        on_loop: Whether a plain function runs on the loop; otherwise on `pool`, as in grpc.aio.
        pool: Where plain functions run; None for the loop's default executor.

    Raises:
        PlacementError: When a plain function is to run on the loop and would block it for the client's messages.
        TypeError: When the handler is registered without a function.
    """
    function = behaviour(handler)
    if function is None:
        raise TypeError(f"{path} is registered without a function: register one for its kind of call")
    is_coroutine, is_async_generator = is_coroutine_function(function), _is_async_generator_function(function)
    if not (is_coroutine or is_async_generator):
        return _plain(path, function, handler, on_loop=on_loop, pool=pool)
    if handler.request_streaming:
        function = _reading(function)
    if is_async_generator:
        if not handler.response_streaming:
            raise TypeError(
                f"{path} answers with one message, and its handler is an async generator: return the message instead "
                "of yielding it"
            )
        return Runner(_yielding(function), is_coroutine=True, takes_sync_context=False, yields=True)
    return Runner(function, is_coroutine=True, takes_sync_context=False)


def _is_async_generator_function(function: Callable[..., Any]) -> bool:
    return inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(getattr(function, "__call__", None))  # noqa: B004 - the method itself is wanted


def _reading(function: Callable[..., Any]) -> Run:
    """Gives the function an iterator of the request's messages."""

    def run(_request: None, context: ServicerContext) -> object:
        return function(RequestIterator(context), context)

    return run


def _yielding(function: Run) -> Run:
    """Sends what an async generator yields."""

    async def run(request: object, context: ServicerContext) -> None:
        async with contextlib.aclosing(function(request, context)) as messages:
            async for message in messages:
                if not context._send(message):  # noqa: SLF001 - the native half's
                    await context._wait_for_room()  # noqa: SLF001

    return run


def _plain(
    path: str, function: Callable[..., Any], handler: RpcMethodHandler, *, on_loop: bool, pool: Executor | None
) -> Runner:
    if not on_loop:
        return Runner(_in_thread_pool(_blocking(function, handler), pool), is_coroutine=True, takes_sync_context=True)
    if handler.request_streaming:
        raise PlacementError(
            f"{path} reads its requests with a plain function, which would block the loop that it is placed on: make "
            "it `async def` with `async for`, or move it to the thread pool with @rpc.options(blocking=True)"
        )
    if not handler.response_streaming:
        return Runner(function, is_coroutine=False, takes_sync_context=True)

    async def run(request: object, context: SyncServicerContext) -> None:
        messages: Iterable[Any] = function(request, context)
        with _closing(messages):
            for message in messages:
                if not context._send(message):  # noqa: SLF001 - the native half's
                    await context._wait_for_room()  # noqa: SLF001

    return Runner(run, is_coroutine=True, takes_sync_context=True)


@contextlib.contextmanager
def _closing(messages: object) -> Iterator[None]:
    """Closes a generator at the end, so that its `finally` runs where it began; other iterables need none."""
    try:
        yield
    finally:
        if isinstance(messages, Generator):
            messages.close()


def _blocking(function: Callable[..., Any], handler: RpcMethodHandler) -> Run:
    """What the thread pool runs: reads and sends there, too."""

    def run(request: object, context: SyncServicerContext) -> object:
        if handler.request_streaming:
            request = BlockingRequestIterator(context)
        if not handler.response_streaming:
            return function(request, context)
        messages: Iterable[Any] = function(request, context)
        with _closing(messages):
            for message in messages:
                context._send_blocking(message)  # noqa: SLF001 - the native half's
        return None

    return run


def _in_thread_pool(function: Run, pool: Executor | None) -> Run:
    """A coroutine function that runs the plain function on `pool`, as grpc.aio does."""

    def call(request: object, context: SyncServicerContext) -> object:
        try:
            return function(request, context)
        except StopIteration as error:
            # No future takes it: before 3.12 whoever waits would wait forever.
            raise RuntimeError("the handler raised StopIteration") from error

    async def run(request: object, context: SyncServicerContext) -> object:
        within = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(pool, within, call, request, context)

    return run


class Prepared(NamedTuple):
    """What runs a handler that was found only when its call had come, of whose kind the transport knew nothing.

    Attributes:
        made: The handler, as a loop runs it.
        deserializer: From a request's bytes.
        serializer: To a reply's bytes.
        streams: Whether the handler reads its requests itself, and whether it sends its replies itself.
    """

    made: Runner
    deserializer: Callable[[bytes], Any] | None
    serializer: Callable[[Any], bytes] | None
    streams: tuple[bool, bool]


def prepare(handler: RpcMethodHandler, made: Runner) -> Prepared:
    """What `ServerCall._found` is to be told of a handler."""
    streams = (bool(handler.request_streaming), bool(handler.response_streaming))
    return Prepared(made, handler.request_deserializer, handler.response_serializer, streams)


async def only_request(context: ServicerContext) -> object:
    """The one message of a unary request."""
    messages = RequestIterator(context)
    try:
        request: object = await anext(messages)
    except StopAsyncIteration:
        await context.abort(StatusCode.UNIMPLEMENTED, "A unary request has one message, and this one has none")
    async for _ in messages:
        await context.abort(StatusCode.UNIMPLEMENTED, "A unary request has one message, and this one has more")
    return request
