"""Frozen statistics of a loop; all durations are seconds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_DistributionTuple = tuple[int, float, float, float, list[tuple[float, float, int]]]
_HandlerTuple = tuple[str, int, int, int, int, _DistributionTuple, _DistributionTuple, _DistributionTuple]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations seen so far, in seconds; all zero when there is none.

    Attributes:
        count: How many.
        sum: Their sum.
        min: The shortest.
        max: The longest.
        buckets: The histogram's filled buckets as (from, to, count), ascending; each is at most an eighth wide.
    """

    count: int = 0
    sum: float = 0.0
    min: float = 0.0
    max: float = 0.0
    buckets: tuple[tuple[float, float, int], ...] = ()

    @property
    def mean(self) -> float:
        """The average, or zero when there is none."""
        return self.sum / self.count if self.count else 0.0

    def quantile(self, fraction: float) -> float:
        """The duration that `fraction` of all do not exceed, to an eighth of its value.

        Raises:
            ValueError: When `fraction` is not between 0 and 1.
        """
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction={fraction!r} is not between 0 and 1: the 99th percentile is 0.99")
        # The histogram and the counters are read one after the other: the histogram's own total is the one that counts.
        rank = fraction * sum(count for _, _, count in self.buckets)
        below = 0
        for start, end, count in self.buckets:
            if below + count >= rank:
                within = start + (end - start) * (rank - below) / count
                return min(max(within, self.min), self.max)
            below += count
        return self.max

    @property
    def p50(self) -> float:
        """The median."""
        return self.quantile(0.5)

    @property
    def p90(self) -> float:
        """The 90th percentile."""
        return self.quantile(0.9)

    @property
    def p99(self) -> float:
        """The 99th percentile."""
        return self.quantile(0.99)

    @classmethod
    def merged(cls, parts: Iterable["Distribution"]) -> "Distribution":
        """All of `parts` as one."""
        filled = [part for part in parts if part.count]
        if not filled:
            return cls()
        counts: dict[tuple[float, float], int] = {}
        for part in filled:
            for start, end, count in part.buckets:
                counts[start, end] = counts.get((start, end), 0) + count
        return cls(
            count=sum(part.count for part in filled),
            sum=sum(part.sum for part in filled),
            min=min(part.min for part in filled),
            max=max(part.max for part in filled),
            buckets=tuple((start, end, count) for (start, end), count in sorted(counts.items())),
        )


@dataclass(frozen=True, slots=True)
class EventStats:
    """What is known of the handlers of one name on one loop.

    Attributes:
        name: The handler's name.
        total: How many have been queued.
        active: How many of them are queued or running.
        running: How many are between their first step and their end.
        errors: How many raised.
        queue_time: From being queued, or due, to the first step.
        execution_time: The sum of a handler's steps.
        wall_time: From the first step to the end, awaits included; for coroutines that had to wait.
    """

    name: str
    total: int
    active: int
    running: int
    errors: int
    queue_time: Distribution
    execution_time: Distribution
    wall_time: Distribution


@dataclass(frozen=True, slots=True)
class LoopStats:
    """A loop at one moment.

    Attributes:
        name: The loop's name.
        queued: How many handlers wait, by lane.
        delayed: How many posts with a delay are not yet due.
        guards: How many work guards are held.
        handlers: What is known of each handler, in the order of first use.
    """

    name: str
    queued: dict[str, int]
    delayed: int
    guards: int
    handlers: tuple[EventStats, ...] = field(default=())

    def __iter__(self) -> Iterator[EventStats]:
        """The handlers."""
        return iter(self.handlers)

    def __getitem__(self, name: str) -> EventStats:
        """The handler called `name`.

        Raises:
            KeyError: When no handler of that name has been posted.
        """
        for handler in self.handlers:
            if handler.name == name:
                return handler
        known = ", ".join(handler.name for handler in self.handlers) or "none"
        raise KeyError(f"no handler {name!r} on loop {self.name!r}; known: {known}")

    @property
    def total(self) -> int:
        """How many handlers have been queued."""
        return sum(handler.total for handler in self.handlers)

    @property
    def active(self) -> int:
        """How many handlers are queued or running."""
        return sum(handler.active for handler in self.handlers)

    @property
    def running(self) -> int:
        """How many handlers are between their first step and their end."""
        return sum(handler.running for handler in self.handlers)

    @property
    def errors(self) -> int:
        """How many handlers raised."""
        return sum(handler.errors for handler in self.handlers)

    @property
    def queue_time(self) -> Distribution:
        """The queue times of all handlers."""
        return Distribution.merged(handler.queue_time for handler in self.handlers)

    @property
    def execution_time(self) -> Distribution:
        """The execution times of all handlers."""
        return Distribution.merged(handler.execution_time for handler in self.handlers)


def _distribution(values: _DistributionTuple) -> Distribution:
    count, total, shortest, longest, buckets = values
    return Distribution(count, total, shortest, longest, tuple(buckets))


def loop_stats(
    name: str, snapshot: tuple[list[int], int, int, list[_HandlerTuple], tuple[float, float, float, float]]
) -> LoopStats:
    """Gives the values that Rust snapshots their names."""
    queued, delayed, guards, handlers, _time = snapshot
    return LoopStats(
        name=name,
        queued=dict(zip(("control", "normal", "bulk"), queued, strict=True)),
        delayed=delayed,
        guards=guards,
        handlers=tuple(
            EventStats(
                handler,
                total,
                active,
                running,
                errors,
                _distribution(queue),
                _distribution(execution),
                _distribution(wall),
            )
            for handler, total, active, running, errors, queue, execution, wall in handlers
        ),
    )
