"""Ways to hand a function to another thread. Each target runs what it is given on one consumer thread.

The loops over posts are written out per target, so that nothing but the post itself is in them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from abc import ABC, abstractmethod
from itertools import repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def nothing() -> None:
    """Do nothing: the handler of the posts without arguments."""


def take(_value: int) -> None:
    """Do nothing with one argument."""


class Target(ABC):
    """Somewhere to post to. ``post_many`` and ``post_one`` may be called from any thread."""

    def __init__(self, name: str, chunks: int = 4) -> None:
        """Name the row; ``chunks`` is how many chunks of posts make one measurement."""
        self.name = name
        self.chunks = chunks

    @abstractmethod
    def start(self) -> None:
        """Start the consumer thread."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it, when everything posted has run."""

    @abstractmethod
    def post_many(self, count: int, *, argument: bool) -> None:
        """Post ``nothing``, or ``take`` with an argument, ``count`` times."""

    @abstractmethod
    def post_one(self, handler: Callable[[], object]) -> None:
        """Post ``handler`` once."""


class SimpleQueueTarget(Target):
    """``queue.SimpleQueue`` and a thread that gets and calls."""

    def __init__(self) -> None:
        """Make the queue."""
        super().__init__("SimpleQueue")
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._consume, name="simple-queue")

    def start(self) -> None:
        """See ``Target``."""
        self._thread.start()

    def stop(self) -> None:
        """See ``Target``."""
        self._queue.put(None)
        self._thread.join()

    def post_many(self, count: int, *, argument: bool) -> None:
        """See ``Target``."""
        put = self._queue.put
        if argument:
            for _ in repeat(None, count):
                put((take, 1))
        else:
            for _ in repeat(None, count):
                put(nothing)

    def post_one(self, handler: Callable[[], object]) -> None:
        """See ``Target``."""
        self._queue.put(handler)

    def _consume(self) -> None:
        get = self._queue.get
        while (item := get()) is not None:
            if type(item) is tuple:
                item[0](item[1])
            else:
                item()


class CallSoonTarget(Target):
    """``call_soon_threadsafe`` of an event loop that runs on a thread."""

    def __init__(self, name: str, new_loop: Callable[[], asyncio.AbstractEventLoop], chunks: int = 4) -> None:
        """Make the loop."""
        super().__init__(name, chunks)
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        """See ``Target``."""
        self._thread.start()

    def stop(self) -> None:
        """See ``Target``."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def post_many(self, count: int, *, argument: bool) -> None:
        """See ``Target``."""
        call_soon_threadsafe = self._loop.call_soon_threadsafe
        if argument:
            for _ in repeat(None, count):
                call_soon_threadsafe(take, 1)
        else:
            for _ in repeat(None, count):
                call_soon_threadsafe(nothing)

    def post_one(self, handler: Callable[[], object]) -> None:
        """See ``Target``."""
        self._loop.call_soon_threadsafe(handler)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
