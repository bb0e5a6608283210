"""`HealthMonitor`: heartbeats, probes and verdicts. Drives the `FailureDetector`, which has the rules.

Owns nothing durable. Only its own loop enters it. Heartbeats count from when the transport got them; the sweep is
posted by a timer to the mailbox in which they wait, so that those which came before it are handed over before it.

What it finds out (suspect, alive again, dead) is recorded by `NodeManager`, and handed over again until it is. Members
are what the table `nodes` says: `NodeManager` tells of each change, and every `LOOK_INTERVAL` all records are compared,
so that a change which could not be told is noticed as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
import structlog

from atoll import IoContext, ModuleRef
from atoll.errors import (
    AtollError,
    ConnectionClosedError,
    LoopClosedError,
    MailboxFull,
    PingTimeoutError,
    StoreError,
)
from atoll_control.api.times import duration
from atoll_control.api.v1 import health_pb2, health_pb2_grpc
from atoll_control.server import node_records as records
from atoll_control.server.calls import RefusedError, actor_of, answer, arrival_of, check, connection_of
from atoll_control.server.detector import (
    BrakeOff,
    BrakeOn,
    Died,
    FailureDetector,
    Heard,
    Phase,
    Probe,
    Refuted,
    Suspected,
    WouldHaveDied,
)
from atoll_control.server.health_answers import detector_message, ended_message, explanation_message
from atoll_control.server.node_manager import NodeManager, Rhythm
from atoll_control.server.node_records import ALIVE, DEAD
from atoll_control.server.tables import NODES
from atoll_control.server.verdict_reporter import Finding, VerdictReporter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atoll import rpc
    from atoll.store import Store
    from atoll_control.api.v1 import node_pb2
    from atoll_control.server.detector import Action, DetectorSettings, DetectorStats

# Seconds between two comparisons with all records.
LOOK_INTERVAL: Final = 10.0
# All connections are looked at in every so many sweeps.
_SWEEPS_PER_LOOK_AT_CONNECTIONS: Final = 4
_ROWS_AT_A_TIME: Final = 500

_log = structlog.get_logger("atoll_control.health")


@dataclass(frozen=True, slots=True)
class HealthStatistics:
    """What there is and was.

    Attributes:
        detector: in numbers.
        unrecorded: suspicions and verdicts that are not in the store yet.
    """

    detector: DetectorStats
    unrecorded: int


class HealthMonitor(health_pb2_grpc.HealthServiceServicer):
    """The module behind `HealthService`. See this file's first lines for its rules."""

    def __init__(
        self, settings: DetectorSettings, store: Store, nodes: ModuleRef[NodeManager], *, server_id: str
    ) -> None:
        """Takes what it works with.

        Args:
            settings: how nodes are watched.
            store: whose table `nodes` says who is a member; only read here.
            nodes: records what is found out.
            server_id: names this run of the server to the nodes.
        """
        self._settings = settings
        self._store = store
        self._nodes = nodes
        self._server_id = server_id
        self._io_context = IoContext.current()
        self._detector = FailureDetector(settings, self._io_context.now())
        self._reporter = VerdictReporter(self._record)
        self._connections: dict[str, rpc.Connection] = {}
        # The records that have been looked at, by their revisions.
        self._seen: dict[str, int] = {}
        self._probes: set[asyncio.Task[None]] = set()
        self._due = 0.0
        self._sweeps = 0
        self._stopped = False

    # -- life cycle ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begins to watch the nodes that are alive. None of them dies before one `dead_after` is over."""
        await self._nodes.call(NodeManager.attach, Link(ModuleRef(self._io_context, self)))
        await self._look_at_all(starts=True)
        # The grace begins now that everything has been loaded.
        self._schedule_sweep()
        self._schedule_look()

    async def stop(self) -> None:
        """Stops watching. Nobody dies afterwards."""
        self._stopped = True
        for task in self._probes:
            task.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await self._reporter.stop()

    def statistics(self) -> HealthStatistics:
        """What there is and was."""
        return HealthStatistics(self._detector.stats(), self._reporter.unrecorded)

    # -- who is a member -----------------------------------------------------------------------------------------------

    def _schedule_look(self) -> None:
        self._io_context.post(self._look_regularly, name="HealthMonitor.look", delay=LOOK_INTERVAL)

    async def _look_regularly(self) -> None:
        if self._stopped:
            return
        try:
            await self._look_at_all()
        except StoreError as error:
            _log.warning("nodes_not_read", error=str(error), remedy="it is tried again")
        self._schedule_look()

    async def _look_at_all(self, *, starts: bool = False) -> None:
        found = set()
        with self._store.snapshot() as snapshot:
            start = b""
            while True:
                page = snapshot.scan(NODES, start, None, _ROWS_AT_A_TIME)
                for row in page.rows:
                    node_id = row.key.decode()
                    found.add(node_id)
                    if self._seen.get(node_id, 0) < row.revision:
                        self._saw(node_id, records.node_of(row), starts=starts)
                if not page.more:
                    break
                start = page.rows[-1].key + b"\0"
                await asyncio.sleep(0)
        for node_id in [node_id for node_id in self._seen if node_id not in found]:
            # It may have come back since the snapshot.
            self.look(node_id)

    def look(self, node_id: str) -> None:
        """Takes note of a node's record, which has changed."""
        row = self._store.get(NODES, node_id.encode())
        if row is None:
            self._seen.pop(node_id, None)
            self._forget(node_id)
        elif self._seen.get(node_id, 0) < row.revision:
            self._saw(node_id, records.node_of(row))

    def _saw(self, node_id: str, node: node_pb2.Node, *, starts: bool = False) -> None:
        self._seen[node_id] = node.revision
        now = self._io_context.now()
        watched = self._detector.incarnation_of(node_id)
        if node.state == ALIVE:
            if watched != node.incarnation:
                self._connections.pop(node_id, None)
                self._detector.register(node_id, node.incarnation, now)
            if starts and records.suspicion(node):
                reason = "the server has started, and watches all nodes anew"
                self._reporter.report(Finding(node_id, node.incarnation, Phase.ALIVE.value, reason))
        elif node.state == DEAD and watched == node.incarnation:
            self._connections.pop(node_id, None)
            self._detector.died_elsewhere(node_id, node.incarnation, node.state_reason, now)
        elif watched is not None:
            self._forget(node_id)

    def _forget(self, node_id: str) -> None:
        self._connections.pop(node_id, None)
        self._detector.forget(node_id, self._io_context.now())

    # -- for NodeManager, through `Link` -------------------------------------------------------------------------------

    def registered(self, node_id: str, incarnation: int, connection: rpc.Connection, arrived_at: float) -> Rhythm:
        """An incarnation has registered, or has registered again, which counts as a heartbeat."""
        self.look(node_id)
        if self._detector.heartbeat(node_id, incarnation, arrived_at) is Heard.ACCEPTED:
            self._came_on(node_id, incarnation, connection)
        return Rhythm(self._detector.first_interval_for(node_id), self._detector.thresholds.dead_after)

    def is_live(self, node_id: str, incarnation: int) -> bool:
        """Whether there is no doubt that an incarnation lives: it is not suspect, and its connection is open."""
        explanation = self._detector.explain(node_id, self._io_context.now())
        if explanation is None or explanation.incarnation != incarnation or explanation.phase is not Phase.ALIVE:
            return False
        connection = self._connections.get(node_id)
        return connection is None or not connection.closed

    # -- connections ---------------------------------------------------------------------------------------------------

    def _came_on(self, node_id: str, incarnation: int, connection: rpc.Connection) -> None:
        """A call of a node came on this connection: its others, if it has any, do not count from now on."""
        known = self._connections.get(node_id)
        if known is connection or known == connection:
            return
        if known is not None:
            self._detector.connection_closed(node_id, incarnation, self._io_context.now(), by_peer=False)
        self._connections[node_id] = connection
        self._detector.connection_opened(node_id, incarnation)

    def _look_at_connections(self, now: float) -> None:
        closed = [node_id for node_id, connection in self._connections.items() if connection.closed]
        for node_id in closed:
            self._connection_has_closed(node_id, now)

    def _connection_has_closed(self, node_id: str, now: float) -> None:
        """The server pings no connection by itself in less than two hours, so it was the node's side that closed it."""
        self._connections.pop(node_id, None)
        incarnation = self._detector.incarnation_of(node_id)
        if incarnation is not None:
            self._detector.connection_closed(node_id, incarnation, now, by_peer=True)

    # -- sweeps --------------------------------------------------------------------------------------------------------

    def _schedule_sweep(self) -> None:
        interval = self._settings.sweep_interval
        self._due = self._io_context.now() + interval
        self._io_context.post(self._sweep, name="HealthMonitor.sweep", delay=interval)

    def _sweep(self) -> None:
        if self._stopped:
            return
        now = self._io_context.now()
        self._sweeps += 1
        if self._sweeps % _SWEEPS_PER_LOOK_AT_CONNECTIONS == 0:
            self._look_at_connections(now)
        try:
            self._carry_out(self._detector.sweep(now, self._due))
        finally:
            self._schedule_sweep()

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Probe():
                    self._send_probe(action)
                case Suspected():
                    _log.debug("node_suspect", **_fields(action))
                    self._report(action, Phase.SUSPECT)
                case Refuted():
                    _log.debug("node_alive_again", **_fields(action))
                    self._report(action, Phase.ALIVE)
                case Died():
                    self._connections.pop(action.node, None)
                    self._report(action, Phase.DEAD)
                case WouldHaveDied(verdict):
                    _log.warning("node_would_have_died", **_fields(verdict), cause=verdict.cause.value)
                case BrakeOn():
                    _log.error("verdicts_frozen", by=action.by or "brake", reason=action.reason)
                case BrakeOff():
                    _log.warning(
                        "verdicts_resumed",
                        by=action.by or "brake",
                        reason=action.reason,
                        still_frozen=action.still_frozen,
                    )

    def _report(self, action: Suspected | Refuted | Died, phase: Phase) -> None:
        self._reporter.report(Finding(action.node, action.incarnation, phase.value, action.reason))

    async def _record(self, finding: Finding) -> None:
        node_id, incarnation, reason = finding.node_id, finding.incarnation, finding.reason
        if finding.phase == Phase.DEAD.value:
            await self._nodes.call(NodeManager.record_death, node_id, incarnation, reason)
        else:
            suspect = finding.phase == Phase.SUSPECT.value
            await self._nodes.call(NodeManager.record_suspicion, node_id, incarnation, reason, suspect=suspect)

    # -- probes --------------------------------------------------------------------------------------------------------

    def _send_probe(self, probe: Probe) -> None:
        connection = self._connections.get(probe.node)
        if connection is None:
            now = self._io_context.now()
            self._detector.probe_result(probe.node, probe.incarnation, ok=False, now=now, error="no connection")
            return
        task = asyncio.get_running_loop().create_task(self._probe(probe, connection))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self, probe: Probe, connection: rpc.Connection) -> None:
        round_trip: float | None = None
        error = ""
        try:
            round_trip = await connection.ping(probe.timeout)
        except PingTimeoutError:
            error = f"no answer within {probe.timeout:.2f} s"
        except ConnectionClosedError:
            error = "the connection is closed"
            if self._connections.get(probe.node) == connection:
                self._connection_has_closed(probe.node, self._io_context.now())
        except AtollError as failure:
            error = str(failure)
        self._detector.probe_result(
            probe.node,
            probe.incarnation,
            ok=round_trip is not None,
            now=self._io_context.now(),
            round_trip=round_trip,
            error=error,
        )

    # -- HealthService -------------------------------------------------------------------------------------------------

    async def Heartbeat(
        self,
        request: health_pb2.HeartbeatRequest,
        context: grpc.aio.ServicerContext[health_pb2.HeartbeatRequest, health_pb2.HeartbeatResponse],
    ) -> health_pb2.HeartbeatResponse:
        """Takes a node's heartbeat."""
        node_id, incarnation = request.node_id, request.incarnation
        # What breaks the request's rules is the id of no node that is watched: rules are looked at only then.
        heard = self._detector.heartbeat(node_id, incarnation, arrival_of(context))
        if heard is not Heard.ACCEPTED:
            await check(request, context)
            await answer(self._hear_unwatched(request, arrival_of(context)), context)
        self._came_on(node_id, incarnation, connection_of(context))
        return health_pb2.HeartbeatResponse(
            heartbeat_interval=duration(self._detector.interval_for(node_id)),
            server_id=self._server_id,
            epoch=self._store.epoch,
        )

    async def _hear_unwatched(self, request: health_pb2.HeartbeatRequest, arrived_at: float) -> None:
        """A heartbeat that the detector does not take: the record may say more than it has been told of."""
        node_id, incarnation = request.node_id, request.incarnation
        self.look(node_id)
        if self._detector.heartbeat(node_id, incarnation, arrived_at) is Heard.ACCEPTED:
            return
        node = self._read(node_id)
        if node.incarnation != incarnation:
            raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, records.other_incarnation(node, incarnation))
        if node.state == ALIVE:
            # Its death is about to be recorded.
            explanation = self._detector.explain(node_id, self._io_context.now())
            if explanation is not None and explanation.death is not None:
                node.state, node.state_reason = DEAD, explanation.death.reason
        raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, records.has_ended(node))

    def _read(self, node_id: str) -> node_pb2.Node:
        row = self._store.get(NODES, node_id.encode())
        if row is None:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, records.unknown(node_id))
        return records.node_of(row)

    async def Explain(
        self,
        request: health_pb2.ExplainRequest,
        context: grpc.aio.ServicerContext[health_pb2.ExplainRequest, health_pb2.ExplainResponse],
    ) -> health_pb2.ExplainResponse:
        """Tells all that a node's verdict depends on."""
        await check(request, context)
        return await answer(self._explain(request.node_id), context)

    async def _explain(self, node_id: str) -> health_pb2.ExplainResponse:
        now = self._io_context.now()
        explanation = self._detector.explain(node_id, now)
        if explanation is None:
            return ended_message(self._read(node_id), self._detector, now)
        return explanation_message(explanation, self._detector, self._connections.get(node_id), now)

    async def GetDetector(
        self,
        request: health_pb2.GetDetectorRequest,
        context: grpc.aio.ServicerContext[health_pb2.GetDetectorRequest, health_pb2.GetDetectorResponse],
    ) -> health_pb2.GetDetectorResponse:
        """Tells how the detector is."""
        await check(request, context)
        return health_pb2.GetDetectorResponse(detector=self._describe())

    def _describe(self) -> health_pb2.Detector:
        return detector_message(self._detector, self._io_context.now())

    async def Freeze(
        self,
        request: health_pb2.FreezeRequest,
        context: grpc.aio.ServicerContext[health_pb2.FreezeRequest, health_pb2.FreezeResponse],
    ) -> health_pb2.FreezeResponse:
        """Stops all verdicts."""
        await check(request, context)
        by = actor_of(context)
        self._carry_out([self._detector.freeze(by, request.reason, self._io_context.now())])
        return health_pb2.FreezeResponse(detector=self._describe())

    async def Resume(
        self,
        request: health_pb2.ResumeRequest,
        context: grpc.aio.ServicerContext[health_pb2.ResumeRequest, health_pb2.ResumeResponse],
    ) -> health_pb2.ResumeResponse:
        """Lets verdicts be passed again."""
        await check(request, context)
        by = actor_of(context)
        self._carry_out(self._detector.resume(by, self._io_context.now()))
        return health_pb2.ResumeResponse(detector=self._describe())

    async def DeclareDead(
        self,
        request: health_pb2.DeclareDeadRequest,
        context: grpc.aio.ServicerContext[health_pb2.DeclareDeadRequest, health_pb2.DeclareDeadResponse],
    ) -> health_pb2.DeclareDeadResponse:
        """Takes an operator's verdict."""
        await check(request, context)
        return await answer(self._declare_dead(request, actor_of(context)), context)

    async def _declare_dead(self, request: health_pb2.DeclareDeadRequest, by: str) -> health_pb2.DeclareDeadResponse:
        node = self._read(request.node_id)
        # Whichever is registered now: another that comes meanwhile is not meant.
        incarnation = request.incarnation or node.incarnation
        # Recorded first: an operator whose verdict can't be recorded is told so, and nothing has changed.
        try:
            dead = await self._nodes.call(NodeManager.declare_dead, node.node_id, incarnation, by, request.reason)
        except MailboxFull as full:
            message = f"the verdict is not recorded, for the server has fallen behind: {full}; try again later"
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, message) from full
        except LoopClosedError as closed:
            message = f"the verdict may not have been recorded, for the server stops: {closed}; look at the node"
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, message, nothing_done=False) from closed
        # It is recorded, whether this server may still read it or not.
        with contextlib.suppress(StoreError):
            self.look(node.node_id)
        return health_pb2.DeclareDeadResponse(time=dead.state_since)


