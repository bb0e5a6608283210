"""Streaming handlers on their loops: where each step runs, what neighbours cost, and how streams end with a loop."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from tests.rpc.support import (
    TIMEOUT,
    ClientProcess,
    NewLoop,
    add_methods,
    path,
    running,
    serving,
    until,
    wait_for,
)

from atoll import IoContext, IoContextThread, rpc
from atoll.errors import NotOnLoopError, PlacementError

BOTH = grpc.stream_stream_rpc_method_handler
REPLIES = grpc.unary_stream_rpc_method_handler
REQUESTS = grpc.stream_unary_rpc_method_handler


def where() -> bytes:
    io_context = IoContext.current_or_none()
    return f"{threading.current_thread().name}/{io_context.name if io_context else None}".encode()


async def generator(requests: Any, context: Any) -> AsyncIterator[bytes]:
    yield where()
    async for _ in requests:
        yield where()
    yield where()


async def reader_and_writer(requests: Any, context: Any) -> None:
    await context.write(where())
    while await context.read() is not grpc.aio.EOF:
        await context.write(where())
    await context.write(where())


async def tasks(requests: Any, context: Any) -> None:
    """Tasks that the handler starts read and write, too."""
    await context.write(where())

    async def read() -> None:
        async for _ in requests:
            await asyncio.ensure_future(context.write(where()))

    await asyncio.ensure_future(read())
    await context.write(where())


@pytest.mark.parametrize("handler", [generator, reader_and_writer, tasks])
@pytest.mark.parametrize("place", ["module", None])
async def test_every_step_of_a_stream_runs_on_its_loop_and_is_counted_there(
    client: ClientProcess, new_loop: NewLoop, handler: Any, place: str | None
) -> None:
    loop = new_loop(place) if place else IoContext.current()
    async with serving(loop if place else None, Talk=handler, kind=BOTH) as target:
        stream = client.open(target, path("Talk"))
        seen = [await stream.read()]
        for _ in range(3):
            await stream.write(b"?")
            seen.append(await stream.read())
        handlers = loop.stats()["Hoc.Talk"]
        assert (handlers.total, handlers.running) == (1, 1)
        await stream.take("done_writing")
        seen += await stream.take("read_all")
        assert (await stream.end()).code == "OK"
        await until(lambda: loop.stats()["Hoc.Talk"].running == 0)
    assert set(seen) == {b"module/module" if place else b"MainThread/MainThread"}
    assert len(seen) == 5
    assert loop.stats()["Hoc.Talk"].errors == 0


async def test_a_plain_generator_that_is_placed_runs_on_its_loop(client: ClientProcess, new_loop: NewLoop) -> None:
    def plain(request: bytes, context: Any) -> Iterator[bytes]:
        yield where()
        yield where()

    async with serving(new_loop("module"), Watch=plain, kind=REPLIES) as target:
        stream = client.open(target, path("Watch"))
        await stream.write(b"?")
        await stream.take("done_writing")
        assert await stream.take("read_all") == [b"module/module"] * 2


async def test_a_plain_function_that_reads_is_refused_on_a_loop_which_it_would_block(new_loop: NewLoop) -> None:
    def collect(requests: Iterator[bytes], context: Any) -> bytes:
        return b"".join(requests)

    server = rpc.server()
    add_methods(server.on(new_loop("module")), Collect=collect, kind=REQUESTS)
    with pytest.raises(PlacementError, match=r"Collect reads its requests with a plain function.*async def"):
        await server.start()


async def test_messages_are_read_and_written_on_the_calls_loop_only(client: ClientProcess, new_loop: NewLoop) -> None:
    home, other = new_loop("home"), new_loop("other")
    problems: list[str] = []

    async def elsewhere(context: Any, requests: Any) -> None:
        for attempt in (context.read(), context.write(b"x"), anext(requests)):
            try:
                await attempt
            except NotOnLoopError as error:
                problems.append(str(error))

    async def talk(requests: Any, context: Any) -> None:
        await asyncio.wrap_future(other.submit(elsewhere, context, requests))
        await context.write(b"%d" % len(await context.read()))

    async with serving(home, Talk=talk, kind=BOTH) as target:
        stream = client.open(target, path("Talk"))
        await stream.write(b"four")
        assert await stream.read() == b"4"
        assert (await stream.end()).code == "OK"
    assert len(problems) == 3
    assert all("'home'" in problem for problem in problems)


async def test_a_stuck_loops_streams_do_not_hold_up_those_of_another(client: ClientProcess, new_loop: NewLoop) -> None:
    leave = threading.Event()
    entered = threading.Event()

    async def stuck(requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            entered.set()
            wait_for(leave)
            yield b"late"

    server = rpc.server()
    add_methods(server.on(new_loop("stuck")), service="test.Stuck", Talk=stuck, kind=BOTH)
    add_methods(server.on(new_loop("lively")), service="test.Lively", Talk=generator, kind=BOTH)
    async with running(server) as target:
        held = client.open(target, "/test.Stuck/Talk")
        writing = held.step("write", bytes(100_000), 40)  # more than its window
        await until(entered.is_set)
        stream = client.open(target, "/test.Lively/Talk")
        assert await stream.read() == b"lively/lively"
        for _ in range(20):
            await stream.write(bytes(100_000))
            assert await stream.read() == b"lively/lively"
        await stream.take("done_writing")
        assert len(await stream.take("read_all")) == 1
        assert not writing.done()
        leave.set()
        assert await held.read() == b"late"
        await held.take("cancel")


async def test_a_handler_that_never_reads_does_not_stop_its_connections_other_streams(client: ClientProcess) -> None:
    leave = asyncio.Event()

    async def deaf(requests: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"hello"
        await leave.wait()

    async with serving(None, Deaf=deaf, Talk=generator, kind=BOTH) as target:
        held = client.open(target, path("Deaf"))
        assert await held.read() == b"hello"
        writing = held.step("write", bytes(100_000), 60)
        stream = client.open(target, path("Talk"))
        await stream.read()
        for _ in range(20):
            await stream.write(bytes(100_000))
            await stream.read()
        assert not writing.done()
        leave.set()
        await held.take("read")
        assert (await held.end()).code in {"OK", "INTERNAL"}  # the latter is grpcio's word for its own write


@pytest.mark.parametrize("direction", ["replies", "requests"])
async def test_a_stream_that_never_has_to_wait_leaves_its_loop_to_others(client: ClientProcess, direction: str) -> None:
    count, rounds = 100, 0

    async def others() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    async def flood(requests: Any, context: Any) -> AsyncIterator[bytes]:
        """Takes longer for each message than a turn lasts, and never awaits anything but messages."""
        first = await anext(requests)
        yield first
        while direction == "requests" and await context.read() != b"last":
            time.sleep(0.002)  # noqa: ASYNC251 - it does so on purpose
        for _ in range(count if direction == "replies" else 0):
            time.sleep(0.002)  # noqa: ASYNC251
            yield b""
        yield b"%d" % rounds

    async with serving(None, Flood=flood, kind=BOTH) as target:
        task = asyncio.ensure_future(others())
        stream = client.open(target, path("Flood"), timeout=60)
        await stream.write(b"first")
        await stream.read()
        before = rounds
        await stream.take("write", b"", count)
        await stream.write(b"last")
        await stream.take("done_writing")
        replies = await stream.take("read_all")
        task.cancel()
    assert int(replies[-1]) - before >= count // 2


async def test_readers_whose_turns_are_shorter_than_a_round_of_their_loop_are_handed_their_messages(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        async for message in requests:
            yield message

    async with serving(new_loop("busy", drain_budget=1e-9), Watch=echo, kind=BOTH) as target:
        streams = [client.open(target, path("Watch")) for _ in range(5)]
        for number in range(3):
            for stream in streams:
                await stream.write(b"%d" % number)
            for stream in streams:
                assert await stream.read() == b"%d" % number


async def test_readers_that_give_up_take_no_message_with_them(client: ClientProcess) -> None:
    gave_up = asyncio.Event()

    async def talk(requests: Any, context: Any) -> AsyncIterator[bytes]:
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.0001):
                    await context.read()
        gave_up.set()
        yield await context.read() + b"," + await context.read()

    async with serving(None, Talk=talk, kind=BOTH) as target:
        stream = client.open(target, path("Talk"))
        await gave_up.wait()
        await stream.write(b"one", b"two")
        assert await stream.read() == b"one,two"
        await stream.take("read")


async def test_two_tasks_that_read_share_the_messages(client: ClientProcess) -> None:
    async def collect(requests: Any, context: Any) -> bytes:
        async def read() -> list[bytes]:
            return [request async for request in requests]

        first, second = await asyncio.gather(read(), read())
        return b",".join(sorted(first + second))

    async with serving(None, Collect=collect, kind=REQUESTS) as target:
        stream = client.open(target, path("Collect"))
        for number in range(20):
            await stream.write(b"%02d" % number)
        await stream.take("done_writing")
        assert await stream.read() == b",".join(b"%02d" % number for number in range(20))


async def test_streams_may_finish_within_the_grace_of_a_stop(client: ClientProcess) -> None:
    stopping = asyncio.Event()

    async def talk(requests: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"hello"
        await stopping.wait()
        async for request in requests:
            yield bytes(request)

    server = rpc.server()
    add_methods(server, Talk=talk, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, path("Talk"))
        assert await stream.read() == b"hello"
        stop = asyncio.ensure_future(server.stop(2 * TIMEOUT))
        await asyncio.sleep(0)
        stopping.set()
        await stream.write(b"after the stop began")
        assert await stream.read() == b"after the stop began"
        await stream.take("done_writing")
        assert await stream.read() is None
        assert (await stream.end()).code == "OK"
        await asyncio.wait_for(stop, TIMEOUT)


@pytest.mark.parametrize("grace", [None, 0.1])
async def test_streams_that_go_on_are_cancelled_at_the_end_of_the_grace(
    client: ClientProcess, grace: float | None
) -> None:
    ended: list[str] = []

    async def talk(requests: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"hello"
            async for request in requests:
                yield bytes(request)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        finally:
            ended.append("finally")

    server = rpc.server()
    add_methods(server, Talk=talk, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, path("Talk"))
        assert await stream.read() == b"hello"
        await asyncio.wait_for(server.stop(grace), TIMEOUT)
        assert ended == ["cancelled", "finally"]
        assert (await stream.end()).code == "UNAVAILABLE"


async def test_streams_of_a_thread_pool_end_with_the_server(client: ClientProcess) -> None:
    ended = threading.Event()

    def talk(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        try:
            yield b"hello"
            yield from requests
        finally:
            ended.set()

    server = rpc.server()
    add_methods(server, Talk=talk, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, path("Talk"))
        assert await stream.read() == b"hello"
        await asyncio.wait_for(server.stop(0.05), TIMEOUT)
        await until(ended.is_set)
        assert (await stream.end()).code == "UNAVAILABLE"


@pytest.mark.parametrize("handler", [generator, reader_and_writer, tasks])
async def test_a_loop_that_stops_answers_its_open_streams(
    client: ClientProcess, loop_factory: Any, handler: Any
) -> None:
    thread = IoContextThread("module", loop_factory=loop_factory)
    thread.start()
    async with serving(thread.io_context, Talk=handler, kind=BOTH) as target:
        stream = client.open(target, path("Talk"))
        assert await stream.read() == b"module/module"
        await asyncio.to_thread(thread.stop)
        assert (await stream.end()).code == "CANCELLED"
        late = client.open(target, path("Talk"))
        assert (await late.end()).code == "RESOURCE_EXHAUSTED"
