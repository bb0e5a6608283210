"""`Store`: how a store is opened and closed. What it does is native, see `StoreCore`."""

import asyncio
from collections.abc import Iterable
from typing import Self, final

from atoll._core import StoreCore


@final
class Store(StoreCore):
    """Ordered tables with one revision, kept in memory and made durable by an engine.

    Reads may be made on any thread. `commit()` is awaited on a loop.
    """

    @classmethod
    def in_memory(cls, tables: Iterable[str], *, generation: str | None = None) -> Self:
        """Opens a store that lives as long as the process.

        Args:
            tables: Their names, at most 32.
            generation: For tests and simulations; drawn by chance when None.
        """
        return cls(list(tables), generation)

    async def close(self) -> None:
        """Commits what was submitted, closes the engine, and frees the tables. A second call waits, too."""
        await asyncio.to_thread(self.close_blocking)
