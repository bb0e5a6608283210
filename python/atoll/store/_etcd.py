"""`Election` and `EtcdOptions`: one of several servers leads, and has the store in etcd."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, Self, final

from atoll._core import ElectionCore, ElectionState, EtcdOptionsCore, default_etcd_options
from atoll.loop import IoContext

DEFAULTS: Final[dict[str, Any]] = default_etcd_options()
"""What holds where nothing is said, by the names of the attributes here: the native side's own values."""


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
    prefix: str = DEFAULTS["prefix"]
    user: str | None = None
    password: str | None = None
    ca: str | PathLike[str] | None = None
    cert: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None
    server_name: str | None = None
    lease: float = DEFAULTS["lease"]
    keepalive: float = DEFAULTS["keepalive"]
    validity: float = DEFAULTS["validity"]
    request_timeout: float = DEFAULTS["request_timeout"]
    connect_timeout: float = DEFAULTS["connect_timeout"]
    load_timeout: float = DEFAULTS["load_timeout"]
    max_operations: int = DEFAULTS["max_operations"]
    max_request_bytes: int = DEFAULTS["max_request_bytes"]
    history_revisions: int = DEFAULTS["history_revisions"]

    def checked(self) -> EtcdOptionsCore:
        """What the native side takes; made only if the options go together.

        Raises:
            ValueError: They don't; the message says what to change.
            OSError: A file with a certificate or key can't be read.
        """
        if (self.user is None) != (self.password is None):
            missing = "a password" if self.password is None else "a user"
            raise ValueError(f"{missing} is missing: etcd is logged in to with both, or with neither")
        if (self.cert is None) != (self.key is None):
            missing = "the private key" if self.key is None else "the certificate"
            raise ValueError(f"{missing} of the client is missing: etcd is shown both, or neither")
        if self.ca is None and (self.cert is not None or self.server_name is not None):
            given = "a client's certificate" if self.cert is not None else "server_name"
            raise ValueError(f"{given} is given without ca: name the file with who signs etcd's certificates")
        return EtcdOptionsCore(
            endpoints=list(self.endpoints),
            prefix=self.prefix,
            user=self.user,
            password=self.password,
            ca=_contents(self.ca),
            cert=_contents(self.cert),
            key=_contents(self.key),
            server_name=self.server_name,
            lease=self.lease,
            keepalive=self.keepalive,
            validity=self.validity,
            request_timeout=self.request_timeout,
            connect_timeout=self.connect_timeout,
            load_timeout=self.load_timeout,
            max_operations=self.max_operations,
            max_request_bytes=self.max_request_bytes,
            history_revisions=self.history_revisions,
        )

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
        return cls(options.checked(), name, address)

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
