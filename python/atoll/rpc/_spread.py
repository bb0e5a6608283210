"""Services that are spread over several loops: what pins a call to one of them.

The choice is made where the call arrives, on a network thread, so each call goes straight to its loop.
"""

import re
import zlib
from dataclasses import dataclass
from typing import Final

from atoll.loop import IoContext, IoContextPool
from atoll.rpc._context import ServicerContext
from atoll.rpc._method import Method

_METADATA_KEY: Final = re.compile(r"[a-z0-9_.-]+")


@dataclass(frozen=True)
class ByConnection:
    """All calls of one connection run on one loop; the connections take turns. See `by_connection`."""


@dataclass(frozen=True)
class ByMetadata:
    """All calls with one value of a metadata key run on one loop. See `by_metadata`.

    Attributes:
        name: The metadata's key.
    """

    name: str


Key = ByConnection | ByMetadata

by_connection: Final = ByConnection()
"""A key for `Server.on(pool, key=)`: all calls of one connection run on one loop; the connections take turns."""


def by_metadata(name: str) -> ByMetadata:
    """A key for `Server.on(pool, key=)`: all calls with the same value of this metadata run on one loop.

    That is the loop `pool.get(zlib.crc32(value))`, in every process; of several values the first counts. A call without
    the metadata goes where its connection goes.

    Args:
        name: The metadata's key, such as `"tenant"`; lower case.

    Raises:
        ValueError: When no client can send such a key.
    """
    if not _METADATA_KEY.fullmatch(name) or name.startswith("grpc-"):
        raise ValueError(
            f"by_metadata({name!r}): no client can send such metadata; a key has the characters a-z, 0-9, '-', '_' and "
            "'.', and does not begin with grpc-"
        )
    return ByMetadata(name)


@dataclass(frozen=True)
class Spread:
    """Several loops, and what pins a call to one of them.

    Attributes:
        pool: The name of the pool.
        io_contexts: Its loops.
        key: What pins a call.
    """

    pool: str
    io_contexts: tuple[IoContext, ...]
    key: Key

    @classmethod
    def over(cls, pool: IoContextPool, key: Key) -> "Spread":
        """Over the loops of a pool that runs."""
        return cls(pool.name, pool.all(), key)

    @property
    def metadata_key(self) -> str | None:
        """The metadata that pins a call; None when its connection does."""
        return self.key.name if isinstance(self.key, ByMetadata) else None

    def choose(self, context: ServicerContext) -> int:
        """The index of the loop that a call belongs to. As the transport's `Chooser` has it."""
        number = context._connection_number  # noqa: SLF001 - the native half's
        name = self.metadata_key
        if name is not None:
            value = next((entry.value for entry in context.invocation_metadata() if entry.key == name), None)
            if value is not None:
                number = zlib.crc32(value.encode() if isinstance(value, str) else value)
        return number % len(self.io_contexts)


@dataclass(frozen=True, kw_only=True)
class SpreadMethod:
    """A method on several loops, as it crosses into Rust.

    Attributes:
        methods: One per loop, all with one path.
        metadata_key: Metadata whose value pins a call to a loop; None for the connection.
    """

    methods: tuple[Method, ...]
    metadata_key: str | None
