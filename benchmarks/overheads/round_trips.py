"""A coroutine on one loop calls a method on another and awaits the answer: ``ModuleRef.call`` against what asyncio has.

Each loop has a thread, nothing else runs, and one call is made after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Protocol

import atoll
from benchmarks.overheads import peers
from benchmarks.summary import quantile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator


class Module:
    """What lives on the other loop."""

    async def increased(self, number: int) -> int:
        """Return one more."""
        return number + 1


class Pair(Protocol):
    """Two loops that run, and a way from one to the other."""

    def p50_us(self, seconds: float) -> float:
        """Call for about ``seconds`` and return the median of the round trips, in microseconds."""


def rounds(count: int, seconds: float) -> Iterator[dict[str, float]]:
    """Yield the p50 of the round trips in microseconds, by loop."""
    with contextlib.ExitStack() as stack:
        pairs: dict[str, Pair] = {}
        for name, factory in peers.factories().items():
            pairs[name] = stack.enter_context(_AsyncioPair.running(factory))
            pairs[f"atoll_{name}"] = stack.enter_context(_AtollPair.running(factory))
        for number in range(count + 1):
            figures = {name: pairs[name].p50_us(seconds) for name in peers.in_turn(list(pairs), number)}
            if number:  # the first round warmed up
                yield figures


async def _p50_us(call: Callable[[int], Awaitable[int]], seconds: float) -> float:
    taken: list[float] = []
    now = time.perf_counter()
    end = now + seconds
    while now < end or not taken:
        before = now
        answer = await call(len(taken))
        now = time.perf_counter()
        assert answer == len(taken) + 1
        taken.append(now - before)
    return quantile(sorted(taken), 0.5) * 1e6


class _AtollPair:
    """``ModuleRef.call`` between two ``IoContextThread``."""

    def __init__(self, caller: atoll.IoContext, called: atoll.IoContext) -> None:
        self._caller = caller
        self._ref = atoll.ModuleRef(called, Module())

    @classmethod
    @contextlib.contextmanager
    def running(cls, factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Pair]:
        with (
            atoll.IoContextThread("caller", loop_factory=factory) as caller,
            atoll.IoContextThread("called", loop_factory=factory) as called,
        ):
            yield cls(caller.io_context, called.io_context)

    def p50_us(self, seconds: float) -> float:
        return self._caller.submit(_p50_us, self._call, seconds).result()

    async def _call(self, number: int) -> int:
        return await self._ref.call(Module.increased, number)


class _AsyncioPair:
    """``run_coroutine_threadsafe`` between two asyncio loops, its future wrapped so that it can be awaited."""

    def __init__(self, caller: asyncio.AbstractEventLoop, called: asyncio.AbstractEventLoop) -> None:
        self._caller = caller
        self._called = called
        self._module = Module()

    @classmethod
    @contextlib.contextmanager
    def running(cls, factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Pair]:
        with _running(factory()) as caller, _running(factory()) as called:
            yield cls(caller, called)

    def p50_us(self, seconds: float) -> float:
        measured: Coroutine[None, None, float] = _p50_us(self._call, seconds)
        return asyncio.run_coroutine_threadsafe(measured, self._caller).result()

    async def _call(self, number: int) -> int:
        answer = asyncio.run_coroutine_threadsafe(self._module.increased(number), self._called)
        return await asyncio.wrap_future(answer)


@contextlib.contextmanager
def _running(loop: asyncio.AbstractEventLoop) -> Iterator[asyncio.AbstractEventLoop]:
    thread = threading.Thread(target=loop.run_forever, name="round-trips")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
