"""The Python client of the control plane, for asyncio and without it.

With asyncio, and without::

    async with AsyncClient("127.0.0.1:50051") as client:
        await client.kv.put("color", "blue")
        async for event in client.watch.kv(prefix="jobs/"):
            print(event)

    with Client("127.0.0.1:50051") as client:
        client.kv.put("color", "blue")
        for event in client.watch.kv(prefix="jobs/"):
            print(event)

Layers, each importing only what is to its right::

    _aio | _sync  →  _watch_session, _reconnecting  →  _attempts  →  _failure, _safety, _options, _values
                  →  events, errors

What is decided (where a call goes, whether it is sent again, what a watch is told) has no I/O and serves both clients.
`AsyncClient` uses `grpc.aio`. `Client` uses grpc's own threads and stubs rather than a loop in a thread: grpc.aio does
not share a process with a second loop well, a call costs no hop between threads, and Ctrl-C ends it. Its methods are
made from those of `AsyncClient` by `scripts/make_sync_client.py`, so that the two can't drift.

An `AsyncClient` belongs to the loop that it is first used on. A `Client` may be used by several threads; each watch is
iterated by one. Neither survives a fork: make it in the child.

What the protos name is returned as their messages; what is the client's own (events of watches) as frozen dataclasses.
"""

from __future__ import annotations

from atoll_control.client._aio._watching import Watch as AsyncWatch
from atoll_control.client._aio.client import AsyncClient
from atoll_control.client._options import DEFAULT_TIMEOUT, Tls
from atoll_control.client._sync._watching import Watch
from atoll_control.client._sync.client import Client
from atoll_control.client.errors import (
    AccessDeniedError,
    ClientClosedError,
    ClientError,
    ConflictError,
    ExhaustedError,
    InvalidRequestError,
    NotFoundError,
    ServerFailedError,
    UnknownOutcomeError,
    UnreachableError,
)
from atoll_control.client.events import (
    Changed,
    Deleted,
    KvEvent,
    NodeEvent,
    Position,
    Published,
    Reset,
    ResetReason,
    SnapshotComplete,
    SnapshotEntry,
    TopicEvent,
    TopicPosition,
)

__all__ = [
    "DEFAULT_TIMEOUT",
    "AccessDeniedError",
    "AsyncClient",
    "AsyncWatch",
    "Changed",
    "Client",
    "ClientClosedError",
    "ClientError",
    "ConflictError",
    "Deleted",
    "ExhaustedError",
    "InvalidRequestError",
    "KvEvent",
    "NodeEvent",
    "NotFoundError",
    "Position",
    "Published",
    "Reset",
    "ResetReason",
    "ServerFailedError",
    "SnapshotComplete",
    "SnapshotEntry",
    "Tls",
    "TopicEvent",
    "TopicPosition",
    "UnknownOutcomeError",
    "UnreachableError",
    "Watch",
]
