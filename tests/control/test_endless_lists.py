"""A server that says that there is more, and sends nothing after which to go on, is an error and no endless loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.control.watching import TIMEOUT
from typer.testing import CliRunner

from atoll_control.api.v1 import kv_pb2, node_pb2, task_pb2, token_pb2, watch_pb2
from atoll_control.cli.commands import app
from atoll_control.client import AsyncClient, Client, ServerFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.server_process

ANSWERS: dict[str, Any] = {
    "Keys": kv_pb2.KeysResponse(more=True),
    "ListEndings": node_pb2.ListEndingsResponse(more=True),
    "ListJobs": task_pb2.ListJobsResponse(more=True),
    "ListLeases": kv_pb2.ListLeasesResponse(more=True),
    "ListNamespaces": kv_pb2.ListNamespacesResponse(more=True),
    "ListNodes": node_pb2.ListNodesResponse(more=True),
    # A page may be empty and have others behind it, but not the same one.
    "ListTasks": task_pb2.ListTasksResponse(next_page_token="again"),  # noqa: S106 - no password
    "ListTokens": token_pb2.ListTokensResponse(more=True),
    "ListTopics": watch_pb2.ListTopicsResponse(more=True),
    "MultiGet": kv_pb2.MultiGetResponse(),
    "Scan": kv_pb2.ScanResponse(more=True),
}


class Endless(grpc.GenericRpcHandler):
    """Gives the same answer again and again, and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        answer = ANSWERS[handler_call_details.method.rpartition("/")[2]].SerializeToString()

        def answered(_request: bytes, _context: grpc.ServicerContext) -> bytes:
            self.calls += 1
            return bytes(answer)

        return grpc.unary_unary_rpc_method_handler(answered)


@pytest.fixture
def endless() -> Iterator[tuple[Endless, str]]:
    handler = Endless()
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("method", "read"),
    [
        ("MultiGet", lambda client: client.kv.get_many(["a", "b"])),
        ("Keys", lambda client: list(client.kv.keys())),
        ("Scan", lambda client: list(client.kv.scan())),
        ("ListNamespaces", lambda client: list(client.kv.namespaces())),
        ("ListLeases", lambda client: list(client.leases.list())),
        ("ListNodes", lambda client: list(client.nodes.list())),
        ("ListEndings", lambda client: list(client.nodes.endings())),
        ("ListTopics", lambda client: list(client.topics.list())),
        ("ListTasks", lambda client: list(client.tasks.list())),
    ],
)
def test_the_client_says_so(endless: tuple[Endless, str], method: str, read: Callable[[Client], object]) -> None:
    server, address = endless
    message = f"^{method}: the server says that there is more and goes no further"
    with Client(address, timeout=TIMEOUT) as client, pytest.raises(ServerFailedError, match=message):
        read(client)
    assert server.calls == (2 if method == "ListTasks" else 1)


def test_the_client_for_asyncio_says_so(endless: tuple[Endless, str]) -> None:
    async def read() -> None:
        async with AsyncClient(endless[1], timeout=TIMEOUT) as client:
            await client.kv.get_many(["a"])

    with pytest.raises(ServerFailedError, match=r"^MultiGet: "):
        asyncio.run(read())


@pytest.mark.parametrize(
    "command", ["nodes list", "nodes endings", "kv list", "kv namespaces", "tasks list", "tasks jobs", "tokens list"]
)
def test_a_command_says_so_and_ends(endless: tuple[Endless, str], command: str) -> None:
    ended = CliRunner().invoke(app, [*command.split(), "--server", endless[1]])
    assert ended.exit_code == 1
    assert ended.stdout == ""
    assert ended.stderr == (
        "atollctl: the server says that there is more and goes no further: read its log, or replace it.\n"
    )
