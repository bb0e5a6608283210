"""What the tests of TLS share."""

import contextlib
import itertools
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rpc.support import TIMEOUT, add_methods, running

from atoll import rpc

_numbers = itertools.count()


@dataclass(frozen=True)
class Pem:
    """The PEM files that `make_certificates.py` has made."""

    folder: Path

    def path(self, file: str) -> Path:
        return self.folder / file

    def read(self, file: str) -> bytes:
        return self.path(file).read_bytes()

    def pair(self, name: str) -> tuple[bytes, bytes]:
        return self.read(f"{name}.key"), self.read(f"{name}.pem")

    def channel(self, *, authority: str = "authority", own: str | None = None) -> str:
        """The name of a new secure channel of the client's process."""
        names = (authority,) if own is None else (authority, own)
        return f"tls={','.join((str(self.folder), *names))}#{next(_numbers)}"

    def der(self, name: str) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.read(f"{name}.pem").decode())


def mutual(pem: Pem) -> rpc.ServerCredentials:
    """Credentials that ask for a certificate of the authority."""
    return rpc.ssl_server_credentials([pem.pair("server")], pem.read("authority.pem"), require_client_auth=True)


def handshakes(server: Any, outcome: str) -> int:
    """How many TLS handshakes ended in this way."""
    count: int = server.stats().tls_handshakes.get(outcome, 0)
    return count


@contextlib.asynccontextmanager
async def secured(
    credentials: rpc.ServerCredentials, server: Any = None, **methods: Any
) -> AsyncIterator[tuple[Any, str]]:
    """A server with a TLS port. Gives it and its address, by name."""
    server = server or rpc.server()
    add_methods(server, **(methods or {"Answer": answer}))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    async with running(server):
        yield server, f"localhost:{port}"


async def answer(_request: bytes, context: Any) -> bytes:
    peer: str = context.peer()
    return peer.encode()


def connect(target: str, context: ssl.SSLContext, name: str | None = "localhost") -> ssl.SSLSocket:
    """A TLS connection of Python's own, which raises where it ends without close_notify; blocks."""
    host, port = target.split(":")
    plain = socket.create_connection((host, int(port)), TIMEOUT)
    try:
        return context.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False)
    except BaseException:
        plain.close()
        raise


def client_context(*protocols: str) -> ssl.SSLContext:
    """Trusts everybody and offers these protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def shown_certificate(target: str, name: str | None = "localhost") -> bytes:
    """What the server shows to who asks for `name`, as DER; blocks."""
    with connect(target, client_context("h2"), name) as connection:
        certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate
