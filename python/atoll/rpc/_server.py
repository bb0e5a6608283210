"""The gRPC server: registers services, places them on loops, starts and stops the transport.

A server is configured and stopped on the asyncio loop that starts it; the placement says which thread runs which
handler.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, ClassVar, Final, NoReturn, Protocol

from atoll._core import ServerCore
from atoll.errors import BindError, LoopClosedError, MailboxFull, PlacementError, ServerStateError
from atoll.loop import IoContext
from atoll.rpc._context import ServicerContext, SyncServicerContext
from atoll.rpc._generic import GenericRpcHandler, ask_each, known_methods
from atoll.rpc._kinds import run_found, runner
from atoll.rpc._method import Method, RpcMethodHandler, behaviour
from atoll.rpc._options import server_options
from atoll.rpc._status import Compression

_logger = logging.getLogger("atoll.rpc")

# How long `stop` waits for the handlers of calls that it has cancelled.
HANDLERS_TIMEOUT: Final = 1.0
# How long `stop` waits before it asks a loop again whose mailbox was full.
FULL_MAILBOX_PAUSE: Final = 0.01


class Placement(Protocol):
    """Who knows which module lives where: an `IoContextProvider`."""

    def placement_of(self, module: type, /) -> IoContext | None:
        """The loop of a module's class, or None when nobody placed it."""


class Registrar(Protocol):
    """Where generated code adds a servicer: a server, or `server.on(io_context)`."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        """Adds handlers."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Adds the methods of a service."""


