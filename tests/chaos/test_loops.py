"""Delays injected by the loop: each handler once, whichever way it was posted, the same for the same seed."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll import chaos
from atoll.errors import ChaosConfigurationError
from atoll.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def io_context(clock: ManualClock) -> Iterator[atoll.IoContext]:
    io_context = atoll.IoContext("test", clock=clock)
    yield io_context
    io_context.close()


def always(microseconds: int, name: str = "*") -> chaos.DelayInjector:
    return chaos.DelayInjector.parse(f"{name}={microseconds}:{microseconds}", seed=1)


def test_every_way_of_posting_is_delayed_once(clock: ManualClock, io_context: atoll.IoContext) -> None:
    io_context.inject_delays(always(1_000_000))
    ran: list[tuple[str, float]] = []

    def note(way: str) -> None:
        ran.append((way, io_context.now()))

    io_context.post(note, "post")
    io_context.bind(note)("bound")
    io_context.submit(note, "submit")
    io_context.dispatch(note, "dispatch from elsewhere")
    io_context.post(note, "delayed", delay=5)
    io_context._post_delayed(note, ("numbered",), "numbered", 6, None)
    clock.advance(100)
    assert ran == [
        ("post", 1.0),
        ("bound", 1.0),
        ("submit", 1.0),
        ("dispatch from elsewhere", 1.0),
        ("delayed", 6.0),
        ("numbered", 7.0),
    ]


def test_a_handler_that_posts_itself_again_is_delayed_once_each_time(
    clock: ManualClock, io_context: atoll.IoContext
) -> None:
    io_context.inject_delays(always(500_000, "tick"))
    ran: list[float] = []

    def tick() -> None:
        ran.append(io_context.now())
        io_context.post(tick, name="tick", delay=1)

    io_context.post(tick, name="tick", delay=1)
    clock.advance(6)
    assert ran == [1.5, 3.0, 4.5, 6.0]


def test_dispatch_on_its_own_loop_is_never_delayed(clock: ManualClock, io_context: atoll.IoContext) -> None:
    io_context.inject_delays(always(1_000_000, "inner"))
    ran: list[float] = []
    io_context.post(lambda: io_context.dispatch(lambda: ran.append(io_context.now()), name="inner"))
    clock.settle()
    assert ran == [0.0]


def test_later_steps_of_a_coroutine_are_not_delayed(clock: ManualClock, io_context: atoll.IoContext) -> None:
    io_context.inject_delays(always(1_000_000))
    ran: list[float] = []

    async def two_steps() -> None:
        ran.append(io_context.now())
        await asyncio.sleep(0)
        ran.append(io_context.now())

    io_context.post(two_steps)
    clock.advance(10)
    assert ran == [1.0, 1.0]


def order_under(seed: int) -> list[int]:
    clock = ManualClock()
    io_context = atoll.IoContext("test", clock=clock)
    io_context.inject_delays(chaos.DelayInjector.parse("*=0:1000", seed=seed))
    ran: list[int] = []
    for number in range(10):
        io_context.post(ran.append, number)
    clock.advance(1)
    io_context.close()
    return ran


def test_a_seed_is_one_order_and_another_seed_another() -> None:
    orders = {seed: order_under(seed) for seed in range(5)}
    assert orders == {seed: order_under(seed) for seed in range(5)}
    assert len({tuple(order) for order in orders.values()}) == 5
    assert all(sorted(order) == list(range(10)) for order in orders.values()), "nothing is lost"


def test_delays_are_what_a_preview_says(clock: ManualClock, io_context: atoll.IoContext) -> None:
    injector = chaos.DelayInjector.parse("Heartbeat=1000:2000", seed=7)
    io_context.inject_delays(injector)
    ran: list[float] = []
    for _ in range(5):
        io_context.post(lambda: ran.append(io_context.now()), name="NodeService.Heartbeat")
    clock.advance(1)
    assert ran == sorted(injector.preview("test", "NodeService.Heartbeat", 5))


def test_what_waits_for_an_injected_delay_is_work_and_can_be_cancelled(io_context: atoll.IoContext) -> None:
    io_context.inject_delays(always(3_600_000_000))
    future = io_context.submit(print)
    assert io_context.stats().delayed == 1
    assert future.cancel()
    assert io_context.stats().delayed == 0
    assert io_context.run() == 0


def test_delays_end_when_they_are_switched_off(clock: ManualClock, io_context: atoll.IoContext) -> None:
    io_context.inject_delays("*=1000:1000")
    io_context.inject_delays(None)
    ran: list[float] = []
    io_context.post(lambda: ran.append(io_context.now()))
    clock.settle()
    assert ran == [0.0]


def test_each_delayed_name_is_announced_once_and_counted(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    io_context = atoll.IoContext("announced", clock=clock)
    io_context.inject_delays(always(1000, "loud"))
    before = chaos.delays()
    for _ in range(3):
        io_context.post(lambda: None, name="loud")
    io_context.post(lambda: None, name="quiet")
    clock.advance(1)
    io_context.close()
    lines = [it.getMessage() for it in caplog.records if it.levelno == logging.ERROR and "announced" in it.getMessage()]
    assert len(lines) == 1
    assert "loud on loop announced by 0.001000 to 0.001000 s" in lines[0]
    (count,) = (it for it in chaos.delays() - before if it.loop == "announced")
    assert (count.handler, count.count) == ("loud", 3)


PROGRAM = """
import atoll
loop = atoll.IoContext("main")
order = []
for number in range(6):
    loop.post(order.append, number, name="Heartbeat")
loop.run()
print(order)
"""


def run_with(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_environment_delays_every_loop_loudly_and_a_seed_repeats_it() -> None:
    variables = {"ATOLL_TESTING_DELAY_US": "Heartbeat=0:200000", "ATOLL_TESTING_SEED": "11"}
    first, second = run_with(**variables), run_with(**variables)
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout != "[0, 1, 2, 3, 4, 5]\n"
    assert "ATOLL_TESTING_SEED=11 to repeat" in first.stderr
    assert run_with().stdout == "[0, 1, 2, 3, 4, 5]\n"
    assert run_with().stderr == ""


def test_a_malformed_value_stops_the_program_at_start() -> None:
    done = run_with(ATOLL_TESTING_DELAY_US="Heartbeat=2000:1000")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ChaosConfigurationError" in done.stderr
    assert "Write Heartbeat=1000:2000." in done.stderr


def test_malformed_rules_in_code_change_nothing(clock: ManualClock, io_context: atoll.IoContext) -> None:
    with pytest.raises(ChaosConfigurationError, match="Heartbeat"):
        io_context.inject_delays("Heartbeat=1")
    ran: list[float] = []
    io_context.post(lambda: ran.append(io_context.now()))
    clock.settle()
    assert ran == [0.0]
