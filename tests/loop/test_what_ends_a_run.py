"""What ends a run and what does not, and how the time between runs counts."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import atoll


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_that_does_not_end_the_process_does_not_end_the_run(make: Callable[..., atoll.IoContext]) -> None:
    def hook(*_: object) -> None:
        raise asyncio.CancelledError  # no Exception, and none that ends a process

    def fail() -> None:
        raise ValueError("for the hook")

    io_context = make(exception_hook=hook)
    guard = io_context.work_guard()
    thread = threading.Thread(target=io_context.run, daemon=True)
    thread.start()
    io_context.post(fail)
    assert io_context.submit(lambda: "goes on").result(30) == "goes on"
    guard.reset()
    io_context.stop()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("part", ["run_one", "poll_one", "poll"])
def test_a_part_of_a_run_takes_a_coroutines_first_step(io_context: atoll.IoContext, part: str) -> None:
    steps: list[int] = []

    async def two_steps() -> None:
        steps.append(1)
        await asyncio.sleep(3600)

    io_context.post(two_steps)
    assert getattr(io_context, part)() == 1
    assert steps == [1]


def test_what_is_dispatched_at_once_is_no_step_of_its_own(io_context: atoll.IoContext) -> None:
    ran: list[str] = []

    def dispatching() -> None:
        io_context.dispatch(ran.append, "dispatched")

    io_context.post(dispatching)
    io_context.post(ran.append, "next")
    assert io_context.run_one() == 1
    assert ran == ["dispatched"]
    assert io_context.run_one() == 1
    assert ran == ["dispatched", "next"]


def test_a_loop_with_nothing_to_do_is_idle_also_when_nobody_runs_it(io_context: atoll.IoContext) -> None:
    io_context.post(lambda: None)
    io_context.run()
    before = io_context.stats().time
    time.sleep(0.2)
    after = io_context.stats().time
    assert after.waiting - before.waiting < 0.1
    assert after.idle - before.idle > 0.1
