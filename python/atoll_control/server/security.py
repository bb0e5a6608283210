"""Who may reach the server, and as whom: TLS, client certificates, tokens. What `atollctl serve` is told of it."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from atoll import rpc
from atoll.errors import AtollError, CertificateError
from atoll_control.server.access import ADMIN
from atoll_control.server.tokens import Caller, Tokens, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = structlog.get_logger("atoll_control.security")

# A file in the data directory, with the token that a server makes for its first administrator.
FIRST_TOKEN_FILE: Final = "admin-token"  # noqa: S105 - a file's name
# What a token of one's own must have at least; half of the characters of a hexadecimal SHA-256 are enough.
MIN_ADMIN_TOKEN_CHARACTERS: Final = 32
# Who calls with the token of --admin-token-file, in the audit. No token can have the name.
PERMANENT_ACTOR: Final = "admin-token-file"


class SecuritySettingsError(AtollError, ValueError):
    """A setting of the security can't be used: whoever starts the server mends it as the message says."""


@dataclass(frozen=True, kw_only=True)
class SecuritySettings:
    """How the server is protected. Files are PEM, and are read again when they change.

    Attributes:
        tls_cert: the server's certificate chain; with `tls_key` the port speaks TLS only.
        tls_key: the key of that certificate.
        tls_client_ca: who vouches for clients: each must show a certificate of theirs.
        tokens: every call has to show a token.
        admin_token_file: its content is a token of the role ADMIN, always valid; read once.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: bool = False
    admin_token_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            there, missing = ("tls_cert", "tls_key") if self.tls_key is None else ("tls_key", "tls_cert")
            message = f"{missing}: is required with {there}: a certificate and its key belong together"
            raise SecuritySettingsError(message)
        if self.tls_client_ca is not None and self.tls_cert is None:
            message = "tls_cert: is required with tls_client_ca: clients show their certificates within TLS"
            raise SecuritySettingsError(message)
        if self.admin_token_file is not None and not self.tokens:
            message = "tokens: is required with admin_token_file: without it no call is asked for a token"
            raise SecuritySettingsError(message)

    @property
    def has_tls(self) -> bool:
        """The port speaks TLS."""
        return self.tls_cert is not None

    @property
    def knows_callers(self) -> bool:
        """Whoever calls has shown who that is."""
        return self.tokens or self.tls_client_ca is not None


def check_place_of_first_token(settings: SecuritySettings, data_dir: Path | None) -> None:
    """Looks whether an administrator could get in.

    Raises:
        SecuritySettingsError: the first token could be put nowhere.
    """
    if settings.tokens and settings.admin_token_file is None and data_dir is None:
        message = (
            "admin_token_file: is required with tokens and without a data directory, where the first token would be "
            "put: write a secret to a file, for example with `openssl rand -hex 32`, and name it"
        )
        raise SecuritySettingsError(message)


def first_token_file(settings: SecuritySettings, data_dir: Path | None) -> Path | None:
    """Where the server puts a token for its first administrator; None when there is to be none."""
    if not settings.tokens or settings.admin_token_file is not None or data_dir is None:
        return None
    return data_dir / FIRST_TOKEN_FILE


def add_port(server: rpc.Server, listen: str, settings: SecuritySettings) -> int:
    """Has the server listen, with TLS if that is set; the port.

    Raises:
        BindError: the address is in use, or not this machine's.
        SecuritySettingsError: a file can't be read, or what is in it can't be used.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return server.add_insecure_port(listen)
    try:
        credentials = rpc.ssl_server_credentials_from_files(
            settings.tls_key,
            settings.tls_cert,
            settings.tls_client_ca,
            require_client_auth=settings.tls_client_ca is not None,
        )
    except OSError as problem:
        message = f"a file of the TLS settings can't be read: {problem}"
        raise SecuritySettingsError(message) from None
    except CertificateError as problem:
        message = f"tls_cert, tls_key, tls_client_ca: {problem}"
        raise SecuritySettingsError(message) from None
    return server.add_secure_port(listen, credentials)


def known_tokens(settings: SecuritySettings, wall_clock: Callable[[], float]) -> Tokens:
    """The tokens that are valid before the store has been read.

    Raises:
        SecuritySettingsError: the file of the administrator's token can't be used.
    """
    path = settings.admin_token_file
    return Tokens(wall_clock, None if path is None else _permanent(path))


@functools.cache
def _permanent(path: Path) -> Caller:
    """Who has the token of a file, which is read once: who takes over has the one that the server was started with."""
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as problem:
        message = f"admin_token_file: {path} can't be read: {problem}"
        raise SecuritySettingsError(message) from None
    if len(secret) < MIN_ADMIN_TOKEN_CHARACTERS or not secret.isascii() or not secret.isprintable() or " " in secret:
        message = (
            f"admin_token_file: {path} must have one line of at least {MIN_ADMIN_TOKEN_CHARACTERS} characters without "
            "spaces, for example from `openssl rand -hex 32`"
        )
        raise SecuritySettingsError(message)
    if path.stat().st_mode & 0o007:
        _log.warning("admin_token_file_is_readable_by_all", file=str(path), remedy=f"chmod 600 {path}")
    return Caller(PERMANENT_ACTOR, ADMIN, digest_of(secret))


def is_loopback(listen: str) -> bool:
    """Whether only this machine reaches what listens on "host:port", an IPv6 address in brackets or not."""
    host = listen.rpartition(":")[0]
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def check_listen(settings: SecuritySettings, listen: str, *, insecure: bool) -> None:
    """Looks whether others could listen in.

    Raises:
        SecuritySettingsError: the address is reached from other machines, there is no TLS, and nobody says `insecure`.
    """
    if not (settings.has_tls or insecure or is_loopback(listen)):
        what = (
            "whoever can read what travels has the tokens"
            if settings.tokens
            else "whoever reaches it may change everything"
        )
        message = (
            f"listen: {listen.rpartition(':')[0]} may be reached from other machines, and {what}: use TLS "
            "(--tls-cert, --tls-key), listen on 127.0.0.1, or say --insecure-beyond-loopback if the network keeps "
            "others away"
        )
        raise SecuritySettingsError(message)


def warn(settings: SecuritySettings, listen: str) -> None:
    """Says loudly what the settings leave open."""
    if settings.knows_callers:
        if settings.tokens and not settings.has_tls and not is_loopback(listen):
            _log.warning(
                "tokens_without_tls",
                listen=listen,
                meaning="tokens travel as they are: whoever can listen on the network has them",
                remedy="set tls_cert and tls_key",
            )
        return
    if not is_loopback(listen):
        _log.warning(
            "anybody_may_change_everything",
            listen=listen,
            meaning="whoever reaches this address may read and change everything"
            + (": TLS hides what is said, and asks nobody who he is" if settings.has_tls else ""),
            remedy="ask for tokens (--tokens) or for client certificates (--tls-client-ca)",
        )
