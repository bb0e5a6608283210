"""`LoopMonitor`: watches loops from outside, and says which handler blocks which loop while it does.

The watching is done by a native thread that needs neither the loops nor the GIL. What it notices is logged, and told to
callbacks, by a Python thread of the monitor's own, as soon as that gets the GIL.

| state | written by | read by | under |
|---|---|---|---|
| `_callbacks`, `_guests` | any | the monitor's Python thread | single operations on a list |
| `_core`, `_thread` | who starts and stops | any | `_starting` |
| `_left_running` | who starts and stops | the exit hook | `_left_running_lock` |
"""

import atexit
import faulthandler
import logging
import math
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from atoll._core import MonitorCore, activate_stack_sampler, prepare_stack_sampler
from atoll.errors import LoopRunningError
from atoll.loop import IoContext, awaited_calls
from atoll.observe._gil_gauge import hold_shared_gauge, let_go_shared_gauge
from atoll.observe._stacks import StackThread
from atoll.observe._waiting import WaitingCycle, find_cycles

_logger = logging.getLogger("atoll.observe")

# How often cycles and the hosts of guests are looked for.
_TELL_INTERVAL: Final = 1.0
_LEAST_THRESHOLD: Final = 0.001

_left_running: set["LoopMonitor"] = set()
_left_running_lock = threading.Lock()
_exit_hook_installed = False


@dataclass(frozen=True, kw_only=True)
class MonitorOptions:
    """What can be set for a monitor; durations in seconds.

    Attributes:
        interval: Between a probe's turn on a loop and the next probe.
        deadline: How long a probe may wait for its turn on a healthy loop.
        window: How far back the largest latency is remembered.
        recover_after: How many probes in a row must have their turn in time before an unhealthy loop is healthy again.
        stall_threshold: How long a step of a handler may take before it is a stall, for loops that have no threshold of
            their own.
        stall_reports_per_minute: How many stalls of a loop are logged per minute; all are counted and retained.
        stalls_retained: How many stalls are retained, the latest.
        cycle_patience: How long modules may wait for each other in a cycle before that is reported.
        gil_gauge: Whether a `GilGauge` runs as long as the monitor does, for `atoll_gil_wait_seconds`: a thread that
            asks for the GIL ten times a second. Observers share one; a build without a GIL has none.
    """

    interval: float = 0.25
    deadline: float = 5.0
    window: float = 60.0
    recover_after: int = 2
    stall_threshold: float = 0.1
    stall_reports_per_minute: int = 5
    stalls_retained: int = 100
    cycle_patience: float = 5.0
    gil_gauge: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that can't work."""
        for name in ("interval", "deadline", "window", "cycle_patience"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value!r} is not a positive number of seconds")
        if not self.stall_threshold >= _LEAST_THRESHOLD:
            raise ValueError(
                f"stall_threshold={self.stall_threshold!r} is not a number of seconds from {_LEAST_THRESHOLD:g}; "
                f"math.inf switches stall reports off"
            )
        for name, least in (("recover_after", 1), ("stall_reports_per_minute", 0), ("stalls_retained", 0)):
            count = getattr(self, name)
            if not isinstance(count, int) or not least <= count <= 1_000_000:  # noqa: PLR2004 - a million
                raise ValueError(f"{name}={count!r} is not a whole number from {least} to 1,000,000")


@dataclass(frozen=True, slots=True)
class Stall:
    """A step of a handler, or something else, that kept a loop's thread too long.

    Attributes:
        number: Counts up in one monitor.
        loop: The loop's name.
        handler: The handler's name; None for what is no handler, such as a callback of asyncio's own.
        began: When it began, in seconds since 1970.
        duration: Seconds that it took, or has taken so far; exact to a quarter of the threshold.
        over: Whether it has ended.
        stack: The Python stack of the loop's thread during the stall, the innermost frame first; None where none could
            be had.
        stack_after: How many seconds it had lasted when the stack was taken.
    """

    number: int
    loop: str
    handler: str | None
    began: float
    duration: float
    over: bool
    stack: str | None
    stack_after: float

    def __str__(self) -> str:
        what = f"handler {self.handler}" if self.handler else "something that is no handler"
        kept = (
            f"kept it for {_milliseconds(self.duration)}" if self.over else f"keeps it, {_milliseconds(self.duration)}"
        )
        where = f"; its stack after {_milliseconds(self.stack_after)}:\n{self.stack.rstrip()}" if self.stack else ""
        return f"loop {self.loop} stalled: {what} {kept}{where}"


