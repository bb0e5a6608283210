"""Unary echo of larger messages: bytes per second, each way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks import pairs, protos
from benchmarks.h2load import Shape, Target
from benchmarks.pairs import Case, Plan
from benchmarks.result import Result, Table, times, us
from benchmarks.summary import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.echo_server import EchoServer, Sample
    from benchmarks.progress import Progress
    from benchmarks.protos import EchoProtos

SIZES: Final = {"1KiB": 1 << 10, "64KiB": 1 << 16, "1MiB": 1 << 20}
"""Bytes of text in a message, by what figures call them."""
SHAPE: Final = Shape(4, 4)


class PayloadBenchmark:
    """Both servers under echoes of each size."""

    name = "payload"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._plan = Plan(rounds=2, seconds=0.8) if quick else Plan(rounds=3, seconds=2.5)
        self.expected_seconds = self._plan.expected_seconds(len(SIZES))

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        with pairs.inputs(result) as given:
            generated = protos.load(given.protos)
            cases = [_case(name, generated, given.protos) for name in SIZES]
            with pairs.running(given, result) as servers:
                samples = pairs.take_turns(self.name, cases, servers, self._plan, progress)
        for size in SIZES:
            of_size = {server: measured for (case, server), measured in samples.items() if case == size}
            report(size, of_size, result)
        result.tables.append(_table(result))
        return result


def report(size: str, samples: dict[str, list[Sample]], result: Result) -> None:
    """Add the figures of one size: bytes of text per second, each way, and CPU per call."""
    rates = {server: [sample.calls_per_second * SIZES[size] for sample in each] for server, each in samples.items()}
    costs = {server: [sample.cpu_us for sample in each] for server, each in samples.items()}
    pairs.compare(f"payload.{size}.bytes_per_second", rates, result)
    pairs.compare(f"payload.{size}.cpu_us", costs, result)


def _case(size: str, generated: EchoProtos, directory: Path) -> Case:
    # An echo's reply has the fields of its request, so it is as long.
    content = protos.frame(generated.request(sequence=protos.SEQUENCE, text="x" * SIZES[size]).SerializeToString())
    body = directory / f"{size}.bin"
    body.write_bytes(content)

    def target(server: EchoServer) -> Target:
        return Target(server.target.port, body, len(content))

    return Case(size, SHAPE, target)


def _table(result: Result) -> Table:
    rows = []
    for size in SIZES:
        row = [size]
        for server in pairs.TITLES:
            rate = result.figures.get(f"payload.{size}.{server}.bytes_per_second")
            cost = result.figures.get(f"payload.{size}.{server}.cpu_us")
            row += [_mebibytes(rate), "-" if cost is None else us(cost)]
        row.append(times(result.figures.get(f"payload.{size}.atoll.bytes_per_second.over.grpc_aio")))
        rows.append(tuple(row))
    columns = ("message", "atoll MiB/s", "CPU/call", "grpc.aio MiB/s", "CPU/call", "bytes/s")
    return Table(f"Unary echo of larger messages, {SHAPE} connections x streams", columns, tuple(rows))


def _mebibytes(figure: Figure | None) -> str:
    return "-" if figure is None else f"{figure.median / (1 << 20):,.1f}"
