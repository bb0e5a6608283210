"""`ServerProcess`: `atollctl serve` in a process of its own, whose log is read as it comes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading  # noqa: TID251 - the log is read while the test goes on
from typing import TYPE_CHECKING, Any, Final

import grpc

from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

EVENT_TIMEOUT: Final = 60.0
CALL_TIMEOUT: Final = 10.0


class ServerProcess:
    """A server that runs until it is ended, or until the process that started it is.

    Attributes:
        process: it.
        address: "host:port", with the port that it took.
    """

    def __init__(self, *arguments: str, python: str = sys.executable, begins_with: str = "server_started") -> None:
        """Starts it, and waits until it has its port.

        Args:
            *arguments: of `atollctl serve`, besides where it listens: a free port of loopback unless one is named.
            python: the interpreter that it runs on.
            begins_with: the event of its log that tells its address; of a server on etcd "standing_by".

        Raises:
            TimeoutError: it does not start; the message has its log.
        """
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [
                *(python, "-m", "atoll_control.cli", "serve", "--listen", "127.0.0.1:0", "--log-format", "json"),
                *("--exit-with-stdin", *arguments),
            ],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._lines: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address: str = self.wait_for(begins_with)["address"]

    def _read(self) -> None:
        for line in self.process.stderr or ():
            with self._news:
                self._lines.append(json.loads(line) if line.startswith("{") else {"event": line})
                self._news.notify_all()

    @property
    def lines(self) -> Sequence[dict[str, Any]]:
        """What it has logged."""
        with self._news:
            return tuple(self._lines)

    def wait_for(self, event: str, number: int = 1) -> dict[str, Any]:
        """Waits for the `number`-th line of this event, and returns it.

        Raises:
            TimeoutError: it does not come; the message has the log.
        """

        def found() -> list[dict[str, Any]]:
            return [line for line in self._lines if line["event"] == event][number - 1 : number]

        with self._news:
            if not self._news.wait_for(found, EVENT_TIMEOUT):
                log = "\n".join(str(line) for line in self._lines)
                raise TimeoutError(f"the server has not logged {event!r} within {EVENT_TIMEOUT} s, but:\n{log}")
            return found()[0]

    def server(self) -> admin_pb2.GetServerResponse:
        """What it says of itself."""
        with grpc.insecure_channel(self.address) as channel:
            answer: admin_pb2.GetServerResponse = admin_pb2_grpc.AdminServiceStub(channel).GetServer(
                admin_pb2.GetServerRequest(), timeout=CALL_TIMEOUT, wait_for_ready=True
            )
            return answer

    @property
    def leads(self) -> bool:
        """Whether it says so."""
        return self.server().role == admin_pb2.SERVER_ROLE_LEADER

    def pause(self) -> None:
        """It stands still, and its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on after a pause."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """Stops it in good order, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(EVENT_TIMEOUT)

    def kill(self) -> None:
        """As by kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Kills it if it still runs, and gives everything back."""
        self.kill()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe is not None:
                pipe.close()
