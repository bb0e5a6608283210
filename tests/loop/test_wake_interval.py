"""`wake_interval`: what comes soon after a loop has run something is run together."""

from __future__ import annotations

import asyncio
import concurrent.futures
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import atoll
import atoll.observe
from atoll.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def dozing(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Callable[..., atoll.IoContextThread]:
    """Makes a loop that posts do not wake for so many seconds after it has run some."""

    def make(wake_interval: float, **options: Any) -> atoll.IoContextThread:
        return atoll.IoContextThread("dozing", wake_interval=wake_interval, loop_factory=loop_factory, **options)

    return make


def test_the_first_of_a_loop_is_run_at_once(dozing: Callable[..., atoll.IoContextThread]) -> None:
    waits = []
    for _ in range(3):
        with dozing(1.0) as thread:
            posted = time.monotonic()
            waits.append(thread.io_context.submit(time.monotonic).result(timeout=60) - posted)
    # A machine that is busy may hold up some.
    assert min(waits) < 0.5


def test_what_comes_soon_after_it_is_run_together(dozing: Callable[..., atoll.IoContextThread]) -> None:
    with dozing(1.0) as thread:
        thread.io_context.submit(time.monotonic).result(timeout=60)
        time.sleep(0.1)  # it dozes by then
        futures = []
        for _ in range(3):
            futures.append(thread.io_context.submit(time.monotonic))
            time.sleep(0.01)
        posted = time.monotonic()
        ran = [future.result(timeout=60) for future in futures]
    assert posted < ran[0]
    assert ran == sorted(ran)


def test_a_loop_that_had_nothing_to_do_is_woken_again_whatever_observes_it(
    dozing: Callable[..., atoll.IoContextThread],
) -> None:
    with dozing(0.5) as thread, atoll.observe.LagProbe(thread.io_context, interval=0.01):
        waits = []
        for _ in range(5):
            posted = time.monotonic()
            waits.append(thread.io_context.submit(time.monotonic).result(timeout=60) - posted)
            # It has looked by then, has found nothing, and sleeps.
            time.sleep(0.6)
    # Those that fall into a doze wait for a quarter of a second on average.
    assert statistics.median(waits) < 0.05


def test_asyncio_goes_on_while_the_loop_dozes(dozing: Callable[..., atoll.IoContextThread]) -> None:
    async def naps() -> tuple[float, concurrent.futures.Future[float]]:
        await asyncio.sleep(0.001)
        posted = atoll.IoContext.current().submit(time.monotonic)
        await asyncio.sleep(0.001)
        return time.monotonic(), posted

    with dozing(1.0) as thread:
        woke, posted = thread.io_context.submit(naps).result(timeout=60)
        assert woke < posted.result(timeout=60)


def test_a_lane_that_fills_wakes_the_loop(dozing: Callable[..., atoll.IoContextThread]) -> None:
    with dozing(1.0, max_queued=20) as thread:
        for _ in range(3):
            thread.io_context.submit(lambda: None).result(timeout=60)
            futures = [thread.io_context.submit(time.monotonic) for _ in range(11)]
            posted = time.monotonic()
            if min(future.result(timeout=60) for future in futures) - posted < 0.5:
                return
    pytest.fail("it slept on each time")


def test_what_waits_for_the_end_of_a_doze_is_not_ready(dozing: Callable[..., atoll.IoContextThread]) -> None:
    with dozing(0.2) as thread:
        futures = []
        for _ in range(100):
            futures.append(thread.io_context.submit(lambda: None))
            time.sleep(0.01)
        spent = thread.io_context.stats().time
        for future in futures:
            future.result(timeout=60)
    assert spent.waiting < spent.idle


class Counting(atoll.IoContext):
    """Counts how often a doze has ended."""

    ends = 0

    def _come_back(self, run: int) -> None:
        self.ends += 1
        super()._come_back(run)


def test_runs_that_ended_in_a_doze_leave_nothing_that_goes_on(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    io_context = Counting("test", wake_interval=0.1, loop_factory=loop_factory)
    with io_context.work_guard():
        for _ in range(50):
            io_context.post(lambda: None)
            io_context.run_for(0.0001)
        feeding = True

        def feed() -> None:
            while feeding:
                io_context.post(lambda: None)
                time.sleep(0.001)

        feeder = threading.Thread(target=feed)
        feeder.start()
        io_context.run_for(1.0)
        feeding = False
        feeder.join()
    io_context.close()
    # One for each run, and ten in the last.
    assert 1 <= io_context.ends <= 75


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
    with atoll.IoContextThread("test", clock=clock, wake_interval=1.0) as thread:
        for number in range(3):
            assert thread.io_context.submit(lambda it=number: it).result(timeout=10) == number
            time.sleep(0.1)  # it would doze by then
    assert clock.now() == 0.0


@pytest.mark.parametrize("wake_interval", [-0.001, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("clock", [None, ManualClock()], ids=["real", "manual"])
def test_an_interval_that_can_not_be_is_refused(wake_interval: float, clock: ManualClock | None) -> None:
    with pytest.raises(ValueError, match=r"wake_interval=.* is not a number of seconds from 0 to 1"):
        atoll.IoContext("test", wake_interval=wake_interval, clock=clock)
