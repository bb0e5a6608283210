"""How what an owner has goes with the record of its end.

In one batch: the store lets nobody have more than that (`OwnerFullError`). Only data that was written before it did, or
for an engine that takes more at once, has owners that are larger. Of theirs, rows go in batches before that one, until
it takes the rest: so they end, and whoever watches sees some of their keys go before the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from atoll.errors import CommitTooLargeError
from atoll_control.server.tables import KV

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from atoll.store import Store, StoreBatch, StoreCommitted

# How many rows go in one batch before the last one at most, so that the loop is not held up for long.
MOST_AT_ONCE: Final = 10_000


async def commit_end(
    store: Store,
    owner: bytes,
    guarded: Callable[[], StoreBatch],
    alter: Callable[[StoreBatch], object] = lambda _: None,
) -> tuple[StoreCommitted, int]:
    """Commits the end of an owner, and deletes what it has.

    Args:
        store: with the table `kv`.
        owner: whose rows go; empty for nobody's.
        guarded: makes a batch with the checks on which all this depends.
        alter: adds to a batch what else changes in the end. Called anew each time that it is tried.

    Returns:
        What came of the batch that records the end, and how many rows of the owner have gone.

    Raises:
        StoreError: it could not be committed, or it is not known whether it was. Some of the rows may be gone.
    """
    gone = 0
    while True:
        batch = guarded()
        alter(batch)
        if owner:
            batch.delete_owned(owner)
        try:
            committed = await store.commit(batch)
        except CommitTooLargeError:
            # A lease's own row stays to the end.
            rows = [(table, key) for table, key in store.owned(owner) if table == KV]
            if not rows:
                raise
        else:
            return committed, gone + (committed.deleted[-1] if owner and committed.applied else 0)
        async for committed in _parts(store, rows[: (len(rows) + 1) // 2], guarded):
            gone += sum(committed.deleted)
        if not committed.applied:
            return committed, gone


async def _parts(
    store: Store, rows: list[tuple[str, bytes]], guarded: Callable[[], StoreBatch]
) -> AsyncIterator[StoreCommitted]:
    """Deletes rows in batches as large as they may be, unless a check does not hold; what came of each batch."""
    size = min(len(rows), MOST_AT_ONCE)
    while rows:
        batch = guarded()
        for table, key in rows[:size]:
            batch.delete(table, key)
        try:
            committed = await store.commit(batch)
        except CommitTooLargeError:
            if size == 1:
                raise
            size //= 2
            continue
        yield committed
        rows = rows[size:] if committed.applied else []
