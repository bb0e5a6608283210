"""What an owner may have, and that all of it goes with its end: on each engine, and of owners that have too much."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.control.cluster import DEAD, Cluster
from tests.control.narrow import NarrowStore
from tests.etcd import program

from atoll.errors import OwnerFullError
from atoll.store import Election, EtcdOptions, Store
from atoll_control.api.v1 import kv_pb2, node_pb2
from atoll_control.server.kv_manager import KvManager
from atoll_control.server.lease_manager import LeaseManager
from atoll_control.server.node_history import MOST_DROPPED
from atoll_control.server.node_manager import NodeSettings
from atoll_control.server.owners import lease_owner, node_owner
from atoll_control.server.tables import ENDINGS, KV, LEASES, NODES, TABLES
from atoll_control.testing import ManualLoop, answer, refusal
from atoll_control.testing.etcd import Etcd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# 32 fewer than one batch may change: 50,000 keys of memory and SQLite, 4,032 of etcd as it comes.
MOST = {"memory": 49_968, "sqlite": 49_968, "etcd": 4_000}
TTL = 10


@contextlib.contextmanager
def in_etcd(folder: Path) -> Iterator[Store]:
    """A store in an etcd of its own."""

    async def elected(election: Election) -> None:
        async with asyncio.timeout(60):
            while (state := election.state).role != "leading":
                await election.changed(state)

    with Etcd(program(), folder) as etcd:
        # Long enough that other work on the machine does not take the lead away.
        options = EtcdOptions(endpoints=[etcd.endpoint], lease=30.0, validity=25.0, request_timeout=20.0)
        election = Election.start(options, name="test", address="")
        asyncio.run(elected(election))
        store = Store.in_etcd(election, TABLES)
        try:
            yield store
        finally:
            store.close_blocking()
            election.resign_blocking()


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store on each engine."""
    with contextlib.ExitStack() as open_stores:
        if request.param == "etcd":
            yield open_stores.enter_context(in_etcd(tmp_path / "etcd"))
            return
        made = Store.in_memory(TABLES) if request.param == "memory" else Store.in_directory(tmp_path / "data", TABLES)
        open_stores.callback(made.close_blocking)
        yield made


def fill(store: Store, owner: bytes, count: int) -> None:
    """Has an owner own so many rows."""
    numbers = range(len(store.owned(owner)), count)
    for start in range(numbers.start, numbers.stop, 2000):
        batch = store.batch()
        for number in range(start, min(start + 2000, numbers.stop)):
            batch.put(KV, b"n\0%d" % number, b"v" * 20, owner)
        store.commit_blocking(batch)


class Keys:
    """A KvManager and its LeaseManager, called without a network, in a time that is moved."""

    def __init__(self, store: Any) -> None:
        self.loop = ManualLoop()
        self.leases = LeaseManager(store, io_context=self.loop)
        self.manager = KvManager(store, self.leases)

    def call(self, method: str, how: Callable[..., Any] = answer, **fields: Any) -> Any:
        request = getattr(kv_pb2, f"{method}Request")(**fields)
        servicer = self.leases if "Lease" in method else self.manager
        return asyncio.run(how(getattr(servicer, method), request))

    def grant(self) -> int:
        lease_id: int = self.call("GrantLease", ttl=Duration(seconds=TTL)).lease_id
        return lease_id

    def expire(self) -> None:
        self.loop.advance(TTL)
        asyncio.run(self.loop.settle())


def test_a_lease_has_no_more_keys_than_vanish_together_when_it_ends(store: Store) -> None:
    keys = Keys(store)
    lease_id = keys.grant()
    most = MOST[store.statistics().engine]
    # One row is the lease's own.
    fill(store, lease_owner(lease_id), most - 1)
    keys.call("Put", key=b"last", lease_id=lease_id)
    for method, fields in (
        ("Put", {"key": b"more", "lease_id": lease_id}),
        ("Transact", {"operations": [{"put": {"key": b"more", "lease_id": lease_id}}]}),
    ):
        refused = keys.call(method, refusal, **fields)
        assert refused.code.name == "RESOURCE_EXHAUSTED"
        assert f"would have {most + 1} rows" in refused.details
        assert refused.details.endswith("grant several leases, also for keys that would be a node's")
    keys.call("Put", key=b"last", value=b"new", overwrite=True, lease_id=lease_id)
    keys.call("Put", key=b"more", lease_id=keys.grant())
    before = store.revision
    revoked = keys.call("RevokeLease", lease_id=lease_id)
    assert (revoked.keys_deleted, revoked.revision) == (most - 1, store.revision)
    told = store.changes(before)
    assert {it.revision for it in told.changes} == {revoked.revision}
    assert len(told.changes) == most
    assert store.owned(lease_owner(lease_id)) == []
    assert store.count(KV) == 1


