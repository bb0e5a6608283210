"""Calls are delayed on purpose as posts are: once each, and what ends them meanwhile still ends them."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

from collections.abc import Iterator
from typing import Any

import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, NewLoop, path, serving, until

from atoll import IoContext, IoContextThread, chaos
from atoll.testing import ManualClock


@pytest.fixture(autouse=True)
def announcements(log: Log) -> Iterator[None]:
    """That handlers are delayed, and from which seed, is said loudly, each once."""
    yield
    log.take("Delaying handler")
    log.take("Drew the seed")


async def test_a_call_is_delayed_once_and_then_answered(client: ClientProcess, new_loop: NewLoop) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b"answered"

    module = new_loop("delayed module")
    before = chaos.delays()
    module.inject_delays("Answer=1000:2000")
    async with serving(module, Answer=answer) as target:
        for _ in range(5):
            assert (await client.call(target, path("Answer"))).reply == b"answered"
    (count,) = (it for it in chaos.delays() - before if it.loop == "delayed module")
    assert count.count == 5
    assert 0.005 <= count.total <= 0.010
    assert module.stats().delayed == 0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def in_moved_time(clock: ManualClock) -> Iterator[IoContext]:
    with IoContextThread("module in moved time", clock=clock) as thread:
        yield thread.io_context


async def test_calls_run_when_the_seed_says(
    client: ClientProcess, in_moved_time: IoContext, clock: ManualClock
) -> None:
    ran: list[float] = []

    async def answer(request: bytes, context: Any) -> bytes:
        ran.append(in_moved_time.now())
        return b"answered"

    injector = chaos.DelayInjector.parse("Hoc.Answer=100000:900000,*=0:0", seed=3)
    in_moved_time.inject_delays(injector)
    async with serving(in_moved_time, Answer=answer) as target:
        calls = [client.start(target, path("Answer")) for _ in range(3)]
        await until(lambda: in_moved_time.stats().delayed == 3)
        assert ran == []
        clock.advance(1)
        assert [(await call.outcome()).reply for call in calls] == [b"answered"] * 3
    expected = injector.preview(in_moved_time.name, "Hoc.Answer", 3)
    assert ran == pytest.approx(sorted(expected), abs=1e-6)


async def test_a_call_that_no_rule_matches_runs_without_time_passing(
    client: ClientProcess, in_moved_time: IoContext, clock: ManualClock
) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b"answered"

    in_moved_time.inject_delays("Another=100000:100000")
    async with serving(in_moved_time, Answer=answer) as target:
        assert (await client.call(target, path("Answer"))).reply == b"answered"
    assert clock.now() == 0.0


async def test_a_call_whose_deadline_passes_while_it_is_held_back_never_runs(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    ran: list[bytes] = []

    async def answer(request: bytes, context: Any) -> bytes:
        ran.append(request)
        return b""

    module = new_loop("slow module")
    module.inject_delays("Answer=400000:400000")
    async with serving(module, Answer=answer) as target:
        assert (await client.call(target, path("Answer"), timeout=0.05)).code == "DEADLINE_EXCEEDED"
        await until(lambda: module.stats().delayed == 0)
        await until(lambda: module.stats().active == 0)
    assert ran == []


async def test_calls_that_are_held_back_when_their_loop_closes_are_answered(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b""

    module = new_loop("closed module")
    module.inject_delays("Answer=3600000000:3600000000")
    async with serving(module, Answer=answer) as target:
        call = client.start(target, path("Answer"))
        await until(lambda: module.stats().delayed == 1)
        module.stop()
        assert (await call.outcome()).code == "UNAVAILABLE"
