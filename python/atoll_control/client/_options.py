"""How a client reaches its servers: endpoints, TLS, and grpc's own settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from atoll_control.api.addresses import split_address

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

DEFAULT_TIMEOUT: Final = 10.0
# The server's pages have 2 MiB, and one value more at most.
MAX_RECEIVE_BYTES: Final = 8 << 20

CHANNEL_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    # A server that is stopped, or cut off, is noticed while a call or a watch waits for it.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A server that comes back is found soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # As long as this an attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 3_000),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """The files of TLS, in PEM.

    Attributes:
        ca: who has signed the server's certificate; those whom grpc trusts by default when None.
        certificate: the client's own chain, where the server asks for it.
        key: the certificate's key.
        server_name: the name that the server's certificate must have, where it is not the host of the endpoint.
    """

    ca: str | PathLike[str] | None = None
    certificate: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) is not (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files.

        Raises:
            OSError: one can't be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )


def _read(path: str | PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def channel_options(tls: Tls | None) -> list[tuple[str, int | str]]:
    """Settings of a channel."""
    options = list(CHANNEL_OPTIONS)
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def parse_endpoints(endpoints: str | Iterable[str]) -> tuple[str, ...]:
    """One or several "host:port", also several in one text with commas between; without those that come again.

    Raises:
        ValueError: there is none, or one is something else.
    """
    texts = [endpoints] if isinstance(endpoints, str) else endpoints
    found = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if not found:
        raise ValueError("endpoints: give at least one, for example 127.0.0.1:50051")
    for endpoint in found:
        if split_address(endpoint) is None:
            raise ValueError(f"endpoints: each must be HOST:PORT, for example 127.0.0.1:50051; got {endpoint!r}")
    return tuple(dict.fromkeys(found))


def metadata_of(token: str | None) -> tuple[tuple[str, str], ...]:
    """What goes with each call."""
    return () if token is None else (("authorization", f"Bearer {token}"),)
