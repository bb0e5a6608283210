"""AdminManager: what it says of the server, and how backups fail. The store stands still or breaks as a test wants."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import pytest

from atoll.errors import AbortError, StoreFullError, StoreUnavailableError
from atoll.store import Store
from atoll.testing import FakeServicerContext
from atoll_control.api.v1 import admin_pb2
from atoll_control.server.admin_manager import AdminManager
from atoll_control.server.tables import TABLES
from atoll_control.server.term import reachable
from atoll_control.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from atoll import IoContextThread

    Run = Callable[[Callable[[AdminManager], Coroutine[Any, Any, Any]]], Any]

PATIENCE = 60.0


class BreakableStore:
    """A store in memory whose backups wait, or fail, when the test says so."""

    def __init__(self) -> None:
        self.real = Store.in_memory(TABLES)
        self.failure: Exception | None = None
        self.began = asyncio.Event()
        # Backups wait for this while it is there.
        self.gate: asyncio.Event | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def backup(self, path: Path) -> Any:
        self.began.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return await self.real.backup(path)


@pytest.fixture
def store() -> Iterator[BreakableStore]:
    store = BreakableStore()
    yield store
    store.real.close_blocking()


@pytest.fixture
def run(io_context_thread: IoContextThread, store: BreakableStore) -> Run:
    """Makes an AdminManager on a loop, and runs a test of it there."""

    def run_on_loop(test: Callable[[AdminManager], Coroutine[Any, Any, Any]]) -> Any:
        async def begin() -> Any:
            some_store: Any = store
            manager = AdminManager(some_store, server_id="s", version="1.2.3", address="127.0.0.1:50051")
            return await test(manager)

        return io_context_thread.io_context.submit(begin).result(PATIENCE)

    return run_on_loop


async def back_up(manager: AdminManager) -> tuple[str, str, bytes]:
    """Has a backup made: the name of the status, the message, and the backup itself."""
    context: Any = FakeServicerContext()
    data = b""
    try:
        async for chunk in manager.Backup(admin_pb2.BackupRequest(), context):
            data += chunk.data
    except AbortError:
        return context.code().name, context.details(), data
    return "OK", "", data


def test_the_server_says_what_it_is_and_what_it_has(run: Run) -> None:
    told = run(lambda manager: answer(manager.GetServer, admin_pb2.GetServerRequest()))
    assert (told.server_id, told.version, told.leader_address) == ("s", "1.2.3", "127.0.0.1:50051")
    assert {table.name for table in told.tables} == set(TABLES)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("0.0.0.0:50051", ""),
        ("[::]:50051", ""),
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("[::1]:50051", "[::1]:50051"),
        ("[fe80::1%eth0]:50051", "[fe80::1%eth0]:50051"),
        ("box.example:50051", "box.example:50051"),
    ],
)
def test_a_server_that_listens_on_all_addresses_names_none(address: str, told: str) -> None:
    assert reachable(address) == told


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (OSError(errno.ENOSPC, "no space left"), "RESOURCE_EXHAUSTED"),
        (OSError(errno.EDQUOT, "quota exceeded"), "RESOURCE_EXHAUSTED"),
        (OSError(errno.EFBIG, "file too large"), "RESOURCE_EXHAUSTED"),
        (PermissionError(errno.EACCES, "permission denied"), "INTERNAL"),
        (OSError("of no number"), "INTERNAL"),
        (StoreFullError("the disk is full"), "RESOURCE_EXHAUSTED"),
        (StoreUnavailableError("the disk is gone"), "UNAVAILABLE"),
    ],
    ids=str,
)
def test_a_backup_that_fails_says_why_and_the_next_one_may_begin(
    run: Run, store: BreakableStore, failure: Exception, code: str
) -> None:
    async def test(manager: AdminManager) -> None:
        store.failure = failure
        assert await back_up(manager) == (code, f"the backup could not be written on the server: {failure}", b"")
        store.failure = None
        told, _, data = await back_up(manager)
        assert (told, data[:15]) == ("OK", b"SQLite format 3")

    run(test)


def test_there_is_one_backup_at_a_time(run: Run, store: BreakableStore) -> None:
    async def test(manager: AdminManager) -> None:
        store.gate = asyncio.Event()
        first = asyncio.create_task(back_up(manager))
        await store.began.wait()
        code, message, _ = await back_up(manager)
        assert (code, message) == (
            "RESOURCE_EXHAUSTED",
            "1 backup is under way, the most at a time: try again when it has ended",
        )
        store.gate.set()
        assert (await first)[0] == "OK"

    run(test)
