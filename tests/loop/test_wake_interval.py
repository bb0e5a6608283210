"""`wake_interval`: what comes soon after a loop has run something is run together."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL = 0.5


@pytest.fixture
def dozing(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> atoll.IoContextThread:
    """A loop that posts do not wake for half a second after it has run some."""
    return atoll.IoContextThread("dozing", wake_interval=INTERVAL, loop_factory=loop_factory)


def test_the_first_is_run_at_once_and_what_comes_soon_after_it_together(dozing: atoll.IoContextThread) -> None:
    with dozing as thread:
        io_context = thread.io_context
        first = io_context.submit(time.monotonic).result(timeout=60)
        later = []
        for _ in range(3):
            later.append(io_context.submit(time.monotonic))
            time.sleep(0.01)
        ran = [future.result(timeout=60) for future in later]
    assert ran[0] - first >= 0.9 * INTERVAL
    # One after the other, and not when they were posted, 10 ms apart.
    assert ran == sorted(ran)


def test_a_loop_that_had_nothing_to_do_for_an_interval_is_woken_again(dozing: atoll.IoContextThread) -> None:
    with dozing as thread:
        io_context = thread.io_context
        woken = []
        for _ in range(2):
            posted = time.monotonic()
            woken.append(io_context.submit(time.monotonic).result(timeout=60) - posted)
            # It has looked by then, has found nothing, and sleeps.
            time.sleep(3 * INTERVAL)
    # A machine that is busy may hold up one of them.
    assert min(woken) < INTERVAL / 2


def test_asyncio_goes_on_while_the_loop_dozes(dozing: atoll.IoContextThread) -> None:
    async def naps() -> tuple[float, concurrent.futures.Future[float]]:
        await asyncio.sleep(0.001)
        posted = atoll.IoContext.current().submit(time.monotonic)
        await asyncio.sleep(0.001)
        return time.monotonic(), posted

    with dozing as thread:
        woke, posted = thread.io_context.submit(naps).result(timeout=60)
        assert woke < posted.result(timeout=60)


def test_run_returns_when_its_work_is_done_and_stop_ends_it(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(wake_interval=1.0)
    io_context.post(lambda: io_context.post(lambda: None))
    assert io_context.run() == 2
    io_context.restart()
    ran: list[int] = []
    with io_context.work_guard():
        io_context.post(ran.append, 1)
        assert io_context.poll() == 1
        io_context.post(ran.append, 2)
        assert io_context.poll() == 1
        io_context.post(ran.append, 3)
        assert io_context.run_one() == 1
        thread = threading.Thread(target=io_context.run)
        thread.start()
        io_context.submit(ran.append, 4).result(timeout=60)
        io_context.stop()
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert ran == [1, 2, 3, 4]


def test_time_that_is_moved_by_hand_holds_nothing_up() -> None:
    clock = ManualClock()
    io_context = atoll.IoContext("test", clock=clock, wake_interval=1.0)
    ran: list[int] = []
    with io_context.work_guard():
        for number in range(2):
            io_context.post(ran.append, number)
            io_context.poll()
    assert ran == [0, 1]
    assert clock.now() == 0.0
    io_context.close()


@pytest.mark.parametrize("wake_interval", [-0.001, 1.1, float("nan"), float("inf")])
def test_an_interval_that_can_not_be_is_refused(wake_interval: float) -> None:
    with pytest.raises(ValueError, match=r"wake_interval=.* is not a number of seconds from 0 to 1"):
        atoll.IoContext("test", wake_interval=wake_interval)
