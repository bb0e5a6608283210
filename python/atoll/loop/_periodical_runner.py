"""`PeriodicalRunner`: repeats functions on a loop, for as long as somebody holds it.

A runner holds its handles, a handle its function. What waits on the loop for the next run holds none of them, only a
weak reference: so nothing that the loop knows keeps a runner, its owner or a function alive, and a runner that goes
takes back what waits.

Nothing here takes a lock, because the destructor may run on any thread and inside anything. A handle is cancelled by
taking its `_work` away, and whoever posts a run looks at `_work` afterwards: one of the two takes back what waits.

| state | written by | read by |
|---|---|---|
| `PeriodicalRunner._handles` | any thread, single operations on a set | any |
| `PeriodicalHandle._work` | set once; taken away by any thread | any |
| `_first_number` | the thread that registers | any |
| `_number`, the counts and times | the loop's thread | any |
"""

import asyncio
import contextvars
import inspect
import math
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias, cast, get_args

from atoll._core import WorkGuard
from atoll.errors import ForkedError, LoopClosedError, MailboxFull
from atoll.loop._deadline import DEADLINE
from atoll.loop._io_context import IoContext
from atoll.loop._options import Lane

Schedule: TypeAlias = Literal["fixed_delay", "fixed_rate"]
CatchUp: TypeAlias = Literal["skip", "burst"]

# The longest delay of a post.
_LONGEST: Final = 365 * 86_400.0
# A time of the grid that passed less than this ago is now: it is a sum of floats.
_NOW: Final = 1e-6
# Until the next attempt to post a run when the loop has no room for it.
_RETRY: Final = 0.001


@dataclass(frozen=True, slots=True)
class PeriodicalStats:
    """What a periodic function has done so far; how long its runs waited and took is in `IoContext.stats()[name]`.

    Attributes:
        runs: How many runs have ended.
        errors: How many of them raised.
        missed: How many runs were left out because their time had passed: with a fixed rate and `skip`.
        running: Whether a run is between its start and its end.
        last_run: When the last run started, in the loop's time (`IoContext.now()`); None before the first.
        next_run: When the next run is due, in the loop's time; None while it runs, and after it was cancelled.
    """

    runs: int
    errors: int
    missed: int
    running: bool
    last_run: float | None
    next_run: float | None


