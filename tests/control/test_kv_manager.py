"""KvManager: what is stored, listed and refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atoll_control.api.v1 import kv_pb2
from atoll_control.server import kv_manager, validation
from atoll_control.server.kv_manager import KvManager, KvSettings
from atoll_control.testing import answer, refusal


class Store:
    """A KvManager, called without a network."""

    def __init__(self, settings: KvSettings | None = None) -> None:
        self.manager = KvManager(settings)

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
        refused = asyncio.run(refusal(getattr(self.manager, method), request))
        return refused.code.name, refused.details


@pytest.fixture
def store() -> Store:
    return Store()


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
    assert validation.MAX_PAGE_BYTES <= page.ByteSize() < 4 << 20


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
        ("Delete", {"key": b""}, "key: is required"),
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
    namespace, key = "n" * kv_manager.MAX_NAMESPACE_BYTES, b"k" * kv_manager.MAX_KEY_BYTES
    value = b"v" * kv_manager.MAX_VALUE_BYTES
    assert store.put(key, value, namespace=namespace).added
    assert store.get(key, namespace=namespace).value == value


def test_a_full_store_refuses_what_adds_and_takes_what_does_not() -> None:
    entry = kv_manager.ENTRY_OVERHEAD_BYTES + 1 + 100
    store = Store(KvSettings(max_total_bytes=2 * entry))
    store.put(b"a", b"x" * 100)
    store.put(b"b", b"x" * 100)
    code, details = store.refused("Put", key=b"c", value=b"")
    assert code == "RESOURCE_EXHAUSTED"
    assert details.startswith(f"the store is full: it holds {2 * entry:,} of at most {2 * entry:,} bytes")
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
