"""A context as the guest of a loop that somebody else runs."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.errors import LoopClosedError, LoopRunningError, NotOnLoopError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any


@pytest.fixture
def run(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[Coroutine[Any, Any, object]], object]:
    """`asyncio.run` on either kind of loop."""

    def run_one(main: Coroutine[Any, Any, object]) -> object:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main)

    return run_one


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_current_makes_one_guest_per_loop_named_for_its_thread(run: Callable[..., object]) -> None:
    async def main() -> None:
        assert atoll.IoContext.current_or_none() is None
        guest = atoll.IoContext.current()
        assert atoll.IoContext.current() is guest
        assert atoll.IoContext.current_or_none() is guest
        assert guest.is_guest
        assert guest.is_current()
        assert guest.loop is asyncio.get_running_loop()
        assert guest.name == threading.current_thread().name
        assert repr(guest) == f"<IoContext {guest.name!r}, guest>"

    run(main())


def test_current_without_a_loop_is_an_error_that_names_the_thread(io_context: atoll.IoContext) -> None:
    with pytest.raises(NotOnLoopError, match="thread 'MainThread'"):
        atoll.IoContext.current()
    assert atoll.IoContext.current_or_none() is None
    assert not io_context.is_current()


def test_current_in_a_handler_is_its_own_context_and_no_guest(start: Callable[..., atoll.IoContext]) -> None:
    first, second = start("first"), start("second")

    async def coroutine() -> atoll.IoContext:
        await asyncio.sleep(0)
        return atoll.IoContext.current()

    assert first.submit(atoll.IoContext.current).result(30) is first
    assert second.submit(coroutine).result(30) is second
    assert first.submit(first.is_current).result(30)
    assert not first.submit(second.is_current).result(30)
    assert not first.is_guest


def test_a_guest_runs_posts_of_any_thread_in_order_beside_asyncios_own_tasks(run: Callable[..., object]) -> None:
    async def main() -> list[object]:
        guest = atoll.IoContext.current()
        ran: list[object] = []

        async def note(what: object) -> None:
            ran.append(what)

        def post_from_a_thread() -> None:
            for number in range(100):
                guest.post(note if number % 2 else ran.append, number)

        await asyncio.to_thread(post_from_a_thread)
        await guest.submit(len, ran)
        assert guest.stats().errors == 0
        return ran

    assert run(main()) == list(range(100))


def test_a_guest_submits_delays_dispatches_and_counts_like_any_context(run: Callable[..., object]) -> None:
    async def main() -> None:
        guest = atoll.IoContext.current()
        assert await guest.submit(max, 1, 2) == 2
        assert await guest.submit(double, 4, delay=0.001) == 8
        ran: list[int] = []
        guest.dispatch(ran.append, 1)
        assert ran == [1]
        assert guest.stats().total == 3

    run(main())


def test_a_guest_does_not_run_or_stop_the_loop_of_others(run: Callable[..., object]) -> None:
    async def main() -> None:
        guest = atoll.IoContext.current()
        with pytest.raises(LoopRunningError, match="is a guest"):
            guest.run()
        with pytest.raises(LoopRunningError, match="is a guest"):
            guest.poll()
        guest.stop()
        assert await guest.submit(max, 1, 2) == 2

    run(main())


def test_a_guest_closes_with_its_loop_and_cancels_what_will_never_run(run: Callable[..., object]) -> None:
    guests: list[atoll.IoContext] = []
    futures: list[atoll.LoopFuture[None]] = []

    async def main() -> None:
        guest = atoll.IoContext.current()
        guests.append(guest)
        futures.append(guest.submit(print, delay=3600))
        await asyncio.sleep(0)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(main())
        gc.collect()
    assert not caught
    assert futures[0].cancelled()
    with pytest.raises(LoopClosedError):
        guests[0].post(print)


def test_a_guests_loop_is_released_when_it_is_closed_also_without_notice(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def guest() -> weakref.ref[atoll.IoContext]:
        return weakref.ref(atoll.IoContext.current())

    kept = []
    loop = None
    for _ in range(5):
        loop = loop_factory()
        kept.append(loop.run_until_complete(guest()))
        loop.close()
    del loop
    gc.collect()
    assert sum(reference() is not None for reference in kept) <= 1, "the last one is released by the next"


def test_each_asyncio_run_has_a_guest_of_its_own(run: Callable[..., object]) -> None:
    async def main() -> atoll.IoContext:
        return atoll.IoContext.current()

    assert run(main()) is not run(main())
