"""`LoopMonitor`: which handler blocks which loop, seen from outside while it does."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import functools
import logging
import math
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import atoll
from atoll._core import activate_stack_sampler
from atoll.errors import LoopRunningError
from atoll.observe import LoopHealth, LoopMonitor, MonitorOptions, Stall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="stacks of stalled threads are taken on Linux only")


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Waits until the condition holds, and returns its value."""
    end = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.002)
    return value


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[atoll.IoContext]:
    factory = asyncio.new_event_loop if request.param == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with atoll.IoContextThread("worker", loop_factory=factory) as thread:
        yield thread.io_context


@pytest.fixture
def monitor() -> Iterator[LoopMonitor]:
    options = MonitorOptions(interval=0.005, deadline=0.3, stall_threshold=0.03, recover_after=2)
    with LoopMonitor(options) as monitor:
        yield monitor


class Held:
    """A handler that blocks its loop until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._end = threading.Event()

    def block_the_loop(self) -> None:
        self.entered.set()
        self._end.wait(60)

    async def block_after_an_await(self) -> None:
        await asyncio.sleep(0)
        self.block_the_loop()

    def let_go(self) -> None:
        self._end.set()


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.let_go()


def seen(monitor: LoopMonitor) -> LoopHealth:
    (health,) = monitor.loops()
    return health


def has_seen(monitor: LoopMonitor, handler: str) -> bool:
    """Whether the handler's stall has ended. On a loaded machine there are others, of what is no handler."""
    return any(stall.handler == handler and stall.over for stall in monitor.stalls())


def test_a_loop_that_runs_is_healthy_and_its_probes_are_no_work(loop: atoll.IoContext, monitor: LoopMonitor) -> None:
    monitor.watch(loop)
    wait_for(lambda: seen(monitor).largest_latency > 0, "a probe's turn")
    assert seen(monitor).is_healthy
    assert seen(monitor).is_running
    assert monitor.is_healthy
    assert loop.stats().total == 0, "a probe is in no statistics"


def test_probes_do_not_keep_run_from_returning(monitor: LoopMonitor) -> None:
    io_context = atoll.IoContext("resting")
    monitor.watch(io_context)
    for _ in range(20):
        io_context.post(time.sleep, 0.002)
        assert io_context.run() == 1
        io_context.restart()
    io_context.close()


def test_a_stuck_loop_is_unhealthy_its_handler_is_named_and_the_miss_is_counted_once(
    loop: atoll.IoContext, monitor: LoopMonitor, held: Held
) -> None:
    monitor.watch(loop)
    loop.post(held.block_the_loop)
    held.entered.wait(60)
    loop.post(print, name="waits behind it")
    wait_for(lambda: not seen(monitor).is_healthy, "bad health")
    health = seen(monitor)
    assert health.running_handler == "Held.block_the_loop"
    assert health.running_for is not None
    assert health.running_for > 0.03
    assert health.oldest_queued is not None
    assert health.oldest_queued > 0
    assert not monitor.is_healthy
    time.sleep(0.1)
    assert seen(monitor).missed == health.missed, "a probe is missed once"
    assert sum(stall.handler == "Held.block_the_loop" for stall in monitor.stalls()) == 1
    held.let_go()
    wait_for(lambda: seen(monitor).is_healthy, "good health again")
    wait_for(lambda: seen(monitor).running_handler is None, "rest")


def test_one_stuck_loop_says_nothing_of_the_others(monitor: LoopMonitor, held: Held) -> None:
    with atoll.IoContextThread("stuck") as stuck, atoll.IoContextThread("free") as free:
        monitor.watch(stuck.io_context)
        monitor.watch(free.io_context)
        stuck.io_context.post(held.block_the_loop)
        wait_for(lambda: not monitor.is_healthy, "bad health")
        assert [(it.loop, it.is_healthy) for it in monitor.loops()] == [("stuck", False), ("free", True)]
        held.let_go()


def test_a_loop_whose_health_does_not_count_leaves_the_whole_healthy(
    loop: atoll.IoContext, monitor: LoopMonitor, held: Held
) -> None:
    monitor.watch(loop, counts_for_health=False)
    loop.post(held.block_the_loop)
    wait_for(lambda: not seen(monitor).is_healthy, "bad health")
    assert monitor.is_healthy


def test_callbacks_are_told_of_changes_of_health_only(
    loop: atoll.IoContext, monitor: LoopMonitor, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, bool]] = []
    monitor.on_health_change(lambda name, healthy: told.append((name, healthy)))
    monitor.on_health_change(lambda *_: 1 / 0)
    monitor.watch(loop)
    loop.post(held.block_the_loop)
    wait_for(lambda: told == [("worker", False)], "the callback")
    held.let_go()
    wait_for(lambda: told == [("worker", False), ("worker", True)], "the callback")
    texts = [record.getMessage() for record in caplog.records if record.name == "atoll.observe"]
    assert any("loop worker is unhealthy" in text for text in texts)
    assert any("loop worker is healthy again" in text for text in texts)
    assert any("a callback of the loop monitor raised" in text for text in texts)


