"""Whatever a handler does, its call is answered, and the next ones are served."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import gc
import threading
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, LoopFactory, NewLoop, path, serving, until

from atoll import IoContextThread
from atoll.errors import AbortError


async def fine(request: bytes, context: Any) -> bytes:
    return b"fine"


@pytest.mark.parametrize("kind", ["def", "async def", "async def that awaited"])
async def test_an_abort_error_that_aborted_no_call_is_an_error_like_others(
    client: ClientProcess, new_loop: NewLoop, log: Log, kind: str
) -> None:
    def plain(request: bytes, context: Any) -> bytes:
        raise AbortError("by hand")

    async def coroutine(request: bytes, context: Any) -> bytes:
        if kind == "async def that awaited":
            await asyncio.sleep(0)
        return plain(request, context)

    async with serving(new_loop("module"), Raise=plain if kind == "def" else coroutine) as target:
        outcome = await client.call(target, path("Raise"))
    assert (outcome.code, outcome.details) == ("UNKNOWN", "Unexpected <class 'atoll.errors.AbortError'>: by hand")
    assert log.take("by hand")


async def test_aborting_another_call_ends_that_one_and_answers_this_one(client: ClientProcess, log: Log) -> None:
    kept: list[Any] = []
    arrived, leave = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        kept.append(context)
        arrived.set()
        await leave.wait()
        return b"too late"

    async def abort(request: bytes, context: Any) -> bytes:
        await kept[0].abort(grpc.StatusCode.ABORTED, "by the other")
        return b"never"

    async with serving(Wait=wait, Abort=abort) as target:
        waiting = client.start(target, path("Wait"))
        await arrived.wait()
        assert (await client.call(target, path("Abort"))).code == "UNKNOWN"
        outcome = await waiting.outcome()
        assert (outcome.code, outcome.details) == ("ABORTED", "by the other")
        leave.set()
    assert log.take("GrpcAbortError")


class Odd(BaseException):
    """Derives from what hardly anybody catches."""

    def __str__(self) -> str:
        raise ValueError("no text either")


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_an_exception_without_a_text_is_answered(
    client: ClientProcess, new_loop: NewLoop, log: Log, kind: str
) -> None:
    def plain(request: bytes, context: Any) -> bytes:
        raise Odd

    async def coroutine(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        raise Odd

    module = new_loop("module")
    async with serving(module, Raise=plain if kind == "def" else coroutine, Fine=fine) as target:
        outcome = await client.call(target, path("Raise"))
        assert outcome.code == "UNKNOWN"
        assert "Odd" in outcome.details
        assert (await client.call(target, path("Fine"))).reply == b"fine"
    assert module.stats()["Hoc.Raise"].errors == 1
    log.lines.clear()  # logging itself fails to print it


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_handler_that_exits_is_answered_and_ends_its_loop(
    client: ClientProcess, loop_factory: LoopFactory, log: Log, kind: str
) -> None:
    def plain(request: bytes, context: Any) -> bytes:
        raise SystemExit(3)

    async def coroutine(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        raise SystemExit(3)

    thread = IoContextThread("module", loop_factory=loop_factory)
    thread.start()
    async with serving(thread.io_context, Exit=plain if kind == "def" else coroutine, Fine=fine) as target:
        assert (await client.call(target, path("Exit"))).code in {"UNKNOWN", "CANCELLED", "UNAVAILABLE"}
        await until(lambda: not thread.is_running)
        assert (await client.call(target, path("Fine"))).code in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
    with pytest.raises(SystemExit):
        await asyncio.to_thread(thread.join, 10)
    assert log.take("loop module ended before its time")
    # The task of a coroutine that exits keeps the exception, too, and asyncio complains when it goes.
    gc.collect()
    log.take("SystemExit(3)")


async def test_an_abort_in_a_task_group_is_answered(client: ClientProcess, log: Log) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        async with asyncio.TaskGroup() as group:
            group.create_task(context.abort(grpc.StatusCode.ABORTED, "from within"))
            group.create_task(asyncio.sleep(10))
        return b"never"

    async with serving(Handler=handler) as target:
        outcome = await client.call(target, path("Handler"))
    assert (outcome.code, outcome.details) == ("ABORTED", "from within")
    log.take("ExceptionGroup")


async def test_threads_of_a_handlers_own_may_abort_its_call(client: ClientProcess, new_loop: NewLoop) -> None:
    caught: list[BaseException] = []

    def handler(request: bytes, context: Any) -> bytes:
        def abort() -> None:
            try:
                context.abort(grpc.StatusCode.ABORTED, "from a thread")
            except grpc.aio.AbortError as error:
                caught.append(error)

        thread = threading.Thread(target=abort)
        thread.start()
        thread.join()
        return b"too late"

    async with serving(new_loop("module"), Handler=handler) as target:
        outcome = await client.call(target, path("Handler"))
    assert (outcome.code, outcome.details) == ("ABORTED", "from a thread")
    assert len(caught) == 1


async def test_a_handlers_deep_recursion_is_answered(client: ClientProcess, new_loop: NewLoop, log: Log) -> None:
    def endless(request: bytes, context: Any) -> bytes:
        return endless(request, context)

    async with serving(new_loop("module"), Endless=endless, Fine=fine) as target:
        assert (await client.call(target, path("Endless"))).code == "UNKNOWN"
        assert (await client.call(target, path("Fine"))).reply == b"fine"
    assert log.take("RecursionError")
