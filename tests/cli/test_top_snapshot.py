"""What follows from what an endpoint tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from atoll.cli.top import _render as render
from atoll.cli.top._snapshot import State, rows

if TYPE_CHECKING:
    from atoll.cli.top._snapshot import Health, Loop, Stall, Top


def health(**values: Any) -> Health:
    told: Health = {
        "healthy": True,
        "counts": True,
        "missed": 0,
        "latency": 0.001,
        "largest_latency": 0.002,
        "outstanding": None,
        "stalls": 0,
    }
    return told | values  # type: ignore[return-value] # of the same fields


def stall(**values: Any) -> Stall:
    told: Stall = {
        "loop": "loop",
        "handler": "slow",
        "began": 100.0,
        "duration": 2.0,
        "over": False,
        "stack": None,
        "stack_after": 0.1,
    }
    return told | values  # type: ignore[return-value] # of the same fields


def loop(**values: Any) -> Loop:
    told: Loop = {
        "name": "loop",
        "modules": [],
        "runs": True,
        "thread": {"id": 1, "cpu": 5.0},
        "health": health(),
        "lag": None,
        "queued": {"control": 0, "normal": 0, "bulk": 0},
        "oldest_queued": None,
        "delayed": 0,
        "guards": 0,
        "running": None,
        "stall": None,
        "time": {"uptime": 10.0, "idle": 4.0, "waiting": 1.0, "running": 5.0},
        "total": 100,
        "active": 0,
        "errors": 0,
        "handlers": [],
        "handlers_left_out": 0,
    }
    return told | values  # type: ignore[return-value] # of the same fields


def top(*loops: Loop, pid: int = 1, stalls: list[Stall] | None = None) -> Top:
    process: Any = {"pid": pid, "uptime": 10.0, "command": [], "atoll": "0"}
    return {"version": 1, "at": 200.0, "process": process, "loops": list(loops), "stalls": stalls or []}


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({}, State.IDLE),
        ({"runs": False}, State.STOPPED),
        ({"runs": False, "stall": stall()}, State.STOPPED),
        ({"stall": stall()}, State.STUCK),
        ({"health": health(healthy=False)}, State.UNHEALTHY),
        ({"running": {"handler": "slow", "age": 60.0}}, State.RUNNING),
        ({"running": {"handler": "slow", "age": 0.5}, "health": None}, State.RUNNING),
        ({"running": {"handler": "slow", "age": 1.5}, "health": None}, State.STUCK),
        ({"queued": {"control": 0, "normal": 1, "bulk": 0}}, State.WAITING),
        ({"lag": 0.5}, State.WAITING),
    ],
)
def test_a_loops_state_is_the_worst_that_is_known(values: dict[str, Any], state: State) -> None:
    (row,) = rows(top(loop(**values)))
    assert row.state == state


@pytest.mark.parametrize(
    ("values", "lag"),
    [
        ({"health": None}, None),
        ({}, 0.001),
        ({"lag": 0.0}, 0.0),
        ({"lag": 0.01, "oldest_queued": 0.02}, 0.02),
        ({"lag": 0.01, "health": health(healthy=False, outstanding=7.0)}, 7.0),
        ({"health": health(outstanding=7.0)}, 0.001),
    ],
)
def test_the_lag_is_the_longest_wait_that_is_known(values: dict[str, Any], lag: float | None) -> None:
    (row,) = rows(top(loop(**values)))
    assert row.lag == lag


def test_the_first_answer_tells_of_the_whole_life_and_the_next_of_the_time_between() -> None:
    first = top(loop())
    (row,) = rows(first)
    assert (row.busy, row.held_up, row.cpu, row.rate) == (0.5, 0.1, None, None)
    later = top(
        loop(
            total=150, thread={"id": 1, "cpu": 5.5}, time={"uptime": 12.0, "idle": 4.0, "waiting": 1.5, "running": 6.5}
        )
    )
    (row,) = rows(later, first)
    assert (row.busy, row.held_up, row.cpu, row.rate) == (0.75, 0.25, 0.25, 25.0)


def test_another_process_and_another_loop_of_the_name_begin_anew() -> None:
    first = top(loop(time={"uptime": 50.0, "idle": 50.0, "waiting": 0.0, "running": 0.0}))
    for later in (top(loop()), top(loop(), pid=2)):
        (row,) = rows(later, first)
        assert (row.busy, row.rate) == (0.5, None)


def test_loops_of_one_name_have_keys_of_their_own() -> None:
    found = rows(top(loop(), loop(), loop(name="2 loop")))
    assert len({row.key for row in found}) == 3


def test_the_last_stall_of_a_loop_is_the_one_that_goes_on_or_the_latest_retained() -> None:
    retained = [stall(handler="first", over=True), stall(handler="second", over=True)]
    (row,) = rows(top(loop(), stalls=retained))
    assert row.last_stall is not None
    assert row.last_stall["handler"] == "second"
    assert "last stall: second took 2.00 s, 98.0 s ago" in render.stall_title(row.last_stall, row, 200.0)
    (row,) = rows(top(loop(stall=stall(handler=None)), stalls=retained))
    assert row.last_stall is not None
    assert render.stall_title(row.last_stall, row, 200.0) == "STUCK in something that is no handler for 2.00 s"


@pytest.mark.parametrize(("cpu", "words"), [(5.01, ", not computing: it waits for the GIL"), (5.9, ", computing")])
def test_of_stuck_loops_the_one_that_computes_is_told_from_those_that_wait(cpu: float, words: str) -> None:
    time = {"uptime": 11.0, "idle": 4.0, "waiting": 1.0, "running": 6.0}
    later = top(loop(stall=stall(), thread={"id": 1, "cpu": cpu}, time=time))
    (row,) = rows(later, top(loop()))
    assert row.last_stall is not None
    assert render.stall_title(row.last_stall, row, 200.0).startswith(f"STUCK in slow for 2.00 s{words}")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0.00 µs"),
        (1.5e-6, "1.50 µs"),
        (0.000999, "999 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1.00 s"),
        (59.96, "60.0 s"),
        (123.4, "123 s"),
        (700.0, "11 min 40 s"),
        (659.9, "10 min 59 s"),
        (7300.0, "2 h 1 min"),
        (200_000.0, "2 d 7 h"),
    ],
)
def test_durations_have_three_digits(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


def test_a_stack_is_shown_with_the_function_first() -> None:
    lines = '  File "/a b/c.py", line 12 in deep\n  File "<string>", line ??? in <module>\n  ...\n'
    assert render.stack(stall(stack=lines)).plain.splitlines() == [
        "deep      /a b/c.py:12",
        "<module>  <string>:???",
        "...",
    ]
    assert "no stack could be taken" in render.stack(stall()).plain
