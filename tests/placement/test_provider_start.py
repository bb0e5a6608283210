"""A provider starts its loops one after the other, as the policy says, and stops those that run when one can't."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

import pytest

import atoll
from atoll import IoContextPolicy, IoContextProvider, dedicated
from atoll.errors import PlacementError
from atoll.placement import PlacedLoop


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
        problem = r"loop 'second' of Stuck does not run after start_timeout=0\.05 s: look"
        with pytest.raises(TimeoutError, match=problem):
            async with IoContextProvider(Stuck, start_timeout=0.05, stop_timeout=0.05):
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


def test_each_loop_is_handed_to_be_observed_when_it_runs_with_what_the_policy_says_of_it() -> None:
    observed: list[tuple[str, bool, float | None]] = []

    class Observing(IoContextProvider[Any]):
        def _observe(self, thread: atoll.IoContextThread, loop: PlacedLoop) -> None:
            observed.append((loop.name, thread.is_running, loop.placement.lag_probe))

    class Observed(IoContextPolicy[Nodes | Kv]):
        first = dedicated(Nodes, lag_probe=0.5)
        second = dedicated(Kv, lag_probe=False)

    async def main() -> None:
        async with Observing(Observed):
            assert observed == [("first", True, 0.5), ("second", True, None)]

    asyncio.run(main())


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
