"""A certificate for the servers' TLS ports, made for each run by ``openssl``: signed by itself, for the loopback."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from benchmarks.processes import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

KEY: Final = "server.key"
CHAIN: Final = "server.pem"


def generate(directory: Path) -> None:
    """Write a key on the curve P-256 and its certificate into ``directory``.

    Raises:
        UnavailableError: openssl is not installed.
        RuntimeError: it failed; the message ends with what it said.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise UnavailableError("openssl is missing: apt-get install openssl (macOS: brew install openssl)")
    command = [
        openssl, "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout", str(directory / KEY), "-out", str(directory / CHAIN),
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30.0)
    if finished.returncode != 0:
        raise RuntimeError(f"openssl could not make a certificate: {finished.stderr.strip()[-300:]}")


def read(directory: Path) -> tuple[bytes, bytes] | None:
    """Return key and certificate, or None where none were made."""
    key, chain = directory / KEY, directory / CHAIN
    return (key.read_bytes(), chain.read_bytes()) if key.exists() and chain.exists() else None
