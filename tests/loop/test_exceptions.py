"""A handler that raises is counted, named and handed to the hook; the loop goes on and no count leaks."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

import atoll

if TYPE_CHECKING:
    from collections.abc import Callable

    Raised = list[tuple[str, BaseException]]


def fail() -> None:
    raise ValueError("no good")


async def fail_at_once() -> None:
    raise ValueError("no good")


async def fail_later() -> None:
    await asyncio.sleep(0)
    raise ValueError("no good")


@pytest.mark.parametrize("handler", [fail, fail_at_once, fail_later])
def test_a_handler_that_raises_is_counted_and_given_to_the_hook_and_the_loop_goes_on(
    io_context: atoll.IoContext, raised: Raised, handler: Callable[[], object]
) -> None:
    ran: list[int] = []
    io_context.post(handler, name="failing")
    io_context.post(ran.append, 1)
    io_context.run()
    assert ran == [1]
    [(name, error)] = raised
    assert name == "failing"
    assert isinstance(error, ValueError)
    stats = io_context.stats()["failing"]
    assert (stats.total, stats.active, stats.running, stats.errors) == (1, 0, 0, 1)
    assert stats.queue_time.count == stats.execution_time.count == 1


def test_without_a_hook_the_exception_is_logged_with_the_names_and_the_traceback(
    make: Callable[..., atoll.IoContext], caplog: pytest.LogCaptureFixture
) -> None:
    io_context = make(exception_hook=None)
    io_context.post(fail)
    with caplog.at_level(logging.ERROR, logger="atoll.loop"):
        io_context.run()
    [record] = caplog.records
    assert record.getMessage() == "handler fail on loop test raised"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


def test_the_hook_gets_the_context(make: Callable[..., atoll.IoContext]) -> None:
    seen: list[object] = []
    io_context = make(exception_hook=lambda *arguments: seen.append(arguments[0]))
    io_context.post(fail)
    io_context.run()
    assert seen == [io_context]


def test_a_hook_that_raises_is_logged_and_harms_nobody(
    make: Callable[..., atoll.IoContext], caplog: pytest.LogCaptureFixture
) -> None:
    def hook(*_: object) -> None:
        raise KeyError("hook")

    ran: list[int] = []
    io_context = make(exception_hook=hook)
    io_context.post(fail)
    io_context.post(fail_later)
    io_context.post(ran.append, 1)
    io_context.run()
    assert ran == [1]
    assert [record.getMessage() for record in caplog.records] == ["the exception hook of loop test raised"] * 2
    assert io_context.stats().active == 0


def test_a_dispatched_handler_that_raises_goes_to_the_hook_and_not_to_the_dispatcher(
    io_context: atoll.IoContext, raised: Raised
) -> None:
    ran: list[int] = []

    def dispatch() -> None:
        io_context.dispatch(fail)
        ran.append(1)

    io_context.post(dispatch)
    io_context.run()
    assert ran == [1]
    assert [name for name, _ in raised] == ["fail"]
    assert io_context.stats()["fail"].errors == 1


@pytest.mark.parametrize("handler", [fail, fail_at_once, fail_later])
def test_the_exception_of_a_submitted_handler_goes_to_its_future_and_is_counted(
    io_context: atoll.IoContext, raised: Raised, handler: Callable[[], object]
) -> None:
    future = io_context.submit(handler, name="failing")
    io_context.run()
    with pytest.raises(ValueError, match="no good"):
        future.result()
    assert not raised, "who waits for it has it"
    assert io_context.stats()["failing"].errors == 1
    assert io_context.stats().active == 0


class Unusual(BaseException):
    """An exception that is no `Exception`."""


@pytest.mark.parametrize("error", [Unusual(), asyncio.CancelledError(), GeneratorExit(), StopIteration()])
def test_an_unusual_exception_of_a_function_is_like_any_other(
    io_context: atoll.IoContext, raised: Raised, error: BaseException
) -> None:
    def fail_unusually() -> None:
        raise error

    ran: list[int] = []
    io_context.post(fail_unusually, name="unusual")
    io_context.post(ran.append, 1)
    io_context.run()
    assert ran == [1]
    assert raised == [("unusual", error)]


def _raise(kind: type[BaseException]) -> None:
    raise kind


async def _raise_later(kind: type[BaseException]) -> None:
    await asyncio.sleep(0)
    raise kind


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("handler", [_raise, _raise_later])
def test_the_end_of_the_process_leaves_run_and_loses_nothing(
    io_context: atoll.IoContext,
    raised: Raised,
    kind: type[BaseException],
    handler: Callable[[type[BaseException]], object],
) -> None:
    ran: list[int] = []
    io_context.post(handler, kind, name="ending")
    for number in range(100):
        io_context.post(ran.append, number)
    with pytest.raises(kind):
        io_context.run()
    assert not raised
    assert io_context.stats()["ending"].errors == 1
    io_context.run()
    assert ran == list(range(100))
    assert io_context.stats().active == 0


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_who_waits_for_a_handler_that_ends_the_process_gets_the_exception_too(
    io_context: atoll.IoContext, kind: type[BaseException]
) -> None:
    future = io_context.submit(_raise, kind)
    with pytest.raises(kind):
        io_context.run()
    assert isinstance(future.exception(), kind)


def test_a_guest_runs_on_after_a_handler_that_left_its_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    ran: list[int] = []
    loop = loop_factory()

    async def main() -> None:
        guest = atoll.IoContext.current()
        guest.post(_raise, SystemExit)
        guest.post(ran.append, 1)
        await asyncio.sleep(3600)

    async def wait_for_the_rest() -> None:
        await atoll.IoContext.current().submit(ran.append, 2)

    task = loop.create_task(main())
    with pytest.raises(SystemExit):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.wait_for(wait_for_the_rest(), 30))
    assert ran == [1, 2]
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_no_count_leaks_however_handlers_end(io_context: atoll.IoContext) -> None:
    async def sleep() -> None:
        await asyncio.sleep(3600)

    for handler in (fail, fail_at_once, fail_later, lambda: None):
        for _ in range(10):
            io_context.post(handler, name="one")
            io_context.submit(handler, name="one")
    futures = [io_context.submit(sleep, name="one") for _ in range(20)]
    for future in futures[:10]:
        future.cancel()
    for future in futures[10:]:
        io_context.post(future.cancel, name="cancel")
    io_context.run()
    stats = io_context.stats()["one"]
    assert (stats.total, stats.active, stats.running, stats.errors) == (100, 0, 0, 60)


def test_a_hook_may_be_any_callable_also_one_that_is_false(
    make: Callable[..., atoll.IoContext], raised: Raised
) -> None:
    assert not raised
    io_context = make(exception_hook=raised)
    io_context.post(fail)
    io_context.run()
    assert len(raised) == 1
