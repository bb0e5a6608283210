"""The metrics' samples, taken from loops' statistics for whatever exports them. Any thread, and never a loop's help."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from atoll.loop import Distribution, EventStats, LoopStats, LoopTime
from atoll.observe import _metrics as metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from atoll.observe._metrics import Metric

Sample = tuple[tuple[str, ...], float]
"""The values of a metric's labels, and its value."""


def by_name(snapshots: Iterable[LoopStats]) -> list[LoopStats]:
    """The snapshots with those of one name added up, for a series must not come twice."""
    found: dict[str, LoopStats] = {}
    for stats in snapshots:
        same = found.get(stats.name)
        found[stats.name] = _handlers_by_name(stats) if same is None else _added(same, stats)
    return list(found.values())


def _added(first: LoopStats, second: LoopStats) -> LoopStats:
    both = replace(
        first,
        queued={lane: queued + second.queued[lane] for lane, queued in first.queued.items()},
        refused={lane: refused + second.refused[lane] for lane, refused in first.refused.items()},
        delayed=first.delayed + second.delayed,
        guards=first.guards + second.guards,
        handlers=first.handlers + second.handlers,
        time=LoopTime(
            first.time.idle + second.time.idle,
            first.time.waiting + second.time.waiting,
            first.time.running + second.time.running,
        ),
        oldest_queued=max(first.oldest_queued, second.oldest_queued),
        lag=max((lag for lag in (first.lag, second.lag) if lag is not None), default=None),
    )
    return _handlers_by_name(both)


def _handlers_by_name(stats: LoopStats) -> LoopStats:
    handlers: dict[str, EventStats] = {}
    for handler in stats:
        same = handlers.get(handler.name)
        handlers[handler.name] = handler if same is None else _one(same, handler)
    return stats if len(handlers) == len(stats.handlers) else replace(stats, handlers=tuple(handlers.values()))


def _one(first: EventStats, second: EventStats) -> EventStats:
    merged = Distribution.merged
    return EventStats(
        first.name,
        first.total + second.total,
        first.active + second.active,
        first.running + second.running,
        first.errors + second.errors,
        merged([first.queue_time, second.queue_time]),
        merged([first.execution_time, second.execution_time]),
        merged([first.wall_time, second.wall_time]),
    )


_HANDLER_VALUES: dict[Metric, Callable[[EventStats], int]] = {
    metrics.HANDLERS: lambda handler: handler.total,
    metrics.ERRORS: lambda handler: handler.errors,
    metrics.ACTIVE: lambda handler: handler.active,
    metrics.RUNNING: lambda handler: handler.running,
}

_DISTRIBUTIONS: dict[Metric, Callable[[EventStats], Distribution]] = {
    metrics.QUEUE: lambda handler: handler.queue_time,
    metrics.EXECUTION: lambda handler: handler.execution_time,
    metrics.WALL: lambda handler: handler.wall_time,
}


def samples(metric: Metric, loops: Iterable[LoopStats]) -> Iterator[Sample]:
    """The samples of a counter or gauge."""
    for stats in loops:
        if metric in _HANDLER_VALUES:
            value = _HANDLER_VALUES[metric]
            yield from (((stats.name, handler.name), value(handler)) for handler in stats)
        else:
            yield from (((stats.name, *labels), value) for labels, value in _loop_samples(metric, stats))


def _loop_samples(metric: Metric, stats: LoopStats) -> Iterator[Sample]:
    if metric == metrics.QUEUED:
        yield from (((lane,), queued) for lane, queued in stats.queued.items())
    elif metric == metrics.REFUSED:
        yield from (((lane,), refused) for lane, refused in stats.refused.items())
    elif metric == metrics.DELAYED:
        yield (), stats.delayed
    elif metric == metrics.GUARDS:
        yield (), stats.guards
    elif metric == metrics.TIME:
        yield ("idle",), stats.time.idle
        yield ("waiting",), stats.time.waiting
        yield ("running",), stats.time.running
    elif metric == metrics.LAG:
        yield (), stats.oldest_queued
    elif metric == metrics.PROBE and stats.lag is not None:
        yield (), stats.lag


def distributions(
    metric: Metric, loops: Iterable[LoopStats], gil_waits: Distribution
) -> Iterator[tuple[tuple[str, ...], Distribution]]:
    """The distributions of a histogram, without those that have recorded nothing."""
    if metric == metrics.GIL_WAIT:
        if gil_waits.count:
            yield (), gil_waits
        return
    seen = _DISTRIBUTIONS[metric]
    for stats in loops:
        for handler in stats:
            if (distribution := seen(handler)).count:
                yield (stats.name, handler.name), distribution


def cumulative(distribution: Distribution) -> list[int]:
    """How many durations do not exceed each of `BOUNDS`, and after those how many there are.

    One of the histogram's own buckets counts for the first bound that it does not exceed. So no duration counts as
    shorter than it was, and the counts grow from scrape to scrape.
    """
    counts = []
    below, index = 0, 0
    buckets = distribution.buckets
    for bound in metrics.BOUNDS:
        while index < len(buckets) and buckets[index][1] <= bound:
            below += buckets[index][2]
            index += 1
        counts.append(below)
    return [*counts, distribution.count]
