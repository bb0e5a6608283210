"""A server for tests of bounds, in a process of its own: `stream_server.py`.

Prints its port and serves until its stdin ends; windows are 64 KiB. Says of itself what `Measure` is asked.
"""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import resource
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from atoll import rpc

SERVICE = "atoll.tests.v1.Bounds"
WINDOW = 64 * 1024
OPTIONS = (("grpc.http2.lookahead_bytes", WINDOW),)

written = 0
read = 0


async def take(requests: Any, context: Any) -> bytes:
    """Reads all, and says how much that was."""
    return str(sum([len(request) async for request in requests])).encode()


async def give(request: bytes, context: Any) -> AsyncIterator[bytes]:
    """Sends as many messages of 64 KiB as it is asked for."""
    global written  # noqa: PLW0603 - what `Measure` tells
    written = 0
    message = bytes(WINDOW)
    for _ in range(int(request)):
        yield message
        written += len(message)


async def hold(requests: Any, context: Any) -> bytes:
    """Reads nothing until the client cancels."""
    await context.send_initial_metadata(())
    await asyncio.Event().wait()
    return b""


async def measure(request: bytes, context: Any) -> bytes:
    """The most memory that the process has had, and what `Give` has written; in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return repr((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, written)).encode()


async def main() -> None:
    server = rpc.server(options=OPTIONS)
    methods: dict[str, Any] = {
        "Take": grpc.stream_unary_rpc_method_handler(take),
        "Give": grpc.unary_stream_rpc_method_handler(give),
        "Hold": grpc.stream_unary_rpc_method_handler(hold),
        "Measure": grpc.unary_unary_rpc_method_handler(measure),
    }
    server.add_registered_method_handlers(SERVICE, methods)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)  # noqa: T201 - for our parent
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
