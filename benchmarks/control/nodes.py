"""Heartbeats of up to ten thousand nodes, every two seconds, and the list of all nodes meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.control import plan
from benchmarks.control.servers import Server, folder, missing
from benchmarks.processes import Child, ChildFailedError
from benchmarks.result import Result, Table, us
from benchmarks.summary import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.control.plan import Size
    from benchmarks.progress import Progress

INTERVAL: Final = 2.0
QUANTITIES: Final = (
    *("core_share", "cpu_us", "list_ms", "bytes_per_node", "beat_p50_us", "beat_p99_us", "client_cores", "missed"),
    "registered_per_second",
)

_REGISTER_SECONDS: Final = 4.0
_SETTLE_SECONDS: Final = 1.0


class NodesBenchmark:
    """One number of nodes after the other, each with a server of its own."""

    name = "nodes"

    def __init__(self, *, quick: bool, size: Size | None = None) -> None:
        """Choose the length of the run."""
        self._size = size or plan.size(quick=quick)
        each = _REGISTER_SECONDS + INTERVAL + _SETTLE_SECONDS + self._size.beat_seconds + 0.1 * self._size.lists
        self.expected_seconds = len(self._size.nodes) * each

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        if (lack := missing()) is not None:
            result.applies = False
            result.notes.append(f"nodes left out: {lack}")
            return result
        for nodes in self._size.nodes:
            with folder() as directory:
                report(nodes, self._measure(nodes, directory, progress), result)
        result.tables.append(_table(self._size, result))
        result.notes.append(
            f"nodes share {self._size.connections:,} connections, or have one each where they are fewer; each sends a "
            f"heartbeat every {INTERVAL:g} s, by itself; meanwhile they are listed by grpcio's client, page by page"
        )
        return result

    def _measure(self, nodes: int, directory: Path, progress: Progress) -> dict[str, list[float]]:
        connections = min(nodes, self._size.connections)
        arguments: tuple[Any, ...] = (nodes, connections, INTERVAL)
        progress.step(f"nodes, registering {nodes:,}", _REGISTER_SECONDS + INTERVAL + _SETTLE_SECONDS)
        with (
            Server(directory, "--data-dir", str(directory / "data")) as server,
            Child("benchmarks.control.beating", *map(str, arguments), str(server.port), start_timeout=60.0) as client,
            Child("benchmarks.control.asking") as lister,
        ):
            lister.ask(f"list {server.address}", timeout=60.0)
            before = server.resident_bytes()
            registering = float(client.ask("register", timeout=300.0)["seconds"])
            client.ask("beat")
            time.sleep(INTERVAL + _SETTLE_SECONDS)
            grown = server.resident_bytes() - before
            progress.step(f"nodes, {nodes:,} send heartbeats", self._size.beat_seconds)
            client.ask("forget")
            spent, started = server.cpu_seconds(), time.monotonic()
            time.sleep(self._size.beat_seconds)
            spent, seconds = server.cpu_seconds() - spent, time.monotonic() - started
            counts = client.ask("counts")
            if not counts["answered"]:
                raise ChildFailedError(f"no heartbeat was answered: {counts}")
            progress.step(f"nodes, listing {nodes:,}", 0.1 * self._size.lists)
            listed = [lister.ask(f"list {server.address}", timeout=60.0) for _ in range(self._size.lists)]
            if (found := {each["alive"] for each in listed}) != {nodes}:
                raise ChildFailedError(f"{nodes} nodes should be listed as alive, and {found} are: {counts}")
        return {
            "core_share": [spent / seconds],
            "cpu_us": [1e6 * spent / counts["answered"]],
            "list_ms": [1e3 * each["seconds"] for each in listed],
            "bytes_per_node": [grown / nodes],
            "beat_p50_us": [counts["p50_us"]],
            "beat_p99_us": [counts["p99_us"]],
            "client_cores": [counts["client_cores"]],
            "missed": [counts["refused"] + counts["lost"]],
            "registered_per_second": [nodes / registering],
        }


def report(nodes: int, measured: dict[str, list[float]], result: Result) -> None:
    """Add the figures of one number of nodes."""
    for quantity in QUANTITIES:
        result.figures[f"nodes.{nodes}.{quantity}"] = Figure.of(measured[quantity])


def _table(size: Size, result: Result) -> Table:
    rows = []
    for nodes in size.nodes:
        figures = {quantity: result.figures[f"nodes.{nodes}.{quantity}"] for quantity in QUANTITIES}
        listed = figures["list_ms"]
        rows.append(
            (
                f"{nodes:,}",
                f"{100 * figures['core_share'].median:.1f} %",
                us(figures["cpu_us"]),
                us(figures["beat_p50_us"]),
                us(figures["beat_p99_us"]),
                f"{figures['missed'].median:,.0f}",
                f"{listed.median:,.1f} ms ({listed.low:,.1f}-{listed.high:,.1f})",
                f"{figures['bytes_per_node'].median:,.0f} bytes",
                f"{figures['registered_per_second'].median:,.0f}",
                f"{100 * figures['client_cores'].median:.1f} %",
            )
        )
    columns = (
        *("nodes", "server, of a core", "server CPU/heartbeat", "p50", "p99", "missed", "list of all"),
        *("memory per node", "registered/s", "client, of a core"),
    )
    return Table(f"Nodes that send a heartbeat every {INTERVAL:g} s", columns, tuple(rows))