@dataclass(frozen=True, slots=True)
class LoopHealth:
    """A loop as its monitor sees it; durations in seconds.

    Attributes:
        loop: The loop's name.
        counts_for_health: Whether its health counts for the whole.
        is_running: Whether some thread runs it.
        is_healthy: Whether its probes have their turn in time.
        missed: How many probes did not, each counted once.
        latency: How long the last probe waited that had its turn.
        largest_latency: How long the longest one waited in the window.
        outstanding: How long the probe has waited that is out.
        oldest_queued: How long the longest-waiting handler has waited.
        running_handler: The handler that runs.
        running_for: How long its present step has taken.
        stalls: How many stalls there were.
    """

    loop: str
    counts_for_health: bool
    is_running: bool
    is_healthy: bool
    missed: int
    latency: float
    largest_latency: float
    outstanding: float | None
    oldest_queued: float | None
    running_handler: str | None
    running_for: float | None
    stalls: int


HealthCallback = Callable[[str, bool], object]


class LoopMonitor:
    """Watches loops from a native thread, which waits neither for them nor for the GIL.

    Each loop gets a probe now and then, which is no work and in no statistics: one that has no turn before the deadline
    makes the loop unhealthy. A step of a handler that takes longer than the stall threshold is reported: one log entry
    and one retained record, with the Python stack of the loop's thread taken while it was stuck. Modules that wait for
    each other in a cycle, and can't proceed, are reported once. A loop that nobody runs is neither stuck nor unhealthy;
    whether somebody runs the host of a guest is asked twice per deadline, or every second.

    As a context manager it runs for the length of the block. A provider has one of its own for its loops.

    Stacks are taken by a Python thread of the monitor's. Where one C call holds the GIL for more than 0.1 s, the stuck
    thread gets a real-time signal instead, on which CPython's faulthandler is registered for good, on Linux; elsewhere
    such a stall has no stack. The signal interrupts what a C library waits for; `stall_threshold=math.inf` sends none.

    Args:
        options: Its settings.
        stack_signal: The signal by which stacks are taken; `SIGRTMIN + 5` unless given.
    """

    def __init__(self, options: MonitorOptions | None = None, *, stack_signal: int | None = None) -> None:
        self.options = MonitorOptions() if options is None else options
        self._stack_signal = stack_signal
        self._callbacks: list[HealthCallback] = []
        self._guests: list[weakref.ref[IoContext]] = []
        self._starting = threading.Lock()
        self._core: MonitorCore | None = None
        self._thread: threading.Thread | None = None
        self._stacks: StackThread | None = None

    def start(self) -> None:
        """Starts watching. Any thread.

        Raises:
            LoopRunningError: When it has been started before.
            ValueError: When stacks can't be taken by `stack_signal`.
        """
        with self._starting:
            if self._core is not None:
                raise LoopRunningError("the monitor has been started before: construct a new one")
            _install_stack_sampler(self._stack_signal)
            core = MonitorCore(self.options)
            thread = threading.Thread(
                target=_tell,
                args=(core, self.options, self._callbacks, self._guests),
                name="atoll-monitor",
                daemon=True,
            )
            stacks = StackThread()
            try:
                thread.start()
                stacks.start()
                if self.options.gil_gauge:
                    hold_shared_gauge(self)
            except BaseException:
                core.stop()
                raise
            self._core, self._thread, self._stacks = core, thread, stacks
        _watch_for_exit(self)

    def stop(self) -> None:
        """Stops watching and waits for both threads to end. Any thread but a callback's; a second call does nothing."""
        with _left_running_lock:
            _left_running.discard(self)
        let_go_shared_gauge(self)
        if self._core is None or self._thread is None:
            return
        self._core.stop()
        if self._stacks is not None:
            self._stacks.stop()
            self._stacks = None
        if self._thread is not threading.current_thread():
            self._thread.join()

    def watch(
        self, io_context: IoContext, *, stall_threshold: float | None = None, counts_for_health: bool = True
    ) -> None:
        """Watches a loop until it is gone. Any thread.

        Args:
            io_context: The loop; another call for it replaces what was said before.
            stall_threshold: Its own threshold in seconds; `math.inf` for none.
            counts_for_health: Whether `is_healthy` asks for it.
        """
        if stall_threshold is not None and not stall_threshold >= _LEAST_THRESHOLD:
            raise ValueError(
                f"stall_threshold={stall_threshold!r} is not a number of seconds from {_LEAST_THRESHOLD:g}"
            )
        self._started().watch(io_context, stall_threshold, counts_for_health)
        if io_context.is_guest:
            self._guests.append(weakref.ref(io_context))

    def on_health_change(self, callback: HealthCallback) -> None:
        """Has `callback(loop name, healthy)` called when a loop becomes unhealthy or healthy again.

        It is called on a thread of the monitor's; what it raises is logged.
        """
        self._callbacks.append(callback)

    def loops(self) -> tuple[LoopHealth, ...]:
        """The loops as they are now. Any thread."""
        return tuple(
            LoopHealth(
                *names,
                *probes,
                outstanding=outstanding,
                oldest_queued=oldest,
                running_handler=None if running is None else running[0],
                running_for=None if running is None else running[1],
                stalls=stalls,
            )
            for names, probes, outstanding, oldest, running, stalls in self._started().views()
        )

    @property
    def is_healthy(self) -> bool:
        """Whether every loop is healthy whose health counts."""
        return all(it.is_healthy for it in self.loops() if it.counts_for_health)

    def stalls(self) -> tuple[Stall, ...]:
        """The stalls that are retained, the oldest first; those that go on, too. Any thread."""
        return tuple(Stall(*stall) for stall in self._started().stalls())

    def cycles(self) -> tuple[WaitingCycle, ...]:
        """The loops whose modules have waited for each other for longer than `cycle_patience`. Any thread."""
        return tuple(find_cycles(awaited_calls(), self.options.cycle_patience))

    def _started(self) -> MonitorCore:
        if self._core is None:
            raise LoopRunningError("the monitor has not been started: use it in a `with` block, or start() it")
        return self._core

    def __enter__(self) -> Self:
        """Starts it."""
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops it."""
        self.stop()


def _tell(
    core: MonitorCore,
    options: MonitorOptions,
    callbacks: list[HealthCallback],
    guests: list[weakref.ref[IoContext]],
) -> None:
    """Logs and tells what the native thread notices, until it is stopped. A thread of its own."""
    reported: set[tuple[str, ...]] = set()
    interval = min(_TELL_INTERVAL, options.cycle_patience, options.deadline / 2)
    while (events := core.wait_events(interval)) is not None:
        health, stalls = events
        _look_at_hosts(guests)
        cycles = {cycle.loops: cycle for cycle in find_cycles(awaited_calls(), options.cycle_patience)}
        for loops, cycle in cycles.items():
            if loops not in reported:
                _logger.warning("%s", cycle, extra={"loops": loops})
        reported = set(cycles)
        for loop, healthy, waited in health:
            if healthy:
                _logger.warning("loop %s is healthy again", loop)
            else:
                _logger.error("loop %s is unhealthy: a probe has waited for its turn for %.1f s", loop, waited)
            for callback in list(callbacks):
                try:
                    callback(loop, healthy)
                except Exception:
                    _logger.exception("a callback of the loop monitor raised")
        for values, suppressed in stalls:
            stall = Stall(*values)
            more = f"\n({suppressed} more stalls of this loop were not logged)" if suppressed else ""
            _logger.warning(
                "%s%s",
                stall,
                more,
                extra={
                    "loop": stall.loop,
                    "handler": stall.handler,
                    "duration": stall.duration,
                    "stack": stall.stack,
                    "suppressed": suppressed,
                },
            )


def _look_at_hosts(guests: list[weakref.ref[IoContext]]) -> None:
    """Tells guests whether their hosts run: nobody else does, and a guest whose host rests can't be asked anything."""
    for reference in list(guests):
        guest = reference()
        host = None if guest is None else guest.loop
        if guest is None or host is None or host.is_closed():
            guests.remove(reference)
        else:
            guest._host_runs(host.is_running())  # noqa: SLF001 - for its observers


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


