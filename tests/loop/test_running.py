"""Guards, `run`, `poll`, `stop`, `restart`, `close`."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.errors import LoopClosedError, LoopRunningError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_run_returns_at_once_when_there_is_nothing_to_do(io_context: atoll.IoContext) -> None:
    assert io_context.run() == 0
    assert io_context.stopped


def test_run_returns_the_number_of_handlers_it_ran_those_they_posted_included(io_context: atoll.IoContext) -> None:
    io_context.post(lambda: io_context.post(lambda: None))
    io_context.submit(asyncio.sleep, 0)
    assert io_context.run() == 3


def test_run_waits_for_a_delayed_handler(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    io_context.post(ran.append, 1, delay=0.5)
    assert io_context.stats().delayed == 1
    assert io_context.run() == 1
    assert ran == [1]
    assert io_context.stats().delayed == 0


def test_run_waits_for_a_suspended_coroutine(io_context: atoll.IoContext) -> None:
    ended: list[int] = []

    async def wait() -> None:
        await asyncio.sleep(0.005)
        ended.append(1)

    io_context.post(wait)
    io_context.run()
    assert ended == [1]


def test_a_guard_keeps_run_from_returning_until_the_last_one_is_reset(io_context: atoll.IoContext) -> None:
    first, second = io_context.work_guard(), io_context.work_guard()
    assert io_context.stats().guards == 2
    ran: list[int] = []
    returned = threading.Event()

    def run() -> None:
        io_context.run()
        returned.set()

    thread = threading.Thread(target=run)
    thread.start()
    io_context.submit(ran.append, 1).result(30)
    first.reset()
    first.reset()
    io_context.submit(ran.append, 2).result(30)
    assert not returned.is_set()
    second.reset()
    thread.join(30)
    assert returned.is_set()
    assert ran == [1, 2]


def test_a_guard_is_reset_at_the_end_of_its_block_and_when_it_is_collected(io_context: atoll.IoContext) -> None:
    with io_context.work_guard() as guard:
        assert io_context.stats().guards == 1
        assert "held" in repr(guard)
    assert "released" in repr(guard)
    dropped = io_context.work_guard()
    del dropped
    assert io_context.stats().guards == 0


def test_stop_leaves_what_is_queued_and_restart_runs_it(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    io_context.post(ran.append, 1)
    io_context.post(io_context.stop)
    io_context.post(ran.append, 2)
    io_context.post(ran.append, 3)
    assert io_context.run() == 2
    assert repr(io_context) == "<IoContext 'test', stopped>"
    assert ran == [1]
    assert io_context.run() == 0, "a stopped context runs nothing until restart()"
    io_context.restart()
    assert not io_context.stopped
    assert io_context.run() == 2
    assert ran == [1, 2, 3]


def test_stop_from_another_thread_ends_an_idle_run(io_context: atoll.IoContext) -> None:
    with io_context.work_guard():
        thread = threading.Thread(target=io_context.run)
        thread.start()
        io_context.submit(lambda: None).result(30)
        io_context.stop()
        thread.join(30)
        assert not thread.is_alive()


def test_a_suspended_coroutine_survives_stop_and_goes_on_after_restart(io_context: atoll.IoContext) -> None:
    steps: list[int] = []

    async def pause() -> None:
        steps.append(1)
        await asyncio.sleep(0)
        steps.append(2)
        io_context.stop()
        await asyncio.sleep(0)
        steps.append(3)

    io_context.post(pause)
    io_context.run()
    io_context.restart()
    io_context.run()
    assert steps == [1, 2, 3]


def test_a_context_may_be_run_by_one_thread_after_another(io_context: atoll.IoContext) -> None:
    ran: list[str] = []
    for name in ("first", "second"):
        io_context.post(lambda: ran.append(threading.current_thread().name))
        thread = threading.Thread(target=io_context.run, name=name)
        thread.start()
        thread.join()
        io_context.restart()
    assert ran == ["first", "second"]


def test_a_second_thread_in_run_is_an_error_that_names_the_first(running: atoll.IoContext) -> None:
    with pytest.raises(LoopRunningError, match="loop 'test' runs on thread 'test' already"):
        running.run()
    with pytest.raises(LoopRunningError, match="already"):
        running.poll()


def test_a_handler_that_runs_its_own_loop_is_an_error(io_context: atoll.IoContext, raised: list[object]) -> None:
    future = io_context.submit(io_context.run)
    io_context.run()
    assert isinstance(future.exception(), LoopRunningError)
    assert not raised


def test_run_inside_another_running_loop_is_an_error_with_the_remedy(io_context: atoll.IoContext) -> None:
    async def main() -> None:
        with pytest.raises(LoopRunningError, match="IoContextThread"):
            io_context.run()

    asyncio.run(main())


def test_poll_runs_what_is_ready_and_waits_for_nothing(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    guard = io_context.work_guard()
    assert io_context.poll() == 0
    io_context.post(ran.append, 1)
    io_context.post(ran.append, 2)
    io_context.post(ran.append, 3, delay=60)
    assert io_context.poll() == 2
    assert ran == [1, 2]
    assert not io_context.stopped
    guard.reset()


def test_poll_stops_the_context_when_nothing_is_left_to_do(io_context: atoll.IoContext) -> None:
    io_context.post(lambda: None)
    assert io_context.poll() == 1
    assert io_context.stopped


def test_posts_to_a_closed_context_are_errors_whichever_way(io_context: atoll.IoContext) -> None:
    bound = io_context.bind(print)
    io_context.close()
    for post in (
        lambda: io_context.post(print),
        lambda: io_context.post(print, delay=0.1),
        lambda: io_context.submit(print),
        lambda: io_context.submit(print, delay=0.1),
        lambda: io_context.dispatch(print),
        bound,
    ):
        with pytest.raises(LoopClosedError, match="loop 'test' is closed"):
            post()


def test_close_cancels_the_futures_of_handlers_that_never_ran(io_context: atoll.IoContext) -> None:
    queued = io_context.submit(print)
    delayed = io_context.submit(print, delay=60)
    io_context.close()
    assert queued.cancelled()
    assert delayed.cancelled()
    assert io_context.stats().active == 0


def test_close_cancels_coroutines_that_have_not_ended_and_waits_for_their_end(io_context: atoll.IoContext) -> None:
    ended: list[object] = []

    async def suspended() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append(atoll.IoContext.current())

    future = io_context.submit(suspended)
    io_context.post(io_context.stop)
    io_context.run()
    io_context.restart()
    io_context.poll()
    io_context.close()
    assert ended == [io_context], "while it is being closed, it is still the context of its loop"
    assert future.cancelled()
    assert io_context.stats().active == 0


def test_close_is_idempotent_and_an_error_while_the_context_runs(running: atoll.IoContext) -> None:
    with pytest.raises(LoopRunningError, match="stop\\(\\) it and wait"):
        running.close()


def test_a_closed_context_does_not_run(io_context: atoll.IoContext) -> None:
    io_context.close()
    io_context.close()
    with pytest.raises(LoopRunningError, match="is closed: construct a new"):
        io_context.run()


def test_a_context_whose_loop_can_not_be_made_says_why_and_may_be_closed(make: Callable[..., atoll.IoContext]) -> None:
    def broken() -> asyncio.AbstractEventLoop:
        raise OSError("no more loops")

    io_context = make(loop_factory=broken)
    with pytest.raises(OSError, match="no more loops"):
        io_context.run()
    assert io_context.loop is None


def test_the_representation_says_what_it_does(io_context: atoll.IoContext, running: atoll.IoContext) -> None:
    assert repr(io_context) == "<IoContext 'test', not running>"
    assert repr(running) == "<IoContext 'test', running on test>"
    io_context.run()
    assert repr(io_context) == "<IoContext 'test', stopped>"
    io_context.close()
    assert repr(io_context) == "<IoContext 'test', closed>"


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_queued", 0), ("max_handler_names", -1), ("drain_budget", 0.0), ("max_dispatch_depth", 10**10)],
)
def test_a_setting_that_can_not_work_is_an_error_that_names_it(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option}="):
        atoll.IoContext("test", **{option: value})  # type: ignore[arg-type]


def test_a_loop_needs_a_name() -> None:
    with pytest.raises(ValueError, match="a loop needs a name"):
        atoll.IoContext("")


def test_what_is_posted_after_stop_waits_for_restart(io_context: atoll.IoContext) -> None:
    io_context.stop()
    future = io_context.submit(lambda: "ran")
    delayed = io_context.submit(lambda: "delayed", delay=0.001)
    assert io_context.run() == 0
    assert not future.done()
    io_context.restart()
    assert io_context.run() == 2
    assert (future.result(), delayed.result()) == ("ran", "delayed")


def test_what_is_posted_while_the_context_is_being_closed_is_refused(io_context: atoll.IoContext) -> None:
    refused: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            for post in (io_context.post, io_context.submit):
                try:
                    post(print, "too late")
                except LoopClosedError as error:
                    refused.append(str(error))

    io_context.post(wait)
    io_context.poll()
    io_context.close()
    assert len(refused) == 2, refused
