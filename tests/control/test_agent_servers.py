"""Which servers an agent believes, and how it follows them: epochs, leaders, tokens, connections that are stuck."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.control.agents import (
    ALIVE,
    DEADLINE,
    QUICK,
    TRUE,
    agent,
    conditions,
    free_address,
    nodes,
    server,
    wait_for_node,
)
from tests.etcd import program
from tests.interpreters import SERVER_PYTHON

from atoll_control.agent.app import run
from atoll_control.agent.errors import PlaceTakenError
from atoll_control.agent.settings import AgentSettings, LinkSettings
from atoll_control.agent.state import StateDirectory
from atoll_control.api.times import duration
from atoll_control.api.v1 import health_pb2, health_pb2_grpc, node_pb2, node_pb2_grpc
from atoll_control.testing.etcd import Etcd
from atoll_control.testing.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.once, pytest.mark.server_process, pytest.mark.timeout(300)]


# ---------------------------------------------------------------------------------------------------------- epochs


class FakeServer(node_pb2_grpc.NodeServiceServicer, health_pb2_grpc.HealthServiceServicer):
    """Takes every node, and has the epoch that the test gives it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.registered: list[node_pb2.RegisterRequest] = []
        self.heartbeats: list[int] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        node_pb2_grpc.add_NodeServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Register(self, request: Any, context: Any) -> Any:  # noqa: ARG002 - the signature is gRPC's
        self.registered.append(request)
        return node_pb2.RegisterResponse(
            heartbeat_interval=duration(0.2), node_deadline=duration(4), server_id=self.address, epoch=self.epoch
        )

    def Heartbeat(self, request: Any, context: Any) -> Any:  # noqa: ARG002 - the signature is gRPC's
        self.heartbeats.append(request.incarnation)
        return health_pb2.HeartbeatResponse(heartbeat_interval=duration(0.2), server_id=self.address, epoch=self.epoch)

    def stop(self) -> None:
        self._server.stop(None).wait()


@contextlib.contextmanager
def fake(epoch: int) -> Iterator[FakeServer]:
    it = FakeServer(epoch)  # type: ignore[abstract] # of the other methods none is called
    try:
        yield it
    finally:
        it.stop()


def wait_until(condition: Any) -> None:
    give_up = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_server_with_a_lower_epoch_is_refused_and_another_one_asked(tmp_path: Path) -> None:
    with fake(7) as stale, fake(7) as leader:
        with agent(f"{stale.address},{leader.address}", tmp_path) as running:
            assert running.wait_for("registered")["server"] == stale.address
            wait_until(lambda: stale.heartbeats)
            # Another server takes over, and the first one does not know.
            leader.epoch, stale.epoch = 8, 6
            refused = running.wait_for("server_refused")
            assert f"the epoch of {stale.address} is 6, and 7 has been seen" in refused["problem"]
            assert "--forget-epoch" in refused["remedy"]
            running.wait_for("server_back")
            wait_until(lambda: len(leader.heartbeats) > 2)
            assert running.count("registered") == 1
            running.stop()
        # The agent remembers, and registers with the other one.
        with agent(f"{stale.address},{leader.address}", tmp_path) as running:
            running.wait_for("server_refused")
            assert running.wait_for("registered")["server"] == leader.address
            running.stop()
        with agent(stale.address, tmp_path, "--forget-epoch") as running:
            assert running.wait_for("registered")["epoch"] == 6
            running.stop()


# --------------------------------------------------------------------------------------------- two for one node


def test_an_id_that_is_live_at_another_address_ends_the_agent_with_both_addresses(tmp_path: Path) -> None:
    address = free_address()
    with server(address), agent(address, tmp_path / "a", "--address", "127.0.0.1:7001") as first:
        node_id = first.wait_for("registered")["node_id"]
        settings = AgentSettings(
            link=LinkSettings(servers=(address,)), address="127.0.0.1:7002", start_jitter=0.0, place_patience=1.0
        )
        with StateDirectory(tmp_path / "b", node_id=node_id) as state, pytest.raises(PlaceTakenError) as ended:
            asyncio.run(run(settings, state))
        assert "127.0.0.1:7001" in str(ended.value)
        assert "127.0.0.1:7002" in str(ended.value)
        (node,) = nodes(address)
        assert (node.state, node.address) == (ALIVE, "127.0.0.1:7001")


def test_a_node_whose_state_was_lost_takes_its_id_back_although_its_clock_was_set_back(tmp_path: Path) -> None:
    address = free_address()
    with server(address):
        with grpc.insecure_channel(address) as channel:
            request = node_pb2.RegisterRequest(node_id="a", incarnation=1 << 62)
            node_pb2_grpc.NodeServiceStub(channel).Register(request, timeout=DEADLINE)
        with agent(address, tmp_path, "--node-id", "a") as running:
            assert running.wait_for("registered")["incarnation"] == (1 << 62) + 1
            assert running.stop() == 0


# --------------------------------------------------------------------------------------------------------- leaders


