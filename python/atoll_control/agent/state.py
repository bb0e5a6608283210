"""`StateDirectory`: what an agent must not forget, and the lock that keeps a second agent off.

    lock         held while an agent runs; its text says which
    agent.json   the node's id, the highest incarnation that may have been used, the highest epoch that was seen

The file is replaced as a whole, on the disk before what it says is used. Incarnations are reserved in blocks, so that
registering again writes nothing: neither a slow disk nor a full one keeps a node out that runs already.

Used by one thread at a time: `Membership`'s loop hands writes to another thread, one after the other.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import re
import socket
import time  # noqa: TID251 - the wall clock: incarnations rise with it
from typing import TYPE_CHECKING, Final

from atoll_control.agent.errors import StateError, StateInUseError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

FILE: Final = "agent.json"
LOCK: Final = "lock"
# So many incarnations an agent may use before it writes again.
BLOCK: Final = 1_000
_MAX_INCARNATION: Final = (1 << 64) - 1
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MAX_HOST_IN_ID: Final = 64


class StateDirectory:
    """The state of an agent, while it has the lock.

    Attributes:
        path: the directory.
        node_id: chosen at the first start, and kept.
        epoch: the highest that was seen.
        last_incarnation: the highest that may have been used.
    """

    def __init__(self, path: Path, *, node_id: str | None = None, forget_epoch: bool = False) -> None:
        """Says where it is; `node_id` is what to choose at the first start, None for a name with a random part."""
        self.path = path
        self.node_id = ""
        self.epoch = 0
        self.last_incarnation = 0
        self._wanted_id = node_id
        self._forget_epoch = forget_epoch
        self._next = 0
        self._reserved = 0
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Takes the lock, and reads.

        Raises:
            StateInUseError: another agent has it.
            StateError: it can't be read or written, or has another node's state.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._take_lock()
        except OSError as error:
            raise self._unusable(error) from None
        try:
            self._read()
            self._next = self._start()
            self._write_reserving(self._next)
        except OSError as error:
            self._give_back()
            raise self._unusable(error) from None
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Gives the lock back."""
        self._give_back()

    def next_incarnation(self, above: int = 0) -> int:
        """An incarnation that no process with this directory has used, higher than all that were, and than `above`.

        Raises:
            OSError: the block is used up, and the next one could not be written.
        """
        incarnation = max(self._next, above + 1)
        if incarnation > _MAX_INCARNATION:
            message = f"incarnation {incarnation} is more than a server takes: delete {self.path / FILE}"
            raise StateError(message)
        if incarnation > self._reserved:
            self._write_reserving(incarnation)
        self._next = incarnation + 1
        self.last_incarnation = incarnation
        return incarnation

    def needs_write(self, above: int = 0) -> bool:
        """Whether `next_incarnation` would write."""
        return max(self._next, above + 1) > self._reserved

    def note_epoch(self, epoch: int) -> None:
        """Remembers an epoch, if it is higher, also after a restart.

        Raises:
            OSError: it could not be written; this object remembers it nevertheless.
        """
        self.epoch = max(self.epoch, epoch)
        self._write()

    # -- the file ------------------------------------------------------------------------------------------------------

    def _start(self) -> int:
        # The clock makes incarnations rise where the directory was lost; the file makes them rise where the clock was
        # set back.
        return max(time.time_ns(), self._reserved + 1)

    def _read(self) -> None:
        file = self.path / FILE
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            self.node_id = self._wanted_id or _new_id()
            return
        try:
            kept = json.loads(data)
            node_id, reserved, epoch = kept["node_id"], kept["incarnation"], kept["epoch"]
            if not isinstance(node_id, str) or not _ID.fullmatch(node_id):
                raise ValueError("node_id is none")  # noqa: TRY301 - told like what json says
            if not (type(reserved) is int and type(epoch) is int and 0 <= reserved <= _MAX_INCARNATION and epoch >= 0):
                raise ValueError("incarnation and epoch must be whole numbers")  # noqa: TRY301 - as above
        except (ValueError, KeyError, TypeError) as error:
            message = (
                f"{file} is damaged ({error}): restore it, or delete it, and this machine is a new node; with "
                "--node-id it keeps its id"
            )
            raise StateError(message) from None
        if self._wanted_id not in {None, node_id}:
            message = (
                f"{self.path} is the state of node {node_id!r}, and --node-id says {self._wanted_id!r}: leave "
                "--node-id out, or name another directory with --state-dir"
            )
            raise StateError(message)
        self.node_id, self._reserved = node_id, reserved
        self.epoch = 0 if self._forget_epoch else epoch
        self.last_incarnation = reserved

    def _write_reserving(self, incarnation: int) -> None:
        before, self._reserved = self._reserved, min(incarnation + BLOCK, _MAX_INCARNATION)
        try:
            self._write()
        except OSError:
            self._reserved = before
            raise

    def _write(self) -> None:
        kept = {"node_id": self.node_id, "incarnation": self._reserved, "epoch": self.epoch}
        draft = self.path / f"{FILE}.draft"
        with draft.open("w", encoding="ascii") as file:
            json.dump(kept, file)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path / FILE)
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _unusable(self, error: OSError) -> StateError:
        return StateError(
            f"the state directory {self.path} can't be used: {error.strerror or error}: make it writable for this "
            "user, or name another with --state-dir"
        )

    # -- the lock ------------------------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 200).decode(errors="replace").strip() or "another process"
            os.close(lock)
            message = (
                f"{self.path} is in use by {holder}: stop that agent, or give this one a directory of its own with "
                "--state-dir"
            )
            raise StateInUseError(message) from None
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        since = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"the agent with process id {os.getpid()}, running since {since}\n".encode(), 0)

    def _give_back(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            # The text is of a holder; the file stays, as whoever deletes it might let two have a lock each.
            with contextlib.suppress(OSError):
                os.ftruncate(lock, 0)
            os.close(lock)


def _new_id() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname())[:_MAX_HOST_IN_ID]
    return f"{host or 'node'}-{os.urandom(6).hex()}"
