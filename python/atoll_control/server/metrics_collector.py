"""`MetricsCollector`: takes numbers of the modules on their loops, and writes them down for Prometheus.

Lives on the server's main loop, on which no module does. Each module is asked on its own loop every `INTERVAL` seconds,
and is asked again only when it has answered: a loop that is stuck has one question in its mailbox, and what it said
last stays, with its age beside it. What there is is published twice as often, to a native thread that answers scrapes:
those wait for no loop, and not for the GIL.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import structlog

from atoll.errors import AtollError
from atoll_control.server import metrics
from atoll_control.server.health_monitor import HealthMonitor
from atoll_control.server.node_manager import NodeManager
from atoll_control.server.task_manager import TaskManager
from atoll_control.server.watch_manager import WatchManager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping

    from atoll import IoContext, IoContextProvider
    from atoll.observe import Readiness
    from atoll.store import Store
    from atoll_control.server.policy import Module

# Runs what it must on the module's loop.
Question: TypeAlias = "Callable[[], Awaitable[metrics.Samples]]"

# Seconds between two questions to a module.
INTERVAL: Final = 2.0
# Seconds without a commit while batches wait, after which the store is not ready.
STORE_STUCK_AFTER: Final = 10.0
_STORE_LOOK_INTERVAL: Final = 1.0

_log = structlog.get_logger("atoll_control.metrics")


class MetricsCollector:
    """Numbers of one server, whoever of its modules runs."""

    def __init__(
        self,
        io_context: IoContext,
        readiness: Readiness,
        *,
        version: str,
        wall_clock: Callable[[], float],
        interval: float = INTERVAL,
    ) -> None:
        """Has no numbers yet.

        Args:
            io_context: the main loop.
            readiness: whose conditions are told, and of which `store` is set here while there is one.
            version: of Atoll.
            wall_clock: tells the seconds since 1970.
            interval: seconds between two questions to a module.
        """
        self._io_context = io_context
        self._readiness = readiness
        self._version = version
        self._wall_clock = wall_clock
        self._started_at = wall_clock()
        self._interval = interval
        # When they were taken, and the numbers, by module.
        self._taken: dict[str, tuple[float, metrics.Samples]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._store: Store | None = None
        self._kv_limit = 0
        self._is_leader = False
        self._publish: Callable[[str], object] | None = None

    # -- who is asked --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def watching_store(self, store: Store, kv_limit: int) -> Iterator[None]:
        """Tells what this store does, and whether it is ready, while the block runs.

        Args:
            store: that is open.
            kv_limit: what keys and values may take.
        """
        self._store, self._kv_limit = store, kv_limit
        self._readiness.set("store", ok=True, reason=store.statistics().engine)
        task = self._start(self._look_at_store(store))
        try:
            yield
        finally:
            task.cancel()
            self._store = None
            self._readiness.set("store", ok=False, reason="closed")

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """This server is the one that serves, while the block runs."""
        self._is_leader = True
        self._tell()
        try:
            yield
        finally:
            self._is_leader = False
            self._tell()

    @contextlib.contextmanager
    def asking(self, modules: Mapping[str, Question]) -> Iterator[None]:
        """Asks modules, by their names, while the block runs."""
        tasks = [self._start(self._ask(module, take)) for module, take in modules.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for module in modules:
                self._taken.pop(module, None)

    @contextlib.contextmanager
    def publishing(self, publish: Callable[[str], object]) -> Iterator[None]:
        """Has what is told published, now and again and again, while the block runs."""
        self._publish = publish
        self._tell()
        task = self._start(self._tell_again())
        try:
            yield
        finally:
            task.cancel()
            self._publish = None

    async def _tell_again(self) -> None:
        while True:
            await asyncio.sleep(self._interval / 2)
            self._tell()

    def _tell(self) -> None:
        if self._publish is None:
            return
        try:
            self._publish(self.text())
        except Exception as error:  # noqa: BLE001 - whatever it is, the next ones may be told
            # Numbers that stay as they are have an alert.
            _log.exception("numbers_not_published", error=str(error))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("numbers_no_longer_taken", exc_info=error)

    async def _ask(self, module: str, take: Question) -> None:
        while True:
            try:
                samples = await take()
            except AtollError as error:
                # A full mailbox, or a loop that ends: its age tells that there is nothing new.
                _log.debug("numbers_not_taken", module=module, error=str(error))
            else:
                self._taken[module] = (self._io_context.now(), samples)
            await asyncio.sleep(self._interval)

    async def _look_at_store(self, store: Store) -> None:
        """Keeps the condition `store` true to what the store does."""
        decided, since = -1, self._io_context.now()
        while True:
            told = store.statistics()
            now = self._io_context.now()
            if told.batches != decided or not told.pending_batches:
                decided, since = told.batches, now
            if told.stopped is not None:
                self._readiness.set("store", ok=False, reason=told.stopped)
            elif now - since > STORE_STUCK_AFTER:
                waiting = f"{told.pending_batches:,} batches wait, and none was committed for {now - since:.0f} s"
                self._readiness.set("store", ok=False, reason=f"{waiting}: look at the disk")
            else:
                self._readiness.set("store", ok=True, reason=told.engine)
            await asyncio.sleep(_STORE_LOOK_INTERVAL)

    # -- what is told --------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The control plane's metrics as Prometheus' text. On the main loop."""
        return metrics.text_of(self._samples())

    def _samples(self) -> Iterator[metrics.Samples]:
        now = self._io_context.now()
        store = self._store
        told = None if store is None else store.statistics()
        conditions = self._readiness.conditions()
        yield {
            "build_info": [((self._version, "none" if told is None else told.engine), 1)],
            "start_time_seconds": [((), self._started_at)],
            "ready": [((condition.name,), condition.ok) for condition in conditions],
            "is_leader": [((), self._is_leader)],
            "published_timestamp_seconds": [((), self._wall_clock())],
            "numbers_age_seconds": [((module,), now - at) for module, (at, _) in self._taken.items()],
        }
        if store is not None and told is not None:
            yield {"epoch": [((), store.epoch)]}
            yield metrics.of_store(told, self._kv_limit)
        for _, samples in self._taken.values():
            yield samples


def questions(provider: IoContextProvider[Module], store: Store) -> dict[str, Question]:
    """What the modules of a provider are asked, by the names of their loops in the policy."""
    nodes, health = provider.ref(NodeManager), provider.ref(HealthMonitor)
    watches, tasks = provider.ref(WatchManager), provider.ref(TaskManager)

    async def of_nodes() -> metrics.Samples:
        return metrics.of_nodes(await nodes.call(NodeManager.count_by_state))

    async def of_health() -> metrics.Samples:
        return metrics.of_health(await health.call(HealthMonitor.statistics))

    async def of_watches() -> metrics.Samples:
        # Before the question: what is committed while it waits is not lag.
        revision = store.revision
        return metrics.of_watches(await watches.call(WatchManager.statistics), revision)

    async def of_tasks() -> metrics.Samples:
        return metrics.of_tasks(await tasks.call(TaskManager.statistics))

    return {"node_manager": of_nodes, "health": of_health, "watch": of_watches, "task_manager": of_tasks}
