"""The servers that the suites can be run against."""

from __future__ import annotations

from typing import Final

KINDS: Final = {
    "atoll": "Atoll, the servicer on the loop that starts the server",
    "atoll-placed": "Atoll, the servicer on a loop of its own",
    "grpcio": "grpc.aio.server()",
}
