"""Delays of several loops, handlers and threads: whose they are, from which seed, and from when on."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll import chaos
from atoll.chaos import DelayInjector
from atoll.errors import ChaosConfigurationError
from atoll.testing import ManualClock

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

TENTH = "*=100000:100000"
SPREAD = DelayInjector.parse("*=0:1000000", seed=5)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def make(clock: ManualClock) -> Iterator[Callable[..., atoll.IoContext]]:
    """Makes contexts on the clock, and closes them at the end."""
    made: list[atoll.IoContext] = []

    def make_one(name: str = "test") -> atoll.IoContext:
        made.append(atoll.IoContext(name, clock=clock))
        return made[-1]

    yield make_one
    for io_context in made:
        io_context.close()


@pytest.fixture
def io_context(make: Callable[..., atoll.IoContext]) -> atoll.IoContext:
    return make()


class Counted:
    """How often handlers have been delayed since it was made."""

    def __init__(self) -> None:
        self._before = chaos.delays()

    def __call__(self) -> dict[str, int]:
        return {each.handler: each.count for each in chaos.delays() - self._before}


@pytest.fixture
def counted() -> Counted:
    return Counted()


class Moments(list[float]):
    """When it was called, in the context's time."""

    def __init__(self, io_context: atoll.IoContext) -> None:
        self._io_context = io_context

    def __call__(self) -> None:
        self.append(self._io_context.now())


def approximately(*moments: float) -> object:
    return pytest.approx(list(moments), abs=1e-6)


def test_a_delayed_post_that_can_be_cancelled_is_delayed_once_and_can_be_cancelled(
    clock: ManualClock, io_context: atoll.IoContext, counted: Counted
) -> None:
    io_context.inject_delays(TENTH)
    ran = Moments(io_context)
    io_context._post_delayed(ran, (), "timer", 2.0, "normal")
    cancelled = io_context._post_delayed(ran, (), "cancelled", 2.0, "normal")
    clock.advance(2.05)
    assert cancelled is not None
    assert io_context._cancel_delayed(cancelled)
    clock.advance(10)
    assert ran == approximately(2.1)
    assert counted() == {"timer": 1, "cancelled": 1}


def test_each_run_of_a_handler_that_posts_itself_again_is_delayed_once(
    clock: ManualClock, io_context: atoll.IoContext, counted: Counted
) -> None:
    io_context.inject_delays(SPREAD)
    ran = Moments(io_context)

    def tick() -> None:
        ran()
        if len(ran) < 5:
            io_context.post(tick, name="tick", delay=1.0)

    io_context.post(tick, name="tick")
    clock.advance(100)
    delays = SPREAD.preview("test", "tick", 5)
    assert ran == approximately(*(run + total for run, total in enumerate(itertools.accumulate(delays))))
    assert counted() == {"tick": 5}


def test_a_loop_does_not_run_out_of_work_while_a_handler_is_held_back() -> None:
    io_context = atoll.IoContext("held back")
    io_context.inject_delays("*=20000:20000")
    ran: list[int] = []
    io_context.post(ran.append, 1)
    assert io_context.run() == 1
    assert ran == [1]
    io_context.close()


def test_one_seed_gives_each_handler_of_each_loop_the_same_delays_again(
    clock: ManualClock, make: Callable[..., atoll.IoContext]
) -> None:
    def run_once() -> dict[tuple[str, str], list[float]]:
        began = clock.now()
        seen: dict[tuple[str, str], list[float]] = {}
        for name in "nodes", "store":
            io_context = make(name)
            io_context.inject_delays(SPREAD)
            for handler in "Heartbeat", "Pull":
                moments = seen[name, handler] = Moments(io_context)
                for _ in range(10):
                    io_context.post(moments, name=handler)
        clock.advance(10)
        return {key: [moment - began for moment in moments] for key, moments in seen.items()}

    first, second = run_once(), run_once()
    for (name, handler), moments in first.items():
        assert moments == approximately(*sorted(SPREAD.preview(name, handler, 10)))
        assert moments == approximately(*second[name, handler])


