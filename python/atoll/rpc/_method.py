"""From a registered handler to a method that a loop can run."""

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from atoll.loop import IoContext
from atoll.rpc._context import ServicerContext, SyncServicerContext
from atoll.rpc._status import StatusCode


class RpcMethodHandler(Protocol):
    """What generated code registers for a method: `grpc.RpcMethodHandler`."""

    request_streaming: bool
    response_streaming: bool
    request_deserializer: Callable[[bytes], Any] | None
    response_serializer: Callable[[Any], bytes] | None
    unary_unary: Callable[..., Any] | None
    unary_stream: Callable[..., Any] | None
    stream_unary: Callable[..., Any] | None
    stream_stream: Callable[..., Any] | None


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method, as it crosses into Rust.

    Attributes:
        path: Such as `/package.Service/Method`.
        name: Its name in statistics: `Service.Method`.
        io_context: The loop that runs it.
        handler: Called with the request and a context.
        deserializer: From the request's bytes; None leaves them as they are.
        serializer: To the reply's bytes; None when the handler returns bytes.
        context_type: The class of the context.
        is_coroutine: Whether the handler is a coroutine function, which brings its own context variables.
    """

    path: str
    name: str
    io_context: IoContext
    handler: Callable[..., Any]
    deserializer: Callable[[bytes], Any] | None
    serializer: Callable[[Any], bytes] | None
    context_type: type[ServicerContext | SyncServicerContext]
    is_coroutine: bool


def behaviour(handler: RpcMethodHandler) -> Callable[..., Any] | None:
    """The function that `handler` registers, of whichever kind of call."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def in_thread_pool(handler: Callable[..., Any], pool: Executor | None) -> Callable[..., Any]:
    """A coroutine function that runs the plain function `handler` on `pool`, as grpc.aio does."""

    def call(request: object, context: SyncServicerContext) -> object:
        try:
            return handler(request, context)
        except StopIteration as error:
            # No future takes it: before 3.12 whoever waits would wait forever.
            raise RuntimeError("the handler raised StopIteration") from error

    async def run(request: object, context: SyncServicerContext) -> object:
        within = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(pool, within, call, request, context)

    return run


async def refuse_streaming(_request: object, context: ServicerContext) -> None:
    """Stands in for the handlers of streaming methods, which the bridge does not serve yet."""
    await context.abort(StatusCode.UNIMPLEMENTED, "this server does not serve streaming methods yet")


def is_coroutine_function(handler: Callable[..., Any]) -> bool:
    """Whether calling `handler` gives a coroutine; also for objects with a coroutine function as `__call__`."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004 - the method itself is wanted
