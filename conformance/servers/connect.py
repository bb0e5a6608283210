"""The service of connectrpc's conformance suite, and how the suite's runner speaks to the server that it tests.

    python -m conformance.servers.connect GENERATED [--server KIND] [--compress]

The runner writes one ``ServerCompatRequest`` to standard input, reads one ``ServerCompatResponse`` from standard
output, each after its length in four bytes, and ends the process with SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import signal
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from conformance.kinds import KINDS
from conformance.servers.serving import Certificates, generated, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from conformance.servers.serving import Context

PACKAGE: Final = "connectrpc.conformance.v1"
server_compat_pb2 = generated(f"{PACKAGE}.server_compat_pb2")
service_pb2 = generated(f"{PACKAGE}.service_pb2")
status_pb2 = generated("interop.status_pb2")
ConformanceServiceServicer: Any = generated(f"{PACKAGE}.service_pb2_grpc").ConformanceServiceServicer
add_to_server = generated(f"{PACKAGE}.service_pb2_grpc").add_ConformanceServiceServicer_to_server
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class ConformanceService(ConformanceServiceServicer):  # type: ignore[misc] # generated when it is needed
    """Every method but ``Unimplemented``, which the base class refuses."""

    async def Unary(self, request: Any, context: Context) -> Any:
        return service_pb2.UnaryResponse(payload=await _answer(_definition(request), [request], context))

    async def IdempotentUnary(self, request: Any, context: Context) -> Any:
        return service_pb2.IdempotentUnaryResponse(payload=await _answer(_definition(request), [request], context))

    async def ClientStream(self, requests: AsyncIterator[Any], context: Context) -> Any:
        received = [request async for request in requests]
        definition = _definition(received[0]) if received else None
        return service_pb2.ClientStreamResponse(payload=await _answer(definition, received, context))

    async def ServerStream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        definition = _definition(request)
        if definition is None:
            return
        await _send_headers(definition, context)
        for number, data in enumerate(definition.response_data):
            await asyncio.sleep(definition.response_delay_ms / 1000)
            yield service_pb2.ServerStreamResponse(payload=_payload(data, None if number else [request], context))
        await _fail(definition, [] if definition.response_data else [request], context)

    async def BidiStream(self, _requests: object, context: Context) -> None:
        # With the context's own reader and writer; a stream of requests that is empty gets an empty one back.
        first = request = await context.read()
        if first is grpc.aio.EOF:
            return
        definition = _definition(first)
        if definition is not None:
            await _send_headers(definition, context)
        data = list(definition.response_data) if definition is not None else []
        unanswered: list[Any] = []
        sent = 0
        while request is not grpc.aio.EOF:
            unanswered.append(request)
            if first.full_duplex:
                if sent == len(data):
                    break
                await asyncio.sleep(definition.response_delay_ms / 1000)
                payload = _payload(data[sent], None if sent else unanswered, context)
                if sent:
                    payload.request_info.requests.extend(_packed(unanswered))
                await context.write(service_pb2.BidiStreamResponse(payload=payload))
                sent += 1
                unanswered = []
            request = await context.read()
        while sent < len(data):
            await asyncio.sleep(definition.response_delay_ms / 1000)
            payload = _payload(data[sent], None if sent else unanswered, context)
            await context.write(service_pb2.BidiStreamResponse(payload=payload))
            sent += 1
        if definition is not None:
            await _fail(definition, [] if sent else unanswered, context)


# ----------------------------------------------------------------------------------------------------- what is answered


def _definition(request: Any) -> Any:
    """Return what the client wants back; None when it does not say."""
    return request.response_definition if request.HasField("response_definition") else None


async def _send_headers(definition: Any, context: Context) -> None:
    await context.send_initial_metadata(_metadata(definition.response_headers))
    context.set_trailing_metadata(_metadata(definition.response_trailers))


async def _answer(definition: Any, requests: Sequence[Any], context: Context) -> Any:
    """Return the one payload of a call, or end it with an error."""
    if definition is None:
        return _payload(b"", requests, context)
    await _send_headers(definition, context)
    await asyncio.sleep(definition.response_delay_ms / 1000)
    await _fail(definition, requests, context)
    return _payload(definition.response_data, requests, context)


async def _fail(definition: Any, requests: Sequence[Any], context: Context) -> None:
    """End the call with the error that the client wants, if any; it tells of the requests if nothing else did."""
    if not definition.HasField("error"):
        return
    error = definition.error
    status = status_pb2.Status(code=error.code, message=error.message, details=error.details)
    if requests:
        status.details.extend(_packed([_request_info(requests, context)]))
    details = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(CODES[error.code], error.message, (*_metadata(definition.response_trailers), details))


def _payload(data: bytes, requests: Sequence[Any] | None, context: Context) -> Any:
    """Return a payload that tells of the call and of these requests; of nothing with None."""
    if requests is None:
        return service_pb2.ConformancePayload(data=data)
    return service_pb2.ConformancePayload(data=data, request_info=_request_info(requests, context))


def _request_info(requests: Sequence[Any], context: Context) -> Any:
    info = service_pb2.ConformancePayload.RequestInfo(requests=_packed(requests))
    values: dict[str, list[str]] = {}
    for key, value in context.invocation_metadata() or ():
        text = base64.b64encode(value).decode().rstrip("=") if isinstance(value, bytes) else value
        values.setdefault(key, []).append(text)
    for key, texts in values.items():
        info.request_headers.add(name=key, value=texts)
    remaining = context.time_remaining()
    if remaining is not None:
        info.timeout_ms = int(remaining * 1000)
    return info


def _packed(messages: Iterable[Any]) -> list[AnyMessage]:
    packed = []
    for message in messages:
        packed.append(AnyMessage())
        packed[-1].Pack(message)
    return packed


def _metadata(headers: Iterable[Any]) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((header.name.lower(), _value(header.name, text)) for header in headers for text in header.value)


def _value(name: str, text: str) -> str | bytes:
    if not name.lower().endswith("-bin"):
        return text
    # Of binary values the suite has the base64, with or without its padding.
    return base64.b64decode(text + "=" * (-len(text) % 4))


# -------------------------------------------------------------------------------------------------------- the two pipes


async def _serve(kind: str, compression: grpc.Compression | None) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    (length,) = struct.unpack(">I", sys.stdin.buffer.read(4))
    wanted = server_compat_pb2.ServerCompatRequest.FromString(sys.stdin.buffer.read(length))
    certificates = None
    if wanted.use_tls:
        creds = wanted.server_creds
        certificates = Certificates(creds.key, creds.cert, wanted.client_tls_cert or None)
    options = [("grpc.max_receive_message_length", wanted.message_receive_limit)]
    async with serving(kind, _add_to, certificates=certificates, options=options, compression=compression) as port:
        answer = server_compat_pb2.ServerCompatResponse(host="127.0.0.1", port=port)
        if wanted.use_tls:
            answer.pem_cert = wanted.server_creds.cert
        data = answer.SerializeToString()
        sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
        sys.stdout.buffer.flush()
        await stop.wait()


def _add_to(server: Any) -> None:
    add_to_server(ConformanceService(), server)


def main() -> None:
    """Serve as the command line and the runner say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generated")
    parser.add_argument("--server", choices=KINDS, default="atoll")
    parser.add_argument("--compress", action="store_true", help="compress replies for clients that accept it")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.server, grpc.Compression.Gzip if options.compress else None))


if __name__ == "__main__":
    main()
