"""Coroutine handlers are real asyncio tasks."""

from __future__ import annotations

import asyncio
import types
from typing import TYPE_CHECKING, Any

import pytest

import atoll

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator


def run(io_context: atoll.IoContext, handler: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    future = io_context.submit(handler)
    io_context.run()
    io_context.restart()
    return future.result()


def test_a_handler_has_a_current_task_in_every_step(io_context: atoll.IoContext) -> None:
    async def handler() -> bool:
        first = asyncio.current_task()
        await asyncio.sleep(0)
        return first is asyncio.current_task() and isinstance(first, asyncio.Task)

    assert run(io_context, handler)


def test_a_timeout_fires_in_a_handler(io_context: atoll.IoContext) -> None:
    async def handler() -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(3600)
        except TimeoutError:
            return "timed out"
        return "slept"

    assert run(io_context, handler) == "timed out"


def test_a_timeout_around_a_call_to_another_loop_cancels_it_there(
    io_context: atoll.IoContext, running: atoll.IoContext
) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.put_nowait("ended")

    async def handler() -> None:
        future = running.submit(endless)
        await running.submit(len, "the endless one has started")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0.001)

    run(io_context, handler)
    assert running.submit(ended.get).result(30) == "ended"


def test_a_task_group_works_in_a_handler(io_context: atoll.IoContext) -> None:
    async def square(number: int) -> int:
        await asyncio.sleep(0)
        return number * number

    async def handler() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(square(number)) for number in range(4)]
        return [task.result() for task in tasks]

    assert run(io_context, handler) == [0, 1, 4, 9]


def test_the_failure_of_a_task_group_reaches_who_waits(io_context: atoll.IoContext) -> None:
    async def fail() -> None:
        raise ValueError("no good")

    async def handler() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(asyncio.sleep(3600))

    with pytest.raises(ExceptionGroup) as caught:
        run(io_context, handler)
    assert caught.group_contains(ValueError)


def test_awaits_on_asyncios_primitives_work(io_context: atoll.IoContext) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    lock = asyncio.Lock()

    async def consume() -> list[int]:
        async with lock:
            return [await queue.get() for _ in range(3)]

    async def produce() -> None:
        for number in range(3):
            await queue.put(number)
            await asyncio.sleep(0)

    future = io_context.submit(consume)
    io_context.post(produce)
    io_context.run()
    assert future.result() == [0, 1, 2]


def test_an_exception_of_what_is_awaited_can_be_caught_in_the_handler(io_context: atoll.IoContext) -> None:
    async def handler() -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, KeyError("gone"))
        try:
            await future
        except KeyError as error:
            return repr(error)
        return "nothing"

    assert run(io_context, handler) == "KeyError('gone')"


def test_a_coroutine_that_awaits_nothing_ends_in_its_first_step(io_context: atoll.IoContext) -> None:
    async def handler() -> int:
        return 42

    assert run(io_context, handler) == 42
    assert io_context.stats().execution_time.count == 1


def test_shielded_work_survives_the_cancellation_of_its_handler(running: atoll.IoContext) -> None:
    release = asyncio.Event()
    finished: asyncio.Queue[str] = asyncio.Queue()

    async def work() -> None:
        await release.wait()
        finished.put_nowait("finished")

    async def handler() -> None:
        await asyncio.shield(asyncio.create_task(work()))

    future = running.submit(handler)
    running.submit(asyncio.sleep, 0).result(30)
    future.cancel()
    assert isinstance(future.exception(30), BaseException)
    running.post(release.set)
    assert running.submit(finished.get).result(30) == "finished"


def test_a_task_names_its_handler(io_context: atoll.IoContext) -> None:
    async def named_handler() -> str:
        task = asyncio.current_task()
        assert task is not None
        return repr(task)

    assert "named_handler" in run(io_context, named_handler)


def test_a_handlers_stack_can_be_printed(io_context: atoll.IoContext) -> None:
    async def waiting() -> None:
        await asyncio.sleep(3600)

    async def look() -> str:
        [task] = asyncio.all_tasks() - {asyncio.current_task()}
        coroutine = task.get_coro()
        task.cancel()
        assert coroutine is not None
        return str(getattr(coroutine, "cr_code").co_name)  # noqa: B009 - the stub does not know it

    io_context.post(waiting)
    assert run(io_context, look) == "waiting"


def test_what_is_no_coroutine_is_a_result(io_context: atoll.IoContext) -> None:
    @types.coroutine
    def old_style() -> Generator[None, None, str]:
        yield
        return "done"

    async def handler() -> str:
        return await old_style()

    assert run(io_context, handler) == "done"
    future = io_context.submit(lambda: [1, 2])
    io_context.run()
    assert future.result() == [1, 2]


def test_debug_mode_of_asyncio_changes_nothing(make: Callable[..., atoll.IoContext]) -> None:
    def debugging() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_debug(True)
        return loop

    # Debug mode takes its time, and both are to be of one batch.
    io_context = make(loop_factory=debugging, drain_budget=60)
    ran: list[int] = []

    async def handler() -> None:
        await asyncio.sleep(0)
        ran.append(1)

    io_context.post(handler)
    io_context.post(ran.append, 0)
    io_context.run()
    assert ran == [0, 1]
