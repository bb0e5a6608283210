"""What a client sees of Atoll is what it sees of stock grpc.aio, serving the same servicer in another process.

Where the two differ on purpose, a test of its own says how and why.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.rpc.behaviours import SERVICE, handlers
from tests.rpc.conftest import LOOPS
from tests.rpc.support import HERE, ClientProcess, Metadata, Outcome

DIFFERENT = {
    "AbortWithOk": "an error that claims success hides a mistake",
    "AbortInATaskOfItsOwn": "",
    "BadReply": "INTERNAL, as doc/statuscodes.md wants it and the sync server does; grpc.aio says UNKNOWN",
    "BadRequest": "INTERNAL, as doc/statuscodes.md wants it and the sync server does; grpc.aio says UNKNOWN",
    "Compressed": "replies are not compressed yet, which a client must accept",
    "Never": "ends by its deadline only",
    "RaiseCancelledError": "grpc.aio never answers",
    "DefStopIteration": "grpc.aio never answers on Python 3.11",
}


class BehavioursServer:
    def __init__(self, kind: str, loop: str) -> None:
        command = [sys.executable, HERE / "behaviours.py", kind, loop]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.target = f"127.0.0.1:{self.process.stdout.readline().strip()}"

    def stop(self) -> str:
        _, log = self.process.communicate(timeout=20)
        return log


@pytest.fixture(scope="module")
def stock() -> Iterator[str]:
    server = BehavioursServer("aio", "asyncio")
    yield server.target
    server.stop()


@pytest.fixture(scope="module", params=list(LOOPS))
def ours(request: pytest.FixtureRequest) -> Iterator[str]:
    server = BehavioursServer("atoll", request.param)
    yield server.target
    log = server.stop()
    assert server.process.returncode == 0
    for sign in ("Task was destroyed", "never retrieved", "never awaited", "Warning", "handler internal"):
        assert sign not in log, log


def see(client: ClientProcess, target: str, method: str, request: bytes = b"?", *, metadata: Metadata = ()) -> Outcome:
    return client.start(target, f"/{SERVICE}/{method}", request, metadata=metadata).done.result(30)


@pytest.mark.parametrize("method", sorted(set(handlers()) - set(DIFFERENT)))
def test_a_client_sees_the_same_of_atoll_and_of_grpc_aio(client: ClientProcess, stock: str, ours: str, method: str) -> None:
    request = {"Large": b"1000", "TimeRemaining": b"20", "DefTimeRemaining": b"20"}.get(method, b"?")
    expected = see(client, stock, method, request)
    assert see(client, ours, method, request) == expected
