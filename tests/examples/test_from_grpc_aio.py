"""The example's claim: a service written for grpc.aio runs unchanged on Atoll's server, and one servicer moves."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.interpreters import CLIENT_PYTHON

pytest.importorskip("grpc_health", reason="its service is written for grpcio")
pytest.importorskip("grpc_reflection", reason="its service is written for grpcio")
EXAMPLE = Path(__file__).parents[2] / "examples" / "from_grpc_aio"
EXPECTED = """\
add 3
add 7
watch [0, 1, 2]
record 5
add INVALID_ARGUMENT only more
add UNAUTHENTICATED no token
health SERVING
services examples.counter.v1.Counter examples.counter.v1.Journal grpc.health.v1.Health \
grpc.reflection.v1alpha.ServerReflection
"""


@contextmanager
def serving(program: str) -> Iterator[str]:
    """Runs a program of the example; gives its port."""
    python = CLIENT_PYTHON if program == "with_grpc_aio.py" else sys.executable
    with subprocess.Popen([python, EXAMPLE / program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("program", "thread"),
    [("with_grpc_aio.py", "MainThread"), ("with_atoll.py", "MainThread"), ("with_a_loop.py", "journal")],
)
def test_its_client_sees_the_same_at_each_step(program: str, thread: str) -> None:
    with serving(program) as port:
        command = [CLIENT_PYTHON, str(EXAMPLE / "client.py"), port]
        seen = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert seen.stdout == EXPECTED + f"the journal ran on {thread}\n", seen.stderr


def test_the_service_knows_nothing_of_atoll() -> None:
    assert "import atoll" not in (EXAMPLE / "service.py").read_text()
    assert "from atoll" not in (EXAMPLE / "service.py").read_text()


def test_one_line_and_its_import_differ_between_the_servers() -> None:
    before, after = [
        [line for line in (EXAMPLE / name).read_text().splitlines()[1:] if line]
        for name in ("with_grpc_aio.py", "with_atoll.py")
    ]
    assert set(before) - set(after) == {
        "import grpc.aio",
        "    server = grpc.aio.server(interceptors=[service.TokenInterceptor()])",
    }
    assert set(after) - set(before) == {
        "from atoll import rpc",
        "    server = rpc.server(interceptors=[service.TokenInterceptor()])",
    }
