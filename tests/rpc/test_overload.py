"""Loops that are full, closed or gone: their calls are answered, whatever happens."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import threading
from typing import Any

from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, LoopFactory, NewLoop, path, serving, until, wait_for

from atoll import IoContextThread


async def answer(request: bytes, context: Any) -> bytes:
    return b"answered"


async def test_a_full_mailbox_refuses_calls(client: ClientProcess, new_loop: NewLoop) -> None:
    entered, leave = threading.Event(), threading.Event()

    def block(request: bytes, context: Any) -> bytes:
        entered.set()
        wait_for(leave)
        return b""

    module = new_loop("module", max_queued=5)
    async with serving(module, Answer=answer, Block=block) as target:
        first = client.start(target, path("Block"))
        await asyncio.to_thread(wait_for, entered)
        queued = [client.start(target, path("Answer")) for _ in range(5)]
        await until(lambda: module.stats().queued["normal"] == 5)
        refused = [await client.call(target, path("Answer")) for _ in range(3)]
        assert {outcome.code for outcome in refused} == {"RESOURCE_EXHAUSTED"}
        assert "module" in refused[0].details
        leave.set()
        assert {(await call.outcome()).reply for call in queued} == {b"answered"}
        assert (await first.outcome()).code == "OK"
        assert (await client.call(target, path("Answer"))).reply == b"answered"
    assert module.stats().active == 0


async def test_calls_for_a_loop_that_has_been_stopped_are_refused(
    client: ClientProcess, loop_factory: LoopFactory
) -> None:
    thread = IoContextThread("module", loop_factory=loop_factory)
    thread.start()
    async with serving(thread.io_context, Answer=answer) as target:
        assert (await client.call(target, path("Answer"))).reply == b"answered"
        await asyncio.to_thread(thread.stop)
        for _ in range(3):
            assert (await client.call(target, path("Answer"))).code in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}


async def test_calls_that_run_or_wait_when_their_loop_is_stopped_are_answered(
    client: ClientProcess, loop_factory: LoopFactory
) -> None:
    entered, leave = threading.Event(), threading.Event()
    waiting = threading.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        waiting.set()
        await asyncio.Event().wait()
        return b"never"

    def block(request: bytes, context: Any) -> bytes:
        entered.set()
        wait_for(leave)
        return b"finished"

    thread = IoContextThread("module", loop_factory=loop_factory)
    thread.start()
    async with serving(thread.io_context, Wait=wait, Block=block, Answer=answer) as target:
        running_ = client.start(target, path("Wait"))
        await asyncio.to_thread(wait_for, waiting)
        blocking = client.start(target, path("Block"))
        await asyncio.to_thread(wait_for, entered)
        queued = [client.start(target, path("Answer")) for _ in range(20)]
        await until(lambda: thread.io_context.stats().queued["normal"] == 20)
        stopping = asyncio.ensure_future(asyncio.to_thread(thread.stop))
        await asyncio.sleep(0)
        leave.set()
        await stopping
        assert (await blocking.outcome()).reply in {b"finished", None}
        assert (await running_.outcome()).code in {"CANCELLED", "UNAVAILABLE"}
        assert {(await call.outcome()).code for call in queued} <= {
            "OK",
            "UNAVAILABLE",
            "RESOURCE_EXHAUSTED",
            "CANCELLED",
        }
    assert thread.io_context.stats().active == 0


async def test_calls_for_a_loop_that_does_not_run_yet_wait_for_it(
    client: ClientProcess, loop_factory: LoopFactory
) -> None:
    thread = IoContextThread("module", loop_factory=loop_factory)
    async with serving(thread.io_context, Answer=answer) as target:
        call = client.start(target, path("Answer"))
        await until(lambda: thread.io_context.stats().queued["normal"] == 1)
        with thread:
            assert (await call.outcome()).reply == b"answered"


async def test_a_flood_of_calls_does_not_keep_a_loop_from_its_timers(client: ClientProcess, log: Log) -> None:
    async with serving(Answer=answer) as target:
        calls = [client.start(target, path("Answer"), channel=str(index % 4)) for index in range(1000)]
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert {(await call.outcome()).reply for call in calls} == {b"answered"}
    assert log.lines == []
