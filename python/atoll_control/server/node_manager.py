"""`NodeManager`: who belongs to the cluster, and who is alive.

Owns the table of nodes, in memory. Only its own loop enters it, so it has no locks, and no method here awaits between
reading and changing a node.

The detector in short. Each heartbeat moves its node's deadline. A sweep marks the nodes whose deadline has passed as
dead, with the reason, once and for all: a node that was marked dead by mistake comes back under a higher incarnation.
The sweep is posted to the same mailbox as the heartbeats. When it runs late by L, because the loop was busy or stuck,
heartbeats may be waiting just as long behind it, so it first extends every deadline by L: a server that is slow itself
must not declare its nodes dead.
"""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVarTuple

import grpc
import grpc.aio
import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from atoll import IoContext
from atoll_control.api.v1 import node_pb2, node_pb2_grpc
from atoll_control.server import validation
from atoll_control.server.validation import first_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = structlog.get_logger("atoll_control.node_manager")

Ts = TypeVarTuple("Ts")

# Below this many seconds a deadline's extension is the jitter of timers, not worth a word.
_NOTEWORTHY_EXTENSION: Final = 0.05


class Loop(Protocol):
    """The part of an `IoContext` that the module uses; `atoll_control.testing.ManualLoop` is another."""

    def now(self) -> float:
        """Seconds by a clock that never goes back."""
        ...

    def post(
        self, handler: Callable[[*Ts], object], /, *args: *Ts, name: str | None = None, delay: float = 0.0
    ) -> None:
        """Runs `handler(*args)` on the loop after `delay` seconds."""
        ...


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """How nodes are watched. All times in seconds.

    Attributes:
        heartbeat_interval: how often nodes are told to send a heartbeat.
        node_deadline: without a heartbeat for this long a node is dead; at least twice the interval, so that one lost
            heartbeat kills nobody.
        sweep_interval: how often deadlines are checked, and so how late a death may be noticed.
        forget_after: how long nodes that died or left stay listed.
        max_nodes: how many nodes are kept, listed dead ones included.
    """

    heartbeat_interval: float = 1.0
    node_deadline: float = 5.0
    sweep_interval: float = 0.25
    forget_after: float = 3600.0
    max_nodes: int = 100_000

    def __post_init__(self) -> None:
        for name in ("heartbeat_interval", "node_deadline", "sweep_interval", "forget_after"):
            if not 0 < getattr(self, name) < float("inf"):
                message = f"{name}: must be a positive number of seconds, got {getattr(self, name):g}"
                raise ValueError(message)
        if self.node_deadline < 2 * self.heartbeat_interval:
            message = (
                f"node_deadline: must be at least twice the heartbeat interval ({self.heartbeat_interval:g} s), or one "
                f"late heartbeat kills a node; got {self.node_deadline:g} s"
            )
            raise ValueError(message)
        if self.max_nodes < 1:
            message = f"max_nodes: must be at least 1, got {self.max_nodes}"
            raise ValueError(message)


@dataclass(slots=True)
class _Node:
    """What is known of one node. Times are monotonic, except those called wall."""

    node_id: str
    incarnation: int
    address: str
    host: node_pb2.Host
    labels: dict[str, str]
    registered_wall: float
    state_since_wall: float
    state_since: float
    last_heartbeat: float
    deadline: float
    extended: float = 0.0
    state: node_pb2.NodeState.ValueType = field(default=node_pb2.NODE_STATE_ALIVE)
    state_reason: str = ""

    @property
    def alive(self) -> bool:
        return self.state == node_pb2.NODE_STATE_ALIVE


