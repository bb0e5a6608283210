"""A real etcd of one member for a test, on loopback, with its data in a temporary folder."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import Self

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0


@functools.cache
def program() -> str:
    """The path of an etcd; skips the test, saying why, where there is none."""
    found = subprocess.run([ROOT / "scripts/etcd", "--quick"], capture_output=True, text=True, timeout=300, check=False)
    if found.returncode:
        pytest.skip(found.stderr.strip().splitlines()[-1])
    return found.stdout.strip()


class Etcd:
    """One member, killed at the end."""

    def __init__(self, folder: Path) -> None:
        self._program = program()
        self._folder = folder
        self._ports: tuple[int, int] = (0, 0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def __enter__(self) -> Self:
        # Another process may take a port between our finding and etcd's using it.
        for _ in range(5):
            self._ports = (_free_port(), _free_port())
            if self._start():
                return self
            self.kill()
        raise AssertionError(f"etcd does not start:\n{(self._folder / 'log').read_text()}")

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start_again(self) -> None:
        """Starts a killed one, at its ports and with its data."""
        assert self._start(), (self._folder / "log").read_text()

    def _start(self) -> bool:
        client, peer = (f"http://127.0.0.1:{port}" for port in self._ports)
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    *("--name", "one", "--data-dir", str(self._folder / "data")),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", f"one={peer}"),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64"},
            )
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{client}/health", timeout=1) as answer:  # noqa: S310 - it is http
                    if json.load(answer)["health"] == "true":
                        return True
            except OSError:
                pass
            time.sleep(0.05)
        return False

    def kill(self) -> None:
        """As by kill -9."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """It answers no more, and its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
