"""Loops as text, for the terminal: pure functions of values. What a process tells is never read as markup."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from atoll.cli.top._snapshot import COMPUTES_FROM, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from atoll.cli.top._snapshot import Handler, Process, Row, Stall

LANES = ("control", "normal", "bulk")
STATES = {
    State.STUCK: "STUCK",
    State.UNHEALTHY: "unhealthy",
    State.RUNNING: "running",
    State.WAITING: "waiting",
    State.IDLE: "idle",
    State.STOPPED: "not running",
}
# The styles, for a terminal of unknown colours; the live view has those of its theme.
STYLES: Mapping[str, str] = {"bad": "bold red", "warning": "bold yellow", "good": "green", "quiet": "dim"}

_FRAME = re.compile(r'^\s*File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$')
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def duration(seconds: float | None) -> str:
    """A duration in three digits and its unit."""
    if seconds is None:
        return "–"
    if seconds >= _DAY:
        return f"{seconds // _DAY:.0f} d {seconds % _DAY // _HOUR:.0f} h"
    if seconds >= _HOUR:
        return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"
    if seconds >= 10 * _MINUTE:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE // 1:.0f} s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        value = seconds / scale
        if value >= 0.9995 or unit == "µs":  # noqa: PLR2004 - where three digits are not enough
            digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2  # noqa: PLR2004 - three digits
            return f"{value:.{digits}f} {unit}"
    raise AssertionError


def percent(fraction: float) -> str:
    """A fraction as a percentage."""
    return f"{fraction * 100:.0f} %"


def clean(text: str) -> str:
    """Text of a process's without what would move a terminal's cursor or change its colours."""
    return "".join(each if each == "\n" or unicodedata.category(each) != "Cc" else "�" for each in text)


def queued(row: Row) -> str:
    """How many handlers wait, by lane."""
    return "/".join(str(row.loop["queued"].get(lane, 0)) for lane in LANES)


def state(row: Row, styles: Mapping[str, str] = STYLES) -> Text:
    """A loop's state; it is never told by colour alone."""
    style = {
        State.STUCK: "bad",
        State.UNHEALTHY: "bad",
        State.RUNNING: "good",
        State.WAITING: "warning",
    }.get(row.state, "quiet")
    return Text(STATES[row.state], styles[style])


def title(process: Process, address: str) -> Text:
    """The process, in one line."""
    command = clean(" ".join(process["command"]))
    text = Text(f"process {process['pid']}", "bold", no_wrap=True, overflow="ellipsis")
    text.append(f" at {address}, up {duration(process['uptime'])}, atoll {process['atoll']}", "not bold")
    return text.append(f": {command}" if command else "", "not bold")


def modules(row: Row) -> str:
    """Who lives on a loop."""
    return clean(", ".join(row.loop["modules"])) or "–"


def headline(row: Row) -> str:
    """A loop's numbers that are not in the table, in one line."""
    loop, health = row.loop, row.loop["health"]
    counts = {
        "handlers": loop["total"],
        "active": loop["active"],
        "errors": loop["errors"],
        "work guards": loop["guards"],
    }
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    if health is None:
        return f"{told}; no monitor watches it"
    largest = duration(health["largest_latency"])
    apart = "" if health["counts"] else ", which does not count for the service's"
    return f"{told}; probes: {health['missed']:,} missed, the slowest lately {largest}{apart}"


def stack(stall: Stall, styles: Mapping[str, str] = STYLES) -> Text:
    """The frames of a stack, the innermost first: the function and where it is."""
    frames = []
    for line in clean(stall["stack"] or "").splitlines():
        frame = _FRAME.match(line)
        frames.append((frame["function"], f"{frame['file']}:{frame['line']}") if frame else (line.strip(), ""))
    if not frames:
        return Text("no stack could be taken: that is done on Linux, while a monitor watches the loop", styles["quiet"])
    width = min(max(len(function) for function, _ in frames), 40)
    text = Text()
    for number, (function, place) in enumerate(frames):
        padded = f"{function:<{width}}  " if place else function
        text.append("\n" if number else "").append(padded, "bold").append(place)
    return text


def cpu(row: Row) -> str:
    """How much a loop's thread computed."""
    return "–" if row.cpu is None else percent(row.cpu)


def stall_title(stall: Stall, row: Row, now: float) -> str:
    """A stall in one line: what is stuck, or was."""
    what = clean(stall["handler"] or "something that is no handler")
    after = f"; its stack after {duration(stall['stack_after'])}" if stall["stack"] else ""
    if not stall["over"]:
        holds = ""
        if row.cpu is not None:
            computes = row.cpu >= COMPUTES_FROM
            holds = ", computing" if computes else ", not computing: it waits for the GIL, for a lock or for the system"
        return f"STUCK in {what} for {duration(stall['duration'])}{holds}{after}"
    ago = max(0.0, now - stall["began"] - stall["duration"])
    return f"last stall: {what} took {duration(stall['duration'])}, {duration(ago)} ago{after}"


def handlers(found: list[Handler], left_out: int, styles: Mapping[str, str] = STYLES) -> Table:
    """The slowest handlers as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("slowest handlers", overflow="fold")
    for heading in ("total", "active", "errors", "p50", "p99", "max", "queue p99", "queue max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        queue, execution = each["queue"], each["execution"]
        table.add_row(
            Text(clean(each["name"])),
            f"{each['total']:,}",
            f"{each['active']:,}",
            Text(f"{each['errors']:,}", styles["bad"] if each["errors"] else ""),
            duration(execution["p50"]),
            duration(execution["p99"]),
            Text(duration(execution["max"]), "bold"),
            duration(queue["p99"]),
            duration(queue["max"]),
        )
    if left_out:
        table.add_row(Text(f"and {left_out:,} more", styles["quiet"]))
    return table
