"""A loop's statistics as a table for people, in the spirit of Ray's `StatsString`. Text from values; any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from atoll.loop._distribution import Distribution
    from atoll.loop._stats import EventStats, LoopStats

_NOTHING = "–"
_COUNTS = ("total", "active", "running", "errors")
_EXECUTION = ("mean", "p50", "p99", "max", "sum")
_QUEUE = ("mean", "p50", "p99", "max")
_GAP = "  "


def report(stats: LoopStats) -> str:
    """The text that `LoopStats.report()` returns."""
    return "\n".join([*_summary(stats), "", *_table(stats)])


def duration(seconds: float) -> str:
    """`seconds` to three digits, in the unit that suits: `12.3 µs`, `4.56 ms`, `789 s`."""
    if not seconds:
        return "0 s"
    for unit, value in (("µs", seconds * 1e6), ("ms", seconds * 1e3)):
        # What would be rounded to a thousand is one of the next unit.
        if value < 999.5:  # noqa: PLR2004 - half a unit below a thousand
            return f"{_three_digits(value)} {unit}"
    return f"{_three_digits(seconds)} s"


def _three_digits(value: float) -> str:
    if value < 9.995:  # noqa: PLR2004 - what two decimals still show with one digit before them
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"  # noqa: PLR2004 - likewise


def _summary(stats: LoopStats) -> list[str]:
    span = f"in a window of {duration(stats.uptime)}" if stats.is_window else f"in {duration(stats.uptime)}"
    active = f"{stats.active:,} active ({stats.running:,} running)"
    handlers, errors = _counted(stats.total, "handler"), _counted(stats.errors, "error")
    lines = [f"loop {stats.name}: {handlers} {span}, {active}, {errors}"]
    time = stats.time
    spent = time.idle + time.waiting + time.running
    if spent:
        shares = (("idle", time.idle), ("waiting", time.waiting), ("running", time.running))
        lines.append("  time            " + ", ".join(f"{name} {100 * share / spent:.1f} %" for name, share in shares))
    lanes = ", ".join(f"{lane} {queued:,}" for lane, queued in stats.queued.items())
    lines.append(f"  queued          {lanes}; delayed {stats.delayed:,}; work guards {stats.guards:,}")
    if any(stats.refused.values()):
        lanes = ", ".join(f"{lane} {refused:,}" for lane, refused in stats.refused.items())
        lines.append(f"  refused         {lanes}")
    lines.append(f"  queue time      {_distribution(stats.queue_time)}")
    lines.append(f"  execution time  {_distribution(stats.execution_time)}")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _distribution(seen: Distribution) -> str:
    if not seen.count:
        return _NOTHING
    names = ("mean", "p50", "p90", "p99", "min", "max", "sum")
    return ", ".join(f"{name} {duration(getattr(seen, name))}" for name in names)


def _table(stats: LoopStats) -> list[str]:
    shown = [handler for handler in stats if not stats.is_window or _did_something(handler)]
    if not shown:
        return ["no handler was queued in it" if stats.is_window else "no handler has been queued"]
    shown.sort(key=lambda handler: (-handler.total, handler.name))
    rows = [["handler", *_COUNTS, *_EXECUTION, *_QUEUE], *(_row(handler) for handler in shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # The two groups of times have a title above their columns.
    begin = len(_COUNTS) + 1
    lead = _width(widths[:begin])
    titles = f"{'':{lead}}{_GAP}{'execution time':<{_width(widths[begin : begin + len(_EXECUTION)])}}{_GAP}queue time"
    return [titles, *(_line(row, widths) for row in rows)]


def _did_something(handler: EventStats) -> bool:
    return bool(handler.total or handler.active or handler.queue_time.count or handler.execution_time.count)


def _row(handler: EventStats) -> list[str]:
    counts = (handler.total, handler.active, handler.running, handler.errors)
    return [
        handler.name,
        *(f"{count:,}" for count in counts),
        *_durations(handler.execution_time, _EXECUTION),
        *_durations(handler.queue_time, _QUEUE),
    ]


def _durations(seen: Distribution, names: Iterable[str]) -> list[str]:
    return [duration(getattr(seen, name)) if seen.count else _NOTHING for name in names]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(row, widths, strict=True)
    return _GAP.join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)])


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)
