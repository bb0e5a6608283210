"""The turns of one of several servers, with an election and a store that do what a test says; real ones: test_failover.

What a real etcd brings about only now and then is forced here.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
import structlog
from tests.control.watching import TIMEOUT, on_a_loop

from atoll.errors import NotLeaderError, StoreClosedError
from atoll.store import Store
from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc
from atoll_control.server import failover
from atoll_control.server.settings import ServerSettings
from atoll_control.server.stopping import Stop
from atoll_control.server.tables import KV, TABLES
from atoll_control.server.vitals import Vitals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

OWN_NAME = "this"


@dataclass(frozen=True)
class Leader:
    name: str
    address: str
    epoch: int = 1


@dataclass(frozen=True)
class State:
    role: str
    leader: Leader | None = None
    epoch: int | None = None
    problem: str | None = None


class FakeElection:
    """Stands where the test says."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.state = State("standby")
        # What whoever follows is told instead of a state, and the store of the term.
        self.failure: Exception | None = None
        self.store: LosingStore | None = None
        self.resigned_over_an_open_store = False
        self._news = asyncio.Event()

    def becomes(self, state: State) -> None:
        self.state = state
        self._news.set()

    def fails(self, failure: Exception) -> None:
        self.failure = failure
        self._news.set()

    async def changed(self, seen: State) -> State:
        while self.state == seen:
            self._news.clear()
            await self._news.wait()
            if self.failure is not None:
                raise self.failure
        return self.state

    async def resign(self) -> None:
        if self.store is not None:
            with contextlib.suppress(StoreClosedError):
                self.store.real.get(KV, b"k")
                self.resigned_over_an_open_store = True
        self.becomes(State("resigned"))


class LosingStore:
    """A store in memory whose lead is lost when the first module reads it; `refuses` says whether that module sees it.

    As a real one it refuses to read when its lease has run out.
    """

    def __init__(self, lose: Callable[[], object], *, refuses: bool) -> None:
        self.real = Store.in_memory(TABLES)
        self._lose = lose
        self._refuses = refuses

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def snapshot(self) -> Any:
        self._lose()
        if self._refuses:
            raise NotLeaderError("the lease has run out")
        return self.real.snapshot()


class Turns:
    """A server in its turns, without an etcd."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elections: list[FakeElection] = []
        self.stop = Stop()
        monkeypatch.setattr(failover, "Election", SimpleNamespace(start=self._stand))
        monkeypatch.setattr(failover, "STAND_AGAIN_AFTER", 0.0)

    def _stand(self, _etcd: object, *, name: str, address: str) -> FakeElection:
        assert name == OWN_NAME
        self.elections.append(FakeElection(address))
        return self.elections[-1]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeElection]:
        """The first election, while the server runs."""
        settings, etcd = ServerSettings(listen="127.0.0.1:0"), SimpleNamespace()
        async with Vitals(settings) as vitals:
            anything: Any = etcd
            serving = asyncio.create_task(failover.serve_in_turns(settings, anything, OWN_NAME, self.stop, vitals))
            await until(lambda: bool(self.elections))
            try:
                yield self.elections[0]
            finally:
                self.stop.asked.set()
                await serving


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def told(address: str) -> admin_pb2.GetServerResponse:
    async with grpc.aio.insecure_channel(address) as channel:
        asking = admin_pb2_grpc.AdminServiceStub(channel).GetServer
        answer: admin_pb2.GetServerResponse = await asking(
            admin_pb2.GetServerRequest(), timeout=TIMEOUT, wait_for_ready=True
        )
        return answer


async def refused_put(address: str) -> Any:
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await kv_pb2_grpc.KvServiceStub(channel).Put(
                kv_pb2.PutRequest(key=b"k"), timeout=TIMEOUT, wait_for_ready=True
            )
    return refused.value


@pytest.mark.whole_grpcio
@on_a_loop
async def test_a_standby_does_not_name_itself_while_the_key_of_its_own_former_term_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns(monkeypatch)
    with structlog.testing.capture_logs() as lines:
        async with turns.running() as election:
            own = election.address
            election.becomes(State("standby", Leader(OWN_NAME, own), problem="its lease runs out"))
            async with asyncio.timeout(TIMEOUT):
                while "its lease runs out" not in (error := await refused_put(own)).details():
                    pass
            assert "does not know who leads" in error.details()
            assert "atoll-leader" not in dict(error.trailing_metadata())
            assert (await told(own)).leader_address == ""
            election.becomes(State("standby", Leader("other", "10.0.0.2:50051")))
            await until(lambda: any(line["event"] == "leader_seen" for line in lines))
            assert (await told(own)).leader_address == "10.0.0.2:50051"
    assert [line["name"] for line in lines if line["event"] == "leader_seen"] == ["other"]


@pytest.mark.whole_grpcio
@pytest.mark.parametrize(
    ("refuses", "ending"), [(True, "term_not_begun"), (False, "term_ended")], ids=["refused", "unnoticed"]
)
def test_a_server_that_loses_the_lead_while_its_modules_are_made_stands_by_again(
    monkeypatch: pytest.MonkeyPatch, ending: str, *, refuses: bool
) -> None:
    @on_a_loop
    async def run() -> None:
        turns = Turns(monkeypatch)
        loop = asyncio.get_running_loop()

        def load(election: FakeElection, _tables: object) -> LosingStore:
            lost = State("lost", epoch=7, problem="another one leads")
            election.store = LosingStore(lambda: loop.call_soon_threadsafe(election.becomes, lost), refuses=refuses)
            return election.store

        monkeypatch.setattr(failover, "Store", SimpleNamespace(in_etcd=load))
        with structlog.testing.capture_logs() as lines:
            async with turns.running() as election:
                election.becomes(State("leading", epoch=7))
                await until(lambda: len(turns.elections) == 2)
                assert election.state == State("resigned")
                assert not election.resigned_over_an_open_store
                turns.elections[1].becomes(State("standby", Leader("other", "10.0.0.2:50051")))
                await until(lambda: any(line["event"] == "leader_seen" for line in lines))
                answer = await told(turns.elections[1].address)
                assert (answer.role, answer.leader_address) == (admin_pb2.SERVER_ROLE_STANDBY, "10.0.0.2:50051")
        events = [line["event"] for line in lines]
        assert [it for it in events if it.startswith("term_")] == [ending]
        assert events.count("standing_by") == 2
        assert turns.elections[1].address == election.address, "the port is kept"

    run()


@on_a_loop
async def test_a_term_ends_when_nobody_can_tell_any_more_who_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(monkeypatch)

    def load(election: FakeElection, _tables: object) -> LosingStore:
        election.store = LosingStore(lambda: None, refuses=False)
        return election.store

    monkeypatch.setattr(failover, "Store", SimpleNamespace(in_etcd=load))
    with structlog.testing.capture_logs() as lines:
        async with turns.running() as election:
            election.becomes(State("leading", epoch=7))
            await until(lambda: any(line["event"] == "server_started" for line in lines))
            election.fails(RuntimeError("the loop is gone"))
            await until(lambda: len(turns.elections) == 2)
            assert election.state == State("resigned")
            assert not election.resigned_over_an_open_store
    events = [line["event"] for line in lines]
    assert events.index("election_not_followed") < events.index("term_ended")
