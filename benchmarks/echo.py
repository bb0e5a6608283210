"""Unary echo of a small message: every server under the same three loads."""

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

SERVERS: Final = {
    "atoll_async": "atoll, async def",
    "atoll_def": "atoll, def",
    "pygrpc_native_aio": "pygrpc-native, async def, uvloop",
    "grpc_aio": "grpc.aio, async def, uvloop",
    "grpc_sync": "grpcio, def, 16 threads",
}
SHAPES: Final = (Shape(8, 16), Shape(1, 1), Shape(500, 1))
FIELDS: Final = ("calls_per_second", "cpu_us", "mean_us", "p99_us")

_WARM_UP_SECONDS: Final = 0.7
_OVERHEAD_SECONDS: Final = 0.3


class EchoBenchmark:
    """Starts all servers, lets them take turns under each load, and compares them."""

    name = "echo"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._rounds = 2 if quick else 3
        self._seconds = 0.8 if quick else 2.5
        cells = len(SERVERS) * len(SHAPES)
        self.expected_seconds = cells * (self._rounds * (self._seconds * 1.25 + _OVERHEAD_SECONDS) + _WARM_UP_SECONDS)

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        with contextlib.ExitStack() as stack:
            given = stack.enter_context(echo_server.inputs())
            servers: dict[str, EchoServer] = {}
            for name, title in SERVERS.items():
                try:
                    servers[name] = stack.enter_context(echo_server.running(name, given))
                except UnavailableError as error:
                    result.notes.append(f"left out {title}: {error}")
            samples = self._measure(servers, progress)
        for shape in SHAPES:
            _compare(str(shape), list(servers), samples, result)
        return result

    def _measure(self, servers: dict[str, EchoServer], progress: Progress) -> dict[tuple[str, str], list[Sample]]:
        samples: dict[tuple[str, str], list[Sample]] = {}
        for shape in SHAPES:
            for name, server in servers.items():
                progress.step(f"echo {shape}, warm-up: {SERVERS[name]}", _WARM_UP_SECONDS)
                server.warm_up(shape)
            for number in range(self._rounds):
                for name, server in servers.items():
                    label = f"echo {shape}, round {number + 1} of {self._rounds}: {SERVERS[name]}"
                    progress.step(label, self._seconds * 1.25 + _OVERHEAD_SECONDS)
                    samples.setdefault((str(shape), name), []).append(server.measure(shape, self._seconds))
        return samples


def _compare(shape: str, names: list[str], samples: dict[tuple[str, str], list[Sample]], result: Result) -> None:
    """Add the figures, the ratios to each peer and the table of one shape."""

    def values(name: str, field: str) -> list[float]:
        return [getattr(sample, field) for sample in samples[shape, name]]

    for name in names:
        for field in FIELDS:
            result.figures[f"echo.{shape}.{name}.{field}"] = Figure.of(values(name, field))
            for other in names:
                if name.startswith("atoll") and not other.startswith("atoll"):
                    against = ratio(values(name, field), values(other, field))
                    result.figures[f"echo.{shape}.{name}.{field}.over.{other}"] = against
    rows = []
    for name in names:
        rate, cpu, mean, p99 = (result.figures[f"echo.{shape}.{name}.{field}"] for field in FIELDS)
        row = [SERVERS[name], f"{rate.median:,.0f} ({rate.low:,.0f}-{rate.high:,.0f})", us(cpu), us(mean), us(p99)]
        for field in ("calls_per_second", "mean_us"):
            known = "grpc_aio" in names
            row.append(times(ratio(values(name, field), values("grpc_aio", field)) if known else None))
        rows.append(tuple(row))
    columns = ("server", "calls/s", "CPU/call", "mean", "p99", "calls/s : grpc.aio", "mean : grpc.aio")
    result.tables.append(Table(f"Unary echo, {shape} connections x streams", columns, tuple(rows)))
