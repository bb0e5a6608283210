"""`rpc.Server` alone: services without grpcio, from hand-made handlers."""

# Handlers take what they don't need.

import json
import subprocess
import sys

from tests.rpc.support import ClientProcess

PROGRAM = """
import asyncio, json, sys
from dataclasses import dataclass
from typing import Any

from atoll import IoContextThread, rpc

@dataclass
class Handler:
    unary_unary: Any
    request_deserializer: Any = None
    response_serializer: Any = None
    request_streaming: bool = False
    response_streaming: bool = False
    unary_stream: Any = None
    stream_unary: Any = None
    stream_stream: Any = None

async def ask(request, context):
    context.set_trailing_metadata((("k", "v"),))
    return {"asked": request}

def tell(request, context):
    context.set_code(rpc.StatusCode.NOT_FOUND)
    context.set_details("nobody")
    return None

async def refuse(request, context):
    try:
        await context.abort(rpc.StatusCode.PERMISSION_DENIED, "no", (("why", "because"),))
    except Exception as error:
        assert type(error).__name__ == "AbortError", error
        raise

async def main():
    server = rpc.Server()
    methods = {
        "Ask": Handler(ask, json.loads, lambda reply: json.dumps(reply).encode()),
        "Tell": Handler(tell),
        "Refuse": Handler(refuse),
    }
    with IoContextThread("module") as thread:
        server.on(thread.io_context).add_registered_method_handlers("a.Service", methods)
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(None)
    assert "grpc" not in sys.modules, "grpcio was imported"
    print("without", flush=True)

asyncio.run(main())
"""


def test_a_server_without_grpcio_serves_clients_with_it(client: ClientProcess) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        target = f"127.0.0.1:{process.stdout.readline().strip()}"
        asked = client.start(target, "/a.Service/Ask", b'["x"]').done.result(10)
        told = client.start(target, "/a.Service/Tell").done.result(10)
        refused = client.start(target, "/a.Service/Refuse").done.result(10)
        out, log = process.communicate(timeout=20)
    assert (process.returncode, out.strip()) == (0, "without"), log
    assert json.loads(asked.reply or b"") == {"asked": ["x"]}
    assert asked.trailing == (("k", "v"),)
    assert (told.code, told.details) == ("NOT_FOUND", "nobody")
    assert (refused.code, refused.details, refused.trailing) == ("PERMISSION_DENIED", "no", (("why", "because"),))
    assert log == ""
