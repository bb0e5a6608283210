"""`serve`: starts `atollctl serve` in processes of their own."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.interpreters import CLIENT_PYTHON, SERVER_PYTHON

from atoll_control.testing.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers, and ends them at the end."""
    with contextlib.ExitStack() as running:
        yield lambda *arguments: running.enter_context(ServerProcess(*arguments, python=SERVER_PYTHON))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates as PEM: those of the tests of TLS."""
    folder = tmp_path_factory.mktemp("pem")
    maker = Path(__file__).parents[1] / "rpc" / "tls" / "make_certificates.py"
    subprocess.run([CLIENT_PYTHON, maker, folder], check=True)
    return folder