class Binding:
    """A server seen through one loop: what is added here runs there."""

    def __init__(self, server: "Server", io_context: IoContext) -> None:
        """Made by `Server.on`."""
        self._bound_server = server
        self._io_context = io_context

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        """Adds handlers that run on this loop."""
        self._bound_server._add_generic(generic_rpc_handlers, self._io_context)  # noqa: SLF001 - its other half

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Adds methods that run on this loop."""
        self._bound_server._add_methods(service_name, method_handlers, self._io_context)  # noqa: SLF001 - its other half

    def add_insecure_port(self, address: str) -> int:
        """See `Server.add_insecure_port`."""
        return self._bound_server.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: object) -> NoReturn:
        """See `Server.add_secure_port`."""
        self._bound_server.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        """See `Server.start`."""
        await self._bound_server.start()

    async def stop(self, grace: float | None) -> None:
        """See `Server.stop`."""
        await self._bound_server.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - grpc's signature
        """See `Server.wait_for_termination`."""
        return await self._bound_server.wait_for_termination(timeout)


class Server:
    """A gRPC server whose services live on loops; `rpc.server()` makes one that is also a `grpc.aio.Server`.

    Args:
        placement: The provider that places servicers by their class; others live on the loop that starts the server.
        network_threads: Native threads that serve connections; None for a quarter of the cores, at least one.
        options: grpc's channel options, as (name, value).
        migration_thread_pool: Where plain functions of unplaced servicers run; None for the loop's default executor.
        compression: How replies are compressed where a handler says nothing else: a `Compression`; None is not at all.

    Raises:
        ValueError: When an option can't work; the message names it.
    """

    _context_type: ClassVar[type[ServicerContext]] = ServicerContext
    _sync_context_type: ClassVar[type[SyncServicerContext]] = SyncServicerContext

    def __init__(
        self,
        *,
        placement: Placement | None = None,
        network_threads: int | None = None,
        options: Sequence[tuple[str, Any]] = (),
        migration_thread_pool: Executor | None = None,
        compression: int | None = None,
    ) -> None:
        """Creates the server; nothing listens yet."""
        self._compression = int(Compression(compression or 0))
        self._placement = placement
        self._thread_pool = migration_thread_pool
        self._core = ServerCore(server_options(network_threads, options))
        self._handlers: dict[str, tuple[RpcMethodHandler, IoContext | None]] = {}
        self._generic: list[GenericRpcHandler] = []
        self._started = False
        self._stopping = False
        self._terminated = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._endings: set[asyncio.Task[None]] = set()
        self._loops: set[IoContext] = set()

    # ------------------------------------------------------------------------------------------------------- services

    def on(self, io_context: IoContext) -> Binding:
        """A view of this server whose servicers run on `io_context`.

        Pass it to generated code: `add_CounterServicer_to_server(Counter(), server.on(loop))`.

        Raises:
            PlacementError: By the view, when the policy places the servicer elsewhere.
        """
        return Binding(self, io_context)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        """Adds handlers, as generated code does. Before the start.

        Raises:
            ServerStateError: When the server has been started.
        """
        self._add_generic(generic_rpc_handlers, None)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Adds the methods of a service, as generated code does. Before the start.

        Raises:
            ServerStateError: When the server has been started.
        """
        self._add_methods(service_name, method_handlers, None)

    def _add_generic(self, handlers: Sequence[Any], io_context: IoContext | None) -> None:
        self._check_not_started("services")
        for handler in handlers:
            methods = known_methods(handler)
            if methods is not None:
                for path, method in methods.items():
                    self._handlers.setdefault(path, (method, self._check_placement(path, method, io_context)))
            elif io_context is None:
                self._generic.append(handler)
            else:
                raise PlacementError(
                    f"{handler!r} decides for each call whether it serves it, so its methods can't be bound to a loop: "
                    "add it "
                    f"to the server itself, or use grpc.method_handlers_generic_handler"
                )

    def _add_methods(self, service: str, methods: Mapping[str, Any], io_context: IoContext | None) -> None:
        self._check_not_started("services")
        for name, method in methods.items():
            path = f"/{service}/{name}"
            # What is registered counts before what is generic, as in grpc.aio.
            self._handlers[path] = (method, self._check_placement(path, method, io_context))

    def _check_placement(self, path: str, method: RpcMethodHandler, bound: IoContext | None) -> IoContext | None:
        servicer = getattr(behaviour(method), "__self__", None)
        if self._placement is None or servicer is None:
            return bound
        placed = self._placement.placement_of(type(servicer))
        if placed is not None and bound is not None and placed is not bound:
            raise PlacementError(
                f"{path}: the policy places {type(servicer).__name__} on loop {placed.name!r}, and server.on() binds "
                "it to loop "
                f"{bound.name!r}: add it to the server itself, or take it out of the policy"
            )
        return placed or bound

    # ---------------------------------------------------------------------------------------------------------- ports

    def add_insecure_port(self, address: str) -> int:
        """Listens on `address` without TLS; connections are served from the start on.

        Args:
            address: Such as `127.0.0.1:50051`, `[::]:50051`, `localhost:0` or `unix:/run/service.sock`.

        grpcio's clients name a Unix socket in a way that HTTP/2 does not allow, so they need the channel option
        `("grpc.default_authority", "localhost")` to use one.

        Returns:
            The port, which the system chooses for port 0; 1 for a Unix socket.

        Raises:
            BindError: When the address can't be listened on; the message says why.
            ServerStateError: When the server has been started.
        """
        self._check_not_started("ports")
        try:
            return self._core.add_port(address) or 1
        except OSError as error:
            raise BindError(str(error)) from None

    def add_secure_port(self, address: str, server_credentials: object) -> NoReturn:
        """Not served yet.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"TLS is not served yet, so {address!r} can't be secured with {server_credentials!r}: terminate TLS in "
            "front of the "
            f"server and use add_insecure_port on loopback"
        )

    # ----------------------------------------------------------------------------------------------- starting, stopping

    async def start(self) -> None:
        """Starts serving. Servicers that nobody placed live on the calling loop.

        Raises:
            ServerStateError: When it has been started or stopped before.
        """
        self._check_not_started("start() calls")
        if self._stopping:
            raise ServerStateError("the server has been stopped: construct a new one")
        home = IoContext.current()
        methods = self._methods(home)
        fallback = None
        if self._generic:
            fallback = Method(
                path="*",
                name="(generic)",
                io_context=home,
                handler=ask_each(tuple(self._generic), self._invoke),
                deserializer=None,
                serializer=None,
                context_type=self._context_type,
                is_coroutine=True,
                request_streaming=True,
                response_streaming=True,
                compression=self._compression,
            )
        self._core.start(methods, fallback, None)
        self._started = True
        self._loops = {home, *(method.io_context for method in methods)}
        places: dict[str, set[str]] = {}
        for method in methods:
            places.setdefault(method.path.split("/")[1], set()).add(method.io_context.name)
        for service, loops in places.items():
            _logger.info("service %s lives on loop %s", service, ", ".join(sorted(loops)))

    def _methods(self, home: IoContext) -> list[Method]:
        full_names: dict[str, str] = {}
        methods = []
        for path, (handler, placed) in self._handlers.items():
            service, _, name = path.removeprefix("/").partition("/")
            short = service.rpartition(".")[2]
            if full_names.setdefault(short, service) != service:
                short = service
            methods.append(self._method(path, f"{short}.{name}", handler, placed, home))
        return methods

    def _method(
        self, path: str, name: str, handler: RpcMethodHandler, placed: IoContext | None, home: IoContext
    ) -> Method:
        made = runner(path, handler, on_loop=placed is not None, pool=self._thread_pool)
        return Method(
            path=path,
            name=name,
            io_context=placed or home,
            handler=made.run,
            deserializer=handler.request_deserializer,
            serializer=handler.response_serializer,
            context_type=self._sync_context_type if made.takes_sync_context else self._context_type,
            is_coroutine=made.is_coroutine,
            request_streaming=handler.request_streaming,
            response_streaming=handler.response_streaming,
            compression=self._compression,
        )

    async def _invoke(self, handler: RpcMethodHandler, context: ServicerContext) -> None:
        """Answers a call whose handler was found only now, on the home loop."""
        made = runner(context._path, handler, on_loop=False, pool=self._thread_pool)  # noqa: SLF001 - the native half's
        if made.takes_sync_context:
            # The context was made before it was known what kind of function would get it.
            context.__class__ = self._sync_context_type  # type: ignore[assignment] # of the same layout
        await run_found(handler, made, context)

    async def stop(self, grace: float | None) -> None:
        """Stops serving: no new calls, and those in flight may finish.

        Args:
            grace: Seconds after which calls in flight are cancelled and answered UNAVAILABLE; None for at once. A later
                call can shorten it, not lengthen it.
        """
        self._stopping = True
        if self._terminated:
            return
        loop = asyncio.get_running_loop()
        stopped = loop.create_future()

        def done() -> None:
            if not stopped.done():
                stopped.set_result(None)

        self._core.stop(grace, IoContext.current(), done)
        # Whoever asked may be cancelled: the stop goes on, and those who wait for the termination learn of it.
        ending = asyncio.ensure_future(self._end(stopped))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        await asyncio.shield(ending)

    async def _end(self, stopped: "asyncio.Future[None]") -> None:
        """Does what is left when the transport has stopped."""
        await stopped
        self._core.join()
        await self._wait_for_handlers()
        self._terminated = True
        while self._waiters:
            # Waiters of other loops come and go meanwhile: those that come now see that it has terminated.
            with contextlib.suppress(KeyError):
                waiter = self._waiters.pop()
                # Where the waiter's loop has been closed nobody waits any more.
                with contextlib.suppress(RuntimeError):
                    waiter.get_loop().call_soon_threadsafe(_resolve, waiter)

    async def _wait_for_handlers(self) -> None:
        """Waits until handlers whose calls were cancelled have ended, but not for a loop that is stuck."""
        waits = {asyncio.ensure_future(_handlers_have_ended(io_context)): io_context for io_context in self._loops}
        if not waits:
            return
        _, stuck = await asyncio.wait(waits, timeout=HANDLERS_TIMEOUT)
        for wait in stuck:
            wait.cancel()
            _logger.warning(
                "handlers of cancelled calls still run on loop %s %s s after the server's end",
                waits[wait].name,
                HANDLERS_TIMEOUT,
            )

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - grpc's signature
        """Waits until the server has stopped.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Returns:
            True when the time ran out, False when the server has stopped.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            if self._terminated:  # looked at only now: another loop may end the server meanwhile
                return False
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            return True
        finally:
            self._waiters.discard(waiter)
        return False

    def _check_not_started(self, what: str) -> None:
        if self._started:
            raise ServerStateError(
                f"the server has been started, and takes no more {what}: add everything before start()"
            )


async def _handlers_have_ended(io_context: IoContext) -> None:
    """Waits, on any loop, for the calls that run on `io_context`."""
    while True:
        try:
            await io_context.submit(_end_of_calls, io_context, name="Server.stop", lane="control")
        except LoopClosedError:
            return
        except MailboxFull:
            # With the cancellations of many calls: it will have run them soon, unless it is stuck.
            await asyncio.sleep(FULL_MAILBOX_PAUSE)
        else:
            return


async def _end_of_calls(io_context: IoContext) -> None:
    """Waits for the calls that run on this loop."""
    if tasks := io_context._call_tasks():  # noqa: SLF001 - the native half's
        await asyncio.wait(tasks)


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
