"""Modules that wait for each other are reported, those that merely wait are not."""

from __future__ import annotations

import asyncio
import time

import pytest

import atoll
from atoll.loop import AwaitedCall
from atoll.observe import LoopMonitor, MonitorOptions
from atoll.observe._waiting import find_cycles


def call(caller: str, loop: str, waited: float = 10.0) -> AwaitedCall:
    return AwaitedCall(caller, loop, f"{loop}.answer", 0.0, waited)


def loops(*calls: AwaitedCall) -> list[tuple[str, ...]]:
    return [cycle.loops for cycle in find_cycles(calls, 5.0)]


def test_a_chain_is_no_cycle() -> None:
    assert loops(call("a", "b"), call("b", "c")) == []


def test_a_cycle_is_found_once_wherever_it_begins() -> None:
    assert loops(call("b", "a"), call("a", "b")) == [("a", "b")]
    assert loops(call("c", "a"), call("a", "b"), call("b", "c")) == [("a", "b", "c")]
    assert loops(call("x", "a"), call("b", "a"), call("a", "b")) == [("a", "b")]


def test_a_cycle_of_which_one_call_is_young_may_yet_resolve() -> None:
    assert loops(call("a", "b"), call("b", "a", 1.0)) == []


def test_two_cycles_are_two() -> None:
    assert loops(call("a", "b"), call("b", "a"), call("c", "d"), call("d", "c")) == [("a", "b"), ("c", "d")]


class Locked:
    """Holds its lock while it calls the other module, which calls back."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.other: atoll.ModuleRef[Locked] | None = None

    async def ask(self) -> str:
        assert self.other is not None
        async with self.lock:
            return await self.other.call(Locked.ask_back)

    async def ask_back(self) -> str:
        assert self.other is not None
        return await self.other.call(Locked.needs_the_lock)

    async def needs_the_lock(self) -> str:
        async with self.lock:
            return "had it"


def test_a_lock_held_across_calls_that_come_back_is_named_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    options = MonitorOptions(cycle_patience=0.05)
    with LoopMonitor(options) as monitor, atoll.IoContextThread("a") as a, atoll.IoContextThread("b") as b:
        first = a.io_context.submit(Locked).result(30)
        second = b.io_context.submit(Locked).result(30)
        first.other = atoll.ModuleRef(b.io_context, second)
        second.other = atoll.ModuleRef(a.io_context, first)
        stuck = a.io_context.submit(first.ask)
        end = time.monotonic() + 60
        while not any("wait for each other" in record.getMessage() for record in caplog.records):
            assert time.monotonic() < end
            time.sleep(0.01)
        (cycle,) = monitor.cycles()
        assert cycle.loops == ("a", "b")
        assert "a waits for Locked.ask_back on b" in str(cycle)
        assert "b waits for Locked.needs_the_lock on a" in str(cycle)
        assert monitor.stalls() == (), "neither loop is stuck"
        stuck.cancel()
        while monitor.cycles():
            assert time.monotonic() < end
            time.sleep(0.01)
    assert sum("wait for each other" in record.getMessage() for record in caplog.records) == 1
