"""`NarrowStore`: its batches may change less than what an owner has, as it may be with data of earlier versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atoll.errors import CommitTooLargeError
from atoll.store import Store
from atoll_control.server.tables import TABLES

if TYPE_CHECKING:
    from atoll.store import StoreBatch, StoreCommitted


class CountedBatch:
    """A batch that knows how many keys it changes at most."""

    def __init__(self, store: Store) -> None:
        self.real: StoreBatch = store.batch()
        self.changes = 0
        self._store = store

    def __getattr__(self, name: str) -> Any:
        def add(*arguments: Any) -> CountedBatch:
            if name == "delete_owned":
                self.changes += len(self._store.owned(*arguments))
            elif name == "delete_range":
                self.changes += self._store.count(*arguments)
            elif not name.startswith("check_"):
                self.changes += 1
            getattr(self.real, name)(*arguments)
            return self

        return add


class NarrowStore:
    """Refuses batches that change more than so many keys; otherwise a real store in memory."""

    def __init__(self, most: int) -> None:
        self.real = Store.in_memory(TABLES)
        self.most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def batch(self) -> Any:
        return CountedBatch(self.real)

    async def commit(self, batch: CountedBatch) -> StoreCommitted:
        if batch.changes > self.most:
            message = f"{batch.changes} changes are more than {self.most}"
            raise CommitTooLargeError(message)
        return await self.real.commit(batch.real)

    def own(self, owner: bytes, count: int) -> None:
        """Gives rows to an owner, as many as are wanted."""
        batch = self.real.batch()
        for number in range(count):
            batch.put("kv", b"n\0%s/%d" % (owner, number), b"v", owner)
        self.real.commit_blocking(batch)
