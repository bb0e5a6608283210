"""Interceptors: what may look at a call, and choose its handler, before the handler does.

They have the interface of `grpc.aio.ServerInterceptor`, and run as grpc.aio has them run: in order, before the handler
is chosen and the request parsed, for unknown methods too, in the handler's task and with its context variables. The
called path says on which loop. Servers without interceptors know nothing of all this.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol, cast

from atoll.errors import PlacementError
from atoll.loop import IoContext
from atoll.rpc._context import ServicerContext
from atoll.rpc._generic import HandlerCallDetails
from atoll.rpc._method import RpcMethodHandler
from atoll.rpc._registry import Registered, Registry, SpreadRegistered
from atoll.rpc._status import StatusCode

Continuation = Callable[[Any], Awaitable[RpcMethodHandler | None]]


class Interceptor(Protocol):
    """`grpc.aio.ServerInterceptor`."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: HandlerCallDetails, /
    ) -> RpcMethodHandler | None:
        """Gives the handler of a call: that of `await continuation(handler_call_details)`, or another."""


# Answers a call by a handler; the flag says whether a plain function runs on the loop.
Invoke = Callable[[RpcMethodHandler, ServicerContext, bool], Awaitable[object]]


def check_interceptors(interceptors: Sequence[Any]) -> tuple[Interceptor, ...]:
    """Returns the interceptors.

    Raises:
        ValueError: When one is none; the message says what it has to have.
    """
    for interceptor in interceptors:
        if isinstance(interceptor, type) or not callable(getattr(interceptor, "intercept_service", None)):
            raise ValueError(  # noqa: TRY004 - as in grpc.aio
                f"{interceptor!r} is no interceptor: it needs async def intercept_service(self, continuation, "
                "handler_call_details), as grpc.aio.ServerInterceptor has it"
            )
    return tuple(interceptors)


@dataclass(frozen=True)
class Interception:
    """What answers the calls of a server with interceptors that come to one loop by one kind of placement.

    Attributes:
        interceptors: In the order in which they are asked.
        registry: Where handlers are found.
        home: The loop of what nobody placed.
        io_context: The loop on which this runs.
        on_loop: Whether plain functions run on it; otherwise on the thread pool.
        invoke: Answers a call by a handler.
    """

    interceptors: tuple[Interceptor, ...]
    registry: Registry
    home: IoContext
    io_context: IoContext
    on_loop: bool
    invoke: Invoke

    async def run(self, _request: None, context: ServicerContext) -> object:
        """Answers a call."""
        details = HandlerCallDetails(context._path, context.invocation_metadata())  # noqa: SLF001 - the native half's
        handler = await self._ask(0, context, details)
        if handler is None:
            await context.abort(StatusCode.UNIMPLEMENTED, "Method not found!")
        return await self.invoke(handler, context, self.on_loop)

    async def _ask(self, index: int, context: ServicerContext, details: HandlerCallDetails) -> RpcMethodHandler | None:
        if index == len(self.interceptors):
            return self._find(context, details)
        continuation = partial(self._ask, index + 1, context)
        return await self.interceptors[index].intercept_service(continuation, details)

    def _find(self, context: ServicerContext, details: HandlerCallDetails) -> RpcMethodHandler | None:
        """The handler of a path, which an interceptor may have changed."""
        match self.registry.methods.get(details.method):
            case Registered(handler, io_context):
                return self._here(details.method, handler, io_context or self.home)
            case SpreadRegistered(handlers, spread):
                index = spread.choose(context)
                return self._here(details.method, handlers[index], spread.io_contexts[index])
            case None:
                found = (generic.service(details) for generic in self.registry.generic)
                return next((handler for handler in found if handler is not None), None)

    def _here(self, path: str, handler: RpcMethodHandler, io_context: IoContext) -> RpcMethodHandler:
        """A handler that may be called here; one of another loop is posted there."""
        if io_context is self.io_context:
            return handler
        if handler.request_streaming or handler.response_streaming:
            raise PlacementError(
                f"an interceptor on loop {self.io_context.name!r} chose {path}, which lives on loop "
                f"{io_context.name!r} and streams, and a stream belongs to the loop on which it arrived: "
                "place both services on one loop"
            )
        return cast("RpcMethodHandler", PostedHandler(handler, path, io_context))


class PostedHandler:
    """A unary handler of another loop; calling it runs it there."""

    request_streaming = False
    response_streaming = False
    unary_stream = stream_unary = stream_stream = None

    def __init__(self, handler: RpcMethodHandler, path: str, io_context: IoContext) -> None:
        self.request_deserializer = handler.request_deserializer
        self.response_serializer = handler.response_serializer
        self._handler = handler
        self._name = path.rpartition("/")[2]
        self._io_context = io_context

    async def unary_unary(self, request: object, context: ServicerContext) -> object:
        """Runs the handler on its loop."""
        function = self._handler.unary_unary or _no_function
        return await self._io_context.submit(function, request, context, name=self._name)


def _no_function(_request: object, _context: object) -> NoReturn:
    raise TypeError("the method is registered without a function: register one for its kind of call")
