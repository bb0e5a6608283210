"""Several `atollctl serve` on one real etcd: who leads, who takes over, and that nothing is lost or seen twice then."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.control.etcd import DEADLINE, Etcd
from tests.interpreters import SERVER_PYTHON

from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc, node_pb2, node_pb2_grpc
from atoll_control.testing.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.server_process, pytest.mark.timeout(300)]


class Member:
    """One `atollctl serve --etcd`, whose log is read as it comes."""

    def __init__(self, etcd: Etcd, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [
                *(SERVER_PYTHON, "-m", "atoll_control.cli", "serve"),
                *("--listen", "127.0.0.1:0", "--log-format", "json", "--etcd", etcd.endpoint, *arguments),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address: str = self.wait_for("standing_by")["address"]

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

    def events(self) -> list[str]:
        with self._news:
            return [line["event"] for line in self._lines]

    def leads(self) -> bool:
        return self.server().role == admin_pb2.SERVER_ROLE_LEADER

    def server(self) -> admin_pb2.GetServerResponse:
        with grpc.insecure_channel(self.address) as channel:
            answer: admin_pb2.GetServerResponse = admin_pb2_grpc.AdminServiceStub(channel).GetServer(
                admin_pb2.GetServerRequest(), timeout=10, wait_for_ready=True
            )
            return answer

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with Etcd(tmp_path / "etcd") as etcd:
        yield etcd


@pytest.fixture
def member(etcd: Etcd) -> Iterator[Callable[..., Member]]:
    members: list[Member] = []

    def start(*arguments: str) -> Member:
        members.append(Member(etcd, *arguments))
        return members[-1]

    yield start
    for it in members:
        it.end()


@pytest.fixture
def pair(member: Callable[..., Member]) -> tuple[Member, Member]:
    """A leader and a standby."""
    leader = member()
    leader.wait_for("server_started")
    standby = member()
    standby.wait_for("leader_seen")
    return leader, standby


def put(address: str, key: bytes = b"k", value: bytes = b"v") -> int:
    with grpc.insecure_channel(address) as channel:
        request = kv_pb2.PutRequest(key=key, value=value, overwrite=True)
        revision: int = kv_pb2_grpc.KvServiceStub(channel).Put(request, timeout=10).revision
        return revision


def first_write_after(history: History, then: float) -> float:
    """Seconds until a write was acknowledged again."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        if later := [it for it in history.times if it > then]:
            return later[0] - then
        time.sleep(0.02)
    raise AssertionError(f"nothing was written for {DEADLINE} s; {history}")


def test_a_standby_tells_where_the_leader_is_and_refuses_everything_else(pair: tuple[Member, Member]) -> None:
    leader, standby = pair
    assert leader.server().role == admin_pb2.SERVER_ROLE_LEADER
    told = standby.server()
    assert (told.role, told.leader_address, told.engine) == (
        admin_pb2.SERVER_ROLE_STANDBY,
        leader.address,
        "etcd",
    )
    with pytest.raises(grpc.RpcError) as refused:
        put(standby.address)
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == f"this server is a standby; the leader is at {leader.address}"
    assert dict(error.trailing_metadata())["atoll-leader"] == leader.address


def test_a_leader_that_is_stopped_hands_over_at_once(pair: tuple[Member, Member]) -> None:
    leader, standby = pair
    revision = put(leader.address)
    epoch = leader.server().epoch
    leader.process.send_signal(signal.SIGTERM)
    assert leader.process.wait(DEADLINE) == 0
    standby.wait_for("server_started")
    told = standby.server()
    assert (told.role, told.leader_address) == (admin_pb2.SERVER_ROLE_LEADER, standby.address)
    assert told.epoch > epoch
    assert put(standby.address) > revision
    with grpc.insecure_channel(standby.address) as channel:
        answer = node_pb2_grpc.NodeServiceStub(channel).Register(
            node_pb2.RegisterRequest(node_id="n", incarnation=1), timeout=10
        )
    assert answer.epoch == told.epoch


def test_no_write_is_lost_and_no_watch_has_a_gap_when_the_leader_is_killed_under_load(
    pair: tuple[Member, Member], member: Callable[..., Member]
) -> None:
    leader, standby = pair
    third = member()
    with History([leader.address, standby.address, third.address]) as history:
        first_write_after(history, time.monotonic())
        time.sleep(0.5)
        leader.process.kill()
        first_write_after(history, time.monotonic())
        time.sleep(0.5)
    assert history.problems() == []
    assert history.resumed


def test_a_leader_that_stood_still_for_longer_than_its_lease_neither_writes_nor_answers_afterwards(
    pair: tuple[Member, Member],
) -> None:
    leader, standby = pair
    with History([leader.address, standby.address]) as history:
        first_write_after(history, time.monotonic())
        leader.process.send_signal(signal.SIGSTOP)
        standby.wait_for("server_started")
        first_write_after(history, time.monotonic())
        leader.process.send_signal(signal.SIGCONT)
        lost = leader.wait_for("leadership_lost")
        # It stands by again, and sends whoever calls to the new leader.
        leader.wait_for("standing_by", 2)
        assert leader.wait_for("leader_seen")["address"] == standby.address
        time.sleep(0.5)
    assert history.problems() == []
    assert standby.server().epoch > lost["epoch"]


def test_an_etcd_that_is_killed_and_comes_back_loses_nothing(etcd: Etcd, pair: tuple[Member, Member]) -> None:
    leader, standby = pair
    with History([leader.address, standby.address]) as history:
        first_write_after(history, time.monotonic())
        etcd.kill()
        # Until nobody may serve.
        leader.wait_for("leadership_lost")
        etcd.start_again()
        first_write_after(history, time.monotonic())
        time.sleep(0.5)
    assert history.problems() == []


def test_an_etcd_that_is_cut_off_and_comes_back_loses_nothing(etcd: Etcd, pair: tuple[Member, Member]) -> None:
    leader, standby = pair
    with History([leader.address, standby.address]) as history:
        first_write_after(history, time.monotonic())
        etcd.pause()
        leader.wait_for("leadership_lost")
        etcd.resume()
        first_write_after(history, time.monotonic())
        time.sleep(0.5)
    assert history.problems() == []


def test_a_server_whose_etcd_is_not_there_yet_stands_by_until_it_comes(
    etcd: Etcd, member: Callable[..., Member]
) -> None:
    etcd.kill()
    early = member()
    early.wait_for("etcd_not_reached")
    with pytest.raises(grpc.RpcError) as refused:
        put(early.address)
    error: Any = refused.value
    assert "does not know who leads" in error.details()
    etcd.start_again()
    early.wait_for("server_started")
    assert early.leads()


def test_the_checker_finds_that_a_server_has_forgotten_what_it_acknowledged() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    with forgetful(address) as process:
        history = History([address])
        with history:
            first_write_after(history, time.monotonic())
            process.kill()
            with forgetful(address):
                until = time.monotonic() + DEADLINE
                while not history.mistakes and time.monotonic() < until:
                    time.sleep(0.02)
        assert history.mistakes


@contextlib.contextmanager
def forgetful(address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that keeps everything in memory."""
    command = [SERVER_PYTHON, "-m", "atoll_control.cli", "serve", "--listen", address]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()
