"""Calls are delayed on purpose as posts are: once each, and what ends them meanwhile still ends them."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

from collections.abc import Iterator
from typing import Any

import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, NewLoop, path, serving, until

from atoll import chaos


@pytest.fixture(autouse=True)
def announcements(log: Log) -> Iterator[None]:
    """That handlers are delayed is said loudly, once per loop and name."""
    yield
    log.take("Delaying handler")


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
