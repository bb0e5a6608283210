"""What `atoll demo-ha` does: kills leaders under load, and lets the history of all clients be checked."""

from __future__ import annotations

import tempfile
import time  # noqa: TID251 - the demo measures real time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from atoll_control.testing.etcd import Etcd, EtcdFailedError
from atoll_control.testing.history import History
from atoll_control.testing.server_process import ProcessFailedError, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

# What the lead may last to change: the lease of 3 s, and a second for the store to be loaded and the clients to follow.
MOST_SECONDS: Final = 5.0
# How long a change of leaders is waited for at all.
CHANGE_TIMEOUT: Final = 60.0


class FailoverError(Exception):
    """The demo could not run to its end; the message says why."""


@dataclass(frozen=True)
class Change:
    """The lead went from one server to another.

    Attributes:
        how: what happened to the leader.
        seconds: from then until a write was acknowledged again.
        epoch: of the new leader.
    """

    how: str
    seconds: float
    epoch: int


@dataclass
class Outcome:
    """What the demo has seen.

    Attributes:
        changes: one per round.
        writes: how many were acknowledged.
        reads: how many were answered.
        watched: how many changes the watch was told.
        resumed: how often the watch went on at another server.
        problems: what may not be: empty when nothing was lost.
    """

    changes: list[Change] = field(default_factory=list)
    writes: int = 0
    reads: int = 0
    watched: int = 0
    resumed: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Nothing was lost, and each change was quick enough."""
        return not self.problems and all(change.seconds <= MOST_SECONDS for change in self.changes)


def run(etcd_program: str, servers: int, rounds: int, tell: Callable[[str], None]) -> Outcome:
    """Runs etcd, the servers and the clients; ends the leader once in each round.

    Raises:
        FailoverError: something did not start or did not answer, or nobody took over.
    """
    try:
        with ExitStack() as at_the_end:
            folder = Path(at_the_end.enter_context(tempfile.TemporaryDirectory(prefix="atoll-demo-ha-")))
            etcd = at_the_end.enter_context(Etcd(etcd_program, folder / "etcd"))
            tell(f"etcd runs at {etcd.endpoint}")
            return _Demo(etcd, servers, tell, at_the_end).run(rounds)
    except (OSError, EtcdFailedError, ProcessFailedError, grpc.RpcError) as problem:
        raise FailoverError(str(problem)) from problem


class _Demo:
    def __init__(self, etcd: Etcd, servers: int, tell: Callable[[str], None], at_the_end: ExitStack) -> None:
        self._etcd = etcd
        self._tell = tell
        self._at_the_end = at_the_end
        self._servers = [self._start() for _ in range(servers)]

    def _start(self, *arguments: str) -> ServerProcess:
        server = ServerProcess("--etcd", self._etcd.endpoint, *arguments, begins_with="standing_by")
        self._at_the_end.callback(server.end)
        return server

    def run(self, rounds: int) -> Outcome:
        leader = self._leader()
        self._tell(f"{len(self._servers)} servers run; {leader.address} leads")
        outcome = Outcome()
        history = History([server.address for server in self._servers])
        with history:
            history.wait_for_write(time.monotonic(), CHANGE_TIMEOUT)
            for number in range(rounds):
                # Some history between two changes.
                time.sleep(1)
                outcome.changes.append(self._change(history, _WAYS[number % len(_WAYS)]))
            time.sleep(1)
            self._tell("the clients stop, and what they saw is checked")
        outcome.problems = history.problems()
        outcome.writes, outcome.reads, outcome.resumed = len(history.acknowledgements), history.reads, history.resumed
        outcome.watched = sum(len(numbers) for numbers in history.watched.values())
        return outcome

    def _change(self, history: History, how: str) -> Change:
        """Ends the leader in some way, waits for the next, and has the former one stand by again."""
        leader = self._leader()
        match how:
            case "killed":
                leader.kill()
            case "stopped":
                leader.stop()
            case _:
                leader.pause()
        seconds = history.wait_for_write(time.monotonic(), CHANGE_TIMEOUT, elsewhere_than=leader.address)
        new = self._leader(besides=leader)
        if how == "paused":
            leader.resume()
        else:
            self._servers[self._servers.index(leader)] = self._start("--listen", leader.address)
        change = Change(how, seconds, new.server().epoch)
        self._tell(f"{leader.address} was {how}; {new.address} leads (epoch {change.epoch}), {seconds:.2f} s later")
        return change

    def _leader(self, besides: ServerProcess | None = None) -> ServerProcess:
        until = time.monotonic() + CHANGE_TIMEOUT
        while time.monotonic() < until:
            for server in self._servers:
                if server is not besides and server.leads:
                    return server
            time.sleep(0.1)
        raise FailoverError(f"no server leads after {CHANGE_TIMEOUT:.0f} s")


_WAYS: Final = ("killed", "paused", "stopped")
