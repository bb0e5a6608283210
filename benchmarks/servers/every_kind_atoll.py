"""Atoll with handlers of all four kinds on a dedicated loop, plain and over TLS, and a broadcast."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import atoll
from atoll import rpc
from benchmarks import certificates, protos
from benchmarks.servers import every_kind

if TYPE_CHECKING:
    from benchmarks.protos import EchoMessage
    from benchmarks.servers.control import Control


def serve(control: Control) -> None:
    """Serve until the process ends."""
    asyncio.run(_serve(control))


async def _serve(control: Control) -> None:
    make_reply = control.protos.reply
    broadcast: rpc.Broadcast[Any] = rpc.Broadcast()

    class Echo(every_kind.Echo):
        def __init__(self) -> None:
            super().__init__(make_reply)

    class Streams(every_kind.Streams):
        def __init__(self) -> None:
            super().__init__(make_reply)

        async def Watch(self, _request: EchoMessage, context: Any) -> None:
            await broadcast.serve(context)

    class Placement(atoll.IoContextPolicy[Echo | Streams]):
        echo_io_context = atoll.dedicated(Echo)
        streams_io_context = atoll.dedicated(Streams)

    def send() -> dict[str, Any]:
        message = make_reply(sequence=protos.SEQUENCE, text=protos.TEXT)
        started = time.perf_counter()
        broadcast.send(message)
        return {"send_us": (time.perf_counter() - started) * 1e6}

    answers = {"broadcast": send, "subscribers": lambda: {"subscribers": broadcast.stats().subscribers}}
    async with atoll.IoContextProvider(Placement) as provider:
        server = rpc.server(placement=provider)
        control.protos.add_to_server(await provider.create(Echo), server)
        control.protos.add_streams_to_server(await provider.create(Streams), server)
        port = server.add_insecure_port("127.0.0.1:0")
        pair = certificates.read(control.directory)
        tls_port = None
        if pair is not None:
            tls_port = server.add_secure_port("127.0.0.1:0", rpc.ssl_server_credentials([pair]))
        await server.start()
        control.announce(port, tls_port=tls_port, answers=answers)
        await server.wait_for_termination()
