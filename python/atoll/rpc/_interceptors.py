"""Interceptors: what may look at a call, and choose its handler, before the handler does.

They have the interface of `grpc.aio.ServerInterceptor`, and run as grpc.aio has them run: in order, before the handler
is chosen and the request parsed, for unknown methods too, in the handler's task and with its context variables. The
called path says on which loop. Servers without interceptors know nothing of all this.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

from atoll.loop import IoContext
from atoll.rpc._context import ServicerContext
from atoll.rpc._generic import DetailsOfCall, GenericRpcHandler, HandlerCallDetails
from atoll.rpc._kinds import Prepared, Runner, only_request, prepare, runner
from atoll.rpc._method import Resolved, RpcMethodHandler
from atoll.rpc._posted import Located, PostedHandler
from atoll.rpc._spread import Spread
from atoll.rpc._status import StatusCode

Continuation = Callable[[Any], Awaitable[RpcMethodHandler | None]]


class Interceptor(Protocol):
    """`grpc.aio.ServerInterceptor`."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: HandlerCallDetails, /
    ) -> RpcMethodHandler | None:
        """Gives the handler of a call: that of `await continuation(handler_call_details)`, or another."""


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
class SpreadLocated:
    """The handlers of a method on several loops, in their order."""

    located: tuple[Located, ...]
    spread: Spread


class KnownHandlers:
    """The handlers that a server was given, for those who look for one when a call has come.

    Args:
        by_path: Those that were registered, by their methods' paths.
        generic: Those that decide for each call whether they serve it.
        home: The loop of what nobody placed, which is theirs.
        pool: Where plain functions run that are on no loop; None for the loop's default executor.
        use: Makes a context one of a plain function's.
    """

    def __init__(
        self,
        by_path: Mapping[str, Located | SpreadLocated],
        generic: Sequence[GenericRpcHandler],
        home: IoContext,
        pool: Executor | None,
        use: Callable[[ServicerContext], None],
    ) -> None:
        self.by_path = by_path
        self.generic = tuple(generic)
        self.home = home
        self.pool = pool
        self.use = use

    @cached_property
    def _prepared(self) -> dict[IoContext, dict[int, Prepared]]:
        """Made once, and only for a server that finds its handlers when a call has come."""
        tables: dict[IoContext, dict[int, Prepared]] = {}
        for it in _all(self.by_path):
            tables.setdefault(it.io_context, {})[id(it.handler)] = prepare(it.handler, it.made)
        return tables

    def prepared_on(self, io_context: IoContext) -> Mapping[int, Prepared]:
        """What runs the registered handlers of a loop, by ids that no other has: they are kept."""
        return self._prepared.get(io_context, {})

    def find(self, path: str, context: ServicerContext, details: HandlerCallDetails) -> Located | None:
        """What serves `path`."""
        match self.by_path.get(path):
            case SpreadLocated(located, spread):
                return located[spread.choose(context)]
            case None:
                return self._ask_generic(path, details)
            case located:
                return located

    def _ask_generic(self, path: str, details: HandlerCallDetails) -> Located | None:
        for generic in self.generic:
            handler = generic.service(details)
            if handler is not None:
                made = runner(path, handler, on_loop=False, pool=self.pool)
                return Located(handler, path.removeprefix("/"), self.home, made, on_loop=False, options=Resolved())
        return None


class Interception:
    """What answers the calls of a server with interceptors that come to one loop by one kind of placement.

    Args:
        interceptors: In the order in which they are asked.
        known: Where handlers are found.
        io_context: The loop on which this runs.
        on_loop: Whether plain functions that an interceptor brings run on it; otherwise on the thread pool.
    """

    def __init__(
        self, interceptors: tuple[Interceptor, ...], known: KnownHandlers, io_context: IoContext, *, on_loop: bool
    ) -> None:
        self._interceptors = interceptors
        self._known = known
        self._io_context = io_context
        self._on_loop = on_loop
        self._prepared = known.prepared_on(io_context)

    async def run(self, request: bytes | None, context: ServicerContext) -> object:
        """Answers a call."""
        found: list[Located] = []
        handler = await self._ask(0, found, context, DetailsOfCall(context))
        if handler is None:
            await context.abort(StatusCode.UNIMPLEMENTED, "Method not found!")
        if isinstance(handler, PostedHandler):
            return await handler.run(request, context)
        prepared = self._prepared.get(id(handler))
        if prepared is None:
            prepared = prepare(handler, self._made(handler, found, context))
        made, deserializer, serializer, streams = prepared
        if made.takes_sync_context:
            self._known.use(context)
        message = context._found(self._io_context, deserializer, serializer, streams, request)  # noqa: SLF001
        if request is None and not streams[0]:
            message = await only_request(context)
        reply = made.run(message, context)
        return await reply if made.is_coroutine else reply

    def _made(self, handler: RpcMethodHandler, found: list[Located], context: ServicerContext) -> Runner:
        """How a handler runs that a generic one has given for this call, or an interceptor has brought."""
        for located in found:
            if located.handler is handler:
                return located.made
        path = context._path  # noqa: SLF001 - the native half's
        return runner(path, handler, on_loop=self._on_loop, pool=self._known.pool)

    async def _ask(
        self, index: int, found: list[Located], context: ServicerContext, details: HandlerCallDetails
    ) -> RpcMethodHandler | None:
        if index == len(self._interceptors):
            return self._find(found, context, details)
        continuation = partial(self._ask, index + 1, found, context)
        return await self._interceptors[index].intercept_service(continuation, details)

    def _find(
        self, found: list[Located], context: ServicerContext, details: HandlerCallDetails
    ) -> RpcMethodHandler | None:
        """The handler of a path, which an interceptor may have changed; those of this loop are `found`."""
        located = self._known.find(details.method, context, details)
        if located is None:
            return None
        if located.io_context is self._io_context:
            found.append(located)
            return located.handler
        return PostedHandler(located, context, self._io_context, self._known.use)


def _all(by_path: Mapping[str, Located | SpreadLocated]) -> Iterator[Located]:
    for entry in by_path.values():
        if isinstance(entry, SpreadLocated):
            yield from entry.located
        else:
            yield entry
