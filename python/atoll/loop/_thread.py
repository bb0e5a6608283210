"""`IoContextThread`: a loop and the thread that runs it.

The thread is a daemon, so that a loop that nobody stopped can't keep the interpreter from ending. But a daemon that runs
Python while the interpreter is torn down may crash it: a hook at exit stops those that are left.

| state | written by | read by | under |
|---|---|---|---|
| `_Runner.started`, `_Runner.ended` | the loop's thread, once | any | themselves: they are futures |
| `IoContextThread._thread` | whoever starts it | any | `_starting` |
| `_left_running` | threads that start and end | the exit hook | `_left_running_lock` |
"""

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

from atoll.errors import DeadlockError, LoopClosedError, LoopRunningError
from atoll.loop._io_context import ExceptionHook, IoContext, LoopFactory

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
    max_queued: int
    max_handler_names: int
    drain_budget: float
    max_dispatch_depth: int
    recording: bool
    exception_hook: ExceptionHook | None


class IoContextThread:
    """An `IoContext` and a thread of its own, which carries its name.

    The loop runs from `start()` to `stop()`, also while it has nothing to do; as a context manager, for the length of the
    block. At the end the context is closed: coroutine handlers are cancelled, and so are the futures of handlers that never
    ran. It can't be started again.

    Args:
        name: The name of the loop and of the thread.
        options: The settings of `IoContext`.

    Raises:
        ValueError: When a setting can't work; the message names it.
    """

    _thread: threading.Thread | None = None

    def __init__(self, name: str, **options: Unpack[IoContextOptions]) -> None:
        self._runner = _Runner(IoContext(name, **options))
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
        self._launch().result()

    def _launch(self) -> "Future[None]":
        """Starts the thread and returns what `start` waits for."""
        with self._starting:
            if self._runner.ended.done():
                raise LoopClosedError(f"loop {self.io_context.name!r} has been stopped: construct a new IoContextThread")
            if self._thread is not None:
                raise LoopRunningError(f"the thread of loop {self.io_context.name!r} has been started already")
            thread = threading.Thread(target=self._runner.main, name=self.io_context.name, daemon=True)
            _watch_for_exit(self._runner)
            try:
                thread.start()
            except BaseException:
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
            TimeoutError: When the thread has not ended in time. The loop still stops when the handler that blocks it ends.
            DeadlockError: When called on the loop's own thread.
            BaseException: What ended the loop before its time, such as a handler's `SystemExit`.
        """
        self._check_other_thread("stop", "io_context.stop()")
        self._request_stop().result(0 if self._thread is None else None) if self._never_started() else self._wait(timeout)

    def join(self, timeout: float | None = None) -> None:
        """Waits for the thread to end, without stopping it. Raises what `stop` raises.

        Raises:
            LoopRunningError: When it has not been started.
        """
        self._check_other_thread("join", "nothing at all")
        if self._never_started():
            raise LoopRunningError(f"the thread of loop {self.io_context.name!r} has not been started: start() it first")
        self._wait(timeout)
