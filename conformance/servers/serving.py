"""One server for the services of this folder: grpcio's or Atoll's, as the command line says."""

from __future__ import annotations

import contextlib
import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from atoll import IoContextThread, rpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    Context = grpc.aio.ServicerContext[Any, Any]

DRAIN_SECONDS: Final = 1.0


def generated(module: str) -> Any:
    """Import a module of the generated code, whose folder is the first argument of the command line."""
    if sys.argv[1] not in sys.path:
        sys.path.append(sys.argv[1])
    return importlib.import_module(module)


@dataclass(frozen=True)
class Certificates:
    """What a server needs for TLS, as PEM."""

    key: bytes
    chain: bytes
    clients: bytes | None = None
    """Whose certificates clients must show; None when they need none."""


@contextlib.asynccontextmanager
async def serving(
    kind: str,
    add: Callable[[Any], None],
    *,
    certificates: Certificates | None = None,
    options: Sequence[tuple[str, Any]] = (),
    compression: grpc.Compression | None = None,
    reflected: Sequence[str] = (),
) -> AsyncIterator[int]:
    """Serve what ``add(server)`` adds, on a port of 127.0.0.1 that the system chooses, which is given.

    Where there are services that are ``reflected``, reflection tells of them: grpcio's package, or Atoll itself of all.
    """
    async with contextlib.AsyncExitStack() as stack:
        # Left out unless it is wanted, as in most programs.
        chosen: dict[str, Any] = {} if compression is None else {"compression": compression}
        if kind == "grpcio":
            server = grpc.aio.server(options=options, **chosen)
            add(server)
            if reflected:
                reflection = importlib.import_module("grpc_reflection.v1alpha.reflection")
                reflection.enable_server_reflection([*reflected, reflection.SERVICE_NAME], server)
        else:
            server = rpc.server(options=options, reflection=bool(reflected), **chosen)
            target: Any = server
            if kind == "atoll-placed":
                target = server.on(stack.enter_context(IoContextThread("conformance")).io_context)
            add(target)
        if certificates is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", _credentials(kind, certificates))
        await server.start()
        try:
            yield port
        finally:
            await server.stop(DRAIN_SECONDS)


def _credentials(kind: str, certificates: Certificates) -> Any:
    make: Any = grpc.ssl_server_credentials
    if kind != "grpcio":
        make = rpc.ssl_server_credentials
    return make(
        [(certificates.key, certificates.chain)],
        root_certificates=certificates.clients,
        require_client_auth=certificates.clients is not None,
    )