class Link:
    """How `NodeManager` reaches `HealthMonitor`: its `Liveness`."""

    def __init__(self, health: ModuleRef[HealthMonitor]) -> None:
        """Takes the reference."""
        self._health = health

    async def registered(self, node_id: str, incarnation: int, connection: rpc.Connection, arrived_at: float) -> Rhythm:
        """Has an incarnation watched."""
        try:
            return await self._health.call(HealthMonitor.registered, node_id, incarnation, connection, arrived_at)
        except AtollError as error:
            message = (
                f"the node is registered, but the failure detector did not take note of it yet: {error}; try again"
            )
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, message, nothing_done=False) from error

    async def is_live(self, node_id: str, incarnation: int) -> bool:
        """Asks whether an incarnation lives."""
        try:
            return await self._health.call(HealthMonitor.is_live, node_id, incarnation)
        except AtollError as error:
            message = f"it is not known whether node {node_id!r} lives: {error}; try again"
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, message) from error

    def changed(self, node_id: str) -> None:
        """Has a record looked at. What does not get through is seen when all records are looked at."""
        try:
            self._health.post(HealthMonitor.look, node_id)
        except AtollError as error:
            _log.warning("change_not_told", node_id=node_id, error=str(error))


def _fields(action: Suspected | Refuted | Died) -> dict[str, Any]:
    return {"node_id": action.node, "incarnation": action.incarnation, "reason": action.reason}
