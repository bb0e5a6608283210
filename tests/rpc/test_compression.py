"""Compressed requests and replies, with a stock grpcio client in another process."""

# Handlers take what they don't need.
# ruff: noqa: ARG002

from __future__ import annotations

from typing import Any

import grpc
import pytest
from tests.rpc.support import probe_pb2, probe_pb2_grpc, running, stub_client

from atoll import rpc

LONG = "text " * 1000


class Streams(probe_pb2_grpc.StreamsServicer):  # type: ignore[misc] # generated at test time
    """Says how large what it got was, and answers at length."""

    async def Once(self, request: Any, context: Any) -> Any:
        if request.text == "plain":
            context.disable_next_message_compression()
        if request.text in {"1", "2"}:
            context.set_compression(int(request.text))
        return probe_pb2.Note(text=LONG)

    async def Watch(self, request: Any, context: Any) -> Any:
        context.set_compression(rpc.Compression.Gzip)
        for _ in range(3):
            yield probe_pb2.Note(text=LONG)
            context.disable_next_message_compression()

    async def Collect(self, request_iterator: Any, context: Any) -> Any:
        return probe_pb2.Note(text=",".join([str(len(request.text)) async for request in request_iterator]))

    async def Talk(self, request_iterator: Any, context: Any) -> Any:
        async for request in request_iterator:
            yield request


@pytest.mark.parametrize("algorithm", ["Gzip", "Deflate"])
async def test_grpcio_clients_may_compress_what_they_send_and_get(algorithm: str) -> None:
    server = rpc.server(compression=getattr(grpc.Compression, algorithm))
    probe_pb2_grpc.add_StreamsServicer_to_server(Streams(), server)
    program = f"""
with grpc.insecure_channel(sys.argv[2], compression=grpc.Compression.{algorithm}) as channel:
    stub = probe_pb2_grpc.StreamsStub(channel)
    note = probe_pb2.Note(text="text " * 1000)
    for text in ("x", "plain", "1", "2"):
        assert stub.Once(probe_pb2.Note(text=text), timeout=10) == note
    assert stub.Once(note, timeout=10) == note
    assert [reply.text for reply in stub.Watch(note, timeout=10)] == [note.text] * 3
    assert stub.Collect(iter([note, note]), timeout=10).text == "5000,5000"
    assert list(stub.Talk(iter([note, note]), timeout=10)) == [note, note]
"""
    async with running(server) as target:
        assert await stub_client(target, program) == "all is well"


async def test_a_compression_that_is_none_is_refused_where_it_is_said() -> None:
    with pytest.raises(ValueError, match="7"):
        rpc.server(compression=7)


async def test_compression_comes_before_the_headers() -> None:
    refusals: list[str] = []

    class Late(Streams):
        async def Once(self, request: Any, context: Any) -> Any:
            await context.send_initial_metadata((("early", "bird"),))
            with pytest.raises(grpc.aio.UsageError, match="before the initial metadata"):
                context.set_compression(grpc.Compression.Gzip)
            with pytest.raises(ValueError, match="7 is no compression"):
                context.set_compression(7)
            refusals.append("refused")
            return request

    server = rpc.server()
    probe_pb2_grpc.add_StreamsServicer_to_server(Late(), server)
    program = """
with grpc.insecure_channel(sys.argv[2]) as channel:
    note = probe_pb2.Note(text="x")
    assert probe_pb2_grpc.StreamsStub(channel).Once(note, timeout=10) == note
"""
    async with running(server) as target:
        assert await stub_client(target, program) == "all is well"
    assert refusals == ["refused"]
