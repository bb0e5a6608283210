"""`IoContextThread`: a loop and the thread that runs it.

The thread is a daemon, so that a loop that nobody stopped can't keep the interpreter from ending. But a daemon that
runs Python while the interpreter is torn down may crash it: a hook at exit stops those that are left.

| state | written by | read by | under |
|---|---|---|---|
| `_Runner.started`, `_Runner.ended` | the loop's thread, once | any | themselves: they are futures |
| `_Runner.over` | the loop's thread, once | the destructor | – (a flag) |
| `IoContextThread._thread` | whoever starts it | any | `_starting` |
| `_left_running` | threads that start and end | the exit hook | `_left_running_lock` |
"""

import atexit
import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

from atoll.errors import DeadlockError, LoopClosedError, LoopRunningError
from atoll.loop._cpu_affinity import bind_this_thread, cpu_set
from atoll.loop._io_context import Clock, ExceptionHook, IoContext, LoopFactory
from atoll.loop._options import Lane

_logger = logging.getLogger("atoll.loop")

STOP_TIMEOUT = 10.0
_EXIT_TIMEOUT = 5.0
_LONGEST_NATIVE_NAME = 15

_left_running: set["_Runner"] = set()
_left_running_lock = threading.Lock()
_exit_hook_installed = False


class IoContextOptions(TypedDict, total=False):
    """The settings of a loop besides its name; see `IoContext`."""

    loop_factory: LoopFactory | None
    clock: Clock | None
    seed: int | None
    max_queued: int | Mapping[Lane, int]
    lane_weights: Mapping[Lane, int] | None
    max_delayed: int
    max_handler_names: int
    drain_budget: float
    wake_interval: float
    max_dispatch_depth: int
    recording: bool
    exception_hook: ExceptionHook | None


class IoContextThread:
    """An `IoContext` and a thread of its own, which carries its name.

    The loop runs from `start()` to `stop()`, also while it has nothing to do; as a context manager, for the length of
    the block. At the end the context is closed: coroutine handlers are cancelled, and so are the futures of handlers
    that never ran. It can't be started again.

    Args:
        name: The name of the loop and of the thread.
        cpu_affinity: The numbers of the CPUs that the thread may run on, on Linux; threads that its handlers start
            inherit them. Elsewhere a warning is logged when it starts. None for all that the process may use.
        options: The settings of `IoContext`.

    Raises:
        ValueError: When a setting can't work; the message names it.
    """

    _thread: threading.Thread | None = None

    def __init__(
        self, name: str, *, cpu_affinity: Iterable[int] | None = None, **options: Unpack[IoContextOptions]
    ) -> None:
        cpus = None if cpu_affinity is None else cpu_set(cpu_affinity)
        self._runner = _Runner(IoContext(name, **options), cpus)
        self._starting = threading.Lock()

    @property
    def io_context(self) -> IoContext:
        """The loop. It may be posted to before the start."""
        return self._runner.io_context

    @property
    def is_running(self) -> bool:
        """Whether the thread has been started and has not ended."""
        return self._thread is not None and not self._runner.ended.done()

    def start(self) -> None:
        """Starts the thread; returns when the loop runs. Any thread.

        Raises:
            LoopRunningError: When it has been started before.
            LoopClosedError: When it has been stopped.
            Exception: What kept the loop from running, such as an exception of its `loop_factory`.
        """
        self.start_soon().result()

    def start_soon(self) -> "Future[None]":
        """Starts the thread and does not wait: the future is done when the loop runs, or holds what kept it from that.

        Raises:
            LoopRunningError: When it has been started before.
            LoopClosedError: When it has been stopped.
        """
        with self._starting:
            if self._runner.ended.done():
                raise LoopClosedError(
                    f"loop {self.io_context.name!r} has been stopped: construct a new IoContextThread"
                )
            if self._thread is not None:
                raise LoopRunningError(f"the thread of loop {self.io_context.name!r} has been started already")
            thread = threading.Thread(target=self._runner.main, name=self.io_context.name, daemon=True)
            _watch_for_exit(self._runner)
            try:
                thread.start()
            except BaseException:
                with _left_running_lock:
                    _left_running.discard(self._runner)
                raise
            self._thread = thread
        return self._runner.started

    def stop(self, timeout: float | None = STOP_TIMEOUT) -> None:
        """Stops the loop after the handler that is running, closes it, and waits for the thread to end.

        Any thread but the loop's own; a second call does nothing new.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            TimeoutError: When the thread has not ended in time. The loop still stops when the handler that blocks it
            ends. DeadlockError: When called on the loop's own thread.
            BaseException: What ended the loop before its time, such as a handler's `SystemExit`.
        """
        self._check_other_thread("stop", "call io_context.stop() there, which does not wait")
        self.stop_soon()
        self._wait(timeout)

    def join(self, timeout: float | None = None) -> None:
        """Waits for the thread to end, without stopping it. Raises what `stop` raises.

        Raises:
            LoopRunningError: When it has not been started.
        """
        self._check_other_thread("join", "wait on another thread")
        if self._thread is None:
            raise LoopRunningError(
                f"the thread of loop {self.io_context.name!r} has not been started: start() it first"
            )
        self._wait(timeout)

    def _check_other_thread(self, method: str, instead: str) -> None:
        if threading.current_thread() is self._thread:
            raise DeadlockError(
                f"{method}() was called on the thread of loop {self.io_context.name!r} itself, which would wait for "
                "its own "
                f"end: {instead}"
            )

    def stop_soon(self) -> "Future[None]":
        """Stops the loop and does not wait: the future is done when it is closed. Any thread."""
        with self._starting:
            runner = self._runner
            # A loop that is stuck and outlives its `IoContextThread` is not one that nobody stopped.
            runner.never_stopped.asked = True
            if self._thread is not None:
                runner.io_context.stop()
            elif not runner.ended.done():
                runner.io_context.close()
                runner.ended.set_result(None)
            return runner.ended

    def _wait(self, timeout: float | None) -> None:
        ended = self._runner.ended
        try:
            ended.result(timeout)
        except TimeoutError:
            if ended.done():
                raise
            raise TimeoutError(still_running(self.io_context, f"has not stopped after {timeout} s")) from None
        if self._thread is not None:
            self._thread.join()

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
        """Stops it; in a forked child, which has none of its parent's threads, does nothing."""
        if not self.io_context._is_parents:  # noqa: SLF001 - its own
            self.stop()

    def __del__(self) -> None:
        # Not joined: a collection may happen on any thread, the loop's own included.
        if self._thread is not None and not self._runner.over and not self._runner.io_context._is_parents:  # noqa: SLF001 - its own
            self._runner.io_context.stop()
            self._runner.never_stopped.warn(stacklevel=3)

    def __repr__(self) -> str:
        return f"<IoContextThread of {self.io_context!r}>"


