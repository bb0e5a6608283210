"""What crosses with a call through a reference: deadline, lane, trace; and who waits for whom."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.errors import DeadlineExceededError
from atoll.loop import awaited_calls
from atoll.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Module:
    """Answers when its loop lets it, or another module does."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.other: atoll.ModuleRef[Module] | None = None

    def remaining(self) -> float | None:
        return atoll.time_remaining()

    async def sleep(self, seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        return "slept"

    async def pass_on(self, seconds: float) -> str:
        assert self.other is not None
        return await self.other.call(Module.sleep, seconds)

    async def own_timeout(self) -> None:
        raise TimeoutError("its own")

    async def bounded_remaining(self, seconds: float) -> float | None:
        assert self.other is not None
        return await self.other.with_options(timeout=seconds).call(Module.remaining)


class Two:
    """Two modules on loops of their own, whose time is moved by hand, and a third loop that calls them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.main, self.a, self.b = (atoll.IoContext(name, clock=self.clock) for name in ("main", "a", "b"))
        self.first, self.second = Module(), Module()
        self.first_ref = atoll.ModuleRef(self.a, self.first)
        self.second_ref = atoll.ModuleRef(self.b, self.second)
        self.first.other, self.second.other = self.second_ref, self.first_ref


@pytest.fixture
def two() -> Iterator[Two]:
    two = Two()
    yield two
    for io_context in (two.main, two.a, two.b):
        io_context.close()


def test_a_call_without_a_deadline_has_none(two: Two) -> None:
    future = two.main.submit(two.first_ref.call, Module.remaining)
    two.clock.settle()
    assert future.result() is None
    assert atoll.time_remaining() is None


def test_a_call_that_takes_too_long_is_given_up_and_its_handler_cancelled(two: Two) -> None:
    future = two.main.submit(two.first_ref.with_options(timeout=1).call, Module.sleep, 5)
    two.clock.advance(0.999)
    assert not future.done()
    two.clock.advance(0.002)
    with pytest.raises(DeadlineExceededError, match=r"Module\.sleep on loop 'a' was over after 1 s"):
        future.result()
    assert two.first.events == ["cancelled"]
    assert two.a.stats().active == 0


def test_nested_calls_keep_the_callers_deadline(two: Two) -> None:
    future = two.main.submit(two.first_ref.with_options(timeout=1).call, Module.pass_on, 5)
    two.clock.advance(2)
    with pytest.raises(DeadlineExceededError):
        future.result()
    assert two.second.events == ["cancelled"]


@pytest.mark.parametrize(("timeout", "remaining"), [(0.25, 0.25), (5.0, 1.0)])
def test_the_nearer_deadline_counts(two: Two, timeout: float, remaining: float) -> None:
    call = two.first_ref.with_options(timeout=1).call
    future = two.main.submit(call, Module.bounded_remaining, timeout)
    two.clock.settle()
    assert future.result() == pytest.approx(remaining)


def test_a_call_whose_deadline_is_over_is_not_made(two: Two) -> None:
    future = two.main.submit(two.first_ref.with_options(timeout=0).call, Module.remaining)
    two.clock.settle()
    with pytest.raises(DeadlineExceededError, match="was over before the call"):
        future.result()
    assert two.a.stats().total == 0


def test_what_waits_in_the_mailbox_when_its_deadline_passes_never_runs(two: Two) -> None:
    two.a.stop()
    future = two.main.submit(two.first_ref.with_options(timeout=1).call, Module.sleep, 0)
    two.clock.advance(2)
    with pytest.raises(DeadlineExceededError):
        future.result()
    two.a.restart()
    two.clock.settle()
    assert two.first.events == []
    assert two.a.stats().active == 0


def test_a_handlers_own_time_out_is_its_own_exception(two: Two) -> None:
    future = two.main.submit(two.first_ref.with_options(timeout=1).call, Module.own_timeout)
    two.clock.settle()
    with pytest.raises(TimeoutError, match="its own") as caught:
        future.result()
    assert not isinstance(caught.value, DeadlineExceededError)


def test_a_call_goes_into_the_lane_that_was_asked_for(two: Two) -> None:
    two.a.stop()
    future = two.main.submit(two.first_ref.with_options(lane="control").call, Module.remaining)
    two.clock.settle()
    assert two.a.stats().queued == {"control": 1, "normal": 0, "bulk": 0}
    future.cancel()


def test_a_call_inherits_the_lane_of_the_handler_that_calls(two: Two) -> None:
    two.a.stop()
    future = two.main.submit(two.first_ref.call, Module.remaining, lane="bulk")
    two.clock.settle()
    assert two.a.stats().queued["bulk"] == 1
    future.cancel()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds(two: Two, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        two.first_ref.with_options(timeout=timeout)


def test_calls_that_are_not_answered_are_known_until_they_are(two: Two) -> None:
    future = two.main.submit(two.first_ref.call, Module.pass_on, 5)
    two.clock.advance(2)
    calls = sorted(awaited_calls(), key=lambda it: it.caller)
    assert [(it.caller, it.loop, it.method, it.waited) for it in calls] == [
        ("a", "b", "Module.sleep", 2.0),
        ("main", "a", "Module.pass_on", 2.0),
    ]
    two.clock.advance(5)
    assert future.result() == "slept"
    assert awaited_calls() == []


def test_a_trace_crosses() -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    tracer = sdk.TracerProvider().get_tracer("test")

    class Traced:
        def span(self) -> int:
            number: int = trace.get_current_span().get_span_context().span_id
            return number

    async def main(ref: atoll.ModuleRef[Traced]) -> None:
        with tracer.start_as_current_span("caller") as span:
            assert await ref.call(Traced.span) == span.get_span_context().span_id

    with atoll.IoContextThread("traced") as thread:
        asyncio.run(main(atoll.ModuleRef(thread.io_context, Traced())))


def test_a_deadline_is_kept_on_real_loops_too() -> None:
    module = Module()

    async def main(ref: atoll.ModuleRef[Module]) -> None:
        with pytest.raises(DeadlineExceededError):
            await ref.with_options(timeout=0.01).call(Module.sleep, 3600)

    with atoll.IoContextThread("real") as thread:
        asyncio.run(main(atoll.ModuleRef(thread.io_context, module)))
        thread.io_context.submit(lambda: None).result(30)
    assert module.events == ["cancelled"]
