"""Snapshots of a loop subtract to the window between them."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

import atoll

if TYPE_CHECKING:
    from collections.abc import Callable

# The native histogram's own: eight buckets per power of two.
STARTS = [2.0**power * (1 + eighth / 8) for power in range(-24, 4) for eighth in range(8)]


def distribution_of(durations: list[float]) -> atoll.Distribution:
    """What the native histogram would say of them."""
    counts: dict[tuple[float, float], int] = {}
    for duration in durations:
        index = max(index for index, start in enumerate(STARTS) if start <= duration)
        bucket = (STARTS[index], STARTS[index + 1])
        counts[bucket] = counts.get(bucket, 0) + 1
    if not durations:
        return atoll.Distribution()
    buckets = tuple((start, end, count) for (start, end), count in sorted(counts.items()))
    return atoll.Distribution(len(durations), sum(durations), min(durations), max(durations), buckets)


def loop_stats(*handlers: atoll.EventStats, taken_at: float = 0.0, uptime: float = 0.0) -> atoll.LoopStats:
    queued = {"control": 0, "normal": 0, "bulk": 0}
    return atoll.LoopStats("node_manager", queued, 0, 0, handlers, taken_at, uptime)


def event_stats(name: str, durations: list[float]) -> atoll.EventStats:
    empty = atoll.Distribution()
    return atoll.EventStats(name, len(durations), 0, 0, 0, empty, distribution_of(durations), empty)


# ------------------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize("seed", range(10))
def test_a_window_of_a_distribution_is_what_was_recorded_in_it(seed: int) -> None:
    chosen = random.Random(seed)  # noqa: S311 - a test's
    before = [chosen.lognormvariate(-8, 2) for _ in range(200)]
    meanwhile = [chosen.lognormvariate(-6, 1) for _ in range(300)]
    window = distribution_of(before + meanwhile) - distribution_of(before)
    exact = distribution_of(meanwhile)
    assert (window.count, window.buckets) == (exact.count, exact.buckets)
    assert window.sum == pytest.approx(exact.sum)
    assert window.mean == pytest.approx(exact.mean)
    assert exact.min / 1.125 <= window.min <= exact.min
    assert exact.max <= window.max <= exact.max * 1.125
    for fraction in (0.0, 0.1, 0.5, 0.9, 0.99, 1.0):
        assert window.quantile(fraction) == pytest.approx(exact.quantile(fraction), rel=0.125)
        assert window.min <= window.quantile(fraction) <= window.max


def test_a_windows_quantiles_know_nothing_of_what_was_before_it() -> None:
    slow_start = [2.0] * 1000
    window = distribution_of([*slow_start, *[0.001] * 10]) - distribution_of(slow_start)
    assert window.p99 == pytest.approx(0.001, rel=0.125)
    assert window.max == pytest.approx(0.001, rel=0.125), "not the two seconds of the start"


def test_the_extremes_of_a_window_are_exact_where_it_brought_new_ones() -> None:
    window = distribution_of([0.003, 0.001234, 0.005678]) - distribution_of([0.003])
    assert (window.min, window.max) == (0.001234, 0.005678)
    first = distribution_of([0.003])
    assert first - atoll.Distribution() == first, "what starts with nothing is whole"


def test_a_window_in_which_nothing_happened_is_empty() -> None:
    seen = distribution_of([0.003, 0.5])
    assert seen - seen == atoll.Distribution()
    assert atoll.Distribution() - atoll.Distribution() == atoll.Distribution()


def test_a_windows_mean_lies_within_its_buckets_though_sum_and_buckets_are_not_read_at_one_instant() -> None:
    # The sum of the first has the second duration already, its buckets have not.
    torn = dataclasses.replace(distribution_of([0.003]), sum=2.003)
    window = distribution_of([0.003, 2.0]) - torn
    assert window.count == 1
    assert window.mean == pytest.approx(2.0, rel=0.125)


def test_merged_distributions_subtract_like_single_ones() -> None:
    first, second, more = distribution_of([0.001, 0.4]), distribution_of([0.02]), distribution_of([0.02, 0.03])
    merged = atoll.Distribution.merged
    window = merged([first, more]) - merged([first, second])
    assert (window.count, window.buckets) == (1, distribution_of([0.03]).buckets)


@pytest.mark.parametrize("earlier", [[0.001, 0.002], [0.5]], ids=["more of it", "another"])
def test_subtracting_what_is_not_earlier_is_an_error_that_says_how(earlier: list[float]) -> None:
    with pytest.raises(ValueError, match="`later - earlier`"):
        distribution_of([0.001]) - distribution_of(earlier)


# --------------------------------------------------------------------------------------------------------------- loops


def test_a_window_counts_what_happened_between_two_snapshots(io_context: atoll.IoContext) -> None:
    def fail() -> None:
        raise ValueError

    for _ in range(3):
        io_context.post(time.sleep, 0.001, name="nap")
    io_context.post(fail, name="fail")
    io_context.run()
    io_context.restart()
    earlier = io_context.stats()
    io_context.post(time.sleep, 0.02, name="nap")
    io_context.post(fail, name="fail")
    io_context.post(print, name="new")
    io_context.run()
    io_context.post(print, name="nap", lane="bulk")
    later = io_context.stats()
    window = later - earlier
    assert window.is_window
    assert (window.name, window.total, window.errors, window.active) == ("test", 4, 1, 1)
    assert (window["nap"].total, window["nap"].active, window["nap"].execution_time.count) == (2, 1, 1)
    assert window["nap"].execution_time.min >= 0.02 / 1.125, "none of the naps before it"
    assert window["fail"].errors == 1
    assert window["new"] == later["new"], "a handler that appeared meanwhile is whole"
    assert window.queued == {"control": 0, "normal": 0, "bulk": 1}, "as it is at the window's end"
    assert window.queue_time.count == 3
    assert window.taken_at == later.taken_at
    assert window.uptime == pytest.approx(later.uptime - earlier.uptime)


def test_windows_add_up_to_the_whole_while_the_loop_works(running: atoll.IoContext) -> None:
    ended = threading.Event()

    def keep_busy() -> None:
        while not ended.is_set():
            for _ in range(50):
                running.post(time.sleep, 0, name="nap")
            running.submit(asyncio.sleep, 0, name="sleep").result(30)

    poster = threading.Thread(target=keep_busy)
    poster.start()
    snapshots = [running.stats()]
    while len(snapshots) < 100 or snapshots[-1].total < 500:
        snapshots.append(running.stats())
        time.sleep(0.0005)  # or this thread keeps the GIL for a switch interval, each time that a handler gives it away
    ended.set()
    poster.join()
    windows = [later - earlier for earlier, later in itertools.pairwise(snapshots)]
    whole = snapshots[-1] - snapshots[0]
    for value in ("total", "errors"):
        assert sum(getattr(window, value) for window in windows) == getattr(whole, value)
    for kind in ("queue_time", "execution_time"):
        parts = [getattr(window, kind) for window in windows]
        assert sum(part.count for part in parts) == getattr(whole, kind).count
        for part in parts:
            assert 0 <= part.min <= part.p50 <= part.p99 <= part.max
            assert part.min * part.count <= part.sum * 1.125
    assert all(window.time.idle >= 0 and window.time.running >= 0 for window in windows)


def test_snapshots_of_two_loops_do_not_subtract(make: Callable[..., atoll.IoContext]) -> None:
    with pytest.raises(ValueError, match=r"not of 'a' and 'b': subtract each loop's own"):
        make("b").stats() - make("a").stats()


def test_snapshots_in_the_wrong_order_do_not_subtract(io_context: atoll.IoContext) -> None:
    earlier = io_context.stats()
    io_context.post(print)
    later = io_context.stats()
    with pytest.raises(ValueError, match="`later - earlier`"):
        earlier - later


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        (loop_stats(uptime=1.0), loop_stats(uptime=2.0)),
        (loop_stats(taken_at=1.0), loop_stats(taken_at=2.0)),
        (loop_stats(event_stats("work", [1.0])), loop_stats(event_stats("work", [1.0, 1.0]))),
        (loop_stats(event_stats("work", [1.0, 1.0])), loop_stats(event_stats("work", [2.0]))),
        (loop_stats(event_stats("work", [1.0])), loop_stats(event_stats("other", []))),
    ],
    ids=["made later", "taken later", "counted more", "of another's times", "of another's handlers"],
)
def test_snapshots_that_can_not_be_of_one_loop_in_this_order_do_not_subtract(
    later: atoll.LoopStats, earlier: atoll.LoopStats
) -> None:
    with pytest.raises(ValueError, match="`later - earlier`"):
        later - earlier


def test_statistics_of_two_handlers_do_not_subtract() -> None:
    with pytest.raises(ValueError, match="one handler, not 'a' and 'b'"):
        event_stats("b", []) - event_stats("a", [])


def test_a_window_does_not_subtract_again(io_context: atoll.IoContext) -> None:
    earlier = io_context.stats()
    window = io_context.stats() - earlier
    with pytest.raises(ValueError, match=r"keep the snapshots that stats\(\) returns"):
        window - io_context.stats()
    with pytest.raises(ValueError, match=r"keep the snapshots that stats\(\) returns"):
        io_context.stats() - window
