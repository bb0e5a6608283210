"""`StatsLogger`: windows of loops in the log."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.observe import StatsLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0


class Records(logging.Handler):
    """Keeps what is logged, and wakes whoever waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.records.append(record)
            self.changed.notify_all()

    def windows(self, loop: str) -> list[atoll.LoopStats]:
        with self.changed:
            return [vars(record)["atoll_window"] for record in self.records if vars(record).get("atoll_loop") == loop]

    def wait_for(self, happened: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(happened, PATIENCE)


@pytest.fixture
def records() -> Iterator[Records]:
    logger, handler = logging.getLogger("atoll.observe"), Records()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def thread() -> Iterator[atoll.IoContextThread]:
    with atoll.IoContextThread("busy") as thread:
        yield thread


def run_one(io_context: atoll.IoContext, name: str) -> None:
    io_context.submit(time.sleep, 0, name=name).result(PATIENCE)


def test_each_entry_is_the_report_of_what_happened_since_the_last(
    thread: atoll.IoContextThread, records: Records
) -> None:
    run_one(thread.io_context, "before")
    with StatsLogger([thread.io_context], interval=0.01):
        run_one(thread.io_context, "first")
        records.wait_for(lambda: any("first" in record.getMessage() for record in records.records))
        run_one(thread.io_context, "second")
        records.wait_for(lambda: any("second" in record.getMessage() for record in records.records))
    windows = records.windows("busy")
    assert sum(window.total for window in windows) == 2, "the one before the start is not in them"
    assert [name for window in windows for name in ("first", "second") if _total(window, name)] == ["first", "second"]
    for record, window in zip(records.records, windows, strict=True):
        assert record.levelno == logging.INFO
        assert record.getMessage() == window.report()
    assert windows[0].report().startswith("loop busy: ")


def _total(window: atoll.LoopStats, name: str) -> int:
    return sum(handler.total for handler in window if handler.name == name)


def test_the_end_does_not_wait_for_the_interval_and_logs_what_is_left(
    thread: atoll.IoContextThread, records: Records
) -> None:
    with StatsLogger([thread.io_context], interval=3600.0) as logger:
        run_one(thread.io_context, "one")
        running = [logger.is_running]
    running.append(logger.is_running)
    assert running == [True, False]
    assert [window["one"].total for window in records.windows("busy")] == [1]


def test_a_loop_that_is_stuck_is_reported_like_any_other(thread: atoll.IoContextThread, records: Records) -> None:
    entered, release = threading.Event(), threading.Event()

    def stuck() -> None:
        entered.set()
        release.wait(PATIENCE)

    thread.io_context.post(stuck, name="stuck")
    assert entered.wait(PATIENCE)
    with StatsLogger([thread.io_context], interval=0.01):
        records.wait_for(lambda: len(records.records) >= 2)
        assert records.windows("busy")[-1]["stuck"].running == 1
    release.set()


def test_no_entry_is_made_on_a_loops_thread(thread: atoll.IoContextThread, records: Records) -> None:
    with StatsLogger([thread.io_context], interval=0.01):
        records.wait_for(lambda: len(records.records) >= 3)
    assert {record.threadName for record in records.records} == {"atoll-stats"}


def test_a_loop_that_closes_meanwhile_gets_a_last_entry_and_the_others_go_on(records: Records) -> None:
    with atoll.IoContextThread("stays") as stays:
        leaves = atoll.IoContextThread("leaves")
        leaves.start()
        with StatsLogger([leaves.io_context, stays.io_context], interval=0.01) as logger:
            run_one(leaves.io_context, "last")
            leaves.stop()
            seen = len(records.windows("leaves"))
            records.wait_for(lambda: len(records.windows("stays")) > seen + 5)
            after = len(records.windows("leaves"))
            records.wait_for(lambda: len(records.windows("stays")) > seen + 10)
            assert logger.is_running
        assert len(records.windows("leaves")) == after, "it has been forgotten"
        assert sum(_total(window, "last") for window in records.windows("leaves")) == 1


def test_it_ends_when_every_loop_is_closed(records: Records) -> None:
    io_context = atoll.IoContext("short")
    logger = StatsLogger([io_context], interval=0.01)
    logger.start()
    io_context.close()
    deadline = time.monotonic() + PATIENCE
    while logger.is_running and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not logger.is_running
    logger.stop()
    assert records.windows("short")


def test_it_may_be_started_twice_and_again_and_stopped_twice(thread: atoll.IoContextThread, records: Records) -> None:
    logger = StatsLogger([thread.io_context], interval=3600.0)
    logger.stop()
    for name in ("first", "second"):
        logger.start()
        logger.start()
        assert sum(each.name == "atoll-stats" for each in threading.enumerate()) == 1
        run_one(thread.io_context, name)
        logger.stop()
        logger.stop()
    assert [[handler.name for handler in window if handler.total] for window in records.windows("busy")] == [
        ["first"],
        ["second"],
    ]


def test_what_goes_wrong_with_one_loop_is_logged_and_does_not_end_it(
    thread: atoll.IoContextThread, records: Records
) -> None:
    class Broken(atoll.IoContext):
        broken = False

        def stats(self) -> atoll.LoopStats:
            if self.broken:
                raise RuntimeError("out of order")
            return super().stats()

    broken = Broken("broken")
    with StatsLogger([broken, thread.io_context], interval=0.01):
        broken.broken = True
        records.wait_for(lambda: len([each for each in records.records if each.levelno == logging.ERROR]) >= 2)
        seen = len(records.windows("busy"))
        records.wait_for(lambda: len(records.windows("busy")) > seen)
    broken.close()
    assert any("loop broken could not be logged" in record.getMessage() for record in records.records)


@pytest.mark.parametrize("interval", [0, -1.0, float("nan"), float("inf"), 1e300])
def test_an_interval_that_is_no_time_to_wait_is_an_error_that_shows_a_right_one(interval: float) -> None:
    with pytest.raises(ValueError, match=r"give 60\.0"):
        StatsLogger([], interval)


FORGOTTEN = """
import logging, atoll, atoll.observe
logging.basicConfig(level=logging.INFO, format="%(message)s")
thread = atoll.IoContextThread("busy")
thread.start()
atoll.observe.StatsLogger([thread.io_context], interval=3600.0).start()
thread.io_context.submit(print, "ran", name="last").result()
thread.stop()
"""


def test_an_interpreter_ends_though_nobody_stopped_it_and_the_last_window_is_logged() -> None:
    ended = subprocess.run([sys.executable, "-c", FORGOTTEN], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "ran\n"
    assert ended.stderr.startswith("loop busy: 1 handler in a window of ")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_does_not_wait_for_the_parents_thread() -> None:
    program = """
import os, warnings, atoll, atoll.observe
warnings.simplefilter("ignore")  # Python warns of forks where threads are
io_context = atoll.IoContext("idle")
with atoll.observe.StatsLogger([io_context], interval=3600.0) as logger:
    logger._starting.acquire()  # as another thread may hold it
    child = os.fork()
    if child == 0:
        logger.stop()
        os._exit(7)
    logger._starting.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
