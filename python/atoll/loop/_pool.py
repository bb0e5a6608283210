"""`IoContextPool`: several loops, each on a thread of its own, and two ways to choose one.

| state | written by | read by | under |
|---|---|---|---|
| `_state` | whoever runs and stops it | any | `_changing` |
| `_contexts` | the same | any | – (replaced as a whole) |
| `_turns` | any | any | – (one C call; see `get`) |
"""

import itertools
import logging
import threading
from collections.abc import Hashable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from contextlib import suppress
from numbers import Number
from types import TracebackType
from typing import Any, Final, Literal, Self, Unpack, overload

from atoll.errors import AtollError, LoopClosedError, LoopRunningError
from atoll.loop._io_context import IoContext
from atoll.loop._thread import STOP_TIMEOUT, IoContextOptions, IoContextThread, NeverStopped, still_running

_logger = logging.getLogger("atoll.loop")

_MAX_SIZE: Final = 1_000
_IN_TURN: Final = object()


class IoContextPool:
    """A fixed number of loops, called `name-0`, `name-1` and so on, each an `IoContext` on a thread of its own.

    `get()` gives the loops in turn, for short handlers that any of them may run. `get(key)` gives the same loop
    whenever the key is the same, for what belongs to something with state, such as a connection: one thread's posts for
    it run one at a time and in order, so they need no lock.

    The loops run from `run()` to `stop()`; as a context manager, for the length of the block. A pool runs once. On an
    asyncio loop `await asyncio.to_thread(pool.stop)` waits without blocking it. In a forked child the parent's pool is
    of no use: what is posted to its loops raises `ForkedError`, and `stop()` does nothing.

    Args:
        size: How many loops.
        name: What their names begin with.
        options: The settings of `IoContext`, the same for each; but with a `seed`, loop n starts from `seed + n`, or
            all of them would draw the same numbers.

    Raises:
        ValueError: When a setting can't work; the message names it.
    """

    def __init__(self, size: int, name: str, **options: Unpack[IoContextOptions]) -> None:
        _check_size(size)
        if not name:
            raise ValueError(f"name={name!r}: a pool needs a name, for its loops, logs and metrics")
        self._name = name
        self._size = size
        self._threads = [IoContextThread(f"{name}-{number}", **_settings(options, number)) for number in range(size)]
        never_stopped = NeverStopped(f"the pool {name!r} of {size} loops")
        for thread in self._threads:
            # A pool that is collected lets go of its threads, which stop; one warning does for all of them.
            thread._runner.never_stopped = never_stopped  # noqa: SLF001 - a pool is a group of threads
        self._changing = threading.Lock()
        self._state: Literal["new", "starting", "running", "stopped"] = "new"
        self._contexts: tuple[IoContext, ...] | None = None
        self._turns = itertools.count()

    @property
    def name(self) -> str:
        """What the loops' names begin with."""
        return self._name

    @property
    def size(self) -> int:
        """How many loops."""
        return self._size

    # ------------------------------------------------------------------------------------------------ choosing a loop

    @overload
    def get(self) -> IoContext: ...

    @overload
    def get(self, key: Hashable) -> IoContext: ...

    def get(self, key: Hashable = _IN_TURN) -> IoContext:
        """The next loop in turn, beginning with the first; with a key, that key's loop. Any thread, without a lock.

        Equal keys have the same loop for as long as the process lives. A whole number is taken modulo the pool's size
        as it is, so that what numbers mean is yours; of anything else the `hash()` is taken. Python seeds the hashes of
        `str` and `bytes` anew in each process: where a key must have the same loop in every process, or in every run
        of a test, give a number, such as `zlib.crc32(key.encode())`.

        The turns are exact, except on free-threaded builds before Python 3.14, where threads that ask at the same
        moment may get the same loop.

        Args:
            key: Anything hashable.

        Raises:
            LoopRunningError: When the pool has not been run.
            LoopClosedError: When it has been stopped.
            TypeError: When the key has no hash.
        """
        contexts = self._contexts
        if contexts is None:
            raise self._not_running()
        if key is _IN_TURN:
            return contexts[next(self._turns) % len(contexts)]
        return contexts[(key if isinstance(key, int) else _number_of(key)) % len(contexts)]

    def all(self) -> tuple[IoContext, ...]:
        """All loops, in the order of their numbers. Any thread. Raises what `get` raises without a key."""
        contexts = self._contexts
        if contexts is None:
            raise self._not_running()
        return contexts

    def _not_running(self) -> AtollError:
        if self._state == "stopped":
            return LoopClosedError(f"pool {self._name!r} has been stopped: construct a new IoContextPool")
        return LoopRunningError(f"pool {self._name!r} does not run yet: run() it first, or use it in a `with` block")

    # ------------------------------------------------------------------------------------------------------- its life

    def run(self) -> None:
        """Starts all loops; returns when all of them run. Any thread.

        When one can't start, those that run are stopped again.

        Raises:
            LoopRunningError: When it has been run before.
            LoopClosedError: When it has been stopped, or is stopped meanwhile.
            Exception: What kept a loop from running, such as an exception of its `loop_factory`.
        """
        with self._changing:
            if self._state in {"starting", "running"}:
                raise LoopRunningError(f"pool {self._name!r} runs already")
            if self._state != "new":
                raise self._not_running()
            self._state = "starting"
        try:
            for started in [thread.start_soon() for thread in self._threads]:
                started.result()
        except BaseException:
            self._stop_after_failed_start()
            raise
        with self._changing:
            if self._state != "starting":
                raise self._not_running()
            self._state = "running"
            self._contexts = tuple(thread.io_context for thread in self._threads)

    def _stop_after_failed_start(self) -> None:
        try:
            self.stop()
        except Exception:
            # What is raised is why the start failed.
            _logger.exception("pool %s could not be stopped after a failed start", self._name)

    def stop(self, timeout: float | None = STOP_TIMEOUT) -> None:
        """Stops all loops at once, each after the handler that is running, closes them, and waits for their threads.

        Any thread but the pool's own; a second call does nothing new. A pool that was never run is closed.

        Args:
            timeout: Seconds to wait for all of them; None for as long as it takes.

        Raises:
            TimeoutError: When loops have not stopped in time; the message names them and what they run. They still stop
            when the handlers that block them end. DeadlockError: When called on one of the pool's own threads.
            BaseException: What ended a loop before its time, such as a handler's `SystemExit`; a group when there is
            more than one failure.
        """
        if self._threads[0].io_context._is_parents:  # noqa: SLF001 - a group of threads
            return
        for thread in self._threads:
            thread._check_other_thread("stop", "stop the pool on another thread")  # noqa: SLF001 - a group of threads
        with self._changing:
            self._state = "stopped"
            self._contexts = None
        ended = [thread.stop_soon() for thread in self._threads]
        wait_for_futures(ended, timeout)
        failures: list[BaseException] = []
        stuck: list[str] = []
        for thread, end in zip(self._threads, ended, strict=True):
            if not end.done():
                stuck.append(still_running(thread.io_context, "runs on"))
            elif (failure := _failure_of(end, thread)) is not None:
                failures.append(failure)
        if stuck:
            text = f"pool {self._name!r} has not stopped after {timeout} s: {'; '.join(stuck)}"
            failures.append(TimeoutError(text))
        if len(failures) > 1:
            raise BaseExceptionGroup(f"what loops of pool {self._name!r} ended with", failures)
        if failures:
            raise failures[0]

    def __enter__(self) -> Self:
        """Runs it."""
        self.run()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops it."""
        self.stop()

    def __repr__(self) -> str:
        state = "not running" if self._state == "new" else self._state
        return f"<IoContextPool {self._name!r} of {self._size} loops, {state}>"


def _check_size(size: object) -> None:
    if not isinstance(size, int) or not 1 <= size <= _MAX_SIZE:
        raise ValueError(f"size={size!r} is not a whole number of loops from 1 to {_MAX_SIZE}")


def _settings(options: IoContextOptions, number: int) -> IoContextOptions:
    seed = options.get("seed")
    return options if seed is None else {**options, "seed": seed + number}


def _number_of(key: Hashable) -> int:
    """The number of a key that is not an `int`."""
    if isinstance(key, Number):
        # 1.0 is the same key as 1, and so belongs where 1 does, whatever their hashes.
        number: Any = key
        with suppress(TypeError, ValueError, OverflowError):
            whole = int(number.real if isinstance(number, complex) else number)
            if whole == number:
                return whole
    try:
        return hash(key)
    except TypeError as error:
        raise TypeError(f"key={key!r} has no hash: give a number, a string or a tuple of such") from error


def _failure_of(end: "Future[None]", thread: IoContextThread) -> BaseException | None:
    """What ended a loop before its time; waits for its thread, which has nothing left to do."""
    if thread._thread is not None:  # noqa: SLF001 - a group of threads
        thread._thread.join()  # noqa: SLF001 - a group of threads
    return end.exception()