def still_running(io_context: IoContext, predicate: str) -> str:
    """Says what keeps a loop from what it was asked to do."""
    running = ", ".join(handler.name for handler in io_context.stats() if handler.running)
    return f"loop {io_context.name!r} {predicate}, its running handlers: {running or 'none'}"


class NeverStopped:
    """Warns once that nobody stopped a loop's thread, or those of a pool: at collection or the interpreter's end."""

    def __init__(self, what: str) -> None:
        self._message = f"{what} was never stopped: use it in a `with` block, or stop() it"
        self.asked = False
        self._warned = False

    def warn(self, stacklevel: int) -> None:
        """Unless it has been asked to stop. Any thread."""
        if not (self.asked or self._warned):
            self._warned = True
            warnings.warn(self._message, ResourceWarning, stacklevel=stacklevel)


class _Runner:
    """What the thread works with. It does not keep the `IoContextThread` alive, whose collection stops it."""

    def __init__(self, io_context: IoContext, cpus: frozenset[int] | None) -> None:
        self.io_context = io_context
        self._cpus = cpus
        self.started: Future[None] = Future()
        self.ended: Future[None] = Future()
        # Who waits for them may give up waiting, but can't cancel them.
        self.started.set_running_or_notify_cancel()
        self.ended.set_running_or_notify_cancel()
        self.never_stopped = NeverStopped(f"the thread of loop {io_context.name!r}")
        # For the destructor. What is left at the interpreter's end may die after the modules have been emptied, as
        # globals do on free-threaded builds, and then a future can't be asked any more.
        self.over = False

    def main(self) -> None:
        """Runs and closes the loop. The thread's target."""
        _name_native_thread(self.io_context.name)
        failure: BaseException | None = None
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - whoever waits for the start or the end gets it
            failure = error
        self.over = True
        with _left_running_lock:
            _left_running.discard(self)
        if self.started.done():
            if failure is None:
                self.ended.set_result(None)
                return
            _logger.critical("loop %s ended before its time", self.io_context.name, exc_info=failure)
            self.ended.set_exception(failure)
            return
        self.ended.set_result(None)
        name = self.io_context.name
        self.started.set_exception(
            failure or LoopClosedError(f"loop {name!r} was stopped before it ran: construct a new one")
        )

    def _run(self) -> None:
        io_context = self.io_context
        try:
            if self._cpus is not None:
                bind_this_thread(io_context.name, self._cpus)
            with io_context.work_guard():
                io_context._post_internal(self._loop_runs)  # noqa: SLF001 - the framework's message to itself
                io_context.run()
        finally:
            io_context.close()

    def _loop_runs(self) -> None:
        self.started.set_result(None)


def _name_native_thread(name: str) -> None:
    """Names the thread for debuggers and `top -H`, too; Python does so itself since 3.14."""
    if sys.version_info < (3, 14) and sys.platform == "linux":
        native = name.encode()[:_LONGEST_NATIVE_NAME].decode(errors="ignore")
        with contextlib.suppress(OSError):
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(native)


def _watch_for_exit(runner: _Runner) -> None:
    """Has the interpreter stop the thread at its end. Hooks are installed at first use: an import changes nothing."""
    global _exit_hook_installed  # noqa: PLW0603 - once per process
    with _left_running_lock:
        if not _exit_hook_installed:
            atexit.register(_stop_what_is_left)
            os.register_at_fork(after_in_child=_forget_parents_threads)
            _exit_hook_installed = True
        _left_running.add(runner)


def _forget_parents_threads() -> None:
    global _left_running_lock  # noqa: PLW0603 - the parent may have held it while forking
    _left_running_lock = threading.Lock()
    _left_running.clear()


def _stop_what_is_left() -> None:
    with _left_running_lock:
        runners = list(_left_running)
    for runner in runners:
        runner.io_context.stop()
    wait_for_futures([runner.ended for runner in runners], timeout=_EXIT_TIMEOUT)
    for runner in runners:
        runner.never_stopped.warn(stacklevel=2)
