"""`Membership`: makes this machine a node, and keeps it one. Only its own loop enters it.

What it guarantees:

- Heartbeats go out at the interval that the server told last, each with a deadline well below the node's; one that is
  not answered is followed by the next at once. Nothing else is awaited between two of them.
- A server whose epoch is lower than the highest that was seen is refused: it has been replaced, and does not know it.
- An incarnation that the server does not take any more is replaced by a higher one, unless another process has taken
  the node's place: then this one ends.
- Conditions go along with each registration, and otherwise when they change; anew where a server has been replaced.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from atoll import IoContext
from atoll_control.agent import facts
from atoll_control.agent.conditions import Conditions
from atoll_control.agent.errors import PlaceTakenError, RegistrationRefusedError
from atoll_control.agent.link import Link
from atoll_control.api.times import seconds
from atoll_control.api.v1 import health_pb2, health_pb2_grpc, node_pb2
from atoll_control.client import (
    AccessDeniedError,
    ClientError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll_control.agent.check_process import Outcome
    from atoll_control.agent.settings import AgentSettings
    from atoll_control.agent.state import StateDirectory

# Seconds.
REGISTER_TIMEOUT: Final = 5.0
CONDITIONS_TIMEOUT: Final = 5.0
LEAVE_TIMEOUT: Final = 3.0
LONGEST_HEARTBEAT_TIMEOUT: Final = 5.0
# A heartbeat's deadline is this share of the time after which a silent node is dead.
DEADLINE_SHARE: Final = 0.25
# What a server tells us that does not say it.
DEFAULT_DEADLINE: Final = 12.0
DEFAULT_INTERVAL: Final = 2.0
# Between attempts that are refused at once: the first, and the longest. By chance up to half of it shorter.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
# So many heartbeats in a row without an answer in time, and the connection is made anew; then twice as many, and so on.
STUCK_AFTER: Final = 2
# How often it is said again that no server answers.
REPORT_PERIOD: Final = 30.0

_ALIVE: Final = node_pb2.NODE_STATE_ALIVE
_log = structlog.get_logger("atoll_control.agent")


class _Next(enum.Enum):
    """What the heartbeats have ended with."""

    REGISTER = enum.auto()
    RENEW_LINK = enum.auto()


class Membership:
    """The node. `run` is its life."""

    def __init__(self, settings: AgentSettings, state: StateDirectory, tell: Callable[[str], object]) -> None:
        """Takes what it was told, what it must not forget, and whom to tell in a line how it is; any thread calls that.

        Raises:
            OSError: the token's file can't be read.
            ValueError: the token or an address can't be one.
        """
        self._settings = settings
        self._state = state
        self._tell = tell
        self._io_context = IoContext.current()
        self._link = Link(settings.link)
        self._conditions = Conditions()
        self._news = asyncio.Event()
        self._leaving = asyncio.Event()
        self._leave_reason = ""
        # Of the registration that holds; 0 before the first one.
        self._incarnation = 0
        # Sent with a registration of which the outcome is not known; or 0.
        self._tried = 0
        self._interval = DEFAULT_INTERVAL
        self._deadline = DEFAULT_DEADLINE
        self._server_id = ""
        self._due = 0.0
        # Heartbeats in a row that were not answered in time, and how many make the connection suspect.
        self._stuck = 0
        self._stuck_limit = STUCK_AFTER
        self._pauses = 0
        self._avoid = ""
        self._silent_since: float | None = None
        # When which event was last said to keep the node from being a member.
        self._said: dict[str, float] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Is a member until `leave` is called, and then unregisters.

        Raises:
            PlaceTakenError: another process is this node now.
            RegistrationRefusedError: the server does not take what the node says of itself.
        """
        life = asyncio.create_task(self._live())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait({life, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                life.result()
        finally:
            await _ended(life, leaving)
        await self._unregister()

    def leave(self, reason: str) -> None:
        """Ends `run`; the reason is for the server."""
        self._leave_reason = reason
        self._leaving.set()

    def report(self, name: str, outcome: Outcome) -> None:
        """Sets a condition of the node."""
        condition = node_pb2.Condition(name=name, status=outcome.status, reason=outcome.reason)
        if self._conditions.set(condition):
            status = node_pb2.ConditionStatus.Name(outcome.status).removeprefix("CONDITION_STATUS_").lower()
            _log.info("condition_changed", condition=name, status=status, reason=outcome.reason)
        self._news.set()

    async def stop(self) -> None:
        """Closes the connections; after `run`."""
        await self._link.close()
        if self._writes:
            await asyncio.wait(self._writes, timeout=LEAVE_TIMEOUT)

    # -- the life of a node --------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        await asyncio.sleep(self._settings.start_jitter * self._io_context.random.random())
        await self._register("the agent has started")
        while True:
            telling = asyncio.create_task(self._tell_conditions())
            try:
                following = await self._beat(telling)
            finally:
                await _ended(telling)
            if following is _Next.REGISTER:
                await self._register("the server does not take the incarnation before")
            else:
                await self._renew_link()

    async def _beat(self, telling: asyncio.Task[None]) -> _Next:
        """Sends heartbeats until something else has to be done."""
        # For a client of its own: the link's is another one after each `renew`.
        stub: health_pb2_grpc.HealthServiceAsyncStub = health_pb2_grpc.HealthServiceStub(self._link.client.channel)
        request = health_pb2.HeartbeatRequest(node_id=self._state.node_id, incarnation=self._incarnation)
        while True:
            await asyncio.sleep(max(0.0, self._due - self._io_context.now()))
            if telling.done():
                telling.result()
            try:
                response = await stub.Heartbeat(request, timeout=self._heartbeat_timeout())
            except NotFoundError as error:
                _log.warning("registration_lost", problem=str(error))
                return _Next.REGISTER
            except ConflictError as error:
                self._check_place(error, await self._recorded())
                return _Next.REGISTER
            except (ClientError, OSError) as error:
                if await self._not_answered(error):
                    return _Next.RENEW_LINK
                continue
            if not self._takes_epoch(response.epoch):
                await self._pause()
                return _Next.RENEW_LINK
            self._answered(response.server_id)
            self._interval = seconds(response.heartbeat_interval) or self._interval
            self._due = max(self._due + self._interval, self._io_context.now())

    async def _register(self, why: str) -> None:
        """Becomes a member under a new incarnation, however long that takes."""
        incarnation = await self._next_incarnation(0)
        give_up_place_at: float | None = None
        while True:
            conditions = self._conditions.all()
            self._tried = incarnation
            try:
                response = await self._link.client.nodes.register(
                    self._state.node_id,
                    incarnation,
                    address=self._settings.address,
                    host=facts.host(),
                    labels=self._settings.labels,
                    resources={**facts.resources(), **self._settings.resources},
                    conditions=conditions,
                    timeout=REGISTER_TIMEOUT,
                )
            except InvalidRequestError as error:
                raise RegistrationRefusedError(f"the server refuses the registration: {error}") from None
            except ConflictError as error:
                now = self._io_context.now()
                if error.status is grpc.StatusCode.ALREADY_EXISTS:
                    give_up_place_at = give_up_place_at or now + self._settings.place_patience
                    if now >= give_up_place_at:
                        raise PlaceTakenError(str(error)) from None
                    self._say("place_is_taken", problem=str(error), patience=round(give_up_place_at - now, 1))
                else:
                    incarnation = await self._next_incarnation(await self._registered_incarnation(error))
                await self._pause()
                continue
            except (ClientError, OSError) as error:
                if isinstance(error, UnreachableError):
                    self._tried = 0
                if await self._not_answered(error):
                    await self._renew_link()
                continue
            if self._takes_epoch(response.epoch):
                break
            await self._pause()
            await self._renew_link()
        self._registered(response, incarnation, conditions, why)

    def _registered(
        self,
        response: node_pb2.RegisterResponse,
        incarnation: int,
        conditions: list[node_pb2.Condition],
        why: str,
    ) -> None:
        now = self._io_context.now()
        self._incarnation, self._server_id, self._tried = incarnation, response.server_id, 0
        self._interval = seconds(response.heartbeat_interval) or DEFAULT_INTERVAL
        self._deadline = seconds(response.node_deadline) or DEFAULT_DEADLINE
        # The server tells each node another first interval, so that they are spread.
        self._due = now + self._interval
        self._conditions.forget_told()
        self._conditions.told(conditions, now)
        self._answered(response.server_id)
        _log.info(
            "registered",
            why=why,
            node_id=self._state.node_id,
            incarnation=incarnation,
            server=self._link.client.endpoint,
            server_id=response.server_id,
            epoch=response.epoch,
            heartbeat_interval=round(self._interval, 3),
            node_deadline=self._deadline,
        )
        self._tell(f"node {self._state.node_id}, registered at {self._link.client.endpoint}")

    async def _unregister(self) -> None:
        # A registration that was cut short may have arrived.
        incarnation = self._tried or self._incarnation
        if not incarnation:
            return
        try:
            node = await self._link.client.nodes.unregister(
                self._state.node_id, incarnation, reason=self._leave_reason, timeout=LEAVE_TIMEOUT
            )
        except (ClientError, OSError) as error:
            _log.warning("left_without_goodbye", problem=str(error), remedy="the server will find the node dead")
            return
        state = node_pb2.NodeState.Name(node.state).removeprefix("NODE_STATE_").lower()
        _log.info("left", node_id=node.node_id, incarnation=incarnation, state=state, reason=self._leave_reason)

    # -- whose place it is ---------------------------------------------------------------------------------------------

    def _check_place(self, error: ConflictError, node: node_pb2.Node | None) -> None:
        """The server does not take our incarnation any more, and knows `node` of us, if it could be asked.

        Raises:
            PlaceTakenError: because another process has registered.
        """
        if node is None or node.state != _ALIVE or node.incarnation <= self._state.last_incarnation:
            _log.warning("incarnation_ended", problem=str(error), incarnation=self._incarnation)
            return
        where = f"at {node.address}" if node.address else "without an address"
        raise PlaceTakenError(
            f"node {node.node_id!r} is another process now: incarnation {node.incarnation} has registered from "
            f"{node.host.name or 'a machine without a name'}, {where}, and this one, incarnation {self._incarnation}, "
            f"has not: {self._state.path} or a copy of it is used twice; give one of them a directory of its own, or "
            "stop it"
        )

    async def _registered_incarnation(self, error: ConflictError) -> int:
        """The one that is recorded, as ours is too low.

        Raises:
            PlaceTakenError: it is another process's, which has taken our place.
        """
        node = await self._recorded()
        if self._incarnation:
            self._check_place(error, node)
        recorded = 0 if node is None else node.incarnation
        self._say("incarnation_refused", problem=str(error), recorded=recorded)
        return recorded

    async def _recorded(self) -> node_pb2.Node | None:
        """What the server knows of this node; None if it can't be asked."""
        try:
            return await self._link.client.nodes.get(self._state.node_id, timeout=REGISTER_TIMEOUT)
        except (ClientError, OSError) as error:
            _log.info("node_not_read", problem=str(error))
            return None

    # -- conditions ----------------------------------------------------------------------------------------------------

    async def _tell_conditions(self) -> None:
        """Tells the server of the registration that holds what it does not know yet."""
        while True:
            now = self._io_context.now()
            if due := self._conditions.due(now):
                await self._set_conditions(due)
                continue
            self._news.clear()
            next_due = self._conditions.next_due(now)
            try:
                async with asyncio.timeout(None if next_due is None else max(0.0, next_due - now)):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _set_conditions(self, due: list[node_pb2.Condition]) -> None:
        incarnation = self._incarnation
        try:
            await self._link.client.nodes.set_conditions(
                self._state.node_id, due, incarnation=incarnation, timeout=CONDITIONS_TIMEOUT
            )
        except InvalidRequestError as error:
            _log.error("conditions_refused", problem=str(error))
        except (ClientError, OSError) as error:
            # What that means, heartbeats find out; with the next registration, conditions go along.
            _log.info("conditions_not_set", problem=str(error), remedy="it is tried again")
            await asyncio.sleep(LONGEST_PAUSE)
            return
        self._conditions.told(due, self._io_context.now())

    # -- servers that answer, and that don't ---------------------------------------------------------------------------

    def _heartbeat_timeout(self) -> float:
        return min(self._deadline * DEADLINE_SHARE, LONGEST_HEARTBEAT_TIMEOUT)

    def _answered(self, server_id: str) -> None:
        now = self._io_context.now()
        if self._silent_since is not None:
            _log.info("server_back", after=round(now - self._silent_since, 3), server=self._link.client.endpoint)
            self._tell(f"node {self._state.node_id}, registered at {self._link.client.endpoint}")
            self._silent_since = None
            self._said.clear()
        self._stuck, self._stuck_limit, self._pauses, self._avoid = 0, STUCK_AFTER, 0, ""
        if server_id != self._server_id:
            _log.info("server_changed", server=self._link.client.endpoint, server_id=server_id)
            self._server_id = server_id
            self._conditions.forget_told()
            self._news.set()

    async def _not_answered(self, error: ClientError | OSError) -> bool:
        """A call was not answered, or was refused whoever calls; waits where that came at once.

        Returns:
            Whether a new connection is to be made.
        """
        status = getattr(error, "status", None)
        self._say("server_lost", problem=str(error))
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._stuck += 1
            if self._stuck < self._stuck_limit:
                return False
            self._stuck, self._stuck_limit = 0, self._stuck_limit * 2
            return True
        await self._pause()
        # A token that is not taken any more may have been replaced in its file.
        return isinstance(error, AccessDeniedError)

    def _takes_epoch(self, epoch: int) -> bool:
        """Whether a server is to be believed."""
        highest = self._state.epoch
        if epoch >= highest:
            if epoch > highest:
                self._state.epoch = epoch
                task = asyncio.create_task(self._note_epoch(epoch))
                self._writes.add(task)
                task.add_done_callback(self._writes.discard)
            return True
        self._avoid = self._link.client.endpoint
        self._say(
            "server_refused",
            problem=f"the epoch of {self._avoid} is {epoch}, and {highest} has been seen: another server has taken its "
            "place since",
            remedy="stop that server; if its store was made anew on purpose, start the agent with --forget-epoch",
        )
        return False

    async def _renew_link(self) -> None:
        try:
            await self._link.renew(avoid=self._avoid)
        except (OSError, ValueError) as error:
            self._say("connection_not_renewed", problem=str(error))

    def _say(self, event: str, **fields: Any) -> None:
        """Says that something keeps the node from being a member: the first time, and then now and again."""
        now = self._io_context.now()
        if self._silent_since is None:
            self._silent_since = now
        elif now - self._said.get(event, float("-inf")) < REPORT_PERIOD:
            return
        self._said[event] = now
        _log.warning(event, **fields, since=round(now - self._silent_since, 3))
        self._tell(f"node {self._state.node_id}, {event.replace('_', ' ')}: {fields.get('problem', '')}")

    async def _pause(self) -> None:
        delay = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._pauses, 16))
        self._pauses += 1
        await asyncio.sleep(delay * (1 - self._io_context.random.random() / 2))

    # -- the state directory -------------------------------------------------------------------------------------------

    async def _next_incarnation(self, above: int) -> int:
        """A new incarnation, which is on the disk if it has to be, however long that takes."""
        while self._state.needs_write(above):
            try:
                async with self._writing:
                    return await asyncio.to_thread(self._state.next_incarnation, above)
            except OSError as error:
                self._say("state_not_written", problem=str(error), remedy=f"make {self._state.path} writable")
                await self._pause()
        return self._state.next_incarnation(above)

    async def _note_epoch(self, epoch: int) -> None:
        try:
            async with self._writing:
                await asyncio.to_thread(self._state.note_epoch, epoch)
        except OSError as error:
            _log.warning("epoch_not_written", problem=str(error), remedy=f"make {self._state.path} writable")


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks, and waits for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
