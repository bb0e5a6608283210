"""`LoopFuture`: the outcome of a handler that runs on some loop."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from atoll.errors import DeadlockError

R = TypeVar("R")


class LoopFuture(concurrent.futures.Future[R]):
    """The outcome of a submitted handler.

    Await it on any asyncio loop, or call `result()` on a thread that runs none. It works with
    `concurrent.futures.wait` and `as_completed`.
    """

    def __init__(
        self,
        loop_name: str,
        post_internal: Callable[[Callable[[], object]], bool],
        cancel_delayed: Callable[[int], bool],
    ) -> None:
        """Made by `IoContext.submit`."""
        super().__init__()
        self._loop_name = loop_name
        self._post_internal = post_internal
        self._cancel_delayed = cancel_delayed
        self._delayed: int | None = None
        self._task: asyncio.Task[Any] | None = None
        self._was_cancelled = False

    def result(self, timeout: float | None = None) -> R:
        """Waits for the outcome and returns or raises it. Any thread that runs no loop.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            DeadlockError: When the outcome is not there yet and this thread runs a loop, which waiting would block.
            TimeoutError: When there is no outcome in time.
            concurrent.futures.CancelledError: When the handler was cancelled or will never run.
        """
        self._check_may_block("result")
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the outcome and returns its exception, if any. Raises what `result` raises for waiting."""
        self._check_may_block("exception")
        return super().exception(timeout)

    def _check_may_block(self, method: str) -> None:
        if not self.done() and asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented for this use
            raise DeadlockError(
                f"{method}() would block this thread's loop until loop {self._loop_name!r} has run the handler; "
                f"write `await future` here, or add_done_callback()"
            )

    def cancel(self) -> bool:
        """Cancels the handler: one that is queued never runs, a coroutine gets `CancelledError` at its next await.

        One that waits for its time is forgotten at once: its loop waits for it no longer.

        Returns:
            False when it has ended already.
        """
        if super().cancel():
            if self._delayed is not None and self._cancel_delayed(self._delayed):
                self.set_running_or_notify_cancel()
            return True
        return not self.done() and self._post_internal(self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def set_exception(self, exception: BaseException | None) -> None:
        """The handler raised. The loop's thread.

        Nothing that awaits takes a `StopIteration`: before Python 3.12 it would wait for ever.
        """
        if isinstance(exception, StopIteration):
            cause = exception
            exception = RuntimeError("the handler raised StopIteration")
            exception.__cause__ = cause
        super().set_exception(exception)

    def _set_cancelled(self) -> None:
        """The handler's coroutine ended by cancellation. The loop's thread."""
        self._was_cancelled = True
        self.set_exception(concurrent.futures.CancelledError())

    def cancelled(self) -> bool:
        """Whether the handler was cancelled, before or while it ran."""
        return self._was_cancelled or super().cancelled()

    def __await__(self) -> Generator[Any, None, R]:
        """Waits on the running loop, whichever it is; cancelling the waiter cancels the handler."""
        return asyncio.wrap_future(self).__await__()
