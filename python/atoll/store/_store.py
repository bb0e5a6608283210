"""`Store`: how a store is opened, backed up and closed. What it does otherwise is native, see `StoreCore`."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Self, final

from atoll._core import ElectionCore, StoreCore, restore_store


@dataclass(frozen=True, slots=True)
class StoreBackup:
    """What a backup holds, or what a restore has made of it.

    Attributes:
        generation: Of which store; after a restore the new one.
        revision: At which revision.
        rows: How many.
        bytes: The size of the backup's file; 0 of a restore.
        replaced: Where the file is now that a restore has found.
    """

    generation: str
    revision: int
    rows: int
    bytes: int = 0
    replaced: Path | None = None


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

    @classmethod
    def in_directory(
        cls, directory: str | PathLike[str], tables: Iterable[str], *, max_bytes: int | None = None
    ) -> Self:
        """Opens the store in a directory, or makes one: a SQLite database. Blocks while it loads.

        Args:
            directory: Where `atoll.db` is, and the lock that keeps others out.
            tables: Their names, at most 32.
            max_bytes: How large the database may grow; only the disk bounds it when None.

        Raises:
            StoreLockedError: Another process has it; the message names it.
            StoreCorruptError: The file is damaged. Restore a backup.
            StoreError: Anything else, with the remedy.
        """
        return cls(list(tables), None, directory, max_bytes)

    @classmethod
    def in_etcd(cls, election: ElectionCore, tables: Iterable[str]) -> Self:
        """Opens the store in etcd, for the leader of `election`, and only for its term. Blocks while it loads.

        When the term is over, reads raise `NotLeaderError`, and nothing is committed any more: close it, and begin a
        new election.

        Args:
            election: One whose state has the role "leading".
            tables: Their names, at most 32.

        Raises:
            RuntimeError: This server does not lead.
            StoreUnavailableError: etcd can't be reached, or somebody else leads by now.
            StoreCorruptError: What is below the prefix is damaged, or is not a store.
            StoreError: Anything else, with the remedy.
        """
        return cls(list(tables), election=election)

    async def backup(
        self, path: str | PathLike[str], *, progress: Callable[[int, int], object] | None = None
    ) -> StoreBackup:
        """Writes all rows at the present revision into a new file, while reading and writing go on.

        Args:
            path: Must not be there yet.
            progress: Called on a thread of its own with the rows written and how many there are. What it raises ends
                the backup, and leaves nothing behind.
        """
        return StoreBackup(*await asyncio.to_thread(self.backup_blocking, path, progress))

    async def close(self) -> None:
        """Commits what was submitted, closes the engine, and frees the tables. A second call waits, too."""
        await asyncio.to_thread(self.close_blocking)


def restore(source: str | PathLike[str], directory: str | PathLike[str], *, force: bool = False) -> StoreBackup:
    """Makes a store of a backup, which is checked first; of a new generation, so that no watch resumes in it. Blocks.

    Args:
        source: The backup.
        directory: Where the store is to be; empty, or with `force` one that has a store, whose file is kept beside the
            new one.
        force: See `directory`.

    Raises:
        StoreCorruptError: The backup is damaged.
        StoreLockedError: A server runs on the directory.
        StoreError: Anything else, with the remedy.
    """
    generation, revision, rows, replaced = restore_store(source, directory, force)
    return StoreBackup(generation, revision, rows, replaced=replaced)
