"""A `PeriodicalRunner` lasts as long as its last reference, wherever that is dropped, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Turns the garbage collector off, so that only what reference counts free is freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def io_context(clock: ManualClock) -> Iterator[atoll.IoContext]:
    """A context that runs as the clock is moved."""
    io_context = atoll.IoContext("test", clock=clock)
    yield io_context
    io_context.close()


class Function:
    """Counts its runs, and can be watched."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1


class CoroutineFunction(Function):
    async def __call__(self) -> None:  # type: ignore[override]
        self.runs += 1
        await asyncio.sleep(0.25)


class Owner:
    """What a module looks like: it holds the runner of its own method."""

    def __init__(self, io_context: atoll.IoContext) -> None:
        self.beats = 0
        self.runner = atoll.PeriodicalRunner.create(io_context)
        self.handle = self.runner.run_fn_periodically(self.beat, 1.0)

    def beat(self) -> None:
        self.beats += 1


class CoroutineOwner(Owner):
    async def beat(self) -> None:  # type: ignore[override]
        self.beats += 1
        await asyncio.sleep(0.25)


# ------------------------------------------------------------------------------------------- the last reference goes


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("kind", [Function, CoroutineFunction])
@pytest.mark.parametrize("moment", [0.0, 0.5, 3.0, 3.5])
def test_with_the_last_reference_the_runs_end_and_the_function_is_freed_without_the_collector(
    clock: ManualClock, io_context: atoll.IoContext, kind: type[Function], moment: float
) -> None:
    runner = atoll.PeriodicalRunner.create(io_context)
    function = kind()
    runner.run_fn_periodically(function, 1.0)
    clock.advance(moment)
    ran = function.runs
    watched = weakref.ref(runner), weakref.ref(function)
    del runner
    clock.advance(10.0)
    assert function.runs == ran
    del function
    assert [reference() for reference in watched] == [None, None]
    assert io_context.stats().delayed == 0


def test_a_handle_keeps_neither_the_runner_nor_the_function(clock: ManualClock, io_context: atoll.IoContext) -> None:
    runner = atoll.PeriodicalRunner.create(io_context)
    function = Function()
    handle = runner.run_fn_periodically(function, 1.0)
    clock.advance(1.0)
    watched = weakref.ref(runner), weakref.ref(function)
    del runner, function
    assert [reference() for reference in watched] == [None, None]
    assert handle.cancelled
    assert not handle.cancel()
    assert handle.statistics().runs == 2


