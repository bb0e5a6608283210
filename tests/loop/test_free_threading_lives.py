"""Loops that are made, run, guarded, looked at, stopped and closed by many threads at once."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from tests.loop.many_threads import THREADS, TIMEOUT, all_at_once, at_once, each, switching_often

from atoll import IoContext, IoContextThread, LoopFuture, MailboxFull
from atoll.errors import LoopClosedError, LoopRunningError

Start = Callable[..., IoContext]


@pytest.fixture(autouse=True)
def threads_meet_often() -> Iterator[None]:
    with switching_often():
        yield


@pytest.mark.parametrize("before", [0, 10, 50, 200])
def test_whatever_is_accepted_while_the_loop_is_stopped_ends(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], before: int
) -> None:
    thread = IoContextThread("stopping", loop_factory=loop_factory, max_queued=1000)
    thread.start()
    futures: list[LoopFuture[Any]] = []
    refused: list[int] = []

    def submit(poster: int) -> None:
        try:
            for number in itertools.count():
                handler = asyncio.sleep if number % 4 == 0 else int
                with suppress(MailboxFull):
                    futures.append(thread.io_context.submit(handler, 0, delay=0.0005 if number % 5 == 0 else 0.0))
        except LoopClosedError:
            refused.append(poster)

    with at_once(*each(4, submit)):
        while len(futures) < before:
            threading.Event().wait(0.0001)
        all_at_once(*[thread.stop] * 3)
    assert sorted(refused) == list(range(4))
    assert wait(futures, TIMEOUT).not_done == set()
    assert thread.io_context.stats().active == 0


@pytest.mark.parametrize("turn", range(10))
def test_run_returns_when_the_last_of_many_guards_goes_and_not_before(io_context: IoContext, turn: int) -> None:
    held = [io_context.work_guard() for _ in range(THREADS)]
    left = list(held)

    def release(number: int) -> None:
        for _ in range(2 * turn):
            with io_context.work_guard():
                io_context.post(int)
        left.pop()
        held[number].reset()

    with at_once(*each(THREADS, release)):
        io_context.run()
        assert left == []
    io_context.restart()
    io_context.run()
    assert io_context.stats().active == 0


def test_loops_are_made_run_looked_at_and_stopped_by_many_threads_at_once(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    seen: list[IoContext] = []
    done = threading.Event()

    def live(number: int) -> None:
        for turn in range(5):
            with IoContextThread(f"loop-{number}-{turn}", loop_factory=loop_factory) as thread:
                seen.append(thread.io_context)
                assert thread.io_context.submit(IoContext.current).result(TIMEOUT) is thread.io_context

    def look(_: int) -> None:
        while not done.is_set():
            for io_context in seen[-5:]:
                assert repr(io_context)
                assert io_context.stats().errors == 0

    with at_once(*each(2, look)):
        try:
            all_at_once(*each(THREADS, live))
        finally:
            done.set()
    assert all(io_context.stats().active == 0 for io_context in seen)


def test_of_run_and_close_at_once_one_comes_first_and_a_loop_that_runs_is_refused_to_others(make: Start) -> None:
    refused: list[str] = []

    def attempt(act: Callable[[], object], io_context: IoContext) -> None:
        try:
            act()
        except LoopRunningError as error:
            refused.append(str(error))
        assert repr(io_context)

    for _ in range(100):
        io_context = make()
        io_context.post(int)
        acts = (io_context.run, io_context.close, io_context.poll)
        all_at_once(*[partial(attempt, act, io_context) for act in acts])
        io_context.close()
    assert all("runs on thread" in message or "is closed" in message for message in refused)


FIRST_USES = """
import sys, threading, atoll
sys.setswitchinterval(1e-5)
together = threading.Barrier(8)
ran, missed = [], []

def first():
    io_context = atoll.IoContext("loop")
    together.wait()
    bound = io_context.bind(ran.append)
    bound(1)
    io_context.post(ran.append, 2, delay=0.001)
    io_context.submit(ran.append, 3)
    io_context.run()
    io_context.close()

threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(ran) == [1] * 8 + [2] * 8 + [3] * 8)
"""


def test_the_first_uses_in_a_process_may_be_many_at_once() -> None:
    for _ in range(5):
        ended = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", FIRST_USES],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


def test_importing_atoll_and_what_it_uses_leaves_the_gil_as_it_was() -> None:
    program = """
import importlib.util, sys
enabled = getattr(sys, "_is_gil_enabled", lambda: True)
before = enabled()
import atoll, atoll.chaos, atoll.observe, atoll.rpc, atoll.testing, google.protobuf.message
for extra in ("uvloop", "structlog", "rich.live", "typer", "pydantic_core", "prometheus_client"):
    if importlib.util.find_spec(extra.partition(".")[0]):
        importlib.import_module(extra)
print(enabled() is before)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


def test_handlers_of_two_loops_run_at_the_same_time(start: Start) -> None:
    first, second = start("first"), start("second")
    for _ in range(50):
        met = threading.Barrier(2)
        meetings = [loop.submit(met.wait, TIMEOUT) for loop in (first, second)]
        assert sorted(meeting.result(TIMEOUT) for meeting in meetings) == [0, 1]
