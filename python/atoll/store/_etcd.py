"""`Election` and `EtcdOptions`: one of several servers leads, and has the store in etcd."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Self, final

from atoll._core import ElectionCore, ElectionState
from atoll.loop import IoContext


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdOptions:
    """How etcd is reached and used.

    Attributes:
        endpoints: The members' client addresses: "http://HOST:PORT", or "https://HOST:PORT" with `ca`.
        prefix: What all keys begin with. No other key is read or written, so that others may use the same etcd.
        user: As whom to log in; None where etcd's authentication is off, or goes by the client's certificate.
        password: Of the user; never printed.
        ca: The file with who signs the members' certificates; needed for https.
        cert: The file with the client's certificate, where etcd asks for one; with `key`.
        key: The file with its private key.
        server_name: The name in the members' certificates, where it is not the host of the endpoint.
        lease: Seconds that etcd keeps a leader that is not heard; whole, at least 2.
        keepalive: Seconds between two signs of life of the leader.
        validity: Seconds that the leader serves after sending the last sign of life that was answered. What lies
            between it and `lease` is the margin for clocks that run differently.
        request_timeout: Seconds after which the outcome of a request counts as unknown.
        connect_timeout: Seconds that a connection may take to be made.
        load_timeout: Seconds that one page of rows may take while a store is opened.
        max_operations: etcd's --max-txn-ops.
        max_request_bytes: etcd's --max-request-bytes.
        history_revisions: How many of etcd's revisions before the newest are read for the change log at most.
    """

    endpoints: Sequence[str]
    prefix: str = "/atoll/"
    user: str | None = None
    password: str | None = None
    ca: str | PathLike[str] | None = None
    cert: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None
    server_name: str | None = None
    lease: float = 3.0
    keepalive: float = 1.0
    validity: float = 2.0
    request_timeout: float = 2.0
    connect_timeout: float = 1.0
    load_timeout: float = 20.0
    max_operations: int = 128
    max_request_bytes: int = 1_572_864
    history_revisions: int = 100_000

    def __repr__(self) -> str:
        """Says where, and no secret."""
        return f"EtcdOptions(endpoints={list(self.endpoints)!r}, prefix={self.prefix!r}, user={self.user!r})"


@final
class Election(ElectionCore):
    """One server's part in the election of the leader, from standing to leading, losing or resigning.

    It runs on a native thread with connections of its own, so neither the GIL nor a slow loop delays its signs of life.
    It leads at most once: when it has lost or resigned it is over, and who wants to stand again makes a new one. While
    it leads, `Store.in_etcd` opens the store.
    """

    @classmethod
    def start(cls, options: EtcdOptions, *, name: str, address: str) -> Self:
        """Begins to stand. Returns at once; etcd need not be reachable yet.

        Args:
            options: How etcd is reached.
            name: Of this server.
            address: Where clients reach it; standbys tell them.

        Raises:
            ValueError: An option is wrong; the message says what to change.
            OSError: A file with a certificate or key can't be read.
        """
        if (options.user is None) != (options.password is None):
            missing = "a password" if options.password is None else "a user"
            raise ValueError(f"{missing} is missing: etcd is logged in to with both, or with neither")
        if (options.cert is None) != (options.key is None):
            missing = "the private key" if options.key is None else "the certificate"
            raise ValueError(f"{missing} of the client is missing: etcd is shown both, or neither")
        if options.ca is None and options.cert is not None:
            raise ValueError(
                "a client's certificate is given without ca: name the file with who signs etcd's certificates"
            )
        return cls(
            list(options.endpoints),
            name,
            address,
            prefix=options.prefix,
            user=options.user,
            password=options.password,
            ca=_contents(options.ca),
            cert=_contents(options.cert),
            key=_contents(options.key),
            server_name=options.server_name,
            lease=options.lease,
            keepalive=options.keepalive,
            validity=options.validity,
            request_timeout=options.request_timeout,
            connect_timeout=options.connect_timeout,
            load_timeout=options.load_timeout,
            max_operations=options.max_operations,
            max_request_bytes=options.max_request_bytes,
            history_revisions=options.history_revisions,
        )

    async def changed(self, seen: ElectionState) -> ElectionState:
        """Waits until the state is another one than `seen`, and returns it. On a loop."""
        news = asyncio.Event()
        with self.subscribe(IoContext.current(), lambda _: news.set()):
            # Looked at after the subscription has begun: no change is missed.
            while (state := self.state) == seen:
                await news.wait()
                news.clear()
            return state

    async def resign(self) -> None:
        """Stops leading, so that another can at once. Close the store before: what it commits later is refused.

        Waits until etcd knows, for the length of the lease at most. A second call does nothing.
        """
        await asyncio.to_thread(self.resign_blocking)


def _contents(path: str | PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
