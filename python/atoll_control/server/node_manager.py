"""`NodeManager`: which nodes belong to the cluster, in which state, and why.

Owns the tables `nodes` and `endings` of the store: only it writes them. Only its own loop enters it, so it has no
locks. A change reads the node's record, and is committed on condition that the record is still the same; when it is
not, another call has changed it meanwhile, and the change is made again on what is there now. So no update is lost, and
each answer is of something durable. A change that was begun goes on when its caller has gone.

The end of an incarnation (it died, left, or was replaced) is one batch: its record, an entry of the history, and the
deletion of all that it owned.

Who is alive is `HealthMonitor`'s to judge. It is told of members through `Liveness`, and tells `record_death`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import grpc
import grpc.aio
import structlog

from atoll import IoContext
from atoll.errors import OutcomeUnknownError, StoreError
from atoll_control.api.times import duration
from atoll_control.api.v1 import node_pb2, node_pb2_grpc
from atoll_control.server import node_records as records
from atoll_control.server.calls import RefusedError, actor_of, answer, arrival_of, check, connection_of
from atoll_control.server.node_history import NodeHistory
from atoll_control.server.node_listeners import NodeListeners
from atoll_control.server.node_pages import endings_page, nodes_page
from atoll_control.server.node_records import ALIVE, DEAD, LEFT, REPLACED, SUSPECT
from atoll_control.server.owner_end import commit_end
from atoll_control.server.owners import node_owner
from atoll_control.server.tables import NODES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from atoll import rpc
    from atoll.store import Store, StoreBatch, StoreRow

    Edit = Callable[[node_pb2.Node | None], Awaitable[node_pb2.Node | None]]

T = TypeVar("T")

MAX_CONDITIONS: Final = 64
_MAX_PORT: Final = 65535
# Nodes are forgotten in rounds, at least this many per `forget_after`, and one in this many seconds.
_ROUNDS: Final = 10
_LONGEST_ROUND: Final = 60.0

_log = structlog.get_logger("atoll_control.node_manager")


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """What is kept of nodes.

    Attributes:
        forget_after: seconds for which nodes that died or left stay listed, counted anew when the server starts.
        max_nodes: how many nodes are kept, listed dead ones included.
        max_endings: how many endings the history has; of those beyond it, the oldest go with each new one.
    """

    forget_after: float = 3600.0
    max_nodes: int = 100_000
    max_endings: int = 10_000

    def __post_init__(self) -> None:
        if not 0 < self.forget_after < float("inf"):
            message = f"forget_after: must be a positive number of seconds, got {self.forget_after:g}"
            raise ValueError(message)
        for name in ("max_nodes", "max_endings"):
            if getattr(self, name) < 1:
                message = f"{name}: must be at least 1, got {getattr(self, name)}"
                raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What a node that registers is told. In seconds.

    Attributes:
        interval: after which to send the first heartbeat.
        deadline: without a sign of life for this long it is dead.
    """

    interval: float
    deadline: float


class Liveness(Protocol):
    """What `NodeManager` needs of whoever judges who is alive. On the loop of `NodeManager`."""

    async def registered(self, node_id: str, incarnation: int, connection: rpc.Connection, arrived_at: float) -> Rhythm:
        """An incarnation is a member and has called: it is watched from now on."""
        ...

    async def is_live(self, node_id: str, incarnation: int) -> bool:
        """Whether there is no doubt that the incarnation lives: it has been heard of, and is connected."""
        ...

    def changed(self, node_id: str) -> None:
        """The record of a node has changed."""
        ...


