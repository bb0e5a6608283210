"""Where Atoll's server meets grpcio: classes that are grpcio's as well, for code that checks. Imports grpcio."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, ClassVar

import grpc
import grpc.aio

from atoll.errors import AbortError
from atoll.loop import IoContext
from atoll.rpc._context import ServicerContext, SyncServicerContext
from atoll.rpc._server import Binding, Placement, Server


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

    def __init__(
        self,
        *,
        placement: Placement | None,
        network_threads: int | None,
        options: Sequence[tuple[str, Any]],
        migration_thread_pool: Executor | None,
        compression: int | None,
    ) -> None:
        """Made by `rpc.server()`."""
        Server.__init__(
            self,
            placement=placement,
            network_threads=network_threads,
            options=options,
            migration_thread_pool=migration_thread_pool,
            compression=compression,
        )

    def on(self, io_context: IoContext) -> GrpcBinding:
        """See `Server.on`."""
        return GrpcBinding(self, io_context)
