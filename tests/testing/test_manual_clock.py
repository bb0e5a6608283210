"""`ManualClock`: time that a test moves."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def io_context(clock: ManualClock) -> Iterator[atoll.IoContext]:
    io_context = atoll.IoContext("test", clock=clock)
    yield io_context
    io_context.close()


@pytest.fixture
def on_thread(clock: ManualClock) -> Iterator[atoll.IoContext]:
    with atoll.IoContextThread("on_thread", clock=clock) as thread:
        yield thread.io_context


def test_time_stands_still_until_it_is_advanced(clock: ManualClock, io_context: atoll.IoContext) -> None:
    assert (clock.now(), io_context.now()) == (0, 0)
    clock.advance(0.1)
    clock.advance(0.1)
    clock.advance(0.1)
    assert clock.now() == io_context.now() == pytest.approx(0.3, abs=1e-9)
    assert io_context.stats().delayed == 0


def test_delayed_posts_run_when_due_in_order_each_at_its_own_time(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    ran: list[tuple[str, float]] = []

    def note(name: str) -> None:
        ran.append((name, io_context.now()))

    for name, delay in (("hour", 3600.0), ("second", 1.0), ("also a second", 1.0), ("minute", 60.0)):
        io_context.post(note, name, delay=delay)
    clock.advance(0.999)
    assert ran == []
    clock.advance(100)
    assert ran == [("second", 1.0), ("also a second", 1.0), ("minute", 60.0)]
    clock.advance(3600)
    assert ran[-1] == ("hour", 3600.0)


def test_a_handler_that_posts_again_runs_at_every_moment_of_a_large_jump(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    ran: list[float] = []

    def again() -> None:
        ran.append(io_context.now())
        io_context.post(again, delay=1)

    io_context.post(again, delay=1)
    clock.advance(5)
    assert ran == [1, 2, 3, 4, 5]


def test_sleeps_and_timeouts_of_asyncio_jump_too(clock: ManualClock, io_context: atoll.IoContext) -> None:
    events: list[tuple[str, float]] = []

    async def sleep() -> None:
        await asyncio.sleep(10)
        events.append(("slept", io_context.now()))
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(3600)
        except TimeoutError:
            events.append(("timeout", io_context.now()))

    io_context.post(sleep)
    clock.advance(9)
    assert events == []
    clock.advance(6)
    assert events == [("slept", 10.0), ("timeout", 15.0)]


def test_sleeps_that_add_up_to_what_a_float_can_not_hold_end_when_they_are_due(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    ran: list[float] = []

    async def sleep_often() -> None:
        while True:
            await asyncio.sleep(0.1)
            ran.append(io_context.now())

    io_context.post(sleep_often)
    clock.advance(100)
    assert ran == pytest.approx([number / 10 for number in range(1, 1_001)])


def test_a_loop_on_a_thread_comes_to_rest_before_time_moves_on(clock: ManualClock, on_thread: atoll.IoContext) -> None:
    ran: list[float] = []

    async def sleep_often() -> None:
        for _ in range(100):
            await asyncio.sleep(0.5)
            ran.append(on_thread.now())

    on_thread.post(sleep_often)
    clock.advance(50)
    assert ran == [0.5 * number for number in range(1, 101)]


def test_loops_that_call_each_other_are_one_moment(clock: ManualClock) -> None:
    ran: list[tuple[str, float]] = []
    with atoll.IoContextThread("a", clock=clock) as a, atoll.IoContextThread("b", clock=clock) as b:
        here, there = a.io_context, b.io_context

        async def answer(number: int) -> int:
            await asyncio.sleep(0.25)
            return number

        async def ask() -> None:
            for number in range(20):
                ran.append((f"{await there.submit(answer, number)}", here.now()))
                await asyncio.sleep(0.75)

        here.post(ask)
        clock.advance(100)
    assert ran == [(str(number), 0.25 + number) for number in range(20)]


def test_a_context_that_nobody_runs_runs_on_the_thread_that_advances(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    threads: list[threading.Thread] = []
    io_context.post(lambda: threads.append(threading.current_thread()), delay=1)
    clock.advance(1)
    assert threads == [threading.current_thread()]


def test_a_sleep_ends_when_it_is_due_however_far_from_zero(clock: ManualClock, io_context: atoll.IoContext) -> None:
    year = 365 * 86_400.0
    clock.advance(2 * year)
    ended = io_context.submit(asyncio.sleep, 0.1)
    clock.advance(1)
    assert ended.done()


def test_a_cancelled_delayed_post_is_no_moment(clock: ManualClock, io_context: atoll.IoContext) -> None:
    future = io_context.submit(print, "never", delay=1)
    assert future.cancel()
    assert clock._next_due() is None
    clock.advance(10)


def test_settling_runs_what_is_ready_and_does_not_move_time(clock: ManualClock, io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    io_context.post(lambda: io_context.post(ran.append, 1))
    io_context.post(ran.append, 2, delay=1)
    clock.settle()
    assert (ran, clock.now()) == ([1], 0)


def test_a_stopped_context_runs_nothing_until_it_is_restarted(clock: ManualClock, io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    io_context.post(ran.append, 1)
    io_context.stop()
    clock.advance(1)
    assert ran == []
    io_context.restart()
    clock.advance(0)
    assert ran == [1]


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_time_does_not_go_back(clock: ManualClock, seconds: float) -> None:
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(seconds)


def test_a_clock_brings_its_own_loop(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="leave out loop_factory"):
        atoll.IoContext("two", clock=clock, loop_factory=asyncio.new_event_loop)


def test_a_clock_keeps_no_context_alive(clock: ManualClock) -> None:
    io_context = atoll.IoContext("gone", clock=clock)
    io_context.close()
    watched = weakref.ref(io_context)
    del io_context
    gc.collect()
    assert watched() is None
    clock.advance(1)


def test_the_random_numbers_of_a_context_follow_from_its_seed() -> None:
    def draws(seed: int | None) -> list[float]:
        io_context = atoll.IoContext("dice", seed=seed)
        numbers = [io_context.random.random() for _ in range(3)]
        io_context.close()
        return numbers

    expected = random.Random(7)  # noqa: S311 - what a context's is made of
    assert draws(7) == draws(7) == [expected.random() for _ in range(3)]
    assert draws(8) != draws(7)
    assert draws(None) != draws(None)
