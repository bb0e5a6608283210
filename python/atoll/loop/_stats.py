"""What a loop has done, as frozen values with names: a snapshot, or the window between two. Durations are seconds.

Any thread may take, keep and subtract snapshots; taking one neither waits for the loop nor disturbs it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from atoll.loop._distribution import Distribution, DistributionTuple, distribution
from atoll.loop._report import report

_HandlerTuple = tuple[str, int, int, int, int, DistributionTuple, DistributionTuple, DistributionTuple]
_TimeTuple = tuple[float, float, float, float, float]
_LagTuple = tuple[float, float | None]
SnapshotTuple = tuple[list[int], list[int], int, int, list[_HandlerTuple], _TimeTuple, _LagTuple]

LANES = ("control", "normal", "bulk")


@dataclass(frozen=True, slots=True)
class EventStats:
    """What is known of the handlers of one name on one loop.

    In a window, what counts up is what was added; `active` and `running` are those at its end.

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

    def __sub__(self, earlier: "EventStats") -> "EventStats":
        """What was added since `earlier`, a snapshot of the same handler.

        Raises:
            ValueError: When `earlier` is the later one, or of another handler.
        """
        if self.name != earlier.name:
            raise ValueError(
                f"a window is between two snapshots of one handler, not {earlier.name!r} and {self.name!r}"
            )
        if self.total < earlier.total or self.errors < earlier.errors:
            raise ValueError(
                f"what is subtracted has counted {earlier.total} handlers {self.name!r}, the other {self.total}: "
                "subtract the earlier of two snapshots of one loop from the later, as in `later - earlier`"
            )
        return EventStats(
            name=self.name,
            total=self.total - earlier.total,
            active=self.active,
            running=self.running,
            errors=self.errors - earlier.errors,
            queue_time=self.queue_time - earlier.queue_time,
            execution_time=self.execution_time - earlier.execution_time,
            wall_time=self.wall_time - earlier.wall_time,
        )


@dataclass(frozen=True, slots=True)
class LoopTime:
    """How a loop's time was spent, in seconds. The three add up to the loop's uptime, or to the window's length.

    Much running: the loop's handlers are its limit, and moving a module to a loop of its own helps. Much waiting: the
    loop had work and did not get to it; the GIL, the processor or asyncio's own callbacks kept it.

    Attributes:
        idle: There was nothing to do.
        waiting: Something was ready, and no handler ran.
        running: Steps of handlers.
    """

    idle: float = 0.0
    waiting: float = 0.0
    running: float = 0.0

    def __sub__(self, earlier: "LoopTime") -> "LoopTime":
        """What was added since `earlier`."""
        return LoopTime(
            self.idle - earlier.idle,
            self.waiting - earlier.waiting,
            self.running - earlier.running,
        )


def _none_refused() -> dict[str, int]:
    return dict.fromkeys(LANES, 0)


@dataclass(frozen=True, slots=True)
class LoopStats:
    """A loop at one moment, as `IoContext.stats()` returns it; or, as `later - earlier`, the window between two.

    In a window, what counts up is what was added in it; `queued`, `delayed`, `guards`, the two lags, and the handlers'
    `active` and `running` are those at its end. Handlers that appeared in it are whole.

    Attributes:
        name: The loop's name.
        queued: How many handlers wait, by lane; also those that a stop, or the drain budget, has kept from their turn.
        delayed: How many posts with a delay are not yet due.
        guards: How many work guards are held.
        handlers: What is known of each handler, in the order of first use.
        taken_at: When, in seconds of the loop's clock (`IoContext.now()`).
        uptime: Seconds since the loop was made; of a window, its length. Real time, also under a manual clock.
        time: How that time was spent.
        is_window: Whether it is a window.
        refused: How many handlers found no room, by lane: posts that raised `MailboxFull`, and calls that were answered
            RESOURCE_EXHAUSTED.
        oldest_queued: For how many seconds the longest-waiting handler has waited; zero when none waits.
        lag: What the loop's `LagProbe` tells, in seconds; None without one.
    """

    name: str
    queued: dict[str, int]
    delayed: int
    guards: int
    handlers: tuple[EventStats, ...] = field(default=())
    taken_at: float = 0.0
    uptime: float = 0.0
    time: LoopTime = LoopTime()
    is_window: bool = False
    refused: dict[str, int] = field(default_factory=_none_refused)
    oldest_queued: float = 0.0
    lag: float | None = None

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

    def __sub__(self, earlier: "LoopStats") -> "LoopStats":
        """The window from `earlier` to this snapshot of the same loop.

        Raises:
            ValueError: When `earlier` is the later one, or of another loop, or one of the two is a window itself.
        """
        if self.is_window or earlier.is_window:
            raise ValueError(
                "one of the two is a window already: keep the snapshots that stats() returns, and subtract those"
            )
        if self.name != earlier.name:
            raise ValueError(
                f"a window is between two snapshots of one loop, not of {earlier.name!r} and {self.name!r}: subtract "
                "each loop's own earlier snapshot"
            )
        if self.taken_at < earlier.taken_at or self.uptime < earlier.uptime:
            raise ValueError(
                f"these snapshots of loop {self.name!r} are in the wrong order: subtract as in `later - earlier`"
            )
        before = {handler.name: handler for handler in earlier.handlers}
        handlers = tuple(
            handler - before.pop(handler.name) if handler.name in before else handler for handler in self.handlers
        )
        if before:
            raise ValueError(
                f"the snapshot that is subtracted knows handlers that the other does not ({', '.join(before)}): these "
                f"are two loops called {self.name!r}, or the order is wrong: subtract as in `later - earlier`"
            )
        return LoopStats(
            name=self.name,
            queued=self.queued,
            delayed=self.delayed,
            guards=self.guards,
            handlers=handlers,
            taken_at=self.taken_at,
            uptime=self.uptime - earlier.uptime,
            time=self.time - earlier.time,
            is_window=True,
            refused={lane: refused - earlier.refused[lane] for lane, refused in self.refused.items()},
            oldest_queued=self.oldest_queued,
            lag=self.lag,
        )

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

    def report(self) -> str:
        """A table of it for people: the loop's totals, then its handlers, those queued most often first.

        Several lines without a line feed at the end. Of a window it leaves out the handlers that did nothing in it.
        """
        return report(self)


def loop_stats(name: str, snapshot: SnapshotTuple) -> LoopStats:
    """Gives the values that Rust snapshots their names."""
    queued, refused, delayed, guards, handlers, (taken_at, uptime, idle, waiting, running), lags = snapshot
    oldest_queued, lag = lags
    return LoopStats(
        name=name,
        queued=dict(zip(LANES, queued, strict=True)),
        delayed=delayed,
        guards=guards,
        handlers=tuple(
            EventStats(
                handler,
                total,
                active,
                running_now,
                errors,
                distribution(queue),
                distribution(execution),
                distribution(wall),
            )
            for handler, total, active, running_now, errors, queue, execution, wall in handlers
        ),
        taken_at=taken_at,
        uptime=uptime,
        time=LoopTime(idle, waiting, running),
        refused=dict(zip(LANES, refused, strict=True)),
        oldest_queued=oldest_queued,
        lag=lag,
    )
