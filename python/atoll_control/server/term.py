"""`Term`: the modules on their loops over one opened store, and the port at which they are reached.

A server that never shares its store has one term, from its start to its end. One of several, on etcd, has a term each
time that it is elected: everything of a term is made anew, so nothing of an earlier one is left in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import time  # noqa: TID251 - the wall clock, handed to those who tell people the time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from atoll import IoContextProvider, rpc
from atoll_control.api.demo.v1 import fault_pb2_grpc
from atoll_control.api.v1 import (
    admin_pb2_grpc,
    health_pb2_grpc,
    kv_pb2_grpc,
    node_pb2_grpc,
    task_pb2_grpc,
    token_pb2_grpc,
    watch_pb2_grpc,
)
from atoll_control.server.admin_manager import AdminManager
from atoll_control.server.audit import Audit
from atoll_control.server.faults import FaultInjector, SlowSwitch, WatchedModule
from atoll_control.server.health_monitor import HealthMonitor
from atoll_control.server.kv_manager import KvManager
from atoll_control.server.lease_manager import LeaseManager
from atoll_control.server.logs import audit_sink
from atoll_control.server.metrics_collector import questions
from atoll_control.server.node_manager import NodeManager
from atoll_control.server.policy import OneLoopPolicy, ServerPolicy
from atoll_control.server.security import add_port, first_token_file, known_tokens
from atoll_control.server.task_manager import TaskManager
from atoll_control.server.token_check import TokenCheck
from atoll_control.server.token_manager import TokenManager
from atoll_control.server.watch_manager import WatchManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from atoll.store import Store
    from atoll_control.server.metrics_collector import Question
    from atoll_control.server.policy import Module
    from atoll_control.server.settings import ServerSettings
    from atoll_control.server.stopping import Stop
    from atoll_control.server.vitals import Vitals

_log = structlog.get_logger("atoll_control.server")

# Seconds that running calls get when somebody else leads: what they ask for is refused anyhow.
LOST_GRACE: Final = 0.5
# Seconds that the loop of watches gets to end them, before the server stops all the same.
WATCHES_END_TIMEOUT: Final = 1.0


class Term:
    """One term of a server. On the loop of the main thread."""

    def __init__(self, settings: ServerSettings, server_id: str, vitals: Vitals) -> None:
        """Takes what the server was told, its name, and whom to tell how it is.

        Raises:
            SecuritySettingsError: a file of the settings can't be used.
        """
        self._settings = settings
        self._server_id = server_id
        self._vitals = vitals
        self._provider = IoContextProvider(OneLoopPolicy if settings.one_loop else ServerPolicy)
        self._tokens = known_tokens(settings.security, time.time)
        self._audit = Audit(audit_sink())
        self._check = TokenCheck(self._tokens, self._audit) if settings.security.tokens else None
        self._server = rpc.server(
            interceptors=None if self._check is None else [self._check],
            placement=self._provider,
            network_threads=settings.network_threads,
            readiness=vitals.readiness,
        )
        self._faults: FaultInjector | None = None
        self._watch: WatchManager | None = None
        self._questions: dict[str, Question] = {}

    def bind(self, listen: str) -> str:
        """Takes a port, and returns the address with it. Nobody is answered yet.

        Raises:
            SecuritySettingsError: a file of the settings can't be used.
            atoll.errors.BindError: the address is in use or not this machine's.
        """
        return f"{listen.rpartition(':')[0]}:{add_port(self._server, listen, self._settings.security)}"

    @contextlib.asynccontextmanager
    async def modules(self, store: Store, advertised: str) -> AsyncIterator[None]:
        """Within, the modules run over `store`, and tell that the server is reached at `advertised`."""
        settings, server_id, provider, server = self._settings, self._server_id, self._provider, self._server
        security, tokens = settings.security, self._tokens
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._audit.close)
            await stack.enter_async_context(provider)
            nodes = await provider.create(NodeManager, settings.nodes, store, server_id=server_id, wall_clock=time.time)
            health = await provider.create(
                HealthMonitor, settings.detector, store, provider.ref(NodeManager), server_id=server_id
            )
            leases = await provider.create(LeaseManager, store)
            kv = await provider.create(KvManager, store, leases, settings.kv)
            watch = await provider.create(
                WatchManager,
                store,
                settings.watch,
                settings.topics,
                wall_clock=time.time,
                tokens=tokens if security.tokens else None,
            )
            tasks = await provider.create(TaskManager, settings.tasks, wall_clock=time.time)
            admin = await provider.create(
                AdminManager, store, server_id=server_id, version=version("atoll"), address=advertised
            )
            token_manager = await provider.create(
                TokenManager,
                store,
                tokens,
                first_token_file=first_token_file(security, settings.data_dir),
                random_bytes=os.urandom,
            )
            self._watch = watch
            if settings.demo_controls:
                await self._add_faults(nodes, health, kv)
            await self._guard(nodes, health, kv, leases, watch, tasks, admin, token_manager)
            node_pb2_grpc.add_NodeServiceServicer_to_server(nodes, server)
            health_pb2_grpc.add_HealthServiceServicer_to_server(health, server)
            kv_pb2_grpc.add_KvServiceServicer_to_server(kv, server)
            kv_pb2_grpc.add_LeaseServiceServicer_to_server(leases, server)
            watch_pb2_grpc.add_WatchServiceServicer_to_server(watch, server)
            watch_pb2_grpc.add_TopicServiceServicer_to_server(watch, server)
            task_pb2_grpc.add_TaskServiceServicer_to_server(tasks, server)
            admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
            token_pb2_grpc.add_TokenServiceServicer_to_server(token_manager, server)
            self._questions = questions(provider, store)
            yield

    async def _guard(self, *servicers: Module) -> None:
        """Stands before the handlers that the access rules are about; each on the loop of its module."""
        for servicer in servicers:
            module: Any = type(servicer)
            io_context = self._provider.io_context(module)
            if self._check is not None:
                await io_context.submit(self._check.install, servicer)
            # Around it: what was refused is in the audit, too.
            await io_context.submit(self._audit.install, servicer)

    async def _add_faults(self, nodes: NodeManager, health: HealthMonitor, kv: KvManager) -> None:
        provider = self._provider
        modules = {}
        # On the modules' loops, where alone they may be changed.
        for servicer in (nodes, health, kv):
            module: Any = type(servicer)
            watched = WatchedModule(provider.io_context(module), SlowSwitch())
            await watched.io_context.submit(watched.switch.install, servicer)
            modules[module.__name__] = watched
        self._faults = FaultInjector(modules, provider.ref(NodeManager))
        self._audit.install(self._faults)
        fault_pb2_grpc.add_FaultServiceServicer_to_server(self._faults, self._server)

    async def serve(self, address: str, stop: Stop, lost: asyncio.Event) -> None:
        """Answers at the port that was taken, until asked to stop or until the leadership is lost."""
        if self._faults is not None:
            self._faults.start()
        await self._server.start()
        self._log_started(address)
        waits = [asyncio.ensure_future(event.wait()) for event in (stop.asked, lost)]
        with self._vitals.serving(self._questions, address):
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
                if stop.asked.is_set():
                    self._vitals.stopping()
                else:
                    self._vitals.serves_no_more("another server leads")
                await self._stop(stop, self._settings.grace if stop.asked.is_set() else LOST_GRACE)

    async def _stop(self, stop: Stop, grace: float) -> None:
        """Ends the streams that would take the whole grace, then the rest."""
        if self._faults is not None:
            self._faults.stop()
        stopping = asyncio.ensure_future(self._end_calls(grace))
        hurry = asyncio.ensure_future(stop.hurry.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not stopping.done():
            await self._server.stop(None)
        await stopping

    async def _end_calls(self, grace: float) -> None:
        """Ends watches first, and stops the server."""
        if self._watch is not None:
            reason = "the server stops: resume at another one, or when it is back"
            # A loop that is stuck does not hold up the others' end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(grace, WATCHES_END_TIMEOUT)):
                    await self._provider.io_context(WatchManager).submit(
                        self._watch.refuse_streams, grpc.StatusCode.UNAVAILABLE, reason
                    )
        await self._server.stop(grace)

    def _log_started(self, address: str) -> None:
        settings, provider = self._settings, self._provider
        _log.info(
            "server_started",
            address=address,
            server_id=self._server_id,
            services={
                "NodeService": provider.io_context(NodeManager).name,
                "HealthService": provider.io_context(HealthMonitor).name,
                "KvService": provider.io_context(KvManager).name,
                "LeaseService": provider.io_context(LeaseManager).name,
                "WatchService": provider.io_context(WatchManager).name,
                "TopicService": provider.io_context(WatchManager).name,
                "TaskService": provider.io_context(TaskManager).name,
                "AdminService": provider.io_context(AdminManager).name,
                "TokenService": provider.io_context(TokenManager).name,
            },
            heartbeat_interval=settings.detector.heartbeat_interval,
            dead_after=settings.detector.dead_after,
            tls=settings.security.has_tls,
            tokens=settings.security.tokens,
            demo_controls=settings.demo_controls,
        )


def reachable(address: str) -> str:
    """Where clients reach a server that listens on this address; empty when it listens on all of its machine's."""
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return "" if ipaddress.ip_address(host).is_unspecified else address
    except ValueError:
        return address


def log_opened(store: Store, **where: str) -> None:
    """Says what a store was opened with."""
    statistics = store.statistics()
    _log.info(
        "store_opened",
        **where,
        generation=store.generation,
        epoch=store.epoch,
        revision=statistics.revision,
        rows={name: rows for name, rows, _ in statistics.tables},
    )
