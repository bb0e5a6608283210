"""What `submit` returns: results and exceptions across threads and loops, cancellation, deadlocks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.errors import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_a_future_has_the_result_of_a_function_or_coroutine(running: atoll.IoContext) -> None:
    assert running.submit(max, 3, 7).result(30) == 7
    assert running.submit(double, 4).result(30) == 8
    assert running.submit(max, 3, 7, delay=0.001).result(30) == 7


def test_futures_work_with_concurrent_futures(running: atoll.IoContext) -> None:
    futures = [running.submit(double, number) for number in range(5)]
    done, pending = concurrent.futures.wait(futures, 30)
    assert not pending
    assert sorted(future.result() for future in done) == [0, 2, 4, 6, 8]
    called: list[int] = []
    futures[3].add_done_callback(lambda future: called.append(future.result()))
    assert called == [6]


def test_a_result_that_is_late_is_a_timeout_and_stays_available(running: atoll.IoContext) -> None:
    release = threading.Event()
    future = running.submit(release.wait, 30)
    with pytest.raises(TimeoutError):
        future.result(0.001)
    release.set()
    assert future.result(30) is True


def test_a_future_may_be_awaited_on_any_loop(
    start: Callable[..., atoll.IoContext], loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    first, second = start("first"), start("second")

    async def hop(number: int) -> int:
        return await second.submit(double, number)

    async def main() -> list[int]:
        return await asyncio.gather(*(first.submit(hop, number) for number in range(3)), first.submit(double, 3))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == [0, 2, 4, 6]


def test_a_future_may_be_awaited_on_its_own_loop(io_context: atoll.IoContext) -> None:
    async def handler() -> int:
        return await io_context.submit(double, 21)

    future = io_context.submit(handler)
    io_context.run()
    assert future.result() == 42


def test_waiting_for_a_result_on_a_loops_thread_is_an_error_with_the_remedy(running: atoll.IoContext) -> None:
    release = threading.Event()
    blocking = running.submit(release.wait, 30)

    async def main() -> None:
        with pytest.raises(DeadlockError, match=r"loop 'test'.*`await future`"):
            blocking.result()
        with pytest.raises(DeadlockError, match=r"exception\(\)"):
            blocking.exception(1)
        release.set()
        assert await blocking is True
        assert blocking.result() is True, "it is there, so nobody waits"

    asyncio.run(main())


def test_a_queued_handler_that_is_cancelled_never_runs(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    future = io_context.submit(ran.append, 1, name="cancelled")
    delayed = io_context.submit(ran.append, 2, delay=0.001)
    assert future.cancel()
    assert delayed.cancel()
    io_context.run()
    assert ran == []
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    stats = io_context.stats()["cancelled"]
    assert (stats.total, stats.active, stats.errors) == (1, 0, 0)


def test_cancelling_a_coroutine_raises_in_it_at_its_next_await(running: atoll.IoContext, raised: list[object]) -> None:
    started, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.set()
            raise

    future = running.submit(wait)
    assert started.wait(30)
    assert future.cancel()
    assert ended.wait(30)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(30)
    assert future.cancelled()
    assert not future.cancel(), "it has ended"
    assert not raised


def test_a_coroutine_may_refuse_its_cancellation(running: atoll.IoContext) -> None:
    started = threading.Event()

    async def stubborn() -> str:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "finished anyway"
        return "slept"

    future = running.submit(stubborn)
    assert started.wait(30)
    future.cancel()
    assert future.result(30) == "finished anyway"
    assert not future.cancelled()


def test_cancelling_who_awaits_cancels_the_handler(running: atoll.IoContext) -> None:
    started, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async def main() -> None:
        waiter = asyncio.ensure_future(running.submit(wait))
        await asyncio.to_thread(started.wait, 30)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(main())
    assert ended.wait(30)


def test_a_handler_that_cancels_itself_cancels_its_future(running: atoll.IoContext) -> None:
    async def cancel_myself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    future = running.submit(cancel_myself)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(30)
    assert running.stats().active == 0


def test_cancelling_a_running_function_does_nothing_to_it(running: atoll.IoContext) -> None:
    started, release = threading.Event(), threading.Event()

    def block() -> str:
        started.set()
        release.wait(30)
        return "done"

    future = running.submit(block)
    assert started.wait(30)
    future.cancel()
    release.set()
    assert future.result(30) == "done"
