"""Stores in a directory: what lasts, and what happens to its files."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

import atoll.store
from atoll.errors import StoreCorruptError, StoreError, StoreFullError, StoreLockedError

if TYPE_CHECKING:
    from pathlib import Path

TABLES = ["kv"]


def filled(directory: Path, rows: int = 100) -> int:
    """Makes a store with some rows; its revision."""
    store = atoll.store.Store.in_directory(directory, TABLES)
    batch = store.batch()
    for number in range(rows):
        batch.put("kv", b"%04d" % number, b"value", b"owner" if number % 2 else b"")
    revision = store.commit_blocking(batch).revision
    store.close_blocking()
    return revision


def test_what_was_committed_is_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    revision = filled(tmp_path)
    store = atoll.store.Store.in_directory(tmp_path, TABLES)
    assert store.revision == revision
    assert store.count("kv") == 100
    assert len(store.owned(b"owner")) == 50
    assert store.epoch == 2, "each opening is another epoch"
    assert store.changes(0).through == revision
    store.close_blocking()


def test_a_second_process_is_refused_and_told_who_has_the_store(tmp_path: Path) -> None:
    store = atoll.store.Store.in_directory(tmp_path, TABLES)
    program = f"""
        import atoll.store
        from atoll.errors import StoreLockedError
        try:
            atoll.store.Store.in_directory({str(tmp_path)!r}, ["kv"])
        except StoreLockedError as problem:
            print(problem)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert str(os.getpid()) in told
    with pytest.raises(StoreLockedError):
        atoll.store.Store.in_directory(tmp_path, TABLES)
    store.close_blocking()


def test_a_backup_is_made_while_the_store_is_written_and_restored_elsewhere(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    seen: list[tuple[int, int]] = []

    async def main() -> tuple[atoll.store.StoreBackup, str]:
        store = atoll.store.Store.in_directory(tmp_path / "data", TABLES)
        backup = await store.backup(tmp_path / "backup.db", progress=lambda rows, total: seen.append((rows, total)))
        await store.commit(store.batch().delete("kv", b"0000"))
        generation = store.generation
        await store.close()
        return backup, generation

    backup, generation = asyncio.run(main())
    assert (backup.rows, backup.generation) == (100, generation)
    assert seen[-1] == (100, 100)
    restored = atoll.store.restore(tmp_path / "backup.db", tmp_path / "other")
    assert restored.revision == backup.revision
    assert restored.generation != generation
    store = atoll.store.Store.in_directory(tmp_path / "other", TABLES)
    assert store.get("kv", b"0000") is not None
    assert store.generation == restored.generation
    store.close_blocking()


def test_what_a_progress_function_raises_ends_the_backup_and_leaves_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    store = atoll.store.Store.in_directory(tmp_path / "data", TABLES)

    def stop(rows: int, total: int) -> None:
        raise KeyError(rows, total)

    with pytest.raises(KeyError):
        store.backup_blocking(tmp_path / "backup.db", stop)
    store.close_blocking()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_restore_spares_a_store_unless_it_is_forced_and_keeps_it_then(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    store = atoll.store.Store.in_directory(tmp_path / "data", TABLES)
    store.backup_blocking(tmp_path / "backup.db")
    store.close_blocking()
    with pytest.raises(StoreError):
        atoll.store.restore(tmp_path / "backup.db", tmp_path / "data")
    restored = atoll.store.restore(tmp_path / "backup.db", tmp_path / "data", force=True)
    assert restored.replaced is not None
    assert restored.replaced.exists()


def test_a_damaged_file_is_refused_with_the_remedy_and_the_check_tells(tmp_path: Path) -> None:
    filled(tmp_path, 2_000)
    path = tmp_path / "atoll.db"
    sound = atoll.store.check(tmp_path)
    assert sound.problems == []
    assert sound.tables == [("kv", 2_000)]
    damaged = bytearray(path.read_bytes())
    damaged[:4096] = b"\xff" * 4096
    path.write_bytes(damaged)
    with pytest.raises(StoreCorruptError, match="restore"):
        atoll.store.Store.in_directory(tmp_path, TABLES)
    with pytest.raises(StoreCorruptError):
        atoll.store.check(tmp_path)


def test_a_full_store_refuses_and_goes_on_reading(tmp_path: Path) -> None:
    store = atoll.store.Store.in_directory(tmp_path, TABLES, max_bytes=1 << 20)
    value = bytes(100_000)

    stored: list[bytes] = []

    def fill() -> None:
        for number in range(100):
            key = b"%d" % number
            store.commit_blocking(store.batch().put("kv", key, value))
            stored.append(key)

    with pytest.raises(StoreFullError, match="reads go on"):
        fill()
    row = store.get("kv", b"0")
    assert row is not None
    assert row.value == value
    store.close_blocking()
    again = atoll.store.Store.in_directory(tmp_path, TABLES)
    assert [row.key for row in again.scan("kv").rows] == sorted(stored), "what was refused is not there"
    again.close_blocking()
