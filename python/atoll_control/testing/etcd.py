"""`Etcd`: a real etcd of one member, in a process of its own on loopback, with its data in a folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time  # noqa: TID251 - processes take the time of their machine
import urllib.request
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

START_TIMEOUT: Final = 60.0
# Another process may take a port between our finding and etcd's using it.
START_ATTEMPTS: Final = 5


class EtcdFailedError(Exception):
    """It could not start; the message has its log."""


class Etcd:
    """Runs within a `with` block, and is killed at its end. On the thread that uses it."""

    def __init__(self, program: str, folder: Path) -> None:
        """Takes the path of an etcd, and where its data and its log go."""
        self._program = program
        self._folder = folder
        self._ports: tuple[int, int] = (0, 0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The id of its process; None before it is started."""
        return None if self._process is None else self._process.pid

    @property
    def port(self) -> int:
        """Where its clients connect."""
        return self._ports[0]

    @property
    def endpoint(self) -> str:
        """What its clients are told."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        """Starts it, and waits until it answers.

        Raises:
            EtcdFailedError: It can't.
        """
        for _ in range(START_ATTEMPTS):
            self._ports = (_free_port(), _free_port())
            if self._start():
                return self
            self.kill()
        raise EtcdFailedError(self._log())

    def __exit__(self, *_: object) -> None:
        """Kills it."""
        self.kill()

    def start_again(self) -> None:
        """Starts one that was killed, at its ports and with its data.

        Raises:
            EtcdFailedError: It can't.
        """
        if not self._start():
            raise EtcdFailedError(self._log())

    def _start(self) -> bool:
        client, peer = (f"http://127.0.0.1:{port}" for port in self._ports)
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the program that the caller names
                [
                    self._program,
                    *("--name", "one", "--data-dir", str(self._folder / "data")),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", f"one={peer}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Etcd refuses to run on other machines than amd64 unless it is told that this is meant.
                env={**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64"},
                # Ctrl-C is for whoever started it.
                process_group=0,
            )
        until = time.monotonic() + START_TIMEOUT
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
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """It answers no more, and its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on after a pause."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _log(self) -> str:
        log = self._folder / "log"
        return f"etcd ({self._program}) did not start:\n" + (log.read_text(errors="replace") if log.exists() else "")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