class NodeManager(node_pb2_grpc.NodeServiceServicer):
    """The module behind `NodeService`. See this file's first lines for its rules."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        server_id: str,
        wall_clock: Callable[[], float],
        io_context: Loop | None = None,
    ) -> None:
        """Makes an empty cluster.

        Args:
            settings: how nodes are watched.
            server_id: names this run of the server to the nodes.
            wall_clock: seconds since 1970, for people to read.
            io_context: where time and timers come from; the loop that this is called on when None.
        """
        self._settings = settings
        self._server_id = server_id
        self._wall_clock = wall_clock
        self._io_context: Loop = io_context or IoContext.current()
        self._sweep_due: float | None = None
        self._nodes: dict[str, _Node] = {}
        self._sorted_ids: list[str] = []

    # -- life cycle ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts to watch deadlines."""
        self._schedule_sweep()

    async def stop(self) -> None:
        """Stops watching. Nobody dies afterwards."""
        self._sweep_due = None

    def _schedule_sweep(self) -> None:
        interval = self._settings.sweep_interval
        self._sweep_due = self._io_context.now() + interval
        self._io_context.post(self._on_sweep_timer, name="NodeManager.sweep", delay=interval)

    def _on_sweep_timer(self) -> None:
        if self._sweep_due is not None:
            self.sweep(late=max(0.0, self._io_context.now() - self._sweep_due))
            self._schedule_sweep()

    def sweep(self, *, late: float = 0.0) -> None:
        """Marks nodes whose deadline has passed as dead, and forgets those that died or left long ago.

        Args:
            late: by how many seconds this sweep runs late. Heartbeats may have waited as long: all deadlines move.
        """
        now = self._io_context.now()
        forgotten: list[str] = []
        for node in self._nodes.values():
            if node.alive:
                node.deadline += late
                node.extended += late
                if now > node.deadline:
                    self._mark_dead(node, now)
            elif now - node.state_since > self._settings.forget_after:
                forgotten.append(node.node_id)
        for node_id in forgotten:
            del self._nodes[node_id]
            del self._sorted_ids[bisect.bisect_left(self._sorted_ids, node_id)]

    def _mark_dead(self, node: _Node, now: float) -> None:
        reason = f"no heartbeat for {now - node.last_heartbeat:.2f} s (deadline {self._settings.node_deadline:g} s"
        if node.extended >= _NOTEWORTHY_EXTENSION:
            reason += f", extended by {node.extended:.2f} s because the server itself was late"
        self._end(node, node_pb2.NODE_STATE_DEAD, reason + ")")
        _log.warning("node_dead", node_id=node.node_id, incarnation=node.incarnation, reason=node.state_reason)

    def _end(self, node: _Node, state: node_pb2.NodeState.ValueType, reason: str) -> None:
        node.state = state
        node.state_reason = reason
        node.state_since = self._io_context.now()
        node.state_since_wall = self._wall_clock()

    def _beat(self, node: _Node) -> None:
        node.last_heartbeat = self._io_context.now()
        node.deadline = node.last_heartbeat + self._settings.node_deadline
        node.extended = 0.0

    # -- for other modules ---------------------------------------------------------------------------------------------

    def count_by_state(self) -> dict[str, int]:
        """How many nodes are in each state, by the state's name without its prefix: `{"ALIVE": 200}`."""
        counts = Counter(node.state for node in self._nodes.values())
        return {node_pb2.NodeState.Name(state).removeprefix("NODE_STATE_"): count for state, count in counts.items()}

    # -- NodeService ---------------------------------------------------------------------------------------------------

    async def Register(
        self,
        request: node_pb2.RegisterRequest,
        context: grpc.aio.ServicerContext[node_pb2.RegisterRequest, node_pb2.RegisterResponse],
    ) -> node_pb2.RegisterResponse:
        """Makes a node a member, or renews its membership."""
        if (problem := _register_problem(request)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        node = self._nodes.get(request.node_id)
        if node is None:
            if len(self._nodes) >= self._settings.max_nodes:
                limit = (
                    f"the server keeps at most {self._settings.max_nodes:,} nodes, including those that died or left"
                )
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, limit)
            bisect.insort(self._sorted_ids, request.node_id)
            self._add(request)
        elif request.incarnation > node.incarnation:
            self._add(request, replaced=node)
        elif request.incarnation < node.incarnation:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, _stale(node, request.incarnation))
        elif not node.alive:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, _ended(node))
        elif request.address != node.address:
            clash = (
                f"node {node.node_id!r}, incarnation {node.incarnation}, is alive at {node.address!r}; two processes "
                "must not share an id and an incarnation"
            )
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, clash)
        else:
            node.host.CopyFrom(request.host)
            node.labels = dict(request.labels)
            self._beat(node)
        return node_pb2.RegisterResponse(
            heartbeat_interval=_duration(self._settings.heartbeat_interval),
            node_deadline=_duration(self._settings.node_deadline),
            server_id=self._server_id,
        )

    def _add(self, request: node_pb2.RegisterRequest, *, replaced: _Node | None = None) -> None:
        now, wall = self._io_context.now(), self._wall_clock()
        host = node_pb2.Host()
        host.CopyFrom(request.host)
        self._nodes[request.node_id] = _Node(
            node_id=request.node_id,
            incarnation=request.incarnation,
            address=request.address,
            host=host,
            labels=dict(request.labels),
            registered_wall=wall,
            state_since_wall=wall,
            state_since=now,
            last_heartbeat=now,
            deadline=now + self._settings.node_deadline,
        )
        before = {} if replaced is None else {"replaced_incarnation": replaced.incarnation, "was": _state(replaced)}
        _log.info(
            "node_registered",
            node_id=request.node_id,
            incarnation=request.incarnation,
            address=request.address,
            host=host.name,
            cpus=host.cpus,
            memory_bytes=host.memory_bytes,
            **before,
        )

    async def Unregister(
        self,
        request: node_pb2.UnregisterRequest,
        context: grpc.aio.ServicerContext[node_pb2.UnregisterRequest, node_pb2.UnregisterResponse],
    ) -> node_pb2.UnregisterResponse:
        """Takes a node's goodbye."""
        problem = first_problem(
            validation.node_id_problem(request.node_id),
            validation.incarnation_problem(request.incarnation),
            validation.text_problem("reason", request.reason, validation.MAX_REASON_BYTES),
        )
        if problem is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        node = self._nodes.get(request.node_id)
        if node is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, _unknown(request.node_id))
        if request.incarnation != node.incarnation:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, _stale(node, request.incarnation))
        if node.alive:
            self._end(node, node_pb2.NODE_STATE_LEFT, request.reason or "unregistered")
            _log.info("node_left", node_id=node.node_id, incarnation=node.incarnation, reason=node.state_reason)
        return node_pb2.UnregisterResponse(node=self._describe(node))

    async def Heartbeat(
        self,
        request: node_pb2.HeartbeatRequest,
        context: grpc.aio.ServicerContext[node_pb2.HeartbeatRequest, node_pb2.HeartbeatResponse],
    ) -> node_pb2.HeartbeatResponse:
        """Moves a node's deadline."""
        node = self._nodes.get(request.node_id)
        if node is None or request.incarnation != node.incarnation or not node.alive:
            await self._refuse_heartbeat(request, node, context)
        else:
            self._beat(node)
        return node_pb2.HeartbeatResponse(
            heartbeat_interval=_duration(self._settings.heartbeat_interval),
            server_id=self._server_id,
        )

    async def _refuse_heartbeat(
        self,
        request: node_pb2.HeartbeatRequest,
        node: _Node | None,
        context: grpc.aio.ServicerContext[node_pb2.HeartbeatRequest, node_pb2.HeartbeatResponse],
    ) -> None:
        problem = first_problem(
            validation.node_id_problem(request.node_id),
            validation.incarnation_problem(request.incarnation),
        )
        if problem is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        if node is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, _unknown(request.node_id))
        if request.incarnation != node.incarnation:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, _stale(node, request.incarnation))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, _ended(node))

    async def ListNodes(
        self,
        request: node_pb2.ListNodesRequest,
        context: grpc.aio.ServicerContext[node_pb2.ListNodesRequest, node_pb2.ListNodesResponse],
    ) -> node_pb2.ListNodesResponse:
        """Lists nodes, a page at a time."""
        if (problem := validation.limit_problem(request.limit)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        limit = request.limit or validation.DEFAULT_PAGE
        states = frozenset(request.states)
        found: list[node_pb2.Node] = []
        size = 0
        for position in range(bisect.bisect_right(self._sorted_ids, request.start_after), len(self._sorted_ids)):
            node = self._nodes[self._sorted_ids[position]]
            if states and node.state not in states:
                continue
            if len(found) == limit or size >= validation.MAX_PAGE_BYTES:
                return node_pb2.ListNodesResponse(nodes=found, more=True)
            found.append(self._describe(node))
            size += found[-1].ByteSize()
        return node_pb2.ListNodesResponse(nodes=found)

    def _describe(self, node: _Node) -> node_pb2.Node:
        return node_pb2.Node(
            node_id=node.node_id,
            incarnation=node.incarnation,
            address=node.address,
            host=node.host,
            labels=node.labels,
            state=node.state,
            state_reason=node.state_reason,
            state_since=_timestamp(node.state_since_wall),
            registered_at=_timestamp(node.registered_wall),
            since_heartbeat=_duration(self._io_context.now() - node.last_heartbeat),
        )


def _register_problem(request: node_pb2.RegisterRequest) -> str | None:
    host: Sequence[tuple[str, str]] = (
        ("host.name", request.host.name),
        ("host.os", request.host.os),
        ("host.architecture", request.host.architecture),
    )
    return first_problem(
        validation.node_id_problem(request.node_id),
        validation.incarnation_problem(request.incarnation),
        validation.address_problem(request.address),
        *(validation.text_problem(name, value, validation.MAX_HOST_TEXT_BYTES) for name, value in host),
        validation.labels_problem(request.labels),
    )


def _state(node: _Node) -> str:
    return node_pb2.NodeState.Name(node.state).removeprefix("NODE_STATE_")


def _unknown(node_id: str) -> str:
    return f"node {node_id!r} is not known here (the server may have restarted): register again"


def _ended(node: _Node) -> str:
    return (
        f"node {node.node_id!r}, incarnation {node.incarnation}, is {_state(node)}: {node.state_reason}; this is "
        "final, register again with a higher incarnation"
    )


def _stale(node: _Node, incarnation: int) -> str:
    if incarnation > node.incarnation:
        return (
            f"node {node.node_id!r} is registered with incarnation {node.incarnation}, not yet with {incarnation}: "
            "register again with that one first"
        )
    return (
        f"incarnation {incarnation} of node {node.node_id!r} is stale: {node.incarnation} has registered since; "
        "register again with a higher one, or stop if another process has taken this node's place"
    )


def _duration(seconds: float) -> Duration:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)


def _timestamp(seconds: float) -> Timestamp:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return Timestamp(seconds=whole, nanos=nanos)
