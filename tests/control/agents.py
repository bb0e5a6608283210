"""What the tests of the agent share: agents and servers in processes of their own, whose logs are read as they come."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import grpc
from tests.interpreters import SERVER_PYTHON

from atoll_control.api.v1 import node_pb2, node_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEADLINE = 60.0
ALIVE, DEAD, LEFT = node_pb2.NODE_STATE_ALIVE, node_pb2.NODE_STATE_DEAD, node_pb2.NODE_STATE_LEFT
TRUE, FALSE = node_pb2.CONDITION_STATUS_TRUE, node_pb2.CONDITION_STATUS_FALSE
UNKNOWN = node_pb2.CONDITION_STATUS_UNKNOWN
# Nodes are found dead after four seconds; on a loaded machine no healthy one is.
QUICK = ("--heartbeat-interval", "0.5", "--dead-after", "4")


class Logged:
    """A process that logs JSON on standard error."""

    def __init__(self, python: str, *arguments: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [python, "-m", "atoll_control.cli", *arguments], stderr=subprocess.PIPE, text=True, **options
        )
        self._lines: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._lines.append(json.loads(line) if line.startswith("{") else {"event": line})
                self._news.notify_all()

    def wait_for(self, event: str, number: int = 1) -> dict[str, Any]:
        """The `number`-th line of this event."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self._lines if line["event"] == event][number - 1 : number]

        with self._news:
            assert self._news.wait_for(found, DEADLINE), (event, self._lines)
            return found()[0]

    def count(self, event: str) -> int:
        with self._news:
            return sum(line["event"] == event for line in self._lines)

    def said(self) -> str:
        """All that it has logged; once it has ended, all that it ever will have."""
        if self.process.poll() is not None:
            self._reader.join()
        with self._news:
            return "\n".join(str(line) for line in self._lines)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(DEADLINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def server(address: str, *arguments: str) -> Logged:
    """A server that serves."""
    started = Logged(SERVER_PYTHON, "serve", "--listen", address, "--log-format", "json", *QUICK, *arguments)
    started.wait_for("server_started")
    return started


def agent(servers: str, state: Path, *arguments: str, **options: Any) -> Logged:
    return Logged(
        sys.executable,
        *("agent", "--server", servers, "--state-dir", str(state), "--log-format", "json", *arguments),
        **options,
    )


def nodes(address: str) -> list[node_pb2.Node]:
    with grpc.insecure_channel(address) as channel:
        stub = node_pb2_grpc.NodeServiceStub(channel)
        return list(stub.ListNodes(node_pb2.ListNodesRequest(), timeout=DEADLINE, wait_for_ready=True).nodes)


def wait_for_node(address: str, condition: Callable[[node_pb2.Node], object]) -> node_pb2.Node:
    """The only node, once it is so."""
    give_up = time.monotonic() + DEADLINE
    while time.monotonic() < give_up:
        for node in (found := nodes(address)):
            if len(found) == 1 and condition(node):
                return node
        time.sleep(0.05)
    raise AssertionError(nodes(address))


def conditions(node: node_pb2.Node) -> dict[str, tuple[int, str]]:
    return {condition.name: (condition.status, condition.reason) for condition in node.conditions}
