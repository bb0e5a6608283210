"""One message to ten thousand open server streams: what it costs the server, and the thread that sends.

Atoll has a primitive for it; with grpc.aio each stream's handler waits at a queue, as its users write it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks import echo_server, pairs, protos
from benchmarks.h2load import Target
from benchmarks.holding import holding, wait_until
from benchmarks.processes import UnavailableError
from benchmarks.result import Result, Table, times, us

if TYPE_CHECKING:
    from benchmarks.echo_server import Inputs
    from benchmarks.progress import Progress
    from benchmarks.summary import Figure

CONNECTIONS: Final = 20
STREAMS: Final = 500
"""On each connection."""
QUANTITIES: Final = {"cpu_ms": "server CPU", "send_us": "send()"}

_WARM_UP_MESSAGES: Final = 1
_SETTLE_SECONDS: Final = 0.3
_OPEN_SECONDS: Final = 2.0
_MESSAGE_SECONDS: Final = 0.8


class BroadcastBenchmark:
    """Each server with all of its streams open, and one message after the other; each message is a round."""

    name = "broadcast"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._messages = 3 if quick else 10
        each = _OPEN_SECONDS + (_WARM_UP_MESSAGES + self._messages) * _MESSAGE_SECONDS
        self.expected_seconds = len(pairs.SERVERS) * each

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        measured: dict[str, list[dict[str, float]]] = {}
        with pairs.inputs(result) as given:
            for module, server in pairs.SERVERS.items():
                try:
                    measured[server] = self._measure(module, given, progress)
                except UnavailableError as error:
                    result.notes.append(f"left out {pairs.TITLES[server]}: {error}")
        report(measured, result)
        result.tables.append(_table(list(measured), result))
        return result

    def _measure(self, module: str, given: Inputs, progress: Progress) -> list[dict[str, float]]:
        title = pairs.TITLES[pairs.SERVERS[module]]
        progress.step(f"broadcast, opening {CONNECTIONS * STREAMS:,} streams: {title}", _OPEN_SECONDS)
        reply = protos.load(given.protos).reply(sequence=protos.SEQUENCE, text=protos.TEXT)
        reply_bytes = len(protos.frame(reply.SerializeToString()))
        with echo_server.running(module, given) as server:
            target = Target(server.target.port, given.body, reply_bytes, f"{protos.STREAMS}Watch")
            with holding(target) as held:
                # One connection after the other: grpc.aio refuses calls that come much faster than it starts them.
                for number in range(CONNECTIONS):
                    held.open(1, STREAMS)
                    wait_until(
                        lambda: int(server.ask("subscribers")["subscribers"]), (number + 1) * STREAMS, "subscribers"
                    )
                rounds: list[dict[str, float]] = []
                for number in range(_WARM_UP_MESSAGES + self._messages):
                    progress.step(f"broadcast, message {number + 1}: {title}", _MESSAGE_SECONDS)
                    time.sleep(_SETTLE_SECONDS)
                    before = server.cpu_seconds()
                    send_us = float(server.ask("broadcast")["send_us"])
                    held.wait_for("data_bytes", (number + 1) * CONNECTIONS * STREAMS * reply_bytes)
                    # What the last replies leave behind is part of the price.
                    time.sleep(_SETTLE_SECONDS)
                    rounds.append({"cpu_ms": 1000 * (server.cpu_seconds() - before), "send_us": send_us})
        return rounds[_WARM_UP_MESSAGES:]


def report(measured: dict[str, list[dict[str, float]]], result: Result) -> None:
    """Add the figures of both servers, message by message."""
    for quantity in QUANTITIES:
        values = {server: [message[quantity] for message in messages] for server, messages in measured.items()}
        pairs.compare(f"broadcast.{quantity}", values, result)


def _table(servers: list[str], result: Result) -> Table:
    def shown(figure: Figure, quantity: str) -> str:
        if quantity == "send_us":
            return us(figure)
        return f"{figure.median:,.1f} ms ({figure.low:,.1f}-{figure.high:,.1f})"

    rows = []
    for server in servers:
        row = [pairs.TITLES[server]]
        for quantity in QUANTITIES:
            row.append(shown(result.figures[f"broadcast.{server}.{quantity}"], quantity))
            against = result.figures.get(f"broadcast.{server}.{quantity}.over.grpc_aio")
            row.append(times(against))
        rows.append(tuple(row))
    columns = ("server", "server CPU", ": grpc.aio", "send()", ": grpc.aio")
    title = f"One message to {CONNECTIONS * STREAMS:,} streams on {CONNECTIONS} connections"
    return Table(title, columns, tuple(rows))
