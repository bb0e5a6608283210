"""TLS for a server: certificates as PEM, replaceable while it serves, in functions of grpc's names and signatures.

grpc's own credential objects hide what they hold, whether a client certificate is required included, so these are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from atoll._core import CertificatesCore
from atoll.rpc._renewal import Renewal

# (private key, certificate chain), both PEM.
Pair = tuple[bytes, bytes]
_T = TypeVar("_T")


class ServerCertificates(CertificatesCore):
    """What a TLS port shows to its clients, and which client certificates it accepts. Any thread may use it.

    Args:
        private_key_certificate_chain_pairs: Pairs of a private key and its certificate chain, as PEM. Of several a
            client gets the first whose certificate has the name that it asked for (SNI), else the first.
        root_certificates: Who may vouch for clients, as PEM.
        require_client_auth: Whether a client must show a certificate of those roots. Without, none is asked for, as in
            grpc.

    Raises:
        CertificateError: When something can't be used, or doesn't belong together; the message says which.
    """

    def __new__(
        cls,
        private_key_certificate_chain_pairs: Sequence[Pair],
        root_certificates: bytes | None = None,
        require_client_auth: bool = False,  # noqa: FBT001, FBT002 - grpc's signature
    ) -> Self:
        """Parses and checks."""
        pairs, roots = _checked(private_key_certificate_chain_pairs, root_certificates)
        made = super().__new__(cls, pairs, roots, require_client_auth)
        made._renewal = None
        return made

    _renewal: Renewal | None

    def replace(
        self, private_key_certificate_chain_pairs: Sequence[Pair], root_certificates: bytes | None = None
    ) -> None:
        """Uses other certificates for handshakes from now on. Connections that are open stay as they are.

        Args:
            private_key_certificate_chain_pairs: As for the class.
            root_certificates: As for the class; None keeps the present ones.

        Raises:
            CertificateError: When something can't be used; then the present ones stay.
        """
        self._replace(*_checked(private_key_certificate_chain_pairs, root_certificates))

    def renew(self) -> bool:
        """Reads the files, or asks the fetcher, now instead of when the time has come; on any thread.

        Returns:
            Whether there was something new. False also for certificates that come from neither.

        Raises:
            CertificateError: When what is new can't be used; then the present ones stay.
            OSError: When a file can't be read.
        """
        return self._renewal is not None and self._renewal.renew(self)

    def _keep_renewing(self) -> None:
        """Called when a port begins to use them."""
        if self._renewal is not None:
            self._renewal.start(self)


@dataclass(frozen=True)
class ServerCredentials:
    """What `add_secure_port` takes.

    Attributes:
        certificates: The certificates, which may be replaced at any time.
    """

    certificates: ServerCertificates


@dataclass(frozen=True)
class ServerCertificateConfiguration:
    """Certificates that a fetcher returns; see `dynamic_ssl_server_credentials`.

    Attributes:
        private_key_certificate_chain_pairs: As for `ServerCertificates`.
        root_certificates: As for `ServerCertificates`; None keeps the present ones.
    """

    private_key_certificate_chain_pairs: Sequence[Pair] = field(repr=False)
    root_certificates: bytes | None = field(default=None, repr=False)


def ssl_server_credentials(
    private_key_certificate_chain_pairs: Sequence[Pair],
    root_certificates: bytes | None = None,
    require_client_auth: bool = False,  # noqa: FBT001, FBT002 - grpc's signature
) -> ServerCredentials:
    """Credentials of a TLS port: `grpc.ssl_server_credentials`. Its arguments are those of `ServerCertificates`.

    Raises:
        CertificateError: When something can't be used, or doesn't belong together; the message says which.
    """
    return ServerCredentials(
        ServerCertificates(private_key_certificate_chain_pairs, root_certificates, require_client_auth)
    )


def ssl_server_certificate_configuration(
    private_key_certificate_chain_pairs: Sequence[Pair], root_certificates: bytes | None = None
) -> ServerCertificateConfiguration:
    """Certificates for `dynamic_ssl_server_credentials`: `grpc.ssl_server_certificate_configuration`."""
    return ServerCertificateConfiguration(private_key_certificate_chain_pairs, root_certificates)


def dynamic_ssl_server_credentials(
    initial_certificate_configuration: ServerCertificateConfiguration,
    certificate_configuration_fetcher: Callable[[], ServerCertificateConfiguration | None],
    require_client_authentication: bool = False,  # noqa: FBT001, FBT002 - grpc's signature
    *,
    refresh: float = 60.0,
) -> ServerCredentials:
    """Credentials whose certificates a function renews: `grpc.dynamic_ssl_server_credentials`.

    Unlike grpc, which calls the function for every new connection, this asks it every `refresh` seconds, on the thread
    `atoll-certificates`: a handshake never waits for Python. `ServerCertificates.replace` renews them at once.

    Args:
        initial_certificate_configuration: What is used first.
        certificate_configuration_fetcher: Returns other certificates, or None when the present ones are right. What it
            raises is logged, and the present ones stay.
        require_client_authentication: Whether a client must show a certificate of the roots.
        refresh: Seconds between two questions.

    Raises:
        CertificateError: When something can't be used, or doesn't belong together; the message says which.
        ValueError: When `refresh` is not positive.
    """
    initial = _instance(initial_certificate_configuration, ServerCertificateConfiguration)

    def fetch() -> tuple[Sequence[Pair], bytes | None] | None:
        fetched = certificate_configuration_fetcher()
        if fetched is None:
            return None
        fetched = _instance(fetched, ServerCertificateConfiguration)
        return fetched.private_key_certificate_chain_pairs, fetched.root_certificates

    certificates = ServerCertificates(
        initial.private_key_certificate_chain_pairs, initial.root_certificates, require_client_authentication
    )
    certificates._renewal = Renewal(refresh, fetch)  # noqa: SLF001 - made here
    return ServerCredentials(certificates)


def ssl_server_credentials_from_files(
    private_key: str | Path,
    certificate_chain: str | Path,
    root_certificates: str | Path | None = None,
    *,
    require_client_auth: bool = False,
    refresh: float | None = 60.0,
) -> ServerCredentials:
    """Credentials from PEM files, which are read again every `refresh` seconds, on the thread `atoll-certificates`.

    Files that don't fit together, as while they are being replaced, are logged and read again the next time; the
    present certificates stay.

    Args:
        private_key: The file of the private key.
        certificate_chain: The file of its certificate chain.
        root_certificates: The file of those who may vouch for clients.
        require_client_auth: Whether a client must show a certificate of those roots.
        refresh: Seconds between two looks at the files; None for never.

    Raises:
        CertificateError: When something can't be used, or doesn't belong together; the message says which.
        OSError: When a file can't be read.
        ValueError: When `refresh` is not positive.
    """
    paths = [Path(path) for path in (private_key, certificate_chain, root_certificates) if path is not None]

    def read() -> tuple[bytes, ...]:
        return tuple(path.read_bytes() for path in paths)

    known = read()
    certificates = ServerCertificates([(known[0], known[1])], known[2] if known[2:] else None, require_client_auth)

    def fetch() -> tuple[Sequence[Pair], bytes | None] | None:
        found = read()
        if found == known:
            return None
        return [(found[0], found[1])], found[2] if found[2:] else None

    def used(pairs: Sequence[Pair], roots: bytes | None) -> None:
        # Only now: files that don't fit together are read again.
        nonlocal known
        known = (*pairs[0], *(() if roots is None else (roots,)))

    if refresh is not None:
        certificates._renewal = Renewal(refresh, fetch, used)  # noqa: SLF001 - made here
    return ServerCredentials(certificates)


def certificates_of(credentials: object) -> ServerCertificates:
    """What a port is secured with.

    Raises:
        TypeError: When they are not ours; the message shows the right call.
    """
    certificates = _instance(credentials, ServerCredentials).certificates
    certificates._keep_renewing()  # noqa: SLF001 - from now on they are in use
    return certificates


_RIGHT_CALLS = {
    ServerCredentials: "ssl_server_credentials",
    ServerCertificateConfiguration: "ssl_server_certificate_configuration",
}


def _instance(given: object, class_: type[_T]) -> _T:
    if isinstance(given, class_):
        return given
    right = _RIGHT_CALLS[class_]
    if type(given).__module__.partition(".")[0] == "grpc":
        raise TypeError(
            f"{given!r} is grpc's, which hides what it holds: write rpc.{right}(...) instead of grpc.{right}(...), "
            "with the same arguments"
        )
    raise TypeError(f"{given!r} is no rpc.{class_.__name__}: make one with rpc.{right}(...)")


def _checked(pairs: Sequence[Pair], roots: bytes | None) -> tuple[list[Pair], bytes | None]:
    """The arguments, whose types many get wrong.

    Raises:
        TypeError: When they are not bytes, or no pairs.
    """
    checked: list[Pair] = []
    given: Any
    for given in pairs:
        # One pair instead of a list of pairs is the usual mistake.
        if isinstance(given, (bytes, str)) or len(given) != len(("key", "chain")):
            raise TypeError(
                "the certificates are a list of pairs: write [(private_key, certificate_chain)], also for a single one"
            )
        key, chain = given
        checked.append((_bytes("private key", key), _bytes("certificate chain", chain)))
    return checked, None if roots is None else _bytes("root certificates", roots)


def _bytes(what: str, given: object) -> bytes:
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    raise TypeError(
        f"the {what} is a {type(given).__name__}: pass the contents of a PEM file as bytes, such as "
        "Path(...).read_bytes()"
    )
