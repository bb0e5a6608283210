"""Asks servers as any client of the protos does, with grpcio: ``python -m benchmarks.control.asking``.

Lines on the standard input: ``list ADDRESS`` lists all nodes, page by page, and answers how many are alive and how long
it took; ``leads ADDRESS`` answers whether that server leads.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import grpc

from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc, node_pb2, node_pb2_grpc
from benchmarks.control.beating import say

_TIMEOUT: Final = 30.0
_LEADS_TIMEOUT: Final = 2.0
_PAGE: Final = 10_000


def list_nodes(address: str) -> dict[str, Any]:
    """Lists all nodes. The connection is made before the clock starts."""
    with grpc.insecure_channel(address) as channel:
        stub = node_pb2_grpc.NodeServiceStub(channel)
        stub.ListNodes(node_pb2.ListNodesRequest(limit=1), timeout=_TIMEOUT, wait_for_ready=True)
        alive = others = 0
        started = time.perf_counter()
        after, more = "", True
        while more:
            answer = stub.ListNodes(node_pb2.ListNodesRequest(limit=_PAGE, start_after=after), timeout=_TIMEOUT)
            for node in answer.nodes:
                if node.state == node_pb2.NODE_STATE_ALIVE:
                    alive += 1
                else:
                    others += 1
            more = answer.more
            if more:
                after = answer.nodes[-1].node_id
        return {"alive": alive, "others": others, "seconds": time.perf_counter() - started}


def leads(address: str) -> bool:
    """Whether this server leads; one that can't be asked does not."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = admin_pb2_grpc.AdminServiceStub(channel).GetServer(
                admin_pb2.GetServerRequest(), timeout=_LEADS_TIMEOUT
            )
        except grpc.RpcError:
            return False
        return bool(answer.role == admin_pb2.SERVER_ROLE_LEADER)


def main() -> None:
    """Do as the lines on the standard input say, until it ends."""
    say(ready=True)
    for line in sys.stdin:
        match line.split():
            case ["list", address]:
                say(**list_nodes(address))
            case ["leads", address]:
                say(leads=leads(address))
            case _:
                say(error=f"unknown request: {line.strip()}")


if __name__ == "__main__":
    main()
