"""The gRPC server: registers services, places them on loops, starts and stops the transport.

A server is configured and stopped on the asyncio loop that starts it; the placement says which thread runs which
handler.
"""

import logging
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ClassVar

from atoll._core import ReadinessCore, ServerCore
from atoll.errors import BindError, ServerStateError
from atoll.loop import IoContext, IoContextPool
from atoll.rpc._authentication import Authentication
from atoll.rpc._binding import Binding, PoolBinding
from atoll.rpc._context import ServicerContext, SyncServicerContext
from atoll.rpc._credentials import ServerCredentials, certificates_of
from atoll.rpc._descriptor import check_descriptor
from atoll.rpc._health import HealthOptions, ServerHealth, health_options
from atoll.rpc._instrumentation import warn_of_replacement
from atoll.rpc._interceptors import Interception, KnownHandlers, SpreadLocated, check_interceptors
from atoll.rpc._kinds import runner
from atoll.rpc._life import Life
from atoll.rpc._method import Method, Resolved, RpcMethodHandler
from atoll.rpc._method_options import MethodOptions, MethodTable
from atoll.rpc._options import server_options
from atoll.rpc._overload import Overload
from atoll.rpc._posted import Located
from atoll.rpc._registry import Placement, Registered, Registry, SpreadRegistered, started_already
from atoll.rpc._spread import Key, Spread, SpreadMethod
from atoll.rpc._stats import ServerStats, server_stats
from atoll.rpc._status import Compression

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

_logger = logging.getLogger("atoll.rpc")


