"""`ManualClock`: time that stands still until a test moves it.

Contexts made with it take everything from it: `now()`, delayed posts, and their asyncio loop's time, so that
`asyncio.sleep` and `asyncio.timeout` jump, too.

| state | written by | read by | under |
|---|---|---|---|
| `_contexts`, `_loops` | threads that make contexts and loops | whoever advances | `_idle` |
| `_ManualSelector.is_waiting` | the loop's thread | whoever advances | – (see `_is_settled`) |
"""

import asyncio
import functools
import math
import selectors
import threading
import time
import weakref
from typing import cast

from atoll._core import ManualTimers
from atoll.errors import LoopClosedError
from atoll.loop import IoContext

SETTLE_TIMEOUT = 30.0
_LOOK_AGAIN = 0.01
_NANOSECOND = 1e-9


class ManualClock:
    """Time that stands still until `advance()`; zero at first.

    Give it to contexts, `IoContext("name", clock=clock)`, and to loops of asyncio's own where a test needs one,
    `asyncio.Runner(loop_factory=clock.new_event_loop)`. What a handler waits for outside of all of these (a thread
    pool, a socket, a process) takes real time, which the clock does not wait for.

    One thread at a time advances it; any thread reads it.
    """

    def __init__(self) -> None:
        self.timers = ManualTimers()
        """What the contexts' delayed posts wait in."""
        self._contexts: weakref.WeakSet[IoContext] = weakref.WeakSet()
        self._loops: weakref.WeakSet[_ManualEventLoop] = weakref.WeakSet()
        self._idle = threading.Condition()

    def now(self) -> float:
        """Seconds since the clock was made. Any thread."""
        return self.timers.now()

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """An asyncio loop whose time is this clock's."""
        loop = _ManualEventLoop(self)
        with self._idle:
            self._loops.add(loop)
        return loop

    def joined(self, io_context: IoContext) -> None:
        """A context has been made with this clock; contexts call it themselves."""
        with self._idle:
            self._contexts.add(io_context)

    def advance(self, seconds: float) -> None:
        """Moves time on by `seconds`, stopping at every moment at which something is due, and has that run.

        Contexts that nobody runs are run here, on the calling thread; those that run on other threads are waited for,
        until each has nothing left to do at that moment.

        Raises:
            ValueError: When `seconds` is not a number from zero.
            TimeoutError: When a loop on another thread does not come to rest within 30 seconds of real time.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds={seconds!r} is not a number of seconds from 0: time does not go back")
        end = self.now() + seconds
        self.settle()
        # To the nanosecond, for the clock's time has no more and sums of floats do.
        while (due := self._next_due()) is not None and round(due, 9) <= round(end, 9):
            self._move_to(due)
            self.settle()
        self._move_to(end)
        self.settle()

    def settle(self) -> None:
        """Runs what is ready now, and what that makes ready, without moving time. Raises what `advance` does."""
        give_up = time.monotonic() + SETTLE_TIMEOUT
        seen: list[int] | None = None
        while True:
            ran = self._run_resting()
            with self._idle:
                moving = [it for it in self._contexts if it._runner is not None and not _is_settled(it)]  # noqa: SLF001 - its clock
                if moving and not self._idle.wait_for(functools.partial(_are_settled, moving), _LOOK_AGAIN):
                    if time.monotonic() > give_up:
                        names = ", ".join(repr(it.name) for it in moving)
                        raise TimeoutError(
                            f"loops {names} have not come to rest within {SETTLE_TIMEOUT:g} s: a handler blocks, or "
                            f"posts itself without a delay"
                        )
                    continue
                waits = [loop.selector.waits for loop in self._loops]
            # Loops are looked at one after the other: one may have had another one move before it came to rest itself.
            if not ran and not moving and waits == seen:
                return
            seen = waits

    def _run_resting(self) -> bool:
        """Runs what is ready on contexts that nobody runs; returns whether there was anything."""
        with self._idle:
            resting = [it for it in self._contexts if it._runner is None]  # noqa: SLF001 - its clock
        ran = False
        for io_context in sorted(resting, key=lambda it: it.name):
            if io_context.stopped or not _has_ready(io_context):
                continue
            try:
                # Or it would count as stopped when nothing is left to do, and run nothing at the next moment.
                with io_context.work_guard():
                    io_context.poll()
            except LoopClosedError:
                continue
            ran = True
        return ran

    def _next_due(self) -> float | None:
        """The next moment at which something is due. When all loops are at rest."""
        with self._idle:
            loops = list(self._loops)
        moments = [due for loop in loops if (due := loop.next_due()) is not None]
        posts = self.timers._next_due()  # noqa: SLF001 - the other half of this class
        if posts is not None:
            moments.append(posts)
        return min(moments, default=None)

    def _move_to(self, moment: float) -> None:
        self.timers._advance_to(moment)  # noqa: SLF001 - the other half of this class
        with self._idle:
            loops = list(self._loops)
        for loop in loops:
            loop.look_again(moment)

    def went_idle(self) -> None:
        """A loop on some thread waits for something. That thread."""
        with self._idle:
            self._idle.notify_all()


class _ManualSelector(selectors.DefaultSelector):
    """Waits as long as it takes, whatever the time-out, which is of the clock's time; says while it does."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.is_waiting = False
        self.waits = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        self.waits += 1
        self.is_waiting = True
        self._clock.went_idle()
        try:
            return super().select(None)
        finally:
            self.is_waiting = False


class _ManualEventLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop with a `ManualClock`'s time."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.selector = _ManualSelector(clock)
        super().__init__(self.selector)

    def time(self) -> float:
        return self._clock.now()

    def _ready_now(self) -> bool:
        # What asyncio itself holds to be due, or it would be waited for without ever being run.
        now = self.time() + self._clock_resolution
        return bool(self._ready) or ((due := self.next_due()) is not None and due < now)  # type: ignore[attr-defined]

    def next_due(self) -> float | None:
        """When the next of its timers is due. While the loop is at rest."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return min((handle.when() for handle in scheduled if not handle.cancelled()), default=None)

    def look_again(self, moment: float) -> None:
        """Has it find out what is due at `moment`, if it waits for something. Any thread."""
        # Far from zero, a nanosecond is less than the distance of two floats.
        self._clock_resolution = max(_NANOSECOND, 2 * math.ulp(moment))
        if not self.is_closed() and self.is_running():
            self.call_soon_threadsafe(_nothing)


def _nothing() -> None:
    pass


def _manual_loop(io_context: IoContext) -> _ManualEventLoop | None:
    return cast("_ManualEventLoop | None", io_context.loop)


def _has_ready(io_context: IoContext) -> bool:
    """Whether a context that nobody runs has something to run at this moment."""
    if not io_context._is_idle:  # noqa: SLF001 - its clock
        return True
    loop = _manual_loop(io_context)
    return loop is not None and not loop.is_closed() and loop._ready_now()  # noqa: SLF001 - this module's own


def _is_settled(io_context: IoContext) -> bool:
    """Whether a context on another thread waits, with nothing to do at this moment.

    Whoever has it do something queues that first, so that it is seen here until it has been done.
    """
    loop = _manual_loop(io_context)
    if io_context._runner is None:  # noqa: SLF001 - its clock
        return True
    if loop is None or not loop.selector.is_waiting:
        return False
    return io_context._is_idle and not loop._ready_now() and loop.selector.is_waiting  # noqa: SLF001 - its clock


def _are_settled(io_contexts: list[IoContext]) -> bool:
    return all(map(_is_settled, io_contexts))