@LINUX
@pytest.mark.parametrize("handler", ["block_the_loop", "block_after_an_await"])
def test_a_stall_is_one_record_with_the_stack_taken_during_it(
    loop: atoll.IoContext, monitor: LoopMonitor, held: Held, handler: str
) -> None:
    monitor.watch(loop)
    loop.post(getattr(held, handler))
    stall: Stall = wait_for(lambda: [it for it in monitor.stalls() if it.stack], "a stall")[0]
    assert (stall.loop, stall.handler, stall.over) == ("worker", f"Held.{handler}", False)
    assert stall.stack is not None
    functions = re.findall(r"in (\w+)$", stall.stack, flags=re.MULTILINE)
    assert functions[:2] == ["wait", "wait"], "threading's own, where it is blocked"
    assert functions[2] == "block_the_loop"
    assert "_io_context.py" not in stall.stack
    held.let_go()
    stall = wait_for(lambda: [it for it in monitor.stalls() if it.over], "its end")[0]
    assert stall.duration > 0.03
    assert abs(stall.began - time.time()) < 60


GIL_HELD = """
import re, atoll, time
from atoll.observe import LoopMonitor, MonitorOptions

def holds_the_gil():
    re.match(r"(a+)+$", "a" * 25 + "b")

with atoll.IoContextThread("worker") as thread, LoopMonitor(MonitorOptions(stall_threshold=0.02)) as monitor:
    monitor.watch(thread.io_context)
    thread.io_context.submit(holds_the_gil).result()
    deadline = time.monotonic() + 60
    while not (over := [it for it in monitor.stalls() if it.handler == "holds_the_gil" and it.over]):
        assert time.monotonic() < deadline, monitor.stalls()
        time.sleep(0.01)
    stall = over[0]
    assert "in holds_the_gil" in stall.stack, stall
    assert stall.stack_after < stall.duration, stall
print("seen")
"""