def test_the_largest_node_with_as_many_keys_as_it_may_have_ends_in_one_revision(store: Store) -> None:
    cluster = Cluster(store=store, nodes=NodeSettings(max_endings=1))
    most = MOST[store.statistics().engine]
    name = "n" * 120
    cluster.register("before")
    cluster.unregister("before")
    cluster.register(
        labels={f"{number:03}".ljust(128, "l"): "v" * 1024 for number in range(64)},
        resources={f"{number:03}".ljust(128, "r"): 1.0 for number in range(64)},
        conditions=[
            node_pb2.Condition(name=f"c{number:03}{name}", status=node_pb2.CONDITION_STATUS_TRUE, reason="r" * 1024)
            for number in range(64)
        ],
    )
    fill(store, node_owner("a", 1), most)
    with pytest.raises(OwnerFullError, match="give rows to several owners"):
        store.commit_blocking(store.batch().put(KV, b"n\0more", b"", node_owner("a", 1)))
    before = store.revision
    node = cluster.run(cluster.node_loop, functools.partial(cluster.nodes.record_death, "a", 1, "it burns"))
    assert node is not None
    assert node.state == DEAD
    told = store.changes(before).changes
    assert {it.revision for it in told} == {node.revision}
    assert sum(it.table == KV for it in told) == most
    assert [it.node.node_id for it in cluster.list_endings().endings] == ["a"]
    cluster.stop()


# -- owners that have more than fits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [2, 10, 70])
def test_a_lease_with_more_keys_than_fit_one_batch_ends_all_the_same(most: int) -> None:
    store = NarrowStore(most)
    keys = Keys(store)
    expired, revoked = keys.grant(), keys.grant()
    for lease_id in (expired, revoked):
        store.own(lease_owner(lease_id), 100)
    assert keys.call("RevokeLease", lease_id=revoked).keys_deleted == 100
    assert store.real.count(KV) == 100
    keys.expire()
    assert (store.real.count(KV), store.real.count(LEASES)) == (0, 0)


def test_nodes_with_more_keys_than_fit_one_batch_die_and_keep_no_verdict_of_others_waiting() -> None:
    store = NarrowStore(50)
    cluster = Cluster(store=store)
    # As many as are recorded at once.
    large = [f"large-{number}" for number in range(64)]
    for node_id in (*large, "small"):
        cluster.register(node_id)
    for node_id in large:
        store.own(node_owner(node_id, 1), 100)
    for node_id in (*large, "small"):
        cluster.die(node_id)
    assert {node.state for node in cluster.list_nodes(limit=100).nodes} == {DEAD}
    assert store.real.count(KV) == 0
    assert cluster.health.statistics().unrecorded == 0
    cluster.stop()


def test_parts_of_what_a_node_has_go_only_while_its_end_would_be_recorded() -> None:
    store = NarrowStore(50)
    cluster = Cluster(store=store)
    cluster.register()
    store.own(node_owner("a", 1), 100)
    row, node = store.real.get(NODES, b"a"), cluster.node()

    async def end() -> object:
        return await cluster.nodes._commit(b"a", row, lambda batch: batch.delete(NODES, b"a"), node)

    # Somebody changes the record meanwhile.
    cluster.call(cluster.nodes.Drain, node_pb2.DrainRequest(node_id="a", draining=True, reason="r"))
    assert cluster.run(cluster.node_loop, end) is None
    assert store.real.count(KV) == 100
    cluster.stop()


def test_a_history_that_may_be_shorter_now_gets_so_in_steps_that_fit() -> None:
    store = NarrowStore(1000)
    earlier = Cluster(store=store)
    for number in range(40):
        earlier.register(f"{number}")
        earlier.unregister(f"{number}")
    earlier.stop()
    store.most = MOST_DROPPED + 2
    cluster = Cluster(store=store, nodes=NodeSettings(max_endings=3))
    kept = []
    for incarnation in range(1, 5):
        cluster.register(incarnation=incarnation)
        cluster.unregister(incarnation=incarnation)
        kept.append(store.real.count(ENDINGS))
    assert kept == [25, 10, 3, 3]
    assert [it.node.incarnation for it in cluster.list_endings().endings] == [4, 3, 2]
    cluster.stop()
