"""A durable, ordered store for modules on loops: tables in memory, a log behind them, one revision for all changes.

    store = atoll.store.Store.in_directory("/var/lib/counter", tables=("kv", "nodes"))
    committed = await store.commit(store.batch().put("kv", b"key", b"value"))
    row = store.get("kv", b"key")

Reads are answered in memory, on any thread, and never wait for a disk. Batches are committed by one native thread,
which makes what waits durable together; nothing is seen, acknowledged or told to subscribers before that.
"""

from atoll._core import (
    ElectionLeader,
    ElectionState,
    StoreBatch,
    StoreChange,
    StoreChanges,
    StoreCommitted,
    StorePage,
    StoreReport,
    StoreRow,
    StoreSnapshot,
    StoreStatistics,
    StoreSubscription,
)
from atoll._core import check_store as check
from atoll.store._etcd import Election, EtcdOptions
from atoll.store._store import Store, StoreBackup, restore

__all__ = [
    "Election",
    "ElectionLeader",
    "ElectionState",
    "EtcdOptions",
    "Store",
    "StoreBackup",
    "StoreBatch",
    "StoreChange",
    "StoreChanges",
    "StoreCommitted",
    "StorePage",
    "StoreReport",
    "StoreRow",
    "StoreSnapshot",
    "StoreStatistics",
    "StoreSubscription",
    "check",
    "restore",
]
