"""Where Atoll's server meets grpcio: classes that are grpcio's as well, for code that checks. Imports grpcio."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, ClassVar, overload

import grpc
import grpc.aio

from atoll._core import ReadinessCore
from atoll.errors import AbortError
from atoll.loop import IoContext, IoContextPool
from atoll.rpc._authentication import Authentication
from atoll.rpc._binding import Binding, PoolBinding
from atoll.rpc._context import ServicerContext, SyncServicerContext
from atoll.rpc._health import HealthOptions
from atoll.rpc._instrumentation import replacement
from atoll.rpc._method_options import MethodOptions
from atoll.rpc._overload import Overload
from atoll.rpc._registry import Placement, Registry
from atoll.rpc._server import Server
from atoll.rpc._spread import Key


class GrpcAbortError(AbortError, grpc.aio.AbortError):
    """`AbortError`, for handlers that catch grpcio's."""


class GrpcUsageError(RuntimeError, grpc.aio.UsageError):
    """The `RuntimeError` of a context that is used wrongly, for handlers that catch grpcio's."""


class GrpcServicerContext(ServicerContext):
    """`ServicerContext` that raises what grpcio's does."""

    __slots__ = ()
    _abort_error: ClassVar[type[AbortError]] = GrpcAbortError
    _usage_error: ClassVar[type[RuntimeError]] = GrpcUsageError
    _end_of_requests: ClassVar[object] = grpc.aio.EOF


class GrpcSyncServicerContext(SyncServicerContext):
    """`SyncServicerContext` that raises what grpcio's does."""

    __slots__ = ()
    _abort_error: ClassVar[type[AbortError]] = GrpcAbortError
    _usage_error: ClassVar[type[RuntimeError]] = GrpcUsageError


class GrpcBinding(Binding, grpc.aio.Server):  # type: ignore[misc] # grpcio's methods are typed more loosely
    """`Binding`, for generated code that asks for a `grpc.aio.Server`."""


class GrpcServer(Server, grpc.aio.Server):  # type: ignore[misc] # grpcio's methods are typed more loosely
    """An Atoll server that is a `grpc.aio.Server`, too; nothing of grpcio's own server is constructed."""

    _context_type: ClassVar[type[ServicerContext]] = GrpcServicerContext
    _sync_context_type: ClassVar[type[SyncServicerContext]] = GrpcSyncServicerContext

    def __init__(self, **settings: Any) -> None:
        """Made by `rpc.server()`."""
        Server.__init__(self, **settings)
        self._honoured = replacement()

    @overload
    def on(self, where: IoContext, *, method_options: MethodOptions | None = None) -> GrpcBinding: ...

    @overload
    def on(self, where: IoContextPool, *, key: Key, method_options: MethodOptions | None = None) -> PoolBinding: ...

    def on(
        self,
        where: IoContext | IoContextPool,
        *,
        key: Key | None = None,
        method_options: MethodOptions | None = None,
    ) -> Binding | PoolBinding:
        """See `Server.on`."""
        return self._on(where, key, method_options)

    def _bind(
        self, io_context: IoContext, registry: Registry, method_options: MethodOptions | None = None
    ) -> GrpcBinding:
        return GrpcBinding(self, io_context, registry, method_options)


def make_server(
    *,
    migration_thread_pool: Executor | None,
    handlers: Sequence[Any] | None,
    interceptors: Sequence[Any] | None,
    options: Sequence[tuple[str, Any]] | None,
    maximum_concurrent_rpcs: int | None,
    compression: int | None,
    placement: Placement | None,
    network_threads: int | None,
    health: bool | HealthOptions,
    method_options: MethodOptions | None,
    overload: Overload | None,
    auth: Authentication | None,
    reflection: bool,
    readiness: ReadinessCore | None,
) -> GrpcServer:
    """Makes the server of `rpc.server()`, whose docstring has the arguments and errors."""
    for interceptor in interceptors or ():
        kind: Any = type(interceptor)
        if issubclass(kind, grpc.ServerInterceptor) and not issubclass(kind, grpc.aio.ServerInterceptor):
            raise ValueError(  # noqa: TRY004 - as in grpc.aio
                f"{interceptor!r} is an interceptor of grpc.server(): derive it from grpc.aio.ServerInterceptor, with "
                "an async def intercept_service"
            )
    made = GrpcServer(
        placement=placement,
        network_threads=network_threads,
        options=tuple(options or ()),
        migration_thread_pool=migration_thread_pool,
        interceptors=tuple(interceptors or ()),
        compression=compression,
        health=health,
        maximum_concurrent_rpcs=maximum_concurrent_rpcs,
        method_options=method_options,
        overload=overload,
        auth=auth,
        reflection=reflection,
        readiness=readiness,
    )
    if handlers:
        made.add_generic_rpc_handlers(handlers)
    return made
