"""Ways in which a server's stop failed, and must not again."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from tests.rpc.support import ClientProcess, NewLoop, add_methods, path, wait_for

from atoll import rpc


async def test_a_stop_waits_for_a_loop_whose_control_lane_is_full_of_cancellations(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    started = ended = 0
    go_on = threading.Event()

    async def handler(_request: bytes, _context: Any) -> bytes:
        nonlocal started, ended
        started += 1
        try:
            await asyncio.sleep(60)
        finally:
            ended += 1
        return b""

    io_context = new_loop("small", max_queued=5)
    server = rpc.server()
    add_methods(server.on(io_context), Wait=handler)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    terminated = asyncio.ensure_future(server.wait_for_termination())
    calls = []
    for number in range(10):
        calls.append(client.start(target, path("Wait")))
        while started <= number:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.001)
    io_context.post(wait_for, go_on)
    asyncio.get_running_loop().call_later(0.2, go_on.set)
    async with asyncio.timeout(10):
        await server.stop(None)
        assert ended == 10
        assert await terminated is False
    assert {(await call.outcome()).code for call in calls} == {"UNAVAILABLE"}


async def test_who_begins_to_wait_on_another_loop_while_the_server_ends_is_told() -> None:
    server = rpc.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    about_to_wait, stopped = threading.Event(), threading.Event()

    class Late(asyncio.SelectorEventLoop):
        def create_future(self) -> "asyncio.Future[Any]":
            about_to_wait.set()
            wait_for(stopped)
            return super().create_future()

    def wait() -> bool:
        with asyncio.Runner(loop_factory=Late) as runner:
            return runner.run(server.wait_for_termination(10))

    waiting = asyncio.ensure_future(asyncio.to_thread(wait))
    await asyncio.to_thread(wait_for, about_to_wait)
    await server.stop(None)
    stopped.set()
    assert await waiting is False


async def test_a_waiter_whose_loop_was_closed_keeps_nobody_from_being_told(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    server = rpc.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    closed = loop_factory()
    server._life._waiters.add(closed.create_future())
    closed.close()
    waiters = [asyncio.ensure_future(server.wait_for_termination()) for _ in range(5)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await server.stop(None)
        assert await asyncio.gather(*waiters) == [False] * 5
