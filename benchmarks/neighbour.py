"""Latency of a call while another module of the same process is busy: Atoll's loops against grpc.aio's one loop."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from benchmarks import echo_server
from benchmarks.h2load import Shape
from benchmarks.processes import UnavailableError
from benchmarks.result import Result, Table, times, us
from benchmarks.summary import Figure, ratio

if TYPE_CHECKING:
    from benchmarks.echo_server import EchoServer, Sample
    from benchmarks.progress import Progress

SERVERS: Final = {"neighbour_atoll": "atoll", "neighbour_grpc_aio": "grpc_aio"}
KINDS: Final = {
    "idle": "idle",
    "sleep": "blocks 50 ms at a time",
    "cpu": "pure Python, 100 % CPU",
    "gil": "C calls that hold the GIL for 43 ms",
}

_ONE_CALL: Final = Shape(1, 1)
_WARM_UP_SECONDS: Final = 1.5
_OVERHEAD_SECONDS: Final = 0.2


class NeighbourBenchmark:
    """One connection, one call at a time, beside each kind of neighbour in turn."""

    name = "neighbour"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._rounds = 2 if quick else 3
        self._seconds = 1.0 if quick else 2.5
        each = self._rounds * (self._seconds * 1.25 + _OVERHEAD_SECONDS) + _WARM_UP_SECONDS
        self.expected_seconds = len(SERVERS) * len(KINDS) * each

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        measured: dict[tuple[str, str], list[Sample]] = {}
        with contextlib.ExitStack() as stack:
            given = stack.enter_context(echo_server.inputs())
            servers: dict[str, EchoServer] = {}
            for name, title in SERVERS.items():
                try:
                    servers[title] = stack.enter_context(echo_server.running(name, given))
                except UnavailableError as error:
                    result.notes.append(f"left out {title}: {error}")
            for kind in KINDS:
                for title, server in servers.items():
                    progress.step(f"neighbour {kind}, warm-up: {title}", _WARM_UP_SECONDS)
                    server.warm_up(_ONE_CALL, kind)
            for number in range(self._rounds):
                for kind in KINDS:
                    for title, server in servers.items():
                        label = f"neighbour {kind}, round {number + 1} of {self._rounds}: {title}"
                        progress.step(label, self._seconds * 1.25 + _OVERHEAD_SECONDS)
                        sample = server.measure(_ONE_CALL, self._seconds, kind)
                        measured.setdefault((title, kind), []).append(sample)
        _compare(list(servers), measured, result)
        return result


def _compare(names: list[str], measured: dict[tuple[str, str], list[Sample]], result: Result) -> None:
    """Add the figures, their ratios to idle and the table."""
    for (name, kind), samples in measured.items():
        means = [sample.mean_us for sample in samples]
        idle = [sample.mean_us for sample in measured[name, "idle"]]
        prefix = f"neighbour.{name}.{kind}"
        result.figures[f"{prefix}.mean_us"] = Figure.of(means)
        result.figures[f"{prefix}.p99_us"] = Figure.of([sample.p99_us for sample in samples])
        result.figures[f"{prefix}.mean_us.over.idle"] = ratio(means, idle)
    rows = []
    for kind, description in KINDS.items():
        row = [description]
        for name in names:
            prefix = f"neighbour.{name}.{kind}"
            row += [
                us(result.figures[f"{prefix}.mean_us"]),
                us(result.figures[f"{prefix}.p99_us"]),
                times(result.figures[f"{prefix}.mean_us.over.idle"]),
            ]
        rows.append(tuple(row))
    columns = ["neighbour"]
    for name in names:
        columns += [f"{name} mean", "p99", "mean : idle"]
    title = "Latency of a call while another module of the process is busy, 1x1"
    result.tables.append(Table(title, tuple(columns), tuple(rows)))
