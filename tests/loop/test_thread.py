"""`IoContextThread`: start, stop, names, and what happens when nobody stops it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.errors import DeadlockError, LoopClosedError, LoopRunningError
from atoll.loop._cpu_affinity import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_a_started_thread_carries_the_loops_name_and_runs_it(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with atoll.IoContextThread("node_manager", loop_factory=loop_factory) as thread:
        assert thread.io_context.name == "node_manager"
        assert thread.io_context.submit(lambda: threading.current_thread().name).result(30) == "node_manager"
        assert thread.is_running
    assert repr(thread) == "<IoContextThread of <IoContext 'node_manager', closed>>"
    assert "node_manager" not in names_of_threads()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "native"), [("kv", "kv"), ("a_very_long_loop_name", "a_very_long_loo"), ("ééééééééé", "é" * 7)]
)
def test_the_operating_system_knows_the_threads_name_too(name: str, native: str) -> None:
    def read() -> str:
        return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().rstrip("\n")

    with atoll.IoContextThread(name) as thread:
        assert thread.io_context.submit(read).result(30) == native


def test_an_idle_loop_runs_until_it_is_stopped_and_stop_is_idempotent() -> None:
    thread = atoll.IoContextThread("idle")
    thread.start()
    thread.io_context.submit(lambda: None).result(30)
    assert thread.io_context.submit(lambda: 1).result(30) == 1, "having run out of work does not end it"
    thread.stop()
    thread.stop()
    thread.join()


def test_what_was_posted_before_the_start_runs_after_it() -> None:
    thread = atoll.IoContextThread("early")
    future = thread.io_context.submit(max, 1, 2)
    with thread:
        assert future.result(30) == 2


def test_the_end_closes_the_context_and_cancels_what_is_left() -> None:
    ended: list[str] = []

    async def suspended() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("suspended")

    with atoll.IoContextThread("ending") as thread:
        running = thread.io_context.submit(suspended)
        never = thread.io_context.submit(print, delay=3600)
        thread.io_context.submit(lambda: None).result(30)
    assert ended == ["suspended"]
    assert running.cancelled()
    assert never.cancelled()
    with pytest.raises(LoopClosedError):
        thread.io_context.post(print)


def test_a_thread_is_started_once() -> None:
    with atoll.IoContextThread("once") as thread, pytest.raises(LoopRunningError, match="has been started already"):
        thread.start()
    with pytest.raises(LoopClosedError, match="construct a new IoContextThread"):
        thread.start()


def test_a_thread_that_was_never_started_may_be_stopped_but_not_joined() -> None:
    thread = atoll.IoContextThread("never")
    with pytest.raises(LoopRunningError, match="start\\(\\) it first"):
        thread.join()
    future = thread.io_context.submit(print)
    thread.stop()
    assert future.cancelled()
    with pytest.raises(LoopClosedError):
        thread.start()


def test_what_keeps_the_loop_from_running_is_raised_by_start() -> None:
    def broken() -> asyncio.AbstractEventLoop:
        raise OSError("no more loops")

    thread = atoll.IoContextThread("broken", loop_factory=broken)
    with pytest.raises(OSError, match="no more loops"):
        thread.start()
    thread.stop()
    assert "broken" not in names_of_threads()


def test_a_setting_that_can_not_work_is_an_error_at_construction() -> None:
    with pytest.raises(ValueError, match="max_queued=0"):
        atoll.IoContextThread("bad", max_queued=0)


def test_stop_names_the_handler_that_keeps_the_loop_from_stopping() -> None:
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(30)

    thread = atoll.IoContextThread("stuck")
    thread.start()
    thread.io_context.post(block, name="Blocker.block")
    assert blocked.wait(30)
    with pytest.raises(TimeoutError, match=r"loop 'stuck' has not stopped after 0.01 s.*Blocker\.block"):
        thread.stop(0.01)
    release.set()
    thread.stop()


@pytest.mark.parametrize("method", ["stop", "join"])
def test_waiting_for_its_own_end_is_an_error_with_the_remedy(method: str) -> None:
    with atoll.IoContextThread("own") as thread:
        future = thread.io_context.submit(getattr(thread, method))
        with pytest.raises(DeadlockError, match="on the thread of loop 'own' itself"):
            future.result(30)


def test_a_handler_may_stop_its_loop_which_ends_the_thread() -> None:
    thread = atoll.IoContextThread("own")
    thread.start()
    thread.io_context.post(thread.io_context.stop)
    thread.join(30)
    assert not thread.is_running
    thread.stop()


def test_a_handler_that_ends_the_loop_is_logged_and_raised_by_stop(caplog: pytest.LogCaptureFixture) -> None:
    thread = atoll.IoContextThread("ending")
    thread.start()
    left = thread.io_context.submit(print, delay=3600)
    thread.io_context.post(sys.exit, 3)
    with caplog.at_level(logging.CRITICAL, logger="atoll.loop"), pytest.raises(SystemExit) as caught:
        thread.join(30)
    assert caught.value.code == 3
    assert [record.getMessage() for record in caplog.records] == ["loop ending ended before its time"]
    assert left.cancelled()
    with pytest.raises(LoopClosedError):
        thread.io_context.post(print)
    with pytest.raises(SystemExit):
        thread.stop()


def test_start_and_stop_can_be_awaited_where_blocking_would_be_wrong() -> None:
    async def main() -> None:
        thread = atoll.IoContextThread("soon")
        await asyncio.wrap_future(thread.start_soon())
        assert await thread.io_context.submit(max, 1, 2) == 2
        await asyncio.wrap_future(thread.stop_soon())
        thread.join()

    asyncio.run(main())


def test_who_gives_up_waiting_for_the_start_does_not_harm_it() -> None:
    thread = atoll.IoContextThread("impatient")
    started = thread.start_soon()
    assert not started.cancel()
    assert concurrent.futures.wait([started], 30).done
    thread.stop()


def test_a_thread_that_nobody_stopped_warns_at_its_collection_and_ends() -> None:
    thread = atoll.IoContextThread("forgotten")
    thread.start()
    ended = thread._runner.ended
    with pytest.warns(ResourceWarning, match="loop 'forgotten' was never stopped: use it in a `with` block"):
        del thread
    ended.result(30)
    gc.collect()


def test_a_handler_that_holds_its_context_does_not_keep_the_thread_object_alive() -> None:
    thread = atoll.IoContextThread("held")
    thread.start()
    io_context = thread.io_context
    ended = thread._runner.ended
    with pytest.warns(ResourceWarning, match="held"):
        del thread
    ended.result(30)
    with pytest.raises(LoopClosedError):
        io_context.post(print)


FORGOTTEN = """
import asyncio, atoll, sys, time
thread = atoll.IoContextThread("forgotten")
thread.start()
{work}
print("end of main", flush=True)
"""


@pytest.mark.parametrize(
    "work",
    [
        "pass",
        "thread.io_context.post(asyncio.sleep, 3600)",
        "def spin(): thread.io_context.post(spin)\nspin()",
        "del thread",
        "thread.io_context.submit(time.sleep, 0.05)",
    ],
    ids=["idle", "suspended coroutine", "busy", "collected", "blocked for a moment"],
)
def test_a_forgotten_thread_does_not_keep_the_interpreter_from_ending(work: str) -> None:
    program = FORGOTTEN.format(work=work)
    ended = subprocess.run(
        [sys.executable, "-W", "default::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "end of main\n"), ended.stderr
    assert ended.stderr.count("ResourceWarning: the thread of loop 'forgotten' was never stopped") == 1, ended.stderr


def test_what_dies_with_the_interpreter_says_nothing() -> None:
    program = """
