"""`atoll.store`: what a module on a loop sees of it."""

from __future__ import annotations

import _thread
import asyncio
import gc
import sys
import threading
import weakref
from functools import partial
from typing import Any

import pytest

import atoll.store
from atoll import IoContext, IoContextThread
from atoll.errors import CompactedError, StoreClosedError

TIMEOUT = 30.0


@pytest.fixture
def store() -> Any:
    store = atoll.store.Store.in_memory(["kv", "nodes"])
    yield store
    store.close_blocking()


def put(store: atoll.store.Store, key: bytes, value: bytes, owner: bytes = b"") -> atoll.store.StoreCommitted:
    return store.commit_blocking(store.batch().put("kv", key, value, owner))


def test_what_is_put_is_read_back_with_its_history(store: atoll.store.Store) -> None:
    assert store.get("kv", b"a") is None
    first = put(store, b"a", b"1")
    second = put(store, b"a", b"2", b"owner")
    row = store.get("kv", b"a")
    assert row is not None
    assert (row.key, row.value, row.owner) == (b"a", b"2", b"owner")
    assert (row.created, row.revision, row.version) == (first.revision, second.revision, 2)
    before = second.previous[0]
    assert before is not None
    assert before.value == b"1"
    assert store.owned(b"owner") == [("kv", b"a")]
    assert store.revision == second.revision


def test_a_check_that_does_not_hold_says_which_and_what_is_there(store: atoll.store.Store) -> None:
    put(store, b"a", b"1")
    batch = store.batch().check_exists("kv", b"a").check_absent("kv", b"a").put("kv", b"b", b"2")
    committed = store.commit_blocking(batch)
    assert not committed.applied
    assert committed.failed_check == 1
    assert committed.found is not None
    assert committed.found.value == b"1"
    assert store.get("kv", b"b") is None


def test_pages_are_in_the_order_of_keys_and_say_whether_there_is_more(store: atoll.store.Store) -> None:
    for key in (b"c", b"a", b"b"):
        put(store, key, key)
    page = store.scan("kv", limit=2)
    assert [row.key for row in page.rows] == [b"a", b"b"]
    assert page.more
    assert [row.key for row in store.scan("kv", b"b").rows] == [b"b", b"c"]
    assert [row.key for row in store.scan("kv", reverse=True).rows] == [b"c", b"b", b"a"]
    assert store.count("kv") == 3
    assert [row and row.value for row in store.get_many("kv", [b"a", b"x", b"c"])] == [b"a", None, b"c"]


def test_what_belongs_to_an_owner_goes_in_one_revision(store: atoll.store.Store) -> None:
    put(store, b"a", b"1", b"node")
    put(store, b"b", b"2", b"node")
    put(store, b"c", b"3")
    committed = store.commit_blocking(store.batch().delete_owned(b"node").put("nodes", b"n", b"dead"))
    assert committed.deleted == [2, 0]
    changes = store.changes(committed.revision - 1).changes
    assert {(change.table, change.key, change.row is None) for change in changes} == {
        ("kv", b"a", True),
        ("kv", b"b", True),
        ("nodes", b"n", False),
    }
    assert {change.revision for change in changes} == {committed.revision}


def test_a_snapshot_stays_as_it_was(store: atoll.store.Store) -> None:
    put(store, b"a", b"1")
    with store.snapshot() as snapshot:
        put(store, b"a", b"2")
        put(store, b"b", b"3")
        assert [(row.key, row.value) for row in snapshot.scan("kv").rows] == [(b"a", b"1")]
        row = snapshot.get("kv", b"a")
        assert row is not None
        assert row.value == b"1"
    with pytest.raises(ValueError, match="the snapshot has been closed"):
        snapshot.get("kv", b"a")


def test_a_table_that_was_not_named_is_refused_by_its_name(store: atoll.store.Store) -> None:
    with pytest.raises(ValueError, match=r'no table "jobs".*there are kv, nodes'):
        store.get("jobs", b"a")


def test_changes_that_are_not_yet_there_are_none(store: atoll.store.Store) -> None:
    put(store, b"a", b"1")
    changes = store.changes(store.revision)
    assert changes.changes == []
    assert changes.through == store.revision


def test_a_compacted_error_says_where_the_change_log_begins() -> None:
    problem = CompactedError("text", 7)
    assert problem.oldest == 7
    assert str(problem) == "text"


def test_commits_of_a_loop_are_awaited_there(store: atoll.store.Store) -> None:
    async def commit_many() -> list[int]:
        async def one(number: int) -> int:
            committed = await store.commit(store.batch().put("kv", b"%d" % number, b"value"))
            assert IoContext.current() is thread.io_context
            return committed.revision

        return await asyncio.gather(*(one(number) for number in range(500)))

    with IoContextThread("store_test") as thread:
        revisions = thread.io_context.submit(commit_many).result(TIMEOUT)
    assert sorted(revisions) == list(range(1, 501))
    assert store.count("kv") == 500


def test_commits_are_awaited_on_a_plain_asyncio_loop_too(store: atoll.store.Store) -> None:
    async def commit() -> int:
        committed = await store.commit(store.batch().put("kv", b"a", b"1"))
        return committed.revision

    assert asyncio.run(commit()) == 1