def test_a_cancelled_function_is_freed_while_the_runner_goes_on(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    runner = atoll.PeriodicalRunner.create(io_context)
    function = Function()
    handle = runner.run_fn_periodically(function, 1.0)
    clock.advance(1.0)
    watched = weakref.ref(function)
    del function
    assert watched() is not None
    handle.cancel()
    assert watched() is None


@pytest.mark.parametrize("kind", [Owner, CoroutineOwner])
@pytest.mark.parametrize("moment", [0.0, 0.5, 3.0, 3.5])
def test_an_owner_of_its_own_methods_runner_is_found_by_the_collector(
    clock: ManualClock, io_context: atoll.IoContext, kind: type[Owner], moment: float
) -> None:
    owner = kind(io_context)
    clock.advance(moment)
    watched = weakref.ref(owner), weakref.ref(owner.runner), weakref.ref(owner.handle)
    del owner
    # A run in progress is one that the loop holds.
    clock.advance(0.5)
    gc.collect()
    assert [reference() for reference in watched] == [None, None, None]
    assert io_context.stats().delayed == 0


def test_what_a_run_set_its_context_variables_to_is_not_kept(clock: ManualClock, io_context: atoll.IoContext) -> None:
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")
    watched: list[weakref.ref[Function]] = []

    def function() -> None:
        value = Function()
        watched.append(weakref.ref(value))
        variable.set(value)

    async def coroutine() -> None:
        function()
        await asyncio.sleep(0)

    runner = atoll.PeriodicalRunner.create(io_context)
    runner.run_fn_periodically(function, 1.0)
    runner.run_fn_periodically(coroutine, 1.0)
    clock.advance(3.5)
    assert len(watched) == 8
    gc.collect()
    assert not any(reference() for reference in watched)


def test_a_context_variable_that_refers_to_the_owner_does_not_keep_it(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")

    def register() -> weakref.ref[Owner]:
        holder: list[object] = []
        variable.set(holder)
        owner = Owner(io_context)
        holder.append(owner)
        return weakref.ref(owner)

    watched = contextvars.Context().run(register)
    clock.advance(1.5)
    gc.collect()
    assert watched() is None
    assert io_context.stats().delayed == 0


@pytest.mark.usefixtures("no_collector")
def test_a_thousand_runners_made_and_dropped_leave_nothing(clock: ManualClock, io_context: atoll.IoContext) -> None:
    def make(count: int) -> None:
        for number in range(count):
            runner = atoll.PeriodicalRunner.create(io_context)
            runner.run_fn_periodically(Function(), 1.0, "function", first=float(number % 2))
            runner.run_fn_periodically(CoroutineFunction(), 1.0, "coroutine", schedule="fixed_rate")

    def run() -> None:
        clock.settle()
        gc.collect()

    make(10)
    run()
    before = len(gc.get_objects())
    make(1_000)
    assert io_context.stats().delayed == 0
    run()
    assert len(gc.get_objects()) - before < 50
    assert clock._next_due() is None


def test_a_thousand_runners_that_ran_leave_nothing_either(clock: ManualClock, io_context: atoll.IoContext) -> None:
    runners = [atoll.PeriodicalRunner.create(io_context) for _ in range(1_000)]
    functions = [Function() for _ in runners]
    for runner, function in zip(runners, functions, strict=True):
        runner.run_fn_periodically(function, 1.0, "function")
    clock.advance(2.0)
    assert io_context.stats().delayed == 1_000
    watched = [weakref.ref(each) for each in (*runners, *functions)]
    del runner, function
    runners.clear()
    assert io_context.stats().delayed == 0
    assert {function.runs for function in functions} == {3}
    functions.clear()
    assert not any(reference() for reference in watched)


# ---------------------------------------------------------------------------------------------- where it may be dropped


@pytest.mark.parametrize("awaits", [False, True])
def test_a_runner_may_be_dropped_by_its_own_function(
    clock: ManualClock,
    io_context: atoll.IoContext,
    awaits: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    runners = [atoll.PeriodicalRunner.create(io_context)]
    watched = weakref.ref(runners[0])
    events: list[str] = []

    def function() -> None:
        runners.clear()
        events.append("ran")

    async def coroutine() -> None:
        runners.clear()
        await asyncio.sleep(1)
        events.append("ran")

    runners[0].run_fn_periodically(coroutine if awaits else function, 1.0)
    clock.advance(10.0)
    assert events == ["ran"], "the run in progress went on to its end"
    assert watched() is None
    assert io_context.stats().delayed == 0


def test_a_function_may_drop_another_runner_whose_run_is_due_at_the_same_moment(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    others = [atoll.PeriodicalRunner.create(io_context)]
    function = Function()
    runner = atoll.PeriodicalRunner.create(io_context)
    runner.run_fn_periodically(others.clear, 1.0, first=1.0)
    others[0].run_fn_periodically(function, 1.0, first=1.0)
    clock.advance(5.0)
    assert function.runs == 0
    assert io_context.stats().delayed == 1


def test_two_functions_of_one_runner_may_drop_it_from_under_each_other(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    runners = [atoll.PeriodicalRunner.create(io_context)]
    ran: list[int] = []

    def drop(number: int) -> None:
        ran.append(number)
        runners.clear()

    for number in range(3):
        runners[0].run_fn_periodically(lambda number=number: drop(number), 1.0)  # type: ignore[misc]
    clock.advance(5.0)
    assert ran == [0]
    assert io_context.stats().delayed == 0


def test_a_runner_may_be_dropped_by_any_thread_and_run_returns() -> None:
    io_context = atoll.IoContext("test")
    runners = [atoll.PeriodicalRunner.create(io_context)]
    ran = threading.Event()
    runners[0].run_fn_periodically(ran.set, 3_600.0)
    loop = threading.Thread(target=io_context.run)
    loop.start()
    assert ran.wait(30)
    assert loop.is_alive()
    runners.clear()
    loop.join(30)
    assert not loop.is_alive(), "nothing is left to do"
    io_context.close()


def test_runners_may_be_dropped_while_their_functions_run_on_another_thread() -> None:
    runs: list[int] = []
    with atoll.IoContextThread("busy") as thread:
        io_context = thread.io_context
        for number in range(500):
            runner = atoll.PeriodicalRunner.create(io_context)
            handle = runner.run_fn_periodically(lambda number=number: runs.append(number), 0.00001)  # type: ignore[misc]
            if number % 2:
                other = runner.run_fn_periodically(Function(), 0.00001, "function")
                if number % 3:
                    other.cancel()
            if number % 5 == 0:
                io_context.submit(lambda: None).result(30)
            del runner
            assert handle.cancelled
            io_context.submit(lambda: None).result(30)
            before = len(runs)
            io_context.submit(lambda: None).result(30)
            assert len(runs) == before
        assert io_context.stats().delayed == 0
    assert runs


def test_handles_may_be_cancelled_by_many_threads_at_once() -> None:
    with atoll.IoContextThread("busy") as thread:
        runner = atoll.PeriodicalRunner.create(thread.io_context)
        handles: list[atoll.PeriodicalHandle] = []

        def register_and_cancel() -> None:
            for _ in range(100):
                handle = runner.run_fn_periodically(Function(), 0.00001, "function")
                handles.append(handle)
                handle.cancel()

        threads = [threading.Thread(target=register_and_cancel) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        assert len(handles) == 400
        assert all(handle.cancelled for handle in handles)
        assert not runner.handles
        thread.io_context.submit(lambda: None).result(30)
        assert thread.io_context.stats().delayed == 0


def test_run_returns_when_the_last_function_cancels_itself(io_context: atoll.IoContext) -> None:
    runner = atoll.PeriodicalRunner.create(io_context)
    handles: list[atoll.PeriodicalHandle] = []

    def function() -> None:
        handles[0].cancel()

    handles.append(runner.run_fn_periodically(function, 3_600.0))
    io_context.run()
    assert io_context.stopped


def test_a_runner_of_a_pools_loop_runs_there() -> None:
    with atoll.IoContextPool(2, "workers") as pool:
        runner = atoll.PeriodicalRunner.create(pool.get("connection"))
        ran = threading.Event()
        names: list[str] = []

        def note() -> None:
            names.append(threading.current_thread().name)
            ran.set()

        runner.run_fn_periodically(note, 3_600.0)
        assert ran.wait(30)
        assert names == [pool.get("connection").name]


def test_a_guests_functions_run_on_the_loop_that_is_there() -> None:
    async def main() -> list[str]:
        times: list[str] = []
        enough = asyncio.Event()

        def note() -> None:
            times.append(threading.current_thread().name)
            if len(times) == 3:
                enough.set()

        runner = atoll.PeriodicalRunner.create(atoll.IoContext.current())
        handle = runner.run_fn_periodically(note, 0.001)
        await enough.wait()
        handle.cancel()
        return times

    assert asyncio.run(main()) == [threading.current_thread().name] * 3


# ------------------------------------------------------------------------------------- the process's end, and its forks


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_runner_that_is_alive_at_the_interpreters_end_does_no_harm() -> None:
    ended = run_program(
        """
import atoll
thread = atoll.IoContextThread("loop")
thread.start()
runner = atoll.PeriodicalRunner.create(thread.io_context)
runner.run_fn_periodically(lambda: None, 0.0001)
runner.run_fn_periodically(runner.io_context.stats, 3600.0)
thread.stop()
"""
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_forked_child_the_parents_runner_refuses_work_and_its_end_does_nothing() -> None:
    ended = run_program(
        """
import atoll, os, sys
with atoll.IoContextThread("parents") as thread:
    runner = atoll.PeriodicalRunner.create(thread.io_context)
    handle = runner.run_fn_periodically(lambda: None, 3600.0)
    if (child := os.fork()) == 0:
        try:
            runner.run_fn_periodically(lambda: None, 1.0)
        except atoll.errors.ForkedError:
            handle.cancel()
            del runner
            sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(handle.cancelled, thread.io_context.stats().delayed)
"""
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "7\nFalse 1\n", "")
