"""Unary echo of a small message over TLS, on both servers with the same certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks import certificates, pairs
from benchmarks.h2load import Shape, Target
from benchmarks.pairs import Case, Plan
from benchmarks.result import Result, Table, times, us

if TYPE_CHECKING:
    from benchmarks.echo_server import EchoServer
    from benchmarks.progress import Progress

SHAPE: Final = Shape(8, 16)
FIELDS: Final = ("calls_per_second", "cpu_us", "mean_us", "p99_us")


class TlsBenchmark:
    """Both servers, each over TLS."""

    name = "tls"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._plan = Plan(rounds=2, seconds=0.8) if quick else Plan(rounds=3, seconds=2.5)
        self.expected_seconds = self._plan.expected_seconds(1)

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        with pairs.inputs(result) as given:
            if certificates.read(given.protos) is None:
                return result
            with pairs.running(given, result) as servers:
                case = Case(str(SHAPE), SHAPE, _target)
                samples = pairs.take_turns(self.name, [case], servers, self._plan, progress)
        rows = {server: [pairs.TITLES[server]] for server in servers}
        for field in FIELDS:
            values = {server: [getattr(sample, field) for sample in samples[str(SHAPE), server]] for server in servers}
            against = pairs.compare(f"tls.{SHAPE}.{field}", values, result)
            for server, row in rows.items():
                figure = result.figures[f"tls.{SHAPE}.{server}.{field}"]
                row.append(f"{figure.median:,.0f}" if field == "calls_per_second" else us(figure))
                if field == "calls_per_second":
                    row.append(times(against if server == "atoll" else None))
        columns = ("server", "calls/s", "calls/s : grpc.aio", "CPU/call", "mean", "p99")
        title = f"Unary echo over TLS, {SHAPE} connections x streams"
        result.tables.append(Table(title, columns, tuple(tuple(row) for row in rows.values())))
        return result


def _target(server: EchoServer) -> Target:
    plain = server.target
    return Target(server.tls_port, plain.body, plain.reply_bytes, plain.path, scheme="https")