class NodeManager(node_pb2_grpc.NodeServiceServicer):
    """The module behind `NodeService`. See this file's first lines for its rules."""

    def __init__(
        self, settings: NodeSettings, store: Store, *, server_id: str, wall_clock: Callable[[], float]
    ) -> None:
        """Takes what it works with.

        Args:
            settings: what is kept.
            store: with the tables `nodes` and `endings`.
            server_id: names this run of the server to the nodes.
            wall_clock: seconds since 1970, for people to read.
        """
        self.listeners = NodeListeners()
        self._settings = settings
        self._store = store
        self._server_id = server_id
        self._wall_clock = wall_clock
        self._io_context = IoContext.current()
        self._liveness: Liveness | None = None
        # The records as the listeners know them, and those of which it is not known whether a change was committed.
        self._told: dict[str, node_pb2.Node] = {}
        self._in_doubt: set[str] = set()
        self._counts: Counter[node_pb2.NodeState.ValueType] = Counter()
        # When which node that has ended is to be forgotten, the next one first.
        self._forget_at: dict[str, float] = {}
        self._history = NodeHistory(store, settings.max_endings)
        self._joining = 0
        self._changes: set[asyncio.Task[Any]] = set()
        self._stopped = False

    # -- life cycle ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Takes over what the store holds: nodes that were alive still are."""
        with self._store.snapshot() as snapshot:
            start = b""
            while True:
                page = snapshot.scan(NODES, start)
                for row in page.rows:
                    self._remember(records.node_of(row))
                if not page.more:
                    break
                start = page.rows[-1].key + b"\0"
                await asyncio.sleep(0)
        self._history.start()
        self._schedule_round()

    async def stop(self) -> None:
        """Waits for the changes that have begun."""
        self._stopped = True
        while self._changes:
            await asyncio.wait(self._changes)

    def _schedule_round(self) -> None:
        delay = min(self._settings.forget_after / _ROUNDS, _LONGEST_ROUND)
        self._io_context.post(self._round, name="NodeManager.round", delay=delay)

    async def _round(self) -> None:
        """Looks after what can't be done at once: nodes to forget, and changes of which the outcome is not known."""
        if self._stopped:
            return
        for node_id in tuple(self._in_doubt):
            self._in_doubt.discard(node_id)
            row = self._store.get(NODES, node_id.encode())
            self._tell(node_id, None if row is None else records.node_of(row))
        try:
            await self._forget_due()
        except StoreError as error:
            _log.warning("nodes_not_forgotten", error=str(error), remedy="it is tried again")
        self._schedule_round()

    async def _forget_due(self) -> None:
        now = self._io_context.now()
        due = []
        for node_id, at in self._forget_at.items():
            if at > now:
                break
            due.append(node_id)
        for node_id in due:
            key = node_id.encode()
            row = self._store.get(NODES, key)
            if row is None or records.node_of(row).state == ALIVE:
                continue
            if (await self._commit(key, row, methodcaller("delete", NODES, key))) is not None:
                self._tell(node_id, None)

    # -- for other modules ---------------------------------------------------------------------------------------------

    def attach(self, liveness: Liveness) -> None:
        """Says who judges who is alive. Until then, no node can register."""
        self._liveness = liveness

    def count_by_state(self) -> dict[str, int]:
        """How many nodes are in each state, by the state's name without its prefix: `{"ALIVE": 200}`."""
        return {
            node_pb2.NodeState.Name(state).removeprefix("NODE_STATE_"): count
            for state, count in self._counts.items()
            if count
        }

    async def record_death(self, node_id: str, incarnation: int, reason: str) -> node_pb2.Node | None:
        """Marks an incarnation dead, for good. May be repeated.

        Returns:
            The node as it is now, which is DEAD by this verdict or by another, LEFT, or has another incarnation; None
            when it is not known any more.

        Raises:
            StoreError: it could not be recorded, or it is not known whether it was.
        """

        async def edit(node: node_pb2.Node | None) -> node_pb2.Node | None:
            if node is None or node.incarnation != incarnation or node.state != ALIVE:
                return None
            return records.ended(node, DEAD, reason, self._wall_clock())

        return await self._whole(self._change(node_id, edit))

    async def declare_dead(self, node_id: str, incarnation: int, by: str, reason: str) -> node_pb2.Node:
        """Marks an incarnation that is alive dead, for good, because an operator says so; the log has who and why.

        Returns:
            The node, dead.

        Raises:
            RefusedError: the node is not known, has another incarnation, or is not alive.
            StoreError: it could not be recorded, or it is not known whether it was.
        """

        async def edit(node: node_pb2.Node | None) -> node_pb2.Node:
            node = _known(node, node_id)
            _check_incarnation(node, incarnation)
            if node.state != ALIVE:
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, records.has_ended(node))
            return records.ended(node, DEAD, f"declared dead by {by!r}: {reason}", self._wall_clock())

        async def declare() -> node_pb2.Node:
            node = _known(await self._change(node_id, edit), node_id)
            _log.warning("node_declared_dead", node_id=node_id, incarnation=incarnation, by=by, reason=reason)
            return node

        return await self._whole(declare())

    async def record_suspicion(self, node_id: str, incarnation: int, reason: str, *, suspect: bool) -> None:
        """Sets the condition `Suspect` of an incarnation that is alive.

        Raises:
            StoreError: it could not be recorded, or it is not known whether it was.
        """
        status = node_pb2.CONDITION_STATUS_TRUE if suspect else node_pb2.CONDITION_STATUS_FALSE
        condition = node_pb2.Condition(name=SUSPECT, status=status, reason=reason)

        async def edit(node: node_pb2.Node | None) -> node_pb2.Node | None:
            if node is None or node.incarnation != incarnation or node.state != ALIVE:
                return None
            return records.with_conditions(node, [condition], (), self._wall_clock())

        await self._whole(self._change(node_id, edit))

    # -- changes -------------------------------------------------------------------------------------------------------

    async def _whole(self, change: Coroutine[Any, Any, T]) -> T:
        """Carries a change out to its end, also when its caller gives up meanwhile."""
        # In a context of its own: the caller's deadline is not the change's.
        task = asyncio.create_task(change, context=contextvars.Context())
        self._changes.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            # Its caller may have gone; who has not gets it as well.
            task.exception()

    async def _change(self, node_id: str, edit: Edit) -> node_pb2.Node | None:
        """Commits what `edit` makes of a node's record, which it must not alter.

        `edit` is asked again when the record has changed meanwhile; None leaves it as it is.

        Returns:
            The record then.
        """
        key = node_id.encode()
        while True:
            row = self._store.get(NODES, key)
            before = None if row is None else records.node_of(row)
            after = await edit(before)
            if after is None or after == before:
                return before
            ending = records.ended_by(before, after, self._wall_clock())
            revision = await self._commit(key, row, partial(self._record, key, after, ending), ending)
            if revision is not None:
                after.revision = revision
                self._tell(node_id, after)
                return after

    def _record(self, key: bytes, after: node_pb2.Node, ending: node_pb2.Node | None, batch: StoreBatch) -> None:
        batch.put(NODES, key, records.value_of(after))
        if ending is not None:
            self._history.add(batch, ending)

    async def _commit(
        self,
        key: bytes,
        row: StoreRow | None,
        alter: Callable[[StoreBatch], object],
        ending: node_pb2.Node | None = None,
    ) -> int | None:
        """The revision of a batch with what `alter` adds, and with the end of `ending` if that is an incarnation.

        None when the record is not `row` any more; then nothing is changed.
        """

        def guarded() -> StoreBatch:
            return self._store.batch().check_revision(NODES, key, 0 if row is None else row.revision)

        owner = b"" if ending is None else node_owner(ending.node_id, ending.incarnation)
        try:
            committed, _ = await commit_end(self._store, owner, guarded, alter)
        except OutcomeUnknownError:
            self._in_doubt.add(key.decode())
            raise
        return committed.revision if committed.applied else None

    # -- what a change brings about ------------------------------------------------------------------------------------

    def _remember(self, node: node_pb2.Node) -> None:
        self._told[node.node_id] = node
        self._counts[node.state] += 1
        if node.state != ALIVE:
            self._forget_at[node.node_id] = self._io_context.now() + self._settings.forget_after

    def _tell(self, node_id: str, after: node_pb2.Node | None) -> None:
        """Tells everybody that a record has changed. Against what was told last: no end is told twice or not at all."""
        before = self._told.get(node_id)
        if after is not None and before is not None and before.revision >= after.revision:
            return
        if before is not None:
            self._counts[before.state] -= 1
            del self._told[node_id]
            self._forget_at.pop(node_id, None)
        if after is not None:
            self._remember(after)
        if self._liveness is not None:
            self._liveness.changed(node_id)
        was_member = before is not None and before.state == ALIVE
        is_member = after is not None and after.state == ALIVE
        goes_on = before is not None and after is not None and before.incarnation == after.incarnation
        if before is not None and was_member and not (goes_on and is_member):
            self._tell_end(before, after)
        if after is not None and is_member and not (goes_on and was_member):
            self._tell_beginning(before, after)

    def _tell_beginning(self, before: node_pb2.Node | None, node: node_pb2.Node) -> None:
        replaced = (
            {} if before is None else {"replaced_incarnation": before.incarnation, "was": records.state_name(before)}
        )
        _log.info(
            "node_registered",
            node_id=node.node_id,
            incarnation=node.incarnation,
            address=node.address,
            host=node.host.name,
            cpus=node.host.cpus,
            memory_bytes=node.host.memory_bytes,
            **replaced,
        )
        self.listeners.added.tell(node)

    def _tell_end(self, before: node_pb2.Node, after: node_pb2.Node | None) -> None:
        if after is None or after.incarnation != before.incarnation:
            reason = "forgotten" if after is None else f"incarnation {after.incarnation} has registered"
            self.listeners.removed.tell(records.ended(before, REPLACED, reason, self._wall_clock()))
            return
        fields = {"node_id": after.node_id, "incarnation": after.incarnation, "reason": after.state_reason}
        if after.state == DEAD:
            _log.warning("node_dead", **fields)
            self.listeners.dead.tell(after)
        else:
            _log.info("node_left", **fields)
        self.listeners.removed.tell(after)

    # -- NodeService ---------------------------------------------------------------------------------------------------

    async def Register(
        self,
        request: node_pb2.RegisterRequest,
        context: grpc.aio.ServicerContext[node_pb2.RegisterRequest, node_pb2.RegisterResponse],
    ) -> node_pb2.RegisterResponse:
        """Makes a node a member, or renews its membership."""
        await check(request, context)
        if (problem := _address_problem(request.address) or _conditions_problem(request.conditions)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        change = self._register(request, connection_of(context), arrival_of(context))
        return await answer(self._whole(change), context)

    async def _register(
        self, request: node_pb2.RegisterRequest, connection: rpc.Connection, arrived_at: float
    ) -> node_pb2.RegisterResponse:
        liveness = self._liveness
        if liveness is None:
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, "the server is starting; try again")
        is_new = self._store.get(NODES, request.node_id.encode()) is None
        if is_new and self._store.count(NODES) + self._joining >= self._settings.max_nodes:
            raise RefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the server keeps at most {self._settings.max_nodes:,} nodes, including those that died or left",
            )

        async def edit(node: node_pb2.Node | None) -> node_pb2.Node | None:
            if node is not None:
                await self._check_place(request, node, liveness)
                if node.incarnation == request.incarnation:
                    return records.registered_again(request, node, self._wall_clock())
            return records.joined(request, node, self._wall_clock())

        self._joining += is_new
        try:
            node = await self._change(request.node_id, edit)
        finally:
            self._joining -= is_new
        rhythm = await liveness.registered(request.node_id, request.incarnation, connection, arrived_at)
        return node_pb2.RegisterResponse(
            heartbeat_interval=duration(rhythm.interval),
            node_deadline=duration(rhythm.deadline),
            server_id=self._server_id,
            epoch=self._store.epoch,
            node=node,
        )

    @staticmethod
    async def _check_place(request: node_pb2.RegisterRequest, node: node_pb2.Node, liveness: Liveness) -> None:
        """Refuses a registration in the place of a node that is there already."""
        if request.incarnation < node.incarnation:
            raise RefusedError(
                grpc.StatusCode.FAILED_PRECONDITION, records.other_incarnation(node, request.incarnation)
            )
        is_same = request.incarnation == node.incarnation
        if node.state != ALIVE:
            if is_same:
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, records.has_ended(node))
            return
        # A node without an address has none that could be another one.
        if not (request.address and node.address) or request.address == node.address:
            return
        if is_same or await liveness.is_live(node.node_id, node.incarnation):
            raise RefusedError(
                grpc.StatusCode.ALREADY_EXISTS,
                f"node {node.node_id!r}, incarnation {node.incarnation}, is alive at {node.address!r}, and registers "
                f"at {request.address!r} as incarnation {request.incarnation}: two processes must not share an id; "
                "give this one a state directory of its own, or wait until the other has left or died",
            )

    async def Unregister(
        self,
        request: node_pb2.UnregisterRequest,
        context: grpc.aio.ServicerContext[node_pb2.UnregisterRequest, node_pb2.UnregisterResponse],
    ) -> node_pb2.UnregisterResponse:
        """Takes a node's goodbye."""
        await check(request, context)

        async def edit(node: node_pb2.Node | None) -> node_pb2.Node | None:
            node = _known(node, request.node_id)
            _check_incarnation(node, request.incarnation)
            if node.state != ALIVE:
                return None
            return records.ended(node, LEFT, request.reason or "unregistered", self._wall_clock())

        node = await answer(self._whole(self._change(request.node_id, edit)), context)
        return node_pb2.UnregisterResponse(node=node)

    async def Drain(
        self,
        request: node_pb2.DrainRequest,
        context: grpc.aio.ServicerContext[node_pb2.DrainRequest, node_pb2.DrainResponse],
    ) -> node_pb2.DrainResponse:
        """Says whether a node should get new work."""
        await check(request, context)
        node = await answer(self._whole(self._drain(request, actor_of(context))), context)
        return node_pb2.DrainResponse(node=node)

    async def _drain(self, request: node_pb2.DrainRequest, by: str) -> node_pb2.Node | None:
        """Says it, and puts down who wanted it, whether he waits for it or not."""

        async def edit(node: node_pb2.Node | None) -> node_pb2.Node | None:
            node = _known(node, request.node_id)
            if node.state != ALIVE:
                raise RefusedError(
                    grpc.StatusCode.NOT_FOUND,
                    f"node {node.node_id!r} is not alive but {records.state_name(node)}: {node.state_reason}",
                )
            return records.drained(node, request.reason, draining=request.draining)

        node = await self._change(request.node_id, edit)
        event = "node_drained" if request.draining else "node_undrained"
        _log.info(event, node_id=request.node_id, by=by, reason=request.reason)
        return node

    async def SetConditions(
        self,
        request: node_pb2.SetConditionsRequest,
        context: grpc.aio.ServicerContext[node_pb2.SetConditionsRequest, node_pb2.SetConditionsResponse],
    ) -> node_pb2.SetConditionsResponse:
        """Sets conditions of a node, and removes some."""
        await check(request, context)
        problem = _conditions_problem(request.conditions)
        if SUSPECT in request.remove:
            problem = f"remove[{list(request.remove).index(SUSPECT)}]: {SUSPECT!r} is set by the server alone"
        if problem is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)

        async def edit(node: node_pb2.Node | None) -> node_pb2.Node | None:
            node = _known(node, request.node_id)
            if request.incarnation:
                _check_incarnation(node, request.incarnation)
            if node.state != ALIVE:
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, records.has_ended(node))
            after = records.with_conditions(node, request.conditions, request.remove, self._wall_clock())
            if sum(condition.name != SUSPECT for condition in after.conditions) > MAX_CONDITIONS:
                raise RefusedError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"node {node.node_id!r} may have at most {MAX_CONDITIONS} conditions: remove some",
                )
            return after

        node = await answer(self._whole(self._change(request.node_id, edit)), context)
        return node_pb2.SetConditionsResponse(node=node)

    async def GetNode(
        self,
        request: node_pb2.GetNodeRequest,
        context: grpc.aio.ServicerContext[node_pb2.GetNodeRequest, node_pb2.GetNodeResponse],
    ) -> node_pb2.GetNodeResponse:
        """Reads one node."""
        await check(request, context)
        return await answer(self._get(request), context)

    async def _get(self, request: node_pb2.GetNodeRequest) -> node_pb2.GetNodeResponse:
        row = self._store.get(NODES, request.node_id.encode())
        node = _known(None if row is None else records.node_of(row), request.node_id)
        return node_pb2.GetNodeResponse(node=node)

    async def ListNodes(
        self,
        request: node_pb2.ListNodesRequest,
        context: grpc.aio.ServicerContext[node_pb2.ListNodesRequest, node_pb2.ListNodesResponse],
    ) -> node_pb2.ListNodesResponse:
        """Lists nodes, a page at a time."""
        await check(request, context)
        return await answer(nodes_page(self._store, request), context)

    async def ListEndings(
        self,
        request: node_pb2.ListEndingsRequest,
        context: grpc.aio.ServicerContext[node_pb2.ListEndingsRequest, node_pb2.ListEndingsResponse],
    ) -> node_pb2.ListEndingsResponse:
        """Lists endings, the newest first, a page at a time."""
        await check(request, context)
        return await answer(endings_page(self._store, request), context)


def _known(node: node_pb2.Node | None, node_id: str) -> node_pb2.Node:
    if node is None:
        raise RefusedError(grpc.StatusCode.NOT_FOUND, records.unknown(node_id))
    return node


def _check_incarnation(node: node_pb2.Node, incarnation: int) -> None:
    if incarnation != node.incarnation:
        raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, records.other_incarnation(node, incarnation))


def _address_problem(address: str) -> str | None:
    """The proto's rule has looked at its form."""
    if address and not 0 < int(address.rpartition(":")[2]) <= _MAX_PORT:
        return f"address: must have a port from 1 to {_MAX_PORT}, got {address!r}"
    return None


def _conditions_problem(conditions: Iterable[node_pb2.Condition]) -> str | None:
    seen: set[str] = set()
    for number, condition in enumerate(conditions):
        if condition.name == SUSPECT:
            return f"conditions[{number}].name: {SUSPECT!r} is set by the server alone"
        if condition.name in seen:
            return f"conditions[{number}].name: {condition.name!r} is there twice"
        seen.add(condition.name)
    return None