class PeriodicalHandle:
    """A function that a `PeriodicalRunner` repeats. Any thread.

    To hold it is not needed, and does not keep the runner, and so the function, going.
    """

    def __init__(
        self,
        runner: "PeriodicalRunner",
        fn: Callable[[], object],
        *,
        interval: float,
        name: str,
        lane: Lane,
        schedule: Schedule,
        catch_up: CatchUp,
    ) -> None:
        """Made by `PeriodicalRunner.run_fn_periodically`."""
        self._runner = weakref.ref(runner)
        self._io_context = runner.io_context
        self._reference = weakref.ref(self)
        self._interval = interval
        self._name = name
        self._lane = lane
        self._schedule = schedule
        self._catch_up = catch_up
        self._awaits = _is_coroutine_function(fn)
        self._work: tuple[Callable[[], object], contextvars.Context] | None = (fn, _variables_of_runs())
        self._first_number: int | None = None
        self._number: int | None = None
        self._runs = self._errors = self._missed = 0
        self._running = False
        self._last_run: float | None = None
        # The grid of a fixed rate: the first run's time, and how many intervals after it the next run is.
        self._start = self._next_run = 0.0
        self._tick = 0

    @property
    def name(self) -> str:
        """The function's name in statistics."""
        return self._name

    @property
    def interval(self) -> float:
        """The interval in seconds."""
        return self._interval

    @property
    def cancelled(self) -> bool:
        """Whether it has been cancelled, by itself or with its runner."""
        return self._work is None

    def cancel(self) -> bool:
        """Ends the repetition: no later run starts. A run in progress goes on to its end, a coroutine's, too.

        The function is let go at once, or at the end of the run in progress.

        Returns:
            False when it had ended already.
        """
        if self._work is None:
            return False
        self._release()
        return True

    def statistics(self) -> PeriodicalStats:
        """What it has done so far, frozen."""
        running = self._running
        return PeriodicalStats(
            runs=self._runs,
            errors=self._errors,
            missed=self._missed,
            running=running,
            last_run=self._last_run,
            next_run=None if running or self._work is None else self._next_run,
        )

    def __repr__(self) -> str:
        end = ", cancelled" if self._work is None else ""
        return f"<PeriodicalHandle {self._name!r} every {self._interval} s on loop {self._io_context.name!r}{end}>"

    # ------------------------------------------------------------------------------------------------------ the runs

    def _register(self, first: float) -> None:
        """Posts the first run. The thread that registers."""
        self._start = self._next_run = self._io_context.now() + first
        self._first_number = self._post(first)
        if self._work is None:
            self._take_back()

    def _post(self, delay: float) -> int | None:
        # With no context variables, which might keep alive what the run before set them to.
        post = self._io_context._post_delayed  # noqa: SLF001 - the framework's own
        return contextvars.Context().run(post, _run_due, (self._reference,), self._name, delay, self._lane)

    def _due(self) -> Coroutine[Any, Any, None] | None:
        """One run, or the coroutine of one. The loop's thread."""
        work = self._work
        if work is None:
            return None
        fn, variables = work
        # These are the run's own variables, and empty: it gets a copy of what there was at the registration.
        for variable, value in variables.items():
            variable.set(value)
        if self._awaits:
            return self._run_to_end(cast("Callable[[], Awaitable[object]]", fn))
        self._starts()
        try:
            result = fn()
        except BaseException:
            self._ends(failed=True)
            raise
        if inspect.iscoroutine(result):
            return self._run_to_end(lambda: result)
        self._ends(failed=False)
        return None

    async def _run_to_end(self, fn: Callable[[], Awaitable[object]]) -> None:
        self._starts()
        failed = True
        try:
            await fn()
            failed = False
        except (asyncio.CancelledError, GeneratorExit):
            failed = False
            raise
        finally:
            self._ends(failed=failed)

    def _starts(self) -> None:
        if not self._running:
            self._running = True
            self._last_run = self._io_context.now()

    def _ends(self, *, failed: bool) -> None:
        """Counts the run that has ended and has the next one wait for its time, whatever became of this one."""
        self._runs += 1
        self._errors += failed
        if self._work is not None:
            self._arm(self._time_to_next_run())
        self._running = False

    def _time_to_next_run(self) -> float:
        now = self._io_context.now()
        if self._schedule == "fixed_delay":
            self._next_run = now + self._interval
            return self._interval
        tick = self._tick + 1
        if self._catch_up == "skip":
            late = now - _NOW - (self._start + tick * self._interval)
            missed = math.ceil(max(0.0, late) / self._interval)
            self._missed += missed
            tick += missed
        self._tick = tick
        self._next_run = self._start + tick * self._interval
        return max(0.0, self._next_run - now)

    def _arm(self, delay: float) -> None:
        """Posts the next run. The loop's thread."""
        try:
            self._number = self._post(delay)
        except (MailboxFull, OSError):
            # No room, or no thread for timers; others are told so. This goes on when it can, and is work until then.
            guard = self._io_context.work_guard()
            loop = asyncio.get_running_loop()
            loop.call_later(_RETRY, _arm_again, self._reference, guard, context=contextvars.Context())
        except (LoopClosedError, ForkedError):
            self._release()
        if self._work is None:
            self._take_back()

    def _release(self) -> None:
        """Lets the function go, and takes back the run that waits. Any thread, and a destructor."""
        work, self._work = self._work, None
        self._take_back()
        runner = self._runner()
        if runner is not None:
            runner._handles.discard(self)  # noqa: SLF001 - this module's own
        # At the end: with the function other things may go.
        del work

    def _take_back(self) -> None:
        for number in (self._first_number, self._number):
            if number is not None:
                self._io_context._cancel_delayed(number)  # noqa: SLF001 - the framework's own


def _run_due(reference: "weakref.ref[PeriodicalHandle]") -> Coroutine[Any, Any, None] | None:
    """What is posted: holds nothing alive."""
    handle = reference()
    return None if handle is None else handle._due()  # noqa: SLF001 - this module's own


def _arm_again(reference: "weakref.ref[PeriodicalHandle]", guard: WorkGuard) -> None:
    handle = reference()
    if handle is not None and not handle.cancelled:
        handle._arm(max(0.0, handle._next_run - handle._io_context.now()))  # noqa: SLF001 - this module's own
    guard.reset()