import atoll
thread = atoll.IoContextThread("stopped")
thread.start()
guard = thread.io_context.work_guard()
bound = thread.io_context.bind(print)
future = thread.io_context.submit(int)
future.result()
thread.stop()
resting = atoll.IoContext("never run")
resting.post(print)
"""
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_ends_without_its_parents_threads() -> None:
    program = """
import atoll, os, sys, warnings
thread = atoll.IoContextThread("parents")
thread.start()
warnings.simplefilter("ignore", DeprecationWarning)
if (child := os.fork()) == 0:
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.stop()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "7\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds threads")
def test_a_thread_is_bound_to_its_cpus_before_its_loop_is_made() -> None:
    bound: list[set[int]] = []
    cpu = min(os.sched_getaffinity(0))

    def make_loop() -> asyncio.AbstractEventLoop:
        bound.append(os.sched_getaffinity(0))
        return asyncio.new_event_loop()

    before = os.sched_getaffinity(0)
    with atoll.IoContextThread("pinned", cpu_affinity=[cpu], loop_factory=make_loop):
        assert bound == [{cpu}]
        assert os.sched_getaffinity(0) == before, "no other thread is bound"


def test_an_affinity_that_can_not_work_is_an_error_at_construction() -> None:
    with pytest.raises(ValueError, match=r"this process has no CPU 77777; it may use 0"):
        atoll.IoContextThread("pinned", cpu_affinity=[77777])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds threads")
