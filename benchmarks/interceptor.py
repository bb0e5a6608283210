"""What an interceptor that lets everything pass costs a unary echo, here and in grpc.aio."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from benchmarks import echo_server
from benchmarks.h2load import Shape
from benchmarks.processes import UnavailableError
from benchmarks.result import Result, Table, times, us
from benchmarks.summary import Figure, ratio

if TYPE_CHECKING:
    from benchmarks.echo_server import EchoServer
    from benchmarks.progress import Progress

SHAPE: Final = Shape(8, 16)
SERVERS: Final = {
    "atoll": ("atoll_async", "atoll_interceptor"),
    "grpc_aio": ("grpc_aio", "grpc_aio_interceptor"),
}
"""Of each library the server without an interceptor and the one with it."""
TITLES: Final = {"atoll": "atoll, async def", "grpc_aio": "grpc.aio, async def, uvloop"}


class InterceptorBenchmark:
    """All servers take turns."""

    name = "interceptor"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._rounds, self._seconds = (3, 0.4) if quick else (5, 1.0)
        self.expected_seconds = 4 * (self._rounds * (self._seconds * 1.25 + 0.3) + 0.7)

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        costs: dict[str, list[float]] = {}
        with contextlib.ExitStack() as stack:
            given = stack.enter_context(echo_server.inputs())
            servers: dict[str, EchoServer] = {}
            for name in (name for both in SERVERS.values() for name in both):
                try:
                    servers[name] = stack.enter_context(echo_server.running(name, given))
                except UnavailableError as error:
                    result.notes.append(f"left out {name}: {error}")
            for name, server in servers.items():
                progress.step(f"interceptor, warm-up: {name}", 0.7)
                server.warm_up(SHAPE)
            for number in range(self._rounds):
                for name, server in servers.items():
                    label = f"interceptor, round {number + 1} of {self._rounds}: {name}"
                    progress.step(label, self._seconds * 1.25 + 0.3)
                    costs.setdefault(name, []).append(server.measure(SHAPE, self._seconds).cpu_us)
        report(costs, result)
        return result


def report(costs: dict[str, list[float]], result: Result) -> None:
    """Add the CPU per call of each server, and what the interceptor adds to it."""
    rows = []
    for library, (without, within) in SERVERS.items():
        if without not in costs or within not in costs:
            continue
        prefix = f"interceptor.{SHAPE}.{library}"
        plain, intercepted = Figure.of(costs[without]), Figure.of(costs[within])
        added = Figure.of([more - less for less, more in zip(costs[without], costs[within], strict=True)])
        factor = ratio(costs[within], costs[without])
        result.figures[f"{prefix}.none.cpu_us"] = plain
        result.figures[f"{prefix}.one.cpu_us"] = intercepted
        result.figures[f"{prefix}.added_us"] = added
        result.figures[f"{prefix}.one.cpu_us.over.none"] = factor
        rows.append((TITLES[library], us(plain), us(intercepted), us(added), times(factor)))
    columns = ("server", "CPU/call", "with an interceptor", "added", "with : without")
    title = f"Unary echo with an interceptor, {SHAPE} connections x streams"
    result.tables.append(Table(title, columns, tuple(rows)))
