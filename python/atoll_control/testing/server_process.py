"""`ServerProcess`: `atollctl serve` in a process of its own; `LoggedProcess`: any command that logs. On any thread."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading  # noqa: TID251 - the log is read while the test goes on
from typing import TYPE_CHECKING, Any, Final, Self

import grpc

from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

EVENT_TIMEOUT: Final = 60.0
CALL_TIMEOUT: Final = 10.0


class ProcessFailedError(Exception):
    """It ended, or did not log in time what was waited for; the message has its log."""


class LoggedProcess:
    """A command of `atollctl`, whose log in JSON is read as it comes: one whose log nobody reads comes to a halt.

    It runs until `end`, or within a `with` block.

    Attributes:
        process: it.
    """

    def __init__(
        self, *arguments: str, python: str = sys.executable, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts it.

        Args:
            *arguments: the command and its own arguments.
            python: the interpreter that it runs on.
            environment: its variables; None for ours.
        """
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [python, "-m", "atoll_control.cli", *arguments],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # Ctrl-C is for whoever started it.
            process_group=0,
        )
        self._lines: list[dict[str, Any]] = []
        self._has_ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.end()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            with self._news:
                self._lines.append(json.loads(line) if line.startswith("{") else {"event": line})
                self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()

    @property
    def lines(self) -> Sequence[dict[str, Any]]:
        """What it has logged; after `stop`, `wait` or `kill` all that it ever will have."""
        with self._news:
            return tuple(self._lines)

    def said(self) -> str:
        """The same as text."""
        return "\n".join(map(str, self.lines))

    def count(self, event: str) -> int:
        """How many lines of this event there are so far."""
        return sum(line["event"] == event for line in self.lines)

    def wait_for(self, event: str, number: int = 1) -> dict[str, Any]:
        """Waits for the `number`-th line of this event, and returns it.

        Raises:
            ProcessFailedError: it does not come.
        """

        def found() -> list[dict[str, Any]]:
            return [line for line in self._lines if line["event"] == event][number - 1 : number]

        with self._news:
            self._news.wait_for(lambda: found() or self._has_ended, EVENT_TIMEOUT)
            if line := found():
                return line[0]
            when = "ended" if self._has_ended else f"was waited for {EVENT_TIMEOUT:.0f} s"
        raise ProcessFailedError(f"the process {when} and has not logged {event!r}, but:\n{self.said()}")

    def each(self, event: str) -> Iterator[dict[str, Any]]:
        """The lines of this event, from the first one on, each waited for.

        Raises:
            ProcessFailedError: the next one does not come.
        """
        number = 0
        while True:
            number += 1
            yield self.wait_for(event, number)

    def pause(self) -> None:
        """It stands still, and its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on after a pause."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stops it in good order, and returns its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Waits for its end, and returns its exit code."""
        code = self.process.wait(EVENT_TIMEOUT)
        self._reader.join(EVENT_TIMEOUT)
        return code

    def kill(self) -> None:
        """As by kill -9."""
        self.process.kill()
        self.wait()

    def end(self) -> None:
        """Kills it if it still runs, and gives everything back."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe is not None:
                pipe.close()


class ServerProcess(LoggedProcess):
    """A server that runs until it is ended, or until the process that started it is.

    Attributes:
        address: "host:port", with the port that it took.
    """

    def __init__(
        self,
        *arguments: str,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        begins_with: str = "server_started",
    ) -> None:
        """Starts it, and waits until it has its port.

        Args:
            *arguments: of `atollctl serve`, besides where it listens: a free port of loopback unless one is named.
            python: the interpreter that it runs on.
            environment: its variables; None for ours.
            begins_with: the event of its log that tells its address; of a server on etcd "standing_by".

        Raises:
            ProcessFailedError: it does not start.
        """
        super().__init__(
            *("serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--exit-with-stdin", *arguments),
            python=python,
            environment=environment,
        )
        try:
            self.address: str = self.wait_for(begins_with)["address"]
        except BaseException:
            self.end()
            raise

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
