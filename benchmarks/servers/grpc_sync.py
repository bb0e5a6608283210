"""grpcio's server with a thread pool."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import grpc

if TYPE_CHECKING:
    from benchmarks.protos import EchoMessage
    from benchmarks.servers.control import Control

THREADS: Final = 16


def serve(control: Control) -> None:
    """Serve until the process ends."""
    make_reply = control.protos.reply

    class Echo:
        def Say(self, request: EchoMessage, _context: object) -> EchoMessage:
            return make_reply(sequence=request.sequence, text=request.text)

    server = grpc.server(ThreadPoolExecutor(THREADS))
    control.protos.add_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    control.announce(port)
    server.wait_for_termination()
