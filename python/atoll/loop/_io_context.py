"""`IoContext`: a named single-threaded event loop.

A mailbox, which any thread appends to, and an asyncio loop, on whose thread the mailbox is drained. The mailbox, the
clock and the statistics are Rust (`atoll._core.LoopCore`); when and where the asyncio loop runs is decided here.

| state | written by | read by | under |
|---|---|---|---|
| `_loop` | the thread in `run()`/`poll()`/`close()` | any | – (set once) |
| `_runner` | the thread that enters `run()` | the same, and threads that try to | `_entering` |
| `_contexts` | threads that enter or make guests | any | `_contexts_lock` |
"""

import asyncio
import contextlib
import contextvars
import logging
import math
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast, overload

from atoll import chaos
from atoll._core import LoopCore, ManualTimers, current_loop
from atoll.errors import LoopRunningError, NotOnLoopError
from atoll.loop._future import LoopFuture
from atoll.loop._options import Lane, LoopOptions
from atoll.loop._stats import LoopStats, loop_stats

P = ParamSpec("P")
R = TypeVar("R")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
ExceptionHook = Callable[["IoContext", str, BaseException], object]


class Clock(Protocol):
    """Where a context takes its time from: `atoll.testing.ManualClock` is one."""

    @property
    def timers(self) -> ManualTimers:
        """What its delayed posts wait in."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """An asyncio loop whose time is the clock's."""

    def joined(self, io_context: "IoContext") -> None:
        """A context has been constructed with the clock."""


_logger = logging.getLogger("atoll.loop")

_contexts: dict[asyncio.AbstractEventLoop, "IoContext"] = {}
_contexts_lock = threading.Lock()


