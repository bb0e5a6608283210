"""Serves the handlers of a module beside this one by stock grpc.aio or by Atoll.

`behaviours_server.py MODULE KIND LOOP`: the module has `SERVICE`, `OPTIONS` and `handlers()`.
Prints its port and serves until its stdin ends.
"""

import asyncio
import importlib
import sys
from typing import Any

import grpc
import grpc.aio


async def main(behaviours: Any, kind: str) -> None:
    if kind == "aio":
        server = grpc.aio.server(options=behaviours.OPTIONS)
    else:
        from atoll import rpc  # noqa: PLC0415 - the stock server's process does without

        server = rpc.server(options=behaviours.OPTIONS)
    methods = behaviours.handlers()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(behaviours.SERVICE, methods),))
    server.add_registered_method_handlers(behaviours.SERVICE, methods)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)  # noqa: T201 - for our parent
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    _, module, kind, loop = sys.argv
    serving = main(importlib.import_module(module), kind)
    if loop == "uvloop":
        import uvloop

        uvloop.run(serving)
    else:
        asyncio.run(serving)
