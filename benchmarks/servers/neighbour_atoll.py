"""Atoll with a busy module in the same process, on a dedicated loop of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import atoll
from atoll import rpc
from benchmarks.servers.neighbours import make_neighbours

if TYPE_CHECKING:
    from benchmarks.protos import EchoMessage
    from benchmarks.servers.control import Control


def serve(control: Control) -> None:
    """Serve until the process ends."""
    asyncio.run(_serve(control))


class _Neighbour:
    """Works in blocks, back to back; between two blocks its own loop may do one round of everything else."""

    def __init__(self) -> None:
        self._kinds = make_neighbours()
        self._io_context = atoll.IoContext.current()
        self._kind = "idle"
        self._works = False

    def change(self, kind: str) -> None:
        self._kind = kind
        if not self._works and kind != "idle":
            self._works = True
            self._io_context.post(self._work)

    def _work(self) -> None:
        if self._kind == "idle":
            self._works = False
            return
        self._kinds[self._kind]()
        self._io_context.post(self._work)


async def _serve(control: Control) -> None:
    make_reply = control.protos.reply

    class Echo:
        async def Say(self, request: EchoMessage, _context: object) -> EchoMessage:
            return make_reply(sequence=request.sequence, text=request.text)

    class Placement(atoll.IoContextPolicy[Echo | _Neighbour]):
        echo_io_context = atoll.dedicated(Echo)
        neighbour_io_context = atoll.dedicated(_Neighbour)

    async with atoll.IoContextProvider(Placement) as provider:
        echo = await provider.create(Echo)
        neighbour = await provider.create(_Neighbour)
        neighbour_io_context = provider.io_context(_Neighbour)
        server = rpc.server(placement=provider)
        control.protos.add_to_server(echo, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        control.announce(port, lambda kind: neighbour_io_context.post(neighbour.change, kind))
        await server.wait_for_termination()
