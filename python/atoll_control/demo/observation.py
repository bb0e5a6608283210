"""What the demo sees of its server from outside while a loop is stuck: the endpoint that `atoll top` reads, too."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LOOK_TIMEOUT: Final = 2.0


@dataclass(frozen=True)
class Stuck:
    """A handler that keeps its loop too long. Times in seconds.

    Attributes:
        began: since 1970; one stall has one, however often it is seen.
        loop: the loop's name.
        handler: the handler's.
        duration: how long it has taken.
        stack: the Python stack of the loop's thread meanwhile, the innermost frame first; empty where none can be had.
    """

    began: float
    loop: str
    handler: str
    duration: float
    stack: str

    @property
    def where(self) -> str:
        """The innermost frame."""
        return self.stack.strip().partition("\n")[0].strip()

    @classmethod
    def of(cls, stall: dict[str, Any]) -> Stuck:
        """As the endpoint tells it."""
        handler = stall["handler"] or "something that is no handler"
        return cls(stall["began"], stall["loop"], handler, stall["duration"], stall["stack"] or "")


class Observation:
    """Reads the endpoint of a server that was started with `environment`."""

    def __init__(self, run_id: str) -> None:
        """Takes the run's name, for the socket's."""
        self._path = Path(tempfile.gettempdir()) / f"atoll-demo-{run_id}.sock"
        self.stuck_now: Stuck | None = None
        self.seen: dict[tuple[str, float], Stuck] = {}

    @property
    def address(self) -> str:
        """What `atoll top` takes."""
        return f"unix:{self._path}"

    @property
    def environment(self) -> dict[str, str]:
        """What has the server serve it."""
        return {"ATOLL_OBSERVE": self.address}

    async def look(self) -> None:
        """Looks once; a server that does not answer is one that has ended, which others notice."""
        try:
            told = await asyncio.to_thread(self._read)
        except (OSError, http.client.HTTPException, ValueError):
            return
        now = [Stuck.of(loop["stall"]) for loop in told["loops"] if loop["stall"]]
        self.stuck_now = max(now, key=lambda stuck: stuck.duration, default=None)
        for stuck in [*map(Stuck.of, told["stalls"]), *now]:
            key = (stuck.loop, stuck.began)
            if stuck.stack or key not in self.seen:
                self.seen[key] = stuck

    def _read(self) -> dict[str, Any]:
        connection = _UnixConnection(self._path)
        try:
            connection.request("GET", "/top")
            told: dict[str, Any] = json.loads(connection.getresponse().read())
            return told
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LOOK_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LOOK_TIMEOUT)
        self.sock.connect(str(self._path))
