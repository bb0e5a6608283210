"""`ServerSettings`: what `atollctl serve` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atoll_control.server.detector import DetectorSettings
from atoll_control.server.kv_manager import KvSettings
from atoll_control.server.node_manager import NodeSettings
from atoll_control.server.security import SecuritySettings
from atoll_control.server.task_table import TaskSettings
from atoll_control.server.watch_settings import TopicSettings, WatchSettings

if TYPE_CHECKING:
    from pathlib import Path

    from atoll.store import EtcdOptions


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What `atollctl serve` is told.

    Attributes:
        listen: "host:port"; port 0 takes a free one.
        advertise: "host:port" at which clients reach this server; `listen` when None, unless that is all addresses of
            the machine.
        data_dir: where what is stored lasts; in memory when None.
        max_data_bytes: how large the database there may grow; only the disk bounds it when None.
        etcd: where what is stored lasts instead, for several servers of which one leads; none when None.
        nodes: what is kept of nodes.
        detector: how nodes are watched.
        kv: how much is stored.
        watch: how much watches may take.
        topics: how much of topics is kept.
        tasks: how much of tasks is kept.
        security: who may reach the server, and as whom.
        observe: "host:port" or "unix:path" where `/livez`, `/readyz` and `/metrics` are told; nowhere when None.
        observe_beyond_loopback: that may be an address that other machines reach.
        liveness_threshold: seconds that a loop may be without progress before `/livez` fails.
        network_threads: native threads of the transport; its own choice when None.
        grace: seconds that running calls get when the server stops.
        demo_controls: offer `FaultService`.
        one_loop: all modules on one loop.
        exit_with_stdin: stop when standard input closes, for a parent process that must not leave the server behind.
    """

    listen: str = "127.0.0.1:50051"
    advertise: str | None = None
    data_dir: Path | None = None
    max_data_bytes: int | None = None
    etcd: EtcdOptions | None = None
    nodes: NodeSettings = field(default_factory=NodeSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    kv: KvSettings = field(default_factory=KvSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    topics: TopicSettings = field(default_factory=TopicSettings)
    tasks: TaskSettings = field(default_factory=TaskSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    observe: str | None = None
    observe_beyond_loopback: bool = False
    liveness_threshold: float = 60.0
    network_threads: int | None = None
    grace: float = 5.0
    demo_controls: bool = False
    one_loop: bool = False
    exit_with_stdin: bool = False
