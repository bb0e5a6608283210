"""Many threads at once, on purpose: posting, submitting, cancelling, delaying, stopping, closing, looking.

Without a GIL they really run at the same time; with one they still interleave between any two bytecodes, so nothing
here is for free-threaded builds only. Each test is bounded in work, not in time.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest
from tests.loop.many_threads import THREADS, TIMEOUT, all_at_once, each, switching_often

import atoll
from atoll import IoContext, LoopFuture

Start = Callable[..., IoContext]


@pytest.fixture(autouse=True)
def threads_meet_often() -> Iterator[None]:
    with switching_often():
        yield


def settle(io_context: IoContext) -> None:
    """Waits until the loop has run all that was posted before."""
    io_context.submit(int).result(TIMEOUT)


class OneAtATime:
    """Notices handlers that run at the same time: its sums are wrong then, and `entered` is found set."""

    def __init__(self) -> None:
        self.entered = False
        self.ran: list[tuple[int, int]] = []

    def step(self, poster: int, number: int) -> None:
        assert not self.entered, "two handlers run at the same time"
        self.entered = True
        self.ran.append((poster, number))
        self.entered = False

    async def awaiting(self, poster: int, number: int) -> None:
        self.step(poster, number)
        await asyncio.sleep(0)
        assert not self.entered


@pytest.mark.parametrize("prepared", [False, True], ids=["post", "bind"])
def test_handlers_of_many_posters_run_one_at_a_time_and_each_posters_in_order(
    running: IoContext,
    prepared: bool,  # noqa: FBT001 - a parameter of the test
    raised: list[Any],
) -> None:
    module, posts = OneAtATime(), 500
    step, awaiting = running.bind(module.step), running.bind(module.awaiting)

    def post(poster: int) -> None:
        for number in range(posts):
            handler = module.awaiting if number % 3 == 0 else module.step
            if prepared:
                (awaiting if number % 3 == 0 else step)(poster, number)
            else:
                running.post(handler, poster, number)

    all_at_once(*each(THREADS, post))
    settle(running)
    assert raised == []
    for poster in range(THREADS):
        assert [number for whose, number in module.ran if whose == poster] == list(range(posts))
    stats = {handler.name: handler for handler in running.stats()}
    counts = [stats[f"OneAtATime.{name}"] for name in ("step", "awaiting")]
    assert sum(handler.total for handler in counts) == THREADS * posts


def test_a_future_ends_in_one_way_however_many_threads_cancel_it(running: IoContext) -> None:
    ran: Counter[int] = Counter()
    futures: list[LoopFuture[Any]] = []

    def work(number: int) -> int:
        ran[number] += 1
        return number

    async def slow(number: int) -> int:
        await asyncio.sleep(0)
        return work(number)

    def submit(seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311 - dice of a test
        for number in range(seed * 200, (seed + 1) * 200):
            future = running.submit(dice.choice([work, slow]), number)
            futures.append(future)
            for _ in range(dice.randrange(3)):
                dice.choice(futures).cancel()

    all_at_once(*each(THREADS, submit))
    assert wait(futures, TIMEOUT).not_done == set()
    results = [future.result() for future in futures if not future.cancelled()]
    assert len(set(results)) == len(results)
    assert all(ran[number] == 1 for number in results)
    for future in futures:
        if future.cancelled():
            with pytest.raises(CancelledError):
                future.result()
    settle(running)
    stats = running.stats()
    assert (stats.active, stats.running) == (0, 0)


def test_a_delayed_post_is_run_or_cancelled_and_never_both_or_neither(running: IoContext) -> None:
    ran: Counter[int] = Counter()
    cancelled: Counter[int] = Counter()
    posted: list[tuple[int, int]] = []

    def delay(seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311 - dice of a test
        for key in range(seed * 300, (seed + 1) * 300):
            number = running._post_delayed(ran.update, ([key],), "delayed", dice.random() * 0.002, "normal")
            assert number is not None
            posted.append((key, number))

    def cancel(seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311 - dice of a test
        while len(posted) < 300 * THREADS // 2:
            if posted:
                key, number = dice.choice(posted)
                if running._cancel_delayed(number):
                    cancelled[key] += 1

    all_at_once(*each(THREADS // 2, delay), *each(THREADS // 2, cancel))
    while running.stats().delayed:
        threading.Event().wait(0.001)
    settle(running)
    assert len(posted) == 300 * THREADS // 2
    assert all(ran[key] + cancelled[key] == 1 for key, _ in posted)


def test_messages_that_go_round_through_many_loops_arrive(start: Start) -> None:
    ring = [start(f"loop-{number}") for number in range(4)]
    hops, messages = 200, 20
    home: LoopFuture[int] = ring[0].submit(int)
    arrived: list[int] = []
    all_home = threading.Event()

    def hop(left: int) -> None:
        if left:
            ring[left % len(ring)].post(hop, left - 1)
            return
        arrived.append(left)
        if len(arrived) == messages * THREADS:
            all_home.set()

    def send(_: int) -> None:
        for _ in range(messages):
            ring[0].post(hop, hops)

    all_at_once(*each(THREADS, send))
    assert all_home.wait(TIMEOUT)
    home.result(TIMEOUT)
    total = sum(handler.total for loop in ring for handler in loop.stats() if handler.name.endswith("hop"))
    assert total == messages * THREADS * (hops + 1)


def test_names_met_by_many_threads_at_once_are_counted_exactly(running: IoContext) -> None:
    posts, names = 300, 40

    def post(poster: int) -> None:
        for number in range(posts):
            # A new string each time, whose slot is looked up or made.
            running.post(int, name=f"name-{(number + poster) % names}")

    all_at_once(*each(THREADS, post))
    settle(running)
    totals = {handler.name: handler.total for handler in running.stats() if handler.name.startswith("name-")}
    assert len(totals) == names
    assert sum(totals.values()) == THREADS * posts


def test_a_handler_sees_its_own_posters_context_variables_whoever_else_posts(running: IoContext) -> None:
    poster_variable = contextvars.ContextVar[int]("poster")
    wrong: list[tuple[int, int]] = []

    async def check(poster: int) -> None:
        for _ in range(2):
            if poster_variable.get() != poster:
                wrong.append((poster, poster_variable.get()))
            await asyncio.sleep(0)

    def post(poster: int) -> None:
        poster_variable.set(poster)
        for _ in range(200):
            running.post(check, poster)

    all_at_once(*each(THREADS, post))
    settle(running)
    assert wrong == []


def test_what_a_handler_is_given_is_freed_once_on_whichever_thread(running: IoContext) -> None:
    freed: list[int] = []

    class Argument:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            freed.append(self.number)

    def post(poster: int) -> None:
        for number in range(300):
            argument = Argument(poster * 1000 + number)
            running.post(id, argument)
            running.submit(id, argument).cancel()

    all_at_once(*each(THREADS, post))
    settle(running)
    while len(freed) < THREADS * 300:
        settle(running)
    assert len(set(freed)) == len(freed) == THREADS * 300


def test_bound_handlers_are_shared_and_dropped_by_many_threads(running: IoContext) -> None:
    ran: list[int] = []
    shared: list[atoll.BoundHandler] = [running.bind(ran.append)]

    def use(_: int) -> None:
        for number in range(300):
            shared[0](number)
            shared[0] = running.bind(ran.append)

    all_at_once(*each(THREADS, use))
    settle(running)
    assert len(ran) == THREADS * 300
