"""A server whose machine's clock is set while it runs: only what people read depends on it."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.control.observing import wait_until
from tests.interpreters import SERVER_PYTHON

from atoll_control.api.v1 import health_pb2, health_pb2_grpc, node_pb2, node_pb2_grpc
from atoll_control.client import Client
from atoll_control.testing.server_process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.once, pytest.mark.server_process]

DAY = 86_400.0
DEAD_AFTER = 4.0
# Python imports it at its start. The native side has clocks that nobody can set.
SET_CLOCK = """
import os
import time

_real = time.time


def _set() -> float:
    with open(os.environ["SET_CLOCK"]) as file:
        return _real() + float(file.read() or 0)


time.time = _set
"""


class MovedServer:
    """A server in a process whose clock the test sets."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "sitecustomize.py").write_text(SET_CLOCK)
        self.set_clock(0)

    def set_clock(self, by: float) -> None:
        """Sets it so many seconds beside the real time, all at once."""
        draft = self._folder / "draft"
        draft.write_text(str(by))
        draft.rename(self._folder / "clock")

    def start(self) -> ServerProcess:
        search = os.pathsep.join(filter(None, (str(self._folder), os.environ.get("PYTHONPATH"))))
        return ServerProcess(
            *("--data-dir", str(self._folder / "data")),
            *("--heartbeat-interval", "0.5", "--dead-after", str(DEAD_AFTER)),
            python=SERVER_PYTHON,
            environment={**os.environ, "PYTHONPATH": search, "SET_CLOCK": str(self._folder / "clock")},
        )


class Beating(threading.Thread):
    """A node that sends heartbeats."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self.ended = threading.Event()
        self.refused: list[str] = []

    def run(self) -> None:
        beat = health_pb2.HeartbeatRequest(node_id="n", incarnation=1)
        with grpc.insecure_channel(self._address) as channel:
            request = node_pb2.RegisterRequest(node_id="n", incarnation=1, address="10.0.0.1:1")
            node_pb2_grpc.NodeServiceStub(channel).Register(request, timeout=30)
            while not self.ended.wait(0.2):
                try:
                    health_pb2_grpc.HealthServiceStub(channel).Heartbeat(beat, timeout=30)
                except grpc.RpcError as error:
                    self.refused.append(str(error))


@pytest.fixture
def moved(tmp_path: Path) -> MovedServer:
    return MovedServer(tmp_path)


def test_neither_a_node_nor_a_lease_ends_because_the_clock_was_set(moved: MovedServer) -> None:
    with moved.start() as server, Client(server.address, timeout=30) as client:
        node = Beating(server.address)
        node.start()
        try:
            wait_until(lambda: [each.node_id for each in client.nodes.list()] == ["n"])
            client.kv.put("long", "1", ttl=3600)
            for by in (7 * DAY, -30 * DAY, 0.0):
                began = time.monotonic()
                client.kv.put("short", "1", ttl=3)
                moved.set_clock(by)
                condition = node_pb2.Condition(name=f"Set{by:.0f}", status=node_pb2.CONDITION_STATUS_TRUE)
                since = {each.name: each.since for each in client.nodes.set_conditions("n", [condition]).conditions}
                told = since[condition.name].ToSeconds()
                assert abs(told - time.time() - by) < DAY / 2, "the clock of the server has been set"
                wait_until(lambda: client.kv.get("short") is None)
                assert time.monotonic() - began >= 2.9
                assert client.kv.get("long") is not None
            # Longer than a node may be silent since the clock was set first.
            (alive,) = client.nodes.list()
            assert alive.state == node_pb2.NODE_STATE_ALIVE
            assert node.refused == []
        finally:
            node.ended.set()
            node.join(60)


def test_a_server_that_starts_in_the_past_knows_what_it_knew(moved: MovedServer) -> None:
    with moved.start() as server, Client(server.address, timeout=30) as client:
        client.kv.put("long", "1", ttl=3600)
        client.kv.put("kept", "1")
        server.kill()
    moved.set_clock(-400 * DAY)
    with moved.start() as server, Client(server.address, timeout=30) as client:
        assert client.kv.get("long") is not None
        assert client.kv.get("kept") is not None
        client.kv.put("short", "1", ttl=1)
        wait_until(lambda: client.kv.get("short") is None)
        assert client.kv.get("long") is not None