def default_loop_factory() -> asyncio.AbstractEventLoop:
    """A uvloop where uvloop is installed, asyncio's own loop otherwise."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def log_exception(io_context: "IoContext", handler: str, exception: BaseException) -> None:
    """The exception hook unless another is given: one log entry with the traceback."""
    _logger.error("handler %s on loop %s raised", handler, io_context.name, exc_info=exception)


class IoContext(LoopCore):
    """A named single-threaded event loop: what is posted to it runs on its thread, one handler at a time.

    It owns its asyncio loop, and `run()` drives it; or it is the guest of a loop that runs already
    (`IoContext.current()`). Handlers are functions or coroutine functions; between their awaits nothing else runs on
    the loop.

    What is posted before `run()` waits for it. What is posted after `stop()` waits for `restart()` and the next run.
    `close()` refuses posts from then on, also those of coroutines that it cancels, and cancels the futures of handlers
    that will never run. In a forked child every use of a parent's context raises `ForkedError`.

    Args:
        name: Its name in logs, metrics and the monitor.
        loop_factory: Makes the asyncio loop; the default is uvloop where it is installed.
        clock: Where its time comes from, a `ManualClock` in tests; the default is real time.
        seed: What its `random` starts from; the default differs from run to run.
        max_queued: How many handlers each lane holds, or a mapping of lanes to numbers; a post beyond it raises
            `MailboxFull`.
        lane_weights: How many handlers of a lane run before the next lane has its turn, for the lanes that are named;
            64 of `control`, 32 of `normal` and 8 of `bulk` otherwise.
        max_delayed: How many posts with a delay may wait for their time; one more raises `MailboxFull`.
        max_handler_names: How many handler names get statistics of their own.
        drain_budget: Seconds of handlers before asyncio's own timers and tasks get their turn.
        wake_interval: Seconds for which posts do not wake the loop after it has run some, so that what comes meanwhile
            is run together: it costs latency, and saves a change of threads for each message that comes alone. By
            default posts always wake the loop. It means nothing under a clock that is moved by hand.
        max_dispatch_depth: How deeply `dispatch` nests before it posts instead.
        recording: Whether statistics are kept.
        exception_hook: Gets (loop, handler name, exception) of a handler that raised; the default logs it.

    Raises:
        ValueError: When a setting can't work; the message names it.
    """

    _exception_hook: ExceptionHook
    _random: random.Random
    _loop: asyncio.AbstractEventLoop | None
    _loop_factory: LoopFactory
    _entering: threading.Lock
    _guest: bool
    _closed: bool
    _runner: threading.Thread | None
    _sentinel: AsyncGenerator[None, None] | None

    def __new__(
        cls,
        name: str,
        *,
        loop_factory: LoopFactory | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
        max_queued: int | Mapping[Lane, int] = LoopOptions.max_queued,
        lane_weights: Mapping[Lane, int] | None = None,
        max_delayed: int = LoopOptions.max_delayed,
        max_handler_names: int = LoopOptions.max_handler_names,
        drain_budget: float = LoopOptions.drain_budget,
        wake_interval: float = LoopOptions.wake_interval,
        max_dispatch_depth: int = LoopOptions.max_dispatch_depth,
        recording: bool = True,
        exception_hook: ExceptionHook | None = None,
    ) -> Self:
        """Creates the mailbox; the asyncio loop is made when the context first runs."""
        if not name:
            raise ValueError(f"name={name!r}: a loop needs a name, for logs and metrics")
        options = LoopOptions(
            max_queued=max_queued,
            lane_weights=lane_weights,
            max_delayed=max_delayed,
            max_handler_names=max_handler_names,
            drain_budget=drain_budget,
            wake_interval=wake_interval,
            max_dispatch_depth=max_dispatch_depth,
            recording=recording,
        )
        if clock is not None:
            if loop_factory is not None:
                raise ValueError("a clock brings its own asyncio loop: leave out loop_factory, or clock")
            loop_factory = clock.new_event_loop
        self = cls._create(
            name,
            options,
            None,
            loop_factory=loop_factory,
            exception_hook=exception_hook,
            clock=clock,
            seed=seed,
        )
        if clock is not None:
            clock.joined(self)
        return self

    @classmethod
    def _create(
        cls,
        name: str,
        options: LoopOptions,
        host: asyncio.AbstractEventLoop | None,
        *,
        loop_factory: LoopFactory | None = None,
        exception_hook: ExceptionHook | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> Self:
        self = super().__new__(cls, name, options, host is None, None if clock is None else clock.timers)
        self._random = random.Random(seed)  # noqa: S311 - for jitter and choices, not for secrets
        injector = chaos.environment_injector()
        if injector is not None:
            self.inject_delays(injector)
        self._exception_hook = log_exception if exception_hook is None else exception_hook
        self._loop_factory = default_loop_factory if loop_factory is None else loop_factory
        self._loop = host
        self._entering = threading.Lock()
        self._runner = None
        self._guest = host is not None
        self._closed = False
        self._sentinel = None
        return self

    # ------------------------------------------------------------------------------------------------------- who am I

    @staticmethod
    def current() -> "IoContext":
        """The context of the loop that runs on this thread; a guest is made for a loop that has none.

        Raises:
            NotOnLoopError: When no loop runs on this thread.
        """
        entered = current_loop()
        if entered is not None:
            return cast("IoContext", entered)
        loop = asyncio._get_running_loop()  # noqa: SLF001 - documented for this use
        if loop is None:
            raise NotOnLoopError(
                f"no loop runs on thread {threading.current_thread().name!r}: call IoContext.current() from a handler "
                "or a "
                f"coroutine, or keep the IoContext that you constructed"
            )
        found = _contexts.get(loop)
        return found if found is not None else _make_guest(loop)

    @staticmethod
    def current_or_none() -> "IoContext | None":
        """The context of the loop that runs on this thread, or None when there is no loop or it has no context."""
        loop = asyncio._get_running_loop()  # noqa: SLF001 - documented for this use
        return None if loop is None else _contexts.get(loop)

    @property
    def is_guest(self) -> bool:
        """Whether somebody else starts and stops the asyncio loop."""
        return self._guest

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The asyncio loop; None until the context has first run."""
        return self._loop

    def now(self) -> float:
        """The loop's time in seconds: monotonic, from an arbitrary origin. Any thread."""
        manual = self._manual_now
        return time.monotonic() if manual is None else manual

    @property
    def random(self) -> random.Random:
        """The loop's source of chance, which starts from `seed`. On the loop's thread, or before it runs."""
        return self._random

    # -------------------------------------------------------------------------------------------------------- posting

    @overload
    def submit(
        self,
        handler: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        name: str | None = None,
        delay: float = 0.0,
        lane: Lane | None = None,
        context: contextvars.Context | None = None,
    ) -> LoopFuture[R]: ...

    @overload
    def submit(
        self,
        handler: Callable[..., R],
        /,
        *args: Any,
        name: str | None = None,
        delay: float = 0.0,
        lane: Lane | None = None,
        context: contextvars.Context | None = None,
    ) -> LoopFuture[R]: ...

    def submit(
        self,
        handler: Callable[..., Any],
        /,
        *args: Any,
        name: str | None = None,
        delay: float = 0.0,
        lane: Lane | None = None,
        context: contextvars.Context | None = None,
    ) -> LoopFuture[Any]:
        """Posts `handler(*args)` and returns a future of its outcome. Any thread.

        Raises:
            MailboxFull: When the lane has reached its bound.
            LoopClosedError: When the context has been closed.
        """
        future: LoopFuture[Any] = LoopFuture(self.name, self._post_internal, self._cancel_delayed)
        future._delayed = self._submit(future, handler, args, name, delay, lane, context)  # noqa: SLF001 - its maker
        return future

    # -------------------------------------------------------------------------------------------------------- running

    def run(self) -> int:
        """Runs handlers on this thread until `stop()`, or until nothing is left to do and no guard is held.

        Left to do are queued and delayed handlers and coroutine handlers that have not ended; asyncio's own callbacks
        and tasks that handlers started run beside them but do not count, and neither do probes of those who observe.

        Ctrl-C on the main thread leaves `run()` as `KeyboardInterrupt`; what was queued stays queued, and `close()`
        cancels the coroutine handlers that have not ended.

        Returns:
            How many handlers it ran; zero at once when the context is stopped already (see `restart`).

        Raises:
            LoopRunningError: When another thread runs it, another loop runs on this thread, or it is a guest or closed.
            ForkedError: When it belongs to the parent of this process.
        """
        return self._enter()

    def run_one(self) -> int:
        """Runs one handler on this thread, waiting for it if need be; a coroutine up to its first await.

        Asyncio's own callbacks that are due meanwhile, such as later steps of coroutines, run too and do not count.

        Returns:
            One, or zero when the context is stopped or runs out of work first. Raises what `run` does.
        """
        return self._enter(handlers=1)

    def run_for(self, duration: float) -> int:
        """Runs as `run` does, for at most `duration` seconds of the context's clock; does not stop the context.

        What is ready when it begins runs in any case, as far as one drain budget goes.

        Raises:
            ValueError: When the duration is not a number of seconds. And what `run` raises.
        """
        if not (math.isfinite(duration) and duration >= 0):
            raise ValueError(f"duration={duration!r} is not a number of seconds from 0")
        return self._enter(duration=duration)

    def poll(self) -> int:
        """Runs on this thread what is ready until nothing is, also what it posts meanwhile, without waiting.

        Asyncio's own callbacks that are due at the beginning run once.

        Returns and raises what `run` does.
        """
        return self._enter(until_empty=True)

    def poll_one(self) -> int:
        """Runs one handler on this thread if one is ready, without waiting. Returns and raises what `run_one` does."""
        return self._enter(handlers=1, until_empty=True)

    def _enter(self, *, handlers: int | None = None, duration: float | None = None, until_empty: bool = False) -> int:
        self._check_may_run()
        mine = False
        try:
            with self._entering:
                self._check_nobody_runs_it()
                # In this order, so that Ctrl-C between any two lines leaves nobody behind.
                mine = True
                self._runner = threading.current_thread()
            if self._loop is None:
                self._loop = self._loop_factory()
            if self.stopped:
                return 0
            before = self._executed
            self._attach(self._loop, handlers, until_empty)
            self._drive(self._loop, duration)
            return self._executed - before
        finally:
            if mine:
                self._runner = None

    def _check_nobody_runs_it(self) -> None:
        """Under `_entering`."""
        # Read once: whoever runs it may leave meanwhile.
        runner = self._runner
        if runner is not None:
            raise LoopRunningError(
                f"loop {self.name!r} runs on thread {runner.name!r} already, and a loop has one thread: post to it "
                "from here"
            )
        # Here, for another thread may close it until then, and what is closed never stops.
        if self._closed:
            raise LoopRunningError(f"loop {self.name!r} is closed: construct a new IoContext")

    def _check_may_run(self) -> None:
        self._check_fork()
        if self._guest:
            raise LoopRunningError(f"{self!r} is a guest: whoever started its asyncio loop runs it and stops it")
        running = asyncio._get_running_loop()  # noqa: SLF001 - documented for this use
        if running is not None and running is not self._loop:
            raise LoopRunningError(
                f"another asyncio loop runs on thread {threading.current_thread().name!r}: run {self.name!r} on a "
                "thread of "
                f"its own with IoContextThread, or use IoContext.current() to be this loop's guest"
            )

    def _drive(self, loop: asyncio.AbstractEventLoop, duration: float | None) -> None:
        with self._entered(loop):
            # Handlers bring their own context variables; what they run in must be empty, or it would leak into them.
            empty = contextvars.Context()
            empty.run(loop.add_reader, self._fileno, self._drain)
            empty.run(loop.call_soon, self._drain)
            timers: list[asyncio.Handle] = []
            if duration is not None:
                end = self.now() + duration
                # After the first drain, or a short time would be over before it, on uvloop at once.
                timers.append(empty.run(loop.call_soon, lambda: timers.append(self._ended_at(end, loop))))
            try:
                loop.run_forever()
            finally:
                loop.remove_reader(self._fileno)
                for timer in timers:
                    timer.cancel()

    def _ended_at(self, end: float, loop: asyncio.AbstractEventLoop) -> asyncio.TimerHandle:
        """Ends the run when the context's clock says `end`."""
        return loop.call_later(max(end - self.now(), 0.0), self._end_run)

    @contextlib.contextmanager
    def _entered(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Within the block, this thread and `loop` are the context's."""
        try:
            # Ctrl-C may come between any two of these lines, and must leave nothing behind.
            self._enter_thread()
            with _contexts_lock:
                _contexts[loop] = self
            yield
        finally:
            self._leave_thread()
            with _contexts_lock:
                _contexts.pop(loop, None)

    def close(self) -> None:
        """Refuses further posts, cancels what will never run and what has not ended, and frees the asyncio loop.

        Futures of handlers that never ran are cancelled. Any thread, but not while the context runs; a second call does
        nothing, and neither does a forked child's.

        Raises:
            LoopRunningError: When the context runs: `stop()` it and wait for `run()` to return. Or when another loop
            runs on this thread, which would keep what is cancelled from ending.
        """
        if self._is_parents:
            return
        running = asyncio._get_running_loop()  # noqa: SLF001 - documented for this use
        if running is not None and running is not self._loop and self._has_run() and not self._closed:
            raise LoopRunningError(
                f"another asyncio loop runs on thread {threading.current_thread().name!r}, where what {self.name!r} "
                "cancels could not run to its end: close it on another thread, with `await asyncio.to_thread("
                "io_context.close)`, or use IoContextThread"
            )
        with self._entering:
            runner = self._runner
            if runner is not None:
                raise LoopRunningError(
                    f"loop {self.name!r} runs on thread {runner.name!r}: stop() it and wait for run() to return"
                )
            if self._closed:
                return
            self._closed = True
        self._discard_queued()
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if self._guest:
            loop.remove_reader(self._fileno)
            self._leave_thread()
            with _contexts_lock:
                _contexts.pop(loop, None)
            return
        try:
            # What the cancelled tasks still run is on this loop, too.
            with self._entered(loop):
                _cancel_all_tasks(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            self._attach(None)

    def _has_run(self) -> bool:
        """Whether it has an asyncio loop of its own to close."""
        return not self._guest and self._loop is not None and not self._loop.is_closed()

    def _discard_queued(self) -> None:
        for future in self._close():
            future.cancel()
            future.set_running_or_notify_cancel()

    # -------------------------------------------------------------------------------------------------- looking inside

    def stats(self) -> LoopStats:
        """What the loop has done so far, frozen. Any thread."""
        return loop_stats(self.name, self._snapshot())

    def inject_delays(self, injector: chaos.DelayInjector | str | None) -> None:
        """Delays handlers on purpose from now on: posts, delayed posts, periodic runs and calls, each once. Any thread.

        A handler that `dispatch` runs at once is not delayed. What has been posted before stays as it is.

        Args:
            injector: Which handlers, how long and from which seed; or the rules alone, as they are written in
                `ATOLL_TESTING_DELAY_US`; or None, which ends it.

        Raises:
            ChaosConfigurationError: When the rules are malformed; the message shows where.
        """
        if isinstance(injector, str):
            injector = chaos.DelayInjector.parse(injector)
        if injector is None:
            self._inject_delays(None)
        else:
            self._inject_delays(injector.in_microseconds, injector.seed)

    def _handler_delayed(self, handler: str, minimum: float, maximum: float) -> None:
        chaos.announce(self.name, handler, minimum, maximum)

    def _handler_raised(self, handler: str, exception: BaseException) -> None:
        try:
            self._exception_hook(self, handler, exception)
        except Exception:
            _logger.exception("the exception hook of loop %s raised", self.name)

    def __repr__(self) -> str:
        """Its name, and whether it runs."""
        if self._guest:
            state = "guest"
        elif self._closed:
            state = "closed"
        elif (runner := self._runner) is not None:
            state = f"running on {runner.name}"
        else:
            state = "stopped" if self.stopped else "not running"
        return f"<IoContext {self.name!r}, {state}>"


def _make_guest(loop: asyncio.AbstractEventLoop) -> IoContext:
    """The context of a running loop that has none. On the loop's thread."""
    with _contexts_lock:
        gone = [context for host, context in _contexts.items() if host.is_closed()]
        for context in gone:
            _contexts.pop(cast("asyncio.AbstractEventLoop", context.loop), None)
    for context in gone:
        context.close()
    guest = IoContext._create(threading.current_thread().name, LoopOptions(), loop)  # noqa: SLF001 - this module's own
    guest._attach(loop)  # noqa: SLF001 - this module's own
    guest._enter_thread()  # noqa: SLF001 - this module's own
    with _contexts_lock:
        _contexts[loop] = guest
    contextvars.Context().run(loop.add_reader, guest._fileno, guest._drain)  # noqa: SLF001 - this module's own
    guest._sentinel = _closed_with_its_loop(guest)  # noqa: SLF001 - this module's own
    with contextlib.suppress(StopIteration):
        guest._sentinel.__anext__().__await__().send(None)  # noqa: SLF001 - this module's own
    return guest


async def _closed_with_its_loop(guest: IoContext) -> AsyncGenerator[None, None]:
    """Closes the guest when its loop shuts down its asynchronous generators, as `asyncio.run` does at its end.

    Otherwise posts from other threads would go on to be accepted, and never run.
    """
    try:
        yield
    finally:
        guest.close()


def _cancel_all_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    if not tasks:
        return
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            _logger.error("task %s raised while its loop was being closed", task, exc_info=task.exception())
