"""A server's life: start, stop, and what becomes of calls in flight."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import TIMEOUT, ClientProcess, NewLoop, add_methods, path, running, until, wait_for

from atoll import IoContext, rpc
from atoll.errors import ServerStateError


class Held:
    """A call that is answered when the test says so."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.cancelled = False
        self.callbacks = 0
        self.server: Any = rpc.server()
        add_methods(self.server, Hold=self.hold)
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def hold(self, request: bytes, context: Any) -> bytes:
        def ended(_: object) -> None:
            self.callbacks += 1

        context.add_done_callback(ended)
        self.entered.set()
        try:
            await self.leave.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return b"finished"


async def test_calls_in_flight_finish_within_the_grace(client: ClientProcess) -> None:
    held = Held()
    await held.server.start()
    call = client.start(held.target, path("Hold"))
    await held.entered.wait()
    stopping = asyncio.ensure_future(held.server.stop(TIMEOUT))
    # The stop has begun when new connections are refused.
    await until_refused(held.target)
    assert not stopping.done()
    held.leave.set()
    await asyncio.wait_for(stopping, TIMEOUT)
    assert (await call.outcome()).reply == b"finished"
    assert not held.cancelled


async def until_refused(target: str) -> None:
    host, port = target.split(":")
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.001)


async def test_calls_in_flight_are_cancelled_when_the_grace_is_over(client: ClientProcess) -> None:
    held = Held()
    await held.server.start()
    call = client.start(held.target, path("Hold"))
    await held.entered.wait()
    await held.server.stop(0.05)
    assert (await call.outcome()).code == "UNAVAILABLE"
    assert held.cancelled
    assert held.callbacks == 1


@pytest.mark.parametrize("grace", [None, 0, 0.0])
async def test_calls_in_flight_are_cancelled_at_once_without_grace(client: ClientProcess, grace: float | None) -> None:
    held = Held()
    await held.server.start()
    call = client.start(held.target, path("Hold"))
    await held.entered.wait()
    await asyncio.wait_for(held.server.stop(grace), TIMEOUT)
    assert (await call.outcome()).code == "UNAVAILABLE"
    assert held.cancelled


async def test_an_endless_grace_is_one(client: ClientProcess) -> None:
    held = Held()
    await held.server.start()
    call = client.start(held.target, path("Hold"))
    await held.entered.wait()
    stopping = asyncio.ensure_future(held.server.stop(float("inf")))
    await until_refused(held.target)
    held.leave.set()
    assert (await call.outcome()).reply == b"finished"
    await asyncio.wait_for(stopping, TIMEOUT)


async def test_calls_that_come_after_the_stop_are_refused(client: ClientProcess) -> None:
    held = Held()
    held.leave.set()
    await held.server.start()
    assert (await client.call(held.target, path("Hold"))).code == "OK"
    await held.server.stop(None)
    assert (await client.call(held.target, path("Hold"))).code == "UNAVAILABLE"


async def test_a_second_stop_shortens_the_grace(client: ClientProcess) -> None:
    held = Held()
    await held.server.start()
    call = client.start(held.target, path("Hold"))
    await held.entered.wait()
    patient = asyncio.ensure_future(held.server.stop(3600))
    await until_refused(held.target)
    await asyncio.wait_for(held.server.stop(None), TIMEOUT)
    await asyncio.wait_for(patient, TIMEOUT)
    assert (await call.outcome()).code == "UNAVAILABLE"


async def test_a_second_stop_does_not_lengthen_the_grace(client: ClientProcess) -> None:
    held = Held()
    await held.server.start()
    call = client.start(held.target, path("Hold"))
    await held.entered.wait()
    hurried = asyncio.ensure_future(held.server.stop(0.05))
    patient = asyncio.ensure_future(held.server.stop(3600))
    await asyncio.wait_for(asyncio.gather(hurried, patient), TIMEOUT)
    assert (await call.outcome()).code == "UNAVAILABLE"


async def test_stopping_a_stopped_server_does_nothing() -> None:
    held = Held()
    await held.server.start()
    await held.server.stop(None)
    await held.server.stop(None)
    await held.server.stop(5)


async def test_stopping_a_server_that_never_started_frees_its_ports() -> None:
    held = Held()
    await held.server.stop(None)
    assert await held.server.wait_for_termination(1) is False
    assert rpc.server().add_insecure_port(held.target) > 0
    with pytest.raises(ServerStateError, match="has been stopped: construct a new one"):
        await held.server.start()


async def test_a_server_starts_once() -> None:
    held = Held()
    async with running(held.server):
        with pytest.raises(ServerStateError, match="has been started"):
            await held.server.start()
    with pytest.raises(ServerStateError):
        await held.server.start()


async def test_waiting_for_the_termination_says_whether_the_time_ran_out() -> None:
    held = Held()
    async with running(held.server):
        assert await held.server.wait_for_termination(0.01) is True
        assert await held.server.wait_for_termination(0) is True
        waiting = asyncio.ensure_future(held.server.wait_for_termination())
        patient = asyncio.ensure_future(held.server.wait_for_termination(TIMEOUT))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(waiting, TIMEOUT) is False
    assert await asyncio.wait_for(patient, TIMEOUT) is False
    assert await held.server.wait_for_termination(0) is False
    assert await held.server.wait_for_termination() is False