@LINUX
def test_a_stack_is_taken_while_one_c_call_holds_the_gil() -> None:
    done = subprocess.run([sys.executable, "-c", GIL_HELD], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "seen\n", done.stderr


@LINUX
def test_a_callback_of_asyncios_own_that_stalls_is_a_stall_without_a_handler(
    loop: atoll.IoContext, monitor: LoopMonitor, held: Held
) -> None:
    monitor.watch(loop)

    def callback() -> None:
        held.block_the_loop()

    loop.post(lambda: asyncio.get_running_loop().call_soon(callback))
    held.entered.wait(30)
    loop.post(print, name="waits behind it")
    stall: Stall = wait_for(monitor.stalls, "a stall")[0]
    assert stall.handler is None
    assert "in callback" in str(stall.stack)
    assert "something that is no handler keeps it" in str(stall)


def test_a_loop_that_only_waits_is_no_stall(loop: atoll.IoContext, monitor: LoopMonitor) -> None:
    monitor.watch(loop)
    loop.submit(asyncio.sleep, 0.2).result(30)
    assert monitor.stalls() == ()


def test_reports_are_one_log_entry_each_and_too_many_are_counted_instead(
    loop: atoll.IoContext, caplog: pytest.LogCaptureFixture
) -> None:
    options = MonitorOptions(stall_threshold=0.02, stall_reports_per_minute=2)
    with LoopMonitor(options) as monitor:
        monitor.watch(loop)
        for number in range(4):
            loop.submit(time.sleep, 0.06, name=f"stall {number}").result(30)
            wait_for(functools.partial(has_seen, monitor, f"stall {number}"), "a stall's end")
        assert seen(monitor).stalls >= 4
    records = [record for record in caplog.records if record.levelno == logging.WARNING and hasattr(record, "stack")]
    assert len(records) == 2
    handlers = [record.handler for record in records]  # type: ignore[attr-defined]
    assert [name for name in handlers if name] == ["stall 0", "stall 1"][: 2 - handlers.count(None)]
    for record, name in zip(records, handlers, strict=True):
        what = f"handler {name}" if name else "something that is no handler"
        assert f"loop worker stalled: {what} kept it for" in record.getMessage()


def test_no_more_stalls_are_retained_than_asked(loop: atoll.IoContext) -> None:
    with LoopMonitor(MonitorOptions(stall_threshold=0.02, stalls_retained=2)) as monitor:
        monitor.watch(loop)
        for number in range(3):
            loop.submit(time.sleep, 0.06, name=f"stall {number}").result(30)
            wait_for(functools.partial(has_seen, monitor, f"stall {number}"), "a stall's end")
        retained = monitor.stalls()
        assert len(retained) == 2
        assert "stall 0" not in [it.handler for it in retained]


def test_a_loop_may_have_a_threshold_of_its_own(monitor: LoopMonitor, loop: atoll.IoContext) -> None:
    monitor.watch(loop, stall_threshold=math.inf)
    loop.submit(time.sleep, 0.1).result(30)
    assert monitor.stalls() == ()
    monitor.watch(loop, stall_threshold=0.01)
    loop.submit(time.sleep, 0.1, name="now").result(30)
    wait_for(lambda: [it.handler for it in monitor.stalls()] == ["now"], "a stall")


def test_a_loop_that_is_gone_is_forgotten(monitor: LoopMonitor) -> None:
    with atoll.IoContextThread("gone") as thread:
        monitor.watch(thread.io_context)
        assert len(monitor.loops()) == 1
    del thread
    wait_for(lambda: monitor.loops() == (), "the end of the loop")


def test_a_monitor_starts_once_and_says_what_to_do_before() -> None:
    monitor = LoopMonitor()
    with pytest.raises(LoopRunningError, match="start"):
        monitor.loops()
    with monitor, pytest.raises(LoopRunningError, match="construct a new one"):
        monitor.start()
    monitor.stop()


def test_a_monitor_that_nobody_stopped_does_not_keep_the_interpreter() -> None:
    program = "import atoll.observe as o; m = o.LoopMonitor(); m.start(); g = o.GilGauge(0.001); print('end')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@LINUX
@pytest.mark.usefixtures("monitor")
def test_the_signal_for_a_stack_leaves_errno_as_it_was() -> None:
    """A loop whose `epoll_wait` is cut short reads it after it has waited for a garbage collection, without a GIL."""
    libc = ctypes.CDLL(None)
    libc.__errno_location.restype = ctypes.c_void_p
    here = ctypes.c_int.from_address(libc.__errno_location())
    used = activate_stack_sampler(signal.SIGRTMIN + 5)
    assert used is not None
    here.value = errno.EINTR
    signal.pthread_kill(threading.get_ident(), used)
    assert here.value == errno.EINTR


SIGNALS = """
import signal, sys, time, atoll
from atoll.observe import LoopMonitor, MonitorOptions

def refused(number):
    try:
        with LoopMonitor(stack_signal=number):
            return "started"
    except ValueError as error:
        return str(error)

fast = MonitorOptions(stall_threshold=0.005)
for number in (signal.SIGKILL, signal.SIGABRT, 999):
    assert "can't be used" in refused(number), refused(number)
with atoll.IoContextThread("worker") as thread, LoopMonitor(fast) as monitor:
    monitor.watch(thread.io_context)
    assert "already" in refused(signal.SIGRTMIN + 6)
    assert "can't be used" in refused(signal.SIGKILL)
    thread.io_context.submit(time.sleep, 0.5).result()
    assert monitor.stalls(), "it goes on as before"
print("alive")
"""


@LINUX
def test_a_signal_that_can_not_be_had_is_refused_and_never_sent() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("interval", 0),
        ("deadline", -1.0),
        ("window", math.inf),
        ("stall_threshold", 0.0001),
        ("stall_threshold", math.nan),
        ("recover_after", 0),
        ("stall_reports_per_minute", -1),
        ("stalls_retained", 0.5),
    ],
)
def test_a_setting_that_can_not_work_is_an_error_that_names_it(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        MonitorOptions(**{option: value})  # type: ignore[arg-type]


def test_a_monitor_ends_at_once_though_its_threads_wait_for_something_to_do() -> None:
    began = time.monotonic()
    for _ in range(40):
        with LoopMonitor():
            time.sleep(0.001)
    assert time.monotonic() - began < 10, "each would take half a second"


@pytest.mark.parametrize("factory", ["asyncio", "uvloop"])
def test_a_guest_whose_host_does_not_run_rests(monitor: LoopMonitor, factory: str) -> None:
    new_loop = asyncio.new_event_loop if factory == "asyncio" else pytest.importorskip("uvloop").new_event_loop

    async def guest() -> atoll.IoContext:
        return atoll.IoContext.current()

    async def until_it_runs() -> None:
        await asyncio.to_thread(wait_for, lambda: seen(monitor).is_running, "a run")

    async def until_it_is_stuck() -> None:
        wait_for(lambda: not seen(monitor).is_healthy, "bad health")

    host = new_loop()
    try:
        monitor.watch(host.run_until_complete(guest()))
        for _ in range(2):
            wait_for(lambda: not seen(monitor).is_running, "rest")
            missed = seen(monitor).missed
            time.sleep(3 * monitor.options.deadline)
            assert (seen(monitor).is_healthy, seen(monitor).missed) == (True, missed)
            host.run_until_complete(until_it_runs())
        host.run_until_complete(until_it_is_stuck())
        assert not monitor.is_healthy
        wait_for(lambda: monitor.is_healthy, "health of what is not stuck any more, for it rests")
        assert not seen(monitor).is_running
    finally:
        host.run_until_complete(host.shutdown_asyncgens())
        host.close()


def test_a_guest_that_is_posted_to_is_seen_to_run_at_once(monitor: LoopMonitor) -> None:
    host = asyncio.new_event_loop()

    async def main() -> atoll.IoContext:
        return atoll.IoContext.current()

    async def run_a_post(io_context: atoll.IoContext) -> LoopHealth:
        return await io_context.submit(seen, monitor)

    try:
        io_context = host.run_until_complete(main())
        monitor.watch(io_context)
        wait_for(lambda: not seen(monitor).is_running, "rest")
        assert host.run_until_complete(run_a_post(io_context)).is_running
    finally:
        host.run_until_complete(host.shutdown_asyncgens())
        host.close()
