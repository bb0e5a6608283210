"""`serve`: starts `atollctl serve` in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.interpreters import CLIENT_PYTHON, SERVER_PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOP_TIMEOUT = 20.0
SERVE = [
    *(SERVER_PYTHON, "-m", "atoll_control.cli", "serve"),
    *("--listen", "127.0.0.1:0", "--log-format", "json"),
]


class Server:
    """A running `atollctl serve`, whose log lines are read as they are wanted."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*SERVE, *arguments],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.seen: list[str] = []
        self.started = self.wait_for_event("server_started")
        self.address: str = self.started["address"]

    def wait_for_event(self, event: str) -> dict[str, Any]:
        """Reads the log up to the next line of this event."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.seen.append(line)
            entry: dict[str, Any] = json.loads(line)
            if entry["event"] == event:
                return entry
        raise AssertionError(f"the server ended without {event}:\n" + "".join(self.seen))

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Stops the server and returns its exit code."""
        self.process.send_signal(signal_number)
        return self.wait()

    def wait(self) -> int:
        """Reads the rest of the log and returns the exit code."""
        try:
            _, rest = self.process.communicate(timeout=STOP_TIMEOUT)
            self.seen.extend(rest.splitlines(keepends=True))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode

    def events(self) -> list[str]:
        """The events seen so far."""
        return [json.loads(line)["event"] for line in self.seen]


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers, and stops them at the end."""
    servers: list[Server] = []

    def start(*arguments: str) -> Server:
        servers.append(Server(*arguments))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates as PEM: those of the tests of TLS."""
    folder = tmp_path_factory.mktemp("pem")
    maker = Path(__file__).parents[1] / "rpc" / "tls" / "make_certificates.py"
    subprocess.run([CLIENT_PYTHON, maker, folder], check=True)
    return folder
