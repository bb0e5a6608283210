"""grpc.aio on uvloop with handlers of all four kinds, plain and over TLS, and a broadcast by queues."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import uvloop

from benchmarks import certificates, protos
from benchmarks.servers import every_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.protos import EchoMessage
    from benchmarks.servers.control import Control


def serve(control: Control) -> None:
    """Serve until the process ends."""
    uvloop.run(_serve(control))


async def _serve(control: Control) -> None:
    make_reply = control.protos.reply
    queues: set[asyncio.Queue[EchoMessage]] = set()
    loop = asyncio.get_running_loop()

    class Streams(every_kind.Streams):
        async def Watch(self, _request: EchoMessage, _context: object) -> AsyncIterator[EchoMessage]:
            queue: asyncio.Queue[EchoMessage] = asyncio.Queue()
            queues.add(queue)
            try:
                while True:
                    yield await queue.get()
            finally:
                queues.discard(queue)

    async def publish() -> float:
        message = make_reply(sequence=protos.SEQUENCE, text=protos.TEXT)
        started = time.perf_counter()
        for queue in queues:
            queue.put_nowait(message)
        return (time.perf_counter() - started) * 1e6

    def send() -> dict[str, Any]:
        return {"send_us": asyncio.run_coroutine_threadsafe(publish(), loop).result()}

    server = grpc.aio.server()
    control.protos.add_to_server(every_kind.Echo(make_reply), server)
    control.protos.add_streams_to_server(Streams(make_reply), server)
    port = server.add_insecure_port("127.0.0.1:0")
    pair = certificates.read(control.directory)
    tls_port = None
    if pair is not None:
        tls_port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    answers = {"broadcast": send, "subscribers": lambda: {"subscribers": len(queues)}}
    control.announce(port, tls_port=tls_port, answers=answers)
    await server.wait_for_termination()
