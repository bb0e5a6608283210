"""Memory of a thousand connections that have served one call each and stay open, plain and over TLS.

The server's resident memory is compared before and after; a few connections come first, so that what is allocated once
is not counted. Each measurement has a server of its own, because freed memory is used again.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from benchmarks import certificates, echo_server, pairs
from benchmarks.h2load import Target
from benchmarks.holding import holding
from benchmarks.processes import UnavailableError
from benchmarks.result import Result, Table, times

if TYPE_CHECKING:
    from benchmarks.echo_server import Inputs
    from benchmarks.progress import Progress

SCHEMES: Final = {"plain": "http", "tls": "https"}
CONNECTIONS: Final = 1000

_FIRST_CONNECTIONS: Final = 20
_SETTLE_SECONDS: Final = 0.5
_ROUND_SECONDS: Final = 2.5


class IdleBenchmark:
    """Both servers, plain and over TLS."""

    name = "idle"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._rounds = 1 if quick else 3
        self.expected_seconds = len(pairs.SERVERS) * len(SCHEMES) * self._rounds * _ROUND_SECONDS

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        if sys.platform != "linux":
            result.applies = False
            result.notes.append("idle connections were left out: only Linux says how much of a process is in memory")
            return result
        measured: dict[tuple[str, str], list[float]] = {}
        with pairs.inputs(result) as given:
            secure = certificates.read(given.protos) is not None
            for number in range(self._rounds):
                for kind in SCHEMES if secure else ("plain",):
                    for module, server in pairs.SERVERS.items():
                        label = f"idle {kind}, round {number + 1} of {self._rounds}: {pairs.TITLES[server]}"
                        progress.step(label, _ROUND_SECONDS)
                        try:
                            growth = _measure(module, kind, given)
                        except UnavailableError as error:
                            result.notes.append(f"left out {pairs.TITLES[server]}: {error}")
                        else:
                            measured.setdefault((kind, server), []).append(growth)
        for kind in SCHEMES:
            values = {server: each for (of_kind, server), each in measured.items() if of_kind == kind}
            pairs.compare(f"idle.{kind}.kib_per_connection", values, result)
        result.tables.append(_table(result))
        return result


def kib_per_connection(before: int, after: int, connections: int) -> float:
    """Return by how many KiB each connection has made the server's memory grow, in bytes before and after."""
    return (after - before) / connections / 1024


def _measure(module: str, kind: str, given: Inputs) -> float:
    with echo_server.running(module, given) as server:
        plain, scheme = server.target, SCHEMES[kind]
        port = plain.port if scheme == "http" else server.tls_port
        with holding(Target(port, plain.body, plain.reply_bytes, plain.path, scheme)) as held:

            def resident_with(connections: int, more: int) -> int:
                held.open(more, calls=1)
                held.wait_for("ended", connections)
                held.wait_for("data_bytes", connections * plain.reply_bytes)
                time.sleep(_SETTLE_SECONDS)
                return int(server.ask("memory")["resident_bytes"])

            before = resident_with(_FIRST_CONNECTIONS, _FIRST_CONNECTIONS)
            after = resident_with(_FIRST_CONNECTIONS + CONNECTIONS, CONNECTIONS)
    return kib_per_connection(before, after, CONNECTIONS)


def _table(result: Result) -> Table:
    rows = []
    for kind, title in (("plain", "plain"), ("tls", "TLS")):
        row = [title]
        for server in pairs.TITLES:
            figure = result.figures.get(f"idle.{kind}.{server}.kib_per_connection")
            row.append("-" if figure is None else f"{figure.median:.1f} KiB ({figure.low:.1f}-{figure.high:.1f})")
        row.append(times(result.figures.get(f"idle.{kind}.atoll.kib_per_connection.over.grpc_aio")))
        rows.append(tuple(row))
    title = f"Memory of each of {CONNECTIONS:,} connections that have served one call"
    return Table(title, ("connection", "atoll", "grpc.aio", "atoll : grpc.aio"), tuple(rows))
