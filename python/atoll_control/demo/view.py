"""What the demo shows: a live view on a terminal, plain lines elsewhere, and the report at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from atoll_control.demo.verdict import Facts, Verdict, duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from atoll_control.api.demo.v1 import fault_pb2
    from atoll_control.demo.observation import Stuck
    from atoll_control.demo.samples import Summary

HALVES = {"healthy": "undisturbed", "slow": "one module slow"}
PLAIN_INTERVAL = 2.0


@dataclass
class Snapshot:
    """The state of a run. Times in seconds."""

    phase: str = "starting"
    done: float = 0.0
    total: float = 1.0
    nodes: Mapping[str, int] = field(default_factory=dict)
    heartbeats: Mapping[str, Summary] = field(default_factory=dict)
    kv: Mapping[str, Summary] = field(default_factory=dict)
    loops: Sequence[fault_pb2.LoopStats] = ()
    stuck: Stuck | None = None


class View(Protocol):
    """Shows a run while it goes on."""

    def __enter__(self) -> Self:
        """Begins."""
        ...

    def __exit__(self, *error: object) -> None:
        """Ends; the terminal is as before."""
        ...

    def say(self, line: str) -> None:
        """Shows a line that stays."""
        ...

    def update(self, snapshot: Snapshot) -> None:
        """Shows how things stand."""
        ...


class LiveView:
    """Tables that change in place."""

    def __init__(self, console: Console) -> None:
        """Takes the terminal."""
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        """Begins."""
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends; the terminal is as before."""
        self._live.__exit__(None, None, None)

    def say(self, line: str) -> None:
        """Shows a line above the tables."""
        self._console.print(line, highlight=False)

    def update(self, snapshot: Snapshot) -> None:
        """Redraws the tables."""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(snapshot.phase, style="bold"),
            ProgressBar(total=snapshot.total, completed=snapshot.done, width=40),
            f"{snapshot.done:.0f} of {snapshot.total:.0f} s",
            _nodes(snapshot.nodes),
        )
        parts: list[RenderableType] = [bar, calls_table(snapshot.heartbeats, snapshot.kv)]
        if snapshot.loops:
            parts.append(loops_table(snapshot.loops))
        if snapshot.stuck is not None:
            parts.append(Text(stuck_line(snapshot.stuck), style="bold red"))
        self._live.update(Group(*parts), refresh=True)


class PlainView:
    """A line every two seconds."""

    def __init__(self, console: Console) -> None:
        """Takes where the lines go."""
        self._console = console
        self._next = 0.0
        self._phase = ""

    def __enter__(self) -> Self:
        """Begins."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends."""

    def say(self, line: str) -> None:
        """Writes a line."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def update(self, snapshot: Snapshot) -> None:
        """Writes a line if it is time for one."""
        if snapshot.phase == self._phase and snapshot.done < self._next:
            return
        self._phase = snapshot.phase
        self._next = snapshot.done + PLAIN_INTERVAL
        parts = [f"{snapshot.done:4.0f} s  {snapshot.phase}", _nodes(snapshot.nodes)]
        half = "slow" if "slow" in snapshot.heartbeats else "healthy"
        for name, summaries in (("heartbeats", snapshot.heartbeats), ("store", snapshot.kv)):
            if (summary := summaries.get(half)) is not None and summary.count:
                failed = f", {summary.failed} failed" if summary.failed else ""
                parts.append(f"{name} p50 {duration(summary.p50)}, p99 {duration(summary.p99)}{failed}")
        parts.extend(f"{loop.name} lag {duration(loop.lag)}" for loop in snapshot.loops)
        if snapshot.stuck is not None:
            parts.append(stuck_line(snapshot.stuck))
        self.say("; ".join(part for part in parts if part))


def stuck_line(stuck: Stuck) -> str:
    """Who keeps which loop, and where in its code."""
    where = f" at {stuck.where}" if stuck.where else ""
    return f"stuck: {stuck.handler} keeps loop {stuck.loop}, {duration(stuck.duration)} so far{where}"


def _nodes(nodes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state.lower()}" for state, count in sorted(nodes.items()))


def calls_table(heartbeats: Mapping[str, Summary], kv: Mapping[str, Summary]) -> Table:
    """What the nodes saw."""
    table = Table(title="As the nodes saw it", title_justify="left")
    table.add_column("calls")
    table.add_column("half")
    for name in ("count", "failed", "p50", "p99", "max"):
        table.add_column(name, justify="right")
    for name, summaries in (("heartbeats", heartbeats), ("store (put, get)", kv)):
        for half, summary in summaries.items():
            table.add_row(
                name,
                HALVES[half],
                f"{summary.count:,}",
                f"{summary.failed:,}",
                *(duration(value) for value in (summary.p50, summary.p99, summary.max)),
            )
    return table


def loops_table(loops: Sequence[fault_pb2.LoopStats]) -> Table:
    """What the loops and their handlers did."""
    table = Table(title="Per loop and per handler", title_justify="left")
    table.add_column("loop, handler")
    for name in ("lag", "waiting", "count", "queue p50", "queue p99", "execution p50", "execution p99"):
        table.add_column(name, justify="right")
    for loop in loops:
        table.add_row(
            Text(f"{loop.name} ({', '.join(loop.modules)})", style="bold"),
            duration(loop.lag),
            f"{loop.queued:,}",
            f"{loop.total:,}",
            *_times(loop.queue_time, loop.execution_time),
        )
        active = (handler for handler in loop.handlers if handler.total or handler.active)
        for handler in sorted(active, key=lambda handler: (-handler.total, handler.name)):
            table.add_row(
                f"  {handler.name}",
                "",
                f"{handler.active:,}",
                f"{handler.total:,}",
                *_times(handler.queue_time, handler.execution_time),
            )
    return table


def _times(*spreads: fault_pb2.Spread) -> list[str]:
    return [duration(value) for spread in spreads for value in (spread.p50, spread.p99)]


def report(console: Console, facts: Facts, verdict: Verdict, loops: Sequence[fault_pb2.LoopStats]) -> None:
    """Prints the outcome."""
    console.print(calls_table(facts.heartbeats, facts.kv))
    if loops:
        console.print(loops_table(loops))
    if (stuck := facts.named) is not None:
        console.print(
            f"A stall as it was reported while {stuck.handler} kept loop {stuck.loop}, the innermost frame first:",
            highlight=False,
        )
        console.print(Text(stuck.stack.rstrip() or "  (no stack)", style="dim"), soft_wrap=True)
    for check in verdict.checks:
        mark = Text("yes", style="green") if check.passed else Text("NO ", style="bold red")
        console.print(Text.assemble("  ", mark, f"  {check.name}: {check.detail}"), soft_wrap=True)
    if verdict.remark:
        console.print(verdict.remark, highlight=False, soft_wrap=True)
    console.print(Text(verdict.outcome, style="bold green" if verdict.held else "bold red"), soft_wrap=True)