class PeriodicalRunner:
    """Repeats functions on one loop, until its last reference is dropped.

    Whoever owns the work holds the runner: `self._runner = PeriodicalRunner.create(io_context)`. When the runner goes,
    on any thread and inside one of its own functions, too, no later run starts, what waits is taken back from the loop,
    and `run()` of the loop may return. A run in progress goes on to its end.

    A function that is a method of the runner's owner makes a circle of references: Python's garbage collector finds it
    some time after the owner's last reference is gone. `cancel()` ends the runs at once.
    """

    def __init__(self, io_context: IoContext) -> None:
        """Use `create`."""
        self._handles: set[PeriodicalHandle] = set()
        if not isinstance(io_context, IoContext):
            raise TypeError(
                f"{io_context!r} is no IoContext: give `thread.io_context`, `pool.get()` or `IoContext.current()`"
            )
        self._io_context = io_context

    @classmethod
    def create(cls, io_context: IoContext) -> Self:
        """Makes a runner of functions on `io_context`. Any thread.

        Raises:
            TypeError: When it is no `IoContext`.
        """
        return cls(io_context)

    @property
    def io_context(self) -> IoContext:
        """The loop that the functions run on."""
        return self._io_context

    @property
    def handles(self) -> frozenset[PeriodicalHandle]:
        """The functions that it repeats."""
        return frozenset(self._handles.copy())

    def run_fn_periodically(
        self,
        fn: Callable[[], object],
        interval: float,
        name: str | None = None,
        *,
        first: float = 0.0,
        schedule: Schedule = "fixed_delay",
        catch_up: CatchUp = "skip",
        lane: Lane = "normal",
    ) -> PeriodicalHandle:
        """Runs `fn()` on the loop again and again. Any thread.

        The first run is posted at once unless `first` says otherwise: what is periodic, such as a heartbeat or a
        report, is wanted now and not an interval from now. It is never run by this call itself.

        The next run is never posted before the last one has ended, a coroutine function's when its coroutine has, so no
        two runs overlap. A run that raises is counted, its exception goes to the loop's exception hook, and the next
        run happens. Each run has a copy of the context variables of this call, but no deadline.

        Args:
            fn: A function or a coroutine function.
            interval: Seconds; from the end of a run to the next one's time with `fixed_delay`, between the times of two
                runs with `fixed_rate`.
            name: Its name in statistics; the default is its qualified name.
            first: Seconds until the first run.
            schedule: `fixed_delay`, or `fixed_rate`: the runs are due at the first run's time plus whole intervals,
                however long they take.
            catch_up: What `fixed_rate` does about times that have passed when a run ends: `skip` leaves them out and
                waits for the next one, `burst` makes up for every one of them without waiting.
            lane: The priority class.

        Returns:
            A handle, by which it can be cancelled and observed.

        Raises:
            ValueError: When the interval or another argument can't work; the message says what does.
            TypeError: When `fn` can't be called, or a time is not a number.
            MailboxFull: When the loop has no room for the first run.
            LoopClosedError: When the loop has been closed.
            ForkedError: When the loop belongs to the parent of this process.
        """
        interval, first = _checked_times(interval, first)
        _check_choice("schedule", schedule, get_args(Schedule))
        _check_choice("catch_up", catch_up, get_args(CatchUp))
        if schedule == "fixed_delay" and catch_up != "skip":
            raise ValueError(
                f"catch_up={catch_up!r}: with a fixed delay no time is ever missed; give schedule='fixed_rate', too, "
                "or neither"
            )
        # Names it as every handler is named, and refuses what is none.
        name = self._io_context.bind(fn, name=name, lane=lane).name
        handle = PeriodicalHandle(
            self, fn, interval=interval, name=name, lane=lane, schedule=schedule, catch_up=catch_up
        )
        self._handles.add(handle)
        try:
            handle._register(first)  # noqa: SLF001 - this module's own
        except BaseException:
            self._handles.discard(handle)
            raise
        return handle

    def cancel(self) -> None:
        """Ends the repetition of all its functions, as each handle's `cancel()` does. Any thread."""
        for handle in self.handles:
            handle.cancel()

    def __del__(self) -> None:
        # At the interpreter's end the modules may have been emptied: this uses nothing of theirs.
        for handle in self._handles.copy():
            handle._release()  # noqa: SLF001 - this module's own

    def __repr__(self) -> str:
        return f"<PeriodicalRunner of {len(self._handles)} functions on loop {self._io_context.name!r}>"


def _checked_times(interval: float, first: float) -> tuple[float, float]:
    if not (math.isfinite(interval) and 0 < interval <= _LONGEST):
        raise ValueError(
            f"interval={interval!r} is not a number of seconds above 0, up to {_LONGEST:,.0f} (a year): give the time "
            "between two runs, or post() the function to run it once"
        )
    if not (math.isfinite(first) and 0 <= first <= _LONGEST):
        raise ValueError(
            f"first={first!r} is not a number of seconds from 0, up to {_LONGEST:,.0f} (a year): leave it out to run "
            "the function at once, give first=interval to wait for an interval first"
        )
    return float(interval), float(first)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is neither {' nor '.join(map(repr, choices))}")


def _variables_of_runs() -> contextvars.Context:
    variables = contextvars.copy_context()
    if DEADLINE.get() is not None:
        # It is of the call that registers, and runs go on when that is over.
        variables.run(DEADLINE.set, None)
    return variables


def _is_coroutine_function(fn: Callable[[], object]) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)