def test_a_cpu_that_is_gone_at_the_start_keeps_the_loop_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {77777})
        thread = atoll.IoContextThread("pinned", cpu_affinity=[77777])
    with pytest.raises(OSError, match=r"loop 'pinned' can't run on CPU 77777: this process may use 0"):
        thread.start()


def test_where_threads_can_not_be_bound_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thread = atoll.IoContextThread("pinned", cpu_affinity=[0])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        thread.start()
    thread.stop()
    assert "loop pinned is not bound to CPU 0: this system can't bind threads to CPUs" in caplog.text


@pytest.mark.parametrize(
    ("cpus", "text"), [({0}, "0"), ({3, 1, 2}, "1-3"), ({0, 2, 4, 5, 9}, "0, 2, 4-5, 9"), ((), "")]
)
def test_cpu_numbers_are_written_as_people_write_them(cpus: Iterable[int], text: str) -> None:
    assert numbers(cpus) == text


def test_a_stuck_loop_that_was_asked_to_stop_is_not_one_that_nobody_stopped(recwarn: pytest.WarningsRecorder) -> None:
    release = threading.Event()
    thread = atoll.IoContextThread("stuck")
    thread.start()
    thread.io_context.post(release.wait, 30)
    ended = thread.stop_soon()
    del thread
    gc.collect()
    release.set()
    ended.result(30)
    assert not recwarn.list


OTHERS_THREADS = """
import contextlib, os
from pathlib import Path
import atoll
from atoll.observe import GilGauge, LoopMonitor, ObserveEndpoint

usable = os.sched_getaffinity(0)
with atoll.IoContextThread("pinned", cpu_affinity=[min(usable)]) as thread:
    kept = contextlib.ExitStack()
    def begin():
        thread.io_context.post(int, delay=1e-3)
        for each in (LoopMonitor(), GilGauge(), ObserveEndpoint("127.0.0.1:0")):
            kept.enter_context(each)
    thread.io_context.submit(begin).result(30)
    for task in Path("/proc/self/task").iterdir():
        name = task.joinpath("comm").read_text().strip()
        if name.startswith("atoll-"):
            assert os.sched_getaffinity(int(task.name)) == usable, name
            print(name)
    kept.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds threads")
def test_threads_of_the_process_are_not_bound_with_the_loop_that_first_needs_them() -> None:
    program = [sys.executable, "-c", OTHERS_THREADS]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert {"atoll-timer", "atoll-monitor", "atoll-gil-gauge", "atoll-observe"} <= set(ended.stdout.split())
