"""`LoopStats.report()`: a table that people read."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll.loop._report import duration

if TYPE_CHECKING:
    from collections.abc import Callable

EMPTY = atoll.Distribution()
QUEUED = {"control": 0, "normal": 3, "bulk": 12_345}


def distribution(count: int, each: float) -> atoll.Distribution:
    if not count:
        return EMPTY
    return atoll.Distribution(count, count * each, each, each, ((each, each, count),))


def event_stats(name: str, count: int, each: float, *, active: int = 0) -> atoll.EventStats:
    return atoll.EventStats(
        name, count + active, active, 0, 0, distribution(count, 12e-6), distribution(count, each), EMPTY
    )


NODE_MANAGER = atoll.LoopStats(
    name="node_manager",
    queued=QUEUED,
    delayed=2,
    guards=1,
    handlers=(
        event_stats("Put", 300, 2.5e-3),
        event_stats("Beat", 20_000, 15e-6),
        event_stats("queued", 0, 0.0, active=7),
        event_stats("later", 0, 0.0, active=7),
    ),
    taken_at=1_000.0,
    uptime=60.0,
    time=atoll.LoopTime(idle=45.0, waiting=5.0, running=10.0),
)

EXPECTED = """\
loop node_manager: 20,314 handlers in 60.0 s, 14 active (0 running), 0 errors
  time            idle 75.0 %, waiting 8.3 %, running 16.7 %
  queued          control 0, normal 3, bulk 12,345; delayed 2; work guards 1
  queue time      mean 12.0 µs, p50 12.0 µs, p90 12.0 µs, p99 12.0 µs, min 12.0 µs, max 12.0 µs, sum 244 ms
  execution time  mean 51.7 µs, p50 15.0 µs, p90 15.0 µs, p99 2.50 ms, min 15.0 µs, max 2.50 ms, sum 1.05 s

                                          execution time                              queue time
handler   total  active  running  errors     mean      p50      p99      max     sum     mean      p50      p99      max
Beat     20,000       0        0       0  15.0 µs  15.0 µs  15.0 µs  15.0 µs  300 ms  12.0 µs  12.0 µs  12.0 µs  12.0 µs
Put         300       0        0       0  2.50 ms  2.50 ms  2.50 ms  2.50 ms  750 ms  12.0 µs  12.0 µs  12.0 µs  12.0 µs
later         7       7        0       0        –        –        –        –       –        –        –        –        –
queued        7       7        0       0        –        –        –        –       –        –        –        –        –
"""


def test_a_report_is_an_aligned_table_of_the_handlers_by_their_number() -> None:
    assert NODE_MANAGER.report() == EXPECTED.rstrip()


def test_the_report_of_a_loop_that_did_nothing_has_no_times(io_context: atoll.IoContext) -> None:
    lines = io_context.stats().report().splitlines()
    assert lines[0].startswith("loop test: 0 handlers in ")
    assert "  queue time      –" in lines
    assert "  execution time  –" in lines
    assert lines[-1] == "no handler has been queued"
    assert "9223372036854" not in "".join(lines)


def test_a_handler_that_waits_has_no_times_yet(io_context: atoll.IoContext) -> None:
    io_context.post(print, name="waits")
    assert io_context.stats().report().splitlines()[-1].split() == ["waits", "1", "1", "0", "0", *"–" * 9]


def test_a_report_says_what_ran(io_context: atoll.IoContext) -> None:
    for _ in range(12):
        io_context.post(time.sleep, 0.001, name="nap")
    io_context.submit(asyncio.sleep, 0, name="sleep")
    io_context.run()
    title, *_, header, nap, sleep = io_context.stats().report().splitlines()
    assert title.startswith("loop test: 13 handlers in ")
    assert title.endswith(", 0 active (0 running), 0 errors")
    assert header.split()[:5] == ["handler", "total", "active", "running", "errors"]
    assert nap.split()[:5] == ["nap", "12", "0", "0", "0"]
    assert sleep.split()[0] == "sleep"


def test_a_windows_report_leaves_out_what_did_nothing_in_it() -> None:
    busier = event_stats("Put", 301, 2.5e-3)
    later = dataclasses.replace(NODE_MANAGER, uptime=60.5, handlers=(busier, *NODE_MANAGER.handlers[1:3]))
    earlier = dataclasses.replace(NODE_MANAGER, handlers=NODE_MANAGER.handlers[:3])
    window = (later - earlier).report()
    assert window.startswith("loop node_manager: 1 handler in a window of 500 ms, 7 active")
    assert "Put" in window
    assert "queued" in window, "it is active"
    assert "Beat" not in window


def test_a_window_in_which_nothing_happened_says_so(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make()
    io_context.post(print)
    io_context.run()
    earlier = io_context.stats()
    assert (io_context.stats() - earlier).report().endswith("\n\nno handler was queued in it")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (40e-9, "0.04 µs"),
        (1.234e-6, "1.23 µs"),
        (9.996e-6, "10.0 µs"),
        (99.96e-6, "100 µs"),
        (999.4e-6, "999 µs"),
        (999.6e-6, "1.00 ms"),
        (12.34e-3, "12.3 ms"),
        (0.9996, "1.00 s"),
        (123.4, "123 s"),
        (12_345.6, "12,346 s"),
    ],
)
def test_a_duration_has_three_digits_in_the_unit_that_suits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