async def test_waiting_for_the_termination_may_begin_before_the_start() -> None:
    held = Held()
    waiting = asyncio.ensure_future(held.server.wait_for_termination())
    await asyncio.sleep(0)
    await held.server.start()
    await held.server.stop(None)
    assert await asyncio.wait_for(waiting, TIMEOUT) is False


async def test_a_waiter_that_is_cancelled_leaves_the_others_waiting() -> None:
    held = Held()
    async with running(held.server):
        first = asyncio.ensure_future(held.server.wait_for_termination())
        second = asyncio.ensure_future(held.server.wait_for_termination())
        await asyncio.sleep(0)
        first.cancel()
    assert await asyncio.wait_for(second, TIMEOUT) is False
    assert first.cancelled()


async def test_a_stop_goes_on_when_who_asked_for_it_is_cancelled(client: ClientProcess) -> None:
    held = Held()
    await held.server.start()
    call = client.start(held.target, path("Hold"))
    await held.entered.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(held.server.stop(TIMEOUT), 0.01)
    waiting = asyncio.ensure_future(held.server.wait_for_termination(TIMEOUT))
    held.leave.set()
    assert (await call.outcome()).reply == b"finished"
    assert await waiting is False


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_call_that_finishes_while_the_server_stops_is_answered_whole(client: ClientProcess, size: int) -> None:
    for _ in range(5):
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hold(request: bytes, context: Any) -> bytes:
            entered.set()  # noqa: B023 - it ends within the round
            await leave.wait()  # noqa: B023 - it ends within the round
            context.set_trailing_metadata((("k", "v"),))
            return b"x" * size

        server = rpc.server()
        add_methods(server, Hold=hold)
        async with running(server) as target:
            call = client.start(target, path("Hold"))
            await entered.wait()
            stopping = asyncio.ensure_future(server.stop(TIMEOUT))
            await until_refused(target)
            leave.set()
            await asyncio.wait_for(stopping, TIMEOUT)
        outcome = await call.outcome()
        assert outcome.trailing == (("k", "v"),)
        assert len(outcome.reply or b"") == size


async def test_a_server_stops_while_its_modules_loop_is_stuck(
    client: ClientProcess, new_loop: NewLoop, log: Log
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def block(request: bytes, context: Any) -> bytes:
        entered.set()
        wait_for(leave)
        return b"too late"

    server = rpc.server()
    module = new_loop("module")
    add_methods(server.on(module), Block=block)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    call = client.start(target, path("Block"))
    await asyncio.to_thread(wait_for, entered)
    stopping = asyncio.ensure_future(server.stop(None))
    assert (await call.outcome()).code == "UNAVAILABLE"
    leave.set()
    await asyncio.wait_for(stopping, TIMEOUT)
    await until(lambda: module.stats().active == 0)
    log.take("handlers of cancelled calls still run")


async def test_two_servers_share_a_loop(client: ClientProcess) -> None:
    first, second = Held(), Held()
    for held in (first, second):
        held.leave.set()
    async with running(first.server):
        async with running(second.server):
            assert (await client.call(first.target, path("Hold"))).reply == b"finished"
            assert (await client.call(second.target, path("Hold"))).reply == b"finished"
        assert (await client.call(first.target, path("Hold"))).reply == b"finished"


class Servicer:
    """Knows its server, as servicers that shut it down do."""

    def __init__(self, server: Any) -> None:
        self.server = server

    async def Answer(self, request: bytes, context: Any) -> bytes:
        return b"answered"


async def test_a_stopped_server_and_its_servicers_are_garbage(client: ClientProcess) -> None:
    server: Any = rpc.server()
    servicer = Servicer(server)
    add_methods(server, Answer=servicer.Answer)
    async with running(server) as target:
        assert (await client.call(target, path("Answer"))).reply == b"answered"
    gone = weakref.ref(server), weakref.ref(servicer)
    del server, servicer
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


async def test_a_server_that_was_never_started_is_garbage() -> None:
    server: Any = rpc.server()
    servicer = Servicer(server)
    add_methods(server, Answer=servicer.Answer)
    server.add_insecure_port("127.0.0.1:0")
    gone = weakref.ref(server), weakref.ref(servicer)
    del server, servicer
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


async def test_a_running_server_that_nobody_holds_stops(client: ClientProcess) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b"answered"

    server = rpc.server()
    add_methods(server, Answer=answer)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    assert (await client.call(target, path("Answer"))).reply == b"answered"
    del server
    gc.collect()
    await until_refused(target)


async def test_contexts_and_requests_are_not_kept_after_their_calls(client: ClientProcess) -> None:
    kept: list[weakref.ref[Any]] = []

    async def at_once(request: bytes, context: Any) -> bytes:
        kept.append(weakref.ref(context))
        context.add_done_callback(lambda seen: seen)
        return b""

    async def later(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        return await at_once(request, context)

    async def failing(request: bytes, context: Any) -> bytes:
        await at_once(request, context)
        await context.abort(rpc.StatusCode.ABORTED, "on purpose")
        return b""

    def plain(request: bytes, context: Any) -> bytes:
        kept.append(weakref.ref(context))
        return b""

    server = rpc.server()
    add_methods(server, AtOnce=at_once, Later=later, Failing=failing)
    add_methods(server.on(IoContext.current()), service="a.Bound", Plain=plain)
    async with running(server) as target:
        for method in (path("AtOnce"), path("Later"), path("Failing"), path("Plain", "a.Bound")):
            await client.call(target, method)
    gc.collect()
    assert len(kept) == 4
    assert [reference() for reference in kept] == [None] * 4
