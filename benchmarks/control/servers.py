"""``atollctl serve`` and ``etcd`` in processes of their own, and what they take of the machine. Linux only."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from atoll_control.testing import etcd
from benchmarks.processes import REPOSITORY, ChildFailedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

START_TIMEOUT: Final = 120.0
_STOP_TIMEOUT: Final = 10.0
_POLL_SECONDS: Final = 0.01
_SYNCS: Final = 100


class Server:
    """``atollctl serve``, its log in a file. As a context manager it serves; without, it may still be on its way."""

    def __init__(self, folder: Path, *arguments: str, port: int = 0) -> None:
        """Starts it with its log in `folder`."""
        self.port = port
        self._log = folder / f"atollctl-{os.urandom(4).hex()}.log"
        command = [sys.executable, "-m", "atoll_control.cli", "serve", "--listen", f"127.0.0.1:{port}"]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "--log-format", "json", "--exit-with-stdin", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=REPOSITORY,
            )

    def __enter__(self) -> Self:
        """Waits until it serves."""
        self.wait_for("server_started")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Asks it to end, and kills it if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT)
        self.kill()

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """What it has taken of the processor."""
        return _cpu_seconds(self._process.pid)

    def resident_bytes(self) -> int:
        """How much of it is in memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def wait_for(self, event: str, timeout: float = START_TIMEOUT, number: int = 1) -> None:
        """Waits until it has logged this so many times, and learns its port from that.

        Raises:
            ChildFailedError: it has not, or has ended; the message ends with what it said.
        """
        deadline = time.monotonic() + timeout
        while True:
            if len(found := [line for line in self._lines() if line.get("event") == event]) >= number:
                self.port = int(str(found[-1].get("address", self.address)).rpartition(":")[2])
                return
            if self._process.poll() is not None:
                raise self._failure("has ended")
            if time.monotonic() > deadline:
                raise self._failure(f"has not logged {event!r} in {timeout:.0f} s")
            time.sleep(_POLL_SECONDS)

    def count(self, event: str) -> int:
        """How often it has logged this."""
        return sum(line.get("event") == event for line in self._lines())

    def kill(self) -> None:
        """As by kill -9."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._said().splitlines() if line.startswith("{") and line.endswith("}")]

    def _failure(self, what: str) -> ChildFailedError:
        return ChildFailedError(f"atollctl serve {what}: {self._said().strip()[-2000:] or 'it said nothing'}")


class Etcd(etcd.Etcd):
    """One etcd of one member, as its defaults make it: every put is synced to the disk."""

    def __init__(self, folder: Path) -> None:
        """Takes where its data go.

        Raises:
            UnavailableError: there is none on this machine.
        """
        found = subprocess.run(
            [REPOSITORY / "scripts/etcd", "--quick"], capture_output=True, text=True, timeout=300, check=False
        )
        if found.returncode:
            raise UnavailableError(found.stderr.strip().splitlines()[-1])
        super().__init__(found.stdout.strip(), folder / "etcd")

    def __enter__(self) -> Self:
        """Starts it, and waits until it answers.

        Raises:
            ChildFailedError: it can't.
        """
        try:
            return super().__enter__()
        except etcd.EtcdFailedError as error:
            raise ChildFailedError(str(error)) from error

    def cpu_seconds(self) -> float:
        """What it has taken of the processor."""
        assert self.pid is not None
        return _cpu_seconds(self.pid)


def _cpu_seconds(pid: int) -> float:
    """The user and system time of all threads so far, to the nanosecond: the kernel's clock of a process."""
    return time.clock_gettime(~pid << 3 | 2)


def missing() -> str | None:
    """Why the control plane can't be measured here; None when it can."""
    if sys.platform != "linux":
        return "only Linux tells what another process takes of the machine"
    if importlib.util.find_spec("grpc") is None:
        return "its clients and its server need grpcio, which is not installed"
    return None


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A directory for data and logs, on the disk that the repository is on: /tmp may be in memory."""
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=build, ignore_cleanup_errors=True) as name:
        yield Path(name)


def sync_microseconds(directory: Path) -> list[float]:
    """How long this disk takes to make 4 KiB durable, a hundred times."""
    times = []
    path = directory / "synced"
    with path.open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            started = time.perf_counter()
            os.pwrite(file.fileno(), b"\x01" * 4096, 0)
            os.fdatasync(file.fileno())
            times.append(1e6 * (time.perf_counter() - started))
    path.unlink()
    return times
