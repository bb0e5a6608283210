"""`AdminManager`: what operators ask of the server itself. Owns nothing but the backups that are under way."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
import structlog

from atoll import IoContext
from atoll.errors import StoreError
from atoll_control.api.times import duration
from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc
from atoll_control.server.calls import RefusedError, refuse
from atoll_control.server.store_status import status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from atoll.store import Store

_log = structlog.get_logger("atoll_control.admin_manager")

# A message of a backup carries this many bytes.
CHUNK_BYTES: Final = 1 << 20
# What the system says when a file has no room.
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Backups at a time: each writes a file as large as the store.
MAX_BACKUPS: Final = 1


class AdminManager(admin_pb2_grpc.AdminServiceServicer):
    """The module behind `AdminService`."""

    def __init__(self, store: Store, *, server_id: str, version: str, address: str) -> None:
        """Takes what it tells.

        Args:
            store: what is backed up.
            server_id: names this run of the server.
            version: of Atoll.
            address: where this server can be reached; empty if that is not known.
        """
        self._store = store
        self._server_id = server_id
        self._version = version
        self._address = address
        self._io_context = IoContext.current()
        self._started = self._io_context.now()
        self._backups = 0

    async def GetServer(
        self,
        request: admin_pb2.GetServerRequest,  # noqa: ARG002 - the signature is gRPC's
        context: grpc.aio.ServicerContext[admin_pb2.GetServerRequest, admin_pb2.GetServerResponse],  # noqa: ARG002
    ) -> admin_pb2.GetServerResponse:
        """Tells what the server is."""
        statistics = self._store.statistics()
        uptime = self._io_context.now() - self._started
        return admin_pb2.GetServerResponse(
            server_id=self._server_id,
            version=self._version,
            role=admin_pb2.SERVER_ROLE_LEADER,
            leader_address=self._address,
            epoch=self._store.epoch,
            generation=self._store.generation,
            revision=statistics.revision,
            oldest_revision=statistics.oldest,
            engine=statistics.engine,
            uptime=duration(uptime),
            tables=[admin_pb2.TableSize(name=name, rows=rows, bytes=size) for name, rows, size in statistics.tables],
        )

    async def Backup(
        self,
        request: admin_pb2.BackupRequest,  # noqa: ARG002 - the signature is gRPC's
        context: grpc.aio.ServicerContext[admin_pb2.BackupRequest, admin_pb2.BackupChunk],
    ) -> AsyncIterator[admin_pb2.BackupChunk]:
        """Writes a backup beside the system's other temporary files and sends it; the loop serves others meanwhile."""
        if self._backups >= MAX_BACKUPS:
            busy = f"{self._backups} backup is under way, the most at a time: try again when it has ended"
            await refuse(RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, busy), context)
        self._backups += 1
        _log.info("backup_began", peer=context.peer())
        try:
            with tempfile.TemporaryDirectory(prefix="atoll-backup-") as folder:
                path = Path(folder) / "backup.db"
                backup = await self._store.backup(path)
                yield admin_pb2.BackupChunk(
                    generation=backup.generation, revision=backup.revision, total_bytes=backup.bytes
                )
                with path.open("rb") as file:
                    while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                        yield admin_pb2.BackupChunk(data=data)
        except (StoreError, OSError) as problem:
            _log.exception("backup_failed")
            await refuse(_refusal(problem), context)
        finally:
            self._backups -= 1
        _log.info("backup_ended", revision=backup.revision, bytes=backup.bytes)


def _refusal(problem: StoreError | OSError) -> RefusedError:
    if isinstance(problem, StoreError):
        code = status_of(problem)
    else:
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if problem.errno in _NO_ROOM else grpc.StatusCode.INTERNAL
    return RefusedError(code, f"the backup could not be written on the server: {problem}")