class Server:
    """A gRPC server whose services live on loops; `rpc.server()` makes one that is also a `grpc.aio.Server`.

    Args:
        placement: The provider that places servicers by their class; others live on the loop that starts the server.
        network_threads: Native threads that serve connections; None for a quarter of the cores, at least one.
        options: grpc's channel options, as (name, value).
        migration_thread_pool: Where plain functions of unplaced servicers run; None for the loop's default executor.
        compression: How replies are compressed where a handler says nothing else: a `Compression`; None is not at all.
        interceptors: Objects with the method of `grpc.aio.ServerInterceptor`, asked in this order. They run on the loop
            that the called path has.
        health: Whether the transport answers `grpc.health.v1`, by what the loops do; or when a loop counts as stuck.
        maximum_concurrent_rpcs: How many calls may run at a time over all methods; one more is answered
            RESOURCE_EXHAUSTED. None is unlimited.
        method_options: What holds for methods for which nothing nearer says otherwise.
        overload: What becomes of calls that wait too long; counted only, unless told otherwise.
        auth: What is asked of every call; None for nothing.
        reflection: Whether tools may ask which services there are (`grpc.reflection.v1` and `v1alpha`).
        readiness: An `atoll.observe.Readiness`, whose conditions `GET /readyz` over HTTP/1 on its ports tells.

    Raises:
        ValueError: When an option can't work, or an interceptor is none; the message names it.
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
        interceptors: Sequence[Any] = (),
        health: bool | HealthOptions = False,
        maximum_concurrent_rpcs: int | None = None,
        method_options: MethodOptions | None = None,
        overload: Overload | None = None,
        auth: Authentication | None = None,
        reflection: bool = False,
        readiness: ReadinessCore | None = None,
    ) -> None:
        """Creates the server; nothing listens yet."""
        self._compression = int(Compression(compression or 0))
        self._placement = placement
        self._thread_pool = migration_thread_pool
        self._interceptors = check_interceptors(interceptors)
        self._core = ServerCore(server_options(network_threads, options, maximum_concurrent_rpcs), auth, readiness)
        self._method_table = MethodTable(method_options)
        self._overload = overload or Overload()
        self._registry = Registry(placement)
        self._life = Life(self._core)
        self._health = ServerHealth(self._core, health_options(health))
        self._reflection = reflection
        self._started = False
        # What had replaced `grpc.aio.server` when this server was made through it.
        self._honoured: Callable[..., Any] | None = None

    # ------------------------------------------------------------------------------------------------------- services

    @typing.overload
    def on(self, where: IoContext, *, method_options: MethodOptions | None = None) -> Binding: ...

    @typing.overload
    def on(self, where: IoContextPool, *, key: Key, method_options: MethodOptions | None = None) -> PoolBinding: ...

    def on(
        self,
        where: IoContext | IoContextPool,
        *,
        key: Key | None = None,
        method_options: MethodOptions | None = None,
    ) -> Binding | PoolBinding:
        """A view of this server whose servicers run on a loop, or on the loops of a pool.

        Pass it to generated code: `add_CounterServicer_to_server(Counter(), server.on(loop))`. On a pool each loop has
        an instance of its own, and the key says which of them takes a call:
        `server.on(pool, key=rpc.by_connection).add_servicer(add_CounterServicer_to_server, Counter)`.

        Args:
            where: A loop, or a pool that runs.
            key: `rpc.by_connection` or `rpc.by_metadata(name)`, for a pool.
            method_options: What holds for the methods that are added to the view.

        Raises:
            LoopRunningError: When the pool does not run yet.
            PlacementError: By the view, when the policy places the servicer elsewhere.
            TypeError: When a pool has no key, or a loop has one.
        """
        return self._on(where, key, method_options)

    def _on(
        self, where: IoContext | IoContextPool, key: Key | None, method_options: MethodOptions | None
    ) -> Binding | PoolBinding:
        if isinstance(where, IoContextPool):
            if key is None:
                raise TypeError(
                    f"say what pins a call to a loop of pool {where.name!r}: server.on(pool, key=rpc.by_connection), "
                    "or key=rpc.by_metadata('tenant')"
                )
            return PoolBinding(self, Spread.over(where, key), method_options)
        if key is not None:
            raise TypeError(f"a key chooses between the loops of a pool, and {where!r} is one loop: leave the key out")
        return self._bind(where, self._registry, method_options)

    def _bind(self, io_context: IoContext, registry: Registry, method_options: MethodOptions | None = None) -> Binding:
        return Binding(self, io_context, registry, method_options)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        """Adds handlers, as generated code does. Before the start.

        Raises:
            ServerStateError: When the server has been started.
        """
        self._registry.add_generic(generic_rpc_handlers, None)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Adds the methods of a service, as generated code does. Before the start.

        Raises:
            ServerStateError: When the server has been started.
        """
        self._registry.add_methods(service_name, method_handlers, None)

    def add_service(self, descriptor: "ServiceDescriptor", servicer: object) -> None:
        """Adds a servicer by its service's descriptor, without generated `_grpc` code. Before the start.

        A method that the servicer does not have is answered UNIMPLEMENTED. The messages' classes come from the
        descriptor.

        Args:
            descriptor: The service's: `module_pb2.DESCRIPTOR.services_by_name["Counter"]`.
            servicer: Any object whose methods have the RPCs' names.

        Raises:
            PlacementError: When the policy places the servicer elsewhere than `server.on()` binds it.
            RegistrationError: When `descriptor` is no service's, or the servicer has none of the methods, or is a
                class.
            ServerStateError: When the server has been started.
        """
        self._registry.add_service(check_descriptor(descriptor), servicer, None)

    @property
    def health(self) -> ServerHealth:
        """What the application says of its services' health; it needs `health=True`."""
        return self._health

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

    def add_secure_port(self, address: str, server_credentials: ServerCredentials) -> int:
        """Listens on `address` with TLS; connections are served from the start on.

        Args:
            address: As for `add_insecure_port`.
            server_credentials: What `rpc.ssl_server_credentials` returns; grpc's own object hides what it holds.

        Returns:
            The port, which the system chooses for port 0; 1 for a Unix socket.

        Raises:
            BindError: When the address can't be listened on; the message says why.
            ServerStateError: When the server has been started.
            TypeError: When the credentials are not of this package; the message shows the right call.
        """
        self._check_not_started("ports")
        certificates = certificates_of(server_credentials)
        try:
            return self._core.add_port(address, certificates) or 1
        except OSError as error:
            raise BindError(str(error)) from None

    # ----------------------------------------------------------------------------------------------- starting, stopping

    async def start(self) -> None:
        """Starts serving. Servicers that nobody placed live on the calling loop.

        Raises:
            ServerStateError: When it has been started or stopped before.
        """
        self._check_not_started("start() calls")
        if self._life.stopping:
            raise ServerStateError("the server has been stopped: construct a new one")
        self._started = True
        try:
            await self._start(IoContext.current())
        except BaseException:
            self._started = False
            raise

    async def _start(self, home: IoContext) -> None:
        if not self._interceptors:
            warn_of_replacement(self._honoured)
        await self._registry.make_spread_servicers()
        if self._reflection:
            self._add_reflection()
        self._registry.closed = True
        by_path = {path: self._locate(path, name, it, home) for path, name, it in self._registry.named_methods()}
        known = KnownHandlers(by_path, self._registry.generic, home, self._thread_pool, self._make_sync)
        methods, spread_methods = self._methods(known)
        fallback = None
        if self._interceptors or known.generic:
            interception = Interception(self._interceptors, known, home, on_loop=False)
            options = self._method_table.of_server()
            fallback = self._asking_method("*", "(generic)", home, interception, options, request_streaming=True)
        everything = [*methods, *(method for spread in spread_methods for method in spread.methods)]
        loops = {home, *(method.io_context for method in everything)}
        counts = getattr(self._placement, "counts_for_health", None)
        whole = [io_context for io_context in loops if counts is None or counts(io_context)]
        places = _places(everything)
        health = self._health._spec(places, whole)  # noqa: SLF001 - its other half
        self._core.start(methods, spread_methods, fallback, health, self._overload)
        self._health._started()  # noqa: SLF001 - its other half
        self._life.loops = loops
        for service, lived_on in places.items():
            names = sorted(io_context.name for io_context in lived_on)
            _logger.info("service %s lives on loop %s", service, ", ".join(names))

    def _add_reflection(self) -> None:
        """Adds both versions of the reflection service, which tells of itself and of what the transport serves, too."""
        # With protobuf's pools, which nobody else needs.
        from atoll.rpc._reflection import VERSIONS, Reflection, describe, describe_health  # noqa: PLC0415

        versions = [describe(version) for version in VERSIONS]
        own = [*versions, *([describe_health()] if self._health.is_served else [])]
        services = {*self._registry.service_names(), *(service.full_name for service in own)}
        pools = [service.file.pool for service in (*self._registry.descriptors, *own)]
        for descriptor in versions:
            self._registry.add_service(descriptor, Reflection(descriptor, services, pools), None)

    def _locate(
        self, path: str, name: str, registered: Registered | SpreadRegistered, home: IoContext
    ) -> Located | SpreadLocated:
        bound = registered.options
        if isinstance(registered, Registered):
            return self._located(path, name, registered.handler, registered.io_context, home, bound)
        each = zip(registered.handlers, registered.spread.io_contexts, strict=True)
        located = tuple(self._located(path, name, handler, where, home, bound) for handler, where in each)
        return SpreadLocated(located, registered.spread)

    def _located(  # noqa: PLR0917 - a private helper with one caller
        self,
        path: str,
        name: str,
        handler: RpcMethodHandler,
        placed: IoContext | None,
        home: IoContext,
        bound: MethodOptions | None,
    ) -> Located:
        where = placed or home
        options = self._method_table.resolve(handler, bound, where)
        on_loop = placed is not None and not options.blocking
        made = runner(path, handler, on_loop=on_loop, pool=self._thread_pool)
        return Located(handler, name, where, made, on_loop, options)

    def _methods(self, known: KnownHandlers) -> tuple[list[Method], list[SpreadMethod]]:
        methods: list[Method] = []
        spread_methods: list[SpreadMethod] = []
        for path, entry in known.by_path.items():
            if isinstance(entry, SpreadLocated):
                each = tuple(self._method(path, located, known) for located in entry.located)
                spread_methods.append(SpreadMethod(methods=each, metadata_key=entry.spread.metadata_key))
            else:
                methods.append(self._method(path, entry, known))
        return methods, spread_methods

    def _method(self, path: str, located: Located, known: KnownHandlers) -> Method:
        handler, made = located.handler, located.made
        if self._interceptors:
            where = located.io_context
            interception = Interception(self._interceptors, known, where, on_loop=located.on_loop)
            streams = handler.request_streaming
            return self._asking_method(
                path, located.name, where, interception, located.options, request_streaming=streams
            )
        return Method(
            path=path,
            name=located.name,
            io_context=located.io_context,
            handler=made.run,
            deserializer=handler.request_deserializer,
            serializer=handler.response_serializer,
            context_type=self._sync_context_type if made.takes_sync_context else self._context_type,
            is_coroutine=made.is_coroutine,
            request_streaming=handler.request_streaming,
            response_streaming=handler.response_streaming,
            compression=self._compression,
            options=located.options,
        )

    def _asking_method(
        self,
        path: str,
        name: str,
        where: IoContext,
        interception: Interception,
        options: Resolved,
        *,
        request_streaming: bool,
    ) -> Method:
        """A method whose handler is found when a call has come, and may be of another kind than the one that is known.

        What the client sends is as its method has it; how it is answered, nobody knows yet.
        """
        return Method(
            path=path,
            name=name,
            io_context=where,
            handler=interception.run,
            deserializer=None,
            serializer=None,
            context_type=self._context_type,
            is_coroutine=True,
            request_streaming=request_streaming,
            response_streaming=True,
            finds_handler=True,
            compression=self._compression,
            options=options,
        )

    def _make_sync(self, context: ServicerContext) -> None:
        """The context was made before it was known what kind of function would get it."""
        context.__class__ = self._sync_context_type  # type: ignore[assignment] # of the same layout

    def stats(self) -> ServerStats:
        """What has been counted since the start; empty before it, and after the end as it was then. Any thread."""
        return server_stats(self._core)

    async def stop(self, grace: float | None) -> None:
        """Stops serving: no new calls, and those in flight may finish.

        A later call, also while the first one waits, may shorten the grace; it returns when the server has stopped.

        Args:
            grace: Seconds after which calls in flight are cancelled and answered UNAVAILABLE; None for at once. A later
                call can shorten it, not lengthen it.
        """
        await self._life.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - grpc's signature
        """Waits until the server has stopped.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Returns:
            True when the time ran out, False when the server has stopped.
        """
        return await self._life.wait_for_termination(timeout)

    def _check_not_started(self, what: str) -> None:
        if self._started:
            raise started_already(what)


def _places(methods: Iterable[Method]) -> dict[str, set[IoContext]]:
    """Which service lives on which loops."""
    places: dict[str, set[IoContext]] = {}
    for method in methods:
        places.setdefault(method.path.split("/")[1], set()).add(method.io_context)
    return places