def test_the_commit_of_a_cancelled_task_goes_on(store: atoll.store.Store) -> None:
    async def main() -> None:
        waiting = store.commit(store.batch().put("kv", b"a", b"1"))
        waiting.cancel()
        await store.commit(store.batch().put("kv", b"b", b"2"))

    asyncio.run(main())
    assert store.get("kv", b"a") is not None


def test_a_future_that_can_not_be_told_keeps_no_other_from_being_told(store: atoll.store.Store) -> None:
    class Failing(asyncio.Future[Any]):
        def set_result(self, result: Any) -> None:
            raise RuntimeError(f"on purpose: {result.revision}")

    async def main() -> int:
        loop: Any = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(str(context.get("exception"))))
        loop.create_future = lambda: Failing(loop=loop)
        store.commit(store.batch().put("kv", b"a", b"1"))
        del loop.create_future
        told = store.commit(store.batch().put("kv", b"b", b"2"))
        # When this is done both outcomes wait for the loop, which learns of them together.
        put(store, b"c", b"3")
        return (await asyncio.wait_for(told, TIMEOUT)).revision

    problems: list[str] = []
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(main()) == 2
    assert problems == ["on purpose: 1"]


def test_a_batch_of_another_store_is_refused_and_stays_whole(store: atoll.store.Store) -> None:
    other = atoll.store.Store.in_memory(["nodes", "kv"])
    batch = other.batch().put("kv", b"a", b"1")
    with pytest.raises(ValueError, match=r"made by another store: make it with batch\(\) of the store"):
        store.commit_blocking(batch)

    async def commit() -> None:
        with pytest.raises(ValueError, match="made by another store"):
            await store.commit(batch)

    asyncio.run(commit())
    assert store.revision == 0
    other.commit_blocking(batch)
    assert other.get("kv", b"a") is not None
    other.close_blocking()


@pytest.mark.parametrize("reading", ["count", "owned"])
def test_what_may_look_at_many_rows_lets_other_threads_run_meanwhile(store: atoll.store.Store, reading: str) -> None:
    batch = store.batch()
    for number in range(10_000):
        batch.put("kv", b"%d" % number, b"", b"owner")
    store.commit_blocking(batch)
    read = partial(store.count, "kv", b"0") if reading == "count" else partial(store.owned, b"owner")
    has_run: list[int] = []
    reads = 0
    interval = sys.getswitchinterval()
    # From here on a thread runs until it waits or says that others may.
    sys.setswitchinterval(1000)
    try:
        # `Thread.start` would wait.
        _thread.start_new_thread(has_run.append, (1,))
        while not has_run and reads < 1000:
            read()
            reads += 1
    finally:
        sys.setswitchinterval(interval)
    assert reads < 1000


def test_a_loop_is_told_of_commits_once_however_many_there_were(store: atoll.store.Store) -> None:
    told: list[int] = []
    arrived = threading.Event()
    release = threading.Event()
    up_to_date = threading.Event()

    def on_committed(revision: int) -> None:
        told.append(revision)
        arrived.set()
        release.wait(TIMEOUT)
        if revision == 11:
            up_to_date.set()

    with IoContextThread("store_test") as thread, store.subscribe(thread.io_context, on_committed):
        put(store, b"a", b"1")
        assert arrived.wait(TIMEOUT)
        for number in range(10):
            put(store, b"%d" % number, b"2")
        release.set()
        assert up_to_date.wait(TIMEOUT)
        handlers = {handler.name: handler.total for handler in thread.io_context.stats().handlers}
    assert len(told) <= 3
    assert any("on_committed" in name for name in handlers)


def test_a_subscription_that_is_closed_tells_no_more(store: atoll.store.Store) -> None:
    told: list[int] = []
    with IoContextThread("store_test") as thread:
        subscription = store.subscribe(thread.io_context, told.append)
        subscription.close()
        put(store, b"a", b"1")
        thread.io_context.submit(lambda: None).result(TIMEOUT)
    assert told == []


def test_a_closed_store_refuses_reads_and_commits() -> None:
    store = atoll.store.Store.in_memory(["kv"])
    asyncio.run(store.close())
    with pytest.raises(StoreClosedError, match="open it again"):
        store.get("kv", b"a")
    with pytest.raises(StoreClosedError):
        put(store, b"a", b"1")

    async def commit() -> None:
        with pytest.raises(StoreClosedError):
            await store.commit(store.batch().put("kv", b"a", b"1"))

    asyncio.run(commit())


def test_a_subscription_in_a_cycle_is_collected(store: atoll.store.Store) -> None:
    class Module:
        def __init__(self) -> None:
            self.io_context = IoContext("store_test")
            self.subscription = store.subscribe(self.io_context, self.on_committed)

        def on_committed(self, revision: int) -> None: ...

    module = Module()
    seen = weakref.ref(module)
    module.io_context.close()
    del module
    gc.collect()
    assert seen() is None


def test_statistics_count_what_was_done(store: atoll.store.Store) -> None:
    put(store, b"a", b"123")
    statistics = store.statistics()
    assert statistics.engine == "memory"
    assert statistics.tables == [("kv", 1, 4), ("nodes", 0, 0)]
    assert statistics.batches == 1
    assert statistics.commit[0] == 1
    assert statistics.stopped is None
