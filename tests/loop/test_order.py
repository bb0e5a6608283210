"""What runs when: order, lanes, delays, and that nothing runs beside anything else."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import atoll


def mixed_handlers(ran: list[Any]) -> tuple[Callable[[Any], None], Callable[[Any], Coroutine[Any, Any, None]]]:
    """A function and a coroutine function that note their start, the latter going on for a while."""

    def function(number: Any) -> None:
        ran.append(number)

    async def coroutine(number: Any) -> None:
        ran.append(number)
        await asyncio.sleep(0)

    return function, coroutine


@pytest.mark.parametrize("drain_budget", [1e-9, 0.001, 10.0])
def test_functions_and_coroutines_start_in_the_order_posted(
    make: Callable[..., atoll.IoContext], drain_budget: float
) -> None:
    io_context = make(drain_budget=drain_budget)
    ran: list[int] = []
    handlers = mixed_handlers(ran)
    for number in range(300):
        io_context.post(handlers[number % 3 == 1], number)
    io_context.run()
    assert ran == list(range(300))


@pytest.mark.parametrize("lane", ["control", "normal", "bulk"])
def test_order_holds_within_every_lane_and_whatever_the_way_of_posting(io_context: atoll.IoContext, lane: Any) -> None:
    ran: list[int] = []
    function, coroutine = mixed_handlers(ran)
    bound = io_context.bind(coroutine, lane=lane)
    for number in range(0, 300, 3):
        io_context.post(function, number, lane=lane)
        bound(number + 1)
        io_context.submit(coroutine, number + 2, lane=lane)
    io_context.run()
    assert ran == list(range(300))


def test_what_is_posted_while_a_coroutine_waits_for_its_first_step_runs_after_that_step(
    io_context: atoll.IoContext,
) -> None:
    ran: list[str] = []
    function, coroutine = mixed_handlers(ran)

    def have_the_mailbox_drained_again_after_another_post() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(io_context.post, function, "later")
        loop.call_soon(io_context._drain)

    io_context.post(have_the_mailbox_drained_again_after_another_post)
    io_context.post(coroutine, "earlier")
    io_context.run()
    assert ran == ["earlier", "later"]


def test_what_follows_a_coroutine_that_is_dispatched_runs_after_its_first_step(io_context: atoll.IoContext) -> None:
    ran: list[str] = []
    function, coroutine = mixed_handlers(ran)
    io_context.post(lambda: io_context.dispatch(coroutine, "dispatched"))
    io_context.post(function, "posted")
    io_context.run()
    assert ran == ["dispatched", "posted"]


def test_a_coroutine_cancelled_before_its_first_step_holds_up_nobody(io_context: atoll.IoContext) -> None:
    ran: list[str] = []
    function, coroutine = mixed_handlers(ran)

    def cancel_the_newest_task() -> None:
        for task in asyncio.all_tasks():
            task.cancel()

    async def dispatch_and_cancel() -> None:
        io_context.dispatch(coroutine, "dispatched")
        asyncio.get_running_loop().call_soon(io_context.post, function, "posted")

    io_context.post(dispatch_and_cancel)
    io_context.post(cancel_the_newest_task)
    io_context.run()
    io_context.restart()
    io_context.run()
    assert ran[-1] == "posted"


def test_each_of_eight_posters_sees_its_handlers_start_in_its_order(running: atoll.IoContext) -> None:
    ran: list[tuple[int, int]] = []
    handlers = mixed_handlers(ran)
    count = 1_000

    def post(poster: int) -> None:
        for number in range(count):
            running.post(handlers[number % 2], (poster, number))

    threads = [threading.Thread(target=post, args=(poster,)) for poster in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running.submit(lambda: None).result(30)
    for poster in range(8):
        assert [number for who, number in ran if who == poster] == list(range(count))


def test_no_wake_up_is_lost_when_eight_threads_post_to_a_loop_that_keeps_falling_asleep(
    running: atoll.IoContext,
) -> None:
    failed: list[BaseException] = []

    def post_and_wait() -> None:
        try:
            for number in range(300):
                assert running.submit(lambda number=number: number).result(30) == number
        except BaseException as error:  # noqa: BLE001 - it belongs to the test's thread
            failed.append(error)

    posters = [threading.Thread(target=post_and_wait) for _ in range(8)]
    for poster in posters:
        poster.start()
    for poster in posters:
        poster.join()
    assert not failed


def test_a_loop_never_runs_two_handlers_at_once(running: atoll.IoContext) -> None:
    inside: list[int] = []
    overlaps: list[list[int]] = []

    def handler(number: int) -> None:
        inside.append(number)
        time.sleep(1e-6)  # gives other threads the chance to break the rule
        if inside != [number]:
            overlaps.append(list(inside))
        inside.remove(number)

    async def coroutine(number: int) -> None:
        handler(number)
        await asyncio.sleep(0)
        handler(number)

    def post(first: int) -> None:
        for number in range(first, first + 50):
            running.post(handler, number)
            running.post(coroutine, number + 1_000)
            running.dispatch(handler, number + 2_000)

    posters = [threading.Thread(target=post, args=(first,)) for first in range(0, 400, 50)]
    for poster in posters:
        poster.start()
    for poster in posters:
        poster.join()
    running.submit(asyncio.sleep, 0).result(30)
    assert not overlaps


def test_a_control_handler_overtakes_a_flood_of_bulk_handlers(io_context: atoll.IoContext) -> None:
    ran: list[str] = []
    for _ in range(1_000):
        io_context.post(ran.append, "bulk", lane="bulk")
    io_context.post(ran.append, "control", lane="control")
    io_context.run()
    assert ran[0] == "control"
    assert len(ran) == 1_001


def test_a_flood_in_a_higher_lane_does_not_starve_a_lower_one(io_context: atoll.IoContext) -> None:
    spins = 0
    done = False

    def spin() -> None:
        nonlocal spins
        spins += 1
        if not done and spins < 100_000:
            for _ in range(2):
                io_context.post(spin, lane="control")

    def finish() -> None:
        nonlocal done
        done = True

    io_context.post(spin, lane="control")
    io_context.post(finish, lane="bulk")
    io_context.run()
    assert done
    assert spins < 100_000


def test_an_asyncio_timer_fires_while_handlers_post_themselves_for_ever(io_context: atoll.IoContext) -> None:
    spins = 0
    fired = False

    def fire() -> None:
        nonlocal fired
        fired = True

    def spin() -> None:
        nonlocal spins
        spins += 1
        if not fired and spins < 5_000_000:
            io_context.post(spin)

    io_context.post(lambda: asyncio.get_running_loop().call_later(0.001, fire))
    io_context.post(spin)
    io_context.run()
    assert fired


def test_an_asyncio_task_advances_while_handlers_post_themselves_for_ever(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(recording=False)
    spins = 0
    steps = 0

    async def step() -> None:
        nonlocal steps
        for _ in range(5):
            await asyncio.sleep(0)
            steps += 1

    def spin() -> None:
        nonlocal spins
        spins += 1
        if steps < 5 and spins < 5_000_000:
            io_context.post(spin)

    io_context.post(step)
    io_context.post(spin)
    io_context.run()
    assert steps == 5
    assert spins < 5_000_000


def test_delayed_handlers_run_after_their_delay_in_the_order_of_their_due_times(io_context: atoll.IoContext) -> None:
    ran: list[tuple[str, float]] = []
    begin = io_context.now()

    def note(name: str) -> None:
        ran.append((name, io_context.now() - begin))

    io_context.post(note, "at once")
    # Far apart: a thread that is held up between the two posts must not turn their due times round.
    io_context.post(note, "second", delay=0.4)
    io_context.post(note, "first", delay=0.01)
    io_context.run()
    assert [name for name, _ in ran] == ["at once", "first", "second"]
    assert ran[1][1] >= 0.01
    assert ran[2][1] >= 0.4


@pytest.mark.parametrize("delay", [-1.0, float("nan"), float("inf"), 1e12])
def test_a_delay_that_nobody_can_wait_for_is_an_error_at_the_poster(io_context: atoll.IoContext, delay: float) -> None:
    with pytest.raises(ValueError, match="is not a number of seconds"):
        io_context.post(print, delay=delay)


def test_an_unknown_lane_is_an_error_that_names_the_lanes(io_context: atoll.IoContext) -> None:
    with pytest.raises(ValueError, match="'control', 'normal' and 'bulk'"):
        io_context.post(print, lane="urgent")  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["post", "submit", "dispatch", "bind"])
def test_what_can_not_be_called_is_an_error_at_the_poster(io_context: atoll.IoContext, way: str) -> None:
    async def handler() -> None: ...

    with pytest.raises(TypeError, match="42 is no handler: it is a function, a coroutine function"):
        getattr(io_context, way)(42)
    with pytest.raises(TypeError, match="takes the function, not the coroutine that it returns"):
        getattr(io_context, way)(handler())
    assert io_context.stats().total == 0
