"""Certificates for the tests of TLS, made once, in a process of the interpreter that has what makes them."""

import importlib.util
import subprocess
from pathlib import Path

import pytest
from tests.interpreters import CLIENT_PYTHON

if importlib.util.find_spec("grpc") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.rpc.tls.support import Pem

    @pytest.fixture(scope="session")
    def pem(tmp_path_factory: pytest.TempPathFactory) -> Pem:
        folder = tmp_path_factory.mktemp("pem")
        subprocess.run([CLIENT_PYTHON, Path(__file__).parent / "make_certificates.py", folder], check=True)
        return Pem(folder)
