"""Messages per second of the three streaming kinds, on one stream and on a hundred.

The load is h2load's, which parses no message and so is not what limits either server. The reply bytes prove that every
message was sent: a server's stream brings all of its replies, and the one reply to a client's stream is as long as the
stream had messages.
"""

from __future__ import annotations

from dataclasses import dataclass
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

KINDS: Final = {"Deliver": "server streaming", "Collect": "client streaming", "Converse": "both ways"}
FIGURES: Final = {"Deliver": "server", "Collect": "client", "Converse": "both"}
"""What the figures call each kind."""


@dataclass(frozen=True, slots=True)
class Streams:
    """How many streams are open at a time, and how many messages each has."""

    shape: Shape
    messages: int

    @property
    def open(self) -> int:
        """Streams open at a time."""
        return self.shape.connections * self.shape.streams


# Shorter streams where there are many, so that grpc.aio ends a hundred of them in a second.
STREAMS: Final = (Streams(Shape(1, 1), 1000), Streams(Shape(4, 25), 200))


class StreamingBenchmark:
    """Both servers under streams of small messages."""

    name = "streaming"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._plan = Plan(rounds=2, seconds=0.8) if quick else Plan(rounds=3, seconds=2.5)
        self.expected_seconds = self._plan.expected_seconds(len(KINDS) * len(STREAMS))

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        with pairs.inputs(result) as given:
            generated = protos.load(given.protos)
            loads = {
                case_name(method, streams): (streams, _case(method, streams, generated, given.protos))
                for method in KINDS
                for streams in STREAMS
            }
            with pairs.running(given, result) as servers:
                cases = [case for _, case in loads.values()]
                samples = pairs.take_turns(self.name, cases, servers, self._plan, progress)
        for name, (streams, _) in loads.items():
            of_case = {server: measured for (case, server), measured in samples.items() if case == name}
            report(name, streams.messages, of_case, result)
        result.tables.append(_table(result))
        return result


def case_name(method: str, streams: Streams) -> str:
    """Return what figures and progress call a load, as in ``server.100``."""
    return f"{FIGURES[method]}.{streams.open}"


def body_and_reply_bytes(method: str, messages: int, generated: EchoProtos) -> tuple[bytes, int]:
    """Return what a call sends, and how many bytes must come back."""
    if method == "Deliver":
        request = generated.request(sequence=messages, text=protos.TEXT)
        reply = generated.reply(sequence=messages, text=protos.TEXT)
        return protos.frame(request.SerializeToString()), messages * len(protos.frame(reply.SerializeToString()))
    request = generated.request(sequence=protos.SEQUENCE, text=protos.TEXT)
    body = messages * protos.frame(request.SerializeToString())
    if method == "Converse":
        return body, len(body)
    counted = generated.reply(sequence=messages, text="." * messages)
    return body, len(protos.frame(counted.SerializeToString()))


def report(name: str, messages: int, samples: dict[str, list[Sample]], result: Result) -> None:
    """Add the figures of one load, per message: a call of ``samples`` has ``messages`` of them."""
    rates = {server: [sample.calls_per_second * messages for sample in each] for server, each in samples.items()}
    costs = {server: [sample.cpu_us / messages for sample in each] for server, each in samples.items()}
    pairs.compare(f"streaming.{name}.messages_per_second", rates, result)
    pairs.compare(f"streaming.{name}.cpu_us", costs, result)


def _case(method: str, streams: Streams, generated: EchoProtos, directory: Path) -> Case:
    content, reply_bytes = body_and_reply_bytes(method, streams.messages, generated)
    body = directory / f"{method}-{streams.messages}.bin"
    body.write_bytes(content)

    def target(server: EchoServer) -> Target:
        return Target(server.target.port, body, reply_bytes, protos.STREAMS + method)

    return Case(case_name(method, streams), streams.shape, target)


def _table(result: Result) -> Table:
    rows = []
    for method, title in KINDS.items():
        for streams in STREAMS:
            prefix = f"streaming.{case_name(method, streams)}"
            row = [f"{title}, {streams.shape}, {streams.messages} messages each"]
            for server in pairs.TITLES:
                rate = result.figures.get(f"{prefix}.{server}.messages_per_second")
                cost = result.figures.get(f"{prefix}.{server}.cpu_us")
                row += [_count(rate), "-" if cost is None else us(cost)]
            row.append(times(result.figures.get(f"{prefix}.atoll.messages_per_second.over.grpc_aio")))
            rows.append(tuple(row))
    columns = ("streams", "atoll messages/s", "CPU/message", "grpc.aio messages/s", "CPU/message", "messages/s")
    return Table("Streams of a 90-byte protobuf, connections x streams", columns, tuple(rows))


def _count(figure: Figure | None) -> str:
    return "-" if figure is None else f"{figure.median:,.0f}"
