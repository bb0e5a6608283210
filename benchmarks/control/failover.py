"""kill -9 of the leader of two servers on a local etcd, under ten thousand nodes and checked reads and writes."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.control import plan
from benchmarks.control.nodes import INTERVAL
from benchmarks.control.servers import Etcd, Server, folder, missing
from benchmarks.processes import Child, ChildFailedError, UnavailableError
from benchmarks.result import Result, Table
from benchmarks.summary import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.control.plan import Size
    from benchmarks.progress import Progress

CONNECTIONS: Final = 100
QUANTITIES: Final = {
    "write_seconds": "first write",
    "leader_seconds": "the other leads",
    "heartbeat_seconds": "first heartbeat",
    "all_nodes_seconds": "all nodes heard",
}

_START_SECONDS: Final = 8.0
_ROUND_SECONDS: Final = 11.0
_BEFORE_SECONDS: Final = 4.0
_TIMEOUT: Final = 60.0
_POLL_SECONDS: Final = 0.1


class FailoverBenchmark:
    """Each round kills the one that leads, and starts it again as the one that stands by."""

    name = "failover"

    def __init__(self, *, quick: bool, size: Size | None = None) -> None:
        """Choose the length of the run."""
        self._size = size or plan.size(quick=quick)
        numbers = len(self._size.failover_nodes)
        self.expected_seconds = numbers * _START_SECONDS + (numbers - 1 + self._size.failovers) * _ROUND_SECONDS

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        if (lack := missing()) is not None:
            result.applies = False
            result.notes.append(f"failover left out: {lack}")
            return result
        rows = []
        try:
            for nodes in self._size.failover_nodes:
                with folder() as directory, Etcd(directory) as etcd:
                    rows.append(self._measure(nodes, directory, etcd, progress, result))
        except UnavailableError as error:
            result.applies = False
            result.notes.append(f"left out failover: {error}")
            return result
        columns = ("nodes", "kills", *QUANTITIES.values())
        result.tables.append(Table("Since kill -9 of the leader, two servers on one etcd", columns, tuple(rows)))
        return result

    def _measure(self, nodes: int, directory: Path, etcd: Etcd, progress: Progress, result: Result) -> tuple[str, ...]:
        kills = self._size.failovers if nodes == self._size.failover_nodes[-1] else 1
        progress.step(f"failover: two servers, registering {nodes:,} nodes", _START_SECONDS)
        with contextlib.ExitStack() as stack:
            leader = _server(directory, etcd, stack)
            leader.wait_for("server_started")
            standby = _server(directory, etcd, stack)
            standby.wait_for("standing_by")
            arguments: tuple[Any, ...] = (nodes, min(nodes, CONNECTIONS), INTERVAL, leader.port, standby.port)
            beating = Child("benchmarks.control.beating", *map(str, arguments), start_timeout=_TIMEOUT)
            client = stack.enter_context(beating)
            asker = stack.enter_context(Child("benchmarks.control.asking"))
            client.ask("register", timeout=300.0)
            client.ask("beat")
            history = stack.enter_context(Child("benchmarks.control.writing", leader.address, standby.address))
            rounds = []
            for number in range(kills):
                progress.step(f"failover {number + 1} of {kills} with {nodes:,} nodes", _ROUND_SECONDS)
                time.sleep(min(_BEFORE_SECONDS, self._size.beat_seconds))
                # A machine that is busy with other things may have changed leaders by itself.
                leader, standby = self._leader_first(leader, standby, asker)
                rounds.append(self._kill(nodes, leader, standby, client, history))
                leader, standby = standby, _server(directory, etcd, stack, port=leader.port)
                standby.wait_for("standing_by")
            leader, standby = self._leader_first(leader, standby, asker)
            listed = asker.ask(f"list {leader.address}", timeout=60.0)
            told = history.ask("end", timeout=120.0)
        measured = {quantity: [each[quantity] for each in rounds] for quantity in QUANTITIES}
        measured["nodes_lost"] = [nodes - listed["alive"]]
        measured["problems"] = [len(told["problems"])]
        report(nodes, measured, result)
        result.notes.append(
            f"with {nodes:,} nodes {told['writes']:,} writes were acknowledged, {told['unknown']:,} had an unknown "
            "outcome, "
            f"{told['reads']:,} reads were made, and the history has {len(told['problems'])} mistakes; "
            f"{listed['alive']:,} of {nodes:,} nodes are alive"
        )
        result.notes.extend(told["problems"][:5])
        figures = [result.figures[f"failover.{nodes}.{quantity}"] for quantity in QUANTITIES]
        return (f"{nodes:,}", f"{kills}", *(f"{it.median:.2f} s ({it.low:.2f}-{it.high:.2f})" for it in figures))

    def _kill(self, nodes: int, leader: Server, standby: Server, client: Child, history: Child) -> dict[str, float]:
        terms = standby.count("server_started")
        started = time.monotonic()
        leader.kill()
        client.ask("forget")
        standby.wait_for("server_started", _TIMEOUT, number=terms + 1)
        led = time.monotonic()
        first_write = history.ask(f"after {started} {leader.address}", _TIMEOUT + 5.0)["seconds"]
        heard = self._wait_for(lambda: self._all_heard(nodes, client), "heartbeat of all nodes")
        return {
            "write_seconds": first_write,
            "leader_seconds": led - started,
            "heartbeat_seconds": heard["first_heard"] - started,
            "all_nodes_seconds": heard["last_heard"] - started,
        }

    def _leader_first(self, one: Server, other: Server, asker: Child) -> tuple[Server, Server]:
        def look() -> tuple[Server, Server] | None:
            for leader, standby in ((one, other), (other, one)):
                if asker.ask(f"leads {leader.address}")["leads"]:
                    return leader, standby
            return None

        found: tuple[Server, Server] = self._wait_for(look, "question who leads")
        return found

    @staticmethod
    def _all_heard(nodes: int, client: Child) -> dict[str, Any] | None:
        counts = client.ask("counts")
        return counts if counts["nodes_heard"] == nodes else None

    @staticmethod
    def _wait_for(look: Any, what: str) -> Any:
        deadline = time.monotonic() + _TIMEOUT
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise ChildFailedError(f"no {what} was answered in {_TIMEOUT:.0f} s")
            time.sleep(_POLL_SECONDS)
        return found


def report(nodes: int, measured: dict[str, list[float]], result: Result) -> None:
    """Add the figures of one number of nodes."""
    for quantity, values in measured.items():
        result.figures[f"failover.{nodes}.{quantity}"] = Figure.of(values)


def _server(directory: Path, etcd: Etcd, stack: contextlib.ExitStack, port: int = 0) -> Server:
    server = Server(directory, "--etcd", etcd.endpoint, port=port)
    stack.callback(server.kill)
    return server