def member(etcd: Etcd) -> ServerProcess:
    return ServerProcess("--etcd", etcd.endpoint, *QUICK, python=SERVER_PYTHON, begins_with="standing_by")


@pytest.mark.alone
def test_an_agent_follows_the_leader_and_keeps_its_membership(tmp_path: Path) -> None:
    (file := tmp_path / "agent.toml").write_text('[[check]]\nname = "Fine"\ncommand = ["/bin/true"]\n')
    with Etcd(program(), tmp_path / "etcd") as etcd, member(etcd) as first:
        first.wait_for("server_started")
        leader = first.address
        with member(etcd) as second:
            standby = second.address
            second.wait_for("leader_seen")
            # It is told of the standby only, and led to the leader by it.
            with agent(f"{standby},{leader}", tmp_path / "state", "--config", str(file)) as running:
                registered = running.wait_for("registered")
                assert registered["server"] == leader
                wait_for_node(leader, lambda node: conditions(node).get("Fine", (0,))[0] == TRUE)
                first.kill()
                second.wait_for("server_started")
                running.wait_for("server_back")
                node = wait_for_node(standby, lambda _: True)
                assert (node.state, node.incarnation) == (ALIVE, registered["incarnation"])
                assert conditions(node)["Fine"][0] == TRUE
                assert running.count("registered") == 1
                assert running.stop() == 0


# ----------------------------------------------------------------------------------------------- stuck connections


class Forwarder:
    """Passes connections on to a server; those that it has can be stuck, while new ones are not."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, threading.Event]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        host, _, port = self._target.rpartition(":")
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((host, int(port)))
                stuck = threading.Event()
                self._pairs += [(near, stuck), (far, stuck)]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink, stuck), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, stuck: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not stuck.is_set():
                    sink.sendall(data)

    def be_stuck(self) -> int:
        """Loses all that is sent on the connections that there are; their number."""
        for _, stuck in self._pairs:
            stuck.set()
        return len(self._pairs) // 2

    def close(self) -> None:
        for each in (self._listener, *(end for end, _ in self._pairs)):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_a_connection_that_loses_everything_is_replaced_before_the_node_is_dead(tmp_path: Path) -> None:
    address = free_address()
    quick = ("--heartbeat-interval", "0.5", "--dead-after", "12")
    with ServerProcess("--listen", address, *quick, python=SERVER_PYTHON):
        forwarder = Forwarder(address)
        with agent(forwarder.address, tmp_path) as running:
            registered = running.wait_for("registered")
            assert forwarder.be_stuck() == 1
            running.wait_for("server_back")
            (node,) = nodes(address)
            assert (node.state, node.incarnation) == (ALIVE, registered["incarnation"])
            assert running.count("registered") == 1
            assert running.stop() == 0
        forwarder.close()


# ---------------------------------------------------------------------------------------------- tokens, systemd


def test_an_agent_shows_its_token_and_reads_it_again_when_it_is_not_taken_any_more(tmp_path: Path) -> None:
    address = free_address()
    data = tmp_path / "data"
    (file := tmp_path / "token").write_text("of-another-server\n")
    with server(address, "--data-dir", str(data), "--tokens"):
        admin = {**os.environ, "ATOLL_TOKEN_FILE": str(data / "admin-token")}
        with agent(address, tmp_path / "state", "--node-id", "a", "--token-file", str(file)) as running:
            assert "token" in running.wait_for("server_lost")["problem"]
            made = subprocess.run(
                [
                    *(sys.executable, "-m", "atoll_control.cli", "tokens", "create", "a", "--role", "node"),
                    *("--node", "a", "--server", address),
                ],
                capture_output=True,
                text=True,
                check=True,
                timeout=DEADLINE,
                env=admin,
            )
            file.write_text(made.stdout)
            assert running.wait_for("registered")["node_id"] == "a"
            assert running.stop() == 0
            assert running.count("left") == 1


def test_an_agent_speaks_tls_and_refuses_a_server_whose_certificate_it_does_not_trust(
    tmp_path: Path, certificates: Path
) -> None:
    address = free_address()
    own = ("--tls-cert", str(certificates / "server.pem"), "--tls-key", str(certificates / "server.key"))
    with server(address, *own):
        named = address.replace("127.0.0.1", "localhost")
        with agent(named, tmp_path, "--tls-ca", str(certificates / "authority.pem")) as running:
            running.wait_for("registered")
            assert running.stop() == 0
        with agent(named, tmp_path, "--tls") as running:
            running.wait_for("server_lost")
            assert running.count("registered") == 0


def test_systemd_is_told_that_the_agent_is_ready_how_it_is_and_that_it_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE)
        told: list[str] = []

        def wait_for(word: str) -> None:
            while not any(word in message for message in told):
                told.append(systemd.recv(4096).decode())

        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        address = free_address()
        with agent(address, tmp_path / "state", environment=environment) as running:
            wait_for("READY=1")
            wait_for("server lost")
            with server(address):
                wait_for(f"registered at {address}")
                running.process.send_signal(signal.SIGTERM)
                wait_for("STOPPING=1")
                assert running.wait() == 0
