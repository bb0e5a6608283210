"""The service of gRPC's interop tests (``doc/interop-test-descriptions.md``), for the interop clients of any language.

    python -m conformance.servers.interop GENERATED [--server KIND] [--tls]

Prints its port as a line of JSON, and serves until its standard input ends. Reflection is on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc

from conformance.kinds import KINDS
from conformance.servers.serving import Certificates, generated, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conformance.servers.serving import Context

empty_pb2 = generated("interop.empty_pb2")
messages_pb2 = generated("interop.messages_pb2")
test_pb2 = generated("interop.test_pb2")
TestServiceServicer: Any = generated("interop.test_pb2_grpc").TestServiceServicer
add_to_server = generated("interop.test_pb2_grpc").add_TestServiceServicer_to_server

ECHO_INITIAL: Final = "x-grpc-test-echo-initial"
ECHO_TRAILING: Final = "x-grpc-test-echo-trailing-bin"
SERVICE: Final = test_pb2.DESCRIPTOR.services_by_name["TestService"].full_name
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class TestService(TestServiceServicer):  # type: ignore[misc] # generated when it is needed
    """Every method but ``UnimplementedCall``, which the base class refuses."""

    async def EmptyCall(self, _request: Any, context: Context) -> Any:
        await _echo_metadata(context)
        return empty_pb2.Empty()

    async def UnaryCall(self, request: Any, context: Context) -> Any:
        await _echo_metadata(context)
        await _echo_status(request, context)
        if request.HasField("response_compressed"):
            _compress(context, wanted=request.response_compressed.value)
        reply = messages_pb2.SimpleResponse(payload=_payload(request.response_type, request.response_size))
        if request.fill_server_id:
            reply.server_id = "atoll-conformance"
            reply.hostname = socket.gethostname()
        return reply

    async def CacheableUnaryCall(self, request: Any, context: Context) -> Any:
        await context.send_initial_metadata([("cache-control", "max-age=60, public")])
        return messages_pb2.SimpleResponse(payload=_payload(request.response_type, request.response_size))

    async def StreamingOutputCall(self, request: Any, context: Context) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        async for reply in _replies(request, context):
            yield reply

    async def StreamingInputCall(self, requests: AsyncIterator[Any], context: Context) -> Any:
        await _echo_metadata(context)
        size = 0
        async for request in requests:
            size += len(request.payload.body)
        return messages_pb2.StreamingInputCallResponse(aggregated_payload_size=size)

    async def FullDuplexCall(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        async for request in requests:
            await _echo_status(request, context)
            async for reply in _replies(request, context):
                yield reply

    async def HalfDuplexCall(self, _requests: object, context: Context) -> None:
        # With the context's own reader and writer.
        await _echo_metadata(context)
        received = []
        while (request := await context.read()) is not grpc.aio.EOF:
            received.append(request)
        for request in received:
            async for reply in _replies(request, context):
                await context.write(reply)


def _payload(kind: int, size: int) -> Any:
    return messages_pb2.Payload(type=kind, body=bytes(size))


async def _echo_metadata(context: Context) -> None:
    """Send back two entries: one at once, the other at the end."""
    for key, value in context.invocation_metadata() or ():
        if key == ECHO_INITIAL:
            await context.send_initial_metadata([(key, value)])
        elif key == ECHO_TRAILING:
            context.set_trailing_metadata([(key, value)])


async def _echo_status(request: Any, context: Context) -> None:
    """End the call with the status that the request asks for, if any."""
    if request.HasField("response_status") and request.response_status.code:
        await context.abort(CODES[request.response_status.code], request.response_status.message)


async def _replies(request: Any, context: Context) -> AsyncIterator[Any]:
    for wanted in request.response_parameters:
        if wanted.interval_us:
            await asyncio.sleep(wanted.interval_us / 1e6)
        if wanted.HasField("compressed"):
            _compress(context, wanted=wanted.compressed.value)
        yield messages_pb2.StreamingOutputCallResponse(payload=_payload(request.response_type, wanted.size))


def _compress(context: Context, *, wanted: bool) -> None:
    if wanted:
        context.set_compression(grpc.Compression.Gzip)
    else:
        context.disable_next_message_compression()


def _add_to(server: Any) -> None:
    add_to_server(TestService(), server)


async def _serve(options: argparse.Namespace) -> None:
    certificates = None
    if options.tls:
        folder = Path(options.generated)
        certificates = Certificates((folder / "server1.key").read_bytes(), (folder / "server1.pem").read_bytes())
    async with serving(options.server, _add_to, certificates=certificates, reflected=[SERVICE]) as port:
        sys.stdout.write(json.dumps({"port": port}) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generated")
    parser.add_argument("--server", choices=KINDS, default="atoll")
    parser.add_argument("--tls", action="store_true")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
