"""Atoll as in ``atoll_async``, with an interceptor that lets everything pass."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import atoll
from atoll import rpc
from benchmarks.servers.intercepting import Passing

if TYPE_CHECKING:
    from benchmarks.protos import EchoMessage
    from benchmarks.servers.control import Control


def serve(control: Control) -> None:
    """Serve until the process ends."""
    asyncio.run(_serve(control))


async def _serve(control: Control) -> None:
    make_reply = control.protos.reply

    class Echo:
        async def Say(self, request: EchoMessage, _context: object) -> EchoMessage:
            return make_reply(sequence=request.sequence, text=request.text)

    class Placement(atoll.IoContextPolicy[Echo]):
        echo_io_context = atoll.dedicated(Echo)

    async with atoll.IoContextProvider(Placement) as provider:
        server = rpc.server(placement=provider, interceptors=[Passing()])
        control.protos.add_to_server(await provider.create(Echo), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        control.announce(port)
        await server.wait_for_termination()
