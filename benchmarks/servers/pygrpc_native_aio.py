"""pygrpc-native's asyncio server (tonic in Rust under one asyncio loop) on uvloop, with its defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

# Not `from pygrpc_native import aio`: in 0.5.0 that recurses until Python gives up.
import pygrpc_native.aio
import uvloop

if TYPE_CHECKING:
    from benchmarks.protos import EchoMessage
    from benchmarks.servers.control import Control


def serve(control: Control) -> None:
    """Serve until the process ends."""
    uvloop.run(_serve(control))


async def _serve(control: Control) -> None:
    make_reply = control.protos.reply

    class Echo:
        async def Say(self, request: EchoMessage, _context: object) -> EchoMessage:
            return make_reply(sequence=request.sequence, text=request.text)

    server = pygrpc_native.aio.server()
    control.protos.add_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    control.announce(port)
    await server.wait_for_termination()
