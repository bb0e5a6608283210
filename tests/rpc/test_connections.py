"""`context.connection`: pings, and what is known of a client after its call."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import functools
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from tests.rpc.support import TIMEOUT, ClientProcess, NewLoop, add_methods, path, running, serving, until, wait_for

from atoll import IoContext, IoContextThread, rpc
from atoll.errors import ConnectionClosedError, PingTimeoutError
from atoll.testing import ManualClock

SHORT = 0.2


@pytest.fixture
def own_client() -> Iterator[ClientProcess]:
    """A client's process that may be stopped and killed."""
    process = ClientProcess()
    yield process
    process.close()


class Kept:
    """A servicer that keeps the connection of each call."""

    def __init__(self) -> None:
        self.connections: list[rpc.Connection] = []

    async def call(self, _request: bytes, context: Any) -> bytes:
        self.connections.append(context.connection)
        return b""

    @property
    def last(self) -> rpc.Connection:
        return self.connections[-1]


async def test_a_ping_after_the_call_takes_a_part_of_a_second(client: ClientProcess) -> None:
    kept = Kept()
    async with serving(Call=kept.call) as target:
        await client.call(target, path("Call"))
        took = [await kept.last.ping() for _ in range(3)]
    assert all(0 < each < TIMEOUT for each in took), took


async def test_many_pings_at_once_are_all_answered(client: ClientProcess) -> None:
    kept = Kept()
    async with serving(Call=kept.call) as target:
        await client.call(target, path("Call"))
        took = await asyncio.gather(*(kept.last.ping(TIMEOUT) for _ in range(200)))
    assert len(took) == 200
    assert all(each > 0 for each in took)


async def test_a_connection_tells_what_its_calls_tell_and_is_one_for_all_of_them(client: ClientProcess) -> None:
    kept = Kept()
    peers = []

    async def call(request: bytes, context: Any) -> bytes:
        peers.append(context.peer())
        return await kept.call(request, context)

    async with serving(Call=call) as target:
        for channel in ("one", "one", "two"):
            await client.call(target, path("Call"), channel=channel)
        one, again, two = kept.connections
        assert one == again
        assert hash(one) == hash(again)
        assert one.id == again.id
        assert one != two
        assert one.id != two.id
        assert one != one.id
        assert [each.peer for each in kept.connections] == peers
        assert repr(one) == f"<Connection {one.id} of {one.peer}>"
        assert [one.closed, two.closed] == [False, False]
    assert [one.closed, two.closed] == [True, True]
    assert repr(one) == f"<Connection {one.id} of {one.peer}, closed>"


async def test_a_stopped_client_answers_no_ping_until_it_goes_on(own_client: ClientProcess) -> None:
    kept = Kept()
    async with serving(Call=kept.call) as target:
        await own_client.call(target, path("Call"))
        with own_client.stopped():
            began = time.monotonic()
            with pytest.raises(PingTimeoutError, match=r"has not answered a ping for 0\.2 s") as raised:
                await kept.last.ping(SHORT)
            assert time.monotonic() - began >= SHORT
            assert isinstance(raised.value, TimeoutError)
            assert not kept.last.closed
            patient = asyncio.ensure_future(kept.last.ping(TIMEOUT))
            await asyncio.sleep(SHORT)
            assert not patient.done()
        assert await patient > 0
        assert (await own_client.call(target, path("Call"))).code == "OK"


async def test_a_killed_client_ends_the_ping_and_its_connection(own_client: ClientProcess) -> None:
    kept = Kept()
    async with serving(Call=kept.call) as target:
        await own_client.call(target, path("Call"))
        with own_client.stopped():
            waiting = asyncio.ensure_future(kept.last.ping(TIMEOUT))
            await asyncio.sleep(SHORT)
            own_client.kill()
        with pytest.raises(ConnectionClosedError, match="has ended: ping the connection of its next call") as raised:
            await waiting
        assert isinstance(raised.value, ConnectionError)
        assert kept.last.closed
        for _ in range(2):
            with pytest.raises(ConnectionClosedError):
                await kept.last.ping()


