"""A durable, ordered store for modules on loops: tables in memory, a log behind them, one revision for all changes.

    store = atoll.store.Store.in_memory(tables=("kv", "nodes"))
    committed = await store.commit(store.batch().put("kv", b"key", b"value"))
    row = store.get("kv", b"key")

Reads are answered in memory, on any thread, and never wait for a disk. Batches are committed by one native thread, which makes
what waits durable together; nothing is seen, acknowledged or told to subscribers before that.
"""

from atoll._core import (
    StoreBatch,
    StoreChange,
    StoreChanges,
    StoreCommitted,
    StorePage,
    StoreRow,
    StoreSnapshot,
    StoreStatistics,
    StoreSubscription,
)
from atoll.store._store import Store

__all__ = [
    "Store",
    "StoreBatch",
    "StoreChange",
    "StoreChanges",
    "StoreCommitted",
    "StorePage",
    "StoreRow",
    "StoreSnapshot",
    "StoreStatistics",
    "StoreSubscription",
]
