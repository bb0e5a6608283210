"""From what the parts of ``overheads/`` measured, round by round, to figures and tables. Pure functions, any thread.

Where rounds are many and short, a figure's low and high are its quartiles: the extremes say what else the machine did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from benchmarks.result import Table, times, us
from benchmarks.summary import Figure, ratio, ratios

if TYPE_CHECKING:
    from benchmarks.result import Result

Series: TypeAlias = dict[str, list[float]]
"""What was measured, by name, a value per round."""

TARGETS: Final = {
    "atoll_uvloop": "atoll on uvloop's loop",
    "atoll_asyncio": "atoll on asyncio's loop",
    "uvloop": "uvloop",
    "asyncio": "asyncio",
}
PEERS: Final = ("uvloop", "asyncio")
CLOCKS: Final = ("cpu", "wall")


def observers(series: Series, result: Result) -> None:
    """Compare the watched loop with itself unwatched."""
    figures = _twice(series, "overhead.observers", ("watched", "unwatched"), result)
    rows = (
        ("unwatched", _ns(figures["unwatched.cpu"]), _ns(figures["unwatched.wall"])),
        ("watched", _ns(figures["watched.cpu"]), _ns(figures["watched.wall"])),
        ("watched : unwatched", times(figures["ratio"]), times(figures["wall.ratio"])),
    )
    title = (
        "Observers: a loop with LoopMonitor (stall_threshold=0.01), LagProbe (0.25 s) and GilGauge against itself "
        "without them,\nper post and run of a bound handler; CPU of all threads, theirs too (quartiles)"
    )
    result.tables.append(Table(title, ("", "CPU ns", "wall ns"), rows))
    if stalls := sum(series["stalls"]):
        result.notes.append(
            f"stalls that the monitor saw: {stalls:.0f}; the handlers of the watched loop take microseconds, so the "
            "machine was busy with other things, and wall time says little"
        )


def injection(series: Series, result: Result) -> None:
    """Compare loops with and without injected delays."""
    never = series["never"]
    figure = result.figures["overhead.chaos.never.ns"] = Figure.of_quartiles(never)
    rows = [("delays never injected", _ns(figure), "-", "-")]
    for name, title in {
        "for_nobody": "injected into handlers that it does not have",
        "switched_off": "injected into all handlers, and switched off",
    }.items():
        prefix = f"overhead.chaos.{name}"
        figure = result.figures[f"{prefix}.ns"] = Figure.of_quartiles(series[name])
        differences = [mine - usual for mine, usual in zip(series[name], never, strict=True)]
        more = result.figures[f"{prefix}.more_ns"] = Figure.of_quartiles(differences)
        against = result.figures[f"{prefix}.ratio"] = Figure.of_quartiles(ratios(series[name], never))
        shown = f"{more.median:+.1f} ({more.low:+.1f} to {more.high:+.1f})"
        rows.append((title, _ns(figure), shown, times(against)))
    title = (
        "Chaos: a loop without injected delays against one whose rules match none of its handlers, which every post "
        "has to find out,\nand against one whose delays are over; CPU per post and run of a bound handler (quartiles)"
    )
    result.tables.append(Table(title, ("", "ns", "ns more", "loop : never"), tuple(rows)))


def placement(series: Series, result: Result) -> None:
    """Compare a policy's loop with a thread's."""
    figures = _twice(series, "overhead.placement", ("placed", "plain"), result)
    rows = (
        ("a plain IoContextThread", _ns(figures["plain.cpu"]), _ns(figures["plain.wall"])),
        ("a loop of a policy, watched by its provider", _ns(figures["placed.cpu"]), _ns(figures["placed.wall"])),
        ("placed : plain", times(figures["ratio"]), times(figures["wall.ratio"])),
    )
    title = "Placement: per post of a bound handler from one thread and run on the loop's own (quartiles)"
    result.tables.append(Table(title, ("", "CPU ns", "wall ns"), rows))


def delayed(series: Series, result: Result) -> None:
    """Compare delayed posts with ``call_later``."""
    rows = []
    for name, title in _targets(series).items():
        figure = result.figures[f"overhead.delayed.{name}.ns"] = Figure.of(series[name])
        row = [title, _ns(figure), *_against_peers(series, name, f"overhead.delayed.{name}.ns", result)]
        rows.append(tuple(row))
    title = (
        "Delayed posts: 100,000 spread over 50 ms, CPU per post and run on one thread (atoll records, and counts its "
        "timer thread)"
    )
    result.tables.append(Table(title, ("", "ns", *(f"target : {peer}" for peer in PEERS)), tuple(rows)))


def lateness(series: Series, result: Result) -> None:
    """Show how late handlers start."""
    rows = []
    for name, title in _targets(series, ".p50").items():
        row = [title]
        for field in ("p50", "p99", "earliest"):
            figure = Figure.of(series[f"{name}.{field}"])
            result.figures[f"overhead.lateness.{name}.{field}_us"] = figure
            row.append(us(figure))
        rows.append(tuple(row))
    title = (
        "Lateness: start minus due of 1,000 delayed handlers per second on a loop that is idle otherwise (below zero: "
        "too early)"
    )
    result.tables.append(Table(title, ("", "p50", "p99", "earliest"), tuple(rows)))


def round_trips(series: Series, result: Result) -> None:
    """Compare ``ModuleRef.call`` with ``run_coroutine_threadsafe``."""
    rows = []
    for name, title in _targets(series).items():
        figure = result.figures[f"overhead.round_trip.{name}.p50_us"] = Figure.of(series[name])
        row = [title, us(figure), *_against_peers(series, name, f"overhead.round_trip.{name}.p50_us", result)]
        rows.append(tuple(row))
    title = (
        "Round trip: one loop awaits a coroutine method on another, by ModuleRef.call against run_coroutine_threadsafe "
        "and wrap_future"
    )
    result.tables.append(Table(title, ("", "p50", *(f"target : {peer}" for peer in PEERS)), tuple(rows)))


def own_loop(series: Series, result: Result) -> None:
    """Compare data that checks its loop with data that does not."""
    rows = []
    for name, title in {
        "plain": "attribute of a plain object",
        "checked": "attribute of a module that a provider made",
        "loop_bound": "LoopBound.get()",
    }.items():
        figure = result.figures[f"overhead.own_loop.{name}.ns"] = Figure.of(series[name])
        rows.append((title, _ns(figure)))
    title = "Data that checks its loop: per read there, in a for loop that is included"
    result.tables.append(Table(title, ("", "p50, ns"), tuple(rows)))


def _twice(series: Series, prefix: str, names: tuple[str, str], result: Result) -> dict[str, Figure]:
    """Add the figures of two that were measured by both clocks, and the ratios of the first to the second."""
    first, second = names
    figures = {f"{name}.{clock}": Figure.of_quartiles(series[f"{name}.{clock}"]) for name in names for clock in CLOCKS}
    result.figures |= {f"{prefix}.{name}_ns": figure for name, figure in figures.items()}
    figures["ratio"] = Figure.of_quartiles(ratios(series[f"{first}.cpu"], series[f"{second}.cpu"]))
    figures["wall.ratio"] = Figure.of_quartiles(ratios(series[f"{first}.wall"], series[f"{second}.wall"]))
    result.figures |= {f"{prefix}.{name}": figures[name] for name in ("ratio", "wall.ratio")}
    return figures


def _against_peers(series: Series, name: str, figure: str, result: Result) -> list[str]:
    """Add the ratios of ``name`` to each peer that was measured, and return a cell for each peer."""
    cells = []
    for peer in PEERS:
        against = None
        if peer in series and peer != name:
            against = result.figures[f"{figure}.over.{peer}"] = ratio(series[name], series[peer])
        cells.append(times(against))
    return cells


def _targets(series: Series, suffix: str = "") -> dict[str, str]:
    return {name: title for name, title in TARGETS.items() if f"{name}{suffix}" in series}


def _ns(figure: Figure) -> str:
    digits = 1 if figure.median < 1_000 else 0
    return f"{figure.median:,.{digits}f} ({figure.low:,.{digits}f}-{figure.high:,.{digits}f})"
