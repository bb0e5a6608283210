"""The same two handlers on Atoll, with lanes and CoDel, and on grpc.aio, with `maximum_concurrent_rpcs`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from benchmarks.overloading import BEAT, BULK, LIMIT, SCAN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable


class Handlers:
    """What both serve; counts the calls that began after their deadline."""

    def __init__(self) -> None:
        self.expired = 0
        self.ran = 0

    async def scan(self, _request: bytes, context: Any) -> bytes:
        """Keep the loop busy."""
        self._count(context)
        end = time.perf_counter() + SCAN_SECONDS
        while time.perf_counter() < end:
            pass
        return b""

    async def beat(self, _request: bytes, context: Any) -> bytes:
        """Answer at once."""
        self._count(context)
        return b""

    def _count(self, context: Any) -> None:
        self.ran += 1
        remaining = context.time_remaining()
        self.expired += remaining is not None and remaining <= 0


def run(name: str) -> None:
    """Serve until the standard input ends; each line there is answered with what happened so far."""
    asyncio.run({"atoll": _atoll, "grpc_aio": _grpc_aio}[name]())


def _generic(path: str, function: Callable[..., Any]) -> grpc.GenericRpcHandler:
    service, method = path.removeprefix("/").split("/")
    return grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(function)})


async def _atoll() -> None:
    from atoll import IoContextThread, rpc  # noqa: PLC0415 - grpc.aio's process does without it

    handlers = Handlers()
    server = rpc.server(overload=rpc.Overload(mode="shed"))
    thread = IoContextThread("module")
    thread.start()
    module = thread.io_context
    for path, function, options in (
        (BULK, handlers.scan, rpc.MethodOptions(lane="bulk")),
        (BEAT, handlers.beat, rpc.MethodOptions(lane="control")),
    ):
        binding = server.on(module, method_options=options)
        binding.add_generic_rpc_handlers((_generic(path, function),))

    def tell() -> dict[str, object]:
        stats, methods = module.stats(), server.stats()
        beats = stats["Overload.Beat"].queue_time
        return {
            "ran": handlers.ran,
            "expired": handlers.expired,
            "control_queue_p99_us": beats.quantile(0.99) * 1e6,
            "control_queue_max_us": beats.max * 1e6,
            "refused": dict(methods[BULK].refused),
        }

    await _serve(server, tell)


async def _grpc_aio() -> None:
    handlers = Handlers()
    server = grpc.aio.server(maximum_concurrent_rpcs=LIMIT)
    server.add_generic_rpc_handlers((_generic(BULK, handlers.scan), _generic(BEAT, handlers.beat)))
    await _serve(server, lambda: {"ran": handlers.ran, "expired": handlers.expired})


async def _serve(server: Any, tell: Callable[[], dict[str, object]]) -> None:
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def answer() -> None:
        for _ in sys.stdin:
            _say(tell())
        # The benchmark is over or gone. Nothing here is worth an orderly end, and an orderly end can hang.
        os._exit(0)

    threading.Thread(target=answer, name="benchmark-control", daemon=True).start()
    _say({"port": port})
    await server.wait_for_termination()


def _say(values: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()
