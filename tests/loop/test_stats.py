"""Names, counts and times of handlers."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import atoll

if TYPE_CHECKING:
    from collections.abc import Callable

WORK = 0.004


def work() -> None:
    end = time.perf_counter() + WORK
    while time.perf_counter() < end:
        pass


class Greeter:
    """Has handlers of several kinds."""

    def method(self) -> None: ...

    async def coroutine(self) -> None: ...

    @classmethod
    def of_class(cls) -> None: ...

    def __call__(self) -> None: ...


class Unhelpful:
    """Has no name of its own, and asking for one fails."""

    def __call__(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (work, "work"),
        (Greeter().method, "Greeter.method"),
        (Greeter().coroutine, "Greeter.coroutine"),
        (Greeter.of_class, "Greeter.of_class"),
        (Greeter(), "Greeter"),
        (Unhelpful(), "Unhelpful"),
        (functools.partial(Greeter().method), "Greeter.method"),
        (functools.partial(functools.partial(Greeter())), "Greeter"),
        (print, "print"),
        ([].clear, "list.clear"),
        (dict, "dict"),
        (lambda: None, "<lambda>"),
    ],
)
def test_a_handler_is_known_by_its_qualified_name(
    io_context: atoll.IoContext, handler: Callable[[], object], name: str
) -> None:
    io_context.post(handler)
    io_context.submit(handler)
    io_context.bind(handler)()
    io_context.run()
    [stats] = io_context.stats()
    assert (stats.name, stats.total) == (name, 3)


@pytest.mark.parametrize("way", ["post", "submit", "dispatch"])
def test_a_name_that_is_given_counts(io_context: atoll.IoContext, way: str) -> None:
    getattr(io_context, way)(print, name="greet")
    io_context.bind(print, name="greet")()
    io_context.run()
    assert [stats.name for stats in io_context.stats()] == ["greet"]


def test_names_beyond_the_limit_share_one_and_earlier_ones_keep_theirs(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(max_handler_names=2)
    for name in ("a", "b", "c", "d", "a"):
        io_context.post(lambda: None, name=name)
    io_context.run()
    assert {stats.name: stats.total for stats in io_context.stats()} == {"a": 2, "b": 1, "(other)": 2}


def test_a_handler_is_active_from_its_post_and_running_from_its_first_step(io_context: atoll.IoContext) -> None:
    seen: list[tuple[int, int, int]] = []

    def note() -> None:
        stats = io_context.stats()["one"]
        seen.append((stats.total, stats.active, stats.running))

    async def one() -> None:
        note()
        await asyncio.sleep(0)
        note()

    io_context.post(one, name="one")
    io_context.post(one, name="one")
    note()
    io_context.run()
    note()
    assert seen[0] == (2, 2, 0)
    assert seen[1] == (2, 2, 1)
    assert seen[-2] == (2, 1, 1)
    assert seen[-1] == (2, 0, 0)


def test_a_handler_that_took_100_ms_to_its_end_is_counted_with_them_and_no_longer_active(
    io_context: atoll.IoContext,
) -> None:
    async def ends_later() -> None:
        await asyncio.sleep(0.11)

    io_context.post(ends_later, name="method")
    io_context.run()
    method = io_context.stats()["method"]
    assert (method.total, method.active, method.running) == (1, 0, 0)
    assert method.wall_time.sum >= 0.1
    assert method.execution_time.sum <= method.wall_time.sum


def test_a_handler_that_waited_100_ms_and_ran_for_200_is_running_inside_and_counted_with_both(
    io_context: atoll.IoContext,
) -> None:
    inside: list[tuple[int, int, int]] = []

    def method() -> None:
        stats = io_context.stats()["method"]
        inside.append((stats.total, stats.active, stats.running))
        time.sleep(0.2)

    io_context.post(method, name="method")
    time.sleep(0.1)
    io_context.run()
    stats = io_context.stats()
    assert inside == [(1, 1, 1)]
    assert (stats["method"].total, stats["method"].active, stats["method"].running) == (1, 0, 0)
    assert stats["method"].queue_time.sum >= 0.0999
    assert stats["method"].execution_time.sum >= 0.1999
    assert stats.queue_time == stats["method"].queue_time, "the loop's queue times are those of all handlers"


def test_queue_time_is_from_the_post_or_the_due_time_to_the_first_step(io_context: atoll.IoContext) -> None:
    io_context.post(work, name="first")
    io_context.post(lambda: None, name="second")
    io_context.post(lambda: None, name="delayed", delay=0.1)
    io_context.run()
    stats = io_context.stats()
    assert stats["second"].queue_time.min >= WORK
    assert stats["delayed"].queue_time.max < 0.1, "the delay is no queue time"


def test_execution_is_the_sum_of_a_coroutines_steps_and_wall_time_is_kept_apart(io_context: atoll.IoContext) -> None:
    async def three_steps() -> None:
        work()
        await asyncio.sleep(0.05)
        work()
        await asyncio.sleep(0.05)
        work()

    io_context.post(three_steps, name="steps")
    io_context.post(work, name="function")
    io_context.run()
    steps = io_context.stats()["steps"]
    assert steps.execution_time.count == steps.wall_time.count == 1
    assert 3 * WORK <= steps.execution_time.sum < 0.1
    # uvloop's timers count whole milliseconds, and may fire one early.
    assert steps.wall_time.sum >= 0.095 + 3 * WORK
    assert io_context.stats()["function"].wall_time.count == 0, "a function's is its execution time"


def test_what_asyncio_tasks_of_a_handler_do_is_not_the_handlers_execution(io_context: atoll.IoContext) -> None:
    async def busy() -> None:
        work()

    async def parent() -> None:
        await asyncio.create_task(busy())

    io_context.post(parent, name="parent")
    io_context.run()
    assert io_context.stats()["parent"].execution_time.sum < WORK


def test_a_loops_time_is_split_into_idle_waiting_and_running(io_context: atoll.IoContext) -> None:
    time.sleep(0.03)
    io_context.post(time.sleep, 0.04, name="runs")
    time.sleep(0.05)
    io_context.run()
    stats = io_context.stats()
    spent = stats.time
    assert spent.idle >= 0.0299, "there was nothing to do"
    assert spent.waiting >= 0.0499, "it was ready, and nobody ran it"
    assert spent.running >= 0.0399
    assert spent.idle + spent.waiting + spent.running == pytest.approx(stats.uptime, abs=0.005)


def test_a_step_that_has_not_ended_counts_as_running(running: atoll.IoContext) -> None:
    entered, release = threading.Event(), threading.Event()

    def stuck() -> None:
        entered.set()
        release.wait(30)

    running.post(stuck)
    assert entered.wait(30)
    earlier = running.stats()
    time.sleep(0.05)
    assert (running.stats() - earlier).time.running >= 0.0499
    release.set()


def test_a_snapshot_knows_when_it_was_taken(io_context: atoll.IoContext) -> None:
    before = io_context.now()
    stats = io_context.stats()
    assert before <= stats.taken_at <= io_context.now()
    assert 0 < stats.uptime < 30


def test_a_distribution_adds_up(io_context: atoll.IoContext) -> None:
    for _ in range(5):
        io_context.post(work)
    io_context.post(lambda: None, name="nothing")
    io_context.run()
    stats = io_context.stats()
    execution = stats["work"].execution_time
    assert execution.count == 5 == sum(count for _, _, count in execution.buckets)
    assert execution.min >= WORK * 0.99
    assert execution.min <= execution.mean <= execution.max
    assert execution.sum == pytest.approx(execution.mean * 5)
    assert execution.p50 <= execution.p90 <= execution.p99 <= execution.max
    assert stats.total == sum(handler.total for handler in stats) == 6
    assert stats.execution_time.count == 6
    assert stats.execution_time.sum == pytest.approx(execution.sum + stats["nothing"].execution_time.sum)
    assert stats.execution_time.max == execution.max


def test_quantiles_are_right_to_an_eighth(io_context: atoll.IoContext) -> None:
    chosen = random.Random(1)  # noqa: S311 - a test's
    durations = sorted(chosen.uniform(50e-6, 1e-3) for _ in range(200))

    taken: list[float] = []

    def last(seconds: float) -> None:
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            pass
        taken.append(time.perf_counter() - begin)

    for duration in durations:
        io_context.post(last, duration)
    io_context.run()
    [stats] = io_context.stats()
    taken.sort()
    for fraction in (0.1, 0.5, 0.9):
        # Ten ranks to either side, for steps that were held up between the loop's clock and this one's.
        least, most = (taken[int(fraction * len(taken)) + ranks] for ranks in (-10, 10))
        assert least / 1.125 <= stats.execution_time.quantile(fraction) <= most * 1.125
    assert stats.execution_time.quantile(0.0) == stats.execution_time.min
    assert stats.execution_time.quantile(1.0) == stats.execution_time.max


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_quantile_lies_within_the_bucket_that_holds_it(width: int) -> None:
    buckets = tuple((0.001 * width * index, 0.001 * width * (index + 1), 10) for index in range(1, 11))
    distribution = atoll.Distribution(100, 1.0, buckets[0][0], buckets[-1][1], buckets)
    for index, (start, end, _) in enumerate(buckets):
        assert start <= distribution.quantile((index + 0.5) / 10) <= end


def test_an_empty_distribution_is_all_zero_and_a_bad_fraction_an_error() -> None:
    empty = atoll.Distribution()
    assert (empty.count, empty.mean, empty.p50, empty.p99, empty.min, empty.max) == (0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert atoll.Distribution.merged([empty, empty]) == empty
    with pytest.raises(ValueError, match=r"the 99th percentile is 0\.99"):
        empty.quantile(99)


def test_a_snapshot_is_frozen_and_an_unknown_handler_is_an_error_that_names_the_known(
    io_context: atoll.IoContext,
) -> None:
    io_context.post(print, name="known")
    before = io_context.stats()
    io_context.run()
    assert before["known"].active == 1
    assert io_context.stats()["known"].active == 0
    with pytest.raises(AttributeError):
        before.name = "other"  # type: ignore[misc]
    with pytest.raises(KeyError, match="known: known"):
        before["unknown"]


def test_without_recording_counts_stay_zero_and_everything_runs(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(recording=False)
    ran: list[int] = []
    for number in range(500):
        io_context.post(ran.append, number)
    io_context.submit(asyncio.sleep, 0.001)
    assert io_context.run() == 501
    assert ran == list(range(500))
    assert io_context.stats().execution_time.count == 0


def test_stats_may_be_read_by_any_thread_while_the_loop_works(running: atoll.IoContext) -> None:
    wrong: list[str] = []
    finished = threading.Event()

    def read() -> None:
        while not finished.is_set():
            for handler in running.stats():
                ordered = handler.total >= handler.active >= handler.running >= 0
                wrong.extend([] if ordered else [repr(handler)])

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for _ in range(100):
            running.post(lambda: None, name="some")
        running.submit(asyncio.sleep, 0).result(30)
    finished.set()
    reader.join()
    assert not wrong
