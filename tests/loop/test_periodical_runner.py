"""`PeriodicalRunner`: when runs happen, under a clock that the test moves.

The first part is Ray's tests of its `FakePeriodicalRunner`, of which Ray has none for the real one: here they are for
the real one. Ray's fake waits an interval before the first run, its real runner does not: that is `first=` here.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

import atoll
from atoll.errors import LoopClosedError, MailboxFull
from atoll.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def io_context(clock: ManualClock, raised: Any) -> Iterator[atoll.IoContext]:
    """A context that runs as the clock is moved."""
    io_context = atoll.IoContext("test", clock=clock, exception_hook=raised)
    yield io_context
    io_context.close()


@pytest.fixture
def runner(io_context: atoll.IoContext) -> atoll.PeriodicalRunner:
    return atoll.PeriodicalRunner.create(io_context)


@pytest.fixture
def times() -> list[float]:
    """When `note` was called."""
    return []


@pytest.fixture
def note(io_context: atoll.IoContext, times: list[float]) -> Callable[[], None]:
    """A function that notes the loop's time."""

    def note() -> None:
        times.append(io_context.now())

    return note


def work_for(clock: ManualClock, seconds: float) -> None:
    """What a function does that keeps the loop busy for so long."""
    clock.timers._advance_to(clock.now() + seconds)


# ------------------------------------------------------------------------------- the fourteen of Ray's fake runner


