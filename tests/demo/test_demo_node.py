"""A node of the demo: what it does when the server answers well, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc, node_pb2, node_pb2_grpc
from atoll_control.demo.facts import host_facts
from atoll_control.demo.node import DemoNode, Report
from atoll_control.server.kv_manager import KvManager
from atoll_control.server.node_manager import NodeManager, NodeSettings
from atoll_control.testing import ManualLoop

# grpcio serves and calls in one process; nothing of Atoll but the modules is involved.
pytestmark = pytest.mark.whole_grpcio
PATIENCE = 10.0


class ForgetfulKv(KvManager):
    """Answers with a value that nobody wrote last."""

    async def Get(self, request: kv_pb2.GetRequest, context: Any) -> kv_pb2.GetResponse:
        await super().Get(request, context)
        return kv_pb2.GetResponse(value=b"something else", revision=1)


class DeafKv(KvManager):
    """Stores what it is told, and fails to say so."""

    async def Put(self, request: kv_pb2.PutRequest, context: Any) -> kv_pb2.PutResponse:
        await super().Put(request, context)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "lost on the way")
        raise AssertionError


class ForgetfulNodes(NodeManager):
    """Forgets every node after its first heartbeat, once."""

    forgot = False

    async def Heartbeat(self, request: node_pb2.HeartbeatRequest, context: Any) -> node_pb2.HeartbeatResponse:
        if not self.forgot:
            self.forgot = True
            self._nodes.clear()
            self._sorted_ids.clear()
        return await super().Heartbeat(request, context)


def live(
    until: Callable[[Report], bool],
    *,
    nodes: type[NodeManager] = NodeManager,
    kv: type[KvManager] = KvManager,
) -> tuple[Report, NodeManager]:
    """Lets one node live with a server of stock grpcio until the report says so."""
    report = Report()
    loop = ManualLoop()
    settings = NodeSettings(heartbeat_interval=0.02, node_deadline=60)
    manager = nodes(settings, server_id="s", wall_clock=loop.wall, io_context=loop)

    async def run() -> None:
        server = grpc.aio.server()
        node_pb2_grpc.add_NodeServiceServicer_to_server(manager, server)
        kv_pb2_grpc.add_KvServiceServicer_to_server(kv(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        leave = asyncio.Event()
        node = DemoNode("n", f"127.0.0.1:{port}", host_facts(), phase=0.0, report=report)
        life = asyncio.create_task(node.run(leave))
        end = time.monotonic() + PATIENCE
        while not until(report) and time.monotonic() < end:  # noqa: ASYNC110 - lists grow, nobody tells
            await asyncio.sleep(0.01)
        leave.set()
        await life
        await server.stop(None)

    asyncio.run(run())
    assert until(report)
    return report, manager


def test_a_node_registers_beats_writes_reads_and_leaves_without_a_trace() -> None:
    report, manager = live(lambda report: len(report.heartbeats) >= 3 and len(report.kv) >= 6)
    assert (report.registered, report.registered_again, report.wrong_reads, report.errors) == (1, 0, 0, [])
    assert all(failure == "" and latency > 0 for _, latency, failure in report.heartbeats + report.kv)
    assert manager.count_by_state() == {"LEFT": 1}


def test_a_node_that_reads_what_it_did_not_write_says_so() -> None:
    report, _ = live(lambda report: report.wrong_reads >= 2, kv=ForgetfulKv)
    assert "n read b'something else', which it had not written last" in report.errors


def test_a_write_whose_confirmation_was_lost_may_be_read() -> None:
    report, _ = live(lambda report: len(report.kv) >= 6, kv=DeafKv)
    assert report.wrong_reads == 0
    assert {failure for _, _, failure in report.kv} == {"", "UNAVAILABLE"}
    assert "n: UNAVAILABLE: lost on the way" in report.errors


def test_a_node_that_the_server_does_not_know_any_more_registers_again_and_counts_it() -> None:
    report, manager = live(lambda report: len(report.heartbeats) >= 3, nodes=ForgetfulNodes)
    assert (report.registered, report.registered_again) == (1, 1)
    assert [failure for _, _, failure in report.heartbeats[:3]] == ["NOT_FOUND", "", ""]
    assert manager.count_by_state() == {"LEFT": 1}
