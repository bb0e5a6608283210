"""Makes the certificates that the tests of TLS use, as PEM files in a folder: `make_certificates.py FOLDER`."""

import datetime as dt
import ipaddress
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def name(common: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Atoll's tests")]
    if common is not None:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common))
    return x509.Name(attributes)


class Authority:
    """A certificate authority."""

    def __init__(self, folder: Path, common: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = name(common)
        builder = x509.CertificateBuilder(self._name, self._name, self._key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + 30 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        (folder / f"{common}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        file: str,
        *names: x509.GeneralName,
        common: str | None = None,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        expired: bool = False,
    ) -> None:
        """Writes FILE.key and FILE.pem."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateBuilder(self._name, name(common), key.public_key(), x509.random_serial_number())
        end = NOW - DAY if expired else NOW + 30 * DAY
        builder = builder.not_valid_before(NOW - 2 * DAY).not_valid_after(end)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        (self._folder / f"{file}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self._folder / f"{file}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def main(folder: Path) -> None:
    local = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    authority = Authority(folder, "authority")
    authority.issue("server", *local, common="server")
    authority.issue("renewed", *local, common="renewed")
    authority.issue("rsa", *local, key=rsa.generate_private_key(65537, 2048))
    authority.issue("expired-server", *local, expired=True)
    authority.issue("other-name", x509.DNSName("other.example"))
    authority.issue(
        "client",
        x509.DNSName("node-7.example"),
        x509.UniformResourceIdentifier("spiffe://example.org/node/7"),
        x509.RFC822Name("node-7@example.org"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::7")),
        common="node-7",
    )
    authority.issue("client-without-names", common="node-8")
    authority.issue("expired-client", common="node-9", expired=True)
    stranger = Authority(folder, "stranger")
    stranger.issue("strange-server", *local)
    stranger.issue("strange-client", common="node-7")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
