"""Bugs that were found by looking for them, and must not come back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

import atoll
from atoll.errors import LoopRunningError

if TYPE_CHECKING:
    from collections.abc import Callable


def in_another_process(program: str) -> str:
    """What `program` prints; one that hangs is ended by a signal."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", "import signal\nsignal.alarm(20)\n" + program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended
    return ended.stdout


def test_run_returns_after_a_delayed_post_however_the_timer_thread_is_scheduled(
    make: Callable[..., atoll.IoContext],
) -> None:
    io_context = make()
    runs = 0

    def run_often() -> None:
        nonlocal runs
        for _ in range(20_000):
            io_context.post(int, delay=1e-6)
            io_context.run()
            io_context.restart()
            runs += 1

    thread = threading.Thread(target=run_often, daemon=True)
    thread.start()
    thread.join(60)
    hangs = thread.is_alive()
    io_context.stop()
    thread.join()
    assert not hangs, f"run {runs} hangs"


def test_a_forked_child_has_delayed_posts_of_its_own() -> None:
    assert (
        in_another_process("""
import atoll, os
parents = atoll.IoContext("parent")
parents.post(print, "parent", delay=0.001)
parents.run()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    childs = atoll.IoContext("child")
    childs.post(int, delay=0.001)
    os._exit(childs.run())
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""").split()[-1]
        == "1"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory to have no thread started")
def test_a_delayed_post_that_fails_for_want_of_a_thread_is_not_waited_for() -> None:
    assert (
        in_another_process("""
import atoll, resource
io_context = atoll.IoContext("test")
io_context.post(int)
io_context.run()
io_context.restart()
before = resource.getrlimit(resource.RLIMIT_AS)
with open("/proc/self/statm") as sizes:
    used = int(sizes.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000, before[1]))
try:
    io_context.post(int, delay=0.001)
except OSError:
    print("refused")
finally:
    resource.setrlimit(resource.RLIMIT_AS, before)
print(io_context.stats().delayed, io_context.run())
""")
        == "refused\n0 0\n"
    )


def test_a_handler_whose_every_attribute_is_another_object_can_be_posted(io_context: atoll.IoContext) -> None:
    handler = Mock()
    io_context.post(handler, 1)
    io_context.bind(handler)(2)
    io_context.run()
    assert [call.args for call in handler.call_args_list] == [(1,), (2,)]
    assert [stats.name for stats in io_context.stats()] == ["Mock"]


def test_the_budget_counts_without_statistics(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(recording=False)
    began, fired = time.monotonic(), 0.0

    def fire() -> None:
        nonlocal fired
        fired = time.monotonic()

    io_context.post(lambda: asyncio.get_running_loop().call_later(0.005, fire))
    for _ in range(60):
        io_context.post(time.sleep, 0.01)
    io_context.run()
    assert 0 < fired - began < 0.3


def test_no_handler_is_charged_for_what_follows_the_one_before(make: Callable[..., atoll.IoContext]) -> None:
    def slow(*_: object) -> None:
        time.sleep(0.05)

    async def coroutine() -> None:
        pass

    io_context = make(exception_hook=slow, drain_budget=10)
    for handler in (int, coroutine):
        future = io_context.submit(handler, name="before")
        future.add_done_callback(slow)
        io_context.post(int, name="after")
    io_context.post(lambda: 1 / 0, name="before")
    io_context.post(int, name="after")
    io_context.run()
    (after,) = (stats for stats in io_context.stats() if stats.name == "after")
    assert after.total == 3
    assert after.execution_time.max < 0.04


def test_a_stop_by_a_handler_ends_neither_the_next_run_nor_the_closing(io_context: atoll.IoContext) -> None:
    ended = []

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)

    with io_context.work_guard():
        for delay in (0.02, 0.2):
            # Posted while the loop sleeps, so that it is its file descriptor that has it drained.
            began = time.monotonic()
            threading.Timer(delay, io_context.post, (io_context.stop,)).start()
            io_context.run()
            assert time.monotonic() - began >= delay * 0.9
            io_context.restart()
        io_context.submit(slow_to_end)
        threading.Timer(0.02, io_context.post, (io_context.stop,)).start()
        io_context.run()
    io_context.close()
    assert ended == [True]


def test_a_drain_that_was_due_when_the_context_was_stopped_does_not_end_its_closing(
    make: Callable[..., atoll.IoContext],
) -> None:
    io_context = make(loop_factory=asyncio.new_event_loop)
    ended = []

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)

    def end_the_process() -> None:
        raise SystemExit

    io_context.submit(slow_to_end)
    io_context.poll()
    io_context.poll()
    assert io_context.loop is not None
    io_context.loop.call_soon(end_the_process)
    with pytest.raises(SystemExit):
        io_context.run()
    io_context.stop()
    io_context.close()
    assert ended == [True]


def test_a_polled_context_whose_coroutines_had_no_turn_can_be_closed(io_context: atoll.IoContext) -> None:
    ended = []

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)

    async def coroutine() -> None:
        pass

    with io_context.work_guard():
        io_context.submit(slow_to_end)
        io_context.poll()
        io_context.poll()  # before Python 3.12 only here it takes its first step
        io_context.post(coroutine)
        io_context.post(int)
        io_context.poll()
        io_context.stop()
        io_context.close()
    assert ended == [True]


def test_what_a_guest_had_taken_from_its_mailbox_when_a_handler_closed_it_is_cancelled() -> None:
    async def main() -> None:
        guest = atoll.IoContext.current()
        guest.post(guest.close)
        guest.post(time.sleep, 0.01)
        futures = [guest.submit(int) for _ in range(5)]
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 5
        assert all(handler.active == 0 for handler in guest.stats())

    asyncio.run(main())


def test_closing_where_another_loop_runs_is_refused_and_changes_nothing(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make()
    ended = []

    async def handler() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    future: Any = io_context.submit(handler)
    io_context.poll()
    io_context.poll()

    async def main() -> None:
        with pytest.raises(LoopRunningError, match="another asyncio loop runs on thread"):
            io_context.close()
        io_context.post(int)
        await asyncio.to_thread(io_context.close)

    asyncio.run(main())
    assert ended == [True]
    assert future.cancelled()


def test_a_stop_iteration_reaches_those_who_await_it() -> None:
    def handler() -> None:
        raise StopIteration

    async def main() -> None:
        with atoll.IoContextThread("test") as thread:
            for handled in (handler, lambda: next(iter(()))):
                async with asyncio.timeout(10):
                    with pytest.raises(RuntimeError, match="StopIteration") as raised:
                        await thread.io_context.submit(handled)
                assert isinstance(raised.value.__cause__, StopIteration)

    asyncio.run(main())
