"""Handlers that do not read hold up nobody but their own clients."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
from typing import Any

import grpc
from tests.rpc.support import SERVICE, add_methods, running, stub_client

from atoll import rpc

STREAMS = 40
PROGRAM = f"""
message = bytes(64 << 10)
with grpc.insecure_channel(sys.argv[2]) as channel:
    collect = channel.stream_unary("/{SERVICE}/Collect")
    # 4 MiB each, on one connection: twice the window of a call, 20 times that of the connection.
    stuck = [collect.future(iter([message] * 64), timeout=50) for _ in range({STREAMS})]
    echo = channel.unary_unary("/{SERVICE}/Echo")
    for _ in range(30):
        assert len(echo(bytes(1 << 20), timeout=20)) == 1 << 20
    assert not any(call.done() for call in stuck)
    echo(b"read", timeout=20)
    for call in stuck:
        assert call.result(timeout=50) == b"%d" % (64 * len(message))
"""


async def test_other_calls_of_a_connection_go_on_while_many_handlers_do_not_read() -> None:
    reading = asyncio.Event()

    async def collect(requests: Any, context: Any) -> bytes:
        await reading.wait()
        return b"%d" % sum([len(request) async for request in requests])

    async def echo(request: bytes, context: Any) -> bytes:
        if request == b"read":
            reading.set()
        return request

    server = rpc.server()
    add_methods(server, Collect=collect, kind=grpc.stream_unary_rpc_method_handler)
    handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_registered_method_handlers(SERVICE, handlers)
    async with running(server) as target:
        assert await stub_client(target, PROGRAM) == "all is well"
        stats = server.stats()
        assert (stats.offences, stats.connection_errors) == ({}, 0)
        assert sum(stats[f"/{SERVICE}/Collect"].finished.values()) == STREAMS
