"""One message to many streams of stock clients."""

# Handlers take what they don't need.
# ruff: noqa: ARG002

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.rpc.support import ClientProcess, Stream, probe_pb2, probe_pb2_grpc, running, until

from atoll import rpc


class Watched(probe_pb2_grpc.StreamsServicer):  # type: ignore[misc] # generated at test time
    def __init__(self, broadcast: rpc.Broadcast[Any]) -> None:
        self.broadcast = broadcast

    async def Watch(self, request: Any, context: Any) -> None:
        await self.broadcast.serve(context)

    async def Collect(self, request_iterator: Any, context: Any) -> Any:
        with pytest.raises(RuntimeError, match="streams its replies"):
            self.broadcast.subscribe(context)
        return probe_pb2.Note(text="refused")

    async def Once(self, request: Any, context: Any) -> Any:
        with pytest.raises(RuntimeError, match="streams its replies"):
            self.broadcast.subscribe(context)
        return request


async def watch(client: ClientProcess, target: str, channel: str = "") -> Stream:
    stream = client.open(target, "/atoll.tests.v1.Streams/Watch", timeout=60, channel=channel)
    await stream.write(b"")
    await stream.take("done_writing")
    return stream


async def test_every_subscriber_gets_every_message_in_order(client: ClientProcess) -> None:
    broadcast: rpc.Broadcast[Any] = rpc.Broadcast()
    server = rpc.server()
    probe_pb2_grpc.add_StreamsServicer_to_server(Watched(broadcast), server)
    sent = [str(number) for number in range(100)]
    async with running(server) as target:
        streams = [await watch(client, target) for _ in range(50)]
        await until(lambda: broadcast.stats().subscribers == 50)
        for text in sent:
            broadcast.send(probe_pb2.Note(text=text))

        async def received(stream: Stream) -> list[str]:
            messages = [await stream.read() for _ in sent]
            return [probe_pb2.Note.FromString(message).text for message in messages]

        async with asyncio.timeout(60):
            assert await asyncio.gather(*map(received, streams)) == [sent] * 50
        await streams[0].take("cancel")
        await until(lambda: broadcast.stats().subscribers == 49)
        assert broadcast.stats() == (49, 100, 0, 0, 0)
        for method, text in (("Once", "x"), ("Collect", "refused")):
            request = probe_pb2.Note(text="x").SerializeToString()
            reply = (await client.call(target, f"/atoll.tests.v1.Streams/{method}", request)).reply
            assert probe_pb2.Note.FromString(reply).text == text
    await until(lambda: broadcast.stats().subscribers == 0)


async def test_a_subscriber_that_does_not_read_loses_its_stream_and_no_other_does(client: ClientProcess) -> None:
    broadcast: rpc.Broadcast[Any] = rpc.Broadcast(max_waiting=100_000)
    server = rpc.server()
    probe_pb2_grpc.add_StreamsServicer_to_server(Watched(broadcast), server)
    async with running(server) as target:
        reader = await watch(client, target)
        await watch(client, target, "slow")
        await until(lambda: broadcast.stats().subscribers == 2)
        note = probe_pb2.Note(text="x" * 50_000)
        async with asyncio.timeout(60):
            while broadcast.stats().ended == 0:
                broadcast.send(note)
                assert await reader.read() == note.SerializeToString()
        assert broadcast.stats().subscribers == 1
        broadcast.send(note)
        assert await reader.read() == note.SerializeToString()


async def test_what_can_not_be_sent_or_made_is_refused() -> None:
    with pytest.raises(ValueError, match="'end' or 'miss'"):
        rpc.Broadcast(slow_subscribers="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_waiting=0"):
        rpc.Broadcast(max_waiting=0)
    broadcast: rpc.Broadcast[bytes] = rpc.Broadcast(bytes)
    broadcast.send(b"to nobody")
    unserializable: rpc.Broadcast[Any] = rpc.Broadcast()
    with pytest.raises(AttributeError):
        unserializable.send(b"no message")
