"""`run_one`, `run_for`, `poll`, `poll_one`: parts of a run, with Asio's meaning."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import atoll

if TYPE_CHECKING:
    from collections.abc import Callable


def test_run_one_runs_one_handler_and_leaves_the_context_running(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    io_context.post(ran.append, 1)
    io_context.post(ran.append, 2)
    assert io_context.run_one() == 1
    assert ran == [1]
    assert not io_context.stopped
    assert io_context.run_one() == 1
    assert ran == [1, 2]
    assert io_context.run_one() == 0, "nothing is left to do"
    assert io_context.stopped


def test_run_one_waits_for_a_handler(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    with io_context.work_guard():
        poster = threading.Timer(0.01, io_context.post, (ran.append, 1))
        poster.start()
        assert io_context.run_one() == 1
    assert ran == [1]
    poster.join()


def test_a_coroutine_is_one_step_up_to_its_first_await(io_context: atoll.IoContext) -> None:
    steps: list[str] = []

    async def wait() -> None:
        steps.append("first")
        await asyncio.sleep(0)
        steps.append("second")

    io_context.post(wait)
    io_context.post(steps.append, "other")
    assert io_context.run_one() == 1
    assert io_context.run() == 1, "the coroutine was counted already"
    assert steps[0] == "first"
    assert sorted(steps) == ["first", "other", "second"]


def test_poll_one_runs_one_ready_handler_and_waits_for_none(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    with io_context.work_guard():
        assert io_context.poll_one() == 0
        io_context.post(ran.append, 1)
        io_context.post(ran.append, 2)
        assert io_context.poll_one() == 1
        assert ran == [1]
        assert io_context.poll_one() == 1
        assert io_context.poll_one() == 0
        assert not io_context.stopped


def test_poll_runs_what_its_handlers_post_too(io_context: atoll.IoContext) -> None:
    left = [5]

    def again() -> None:
        left[0] -= 1
        if left[0]:
            io_context.post(again)

    io_context.post(again)
    with io_context.work_guard():
        assert io_context.poll() == 5
        assert io_context.poll() == 0


def test_poll_runs_more_than_one_drain_budget_of_handlers(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(drain_budget=1e-6)
    for _ in range(1_000):
        io_context.post(lambda: None)
    with io_context.work_guard():
        assert io_context.poll() == 1_000


def test_run_for_returns_when_its_time_is_up_and_does_not_stop_the_context(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    with io_context.work_guard():
        io_context.post(ran.append, 1)
        began = io_context.now()
        assert io_context.run_for(0.02) == 1
        assert io_context.now() - began >= 0.019
        assert not io_context.stopped
        io_context.post(ran.append, 2)
        assert io_context.poll() == 1
    assert ran == [1, 2]


def test_run_for_returns_at_once_when_nothing_is_left_to_do(io_context: atoll.IoContext) -> None:
    io_context.post(lambda: None)
    assert io_context.run_for(3600) == 1
    assert io_context.stopped


@pytest.mark.parametrize("duration", [0, 1e-6, 0.001])
def test_run_for_runs_what_is_ready_however_short_its_time(io_context: atoll.IoContext, duration: float) -> None:
    ran: list[int] = []
    with io_context.work_guard():
        for number in range(100):
            io_context.post(ran.append, number)
            assert io_context.run_for(duration) == 1
    assert ran == list(range(100))


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf")])
def test_run_for_takes_a_number_of_seconds(io_context: atoll.IoContext, duration: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        io_context.run_for(duration)


def test_stop_ends_a_part_of_a_run_too(io_context: atoll.IoContext) -> None:
    with io_context.work_guard():
        io_context.post(io_context.stop)
        assert io_context.run_for(3600) == 1
        assert io_context.run_one() == 0
        assert io_context.poll_one() == 0


def test_every_kind_of_run_may_follow_every_other(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    with io_context.work_guard():
        for number in range(12):
            io_context.post(ran.append, number)
            (io_context.poll, io_context.poll_one, io_context.run_one, lambda: io_context.run_for(0.001))[number % 4]()
    assert ran == list(range(12))


CTRL_C = """
import asyncio, os, signal, sys, threading, atoll
factory = None if sys.argv[1] == "uvloop" else asyncio.new_event_loop
loop = atoll.IoContext("main", loop_factory=factory)
events = []

async def wait():
    try:
        await asyncio.sleep(3600)
    finally:
        events.append("cancelled")

loop.post(wait)
if sys.argv[2] == "idle":
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
else:
    def busy():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            pass
    loop.post(busy)
    loop.post(events.append, "queued")
try:
    loop.run()
except KeyboardInterrupt:
    events.append("interrupted")
if sys.argv[2] == "busy":
    loop.stop()
    loop.restart()
    loop.poll()
loop.close()
print(*events)
"""


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("state", "events"), [("idle", "interrupted cancelled"), ("busy", "interrupted queued cancelled")]
)
def test_ctrl_c_on_the_main_thread_leaves_run_and_loses_nothing(kind: str, state: str, events: str) -> None:
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C, kind, state], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == events.split(), done.stderr
    assert done.returncode == 0
