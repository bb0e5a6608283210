"""Subscribers that leave a broadcast for their slowness, and how far they came."""

# Handlers take what they don't need.
# ruff: noqa: ARG002

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tests.rpc.support import TIMEOUT, ClientProcess, Stream, probe_pb2, probe_pb2_grpc, running, until
from tests.rpc.test_broadcast import watch

from atoll import IoContext, rpc
from atoll.errors import MailboxFull


async def text_of(stream: Stream) -> str:
    message = await stream.read()
    assert message is not None
    text: str = probe_pb2.Note.FromString(message).text
    return text


async def test_a_subscriber_gets_nothing_that_was_sent_before_it_subscribed(client: ClientProcess) -> None:
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
    async with running(server) as target:
        for _ in range(10):
            assert await text_of(await watch(client, target)) == "after"


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


async def test_a_slow_subscriber_leaves_with_its_position_and_can_be_given_the_rest(client: ClientProcess) -> None:
    server = rpc.server()
    resumed = Resumed()
    probe_pb2_grpc.add_StreamsServicer_to_server(resumed, server)
    async with running(server) as target:
        stream = await watch(client, target, "slow")
        await until(lambda: resumed.broadcast.stats().subscribers == 1)
        while not resumed.left:
            with contextlib.suppress(MailboxFull):
                resumed.send()
            await asyncio.sleep(0.001)
        assert [it.tag for it in resumed.left] == [7]
        assert 0 < resumed.left[0].position < resumed.sent
        for number in range(1, resumed.sent + 1):
            assert (await text_of(stream)).split()[0] == str(number)
        await until(lambda: resumed.broadcast.stats().subscribers == 1)
        resumed.send()
        assert (await text_of(stream)).split()[0] == str(resumed.sent)
        assert resumed.broadcast.stats().left == 1
    resumed.slow.close()


async def test_a_slow_subscriber_is_told_of_although_only_the_broadcast_holds_who_tells(client: ClientProcess) -> None:
    told: list[rpc.SlowSubscriber] = []
    broadcast: rpc.Broadcast[Any] = rpc.Broadcast(
        slow_subscribers=rpc.SlowSubscribers(IoContext.current(), told.extend), max_waiting=200_000
    )

    class Watched(probe_pb2_grpc.StreamsServicer):  # type: ignore[misc] # generated at test time
        async def Watch(self, request: Any, context: Any) -> None:
            broadcast.subscribe(context, tag=7)
            await asyncio.get_running_loop().create_future()

    server = rpc.server()
    probe_pb2_grpc.add_StreamsServicer_to_server(Watched(), server)
    async with running(server) as target:
        await watch(client, target, "slow")
        await until(lambda: broadcast.stats().subscribers == 1)
        note = probe_pb2.Note(text="x" * 50_000)
        while broadcast.stats().left == 0:
            with contextlib.suppress(MailboxFull):
                broadcast.send(note)
            await asyncio.sleep(0.001)
        await until(lambda: told)
    assert [it.tag for it in told] == [7]


async def test_a_subscription_that_is_closed_tells_how_far_it_came(client: ClientProcess) -> None:
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
    async with running(server) as target:
        stream = await watch(client, target)
        assert await text_of(stream) == "x"
        told_all.set()
        assert await stream.read() is None
    assert told == [9, None, 5]
