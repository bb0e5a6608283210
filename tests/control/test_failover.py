"""Several `atollctl serve` on one real etcd: who leads, who takes over, and that nothing is lost or seen twice then."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.control.between import proxy
from tests.control.observing import OBSERVED, Observed, get, wait_until
from tests.etcd import program
from tests.interpreters import SERVER_PYTHON

from atoll_control.api.v1 import (
    admin_pb2,
    kv_pb2,
    kv_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    rules_pb2,
    token_pb2,
    token_pb2_grpc,
)
from atoll_control.client import Changed, Client, Reset, SnapshotEntry, UnknownOutcomeError
from atoll_control.testing.etcd import Etcd
from atoll_control.testing.history import History
from atoll_control.testing.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE = 60.0
# Leaders keep a lease of 3 s: other work on the machine would take it from them.
pytestmark = [pytest.mark.once, pytest.mark.server_process, pytest.mark.alone, pytest.mark.timeout(300)]


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with Etcd(program(), tmp_path / "etcd") as etcd:
        yield etcd


@pytest.fixture
def member(etcd: Etcd) -> Iterator[Callable[..., ServerProcess]]:
    with contextlib.ExitStack() as members:

        def start(*arguments: str) -> ServerProcess:
            return members.enter_context(
                ServerProcess("--etcd", etcd.endpoint, *arguments, python=SERVER_PYTHON, begins_with="standing_by")
            )

        yield start


@pytest.fixture
def pair(member: Callable[..., ServerProcess]) -> tuple[ServerProcess, ServerProcess]:
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


def test_a_standby_tells_where_the_leader_is_and_refuses_everything_else(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
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


def test_a_standby_lives_and_is_not_ready_until_it_takes_over(member: Callable[..., ServerProcess]) -> None:
    leader = member(*OBSERVED)
    leader.wait_for("server_started")
    standby = member(*OBSERVED)
    standby.wait_for("leader_seen")
    leading, standing_by = Observed(leader), Observed(standby)
    wait_until(lambda: get(leading.observe, "/readyz")[0] == 200)
    wait_until(lambda: standing_by.conditions()["leader"] == (False, f"standby of {leader.address}"))
    assert get(standing_by.observe, "/livez")[0] == 200
    assert get(standing_by.observe, "/readyz")[0] == 503
    assert (leading.numbers()["is_leader"][()], standing_by.numbers()["is_leader"][()]) == (1, 0)
    epoch = leading.numbers()["epoch"][()]
    leader.kill()
    wait_until(lambda: get(standing_by.observe, "/readyz")[0] == 200)
    numbers = standing_by.numbers()
    assert numbers["is_leader"][()] == 1
    assert numbers["epoch"][()] > epoch


@pytest.mark.smoke
def test_a_leader_that_is_stopped_hands_over_at_once(pair: tuple[ServerProcess, ServerProcess]) -> None:
    leader, standby = pair
    revision = put(leader.address)
    epoch = leader.server().epoch
    assert leader.stop() == 0
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
    pair: tuple[ServerProcess, ServerProcess], member: Callable[..., ServerProcess]
) -> None:
    leader, standby = pair
    third = member()
    with History([leader.address, standby.address, third.address]) as history:
        history.wait_for_write(time.monotonic(), DEADLINE)
        time.sleep(0.5)
        leader.kill()
        history.wait_for_write(time.monotonic(), DEADLINE)
        time.sleep(0.5)
    assert history.problems() == []
    assert history.resumed


def test_a_leader_that_stood_still_for_longer_than_its_lease_neither_writes_nor_answers_afterwards(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    leader, standby = pair
    with History([leader.address, standby.address]) as history:
        history.wait_for_write(time.monotonic(), DEADLINE)
        leader.pause()
        standby.wait_for("server_started")
        history.wait_for_write(time.monotonic(), DEADLINE)
        leader.resume()
        lost = leader.wait_for("leadership_lost")
        # It stands by again, and sends whoever calls to the new leader.
        leader.wait_for("standing_by", 2)
        assert leader.wait_for("leader_seen")["address"] == standby.address
        time.sleep(0.5)
    assert history.problems() == []
    assert standby.server().epoch > lost["epoch"]


def test_an_etcd_that_is_killed_and_comes_back_loses_nothing(
    etcd: Etcd, pair: tuple[ServerProcess, ServerProcess]
) -> None:
    leader, standby = pair
    with History([leader.address, standby.address]) as history:
        history.wait_for_write(time.monotonic(), DEADLINE)
        etcd.kill()
        # Until nobody may serve.
        leader.wait_for("leadership_lost")
        etcd.start_again()
        history.wait_for_write(time.monotonic(), DEADLINE)
        time.sleep(0.5)
    assert history.problems() == []


def test_an_etcd_that_is_cut_off_and_comes_back_loses_nothing(
    etcd: Etcd, pair: tuple[ServerProcess, ServerProcess]
) -> None:
    leader, standby = pair
    with History([leader.address, standby.address]) as history:
        history.wait_for_write(time.monotonic(), DEADLINE)
        etcd.pause()
        leader.wait_for("leadership_lost")
        etcd.resume()
        history.wait_for_write(time.monotonic(), DEADLINE)
        time.sleep(0.5)
    assert history.problems() == []


def test_a_leader_that_alone_is_cut_off_from_etcd_stops_before_another_serves_and_stands_by_when_it_is_back(
    etcd: Etcd, member: Callable[..., ServerProcess]
) -> None:
    with (
        proxy(etcd.endpoint.removeprefix("http://")) as between,
        ServerProcess("--etcd", f"http://{between.address}", python=SERVER_PYTHON, begins_with="standing_by") as leader,
    ):
        leader.wait_for("server_started")
        standby = member()
        standby.wait_for("leader_seen")
        with History([leader.address, standby.address]) as history:
            history.wait_for_write(time.monotonic(), DEADLINE)
            between.is_frozen = True
            lost, started = leader.wait_for("leadership_lost"), standby.wait_for("server_started")
            assert lost["timestamp"] < started["timestamp"]
            history.wait_for_write(time.monotonic(), DEADLINE)
            with pytest.raises(grpc.RpcError):
                put(leader.address)
            # The bytes between are lost, and so the connections.
            between.is_frozen = False
            between.cut()
            wait_until(lambda: leader.server().leader_address == standby.address)
            time.sleep(0.5)
        assert history.problems() == []


def test_a_server_whose_etcd_is_not_there_yet_stands_by_until_it_comes(
    etcd: Etcd, member: Callable[..., ServerProcess]
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
    assert early.leads


def test_the_checker_finds_that_a_server_has_forgotten_what_it_acknowledged() -> None:
    # What is in memory only is gone with the process.
    with ServerProcess(python=SERVER_PYTHON) as server:
        history = History([server.address])
        with history:
            history.wait_for_write(time.monotonic(), DEADLINE)
            server.kill()
            with ServerProcess("--listen", server.address, python=SERVER_PYTHON):
                until = time.monotonic() + DEADLINE
                while not history.mistakes and time.monotonic() < until:
                    time.sleep(0.02)
        assert history.mistakes


def test_who_takes_over_knows_the_tokens_and_a_standby_tells_where_the_leader_is_without_one(
    member: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    secret = "0123456789abcdef0123456789abcdef"  # noqa: S105 - of this test alone
    file = tmp_path / "admin-token"
    file.write_text(secret)
    leader = member("--tokens", "--admin-token-file", str(file))
    leader.wait_for("server_started")
    standby = member("--tokens", "--admin-token-file", str(file))
    standby.wait_for("leader_seen")
    assert standby.server().leader_address == leader.address
    with grpc.insecure_channel(leader.address) as channel:
        made = token_pb2_grpc.TokenServiceStub(channel).CreateToken(
            token_pb2.CreateTokenRequest(name="ci", role=rules_pb2.ROLE_WRITE),
            timeout=10,
            metadata=(("authorization", f"Bearer {secret}"),),
        )
    # None is made for a first administrator: who has the file is one.
    assert "first_admin_token" not in [line["event"] for line in leader.lines]
    leader.kill()
    standby.wait_for("server_started")
    with grpc.insecure_channel(standby.address) as channel:
        stub = kv_pb2_grpc.KvServiceStub(channel)
        shown = (("authorization", f"Bearer {made.secret}"),)
        assert stub.Put(kv_pb2.PutRequest(key=b"k"), timeout=10, metadata=shown, wait_for_ready=True).applied
        with pytest.raises(grpc.RpcError) as refused:
            stub.Put(kv_pb2.PutRequest(key=b"k"), timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert standby.wait_for("audit")["actor"] == "token:ci"


def test_the_python_client_follows_the_leader_and_tells_every_change_once(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    leader, standby = pair
    goal = 100
    seen: list[int] = []
    resets: list[Reset] = []

    def read() -> None:
        with Client(standby.address, timeout=DEADLINE) as reader, reader.watch.kv(key="n") as watch:
            for event in watch:
                if isinstance(event, SnapshotEntry | Changed):
                    seen.append(int(event.item.value))
                elif isinstance(event, Reset):
                    resets.append(event)
                if seen[-1:] == [goal]:
                    return

    with Client([standby.address, leader.address], timeout=DEADLINE) as client:
        client.kv.put("n", "0")
        assert client.endpoint == leader.address, "the standby has said so"
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        wait_until(lambda: bool(seen))
        for number in range(1, goal + 1):
            while (found := client.kv.get("n")) is None or int(found.value) < number:
                assert found is not None
                with contextlib.suppress(UnknownOutcomeError):
                    client.kv.put("n", str(number), expected_revision=found.revision)
            if number == goal // 2:
                leader.kill()
        thread.join(DEADLINE)
        assert client.endpoint == standby.address
    assert (seen, resets) == (list(range(goal + 1)), [])