def test_only_what_a_rule_matches_is_delayed(clock: ManualClock, io_context: atoll.IoContext, counted: Counted) -> None:
    io_context.inject_delays("Slow=100000:100000,Module.Fast=0:0")
    slow, fast, other = Moments(io_context), Moments(io_context), Moments(io_context)
    io_context.post(slow, name="Module.Slow")
    io_context.post(fast, name="Module.Fast")
    io_context.post(other, name="Module.Other")
    clock.advance(10)
    assert (slow, fast, other) == (approximately(0.1), approximately(0.0), approximately(0.0))
    assert counted() == {"Module.Slow": 1, "Module.Fast": 1}


def test_nothing_is_delayed_unless_it_is_asked_for(
    clock: ManualClock, io_context: atoll.IoContext, counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    ran = Moments(io_context)
    io_context.post(ran)
    io_context.post(ran, delay=1.0)
    clock.advance(10)
    assert ran == approximately(0.0, 1.0)
    assert counted() == {}
    assert not [record for record in caplog.records if record.name == "atoll.chaos"]


def test_delays_can_be_changed_and_ended_while_the_loop_runs(clock: ManualClock, io_context: atoll.IoContext) -> None:
    ran = Moments(io_context)
    for rules in (TENTH, "*=200000:200000", None):
        io_context.inject_delays(rules)
        io_context.post(ran, name="work")
        clock.advance(1)
    assert ran == approximately(0.1, 1.2, 2.0)


def test_each_context_has_its_own_delays(
    clock: ManualClock, make: Callable[..., atoll.IoContext], counted: Counted
) -> None:
    first, second = make("first"), make("second")
    first.inject_delays(TENTH)
    slow, fast = Moments(first), Moments(second)
    first.post(slow, name="slow")
    second.post(fast, name="fast")
    clock.advance(1)
    assert (slow, fast) == (approximately(0.1), approximately(0.0))
    assert counted() == {"slow": 1}


def test_malformed_rules_leave_those_in_effect(clock: ManualClock, io_context: atoll.IoContext) -> None:
    io_context.inject_delays(TENTH)
    with pytest.raises(ChaosConfigurationError, match="column 4"):
        io_context.inject_delays("a=1")
    ran = Moments(io_context)
    io_context.post(ran)
    clock.advance(1)
    assert ran == approximately(0.1)


def test_posts_of_many_threads_are_each_delayed_once(io_context: atoll.IoContext, counted: Counted) -> None:
    io_context.inject_delays("*=0:1000000")

    def post() -> None:
        for _ in range(250):
            io_context.post(int, name="threads")

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted() == {"threads": 1000}


def test_the_environment_delays_every_loop_of_a_program_and_says_so(
    elsewhere: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    program = """
import asyncio, atoll
from atoll import chaos
io_context = atoll.IoContext("owner")
for _ in range(3):
    io_context.post(int, name="Heartbeat")
io_context.run()

async def main():
    guest = atoll.IoContext.current()
    await asyncio.wrap_future(guest.submit(int, name="Heartbeat"))

asyncio.run(main())
print(sorted((each.loop, each.handler, each.count) for each in chaos.delays()))
"""
    ended = elsewhere(program, ATOLL_TESTING_DELAY_US="Heartbeat=1000:2000", ATOLL_TESTING_SEED="1")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[('MainThread', 'Heartbeat', 1), ('owner', 'Heartbeat', 3)]"
    lines = ended.stderr.splitlines()
    assert sum(line.startswith("Delaying handlers: ") for line in lines) == 1
    assert sum(line.startswith("Delaying handler Heartbeat on loop owner ") for line in lines) == 1
    assert sum(line.startswith("Delaying handler Heartbeat on loop MainThread ") for line in lines) == 1
    assert "4 delays of handlers:" in lines
