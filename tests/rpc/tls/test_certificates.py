"""What certificates and keys are refused, with which words, and when."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from tests.rpc.tls.support import Pem

from atoll import rpc
from atoll.errors import AtollError, CertificateError

NOT_PEM = b"no PEM at all"


@pytest.mark.parametrize(
    ("key", "chain", "message"),
    [
        (NOT_PEM, "server.pem", r"the private key of pair 0: there is none; pass PEM"),
        ("server.key", NOT_PEM, r"the certificate chain of pair 0: there is none; pass PEM"),
        ("server.key", "client.pem", r"the private key of pair 0 is not that of its first certificate"),
        ("server.pem", "server.key", r"private key of pair 0: it is a certificate; each pair is \(private key, cert"),
        ("server.key", "server.key", r"certificate chain of pair 0: it is a private key; each pair is \(private key"),
        (
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "server.pem",
            "openssl",
        ),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n", "server.pem", "pair 0: missing section end marker"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "server.pem", "private key of pair 0: "),
        ("server.key", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "chain of pair 0: "),
        ("server.key", b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "chain of pair 0: base64"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(key: bytes | str, chain: bytes | str, message: str, pem: Pem) -> None:
    pair: Any = tuple(pem.read(part) if isinstance(part, str) else part for part in (key, chain))
    with pytest.raises(CertificateError, match=message) as raised:
        rpc.ssl_server_credentials([pair])
    assert isinstance(raised.value, ValueError), "which is what grpc raises"
    assert isinstance(raised.value, AtollError)
    with pytest.raises(CertificateError, match=message.replace("pair 0", "pair 1")):
        rpc.ssl_server_credentials([pem.pair("server"), pair])


def test_client_certificates_cannot_be_required_without_roots(pem: Pem) -> None:
    with pytest.raises(CertificateError, match="no root certificates to check them by: pass root_certificates"):
        rpc.ssl_server_credentials([pem.pair("server")], require_client_auth=True)


@pytest.mark.parametrize("roots", [b"", NOT_PEM, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_roots_that_are_none_are_refused(roots: bytes, pem: Pem) -> None:
    with pytest.raises(CertificateError, match="the root certificates: "):
        rpc.ssl_server_credentials([pem.pair("server")], roots, require_client_auth=True)


def test_no_pair_at_all_is_refused() -> None:
    with pytest.raises(CertificateError, match="pass at least one pair"):
        rpc.ssl_server_credentials([])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda pem: pem.pair("server"), r"write \[\(private_key, certificate_chain\)\]"),
        (lambda pem: [(str(pem.path("server.key")), str(pem.path("server.pem")))], "contents of a PEM file as bytes"),
        (lambda pem: [(pem.path("server.key"), pem.read("server.pem"))], "the private key is a PosixPath"),
        (lambda pem: [(pem.read("server.key"),)], "list of pairs"),
    ],
)
def test_what_is_no_list_of_pairs_of_bytes_is_told_what_it_should_be(
    wrong: Callable[[Pem], Any], message: str, pem: Pem
) -> None:
    with pytest.raises(TypeError, match=message):
        rpc.ssl_server_credentials(wrong(pem))
    with pytest.raises(TypeError, match=message):
        rpc.ServerCertificates([pem.pair("server")]).replace(wrong(pem))


def test_keys_in_the_older_formats_are_read(pem: Pem) -> None:
    for name, format_ in (("rsa", "rsa"), ("server", "ec")):
        command = ["openssl", format_, "-in", str(pem.path(f"{name}.key")), "-traditional"]
        if format_ == "ec":
            command.pop()
        converted = subprocess.run(command, capture_output=True, check=True).stdout
        assert b"BEGIN RSA PRIVATE KEY" in converted or b"BEGIN EC PRIVATE KEY" in converted
        rpc.ssl_server_credentials([(converted, pem.read(f"{name}.pem"))])


def test_neither_credentials_nor_configurations_show_the_key(pem: Pem) -> None:
    key, _ = pem.pair("server")
    shown = repr(rpc.ssl_server_credentials([pem.pair("server")]))
    shown += repr(rpc.ssl_server_certificate_configuration([pem.pair("server")]))
    assert "PRIVATE" not in shown
    assert key.decode().splitlines()[1] not in shown


def test_credentials_are_frozen(pem: Pem) -> None:
    credentials = rpc.ssl_server_credentials([pem.pair("server")])
    with pytest.raises(AttributeError):
        credentials.certificates = credentials.certificates  # type: ignore[misc]
    assert credentials.certificates.require_client_auth is False
