"""grpc.aio on uvloop with a busy module in the same process: on the same loop, as there is only one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc.aio
import uvloop

from benchmarks.servers.neighbours import make_neighbours

if TYPE_CHECKING:
    from benchmarks.protos import EchoMessage
    from benchmarks.servers.control import Control


def serve(control: Control) -> None:
    """Serve until the process ends."""
    uvloop.run(_serve(control))


class _Neighbour:
    """Works in blocks, back to back; between two blocks the loop may do one round of everything else."""

    def __init__(self) -> None:
        self._kinds = make_neighbours()
        self._loop = asyncio.get_running_loop()
        self._kind = "idle"
        self._works = False

    def set_kind(self, kind: str) -> None:
        self._loop.call_soon_threadsafe(self._change, kind)

    def _change(self, kind: str) -> None:
        self._kind = kind
        if not self._works and kind != "idle":
            self._works = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        if self._kind == "idle":
            self._works = False
            return
        self._kinds[self._kind]()
        self._loop.call_soon(self._work)


async def _serve(control: Control) -> None:
    make_reply = control.protos.reply

    class Echo:
        async def Say(self, request: EchoMessage, _context: object) -> EchoMessage:
            return make_reply(sequence=request.sequence, text=request.text)

    neighbour = _Neighbour()
    server = grpc.aio.server()
    control.protos.add_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    control.announce(port, neighbour.set_kind)
    await server.wait_for_termination()