async def test_a_ping_after_the_servers_end_is_refused(client: ClientProcess) -> None:
    kept = Kept()
    async with serving(Call=kept.call) as target:
        await client.call(target, path("Call"))
    with pytest.raises(ConnectionClosedError):
        await kept.last.ping()
    assert kept.last.peer.startswith("ipv4:127.0.0.1:")
    assert kept.last.last_received > 0


async def test_a_cancelled_ping_is_over_at_once_and_the_next_one_works(own_client: ClientProcess) -> None:
    kept = Kept()
    async with serving(Call=kept.call) as target:
        await own_client.call(target, path("Call"))
        with own_client.stopped():
            cancelled = asyncio.ensure_future(kept.last.ping(TIMEOUT))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SHORT):
                    await kept.last.ping(TIMEOUT)
        assert await kept.last.ping(TIMEOUT) > 0


async def test_another_loop_pings_while_the_calls_own_is_stuck(client: ClientProcess, new_loop: NewLoop) -> None:
    owner, other = new_loop("owner"), new_loop("other")
    kept = Kept()
    release = threading.Event()
    async with serving(owner, Call=kept.call) as target:
        await client.call(target, path("Call"))
        owner.post(wait_for, release)
        try:
            pings = [other.submit(kept.last.ping, TIMEOUT) for _ in range(3)]
            assert all([await each > 0 for each in pings])
            assert await kept.last.ping(TIMEOUT) > 0, "on the loop of the test"
        finally:
            release.set()


