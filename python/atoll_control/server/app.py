"""Puts the server together: a loop per module, the services on them, one port."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import sys
import time  # noqa: TID251 - the wall clock, handed to those who tell people the time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from atoll import IoContextProvider, rpc
from atoll.store import Store
from atoll_control.api.demo.v1 import fault_pb2_grpc
from atoll_control.api.v1 import (
    admin_pb2_grpc,
    health_pb2_grpc,
    kv_pb2_grpc,
    node_pb2_grpc,
    task_pb2_grpc,
    watch_pb2_grpc,
)
from atoll_control.server.admin_manager import AdminManager
from atoll_control.server.detector import DetectorSettings
from atoll_control.server.faults import FaultInjector, SlowSwitch, WatchedModule
from atoll_control.server.health_monitor import HealthMonitor
from atoll_control.server.kv_manager import KvManager, KvSettings
from atoll_control.server.lease_manager import LeaseManager
from atoll_control.server.node_manager import NodeManager, NodeSettings
from atoll_control.server.policy import OneLoopPolicy, ServerPolicy
from atoll_control.server.tables import TABLES
from atoll_control.server.task_manager import TaskManager
from atoll_control.server.task_table import TaskSettings
from atoll_control.server.watch_manager import WatchManager
from atoll_control.server.watch_settings import TopicSettings, WatchSettings

if TYPE_CHECKING:
    from pathlib import Path

_log = structlog.get_logger("atoll_control.server")

NODE_METHODS = ("Register", "Unregister", "Drain", "SetConditions", "GetNode", "ListNodes", "ListEndings")
HEALTH_METHODS = ("Heartbeat", "Explain", "GetDetector", "Freeze", "Resume", "DeclareDead")
KV_METHODS = ("Put", "Get", "MultiGet", "Exists", "Delete", "Keys", "Scan", "Transact", "ListNamespaces")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What `atollctl serve` is told.

    Attributes:
        listen: "host:port"; port 0 takes a free one.
        data_dir: where what is stored lasts; in memory when None.
        max_data_bytes: how large the database there may grow; only the disk bounds it when None.
        nodes: what is kept of nodes.
        detector: how nodes are watched.
        kv: how much is stored.
        watch: how much watches may take.
        topics: how much of topics is kept.
        tasks: how much of tasks is kept.
        network_threads: native threads of the transport; its own choice when None.
        grace: seconds that running calls get when the server stops.
        server_id: names this run to the nodes; made up when None.
        demo_controls: offer `FaultService`.
        one_loop: all modules on one loop.
        exit_with_stdin: stop when standard input closes, for a parent process that must not leave the server behind.
    """

    listen: str = "127.0.0.1:50051"
    data_dir: Path | None = None
    max_data_bytes: int | None = None
    nodes: NodeSettings = field(default_factory=NodeSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    kv: KvSettings = field(default_factory=KvSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    topics: TopicSettings = field(default_factory=TopicSettings)
    tasks: TaskSettings = field(default_factory=TaskSettings)
    network_threads: int | None = None
    grace: float = 5.0
    server_id: str | None = None
    demo_controls: bool = False
    one_loop: bool = False
    exit_with_stdin: bool = False


async def serve(settings: ServerSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        asyncio.CancelledError: the signal came before the server had started.
        atoll.errors.BindError: the address is in use or not this machine's.
        atoll.errors.StoreError: the data directory can't be used; the message says what to do.
    """
    server_id = settings.server_id or os.urandom(8).hex()
    if (task := asyncio.current_task()) is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Until rpc.serve takes the signals over: they end the start of the server in good order.
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.ExitStack() as at_the_end:
        await _serve(settings, server_id, at_the_end)


def open_store(settings: ServerSettings) -> Store:
    """The store that the modules share. Blocks: before the loops run."""
    if settings.data_dir is None:
        _log.warning(
            "store_in_memory",
            remedy="all that is stored is lost when this server ends; keep it with --data-dir DIRECTORY",
        )
        return Store.in_memory(TABLES)
    store = Store.in_directory(settings.data_dir, TABLES, max_bytes=settings.max_data_bytes)
    statistics = store.statistics()
    _log.info(
        "store_opened",
        directory=str(settings.data_dir),
        generation=store.generation,
        epoch=store.epoch,
        revision=statistics.revision,
        rows={name: rows for name, rows, _ in statistics.tables},
    )
    return store


def reachable(address: str) -> str:
    """Where clients reach a server that listens on this address; empty when it listens on all of its machine's."""
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return "" if ipaddress.ip_address(host).is_unspecified else address
    except ValueError:
        return address


async def _serve(settings: ServerSettings, server_id: str, at_the_end: contextlib.ExitStack) -> None:
    provider = IoContextProvider(OneLoopPolicy if settings.one_loop else ServerPolicy)
    server = rpc.server(placement=provider, network_threads=settings.network_threads)
    # First of all: what fails most often fails before anything has started.
    port = server.add_insecure_port(settings.listen)
    store = open_store(settings)
    # After the loops, whose modules commit to it to the end.
    at_the_end.callback(store.close_blocking)
    async with provider:
        nodes = await provider.create(NodeManager, settings.nodes, store, server_id=server_id, wall_clock=time.time)
        health = await provider.create(
            HealthMonitor, settings.detector, store, provider.ref(NodeManager), server_id=server_id
        )
        leases = await provider.create(LeaseManager, store)
        kv = await provider.create(KvManager, store, leases, settings.kv)
        watch = await provider.create(WatchManager, store, settings.watch, settings.topics, wall_clock=time.time)
        tasks = await provider.create(TaskManager, settings.tasks, wall_clock=time.time)
        address = f"{settings.listen.rpartition(':')[0]}:{port}"
        admin = await provider.create(
            AdminManager, store, server_id=server_id, version=version("atoll"), address=reachable(address)
        )
        faults: FaultInjector | None = None
        if settings.demo_controls:
            servicers = (
                (NodeManager, nodes, NODE_METHODS),
                (HealthMonitor, health, HEALTH_METHODS),
                (KvManager, kv, KV_METHODS),
            )
            modules = {}
            # On the modules' loops, where alone they may be changed.
            for module, servicer, methods in servicers:
                watched = WatchedModule(provider.io_context(module), SlowSwitch())
                await watched.io_context.submit(watched.switch.install, servicer, methods)
                modules[module.__name__] = watched
            faults = FaultInjector(modules, provider.ref(NodeManager))
            fault_pb2_grpc.add_FaultServiceServicer_to_server(faults, server)
        node_pb2_grpc.add_NodeServiceServicer_to_server(nodes, server)
        health_pb2_grpc.add_HealthServiceServicer_to_server(health, server)
        kv_pb2_grpc.add_KvServiceServicer_to_server(kv, server)
        kv_pb2_grpc.add_LeaseServiceServicer_to_server(leases, server)
        watch_pb2_grpc.add_WatchServiceServicer_to_server(watch, server)
        watch_pb2_grpc.add_TopicServiceServicer_to_server(watch, server)
        task_pb2_grpc.add_TaskServiceServicer_to_server(tasks, server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
        if settings.exit_with_stdin:
            parent = _ParentWatch(server, settings.grace)
            await asyncio.get_running_loop().connect_read_pipe(lambda: parent, sys.stdin)
        if faults is not None:
            faults.start()
        _log.info(
            "server_started",
            address=address,
            server_id=server_id,
            services={
                "NodeService": provider.io_context(NodeManager).name,
                "HealthService": provider.io_context(HealthMonitor).name,
                "KvService": provider.io_context(KvManager).name,
                "LeaseService": provider.io_context(LeaseManager).name,
                "WatchService": provider.io_context(WatchManager).name,
                "TopicService": provider.io_context(WatchManager).name,
                "TaskService": provider.io_context(TaskManager).name,
                "AdminService": provider.io_context(AdminManager).name,
            },
            heartbeat_interval=settings.detector.heartbeat_interval,
            dead_after=settings.detector.dead_after,
            demo_controls=settings.demo_controls,
        )
        # Only a server that started is said to have stopped, and only when its loops have stopped, too.
        at_the_end.callback(_log.info, "server_stopped", server_id=server_id)
        try:
            await rpc.serve(server, grace=settings.grace)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                # A second signal must not cut short what is stopping already.
                asyncio.get_running_loop().add_signal_handler(number, _log.info, "already_stopping")
            if faults is not None:
                faults.stop()


class _ParentWatch(asyncio.Protocol):
    """Stops the server when standard input closes."""

    def __init__(self, server: rpc.Server, grace: float) -> None:
        self._server = server
        self._grace = grace
        self._stop: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self._stop = asyncio.get_running_loop().create_task(self._server.stop(self._grace))