def test_does_not_run_before_the_period_elapses(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    runner.run_fn_periodically(note, 1.0, first=1.0)
    clock.advance(0.999)
    assert times == []


def test_runs_once_when_the_period_elapses(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    runner.run_fn_periodically(note, 1.0, first=1.0)
    clock.advance(1.0)
    assert times == [1.0]


def test_runs_repeatedly_across_multiple_advances(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    runner.run_fn_periodically(note, 1.0, first=1.0)
    for number in range(1, 6):
        clock.advance(1.0)
        assert len(times) == number
    assert times == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("schedule", ["fixed_delay", "fixed_rate"])
def test_a_large_jump_of_time_runs_every_period_in_it(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None], schedule: Any
) -> None:
    runner.run_fn_periodically(note, 1.0, first=1.0, schedule=schedule)
    clock.advance(5.0)
    assert times == [1.0, 2.0, 3.0, 4.0, 5.0], "each at its own time: nothing is caught up, the clock stops at each"


def test_a_partial_period_does_not_accumulate_an_extra_run(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    runner.run_fn_periodically(note, 1.0, first=1.0)
    clock.advance(1.5)
    assert times == [1.0]
    clock.advance(0.4)
    assert times == [1.0]
    clock.advance(0.2)
    assert times == [1.0, 2.0]


def test_functions_with_different_periods_each_keep_their_own(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner
) -> None:
    ran: list[tuple[str, float]] = []
    for name, interval in (("two", 2.0), ("three", 3.0)):
        runner.run_fn_periodically(lambda name=name: ran.append((name, io_context.now())), interval, first=interval)  # type: ignore[misc]
    clock.advance(9.0)
    # At six, "three" has waited for longer.
    assert ran == [
        ("two", 2.0),
        ("three", 3.0),
        ("two", 4.0),
        ("three", 6.0),
        ("two", 6.0),
        ("two", 8.0),
        ("three", 9.0),
    ]


def test_the_first_run_is_relative_to_the_clocks_time_not_to_zero(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    clock.advance(1_000.0)
    runner.run_fn_periodically(note, 1.0, first=1.0)
    clock.advance(0.5)
    assert times == []
    clock.advance(0.5)
    assert times == [1_001.0]


def test_the_first_run_is_relative_to_the_registration(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    clock.advance(0.7)
    runner.run_fn_periodically(note, 1.0, first=1.0)
    clock.advance(0.9)
    assert times == [], "an interval of the runner's own has passed at 1.0 and means nothing"
    clock.advance(0.1)
    assert times == pytest.approx([1.7])


def test_time_that_is_set_forward_runs_what_is_due(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner, times: list[float]
) -> None:
    # Ray's SetTime jumps over the moments between. Here that is a loop that was kept from running meanwhile.
    runner.run_fn_periodically(lambda: times.append(io_context.now()), 1.0, first=1.0)
    io_context.post(work_for, clock, 3.5)
    clock.settle()
    assert times == [3.5], "late, once: a fixed delay has nothing to catch up"
    clock.advance(1.0)
    assert times == [3.5, 4.5]


@pytest.mark.parametrize("interval", [0, 0.0, -0.0, -1.0, float("nan"), float("inf"), 1e12])
def test_an_interval_that_can_not_be_waited_for_is_an_error_that_says_what_to_give(
    runner: atoll.PeriodicalRunner, interval: float
) -> None:
    # Ray ignores a period of zero in silence.
    with pytest.raises(
        ValueError, match=r"interval=.* is not a number of seconds above 0.*post\(\) the function to run"
    ):
        runner.run_fn_periodically(print, interval)
    assert not runner.handles


def test_a_runner_knows_the_functions_that_it_repeats(
    clock: ManualClock, runner: atoll.PeriodicalRunner, note: Callable[[], None]
) -> None:
    assert runner.handles == frozenset()
    handles = {runner.run_fn_periodically(note, 1.0, f"note {number}") for number in range(3)}
    assert runner.handles == handles
    clock.advance(10.0)
    assert runner.handles == handles
    gone = handles.pop()
    gone.cancel()
    assert runner.handles == handles
    assert repr(runner) == "<PeriodicalRunner of 2 functions on loop 'test'>"


def test_a_runner_without_functions_never_runs_anything_and_is_no_work(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner
) -> None:
    clock.advance(3_600.0)
    assert io_context.run() == 0
    assert runner.io_context is io_context


def test_a_runner_that_is_gone_leaves_nothing_with_the_clock(
    clock: ManualClock, io_context: atoll.IoContext, times: list[float], note: Callable[[], None]
) -> None:
    runner = atoll.PeriodicalRunner.create(io_context)
    runner.run_fn_periodically(note, 1.0)
    clock.advance(1.5)
    assert times == [0.0, 1.0]
    del runner
    assert clock._next_due() is None
    assert io_context.stats().delayed == 0
    clock.advance(10.0)
    assert times == [0.0, 1.0]


def test_a_function_that_is_registered_by_a_function_runs_from_then_on(
    clock: ManualClock,
    io_context: atoll.IoContext,
    runner: atoll.PeriodicalRunner,
    times: list[float],
    note: Callable[[], None],
) -> None:
    outer: list[float] = []

    def register() -> None:
        if not outer:
            runner.run_fn_periodically(note, 1.0, first=1.0)
        outer.append(io_context.now())

    runner.run_fn_periodically(register, 1.0, first=1.0)
    clock.advance(1.0)
    assert (outer, times) == ([1.0], [])
    clock.advance(1.0)
    assert (outer, times) == ([1.0, 2.0], [2.0])


# --------------------------------------------------------------------------------------------------- the first run


def test_the_first_run_is_posted_at_once_and_not_run_by_the_registration(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    runner.run_fn_periodically(note, 5.0)
    assert times == []
    clock.settle()
    assert times == [0.0]
    clock.advance(5.0)
    assert times == [0.0, 5.0]


def test_the_first_run_may_wait_for_longer_or_shorter_than_the_interval(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner
) -> None:
    ran: list[tuple[str, float]] = []
    for name, first in (("early", 0.25), ("late", 2.5)):
        runner.run_fn_periodically(lambda name=name: ran.append((name, io_context.now())), 1.0, first=first)  # type: ignore[misc]
    clock.advance(2.5)
    assert ran == [("early", 0.25), ("early", 1.25), ("early", 2.25), ("late", 2.5)]


@pytest.mark.parametrize("first", [-1.0, float("nan"), float("inf")])
def test_a_first_time_that_can_not_be_waited_for_is_an_error_with_the_remedy(
    runner: atoll.PeriodicalRunner, first: float
) -> None:
    with pytest.raises(ValueError, match=r"first=.*give first=interval to wait for an interval first"):
        runner.run_fn_periodically(print, 1.0, first=first)


# ------------------------------------------------------------------------------------------------------- schedules


def test_a_fixed_delay_is_counted_from_the_end_of_a_run(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float]
) -> None:
    def slow() -> None:
        times.append(clock.now())
        work_for(clock, 0.5)

    runner.run_fn_periodically(slow, 1.0)
    clock.advance(4.0)
    assert times == [0.0, 1.5, 3.0]


def test_a_fixed_delay_of_a_coroutine_function_is_counted_from_the_end_of_the_coroutine(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float]
) -> None:
    async def slow() -> None:
        times.append(clock.now())
        await asyncio.sleep(0.5)

    handle = runner.run_fn_periodically(slow, 1.0)
    clock.advance(0.25)
    assert handle.statistics() == atoll.PeriodicalStats(
        runs=0, errors=0, missed=0, running=True, last_run=0.0, next_run=None
    )
    clock.advance(3.75)
    assert times == [0.0, 1.5, 3.0]
    assert handle.statistics() == atoll.PeriodicalStats(
        runs=3, errors=0, missed=0, running=False, last_run=3.0, next_run=4.5
    )


def test_a_fixed_rate_keeps_its_grid_however_long_runs_take(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float]
) -> None:
    durations = itertools.cycle([0.1, 0.7, 0.0, 0.999])

    async def slow() -> None:
        times.append(clock.now())
        await asyncio.sleep(next(durations))

    runner.run_fn_periodically(slow, 1.0, schedule="fixed_rate", first=0.5)
    clock.advance(100.0)
    assert times == [number + 0.5 for number in range(100)]


def test_the_grid_of_a_fixed_rate_does_not_drift(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    handle = runner.run_fn_periodically(note, 0.1, schedule="fixed_rate")
    clock.advance(1_000.0)
    assert times == pytest.approx([number / 10 for number in range(10_001)], abs=1e-8)
    assert handle.statistics().missed == 0


def slow_once(clock: ManualClock, times: list[float], seconds: float) -> Callable[[], None]:
    """A function whose run at 1.0 takes so long."""

    def function() -> None:
        times.append(clock.now())
        if len(times) == 2:
            work_for(clock, seconds)

    return function


def slow_once_in_a_coroutine(clock: ManualClock, times: list[float], seconds: float) -> Callable[[], Any]:
    async def function() -> None:
        times.append(clock.now())
        if len(times) == 2:
            await asyncio.sleep(seconds)

    return function


@pytest.mark.parametrize("slow", [slow_once, slow_once_in_a_coroutine])
def test_to_skip_leaves_out_the_times_that_passed_and_goes_on_with_the_grid(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], slow: Callable[..., Callable[[], object]]
) -> None:
    handle = runner.run_fn_periodically(slow(clock, times, 3.5), 1.0, schedule="fixed_rate", catch_up="skip")
    clock.advance(7.0)
    assert times == [0.0, 1.0, 5.0, 6.0, 7.0]
    assert handle.statistics().missed == 3


@pytest.mark.parametrize("slow", [slow_once, slow_once_in_a_coroutine])
def test_a_time_that_comes_as_the_run_ends_is_not_missed(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], slow: Callable[..., Callable[[], object]]
) -> None:
    handle = runner.run_fn_periodically(slow(clock, times, 3.0), 1.0, schedule="fixed_rate", catch_up="skip")
    clock.advance(5.0)
    assert times == [0.0, 1.0, 4.0, 5.0]
    assert handle.statistics().missed == 2


@pytest.mark.parametrize("slow", [slow_once, slow_once_in_a_coroutine])
def test_a_burst_makes_up_for_every_time_that_passed(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], slow: Callable[..., Callable[[], object]]
) -> None:
    handle = runner.run_fn_periodically(slow(clock, times, 3.5), 1.0, schedule="fixed_rate", catch_up="burst")
    clock.advance(7.0)
    assert times == [0.0, 1.0, 4.5, 4.5, 4.5, 5.0, 6.0, 7.0]
    assert (handle.statistics().missed, handle.statistics().runs) == (0, 8)


def test_a_burst_gives_other_handlers_their_turn(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner
) -> None:
    ran: list[str] = []

    def function() -> None:
        ran.append("run")
        if len(ran) == 1:
            work_for(clock, 5.0)
            io_context.post(ran.append, "other")

    runner.run_fn_periodically(function, 1.0, schedule="fixed_rate", catch_up="burst")
    clock.settle()
    assert ran == ["run", "other", "run", "run", "run", "run", "run"]


@pytest.mark.parametrize("busy", [0.0, 2.5])
def test_a_loop_that_was_late_is_the_same_as_a_run_that_was_long(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner, times: list[float], busy: float
) -> None:
    handle = runner.run_fn_periodically(lambda: times.append(clock.now()), 1.0, schedule="fixed_rate")
    clock.settle()
    io_context.post(work_for, clock, 1.0 + busy)
    clock.advance(5.0)
    assert times == ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0] if busy == 0.0 else [0.0, 3.5, 4.0, 5.0])
    assert handle.statistics().missed == (0 if busy == 0.0 else 2)


