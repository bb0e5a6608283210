"""What the demo shows while it runs, on a terminal and elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from atoll_control.api.demo.v1 import fault_pb2
from atoll_control.demo.samples import Summary
from atoll_control.demo.view import LiveView, PlainView, Snapshot

SPREAD = fault_pb2.Spread(count=5, mean=0.002, p50=0.001, p99=0.004, max=0.005)
LOOP = fault_pb2.LoopStats(
    name="kv_manager",
    modules=["KvManager"],
    total=5,
    lag=0.25,
    queue_time=SPREAD,
    execution_time=SPREAD,
    handlers=[
        fault_pb2.HandlerStats(name="KvService.Put", total=5, queue_time=SPREAD, execution_time=SPREAD),
        fault_pb2.HandlerStats(name="KvService.Delete"),
    ],
)
CALLS = Summary(count=7, failed=2, p50=0.0011, p99=0.0234, max=0.0345)


def snapshot(done: float, phase: str = "undisturbed") -> Snapshot:
    return Snapshot(phase, done, 8.0, {"ALIVE": 3, "DEAD": 1}, {"healthy": CALLS}, {"healthy": CALLS}, [LOOP])


def test_on_a_terminal_the_view_has_progress_calls_loops_and_handlers() -> None:
    screen = io.StringIO()
    with LiveView(Console(file=screen, force_terminal=True, width=140, height=50)) as view:
        view.say("a line that stays")
        view.update(snapshot(3.0))
    shown = screen.getvalue()
    for text in (
        *("a line that stays", "undisturbed", "3 of 8 s", "3 alive, 1 dead", "heartbeats", "23 ms"),
        *("kv_manager (KvManager)", "250 ms", "KvService.Put", "4.0 ms"),
    ):
        assert text in shown
    assert "KvService.Delete" not in shown, "a handler that has done nothing is left out"


def test_elsewhere_the_view_is_a_line_every_two_seconds_and_at_each_change_of_phase() -> None:
    output = io.StringIO()
    with PlainView(Console(file=output, width=200)) as view:
        for tenth in range(50):
            view.update(snapshot(tenth / 10))
        view.update(snapshot(0.0, "KvManager slow (sleep)"))
    lines = output.getvalue().splitlines()
    assert [line[:8] for line in lines] == ["   0 s  ", "   2 s  ", "   4 s  ", "   0 s  "]
    assert lines[0] == (
        "   0 s  undisturbed; 3 alive, 1 dead; heartbeats p50 1.1 ms, p99 23 ms, 2 failed; "
        "store p50 1.1 ms, p99 23 ms, 2 failed; kv_manager lag 250 ms"
    )