async def test_a_loop_that_was_stuck_learns_of_an_answer_that_came_in_time(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    loop = new_loop("late")
    kept = Kept()

    async def ping() -> float:
        waiting = asyncio.ensure_future(kept.last.ping(1.0))
        await asyncio.sleep(0)
        time.sleep(1.5)  # noqa: ASYNC251 - the answer comes meanwhile, and the time passes
        return await waiting

    async with serving(loop, Call=kept.call) as target:
        await client.call(target, path("Call"))
        assert await loop.submit(ping) <= 1.0


async def test_a_client_that_sends_and_gets_much_is_pinged_meanwhile(client: ClientProcess) -> None:
    kept = Kept()

    async def much(request: bytes, context: Any) -> bytes:
        kept.connections.append(context.connection)
        return bytes(1 << 20)

    async with serving(Call=much) as target:
        calls = [client.start(target, path("Call"), bytes(1 << 20)) for _ in range(20)]
        await until(lambda: kept.connections)
        assert await kept.last.ping(TIMEOUT) > 0
        assert all([(await call.outcome()).code == "OK" for call in calls])


async def test_what_comes_from_a_client_is_stamped_on_the_loops_clock(client: ClientProcess, new_loop: NewLoop) -> None:
    loop = new_loop("stuck")
    kept = Kept()
    release = threading.Event()
    async with serving(loop, Call=kept.call) as target:
        await client.call(target, path("Call"))
        first = kept.last.last_received
        assert first <= loop.now()
        loop.post(wait_for, release)
        try:
            before = loop.now()
            waiting = client.start(target, path("Call"))
            await until(lambda: kept.last.last_received >= before)
            assert len(kept.connections) == 1, "no loop has run anything"
            assert kept.last.last_received <= loop.now()
        finally:
            release.set()
        await waiting.outcome()
        heard = kept.last.last_received
        await kept.last.ping(TIMEOUT)
        assert kept.last.last_received > heard, "an answer to a ping counts, too"


async def test_a_connection_that_is_kept_holds_no_call_and_no_loop(client: ClientProcess) -> None:
    kept: list[rpc.Connection] = []
    others: list[weakref.ref[Any]] = []

    async def call(request: bytes, context: Any) -> bytes:
        kept.append(context.connection)
        others.extend([weakref.ref(context), weakref.ref(IoContext.current())])
        return b""

    thread = IoContextThread("gone")
    thread.start()
    try:
        async with serving(thread.io_context, Call=call) as target:
            await client.call(target, path("Call"))
    finally:
        thread.stop()
    del thread
    gc.collect()
    assert len(kept) == 1
    assert [other() for other in others] == [None, None]


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
async def test_a_time_out_that_is_none_is_refused(client: ClientProcess, seconds: float) -> None:
    kept = Kept()
    async with serving(Call=kept.call) as target:
        await client.call(target, path("Call"))
        with pytest.raises(ValueError, match="is not a number of seconds above 0"):
            await kept.last.ping(seconds)


# ------------------------------------------------------------------------------------------------ when calls arrived


async def test_a_call_tells_when_it_came_and_not_when_it_was_run(client: ClientProcess, new_loop: NewLoop) -> None:
    loop = new_loop("busy")
    blocked, release = threading.Event(), threading.Event()
    seen: list[tuple[float, float | None, float]] = []

    async def call(request: bytes, context: Any) -> bytes:
        seen.append((context.arrival_time, context.message_arrival_time, loop.now()))
        return b""

    def block() -> None:
        blocked.set()
        wait_for(release)

    async with serving(loop, Call=call) as target:
        await client.call(target, path("Call"))
        loop.post(block)
        await asyncio.to_thread(wait_for, blocked)
        before = loop.now()
        waiting = client.start(target, path("Call"))
        await until(lambda: any(loop.stats().queued.values()))
        queued = loop.now()
        await asyncio.sleep(0.3)
        release.set()
        await waiting.outcome()
    arrived, message_arrived, ran = seen[-1]
    assert before <= arrived <= queued
    assert message_arrived == arrived
    assert ran - arrived >= 0.3


async def test_messages_of_a_stream_tell_when_they_came(client: ClientProcess, new_loop: NewLoop) -> None:
    loop = new_loop("busy")
    told: list[Any] = []
    here = asyncio.get_running_loop()
    opened = asyncio.Event()

    async def call(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        told.append(context.message_arrival_time)
        here.call_soon_threadsafe(opened.set)
        wait_for(release)  # the whole loop
        told.extend([context.message_arrival_time async for _ in requests])
        told.append(context.arrival_time)
        yield b""

    release = threading.Event()
    server = rpc.server()
    add_methods(server.on(loop), kind=grpc.stream_stream_rpc_method_handler, Call=call)
    async with running(server) as target:
        before = loop.now()
        stream = client.open(target, path("Call"))
        await asyncio.wait_for(opened.wait(), TIMEOUT)

        def has_received(size: int) -> bool:
            return server.stats()[path("Call")].bytes_received == size

        sent, here_by = [], []
        for count in range(1, 4):
            sent.append(loop.now())
            await stream.write(b"beat")
            received = functools.partial(has_received, 4 * count)
            await until(received)
            here_by.append(loop.now())
        await asyncio.sleep(0.3)
        release.set()
        await stream.take("done_writing")
        await stream.read()
        await stream.end()
    first, *arrived, call_arrived = told
    assert first is None
    assert len(arrived) == 3
    assert all(since <= at <= by for since, at, by in zip(sent, arrived, here_by, strict=True))
    assert before <= call_arrived <= sent[0]


async def test_on_a_manual_clock_calls_arrive_at_its_time(client: ClientProcess) -> None:
    clock = ManualClock()
    seen: list[tuple[float, float]] = []

    async def call(request: bytes, context: Any) -> bytes:
        seen.append((context.arrival_time, context.connection.last_received))
        return b""

    thread = IoContextThread("manual", clock=clock)
    thread.start()
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        wait_for(release)

    try:
        async with serving(thread.io_context, Call=call) as target:
            await asyncio.to_thread(clock.advance, 5.0)
            await client.call(target, path("Call"))
            assert seen == [(5.0, 5.0)]
            thread.io_context.post(block)
            await asyncio.to_thread(wait_for, blocked)
            waiting = client.start(target, path("Call"))
            await until(lambda: any(thread.io_context.stats().queued.values()))
            clock.timers._advance_to(9.0)  # advance() would wait for the loop
            release.set()
            await waiting.outcome()
            assert seen[1] == (5.0, 5.0), "when it came, although time went on before it ran"
    finally:
        thread.stop()