def _install_stack_sampler(wanted: int | None) -> None:
    """Has faulthandler write the stack of a thread that gets the signal to the native half's pipe, and only then sent.

    Raises:
        ValueError: When faulthandler can't have the signal, or the process takes stacks by another one already.
    """
    if sys.platform != "linux":
        return
    number = signal.SIGRTMIN + 5 if wanted is None else wanted
    try:
        file = prepare_stack_sampler(number)
        if file is None:
            return
        faulthandler.register(number, file=file, all_threads=False, chain=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"stack_signal={number!r} can't be used ({error}): leave it out, or pass another real-time signal, such as "
            f"signal.SIGRTMIN + 6"
        ) from None
    used = activate_stack_sampler(number)
    if wanted is not None and used != wanted:
        raise ValueError(
            f"stack_signal={wanted!r}: this process takes stacks by signal {used} already, and keeps to it"
        )


def _watch_for_exit(monitor: LoopMonitor) -> None:
    """Has the interpreter stop the monitor at its end; its thread must not ask for the GIL after that."""
    global _exit_hook_installed  # noqa: PLW0603 - once per process
    with _left_running_lock:
        if not _exit_hook_installed:
            atexit.register(_stop_what_is_left)
            _exit_hook_installed = True
        _left_running.add(monitor)


def _stop_what_is_left() -> None:
    with _left_running_lock:
        monitors = list(_left_running)
    for monitor in monitors:
        monitor.stop()
