"""From a registered handler to a method that a loop can run."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from atoll._core import Gate
from atoll.loop import IoContext
from atoll.rpc._context import ServicerContext, SyncServicerContext


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
class Resolved:
    """The options that hold for one method, as they cross into Rust; see `MethodOptions`.

    Attributes:
        gate: What its calls pass; None where nothing limits them. Methods that share a limit share it.
        waits: Whether calls wait for it, and are not refused.
        lane: The number of the lane.
        blocking: Whether a plain function runs on the thread pool wherever it is placed.
        max_receive_message_size: The largest request; None is the server's.
        max_send_message_size: The largest reply; None is the server's.
    """

    gate: Gate | None = None
    waits: bool = False
    lane: int = 1
    blocking: bool = False
    max_receive_message_size: int | None = None
    max_send_message_size: int | None = None


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
        request_streaming: Whether the handler reads the request's messages itself; it gets None for the request.
        response_streaming: Whether the handler sends the reply's messages itself; what it returns is ignored.
        finds_handler: Whether the handler finds the one that answers, which says how messages are read and written.
        compression: How replies are compressed where the handler says nothing else: a `Compression`.
        options: What has been set for it.
    """

    path: str
    name: str
    io_context: IoContext
    handler: Callable[..., Any]
    deserializer: Callable[[bytes], Any] | None
    serializer: Callable[[Any], bytes] | None
    context_type: type[ServicerContext | SyncServicerContext]
    is_coroutine: bool
    request_streaming: bool = False
    response_streaming: bool = False
    finds_handler: bool = False
    compression: int = 0
    options: Resolved = Resolved()


def behaviour(handler: RpcMethodHandler) -> Callable[..., Any] | None:
    """The function that `handler` registers, of whichever kind of call."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def is_coroutine_function(handler: Callable[..., Any]) -> bool:
    """Whether calling `handler` gives a coroutine; also for objects with a coroutine function as `__call__`."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004 - the method itself is wanted
