"""`rpc.server()`: grpc.aio's factory, with a placement."""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any

from atoll._core import ReadinessCore
from atoll.errors import PlacementError
from atoll.rpc._authentication import Authentication
from atoll.rpc._health import HealthOptions
from atoll.rpc._instrumentation import replacement, through
from atoll.rpc._method_options import MethodOptions
from atoll.rpc._overload import Overload
from atoll.rpc._registry import Placement

if TYPE_CHECKING:
    from atoll.rpc._grpcio import GrpcServer


def server(  # noqa: PLR0917 - the order is grpc.aio.server()'s
    migration_thread_pool: Executor | None = None,
    handlers: Sequence[Any] | None = None,
    interceptors: Sequence[Any] | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: int | None = None,
    *,
    placement: Placement | None = None,
    network_threads: int | None = None,
    health: bool | HealthOptions = False,
    method_options: MethodOptions | None = None,
    overload: Overload | None = None,
    auth: Authentication | None = None,
    reflection: bool = False,
    readiness: ReadinessCore | None = None,
) -> "GrpcServer":
    """Creates a server: `grpc.aio.server()` with a placement. Needs the extra `grpc`.

    Args:
        migration_thread_pool: Where plain functions of unplaced servicers run; None for the loop's default executor.
        handlers: Handlers to add.
        interceptors: `grpc.aio.ServerInterceptor`s, asked in this order for the handler of each call. They run on the
            loop that the called path has. What has replaced `grpc.aio.server`, as the instrumentations of OpenTelemetry
            and Sentry do, adds its own.
        options: grpc's channel options, as (name, value).
        maximum_concurrent_rpcs: How many calls may run at a time over all methods, from their dispatch to their answer;
            one more is answered RESOURCE_EXHAUSTED. None is unlimited.
        compression: How replies are compressed where a handler says nothing else: a `grpc.Compression`.
        placement: The provider that places servicers by their class; others live on the loop that starts the server.
        network_threads: Native threads that serve connections; None for a quarter of the cores, at least one.
        health: Whether the transport answers `grpc.health.v1`, by what the loops do; or when a loop counts as stuck.
        method_options: What holds for methods for which nothing nearer says otherwise; see `MethodOptions`.
        overload: What becomes of calls that wait too long; counted only, unless told otherwise. See `Overload`.
        auth: What is asked of every call, before it reaches Python; None for nothing.
        reflection: Whether tools such as grpcurl may ask which services there are (`grpc.reflection.v1` and `v1alpha`).
        readiness: An `atoll.observe.Readiness`, whose conditions `GET /readyz` over HTTP/1 on the server's ports tells.

    Raises:
        ImportError: Without grpcio.
        NotImplementedError: For what is not served yet; the message names it.
        PlacementError: When the placement is a policy and no provider.
        ValueError: When an option can't work, or an interceptor is none; the message names it.
    """
    if isinstance(placement, type):
        raise PlacementError(
            f"placement={placement.__name__} is a policy: pass the provider that you entered with "
            f"`async with IoContextProvider({placement.__name__}) as provider`"
        )
    try:
        from atoll.rpc._grpcio import make_server  # noqa: PLC0415 - an extra, imported when it is asked for
    except ImportError as error:
        raise ImportError(
            "rpc.server() makes a grpc.aio.Server, which needs grpcio: pip install 'atoll[grpc]'; or construct "
            "rpc.Server, which "
            "does not"
        ) from error
    make = partial(
        make_server,
        placement=placement,
        network_threads=network_threads,
        health=health,
        method_options=method_options,
        overload=overload,
        auth=auth,
        reflection=reflection,
        readiness=readiness,
    )
    arguments: dict[str, Any] = {
        "migration_thread_pool": migration_thread_pool,
        "handlers": handlers,
        "interceptors": interceptors,
        "options": options,
        "maximum_concurrent_rpcs": maximum_concurrent_rpcs,
        "compression": compression,
    }
    replaced = replacement()
    made: GrpcServer = make(**arguments) if replaced is None else through(replaced, arguments, make)
    return made
