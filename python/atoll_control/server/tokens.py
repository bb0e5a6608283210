"""`Tokens`: the tokens that are valid now, in memory, for whoever checks calls. Any thread, without a lock.

    shared state   who writes               who reads                under what
    `_known`       `TokenManager`'s loop    every loop that serves   never changed, replaced whole
    `last_used`    every loop that serves   `TokenManager`'s loop    one reference; the last writer wins

A secret is 256 random bits, and what is kept of it its SHA-256. A slow hash (scrypt, argon2) makes guessing expensive
where people choose what is guessed; 2**256 can't be guessed at any price, and every call pays for the hash. The lookup
is by the hash, so how long it takes tells nothing of secrets: who does not know one can't choose its hash.
"""

from __future__ import annotations

import base64
import hashlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECRET_BYTES: Final = 32
# So that scanners for leaked secrets can tell one.
SECRET_PREFIX: Final = "atoll_"  # noqa: S105 - the public part


class Caller:
    """Who shows a token.

    Attributes:
        actor: who that is in the audit, "token:ci".
        role: of `atoll.v1.Role`.
        node_id: the only node that it speaks for; empty for any.
        expires: seconds since 1970; infinity if it does not.
        digest: of its secret.
        last_used: seconds since 1970; 0 if not yet.
    """

    __slots__ = ("actor", "digest", "expires", "last_used", "node_id", "role")

    def __init__(
        self, actor: str, role: int, digest: bytes, *, node_id: str = "", expires: float = float("inf")
    ) -> None:
        """Has not been used yet."""
        self.actor = actor
        self.role = role
        self.digest = digest
        self.node_id = node_id
        self.expires = expires
        self.last_used = 0.0


CALLER: ContextVar[Caller | None] = ContextVar("CALLER", default=None)
"""Who makes the call that is being served; None where no tokens are asked for."""


class Tokens:
    """The tokens that are valid now.

    Attributes:
        wall_clock: seconds since 1970.
    """

    def __init__(self, wall_clock: Callable[[], float], always: Caller | None = None) -> None:
        """Knows none but the given one.

        Args:
            wall_clock: seconds since 1970.
            always: is valid whatever the store says, and stays so.
        """
        self.wall_clock = wall_clock
        self._always = {} if always is None else {always.digest: always}
        self._known: Mapping[bytes, Caller] = self._always

    def publish(self, known: Mapping[bytes, Caller]) -> None:
        """Replaces all, but for what is always valid."""
        self._known = {**known, **self._always}

    def find(self, secret: str) -> Caller | None:
        """Whose secret it is; None when it is not valid."""
        caller = self._known.get(digest_of(secret))
        if caller is None:
            return None
        now = self.wall_clock()
        if now >= caller.expires:
            return None
        caller.last_used = now
        return caller

    def is_valid(self, caller: Caller) -> bool:
        """Whether a token that was shown a while ago would still be taken."""
        known = self._known.get(caller.digest)
        return known is not None and self.wall_clock() < known.expires


def new_secret(random_bytes: Callable[[int], bytes]) -> str:
    """A new secret, of what `os.urandom` gives."""
    return SECRET_PREFIX + base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).decode().rstrip("=")


def digest_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def secret_in(metadata: Any) -> str | None:  # noqa: ANN401 - pairs, of grpcio's types or ours
    """The secret that a call shows; None when it shows none."""
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            scheme, _, secret = value.partition(" ")
            if scheme.lower() == "bearer":
                return secret.strip()
    return None
