"""`Cluster`: a NodeManager and a HealthMonitor on loops whose time the test moves, over a store in memory."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

from atoll import IoContext, ModuleRef
from atoll.store import Store
from atoll.testing import FakeConnection, FakeServicerContext, ManualClock
from atoll_control.api.v1 import health_pb2, node_pb2
from atoll_control.server.detector import DetectorSettings
from atoll_control.server.health_monitor import HealthMonitor
from atoll_control.server.node_manager import NodeManager, NodeSettings
from atoll_control.server.tables import TABLES
from atoll_control.testing import answer, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

ALIVE, DEAD, LEFT = node_pb2.NODE_STATE_ALIVE, node_pb2.NODE_STATE_DEAD, node_pb2.NODE_STATE_LEFT
REPLACED = node_pb2.NODE_STATE_REPLACED
# Real seconds until what a test waits for has to be the case.
PATIENCE = 30.0
WALL = 1_700_000_000
STEP = 0.25


class FlakyStore:
    """A store whose commits fail when the test says so; otherwise a real one in memory."""

    def __init__(self) -> None:
        self.real = Store.in_memory(TABLES)
        # What commits raise, and whether they are done all the same.
        self.failure: Exception | None = None
        self.commits_nevertheless = False
        self.attempts = 0
        # Commits wait for this while it is there.
        self.gate: asyncio.Event | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def commit(self, batch: Any) -> Any:
        self.attempts += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is None:
            return await self.real.commit(batch)
        if self.commits_nevertheless:
            await self.real.commit(batch)
        raise self.failure


class Cluster:
    """The two modules, each on a loop of its own, and a clock."""

    def __init__(
        self,
        *,
        nodes: NodeSettings | None = None,
        detector: DetectorSettings | None = None,
        store: Any = None,
    ) -> None:
        self.clock = ManualClock()
        self.store = store or Store.in_memory(TABLES)
        self.node_loop = IoContext("node_manager", clock=self.clock)
        self.health_loop = IoContext("health", clock=self.clock)
        self.connections: dict[str, FakeConnection] = {}
        self.stopped = False

        async def make_nodes() -> NodeManager:
            manager = NodeManager(
                nodes or NodeSettings(), self.store, server_id="server-1", wall_clock=lambda: WALL + self.clock.now()
            )
            await manager.start()
            return manager

        self.nodes = self.run(self.node_loop, make_nodes)

        async def make_health() -> HealthMonitor:
            reference = ModuleRef(self.node_loop, self.nodes)
            monitor = HealthMonitor(detector or DetectorSettings(), self.store, reference, server_id="server-1")
            await monitor.start()
            return monitor

        self.health = self.run(self.health_loop, make_health)

    def close(self) -> None:
        """Stops the modules, and closes the store."""
        self.stop()
        self.store.close_blocking()

    def stop(self) -> None:
        """Stops the modules and their loops, and leaves the store open."""
        if not self.stopped:
            self.stopped = True
            self.run(self.health_loop, self.health.stop)
            self.run(self.node_loop, self.nodes.stop)
            self.health_loop.close()
            self.node_loop.close()

    # -- time ----------------------------------------------------------------------------------------------------------

    def run(self, io_context: IoContext, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine function on a loop, to its end; time stands still."""
        future = io_context.submit(function)
        self.wait_for(future.done)
        result: T = future.result()
        return result

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Has everything run that is ready until the condition holds; time stands still."""
        give_up = time.monotonic() + PATIENCE
        while True:
            self.clock.settle()
            if condition():
                return
            assert time.monotonic() < give_up, "it has not come to pass"
            time.sleep(0.0005)  # the store's thread works in real time

    def advance(self, seconds: float, *, recorded: bool = True) -> None:
        """Lets time pass; unless told otherwise, what is found out on the way is recorded before it goes on."""
        end = self.clock.now() + seconds
        while (left := end - self.clock.now()) > 1e-9:
            self.clock.advance(min(STEP, left))
            if recorded:
                self.wait_for(lambda: self.health._reporter.unrecorded == 0)

    def stall(self, seconds: float) -> None:
        """Lets time pass in which the health loop is stuck."""
        clock = self.clock

        def be_stuck() -> None:
            clock.timers._advance_to(clock.now() + seconds)

        self.health_loop.post(be_stuck)
        clock.settle()

    # -- calls ---------------------------------------------------------------------------------------------------------

    def connection_of(self, node_id: str) -> FakeConnection:
        return self.connections.setdefault(node_id, FakeConnection(f"ipv4:10.0.0.1:{len(self.connections) + 1}"))

    def call(self, method: Any, request: Any, *, node_id: str = "", arrived_at: float | None = None) -> Any:
        """What a handler answers."""
        return self._call(answer, method, request, node_id, arrived_at)

    def refused(self, method: Any, request: Any, *, node_id: str = "") -> tuple[str, str]:
        """What a handler refuses with: the name of the status, and the message."""
        outcome = self._call(refusal, method, request, node_id, None)
        return outcome.code.name, outcome.details

    def _call(
        self,
        how: Callable[..., Awaitable[T]],
        method: Any,
        request: Any,
        node_id: str,
        arrived_at: float | None,
    ) -> T:
        loop = self.health_loop if isinstance(method.__self__, HealthMonitor) else self.node_loop

        async def run() -> T:
            context = FakeServicerContext(connection=self.connection_of(node_id), arrival_time=arrived_at)
            return await how(method, request, context)

        return self.run(loop, run)

    def register(self, node_id: str = "a", incarnation: int = 1, **fields: Any) -> node_pb2.RegisterResponse:
        request = node_pb2.RegisterRequest(node_id=node_id, incarnation=incarnation, **fields)
        response: node_pb2.RegisterResponse = self.call(self.nodes.Register, request, node_id=node_id)
        return response

    def refused_registration(self, node_id: str = "a", incarnation: int = 1, **fields: Any) -> tuple[str, str]:
        request = node_pb2.RegisterRequest(node_id=node_id, incarnation=incarnation, **fields)
        return self.refused(self.nodes.Register, request, node_id=node_id)

    def heartbeat(
        self, node_id: str = "a", incarnation: int = 1, *, arrived_at: float | None = None
    ) -> health_pb2.HeartbeatResponse:
        request = health_pb2.HeartbeatRequest(node_id=node_id, incarnation=incarnation)
        response: health_pb2.HeartbeatResponse = self.call(
            self.health.Heartbeat, request, node_id=node_id, arrived_at=arrived_at
        )
        return response

    def refused_heartbeat(self, node_id: str = "a", incarnation: int = 1) -> tuple[str, str]:
        request = health_pb2.HeartbeatRequest(node_id=node_id, incarnation=incarnation)
        return self.refused(self.health.Heartbeat, request, node_id=node_id)

    def unregister(self, node_id: str = "a", incarnation: int = 1, reason: str = "") -> node_pb2.Node:
        request = node_pb2.UnregisterRequest(node_id=node_id, incarnation=incarnation, reason=reason)
        node: node_pb2.Node = self.call(self.nodes.Unregister, request).node
        return node

    def list_nodes(self, **fields: Any) -> node_pb2.ListNodesResponse:
        response: node_pb2.ListNodesResponse = self.call(self.nodes.ListNodes, node_pb2.ListNodesRequest(**fields))
        return response

    def list_endings(self, **fields: Any) -> node_pb2.ListEndingsResponse:
        request = node_pb2.ListEndingsRequest(**fields)
        response: node_pb2.ListEndingsResponse = self.call(self.nodes.ListEndings, request)
        return response

    def node(self, node_id: str = "a") -> node_pb2.Node:
        node: node_pb2.Node = self.call(self.nodes.GetNode, node_pb2.GetNodeRequest(node_id=node_id)).node
        return node

    def explain(self, node_id: str = "a") -> health_pb2.ExplainResponse:
        request = health_pb2.ExplainRequest(node_id=node_id)
        response: health_pb2.ExplainResponse = self.call(self.health.Explain, request)
        return response

    def detector(self) -> health_pb2.Detector:
        detector: health_pb2.Detector = self.call(self.health.GetDetector, health_pb2.GetDetectorRequest()).detector
        return detector

    def die(self, node_id: str = "a") -> None:
        """Has an operator declare a node dead."""
        request = health_pb2.DeclareDeadRequest(node_id=node_id, reason="the rack burns")
        self.call(self.health.DeclareDead, request)
