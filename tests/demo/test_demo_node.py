"""A node of the demo: what it does when the server answers well, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from atoll import IoContext, ModuleRef, rpc
from atoll.store import Store
from atoll_control.api.v1 import health_pb2, health_pb2_grpc, kv_pb2, kv_pb2_grpc, node_pb2_grpc
from atoll_control.demo.facts import host_facts
from atoll_control.demo.node import DemoNode, Report
from atoll_control.server.detector import DetectorSettings
from atoll_control.server.health_monitor import HealthMonitor
from atoll_control.server.kv_manager import KvManager
from atoll_control.server.lease_manager import LeaseManager
from atoll_control.server.node_manager import NodeManager, NodeSettings
from atoll_control.server.tables import TABLES

# Server and client live in one process, on one loop.
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


class ForgetfulHealth(HealthMonitor):
    """Knows no node when the first heartbeat comes."""

    forgot = False

    async def Heartbeat(self, request: health_pb2.HeartbeatRequest, context: Any) -> health_pb2.HeartbeatResponse:
        if not self.forgot:
            self.forgot = True
            await context.abort(grpc.StatusCode.NOT_FOUND, "who is this?")
        return await super().Heartbeat(request, context)


def live(
    until: Callable[[Report], bool],
    *,
    health: type[HealthMonitor] = HealthMonitor,
    kv: type[KvManager] = KvManager,
) -> tuple[Report, dict[str, int]]:
    """Lets one node live with a server on this loop until the report says so. Returns the nodes' states in the end."""
    report = Report()
    settings = DetectorSettings.scaled(heartbeat_interval=0.05, dead_after=60)

    async def run() -> dict[str, int]:
        store = Store.in_memory(TABLES)
        manager = NodeManager(NodeSettings(), store, server_id="s", wall_clock=time.time)
        await manager.start()
        monitor = health(settings, store, ModuleRef(IoContext.current(), manager), server_id="s")
        await monitor.start()
        leases = LeaseManager(store)
        await leases.start()
        server = rpc.server()
        node_pb2_grpc.add_NodeServiceServicer_to_server(manager, server)
        health_pb2_grpc.add_HealthServiceServicer_to_server(monitor, server)
        kv_pb2_grpc.add_KvServiceServicer_to_server(kv(store, leases), server)
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
        await leases.stop()
        await monitor.stop()
        await manager.stop()
        await store.close()
        return manager.count_by_state()

    states = asyncio.run(run())
    assert until(report)
    return report, states


def test_a_node_registers_beats_writes_reads_and_leaves_without_a_trace() -> None:
    report, states = live(lambda report: len(report.heartbeats) >= 3 and len(report.kv) >= 6)
    assert (report.registered, report.registered_again, report.wrong_reads, report.errors) == (1, 0, 0, [])
    assert all(failure == "" and latency > 0 for _, latency, failure in report.heartbeats + report.kv)
    assert states == {"LEFT": 1}


def test_a_node_that_reads_what_it_did_not_write_says_so() -> None:
    report, _ = live(lambda report: report.wrong_reads >= 2, kv=ForgetfulKv)
    assert "n read b'something else', which it had not written last" in report.errors


def test_a_write_whose_confirmation_was_lost_may_be_read() -> None:
    report, _ = live(lambda report: len(report.kv) >= 6, kv=DeafKv)
    assert report.wrong_reads == 0
    assert {failure for _, _, failure in report.kv} == {"", "UNAVAILABLE"}
    assert "n: UNAVAILABLE: lost on the way" in report.errors


def test_a_node_that_the_server_does_not_know_any_more_registers_again_and_counts_it() -> None:
    report, states = live(lambda report: len(report.heartbeats) >= 3, health=ForgetfulHealth)
    assert (report.registered, report.registered_again) == (1, 1)
    assert [failure for _, _, failure in report.heartbeats[:3]] == ["NOT_FOUND", "", ""]
    assert states == {"LEFT": 1}