def test_no_two_runs_of_a_function_overlap(clock: ManualClock, runner: atoll.PeriodicalRunner) -> None:
    inside = 0
    most = 0

    async def overlong() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(2.7)
        inside -= 1

    for schedule, catch_up in (("fixed_delay", "skip"), ("fixed_rate", "skip"), ("fixed_rate", "burst")):
        choice: Any = {"schedule": schedule, "catch_up": catch_up}
        handle = runner.run_fn_periodically(overlong, 1.0, **choice)
        clock.advance(50.0)
        handle.cancel()
        clock.advance(10.0)
        assert inside == 0
        assert handle.statistics().runs > 10
    assert most == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "hourly"}, "schedule='hourly' is neither 'fixed_delay' nor 'fixed_rate'"),
        ({"schedule": "fixed_rate", "catch_up": "all"}, "catch_up='all' is neither 'skip' nor 'burst'"),
        ({"catch_up": "burst"}, "with a fixed delay no time is ever missed; give schedule='fixed_rate'"),
        ({"lane": "fast"}, "fast"),
    ],
)
def test_a_choice_that_is_none_is_an_error_that_names_the_choices(
    runner: atoll.PeriodicalRunner, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        runner.run_fn_periodically(print, 1.0, **options)
    assert not runner.handles


# --------------------------------------------------------------------------------------------- what a function may be


class Owner:
    """Has methods of both kinds, and is callable."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def method(self) -> None:
        self.calls.append("method")

    async def coroutine_method(self) -> None:
        await asyncio.sleep(0)
        self.calls.append("coroutine method")

    async def __call__(self) -> None:
        await asyncio.sleep(0)
        self.calls.append("call")


def test_anything_that_is_called_without_arguments_can_be_repeated_and_has_its_own_name(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner
) -> None:
    owner = Owner()

    def returns_a_coroutine() -> object:
        return owner.coroutine_method()

    functions: list[Callable[[], object]] = [
        owner.method,
        owner.coroutine_method,
        owner,
        functools.partial(owner.calls.append, "partial"),
        returns_a_coroutine,
    ]
    names = [runner.run_fn_periodically(function, 1.0).name for function in functions]
    assert names[:4] == ["Owner.method", "Owner.coroutine_method", "Owner", "list.append"]
    clock.advance(2.0)
    assert sorted(owner.calls) == sorted(["method", "coroutine method", "call", "partial", "coroutine method"] * 3)
    assert [io_context.stats()[name].total for name in names] == [3] * 5
    handle = runner.run_fn_periodically(owner.method, 0.5, "another name")
    assert (handle.name, handle.interval) == ("another name", 0.5)
    assert repr(handle) == "<PeriodicalHandle 'another name' every 0.5 s on loop 'test'>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((5, 1.0), "5"), ((print, "1"), "real number"), ((print, None), "real number")],
)
def test_an_argument_of_the_wrong_kind_is_an_error(
    runner: atoll.PeriodicalRunner, arguments: tuple[Any, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        runner.run_fn_periodically(*arguments)
    assert not runner.handles


def test_a_runner_is_of_a_context_and_the_error_says_where_to_find_one() -> None:
    thread: Any = atoll.IoContextThread("test")
    with pytest.raises(TypeError, match=r"is no IoContext: give `thread.io_context`, `pool.get\(\)`"):
        atoll.PeriodicalRunner.create(thread)
    thread.stop()


def test_each_run_has_a_copy_of_the_context_variables_of_the_registration(
    clock: ManualClock, runner: atoll.PeriodicalRunner
) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[str] = []

    def function() -> None:
        seen.append(variable.get())
        variable.set("changed by a run")

    async def coroutine() -> None:
        seen.append(variable.get())
        await asyncio.sleep(0)
        variable.set("changed by a run")

    token = variable.set("registered")
    runner.run_fn_periodically(function, 1.0)
    runner.run_fn_periodically(coroutine, 1.0)
    variable.set("changed afterwards")
    clock.advance(2.0)
    assert seen == ["registered"] * 6
    variable.reset(token)


def test_the_deadline_of_the_call_that_registers_is_not_that_of_the_runs(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    remaining: list[float | None] = []

    class Module:
        async def start(self) -> None:
            remaining.append(atoll.time_remaining())
            self.runner = atoll.PeriodicalRunner.create(io_context)
            self.runner.run_fn_periodically(lambda: remaining.append(atoll.time_remaining()), 10.0)
            await asyncio.sleep(0)
            remaining.append(atoll.time_remaining())

    module = Module()
    reference = atoll.ModuleRef(io_context, module).with_options(timeout=5.0)
    io_context.post(reference.call, Module.start)
    clock.advance(10.0)
    assert sorted(remaining, key=str) == [5.0, 5.0, None, None]
    module.runner.cancel()


def test_a_run_is_in_the_lane_that_was_chosen_and_so_is_what_it_posts(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner
) -> None:
    ran: list[str] = []
    runner.run_fn_periodically(lambda: ran.append("normal"), 1.0, first=1.0)
    runner.run_fn_periodically(lambda: ran.append("bulk"), 1.0, first=1.0, lane="bulk")
    runner.run_fn_periodically(lambda: ran.append("control"), 1.0, first=1.0, lane="control")
    io_context.post(work_for, clock, 1.5)
    clock.settle()
    assert ran == ["control", "normal", "bulk"]


# ------------------------------------------------------------------------------------------- when something goes wrong


def test_a_run_that_raises_is_counted_goes_to_the_hook_and_the_next_run_happens(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner, raised: Any
) -> None:
    def function() -> None:
        raise OSError("function")

    async def coroutine() -> None:
        await asyncio.sleep(0)
        raise OSError("coroutine")

    handles = [runner.run_fn_periodically(each, 1.0, each.__name__) for each in (function, coroutine)]
    clock.advance(2.0)
    assert sorted((name, str(exception)) for name, exception in raised) == (
        [("coroutine", "coroutine")] * 3 + [("function", "function")] * 3
    )
    for handle in handles:
        assert handle.statistics() == atoll.PeriodicalStats(
            runs=3, errors=3, missed=0, running=False, last_run=2.0, next_run=3.0
        )
        assert io_context.stats()[handle.name].errors == 3


def test_a_coroutine_that_is_cancelled_by_something_else_ends_one_run_only(
    clock: ManualClock, runner: atoll.PeriodicalRunner, raised: Any
) -> None:
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    handle = runner.run_fn_periodically(cancels_itself, 1.0)
    clock.advance(2.0)
    assert (handle.statistics().runs, handle.statistics().errors, raised) == (3, 0, [])


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_leaves_the_loop_and_a_later_run_of_it_goes_on(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner, failure: type[BaseException]
) -> None:
    ran: list[float] = []

    def function() -> None:
        ran.append(io_context.now())
        if len(ran) == 1:
            raise failure

    runner.run_fn_periodically(function, 1.0)
    with pytest.raises(failure):
        clock.settle()
    clock.advance(1.0)
    assert ran == [0.0, 1.0]


def test_a_closed_loop_refuses_functions_and_ends_those_that_it_had(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner, note: Callable[[], None]
) -> None:
    async def sleeps() -> None:
        await asyncio.sleep(1_000)

    suspended = runner.run_fn_periodically(sleeps, 1.0)
    runner.run_fn_periodically(note, 1.0)
    clock.advance(1.0)
    io_context.close()
    assert suspended.cancelled
    with pytest.raises(LoopClosedError):
        runner.run_fn_periodically(note, 1.0)
    runner.cancel()
    assert not runner.handles


def test_a_loop_that_is_closed_between_a_coroutines_call_and_its_first_step_ends_it_in_silence(
    io_context: atoll.IoContext, runner: atoll.PeriodicalRunner
) -> None:
    async def sleeps() -> None:
        await asyncio.sleep(1_000)

    runner.run_fn_periodically(sleeps, 1.0)
    io_context.post(io_context.stop)
    io_context.run()
    io_context.close()


def test_a_full_loop_refuses_a_function_but_keeps_those_that_it_has(clock: ManualClock, times: list[float]) -> None:
    io_context = atoll.IoContext("full", clock=clock, max_delayed=1)
    runner = atoll.PeriodicalRunner.create(io_context)
    others: list[atoll.LoopFuture[None]] = []

    def function() -> None:
        times.append(io_context.now())
        # Takes the place that the next run would have had.
        others.append(io_context.submit(print, delay=3_600))

    handle = runner.run_fn_periodically(function, 1.0, first=1.0)
    clock.advance(1.25)
    assert (times, handle.statistics().next_run) == ([1.0], 2.0)
    with pytest.raises(MailboxFull):
        runner.run_fn_periodically(print, 1.0, first=1.0)
    assert runner.handles == {handle}
    others[0].cancel()
    clock.advance(0.75)
    assert times == [1.0, 2.0], "there was room again, and it is not late"
    others[1].cancel()
    runner.cancel()
    clock.advance(0.001)
    assert io_context.run() == 0, "nothing is left to do"
    io_context.close()


def test_a_burst_on_a_full_lane_goes_on_when_there_is_room(clock: ManualClock, times: list[float]) -> None:
    io_context = atoll.IoContext("full", clock=clock, max_queued=2)
    runner = atoll.PeriodicalRunner.create(io_context)

    def function() -> None:
        times.append(io_context.now())
        if len(times) == 1:
            work_for(clock, 2.0)
            io_context.post(int)
            io_context.post(int)

    runner.run_fn_periodically(function, 1.0, schedule="fixed_rate", catch_up="burst")
    clock.advance(3.0)
    assert times == pytest.approx([0.0, 2.001, 2.001, 3.0])
    io_context.close()


# -------------------------------------------------------------------------------------------------------- cancelling


def test_a_cancelled_function_never_runs_again_and_is_no_work(
    clock: ManualClock,
    io_context: atoll.IoContext,
    runner: atoll.PeriodicalRunner,
    times: list[float],
    note: Callable[[], None],
) -> None:
    handle = runner.run_fn_periodically(note, 1.0)
    clock.advance(1.0)
    assert [handle.cancelled, handle.cancel(), handle.cancel(), handle.cancelled] == [False, True, False, True]
    assert io_context.stats().delayed == 0
    clock.advance(5.0)
    assert times == [0.0, 1.0]
    assert handle.statistics() == atoll.PeriodicalStats(
        runs=2, errors=0, missed=0, running=False, last_run=1.0, next_run=None
    )
    assert repr(handle).endswith("on loop 'test', cancelled>")
    assert io_context.run() == 0


def test_a_function_that_is_cancelled_before_its_first_run_never_runs(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    for first in (0.0, 1.0):
        assert runner.run_fn_periodically(note, 1.0, first=first).cancel()
    clock.advance(5.0)
    assert times == []


def test_a_function_may_cancel_its_own_handle(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner, times: list[float]
) -> None:
    def function() -> None:
        times.append(io_context.now())
        if len(times) == 3:
            assert handle.cancel()

    handle = runner.run_fn_periodically(function, 1.0)
    clock.advance(10.0)
    assert times == [0.0, 1.0, 2.0]
    assert (handle.statistics().runs, handle.statistics().running) == (3, False)
    assert io_context.stats().delayed == 0


def test_a_coroutine_in_progress_goes_on_to_its_end_and_is_the_last(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner
) -> None:
    events: list[str] = []

    async def slow() -> None:
        events.append("start")
        await asyncio.sleep(2)
        events.append("end")

    handle = runner.run_fn_periodically(slow, 1.0)
    clock.advance(1.0)
    handle.cancel()
    assert handle.statistics().running
    clock.advance(10.0)
    assert events == ["start", "end"]
    assert (handle.statistics().runs, handle.statistics().running) == (1, False)
    assert io_context.stats().delayed == 0


def test_cancelling_a_runner_ends_all_its_functions_and_it_can_be_used_again(
    clock: ManualClock, runner: atoll.PeriodicalRunner, times: list[float], note: Callable[[], None]
) -> None:
    handles = [runner.run_fn_periodically(note, 1.0) for _ in range(3)]
    runner.cancel()
    assert all(handle.cancelled for handle in handles)
    clock.advance(1.0)
    assert times == []
    runner.run_fn_periodically(note, 1.0)
    clock.settle()
    assert times == [1.0]


# ------------------------------------------------------------------------------------------------------- measurements


def test_queue_times_are_those_from_being_due_to_running_under_the_functions_own_name_the_first_too() -> None:
    io_context = atoll.IoContext("test")
    runner = atoll.PeriodicalRunner.create(io_context)

    def function() -> None:
        if handle.statistics().runs == 2:
            handle.cancel()
            io_context.stop()

    handle = runner.run_fn_periodically(function, 0.0001, "Node.heartbeat")
    with io_context.work_guard():
        io_context.run()
    measured = io_context.stats()["Node.heartbeat"]
    assert (measured.total, measured.queue_time.count, measured.execution_time.count) == (3, 3, 3)
    assert [each.name for each in io_context.stats() if each.total] == ["Node.heartbeat"], "nothing is booked elsewhere"
    runner.cancel()
    io_context.close()


def test_the_interval_is_no_part_of_the_queue_time() -> None:
    io_context = atoll.IoContext("test")
    runner = atoll.PeriodicalRunner.create(io_context)
    registered = time.monotonic()
    ran: list[float] = []

    def function() -> None:
        ran.append(time.monotonic())
        io_context.stop()

    runner.run_fn_periodically(function, 3_600.0, "tick", first=0.2)
    io_context.run()
    assert io_context.stats()["tick"].queue_time.max < ran[0] - registered - 0.2 + 0.01
    runner.cancel()
    io_context.close()


def test_a_coroutines_waiting_is_no_part_of_its_execution_time(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner
) -> None:
    async def slow() -> None:
        await asyncio.sleep(1)

    runner.run_fn_periodically(slow, 1.0, "slow")
    clock.advance(5.0)
    measured = io_context.stats()["slow"]
    assert (measured.total, measured.execution_time.count, measured.wall_time.count) == (3, 3, 3)


# ------------------------------------------------------------------------------------------------------ injected delays


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({}, [0.25, 1.5, 2.75, 4.0]),
        ({"first": 1.0}, [1.25, 2.5, 3.75]),
        ({"schedule": "fixed_rate"}, [0.25, 1.25, 2.25, 3.25]),
    ],
    ids=["fixed delay", "first run", "fixed rate"],
)
def test_an_injected_delay_comes_once_before_each_run_the_first_too(
    clock: ManualClock,
    io_context: atoll.IoContext,
    runner: atoll.PeriodicalRunner,
    options: dict[str, Any],
    due: list[float],
) -> None:
    times: list[float] = []
    io_context.inject_delays("beat=250000:250000")
    runner.run_fn_periodically(lambda: times.append(io_context.now()), 1.0, "beat", **options)
    clock.advance(4.0)
    assert times == due
    io_context.inject_delays(None)


def test_a_run_that_an_injected_delay_holds_back_is_cancelled_like_any_other(
    clock: ManualClock, io_context: atoll.IoContext, runner: atoll.PeriodicalRunner, times: list[float]
) -> None:
    io_context.inject_delays("*=250000:250000")
    handle = runner.run_fn_periodically(lambda: times.append(io_context.now()), 1.0)
    clock.advance(1.375)
    assert times == [0.25]
    assert handle.cancel()
    assert io_context.stats().delayed == 0
    clock.advance(5.0)
    assert times == [0.25]
    io_context.inject_delays(None)
