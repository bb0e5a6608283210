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
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Literal, ParamSpec, Self, TypeVar, cast, overload

from atoll._core import LoopCore
from atoll.errors import LoopRunningError, NotOnLoopError
from atoll.loop._future import LoopFuture
from atoll.loop._options import LoopOptions
from atoll.loop._stats import LoopStats, loop_stats

P = ParamSpec("P")
R = TypeVar("R")

Lane = Literal["control", "normal", "bulk"]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]
ExceptionHook = Callable[["IoContext", str, BaseException], object]

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

    Args:
        name: Its name in logs, metrics and the monitor.
        loop_factory: Makes the asyncio loop; the default is uvloop where it is installed.
        max_queued: How many handlers each lane holds; a post beyond it raises `MailboxFull`.
        max_handler_names: How many handler names get statistics of their own.
        drain_budget: Seconds of handlers before asyncio's own timers and tasks get their turn.
        max_dispatch_depth: How deeply `dispatch` nests before it posts instead.
        recording: Whether statistics are kept.
        exception_hook: Gets (loop, handler name, exception) of a handler that raised; the default logs it.

    Raises:
        ValueError: When a setting can't work; the message names it.
    """

    _exception_hook: ExceptionHook
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
        max_queued: int = LoopOptions.max_queued,
        max_handler_names: int = LoopOptions.max_handler_names,
        drain_budget: float = LoopOptions.drain_budget,
        max_dispatch_depth: int = LoopOptions.max_dispatch_depth,
        recording: bool = True,
        exception_hook: ExceptionHook | None = None,
    ) -> Self:
        """Creates the mailbox; the asyncio loop is made when the context first runs."""
        if not name:
            raise ValueError(f"name={name!r}: a loop needs a name, for logs and metrics")
        options = LoopOptions(
            max_queued=max_queued,
            max_handler_names=max_handler_names,
            drain_budget=drain_budget,
            max_dispatch_depth=max_dispatch_depth,
            recording=recording,
        )
        return cls._create(name, options, None, loop_factory, exception_hook)

    @classmethod
    def _create(
        cls,
        name: str,
        options: LoopOptions,
        host: asyncio.AbstractEventLoop | None,
        loop_factory: LoopFactory | None = None,
        exception_hook: ExceptionHook | None = None,
    ) -> Self:
        self = super().__new__(cls, name, options, host is None)
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

    def is_current(self) -> bool:
        """Whether the caller runs on this loop."""
        return self._loop is not None and asyncio._get_running_loop() is self._loop  # noqa: SLF001 - documented for this use

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
        return time.monotonic()

    # -------------------------------------------------------------------------------------------------------- posting

    @overload
    def submit(
        self,
        handler: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        name: str | None = None,
        delay: float = 0.0,
        lane: Lane = "normal",
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
        lane: Lane = "normal",
        context: contextvars.Context | None = None,
    ) -> LoopFuture[R]: ...

    def submit(
        self,
        handler: Callable[..., Any],
        /,
        *args: Any,
        name: str | None = None,
        delay: float = 0.0,
        lane: Lane = "normal",
        context: contextvars.Context | None = None,
    ) -> LoopFuture[Any]:
        """Posts `handler(*args)` and returns a future of its outcome. Any thread.

        Raises:
            MailboxFull: When the lane has reached its bound.
            LoopClosedError: When the context has been closed.
        """
        future: LoopFuture[Any] = LoopFuture(self.name, self._post_internal)
        self._submit(future, handler, args, name, delay, lane, context)
        return future

    # -------------------------------------------------------------------------------------------------------- running

    def run(self) -> int:
        """Runs handlers on this thread until `stop()`, or until nothing is left to do and no guard is held.

        Left to do are queued and delayed handlers and coroutine handlers that have not ended; asyncio's own callbacks
        and tasks that handlers started run beside them but do not count.

        Returns:
            How many handlers it ran; zero at once when the context is stopped already (see `restart`).

        Raises:
            LoopRunningError: When another thread runs it, another loop runs on this thread, or it is a guest or closed.
        """
        return self._enter(lambda loop: loop.run_forever())

    def poll(self) -> int:
        """Runs what is ready on this thread, for one drain budget at most, without waiting for anything.

        Returns and raises what `run` does.
        """

        def once(loop: asyncio.AbstractEventLoop) -> None:
            loop.call_soon(loop.stop)
            loop.run_forever()

        return self._enter(once)

    def _enter(self, drive: Callable[[asyncio.AbstractEventLoop], object]) -> int:
        self._check_may_run()
        with self._entering:
            if self._runner is not None:
                raise LoopRunningError(
                    f"loop {self.name!r} runs on thread {self._runner.name!r} already, and a loop has one thread: post "
                    "to it "
                    f"from here"
                )
            self._runner = threading.current_thread()
        try:
            if self._loop is None:
                self._loop = self._loop_factory()
            if self.stopped:
                return 0
            before = self._executed
            self._drive(self._loop, drive)
            return self._executed - before
        finally:
            self._runner = None

    def _check_may_run(self) -> None:
        if self._guest:
            raise LoopRunningError(f"{self!r} is a guest: whoever started its asyncio loop runs it and stops it")
        if self._closed:
            raise LoopRunningError(f"loop {self.name!r} is closed: construct a new IoContext")
        running = asyncio._get_running_loop()  # noqa: SLF001 - documented for this use
        if running is not None and running is not self._loop:
            raise LoopRunningError(
                f"another asyncio loop runs on thread {threading.current_thread().name!r}: run {self.name!r} on a "
                "thread of "
                f"its own with IoContextThread, or use IoContext.current() to be this loop's guest"
            )

    def _drive(self, loop: asyncio.AbstractEventLoop, drive: Callable[[asyncio.AbstractEventLoop], object]) -> None:
        self._attach(loop)
        with _contexts_lock:
            _contexts[loop] = self
        # Handlers bring their own context variables; what they run in must be empty, or it would leak into them.
        empty = contextvars.Context()
        empty.run(loop.add_reader, self._fileno, self._drain)
        empty.run(loop.call_soon, self._drain)
        try:
            drive(loop)
        finally:
            loop.remove_reader(self._fileno)
            with _contexts_lock:
                _contexts.pop(loop, None)

    def close(self) -> None:
        """Refuses further posts, cancels what will never run and what has not ended, and frees the asyncio loop.

        Futures of handlers that never ran are cancelled. Any thread, but not while the context runs; a second call does
        nothing.

        Raises:
            LoopRunningError: When the context runs: `stop()` it and wait for `run()` to return. Or when another loop
            runs on this thread, which would keep what is cancelled from ending.
        """
        running = asyncio._get_running_loop()  # noqa: SLF001 - documented for this use
        if running is not None and running is not self._loop and self._has_run() and not self._closed:
            raise LoopRunningError(
                f"another asyncio loop runs on thread {threading.current_thread().name!r}, where what {self.name!r} "
                "cancels could not run to its end: close it on another thread, with `await asyncio.to_thread("
                "io_context.close)`, or use IoContextThread"
            )
        with self._entering:
            if self._runner is not None:
                raise LoopRunningError(
                    f"loop {self.name!r} runs on thread {self._runner.name!r}: stop() it and wait for run() to return"
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
            with _contexts_lock:
                _contexts.pop(loop, None)
            return
        with _contexts_lock:
            # What the cancelled tasks still run is on this loop, too.
            _contexts[loop] = self
        try:
            _cancel_all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            with _contexts_lock:
                _contexts.pop(loop, None)
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
        elif self._runner is not None:
            state = f"running on {self._runner.name}"
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
