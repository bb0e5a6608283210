"""What the tests of the agent share: agents and servers in processes of their own, and what servers know of nodes."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import grpc
from tests.interpreters import SERVER_PYTHON

from atoll_control.api.v1 import node_pb2, node_pb2_grpc
from atoll_control.testing.server_process import LoggedProcess, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

DEADLINE = 60.0
ALIVE, DEAD, LEFT = node_pb2.NODE_STATE_ALIVE, node_pb2.NODE_STATE_DEAD, node_pb2.NODE_STATE_LEFT
TRUE, FALSE = node_pb2.CONDITION_STATUS_TRUE, node_pb2.CONDITION_STATUS_FALSE
UNKNOWN = node_pb2.CONDITION_STATUS_UNKNOWN
# Nodes are found dead after four seconds; on a loaded machine no healthy one is.
QUICK = ("--heartbeat-interval", "0.5", "--dead-after", "4")


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def server(address: str, *arguments: str) -> ServerProcess:
    """A server that serves."""
    return ServerProcess("--listen", address, *QUICK, *arguments, python=SERVER_PYTHON)


def agent(servers: str, state: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> LoggedProcess:
    return LoggedProcess(
        *("agent", "--server", servers, "--state-dir", str(state), "--log-format", "json", *arguments),
        environment=environment,
    )


def nodes(address: str) -> list[node_pb2.Node]:
    with grpc.insecure_channel(address) as channel:
        stub = node_pb2_grpc.NodeServiceStub(channel)
        return list(stub.ListNodes(node_pb2.ListNodesRequest(), timeout=DEADLINE, wait_for_ready=True).nodes)


def wait_for_node(address: str, condition: Callable[[node_pb2.Node], object]) -> node_pb2.Node:
    """The only node, once it is so."""
    give_up = time.monotonic() + DEADLINE
    while time.monotonic() < give_up:
        for node in (found := nodes(address)):
            if len(found) == 1 and condition(node):
                return node
        time.sleep(0.05)
    raise AssertionError(nodes(address))


def conditions(node: node_pb2.Node) -> dict[str, tuple[int, str]]:
    return {condition.name: (condition.status, condition.reason) for condition in node.conditions}
