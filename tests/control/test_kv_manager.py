"""KvManager: what is stored, listed and refused."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

import atoll.store
from atoll_control.api.v1 import kv_pb2, node_pb2
from atoll_control.server import kv_manager, pages
from atoll_control.server.kv_manager import KvManager, KvSettings
from atoll_control.server.lease_manager import LeaseManager
from atoll_control.server.owners import node_owner
from atoll_control.server.tables import TABLES
from atoll_control.testing import ManualLoop, Refused, answer, refusal

MAX_NAMESPACE_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES = 256, 1024, 1 << 20


class Store:
    """A KvManager and its LeaseManager, called without a network."""

    def __init__(self, settings: KvSettings | None = None, tables: atoll.store.Store | None = None) -> None:
        self.tables = tables or atoll.store.Store.in_memory(TABLES)
        self.loop = ManualLoop()
        self.leases = LeaseManager(self.tables, io_context=self.loop)
        asyncio.run(self.leases.start())
        self.manager = KvManager(self.tables, self.leases, settings)

    def call(self, method: str, **fields: Any) -> Any:
        request = getattr(kv_pb2, f"{method}Request")(**fields)
        servicer = self.leases if "Lease" in method else self.manager
        return asyncio.run(answer(getattr(servicer, method), request))

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)
        asyncio.run(self.loop.settle())

    def put(self, key: bytes, value: bytes, *, overwrite: bool = False, namespace: str = "") -> kv_pb2.PutResponse:
        request = kv_pb2.PutRequest(namespace=namespace, key=key, value=value, overwrite=overwrite)
        return asyncio.run(answer(self.manager.Put, request))

    def get(self, key: bytes, *, namespace: str = "") -> kv_pb2.GetResponse:
        return asyncio.run(answer(self.manager.Get, kv_pb2.GetRequest(namespace=namespace, key=key)))

    def delete(self, key: bytes, *, namespace: str = "") -> kv_pb2.DeleteResponse:
        return asyncio.run(answer(self.manager.Delete, kv_pb2.DeleteRequest(namespace=namespace, key=key)))

    def keys(self, prefix: bytes = b"", **fields: Any) -> kv_pb2.KeysResponse:
        return asyncio.run(answer(self.manager.Keys, kv_pb2.KeysRequest(prefix=prefix, **fields)))

    def refused(self, method: str, **fields: Any) -> tuple[str, str]:
        request = getattr(kv_pb2, f"{method}Request")(**fields)
        servicer = self.leases if "Lease" in method else self.manager
        refused = asyncio.run(refusal(getattr(servicer, method), request))
        return refused.code.name, refused.details


@pytest.fixture
def store() -> Store:
    return Store()


def seconds(number: float) -> Duration:
    return Duration(seconds=int(number), nanos=int(number % 1 * 1e9))


def test_what_was_put_is_got(store: Store) -> None:
    put = store.put(b"k", b"v")
    got = store.get(b"k")
    assert put.added
    assert (got.value, got.revision) == (b"v", put.revision)


def test_put_without_overwrite_leaves_an_existing_value_and_says_so(store: Store) -> None:
    first = store.put(b"k", b"old")
    second = store.put(b"k", b"new")
    assert (second.added, second.revision) == (False, first.revision)
    assert store.get(b"k").value == b"old"


def test_put_with_overwrite_replaces_a_value_and_says_that_it_was_there(store: Store) -> None:
    first = store.put(b"k", b"old", overwrite=True)
    second = store.put(b"k", b"new", overwrite=True)
    assert (first.added, second.added) == (True, False)
    assert second.revision > first.revision
    assert store.get(b"k").value == b"new"


def test_an_empty_value_is_a_value(store: Store) -> None:
    store.put(b"k", b"")
    assert store.get(b"k").value == b""


def test_the_revision_rises_by_one_per_change_across_namespaces(store: Store) -> None:
    assert store.put(b"a", b"", namespace="x").revision == 1
    assert store.put(b"a", b"", namespace="y").revision == 2
    assert store.put(b"a", b"", namespace="y").revision == 2
    assert store.delete(b"a", namespace="x").revision == 3
    assert store.delete(b"a", namespace="x").revision == 3
    assert store.keys(namespace="y").revision == 3


def test_a_missing_key_is_not_found(store: Store) -> None:
    store.put(b"other", b"")
    for namespace in ("", "no such"):
        code, details = store.refused("Get", namespace=namespace, key=b"k")
        assert code == "NOT_FOUND"
        assert details == f"namespace {namespace!r} has no key b'k'"


def test_a_deleted_key_is_gone_and_deleting_is_safe_to_repeat(store: Store) -> None:
    store.put(b"k", b"v")
    assert store.delete(b"k").deleted
    assert not store.delete(b"k").deleted
    assert store.refused("Get", key=b"k")[0] == "NOT_FOUND"
    assert list(store.keys().keys) == []
    assert store.put(b"k", b"again").added


def test_namespaces_are_apart(store: Store) -> None:
    store.put(b"k", b"1", namespace="one")
    store.put(b"k", b"2", namespace="two")
    assert store.get(b"k", namespace="one").value == b"1"
    store.delete(b"k", namespace="one")
    assert store.get(b"k", namespace="two").value == b"2"
    assert list(store.keys(namespace="one").keys) == []
    assert store.refused("Get", key=b"k")[0] == "NOT_FOUND"


def test_keys_are_listed_by_prefix_in_the_order_of_their_bytes(store: Store) -> None:
    for key in (b"nodes/b", b"jobs/1", b"nodes/a", b"nodes", b"nodes/\xff", b"nodes0"):
        store.put(key, b"")
    assert list(store.keys(b"nodes/").keys) == [b"nodes/a", b"nodes/b", b"nodes/\xff"]
    assert list(store.keys(b"nope").keys) == []
    assert list(store.keys().keys) == [b"jobs/1", b"nodes", b"nodes/a", b"nodes/b", b"nodes/\xff", b"nodes0"]


def test_keys_are_listed_a_page_at_a_time(store: Store) -> None:
    for number in range(7):
        store.put(b"k%d" % number, b"")
    store.put(b"l", b"")
    pages = []
    start_after = b""
    more = True
    while more:
        page = store.keys(b"k", limit=3, start_after=start_after)
        pages.append(list(page.keys))
        start_after, more = page.keys[-1], page.more
    assert pages == [[b"k0", b"k1", b"k2"], [b"k3", b"k4", b"k5"], [b"k6"]]


def test_a_full_page_that_is_the_last_says_that_nothing_follows(store: Store) -> None:
    for number in range(3):
        store.put(b"k%d" % number, b"")
    store.put(b"l", b"")
    assert not store.keys(b"k", limit=3).more


def test_a_start_before_the_prefix_does_not_widen_the_listing(store: Store) -> None:
    store.put(b"a", b"")
    store.put(b"b", b"")
    assert list(store.keys(b"b", start_after=b"a").keys) == [b"b"]


def test_a_page_ends_before_it_outgrows_a_message(store: Store) -> None:
    for number in range(3000):
        store.put(b"%04d" % number + b"x" * 1020, b"")
    page = store.keys(limit=10_000)
    assert page.more
    assert pages.MAX_PAGE_BYTES <= page.ByteSize() < 4 << 20


def test_a_page_holds_a_thousand_keys_unless_told_otherwise(store: Store) -> None:
    for number in range(1001):
        store.put(b"%d" % number, b"")
    assert len(store.keys().keys) == 1000
    assert store.keys().more


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("Put", {"key": b""}, "key: is required"),
        ("Put", {"key": b"x" * 1025}, "key: must be at most 1,024 bytes, got 1,025"),
        ("Put", {"key": b"k", "value": b"x" * (2**20 + 1)}, "value: must be at most 1,048,576 bytes, got 1,048,577"),
        ("Put", {"key": b"k", "namespace": "ä" * 129}, "namespace: must be at most 256 bytes, got 258"),
        ("Get", {"key": b""}, "key: is required"),
        ("Get", {"key": b"x" * 1025}, "key: must be at most"),
        ("Get", {"key": b"k", "namespace": "x" * 257}, "namespace: must be at most 256 bytes, got 257"),
        ("Delete", {"key": b""}, "key: is required, unless prefix is set"),
        ("Delete", {"key": b"k", "prefix": True, "expected_revision": 1}, "expected_revision: is for one key"),
        ("Delete", {"key": b"k", "prefix": True, "return_previous": True}, "return_previous: is for one key"),
        ("Put", {"key": b"k", "namespace": "a\0b"}, "namespace: must not have a zero byte"),
        ("Get", {"key": b"k", "namespace": "a\0b"}, "namespace: must not have a zero byte"),
        ("Transact", {"operations": []}, "operations: must have at least 1, got 0"),
        ("Delete", {"key": b"x" * 1025}, "key: must be at most"),
        ("Delete", {"key": b"k", "namespace": "x" * 257}, "namespace: must be at most"),
        ("Keys", {"prefix": b"x" * 1025}, "prefix: must be at most 1,024 bytes, got 1,025"),
        ("Keys", {"start_after": b"x" * 1025}, "start_after: must be at most 1,024 bytes, got 1,025"),
        ("Keys", {"namespace": "x" * 257}, "namespace: must be at most"),
        ("Keys", {"limit": 10_001}, "limit: must be at most 10,000, got 10,001"),
    ],
)
def test_a_request_out_of_bounds_is_refused_and_the_field_named(
    store: Store, method: str, fields: dict[str, Any], message: str
) -> None:
    code, details = store.refused(method, **fields)
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(message)


def test_namespace_key_and_value_may_be_as_large_as_their_limits(store: Store) -> None:
    namespace, key = "n" * MAX_NAMESPACE_BYTES, b"k" * MAX_KEY_BYTES
    value = b"v" * MAX_VALUE_BYTES
    assert store.put(key, value, namespace=namespace).added
    assert store.get(key, namespace=namespace).value == value


def test_a_full_store_refuses_what_adds_and_takes_what_does_not() -> None:
    entry = kv_manager.ENTRY_OVERHEAD_BYTES + len(kv_manager.row_key("", b"a")) + 100
    store = Store(KvSettings(max_total_bytes=2 * entry))
    store.put(b"a", b"x" * 100)
    store.put(b"b", b"x" * 100)
    code, details = store.refused("Put", key=b"c", value=b"")
    assert code == "RESOURCE_EXHAUSTED"
    assert details.startswith(f"the store is full: it holds {2 * entry:,} of at most {2 * entry:,} bytes")
    assert details.endswith("with a larger --max-kv-bytes")
    assert store.refused("Put", key=b"a", value=b"x" * 101, overwrite=True)[0] == "RESOURCE_EXHAUSTED"
    assert store.get(b"a").value == b"x" * 100
    assert not store.put(b"a", b"y" * 100, overwrite=True).added
    assert not store.put(b"a", b"y", overwrite=True).added
    store.delete(b"b")
    assert store.put(b"c", b"x" * 100).added


def test_a_refused_put_leaves_no_empty_namespace_behind() -> None:
    store = Store(KvSettings(max_total_bytes=1))
    assert store.refused("Put", namespace="n", key=b"k")[0] == "RESOURCE_EXHAUSTED"
    assert list(store.keys(namespace="n").keys) == []
    assert store.keys().revision == 0


def test_a_store_without_room_can_not_be_made() -> None:
    with pytest.raises(ValueError, match="max_total_bytes: must be at least 1, got 0"):
        KvSettings(max_total_bytes=0)


def test_what_is_stored_lasts_longer_than_the_server(tmp_path: Any) -> None:
    first = Store(tables=atoll.store.Store.in_directory(tmp_path, TABLES))
    put = first.put(b"k", b"v", namespace="n")
    first.tables.close_blocking()
    second = Store(tables=atoll.store.Store.in_directory(tmp_path, TABLES))
    got = second.get(b"k", namespace="n")
    assert (got.value, got.revision) == (b"v", put.revision)
    second.tables.close_blocking()


def test_a_put_may_ask_for_the_revision_that_it_saw(store: Store) -> None:
    first = store.call("Put", key=b"k", value=b"1", expected_revision=0)
    assert first.applied
    assert not store.call("Put", key=b"k", value=b"2", expected_revision=0).applied
    lost = store.call("Put", key=b"k", value=b"2", expected_revision=first.revision + 7)
    assert (lost.applied, lost.revision) == (False, first.revision)
    won = store.call("Put", key=b"k", value=b"2", expected_revision=first.revision, return_previous=True)
    assert won.applied
    assert won.previous.value == b"1"
    assert not store.call("Delete", key=b"k", expected_revision=first.revision).deleted
    assert store.call("Delete", key=b"k", expected_revision=won.revision).deleted


def test_of_many_who_add_one_to_a_counter_none_is_lost(store: Store) -> None:
    async def add_one() -> None:
        while True:
            request = kv_pb2.GetRequest(key=b"counter")
            seen = await answer(store.manager.Get, request)
            put = kv_pb2.PutRequest(
                key=b"counter", value=b"%d" % (int(seen.value) + 1), expected_revision=seen.revision
            )
            if (await answer(store.manager.Put, put)).applied:
                return

    async def add_many() -> None:
        await asyncio.gather(*(add_one() for _ in range(50)))

    store.put(b"counter", b"0")
    asyncio.run(add_many())
    assert store.get(b"counter").value == b"50"


def test_a_value_tells_how_it_came_about(store: Store) -> None:
    made = store.put(b"k", b"1")
    store.put(b"k", b"2", overwrite=True)
    got = store.get(b"k")
    assert (got.create_revision, got.version) == (made.revision, 2)


def test_several_keys_are_read_at_once_and_those_that_are_not_there_left_out(store: Store) -> None:
    store.put(b"a", b"1")
    store.put(b"c", b"3")
    got = store.call("MultiGet", keys=[b"c", b"b", b"a"])
    assert [(entry.key, entry.value) for entry in got.entries] == [(b"c", b"3"), (b"a", b"1")]
    assert (got.looked_at, got.revision) == (3, 2)


def test_multi_get_ends_early_where_the_answer_grows_large(store: Store) -> None:
    for key in (b"a", b"b", b"c"):
        store.put(key, bytes(1 << 20))
    got = store.call("MultiGet", keys=[b"a", b"b", b"c"])
    assert (len(got.entries), got.looked_at) == (1, 1)


def test_a_key_can_be_asked_for_without_its_value(store: Store) -> None:
    put = store.put(b"a", b"1")
    assert store.call("Exists", key=b"a") == kv_pb2.ExistsResponse(exists=True, revision=put.revision)
    assert not store.call("Exists", key=b"b").exists


def test_a_prefix_is_deleted_in_one_revision(store: Store) -> None:
    for key in (b"a", b"jobs/1", b"jobs/2", b"jobs0"):
        store.put(key, b"", namespace="n")
    store.put(b"jobs/1", b"", namespace="o")
    deleted = store.call("Delete", namespace="n", key=b"jobs/", prefix=True)
    assert (deleted.deleted, deleted.count) == (True, 2)
    assert list(store.keys(namespace="n").keys) == [b"a", b"jobs0"]
    assert store.call("Delete", namespace="n", prefix=True).count == 2
    assert list(store.keys(namespace="o").keys) == [b"jobs/1"]


def test_a_scan_brings_values_a_page_at_a_time(store: Store) -> None:
    for number in range(5):
        store.put(b"k%d" % number, b"%d" % number)
    page = store.call("Scan", prefix=b"k", limit=2)
    assert [(entry.key, entry.value) for entry in page.entries] == [(b"k0", b"0"), (b"k1", b"1")]
    assert page.more
    rest = store.call("Scan", prefix=b"k", start_after=b"k1")
    assert [entry.key for entry in rest.entries] == [b"k2", b"k3", b"k4"]
    assert not rest.more


def test_namespaces_that_have_keys_are_listed(store: Store) -> None:
    for namespace in ("b", "", "a", "aa"):
        store.put(b"1", b"", namespace=namespace)
        store.put(b"2", b"", namespace=namespace)
    listed = store.call("ListNamespaces")
    assert list(listed.namespaces) == ["", "a", "aa", "b"]
    page = store.call("ListNamespaces", limit=1, start_after="a")
    assert (list(page.namespaces), page.more) == (["aa"], True)


def test_a_transaction_does_all_or_nothing(store: Store) -> None:
    put = store.put(b"a", b"1")
    check = kv_pb2.TransactCheck(key=b"a", revision=put.revision)
    absent = kv_pb2.TransactCheck(key=b"b")
    operations = [
        kv_pb2.TransactOperation(put=kv_pb2.PutRequest(key=b"b", value=b"2")),
        kv_pb2.TransactOperation(delete=kv_pb2.DeleteRequest(key=b"a")),
    ]
    done = store.call("Transact", checks=[check, absent], operations=operations)
    assert done.applied
    assert (store.get(b"b").revision, list(store.keys().keys)) == (done.revision, [b"b"])
    failed = store.call("Transact", checks=[absent], operations=operations)
    assert not failed.applied
    assert (failed.failed_check, failed.found.value) == (0, b"2")
    code, details = store.refused("Transact", operations=[kv_pb2.TransactOperation(delete=kv_pb2.DeleteRequest())])
    assert (code, details) == ("INVALID_ARGUMENT", "operations[0].delete.key: is required, unless prefix is set")


def test_a_key_with_a_time_to_live_vanishes_when_it_is_over_and_not_before(store: Store) -> None:
    store.call("Put", key=b"k", value=b"v", ttl=seconds(10))
    store.advance(9.9)
    assert store.get(b"k").lease_id == 0, "its lease is nobody's business"
    store.advance(0.2)
    assert store.refused("Get", key=b"k")[0] == "NOT_FOUND"
    assert store.tables.count("leases") == 0


def test_another_put_gives_a_key_its_time_anew_or_takes_it_away(store: Store) -> None:
    for key in (b"again", b"for ever", b"deleted"):
        store.call("Put", key=key, value=b"1", ttl=seconds(10))
    store.advance(6)
    store.call("Put", key=b"again", value=b"2", ttl=seconds(10), overwrite=True)
    store.call("Put", key=b"for ever", value=b"2", overwrite=True)
    store.delete(b"deleted")
    assert store.tables.count("leases") == 1
    store.advance(6)
    assert list(store.keys().keys) == [b"again", b"for ever"]
    store.advance(6)
    assert list(store.keys().keys) == [b"for ever"]


def test_a_put_can_leave_the_owner_as_it_is(store: Store) -> None:
    store.call("Put", key=b"k", value=b"1", ttl=seconds(10))
    store.advance(6)
    store.call("Put", key=b"k", value=b"2", keep_owner=True, overwrite=True)
    assert store.get(b"k").value == b"2"
    store.advance(6)
    assert store.refused("Get", key=b"k")[0] == "NOT_FOUND"


def test_keys_of_a_lease_vanish_together_when_it_is_not_kept_alive(store: Store) -> None:
    lease = store.call("GrantLease", ttl=seconds(10), description="a worker")
    for key in (b"a", b"b"):
        store.call("Put", key=key, value=b"", lease_id=lease.lease_id)
    store.put(b"c", b"")
    assert store.get(b"a").lease_id == lease.lease_id
    store.advance(8)
    store.call("KeepLeaseAlive", lease_id=lease.lease_id)
    store.advance(8)
    (listed,) = store.call("ListLeases").leases
    assert (listed.description, listed.keys, listed.remaining.seconds) == ("a worker", 2, 2)
    before = store.tables.revision
    store.advance(3)
    assert list(store.keys().keys) == [b"c"]
    assert {change.revision for change in store.tables.changes(before).changes} == {before + 1}
    assert store.refused("KeepLeaseAlive", lease_id=lease.lease_id)[0] == "NOT_FOUND"
    assert store.refused("Put", key=b"a", lease_id=lease.lease_id)[0] == "NOT_FOUND"


class SlowStore:
    """A store whose commits wait until they are let go."""

    def __init__(self, store: atoll.store.Store) -> None:
        self._store = store
        self.go_on = asyncio.Event()
        self.is_asked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: atoll.store.StoreBatch) -> atoll.store.StoreCommitted:
        self.is_asked.set()
        await self.go_on.wait()
        return await self._store.commit(batch)


def test_a_lease_whose_time_is_over_can_not_be_kept_alive_while_the_store_ends_it(store: Store) -> None:
    lease = store.call("GrantLease", ttl=seconds(10))
    slow: Any = SlowStore(store.tables)
    leases = LeaseManager(slow, io_context=store.loop)

    async def keep_alive_meanwhile() -> str:
        await leases.start()
        store.loop.advance(11)
        ending = asyncio.create_task(store.loop.settle())
        await slow.is_asked.wait()
        refused = await refusal(leases.KeepLeaseAlive, kv_pb2.KeepLeaseAliveRequest(lease_id=lease.lease_id))
        slow.go_on.set()
        await ending
        return refused.code.name

    asyncio.run(store.leases.stop())
    assert asyncio.run(keep_alive_meanwhile()) == "NOT_FOUND"
    assert store.tables.count("leases") == 0


def test_a_lease_that_is_revoked_takes_its_keys_with_it(store: Store) -> None:
    lease = store.call("GrantLease", ttl=seconds(10))
    store.call("Put", key=b"a", value=b"", lease_id=lease.lease_id)
    revoked = store.call("RevokeLease", lease_id=lease.lease_id)
    assert (revoked.revoked, revoked.keys_deleted) == (True, 1)
    assert not store.call("RevokeLease", lease_id=lease.lease_id).revoked
    assert list(store.keys().keys) == []
    store.advance(20)


def test_a_server_that_takes_over_gives_each_lease_its_whole_time(store: Store) -> None:
    lease = store.call("GrantLease", ttl=seconds(10))
    store.call("Put", key=b"a", value=b"", lease_id=lease.lease_id)
    store.call("Put", key=b"b", value=b"", ttl=seconds(10))
    store.advance(9)
    asyncio.run(store.leases.stop())
    other = Store(tables=store.tables)
    other.advance(9)
    assert list(other.keys().keys) == [b"a", b"b"]
    other.advance(2)
    assert list(other.keys().keys) == []


def test_a_private_lease_can_not_be_used_by_its_number(store: Store) -> None:
    store.call("Put", key=b"k", value=b"", ttl=seconds(10))
    (row,) = store.tables.scan("leases").rows
    lease_id = int.from_bytes(row.key, "big")
    assert store.refused("Put", key=b"l", lease_id=lease_id)[0] == "NOT_FOUND"
    assert list(store.call("ListLeases").leases) == []


def test_a_key_may_belong_to_an_incarnation_of_a_node(store: Store) -> None:
    owner = kv_pb2.NodeOwner(node_id="n", incarnation=3)
    assert store.refused("Put", key=b"k", node=owner)[0] == "NOT_FOUND"
    node = node_pb2.Node(node_id="n", incarnation=3, state=node_pb2.NODE_STATE_ALIVE)
    store.tables.commit_blocking(store.tables.batch().put("nodes", b"n", node.SerializeToString()))
    assert store.call("Put", key=b"k", value=b"", node=owner).applied
    got = store.get(b"k")
    assert (got.node_id, got.incarnation) == ("n", 3)
    assert store.refused("Put", key=b"l", node=kv_pb2.NodeOwner(node_id="n", incarnation=2))[0] == "NOT_FOUND"
    store.tables.commit_blocking(store.tables.batch().delete_owned(node_owner("n", 3)))
    assert list(store.keys().keys) == []


def test_a_key_whose_caller_gave_up_vanishes_in_time_all_the_same(store: Store) -> None:
    async def put_and_give_up() -> None:
        request = kv_pb2.PutRequest(key=b"k", value=b"v", ttl=seconds(10))
        putting = asyncio.create_task(answer(store.manager.Put, request))
        await asyncio.sleep(0)
        putting.cancel()
        granting = asyncio.create_task(answer(store.leases.GrantLease, kv_pb2.GrantLeaseRequest(ttl=seconds(10))))
        await asyncio.sleep(0)
        granting.cancel()
        # What was submitted before it is committed before it.
        await store.tables.commit(store.tables.batch().put("kv", kv_manager.row_key("", b"after"), b""))

    asyncio.run(put_and_give_up())
    assert list(store.keys().keys) == [b"after", b"k"]
    assert store.tables.count("leases") == 2
    store.advance(11)
    assert list(store.keys().keys) == [b"after"]
    assert store.tables.count("leases") == 0


def test_a_key_that_is_put_again_and_again_leaves_no_leases_behind(store: Store) -> None:
    for _ in range(3000):
        store.call("Put", key=b"k", value=b"v", ttl=seconds(86_400), overwrite=True)
    refused = store.call("Put", key=b"k", value=b"v", ttl=seconds(86_400))
    assert not refused.applied
    assert store.leases.waiting() == (1, 1)
    revision = store.tables.revision
    store.advance(86_500)
    assert store.tables.revision == revision + 1, "one end, and nothing for those that are gone"


def test_room_is_kept_for_what_is_on_its_way_and_for_a_transaction_as_a_whole() -> None:
    entry = kv_manager.ENTRY_OVERHEAD_BYTES + len(kv_manager.row_key("", b"a")) + 100
    store = Store(KvSettings(max_total_bytes=2 * entry))

    async def put(key: bytes) -> bool:
        with contextlib.suppress(Refused):
            return (await answer(store.manager.Put, kv_pb2.PutRequest(key=key, value=b"x" * 100))).applied
        return False

    async def put_three() -> list[bool]:
        return await asyncio.gather(*(put(key) for key in (b"a", b"b", b"c")))

    operations = [
        kv_pb2.TransactOperation(put=kv_pb2.PutRequest(key=key, value=b"x" * 100)) for key in (b"a", b"b", b"c")
    ]
    assert store.refused("Transact", operations=operations)[0] == "RESOURCE_EXHAUSTED"
    assert asyncio.run(put_three()) == [True, True, False]
    store.delete(b"a")
    assert asyncio.run(put(b"c"))
