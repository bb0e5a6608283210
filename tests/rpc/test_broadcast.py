"""One message to many streams of stock clients."""

# Handlers take what they don't need.
# ruff: noqa: ARG002

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.rpc.support import TIMEOUT, probe_pb2, probe_pb2_grpc, running, until

from atoll import IoContext, rpc


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


async def test_every_subscriber_gets_every_message_in_order() -> None:
    broadcast: rpc.Broadcast[Any] = rpc.Broadcast()
    server = rpc.server()
    probe_pb2_grpc.add_StreamsServicer_to_server(Watched(broadcast), server)
    sent = [str(number) for number in range(100)]
    async with running(server) as target, grpc.aio.insecure_channel(target) as channel:
        stub = probe_pb2_grpc.StreamsStub(channel)
        calls = [stub.Watch(probe_pb2.Note(), timeout=60) for _ in range(50)]
        await until(lambda: broadcast.stats().subscribers == 50)
        for text in sent:
            broadcast.send(probe_pb2.Note(text=text))

        async def received(call: Any) -> list[str]:
            return [(await call.read()).text for _ in sent]

        async with asyncio.timeout(60):
            assert await asyncio.gather(*map(received, calls)) == [sent] * 50
        calls[0].cancel()
        await until(lambda: broadcast.stats().subscribers == 49)
        assert broadcast.stats() == (49, 100, 0, 0, 0)
        assert (await stub.Once(probe_pb2.Note(text="x"), timeout=TIMEOUT)).text == "x"
        assert (await stub.Collect(iter([probe_pb2.Note()]), timeout=TIMEOUT)).text == "refused"
    await until(lambda: broadcast.stats().subscribers == 0)


async def test_a_subscriber_that_does_not_read_loses_its_stream_and_no_other_does() -> None:
    broadcast: rpc.Broadcast[Any] = rpc.Broadcast(max_waiting=100_000)
    server = rpc.server()
    probe_pb2_grpc.add_StreamsServicer_to_server(Watched(broadcast), server)
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    async with (
        running(server) as target,
        grpc.aio.insecure_channel(target) as channel,
        grpc.aio.insecure_channel(target, options=options) as slow_channel,
    ):
        reader = probe_pb2_grpc.StreamsStub(channel).Watch(probe_pb2.Note(), timeout=60)
        slow = probe_pb2_grpc.StreamsStub(slow_channel).Watch(probe_pb2.Note(), timeout=60)
        await until(lambda: broadcast.stats().subscribers == 2)
        note = probe_pb2.Note(text="x" * 50_000)
        async with asyncio.timeout(60):
            while broadcast.stats().ended == 0:
                broadcast.send(note)
                assert await reader.read() == note
        assert broadcast.stats().subscribers == 1
        broadcast.send(note)
        assert await reader.read() == note
        del slow


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


async def test_a_subscriber_gets_nothing_that_was_sent_before_it_subscribed() -> None:
    broadcast: rpc.Broadcast[Any] = rpc.Broadcast()

    class Late(probe_pb2_grpc.StreamsServicer):  # type: ignore[misc] # generated at test time
        async def Watch(self, request: Any, context: Any) -> None:
            for number in range(200):
                broadcast.send(probe_pb2.Note(text=f"before {number}"))
            with broadcast.subscribe(context):
                broadcast.send(probe_pb2.Note(text="after"))
                await asyncio.get_running_loop().create_future()

    server = rpc.server()
    probe_pb2_grpc.add_StreamsServicer_to_server(Late(), server)
    async with running(server) as target, grpc.aio.insecure_channel(target) as channel:
        for _ in range(10):
            call = probe_pb2_grpc.StreamsStub(channel).Watch(probe_pb2.Note(), timeout=60)
            assert (await call.read()).text == "after"


class Resumed(probe_pb2_grpc.StreamsServicer):  # type: ignore[misc] # generated at test time
    """Sends numbers, and what a slow subscriber has missed when there is room."""

    def __init__(self) -> None:
        self.slow = rpc.SlowSubscribers(IoContext.current(), self.on_slow)
        self.broadcast: rpc.Broadcast[Any] = rpc.Broadcast(slow_subscribers=self.slow, max_waiting=200_000)
        self.sent = 0
        self.left: list[rpc.SlowSubscriber] = []
        self.someone_left = asyncio.Event()

    def note(self, number: int) -> Any:
        return probe_pb2.Note(text=f"{number} {'x' * 50_000}")

    def send(self) -> None:
        self.broadcast.send(self.note(self.sent + 1), since=self.sent, position=self.sent + 1)
        self.sent += 1

    def on_slow(self, left: list[rpc.SlowSubscriber]) -> None:
        self.left += left
        self.someone_left.set()

    async def Watch(self, request: Any, context: Any) -> None:
        position = self.sent
        while True:
            self.someone_left.clear()
            with self.broadcast.subscribe(context, tag=7, position=position) as subscription:
                await self.someone_left.wait()
                assert subscription.close() is None
            position = self.left[-1].position
            await context.wait_for_room()
            while position < self.sent:
                position += 1
                await context.write(self.note(position))


async def test_a_slow_subscriber_leaves_with_its_position_and_can_be_given_the_rest() -> None:
    server = rpc.server()
    resumed = Resumed()
    probe_pb2_grpc.add_StreamsServicer_to_server(resumed, server)
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    async with running(server) as target, grpc.aio.insecure_channel(target, options=options) as channel:
        call = probe_pb2_grpc.StreamsStub(channel).Watch(probe_pb2.Note(), timeout=60)
        await until(lambda: resumed.broadcast.stats().subscribers == 1)
        while not resumed.left:
            resumed.send()
            await asyncio.sleep(0.001)
        assert [it.tag for it in resumed.left] == [7]
        assert 0 < resumed.left[0].position < resumed.sent
        for number in range(1, resumed.sent + 1):
            assert (await asyncio.wait_for(call.read(), TIMEOUT)).text.split()[0] == str(number)
        await until(lambda: resumed.broadcast.stats().subscribers == 1)
        resumed.send()
        assert (await asyncio.wait_for(call.read(), TIMEOUT)).text.split()[0] == str(resumed.sent)
        assert resumed.broadcast.stats().left == 1
    resumed.slow.close()


async def test_a_subscription_that_is_closed_tells_how_far_it_came() -> None:
    broadcast: rpc.Broadcast[Any] = rpc.Broadcast(slow_subscribers=rpc.SlowSubscribers(IoContext.current(), print))
    told: list[int | None] = []

    class Closing(probe_pb2_grpc.StreamsServicer):  # type: ignore[misc] # generated at test time
        async def Watch(self, request: Any, context: Any) -> None:
            subscription = broadcast.subscribe(context, position=3)
            broadcast.send(probe_pb2.Note(text="x"), since=3, position=9)
            await asyncio.wait_for(told_all.wait(), TIMEOUT)
            told.extend([subscription.close(), subscription.close(), broadcast.subscribe(context, position=5).close()])

    told_all = asyncio.Event()
    server = rpc.server()
    probe_pb2_grpc.add_StreamsServicer_to_server(Closing(), server)
    async with running(server) as target, grpc.aio.insecure_channel(target) as channel:
        call = probe_pb2_grpc.StreamsStub(channel).Watch(probe_pb2.Note(), timeout=60)
        assert (await call.read()).text == "x"
        told_all.set()
        assert not await call.read()
    assert told == [9, None, 5]
