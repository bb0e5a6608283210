"""An echo server in its own process, checked with one real call and ready to be measured."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import h2load, protos
from benchmarks.processes import Child, UnavailableError
from benchmarks.summary import quantile

if TYPE_CHECKING:
    from collections.abc import Iterator

_GRACE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files that servers and clients share during one run."""

    protos: Path
    body: Path


@dataclass(frozen=True, slots=True)
class Sample:
    """One server under one load, once. CPU is the server process's user and system time."""

    calls_per_second: float
    cpu_us: float
    mean_us: float
    p99_us: float


class EchoServer:
    """A running server and how fast it was when last measured, by shape and neighbour. One thread at a time.

    ``target`` is where its unary echo is; ``aimed_at`` measures its other methods.
    """

    def __init__(self, child: Child, target: h2load.Target) -> None:
        """Measure ``child``, which answers at ``target``."""
        self._child = child
        self.target = target
        self._rates: dict[tuple[h2load.Shape, str], float] = {}

    @property
    def tls_port(self) -> int:
        """Where it serves TLS.

        Raises:
            UnavailableError: it does not.
        """
        port: int | None = self._child.announcement["tls_port"]
        if port is None:
            raise UnavailableError("the server has no port with TLS")
        return port

    def aimed_at(self, target: h2load.Target) -> EchoServer:
        """Return the same server under another load."""
        return EchoServer(self._child, target)

    def ask(self, request: str) -> dict[str, Any]:
        """Ask the server's process; see ``servers/control.py``."""
        return self._child.ask(request)

    def cpu_seconds(self) -> float:
        """Return the user and system time that the server's process has taken so far."""
        return float(self._child.ask("cpu")["cpu_seconds"])

    def warm_up(self, shape: h2load.Shape, neighbour: str = "") -> None:
        """Find out how many calls a measurement needs, in about half a second."""
        with self._beside(neighbour):
            self._rates[shape, neighbour] = h2load.calibrate(shape, self.target)

    def measure(self, shape: h2load.Shape, seconds: float, neighbour: str = "") -> Sample:
        """Make calls for about ``seconds``, and for a quarter of that with a log.

        Meanwhile the server's other module, if it has one, does the work that ``neighbour`` names.
        """
        rate, timeout = self._rates[shape, neighbour], 10 * seconds + _GRACE
        with self._beside(neighbour):
            before = self.cpu_seconds()
            summary = h2load.measure(shape, shape.calls_for(seconds, rate), self.target, timeout)
            spent = self.cpu_seconds() - before
            sorted_us = h2load.durations(shape, shape.calls_for(seconds / 4, rate), self.target, timeout)
        self._rates[shape, neighbour] = summary.calls_per_second
        return Sample(
            calls_per_second=summary.calls_per_second,
            cpu_us=spent / summary.calls * 1e6,
            mean_us=summary.mean_us,
            p99_us=quantile(sorted_us, 0.99),
        )

    @contextlib.contextmanager
    def _beside(self, neighbour: str) -> Iterator[None]:
        if not neighbour:
            yield
            return
        self._child.ask(f"neighbour {neighbour}")
        try:
            yield
        finally:
            self._child.ask("neighbour idle")


@contextlib.contextmanager
def inputs() -> Iterator[Inputs]:
    """Generate the echo service's code and the request's bytes into a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="atoll-benchmarks-") as name:
        directory = Path(name)
        protos.generate(directory)
        request = protos.load(directory).request(sequence=protos.SEQUENCE, text=protos.TEXT)
        body = directory / "request.bin"
        body.write_bytes(protos.frame(request.SerializeToString()))
        yield Inputs(protos=directory, body=body)


@contextlib.contextmanager
def running(name: str, given: Inputs) -> Iterator[EchoServer]:
    """Run ``benchmarks.servers.<name>`` and check one reply with grpcio's client.

    Raises:
        UnavailableError: what the server needs is not installed.
        ChildFailedError: the server did not start, or does not echo.
    """
    with Child("benchmarks.servers", name, str(given.protos)) as child:
        port = int(child.announcement["port"])
        with Child("benchmarks.verify", str(given.protos), str(port)) as verified:
            reply_bytes = int(verified.announcement["reply_bytes"])
        yield EchoServer(child, h2load.Target(port=port, body=given.body, reply_bytes=reply_bytes))
