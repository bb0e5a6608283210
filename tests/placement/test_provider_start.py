"""A provider starts its loops one after the other, as the policy says, and stops those that run when one can't."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

import pytest

from atoll import IoContextPolicy, IoContextProvider, dedicated
from atoll.errors import LoopRunningError, PlacementError
from atoll.observe import LoopMonitor, prometheus_text


class Nodes:
    """A module."""


class Kv:
    """Another."""


class Metrics:
    """A third."""


def thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def join(name: str) -> None:
    """Waits for a thread that has been asked to end."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(30)
            assert not thread.is_alive()


def test_when_a_loop_can_not_start_the_others_are_stopped_and_the_provider_is_unusable() -> None:
    def broken() -> asyncio.AbstractEventLoop:
        raise OSError("no more loops")

    class Broken(IoContextPolicy[Nodes | Kv | Metrics]):
        first = dedicated(Nodes)
        second = dedicated(Kv, loop_factory=broken)
        third = dedicated(Metrics)

    async def main() -> None:
        before = sys.getswitchinterval()
        provider = IoContextProvider(Broken)
        with pytest.raises(OSError, match="no more loops"):
            async with provider:
                raise AssertionError("not reached")
        assert not {"first", "second", "third"} & thread_names()
        assert sys.getswitchinterval() == before
        with pytest.raises(PlacementError, match="has been left"):
            provider.io_context(Nodes)

    asyncio.run(main())


def test_a_loop_that_does_not_start_in_time_is_named_and_the_others_are_stopped() -> None:
    release = threading.Event()

    def stuck() -> asyncio.AbstractEventLoop:
        release.wait(30)
        return asyncio.new_event_loop()

    class Stuck(IoContextPolicy[Nodes | Kv | Metrics]):
        first = dedicated(Nodes)
        second = dedicated(Kv, loop_factory=stuck)
        third = dedicated(Metrics)

    async def main() -> None:
        problem = r"loop 'second' of Stuck does not run after start_timeout=1\.0 s: look"
        with pytest.raises(TimeoutError, match=problem):
            async with IoContextProvider(Stuck, start_timeout=1.0, stop_timeout=0.05):
                raise AssertionError("not reached")
        assert not {"first", "third"} & thread_names()

    asyncio.run(main())
    release.set()
    join("second")


def test_cancelling_the_start_stops_what_has_started() -> None:
    entered = threading.Event()
    release = threading.Event()

    def slow() -> asyncio.AbstractEventLoop:
        entered.set()
        release.wait(30)
        return asyncio.new_event_loop()

    class Slow(IoContextPolicy[Nodes | Kv]):
        first = dedicated(Nodes)
        second = dedicated(Kv, loop_factory=slow)

    async def enter() -> None:
        async with IoContextProvider(Slow):
            raise AssertionError("not reached")

    async def main() -> None:
        entering = asyncio.create_task(enter())
        await asyncio.to_thread(entered.wait, 30)
        entering.cancel()
        await asyncio.sleep(0)
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert not {"first", "second"} & thread_names()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    """Waits until the condition holds: what it looks at tells nobody when it changes."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.001)


def test_each_loop_is_watched_and_measured_as_the_policy_says() -> None:
    class Observed(IoContextPolicy[Nodes | Kv]):
        first = dedicated(Nodes, lag_probe=0.001, counts_for_health=False)
        second = dedicated(Kv, lag_probe=False, stall_threshold=0.01)

    async def main() -> None:
        async with IoContextProvider(Observed) as provider:
            assert provider.monitor is not None
            assert [(it.loop, it.counts_for_health) for it in provider.monitor.loops()] == [
                ("first", False),
                ("second", True),
            ]
            await until(lambda: 'io_context_event_loop_lag{loop="first"}' in prometheus_text())
            assert 'io_context_event_loop_lag{loop="second"}' not in prometheus_text()
            await provider.io_context(Kv).submit(time.sleep, 0.1)
            await until(provider.monitor.stalls)
            assert {stall.loop for stall in provider.monitor.stalls()} == {"second"}
        assert 'loop="first"' not in prometheus_text()

    asyncio.run(main())


def test_a_start_that_fails_closes_what_it_had_opened() -> None:
    class Plain(IoContextPolicy[Nodes]):
        """Nodes lives on the default loop."""

    async def main() -> None:
        never_started = LoopMonitor()
        with pytest.raises(LoopRunningError, match="start"):
            async with IoContextProvider(Plain, monitor=never_started, observe=address):
                raise AssertionError("not reached")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    asyncio.run(main())
    with socket.socket() as again:
        assert again.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0, "nobody listens"


def test_a_monitor_of_ones_own_serves_several_providers_and_none_is_needed() -> None:
    class One(IoContextPolicy[Nodes]):
        one = dedicated(Nodes)

    class Two(IoContextPolicy[Kv]):
        two = dedicated(Kv)

    async def main() -> None:
        with LoopMonitor() as monitor:
            async with IoContextProvider(One, monitor=monitor), IoContextProvider(Two, monitor=monitor) as provider:
                assert provider.monitor is monitor
                assert [it.loop for it in monitor.loops()] == ["one", "two"]
        async with IoContextProvider(One, monitor=False) as unwatched:
            assert unwatched.monitor is None

    asyncio.run(main())
    with pytest.raises(PlacementError, match="monitor=1 is no monitor"):
        IoContextProvider(One, monitor=1)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds threads")
def test_a_loop_runs_on_the_cpus_that_the_policy_gives_it() -> None:
    cpu = max(os.sched_getaffinity(0))

    class Pinned(IoContextPolicy[Nodes | Kv]):
        nodes = dedicated(Nodes, cpu_affinity={cpu})
        kv = dedicated(Kv)

    async def main() -> None:
        async with IoContextProvider(Pinned) as provider:
            assert await provider.io_context(Nodes).submit(os.sched_getaffinity, 0) == {cpu}
            assert await provider.io_context(Kv).submit(os.sched_getaffinity, 0) == os.sched_getaffinity(0)

    asyncio.run(main())
