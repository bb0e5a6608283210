"""One durable change of a key, until the last of up to ten thousand watching streams has told it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.control import plan
from benchmarks.control.servers import Server, folder, missing
from benchmarks.processes import Child
from benchmarks.result import Result, Table
from benchmarks.summary import Figure

if TYPE_CHECKING:
    from benchmarks.control.plan import Size
    from benchmarks.progress import Progress

CONNECTIONS: Final = 20
QUANTITIES: Final = (
    *("put_ms", "first_ms", "half_ms", "last_ms", "cpu_ms", "client_cpu_ms"),
    *("bytes_per_watcher", "opened_per_second"),
)

_START_SECONDS: Final = 2.0
_OPEN_SECONDS: Final = 3.0
_SETTLE_SECONDS: Final = 0.3
_CHANGE_SECONDS: Final = 0.45


class WatchersBenchmark:
    """One server; streams are added to those that are open, and each change is a round."""

    name = "watchers"

    def __init__(self, *, quick: bool, size: Size | None = None) -> None:
        """Choose the length of the run."""
        self._size = size or plan.size(quick=quick)
        each = _OPEN_SECONDS + (1 + self._size.changes) * _CHANGE_SECONDS
        self.expected_seconds = _START_SECONDS + len(self._size.watchers) * each

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        if (lack := missing()) is not None:
            result.applies = False
            result.notes.append(f"watchers left out: {lack}")
            return result
        progress.step("watchers: starting the server", _START_SECONDS)
        with (
            folder() as directory,
            Server(directory, "--data-dir", str(directory / "data")) as server,
            Child("benchmarks.control.watching", str(server.port), str(CONNECTIONS), start_timeout=60.0) as client,
        ):
            opened = 0
            for watchers in self._size.watchers:
                progress.step(f"watchers, opening {watchers - opened:,} streams", _OPEN_SECONDS)
                before = server.resident_bytes()
                seconds = float(client.ask(f"open {watchers - opened}", timeout=120.0)["seconds"])
                time.sleep(_SETTLE_SECONDS)
                grown = server.resident_bytes() - before
                rounds = [self._change(watchers, server, client, progress) for _ in range(1 + self._size.changes)]
                measured = {name: [each[name] for each in rounds[1:]] for name in rounds[0]}
                measured["bytes_per_watcher"] = [grown / (watchers - opened)]
                measured["opened_per_second"] = [(watchers - opened) / seconds]
                report(watchers, measured, result)
                opened = watchers
        result.tables.append(_table(self._size, result))
        return result

    @staticmethod
    def _change(watchers: int, server: Server, client: Child, progress: Progress) -> dict[str, float]:
        progress.step(f"watchers, a change for {watchers:,}", _CHANGE_SECONDS)
        before = server.cpu_seconds()
        told = client.ask("change", timeout=120.0)
        # What the last messages leave behind is part of the price.
        time.sleep(_SETTLE_SECONDS)
        return {**told, "cpu_ms": 1e3 * (server.cpu_seconds() - before)}


def report(watchers: int, measured: dict[str, list[float]], result: Result) -> None:
    """Add the figures of one number of watchers."""
    for quantity in QUANTITIES:
        result.figures[f"watchers.{watchers}.{quantity}"] = Figure.of(measured[quantity])


def _table(size: Size, result: Result) -> Table:
    rows = []
    for watchers in size.watchers:
        row = [f"{watchers:,}"]
        for quantity in QUANTITIES[:-2]:
            figure = result.figures[f"watchers.{watchers}.{quantity}"]
            row.append(f"{figure.median:,.1f} ms ({figure.low:,.1f}-{figure.high:,.1f})")
        each, rate = (result.figures[f"watchers.{watchers}.{quantity}"] for quantity in QUANTITIES[-2:])
        rows.append((*row, f"{each.median:,.0f} bytes", f"{rate.median:,.0f}"))
    columns = (
        *("watchers", "put acknowledged", "first has it", "half have it", "all have it", "server CPU", "client CPU"),
        *("memory of each", "opened/s"),
    )
    title = f"One durable change to all watchers, streams on {CONNECTIONS} connections"
    return Table(title, columns, tuple(rows))
